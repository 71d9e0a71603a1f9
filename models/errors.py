"""Errors of the models package: ModelError > ConfigError (limits that contradict each other)."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error this package raises."""


class ConfigError(ModelError):
    """Limits or a fence that cannot be meant."""
