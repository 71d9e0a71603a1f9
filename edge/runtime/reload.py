"""SIGHUP: what of a new node.toml, and of the keys on disk, a running node takes.

`read` looks at the files and changes nothing; the daemon applies what it returns. Ports, limits, intervals
and the log level are taken at once. What the node is (name, state folder, clock, tyres, region) needs a
restart, and is said. A new event key is taken by beginning a new run, whose segment 0 names the last
segment under the old key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509

from edge import settings
from edge.config import Config
from edge.errors import ConfigError
from edge.runtime.load import load_config, load_event_key
from edge.sealer import Signer
from edge.settings import RESTART, Difference
from firmware_bridge.wire import cose
from provisioning.ca import Purpose
from provisioning.runtime.keystore import pair

NAMED: Final = 8
"""Differences named in one line; there are some fifty settings."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What was read, as far as it can be taken."""

    config: Config
    """The configuration to work under from now on."""
    taken: tuple[Difference, ...]
    later: tuple[Difference, ...]
    """What is in the file and not taken: it needs a restart."""
    signer: Signer | None
    """The new event key; None where it is the one in use, or cannot be used."""
    key_error: str = ""
    """Why a new event key cannot be used."""

    @property
    def words(self) -> str:
        """What was done, in one sentence."""
        parts = [f"taken: {_names(self.taken)}" if self.taken else "nothing to take"]
        for command in dict.fromkeys(settings.takes_effect(one.name) for one in self.later):
            mine = [one for one in self.later if settings.takes_effect(one.name) == command]
            parts.append(f"not in force before `{self._own(command)}`: {_names(mine)}")
        if self.signer is not None:
            parts.append(f"new event key {self.signer.kid.hex()}")
        if self.key_error:
            parts.append(f"event key not taken: {self.key_error}")
        return "; ".join(parts)

    def _own(self, command: str) -> str:
        return command.replace("-edge", "-roadside") if self.config.node.kind == "roadside" else command


def _names(differences: list[Difference] | tuple[Difference, ...]) -> str:
    named = [one.name for one in differences[:NAMED]]
    return ", ".join(named) + (f" and {len(differences) - NAMED} more" if len(differences) > NAMED else "")


def read(path: Path, current: Config, signer: Signer) -> Fresh:
    """What the file at `path` and the keys on disk change. Raises ConfigError: the file cannot be meant."""
    asked = load_config(path)
    found = settings.diff(current, asked)
    taken = tuple(one for one in found if settings.reloadable(one.name))
    later = tuple(one for one in found if not settings.reloadable(one.name))
    whole = not any(settings.takes_effect(one.name) == RESTART for one in later)
    config = replace(
        current,
        ports=asked.ports, chirpstack=asked.chirpstack, outbox=asked.outbox, telemetry=asked.telemetry,
        edge=replace(asked.edge, acceptance_socket=current.edge.acceptance_socket),
        hash=asked.hash if whole else current.hash,
    )  # fmt: skip
    try:
        return Fresh(config, taken, later, _new_signer(current, signer))
    except ConfigError as error:
        return Fresh(config, taken, later, None, str(error))


def _new_signer(config: Config, signer: Signer) -> Signer | None:
    """The key on disk where it is another one. Raises ConfigError: no collector would believe it."""
    key = load_event_key(config)
    kid = cose.key_id(key.public_key())
    if kid == signer.kid:
        return None
    _, path = pair(Purpose.EVENT, Path(config.path("keys")))
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"there is a new event key without a certificate ({path}: {error}): finish the renewal with "
            "`holdfast provision renew`"
        ) from error
    if certificate.public_key() != key.public_key():
        raise ConfigError(
            f"the event key on disk and {path} do not belong together: finish the renewal with "
            "`holdfast provision renew`"
        )
    return replace(signer, key=key, kid=kid)
