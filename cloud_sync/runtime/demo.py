"""`holdfast demo`: the main job on embedded parts, every process real, on one machine.

World (ptys, scenario time) -> edge -> outbox -> uplink -> broker (mTLS) -> collector -> log -> incidents ->
page, and a roadside node beside it. The demo only starts, watches, asks and checks; it decides nothing.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cloud_sync.demo_options import DemoOptions
from cloud_sync.errors import CloudError, ConfigError
from cloud_sync.runtime import demo_folders, demo_open, demo_page, demo_report, demo_summary, titles
from cloud_sync.runtime.children import Child, ChildFailed, Usage
from cloud_sync.runtime.demo_config import (
    ROADSIDE,
    TENANT,
    VEHICLE,
    Layout,
    write_broker_config,
    write_configs,
    write_serve_config,
)
from cloud_sync.runtime.demo_display import Display, make_display
from cloud_sync.runtime.demo_page import Entrance
from cloud_sync.runtime.demo_report import Collected, Result
from edge.errors import EdgeError
from edge.runtime import facts_client
from provisioning.runtime.lab import make_lab

DRAIN_TIMEOUT_S: Final = 60.0
"""After the last byte: time for the last seal, its receipt and the deletion. Usually below 3 s."""
STALL_TIMEOUT_S: Final = 60.0
"""The world says how far it is five times a second; a minute of silence is a fault, not slowness."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, `kill`, a terminal that was closed: each ends the demo in order."""
DEMO_VIN: Final = "LHFDEM006N0000001"
"""Invented: no maker has this code; the check digit is right (GB 16735)."""


class Demo:
    """One run: its folder, its children, and what they said."""

    def __init__(
        self, options: DemoOptions, home: Path, display: Display, *, acceptance: Path | None = None
    ) -> None:
        self.options = options
        self.acceptance = acceptance
        self.layout = Layout(home)
        self.display = display
        self.children: dict[str, Child] = {}
        self.world: dict[str, Any] = {}
        self.entrance: Entrance | None = None

    def start(self, name: str, *argv: str, stdin: bool = False) -> Child:
        """Start a child under `name`; its log is logs/<name>.log."""
        child = Child(name, argv, self.layout.logs / f"{name}.log", stdin=stdin)
        self.children[name] = child
        return child

    def command(self, name: str, command: str, config: Path) -> dict[str, Any]:
        """Start `holdfast COMMAND --config CONFIG` and wait until it is ready."""
        self.display.step(f"starting {name}")
        return self.start(name, "-m", "firmware_bridge", command, "--config", str(config)).wait_ready()

    def start_world(self) -> None:
        """Ptys, page and world.json; scenario time stands at zero until `go`."""
        what = (
            ["--replay", str(self.options.replay)]
            if self.options.replay is not None
            else ["--scenario", self.options.scenario]
        )
        world = self.start(
            "world", "-m", "firmware_bridge.runtime.world", *what,
            "--dir", str(self.layout.world), "--speed", str(self.options.speed), stdin=True,
        )  # fmt: skip
        world.wait_ready()
        self.world = json.loads((self.layout.world / "world.json").read_text("utf-8"))

    def start_system(self) -> None:
        """Identities, broker, collector, the pledge, the page, then the nodes."""
        self.display.step("making identities: a certificate authority, two keys for each node")
        make_lab(self.layout.home, TENANT, [(VEHICLE, "vehicle"), (ROADSIDE, "roadside")], "127.0.0.1")
        write_broker_config(self.layout)
        port = int(self.command("broker", "broker", self.layout.broker_config)["port"])
        write_broker_config(self.layout, port)  # so that a broker started again is where it was
        write_configs(self.layout, self.world, port, self.acceptance)
        self.command("collector", "collect", self.layout.collector_config)
        self.display.step("pledging the vehicle: title minted, lien proposed and consented")
        titles.pledge_for_demo(
            self.layout.collector_config,
            vin=DEMO_VIN,
            device=VEHICLE,
            tyres=list((self.world["tyres"] or {}).values()),
        )
        self.start_page()
        for node, command in ((VEHICLE, "edge"), (ROADSIDE, "roadside")):
            config = self.layout.node_config(node)
            self.command(f"{node}-edge", command, config)
            self.command(f"{node}-uplink", "uplink", config)

    def start_page(self) -> None:
        """The operator's page, and an account for whoever watches."""
        write_serve_config(self.layout, self.world)
        ready = self.command("page", "serve", self.layout.serve_config)
        write_serve_config(
            self.layout, self.world, int(ready["port"])
        )  # so that the page left open is where it was
        self.entrance = demo_page.enter(str(ready["url"]), str(ready["link"]))
        name, password = self.entrance.name, self.entrance.password
        self.display.step(f"the page is at {self.entrance.url} : log in as {name} with {password}")

    def play(self) -> dict[str, int]:
        """Let the scenario run to its end; bytes written by port."""
        world = self.children["world"]
        world.say("go")
        last = time.monotonic()
        while True:
            line = world.next_line(1.0)
            now = time.monotonic()
            if line is None:
                if now - last > STALL_TIMEOUT_S:
                    raise ChildFailed(f"the world stands still: {world.log_tail()}")
                self.check_children()
                continue
            last = now
            if line.get("done"):
                return {str(name): int(count) for name, count in line["bytes"].items()}
            if "t_s" in line:
                self.check_children()
                self.display.progress(line, self.status(VEHICLE))

    def check_children(self) -> None:
        """Note everybody's figures. Raises ChildFailed when one has ended."""
        for child in self.children.values():
            if not child.alive:
                raise ChildFailed(
                    f"{child.name} ended by itself with code {child.process.returncode}: {child.log_tail()}"
                )
            child.usage()

    def status(self, node: str) -> dict[str, Any]:
        """What the node's edge says of itself over facts.sock."""
        answer = facts_client.call(self.layout.node(node) / "facts.sock", "status")
        status: dict[str, Any] = json.loads(str(answer[1]))
        return status

    def drain(self) -> dict[str, dict[str, Any]]:
        """Wait until every accepted event is sealed, logged, receipted and forgotten; the last statuses."""
        for node in (VEHICLE, ROADSIDE):
            facts_client.call(self.layout.node(node) / "facts.sock", "seal")
        self.display.step("waiting for the last receipts")
        end = time.monotonic() + DRAIN_TIMEOUT_S
        while True:
            states = {node: self.status(node) for node in (VEHICLE, ROADSIDE)}
            owed = sum(s["outbox"]["segments"] + s["outbox"]["events_unsealed"] for s in states.values())
            if owed == 0 or time.monotonic() > end:
                return states
            self.check_children()
            time.sleep(0.1)

    def stop(self) -> list[Usage]:
        """End every child in the order of the data path; their last figures."""
        usages = [child.usage() for child in self.children.values()]
        order = [f"{n}-{p}" for p in ("edge", "uplink") for n in (VEHICLE, ROADSIDE)]
        for name in [*order, "page", "collector", "broker", "world"]:
            if name in self.children:
                self.children[name].stop()
        return usages

    def run(self) -> Result:
        """The whole run. Raises ChildFailed, CloudError or OSError where it cannot go on."""
        self.start_world()
        self.start_system()
        started = time.monotonic()
        written = self.play()
        played_s = time.monotonic() - started
        states = self.drain()
        self.display.step("looking at the page as a person does")
        assert self.entrance is not None
        seen = demo_page.look(self.entrance)
        self.display.step("exporting evidence and verifying it in a process of its own")
        collected = Collected(
            world=self.world,
            truth=json.loads((self.layout.world / "truth.json").read_text("utf-8")),
            written=written,
            played_s=played_s,
            states=states,
            usages=[child.usage() for child in self.children.values()],
            layout=self.layout,
            replay=self.options.replay,
            entrance=self.entrance,
            seen=seen,
        )
        return demo_report.assess(collected)


