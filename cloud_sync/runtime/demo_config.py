"""Where a demo keeps its things, and the configuration files it writes: the same ones an operator writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

TENANT: Final = "demo-fund"
VEHICLE: Final = "vehicle-1"
ROADSIDE: Final = "roadside-1"
COLLECTOR: Final = "collector"


class Layout:
    """The folders and files below a demo's home."""

    MARK: Final = ".holdfast-demo"
    """Only a folder with this file in it is ever cleared, and only of NAMES."""
    NAMES: Final = frozenset(
        {
            MARK,
            "logs",
            "world",
            "authority",
            "broker",
            COLLECTOR,
            "nodes",
            "page",
            "evidence",
            "trust.json",
            "open.json",
        }
    )
    """Everything a demo makes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.logs = home / "logs"
        self.world = home / "world"
        self.collector = home / COLLECTOR
        self.evidence = home / "evidence"
        self.broker_config = home / "broker" / "broker.toml"
        self.collector_config = self.collector / "collector.toml"
        self.serve_config = home / "page" / "serve.toml"

    def node(self, name: str) -> Path:
        """State folder of a node."""
        return self.home / "nodes" / name

    def node_config(self, name: str) -> Path:
        """Configuration of a node."""
        return self.node(name) / "node.toml"


def _text(value: object) -> str:
    """A TOML basic string."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _clock(layout: Layout, world: dict[str, Any]) -> list[str]:
    return [
        "[clock]",
        'source = "page"',
        f"page = {_text(layout.world / 'clock.page')}",
        f"epoch_wall_ns = {world['epoch_wall_ns']}",
        f"kind = {_text(world['kind'])}",
    ]


def write_broker_config(layout: Layout, port: int = 0) -> None:
    """broker.toml: loopback; port 0 lets the system choose."""
    text = f'[broker]\nhost = "127.0.0.1"\nport = {port}\nkeys = "keys"\n'
    layout.broker_config.parent.mkdir(parents=True, exist_ok=True)
    layout.broker_config.write_text(text, "utf-8")


def write_collector_config(layout: Layout, world: dict[str, Any], port: int) -> None:
    """collector.toml."""
    lines = [
        "[collector]",
        f"tenant = {_text(TENANT)}",
        'origin = "log.holdfast.example/demo"',
        "",
        *_clock(layout, world),
        "",
        "[mqtt]",
        'host = "127.0.0.1"',
        f"port = {port}",
        'server_name = "localhost"',
        "",
        "[policy]",
        'accept_kinds = ["simulated", "replay"]',
    ]
    layout.collector_config.write_text("\n".join(lines) + "\n", "utf-8")


def write_serve_config(layout: Layout, world: dict[str, Any], port: int = 0) -> None:
    """serve.toml and the operator's own list of places; port 0 lets the system choose."""
    folder = layout.serve_config.parent
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["[serve]", f"collector = {_text(layout.collector_config)}", f"port = {port}"]
    if home := world["home"]:
        rows = f"name,lat,lon,radius_m,kind\nHome yard,{home['lat']},{home['lon']},{home['radius_m']},yard\n"
        (folder / "places.csv").write_text(rows, "utf-8")
        lines.append('places = "places.csv"')
    layout.serve_config.write_text("\n".join(lines) + "\n", "utf-8")


def write_node_config(
    layout: Layout, world: dict[str, Any], port: int, node: str, kind: str, acceptance: Path | None = None
) -> None:
    """node.toml of one node: its ports as the world made them, its tyres and its fence."""
    lines = [
        "[node]",
        f"tenant = {_text(TENANT)}",
        f"device = {_text(node)}",
        f"kind = {_text(kind)}",
        "",
        "[state]",
        f"dir = {_text(layout.node(node))}",
        "",
        *_clock(layout, world),
        "",
        "[uplink]",
        'host = "127.0.0.1"',
        f"port = {port}",
        'server_name = "localhost"',
    ]
    for entry in world["ports"]:
        if entry["node"] == kind:
            lines += [
                "",
                "[[port]]",
                f"name = {_text(entry['name'])}",
                f"path = {_text(entry['path'])}",
                f"protocol = {_text(entry['protocol'])}",
                f"baud = {entry['baud']}",
            ]
    if kind == "vehicle" and world["tyres"]:
        lines += ["", "[vehicle.tyres]", *(f"{wheel} = {_text(i)}" for wheel, i in world["tyres"].items())]
    if kind == "vehicle" and world["home"]:
        home = world["home"]
        lines += [
            "",
            "[fence]",
            f"lat = {home['lat']}",
            f"lon = {home['lon']}",
            f"radius_m = {home['radius_m']}",
        ]
    if acceptance is not None:
        lines += ["", "[edge]", f"acceptance_socket = {_text(acceptance)}"]
    layout.node_config(node).parent.mkdir(parents=True, exist_ok=True)
    layout.node_config(node).write_text("\n".join(lines) + "\n", "utf-8")


def write_configs(layout: Layout, world: dict[str, Any], port: int, acceptance: Path | None = None) -> None:
    """Everything that needs the broker's port; `acceptance` is where the vehicle tells what it accepted."""
    write_collector_config(layout, world, port)
    write_node_config(layout, world, port, VEHICLE, "vehicle", acceptance)
    write_node_config(layout, world, port, ROADSIDE, "roadside")
