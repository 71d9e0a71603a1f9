"""Two builds of one distribution: everything, and, with HOLDFAST_PROFILE=node, what a node gets.

The node's wheel holds neither `cloud_sync`, nor market data and training (`[train]`), nor the commands and
extras that need them. All else is in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

AWAY = "cloud_sync"
"""The package that no node has."""
PARTS = {
    "models.market": ("__init__", "schema"),
    "models.runtime": ("__init__", "litert", "value_run", "value_start"),
}
"""What a node has of these: it values, takes no sales in and trains nothing."""
AWAY_EXTRAS = ("cloud", "train", "dev")
AWAY_COMMANDS = ("evaluate", "market", "train")
PROFILES = ("full", "node")


class NodeModules(build_py):
    """The modules of a node."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of `package`."""
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [one for one in found if package not in PARTS or one[1] in PARTS[package]]


class NodeDistribution(Distribution):
    """The distribution of pyproject.toml without cloud and training."""

    def parse_config_files(self, *args: Any, **kwargs: Any) -> None:
        """Read pyproject.toml, leave the rest out, and build in a folder that no full build has used."""
        super().parse_config_files(*args, **kwargs)
        self.packages = [name for name in self.packages if name.split(".")[0] != AWAY]
        self.cmdclass = {**self.cmdclass, "build_py": NodeModules}
        self.entry_points = {
            group: [entry for entry in entries if not self._is_away(entry)]
            for group, entries in self.entry_points.items()
        }
        extras = self.extras_require.items()
        self.extras_require = {name: needs for name, needs in extras if name not in AWAY_EXTRAS}
        base = Path("build/node")
        base.mkdir(parents=True, exist_ok=True)
        for command, option in (("build", "build_base"), ("egg_info", "egg_base")):
            self.get_option_dict(command)[option] = ("setup.py", str(base))

    @staticmethod
    def _is_away(entry: str) -> bool:
        name, _, value = entry.replace(" ", "").partition("=")
        return value.split(".")[0] == AWAY or name in AWAY_COMMANDS


profile = os.environ.get("HOLDFAST_PROFILE", "full")
if profile not in PROFILES:
    raise SystemExit(f"HOLDFAST_PROFILE is {profile!r}: use one of {', '.join(PROFILES)}")
setup(distclass=NodeDistribution if profile == "node" else Distribution)
