"""Two builds of one distribution: everything, and, with HOLDFAST_PROFILE=node, what a node gets.

The node's wheel holds neither `cloud_sync` nor the commands and extras that need it. All else is in
pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup

CLOUD = "cloud_sync"
CLOUD_EXTRAS = ("cloud", "dev")
PROFILES = ("full", "node")
COMMANDS = "holdfast.commands"


class NodeDistribution(Distribution):
    """The distribution of pyproject.toml without its cloud part."""

    def parse_config_files(self, *args: Any, **kwargs: Any) -> None:
        """Read pyproject.toml, leave the cloud out, and build in a folder that no full build has used."""
        super().parse_config_files(*args, **kwargs)
        self.packages = [name for name in self.packages if name.split(".")[0] != CLOUD]
        commands = self.entry_points[COMMANDS]
        commands = [entry for entry in commands if f"={CLOUD}." not in entry.replace(" ", "")]
        self.entry_points = {**self.entry_points, COMMANDS: commands}
        extras = self.extras_require.items()
        self.extras_require = {name: needs for name, needs in extras if name not in CLOUD_EXTRAS}
        base = Path("build/node")
        base.mkdir(parents=True, exist_ok=True)
        for command, option in (("build", "build_base"), ("egg_info", "egg_base")):
            self.get_option_dict(command)[option] = ("setup.py", str(base))


profile = os.environ.get("HOLDFAST_PROFILE", "full")
if profile not in PROFILES:
    raise SystemExit(f"HOLDFAST_PROFILE is {profile!r}: use one of {', '.join(PROFILES)}")
setup(distclass=NodeDistribution if profile == "node" else Distribution)