class _Ended(BaseException):
    """A signal asked the demo to end; not an Exception, so that nothing on the way takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended(number)


def leave_open(layout: Layout, result: Result, display: Display) -> None:
    """Start broker, collector and page again, on their own; the result says where."""
    try:
        left = demo_open.start(layout)
    except CloudError as error:
        display.error(str(error))
        result.page_left_open(None)
    else:
        result.page_left_open(left)


def run(options: DemoOptions) -> int:
    """Run the demo; 0 only if every check held, 1 when one failed, 2 when it could not be started,
    128 + n after signal n. Whatever ends it, its processes end and no key stays in a temporary folder.
    """
    display = make_display(options)
    try:
        demo_folders.check_options(options)
        home = demo_folders.make_home(options)
    except ConfigError as error:
        display.error(str(error))
        return 2
    demo = Demo(options, home, display)
    temporary = options.dir is None and not options.keep
    before = {number: signal.signal(number, _end) for number in SIGNALS}
    result: Result | None = None
    code = 1
    try:
        with display:
            result = demo.run()
    except (CloudError, EdgeError, OSError) as error:
        display.error(f"{error}\nThe logs are in {demo.layout.logs}")
    except _Ended as ended:
        code = 128 + ended.number
        display.error("interrupted: ending every process")
    finally:
        for number in SIGNALS:  # a second Ctrl-C must not leave half of it behind
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
        if result is not None and temporary:
            result.moved_evidence(demo_folders.keep_evidence(demo.layout))
        if result is None and code == 1:
            demo_folders.leave_logs(home)
        elif temporary:
            shutil.rmtree(home, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    kept = None if temporary else home
    if result is not None and options.keep:
        leave_open(demo.layout, result, display)
    if result is None:
        if kept is not None and code != 1:
            display.error(f"Kept in {kept}")
        return code
    demo_summary.print_summary(result, options, kept=kept)
    if options.json is not None:
        options.json.write_text(json.dumps(result.document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 0 if result.ok else 1
