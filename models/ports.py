"""Which ports speak, measured in time in which the detector itself was watching."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from firmware_bridge.reading import PortCondition

MAX_PORTS: Final = 16
"""More ports than any board has: the rest is not followed, so that names cannot fill the memory."""


@dataclass(slots=True)
class Port:
    """One port. `watched_s` counters are those of the detector."""

    name: str
    heard_watch_s: float
    heard_ns: int
    board: bool = False
    gnss: bool = False
    due_s: float | None = None
    """Announced pause, from the last report that said one."""
    fault: PortCondition | None = None
    """Absent, or bytes without a sentence: a technician's matter, not a thief's."""


class Ports:
    """All ports heard of so far."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}

    def heard(self, name: str, now: int, watch_s: float) -> Port | None:
        """A reading came from `name`; None where there are too many ports to follow."""
        port = self._ports.get(name)
        if port is None:
            if len(self._ports) >= MAX_PORTS:
                return None
            port = self._ports[name] = Port(name, watch_s, now)
        port.heard_watch_s, port.heard_ns, port.fault = watch_s, now, None
        return port

    def condition(self, name: str, condition: PortCondition, now: int, watch_s: float) -> None:
        """The link's own word about a port. It is no reading: it does not count as heard."""
        port = self._ports.get(name)
        if port is None:
            if len(self._ports) >= MAX_PORTS:
                return
            port = self._ports[name] = Port(name, watch_s, now)
        faulty = condition in (PortCondition.ABSENT, PortCondition.NO_SENTENCE)
        port.fault = condition if faulty else None

    def keep(self, names: Collection[str]) -> None:
        """Forget the ports that are not in `names`: they are not configured any more."""
        self._ports = {name: port for name, port in self._ports.items() if name in names}

    def boards(self) -> list[Port]:
        """Ports at which a board has spoken."""
        return [port for port in self._ports.values() if port.board]

    def receivers(self) -> list[Port]:
        """Ports at which a receiver has spoken."""
        return [port for port in self._ports.values() if port.gnss]

    def any_fault(self) -> bool:
        """A port has a technician's problem."""
        return any(port.fault is not None for port in self._ports.values())
