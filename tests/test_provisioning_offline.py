"""Enrolment by files: the request, the authority's answer, and every answer that is not this node's."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import ReasonFlags

from provisioning.enrolment import Exit, Step
from provisioning.est import OfflineRequest
from provisioning.identity import Identity
from provisioning.runtime import ca_admin, offline
from provisioning.runtime.asked import Host
from tests.ca_kit import World
from tests.enrol_kit import Node, check_whole, private_keys


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.register.close()


@pytest.fixture
def node(world: World, tmp_path: Path) -> Node:
    return Node(tmp_path / "node", world, 1)


def request(node: Node, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[Path, str]:
    """The request file, and what people read."""
    path = node.home.with_name(f"{node.home.name}.request.json")
    given = {"code": node.code(), "server": None, "offline": path} | changes
    code, end, err = node.run(capsys, **given)
    assert code == Exit.PENDING and end["request"] == str(path)
    return path, err


def signed(node: Node, path: Path) -> Path:
    """What `holdfast ca sign` makes of it."""
    answer = node.world.enrolment.sign_offline(OfflineRequest.from_json(path.read_bytes()))
    out = path.with_name(path.name.replace("request", "response"))
    out.write_bytes(answer.to_json())
    return out


def test_two_files_and_no_network(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    path, err = request(node, capsys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "holdfast ca sign" in err
    keys = private_keys(node.state)
    assert len(keys) == 2 and "PRIVATE" not in path.read_text()
    response = signed(node, path)
    code, end, _ = node.run(capsys, response=response, server=None, ca=None, device=None)
    assert code == 0 and end["device"] == "car-1" and private_keys(node.state) == keys
    check_whole(node.state)
    assert 'host = "broker.example"' in node.config.read_text()
    assert node.run(capsys, server=None, ca=None, device=None)[0] == 0  # the plain command agrees


def test_the_request_again_is_for_the_same_keys(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = request(node, capsys)
    keys = private_keys(node.state)
    response = signed(node, first)
    second, _ = request(node, capsys)
    assert private_keys(node.state) == keys
    assert node.run(capsys, response=response)[0] == 0
    assert OfflineRequest.from_json(second.read_bytes()).identity == Identity("fund", "car-1")


Spoil = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mine, other: mine.update(other),
        lambda mine, other: mine.update(tls_crt=other["tls_crt"]),
        lambda mine, other: mine.update(event_crt=other["event_crt"]),
        lambda mine, other: mine.update(event_crt=mine["tls_crt"]),
        lambda mine, other: mine.update(tls_crt=mine["event_crt"]),
        lambda mine, other: mine.update(tls_crt="-----BEGIN CERTIFICATE-----\nAA==\n"),
        lambda mine, other: mine.update(trust={}),
        lambda mine, other: mine["trust"].update(receipt_keys=[]),
        lambda mine, other: mine["trust"].update(receipt_keys=["x"]),
        lambda mine, other: mine["trust"].update(log_key="AAAA"),
        lambda mine, other: mine["trust"].update(origin="a log"),
        lambda mine, other: mine["trust"].update(device_ca=mine["ca_crt"]),
        lambda mine, other: mine["uplink"].update(port=0),
        lambda mine, other: mine["uplink"].update(host=7),
        lambda mine, other: mine.update(version=2),
        lambda mine, other: mine.pop("uplink"),
    ],
    ids=lambda _: "",
)
def test_a_foreign_or_spoilt_response_changes_nothing(
    node: Node, capsys: pytest.CaptureFixture[str], spoil: Spoil
) -> None:
    path, _ = request(node, capsys)
    response = signed(node, path)
    other = Node(node.home.with_name("other"), node.world, 1, "car-2")
    foreign = json.loads(signed(other, request(other, capsys)[0]).read_text())
    good = response.read_text()
    value = json.loads(good)
    spoil(value, foreign)
    response.write_text(json.dumps(value))
    before = node.snapshot()
    code, end, _ = node.run(capsys, response=response)
    assert code == Exit.UNVERIFIED and end["event"] == "error"
    assert node.snapshot() == before
    response.write_text(good)
    assert node.run(capsys, response=response)[0] == 0


def test_a_response_of_another_root(node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = World(tmp_path / "other-authority")
    request(node, capsys)
    twin = Node(tmp_path / "twin", other, 1)
    response = signed(twin, request(twin, capsys)[0])
    before = node.snapshot()
    code, end, _ = node.run(capsys, response=response, ca=None)
    other.register.close()
    assert code == Exit.UNVERIFIED and "another root" in end["detail"] and node.snapshot() == before


def test_a_response_without_a_request(node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, end, _ = node.run(capsys, response=tmp_path / "response.json")
    assert code == Exit.USAGE and "--offline" in end["remedy"] and not node.home.exists()
    request(node, capsys)
    code, end, _ = node.run(capsys, response=tmp_path / "nowhere.json")
    assert code == Exit.USAGE and "not there" in end["detail"]
    (tmp_path / "junk.json").write_bytes(b"\x00junk")
    assert node.run(capsys, response=tmp_path / "junk.json")[0] == Exit.UNVERIFIED


def test_a_request_needs_a_code_and_a_root(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    path = node.home.with_name("r.json")
    assert node.run(capsys, offline=path)[0] == Exit.USAGE
    assert node.run(capsys, offline=path, code=node.code(), ca=None, server=None)[0] == Exit.USAGE
    assert node.run(capsys, offline=path, response=path)[0] == Exit.USAGE
    assert not path.exists() and private_keys(node.state) == {}
    code, end, _ = node.run(capsys, offline=path, code=node.code(), dry_run=True)
    assert code == 0 and not path.exists() and str(path) in end["text"]


def test_a_dry_run_judges_a_response_and_changes_nothing(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = request(node, capsys)
    response = signed(node, path)
    before, names = node.snapshot(), sorted(node.home.rglob("*"))
    code, end, _ = node.run(capsys, response=response, dry_run=True)
    assert code == 0 and end["text"].startswith("dry run") and "nothing was changed" in end["text"]
    assert node.snapshot() == before and sorted(node.home.rglob("*")) == names
    other = Node(node.home.with_name("other"), node.world, 1, "car-2")
    foreign = signed(other, request(other, capsys)[0])
    assert node.run(capsys, response=foreign, dry_run=True)[0] == Exit.UNVERIFIED
    assert node.run(capsys, response=response)[0] == 0


def test_a_revoked_node_comes_back_by_files(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = request(node, capsys)
    old_response = signed(node, first)
    assert node.run(capsys, response=old_response)[0] == 0
    before = {name: (node.keys / name).read_bytes() for name in ("tls.key", "event.key", "event.crt")}
    world = node.world
    ca_admin.revoke(
        world.opened, world.register, Identity("fund", "car-1"), ReasonFlags.superseded, world.clock()
    )
    second, _ = request(node, capsys)
    assert {name: (node.keys / name).read_bytes() for name in before} == before, "in force until the answer"
    assert node.run(capsys, response=old_response)[0] == Exit.UNVERIFIED
    code, end, _ = node.run(capsys, response=signed(node, second), server=None, ca=None, device=None)
    assert code == 0 and end["device"] == "car-1"
    assert all((node.keys / name).read_bytes() != data for name, data in before.items())
    assert before["event.crt"] in [path.read_bytes() for path in (node.keys / "old").iterdir()]
    check_whole(node.state)
    assert node.run(capsys, server=None, ca=None, device=None)[0] == 0


def test_a_medium_that_cannot_be_written(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = node.run(capsys, offline=Path("/proc/request.json"), code=node.code())
    assert code in (Exit.FAILURE, Exit.PERMISSION) and "run" in err
    request(node, capsys)


def test_cut_off_while_the_response_is_written(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = request(node, capsys)
    keys, response = private_keys(node.state), signed(node, path)

    class Cut(BaseException):
        """Ends the run as a signal would."""

    for stop in range(1, 60):
        seen = 0

        def after(_: str, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise Cut

        try:
            offline.finish(node.ask(), Host(now=node.world.clock, after=after), response)
        except Cut:
            continue
        break
    assert stop > 6 and private_keys(node.state) == keys
    check_whole(node.state)
    journal = json.loads((node.state / "provision.json").read_text())
    assert journal["done"] == [step.value for step in Step]
