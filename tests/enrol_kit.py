"""A node as its technician has it: a state folder, a configuration, and what `holdfast provision` says."""

from __future__ import annotations

import json
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from provisioning.enrolment import Wanted
from provisioning.identity import Identity
from provisioning.runtime import provision_tool
from provisioning.runtime.asked import Ask, Host, Outcome
from provisioning.runtime.enrol import enrol
from provisioning.runtime.provision_tool import Options
from tests.ca_kit import World


def no_sleep(_: float) -> None:
    """Waiting proves nothing here."""


@dataclass
class Node:
    """One node below `home`, which is to enrol at the server on `port`."""

    home: Path
    world: World
    port: int
    device: str = "car-1"
    says: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def config(self) -> Path:
        return self.home / "etc" / "node.toml"

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    @property
    def root(self) -> Path:
        return self.world.folder / "root.crt"

    def code(self) -> str:
        return self.world.code(Identity("fund", self.device))

    def ask(self, **changes: Any) -> Ask:
        wanted = Wanted(device=self.device, server=f"https://localhost:{self.port}")
        return replace(Ask(self.state, self.config, wanted, ca=self.root), **changes)

    def enrol(self, code: str = "", after: Callable[[str], None] = lambda _: None) -> Outcome:
        """By the function, with a fresh code unless one is given."""
        host = Host(now=self.world.clock, after=after, sleep=no_sleep)
        return enrol(self.ask(code=code or self.code()), host)

    def options(self, **changes: Any) -> Options:
        plain = Options(
            f"https://localhost:{self.port}", self.root, None, None, None, self.device, None, None,
            self.state, self.config, None, True, False, True, None, None,
        )  # fmt: skip
        return replace(plain, **changes)

    def run(self, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, dict[str, Any], str]:
        """By the command: exit code, the last event on stdout, what people read."""
        capsys.readouterr()
        code = provision_tool.provision(self.options(**changes))
        out, err = capsys.readouterr()
        self.says = [json.loads(line) for line in out.splitlines()]
        return code, self.says[-1], err

    def snapshot(self) -> dict[str, bytes | str]:
        """Every file and link below home, but for the lock."""
        return {
            str(path.relative_to(self.home)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
            for path in self.home.rglob("*")
            if (path.is_symlink() or path.is_file()) and path.name != "provision.lock"
        }


def private_keys(state: Path) -> dict[str, bytes]:
    """The keys of a state folder by place."""
    found = [path for path in (state / "keys").rglob("*.key") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(state)): path.read_bytes() for path in found}


def check_pairs(state: Path) -> None:
    """Key and certificate in force belong together, for TLS as OpenSSL sees it, for events by the key."""
    keys = state / "keys"
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(keys / "tls.crt", keys / "tls.key")
    key = load_pem_private_key((keys / "event.key").read_bytes(), None)
    certificate = load_pem_x509_certificate((keys / "event.crt").read_bytes())
    assert certificate.public_key() == key.public_key()


def check_whole(state: Path) -> None:
    """An enrolled node: pairs, modes, nothing half-written."""
    check_pairs(state)
    for path in state.rglob("*"):
        assert not path.name.endswith(".tmp"), path
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def at(moment: datetime) -> Callable[[], datetime]:
    """A clock that stands."""
    return lambda: moment
