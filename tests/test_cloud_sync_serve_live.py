"""The live stream over a real server: what is told to whom, resume, and who is cut off."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from serve_kit import OTHER, PARTNERS, ServeKit, kit

from cloud_sync.access import Principal
from cloud_sync.runtime import cases, fleet
from cloud_sync.runtime.serve import accounts, live, live_events, live_hub, sessions
from cloud_sync.runtime.serve.live_events import Batch, FeedRow, batch_of, encoded, event, sight_of
from cloud_sync.runtime.serve.live_hub import Hub, Viewer

__all__ = ["kit"]

DEADLINE_S = 20.0
"""Longest wait for something that comes within two seconds on an idle machine."""


@dataclass
class Stream:
    """One open stream and what it said so far."""

    lines: Iterator[str]
    said: list[tuple[str, Any, str | None]] = field(default_factory=list)
    comments: int = 0

    def next(self) -> tuple[str, Any, str | None] | None:
        """The next event; None at the end."""
        name, data, id_ = "message", "", None
        for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line == "":
                if data:
                    self.said.append((name, json.loads(data), id_))
                    return self.said[-1]
            else:
                key, _, value = line.partition(": ")
                name = value if key == "event" else name
                data = value if key == "data" else data
                id_ = value if key == "id" else id_
        return None

    def until(self, wanted: str, fits: Callable[[Any], bool] = lambda data: True) -> Any:
        """Data of the next event `wanted` that `fits`."""
        while True:
            found = self.next()
            assert found is not None, (
                f"the stream ended before {wanted}: {[name for name, _, _ in self.said]}"
            )
            if found[0] == wanted and fits(found[1]):
                return found[1]


@contextmanager
def stream(
    kit: ServeKit, url: str, role: str = "operator", tenant: str = "fund", **more: Any
) -> Iterator[Stream]:
    headers = {"Authorization": f"Bearer {kit.api_token(role, tenant)}", **more.pop("headers", {})}
    with (
        httpx.Client(base_url=url, timeout=DEADLINE_S) as client,
        client.stream("GET", "/api/v1/live", headers=headers, **more) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.iter_lines())


def hub(kit: ServeKit) -> Hub:
    found = kit.context.extras["live"]
    assert isinstance(found, Hub)
    return found


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_what_is_committed_is_told_to_whom_it_concerns(kit: ServeKit) -> None:
    kit.incident("far-1")
    with (
        kit.server() as url,
        stream(kit, url) as here,
        stream(kit, url, tenant=OTHER) as there,
        stream(kit, url, "technician") as technician,
    ):
        hello = here.until("hello")
        assert set(hello) == {"feed", "now"}
        there.until("hello")
        technician.until("hello")
        id_ = kit.incident()
        row = here.until("incident")
        assert row["id"] == id_ and row["state"] == "open"
        vehicles = here.until("vehicles")
        assert [each["device"] for each in vehicles["items"]] == ["car-1"]
        assert vehicles["items"][0]["cause"] == "moved_without_wheels"
        kit.ingest("car-2")
        here.until("vehicles", lambda data: data["items"][0]["device"] == "car-2")
        technician.until("vehicles", lambda data: data["items"][0]["device"] == "car-2")
        for name, data, _ in technician.said:
            assert name in ("hello", "vehicles", "log")
            assert "moved_without_wheels" not in json.dumps(data)
        kit.ingest("far-1")
        assert there.until("vehicles")["items"][0]["device"] == "far-1"
        assert "car-" not in json.dumps(there.said) and "far-1" not in json.dumps(here.said)


def test_the_logs_size_is_told_to_who_may_read_the_log(kit: ServeKit) -> None:
    kit.branch("car-1", PARTNERS)
    with kit.server() as url, stream(kit, url) as here, stream(kit, url, "partner") as partner:
        here.until("hello")
        partner.until("hello")
        kit.ingest("car-1")
        assert here.until("log")["size"] == 4
        partner.until("vehicles")
        assert "log" not in {name for name, _, _ in partner.said}


def test_a_vehicle_that_becomes_overdue_is_told(kit: ServeKit) -> None:
    """Nobody commits anything then: the time of an announced heartbeat passes."""
    with kit.server() as url, stream(kit, url) as here:
        here.until("hello")
        kit.ingest("car-1")
        assert here.until("vehicles")["items"][0]["state"] == "ok"
        kit.kit.clock.wall_ms += 3_600_000
        late = here.until("vehicles", lambda data: data["items"][0]["state"] == "overdue")
        assert {row["device"] for row in late["items"]} == {"car-1", "car-2"}


def test_who_was_away_is_told_what_became_overdue(kit: ServeKit) -> None:
    with kit.server() as url:
        with stream(kit, url) as here:
            after = here.until("hello")["feed"]
        kit.kit.clock.wall_ms += 240_000
        with stream(kit, url, params={"after": after}) as again:
            late = again.until("vehicles")["items"]
            assert {row["device"]: row["state"] for row in late} == {"car-1": "overdue", "car-2": "overdue"}


def test_acts_are_told_at_once(kit: ServeKit) -> None:
    id_ = kit.incident()
    with kit.server() as url, stream(kit, url) as here:
        here.until("hello")
        with kit.context.stores.writing() as store:
            cases.act(
                store, kit.principal(), id_, action="acknowledge", version=0,
                key=kit.context.ledger_key, wall_ms=kit.context.now_ms(),
            )  # fmt: skip
        row = here.until("incident")
        assert row["id"] == id_ and row["state"] == "acknowledged" and row["version"] == 1


@pytest.mark.parametrize("how", ["header", "query"])
def test_resume_tells_what_was_missed_once(kit: ServeKit, how: str) -> None:
    with kit.server() as url:
        with stream(kit, url) as here:
            after = str(here.until("hello")["feed"])
        id_ = kit.incident()
        kit.ingest("car-2")
        more: dict[str, Any] = (
            {"headers": {"Last-Event-ID": after}} if how == "header" else {"params": {"after": after}}
        )
        with stream(kit, url, **more) as again:
            hello = again.until("hello")
            assert hello["feed"] > int(after)
            assert again.until("incident")["id"] == id_
            assert {row["device"] for row in again.until("vehicles")["items"]} == {"car-1", "car-2"}
            assert again.said[-1][2] == str(hello["feed"])
            kit.ingest("car-1")
            again.until("vehicles")
        assert [name for name, _, _ in again.said].count("incident") == 1


def test_an_id_never_promises_more_than_was_told(kit: ServeKit) -> None:
    """Vehicles wait for a second; an incident that overtakes them carries the number before them."""
    with kit.server() as url:
        with stream(kit, url) as here:
            start = int(here.until("hello")["feed"])
            kit.ingest("car-2")
            here.until("vehicles")
            with kit.kit.collector() as (_, _, intake):
                two = kit.devices["car-2"]
                intake.finish(intake.commit([two.message(two.seal(1))]))
                one = kit.devices["car-1"]
                intake.finish(intake.commit([one.message(one.seal([one.incident()]))]))
            here.until("incident")
            last = next(id_ for name, _, id_ in reversed(here.said) if id_ is not None)
        assert int(last) >= start
        with stream(kit, url, params={"after": last}) as again:
            found = again.until("vehicles", lambda data: "car-2" in json.dumps(data))
            assert found
            assert {"car-1", "car-2"} <= {row["device"] for row in found["items"]}


@pytest.mark.parametrize("after", [10_000_000, 0])
def test_who_cannot_be_told_everything_is_told_to_read_anew(kit: ServeKit, after: int) -> None:
    with kit.context.stores.writing() as store, store.transaction() as db:
        for number in range(live_hub.MAX_BEHIND + 1):
            fleet.add_feed(db, "fund", "case", "car-1", f"car-1.{'00' * 16}.{number}", 0)
    with kit.server() as url, stream(kit, url, params={"after": after}) as here:
        assert here.until("hello")["feed"] > live_hub.MAX_BEHIND
        assert here.until("reset") == {}


def test_what_was_pruned_is_read_anew(kit: ServeKit) -> None:
    with kit.context.stores.writing() as store, store.transaction() as db:
        for _ in range(20):
            fleet.add_feed(db, "fund", "case", "car-1", "x", 0)
        fleet.prune(db, 5)
    with kit.server() as url, stream(kit, url, params={"after": 1}) as here:
        assert here.until("reset") == {}


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", "9" * 30, "١"])
def test_a_forged_event_id_is_refused(kit: ServeKit, given: str) -> None:
    client = kit.client()
    answer = client.get("/api/v1/live", headers={"Last-Event-ID": given.encode()})
    assert answer.status_code == 400 and answer.json()["code"] == "bad_request"
    assert client.get("/api/v1/live", params={"after": given}).status_code == 422
    assert client.get("/api/v1/live", params={"afer": 1}).json()["detail"].endswith("did you mean after?")


def test_nobody_is_told_nothing(kit: ServeKit) -> None:
    assert kit.anonymous().get("/api/v1/live").status_code == 401


def test_an_account_has_so_many_streams(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_hub, "MAX_STREAMS", 2)
    with kit.server() as url:
        with stream(kit, url) as one, stream(kit, url) as two:
            one.until("hello")
            two.until("hello")
            token = kit.api_token()
            refused = httpx.get(f"{url}/api/v1/live", headers={"Authorization": f"Bearer {token}"})
            assert refused.status_code == 429 and refused.headers["retry-after"] == "30"
            with stream(kit, url, "auditor") as other:
                other.until("hello")
        wait_for(lambda: hub(kit).viewers == 0)
        with stream(kit, url) as again:
            again.until("hello")


@pytest.mark.parametrize("how", ["logout", "disabled", "role", "token"])
def test_a_stream_ends_with_its_login(kit: ServeKit, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(live, "CHECK_S", 0.1)
    token = kit.session("auditor")
    headers = {"Cookie": f"{kit.context.cookie}={token}"}
    if how == "token":
        headers = {"Authorization": f"Bearer {kit.api_token('auditor')}"}
    with (
        kit.server() as url,
        httpx.Client(base_url=url, timeout=DEADLINE_S) as client,
        client.stream("GET", "/api/v1/live", headers=headers) as answer,
    ):
        here = Stream(answer.iter_lines())
        here.until("hello")
        number = kit.accounts["fund", "auditor"]
        with kit.context.db.transaction() as db:
            if how == "logout":
                sessions.close_session(db, token)
            elif how == "token":
                db.execute("DELETE FROM tokens")
            elif how == "role":
                accounts.change(db, "fund", number, {"role": "technician"})
            else:
                accounts.change(db, "fund", number, {"disabled": True})
        while here.next() is not None:
            assert here.said[-1][0] in ("vehicles", "log")
        wait_for(lambda: hub(kit).viewers == 0)


def test_silence_is_broken_by_comments(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CHECK_S", 0.05)
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.05)
    with kit.server() as url, stream(kit, url) as here:
        here.until("hello")
        wait_for(lambda: next(here.lines).startswith(":"))


def test_a_viewer_that_never_reads_is_cut_off_and_the_others_are_not(kit: ServeKit) -> None:
    with kit.server() as url, stream(kit, url) as here:
        here.until("hello")
        at = urlsplit(url)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((at.hostname, at.port))
        deaf.sendall(
            f"GET /api/v1/live HTTP/1.1\r\nHost: {at.netloc}\r\n"
            f"Authorization: Bearer {kit.api_token('auditor')}\r\n\r\n".encode()
        )
        wait_for(lambda: hub(kit).viewers == 2)
        groups = hub(kit)._groups
        piece = event("vehicles", {"items": ["x" * 60_000]})

        async def flood() -> None:
            for group in list(groups.values()):
                if group.sight.role == "auditor":
                    hub(kit)._give(group, piece)

        loop = next(task.get_loop() for task in [hub(kit)._task] if task is not None)
        for _ in range(400):
            if hub(kit).dropped:
                break
            asyncio.run_coroutine_threadsafe(flood(), loop).result(DEADLINE_S)
        assert hub(kit).dropped == 1
        wait_for(lambda: hub(kit).viewers == 1)
        deaf.settimeout(DEADLINE_S)
        with pytest.raises(ConnectionResetError):
            while deaf.recv(1 << 20):
                continue
            raise ConnectionResetError("ended without a reset: what it had not read was kept for it")
        deaf.close()
        kit.ingest("car-1")
        here.until("vehicles")


def test_streams_end_in_good_order_when_the_server_does(
    kit: ServeKit, caplog: pytest.LogCaptureFixture
) -> None:
    """Both who reads and who does not: nobody is told of an answer that was not completed."""
    with httpx.Client(timeout=DEADLINE_S) as client, socket.socket() as deaf:
        with kit.server() as url:
            headers = {"Authorization": f"Bearer {kit.api_token()}"}
            answer = client.send(
                client.build_request("GET", f"{url}/api/v1/live", headers=headers), stream=True
            )
            here = Stream(answer.iter_lines())
            here.until("hello")
            at = urlsplit(url)
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((at.hostname, at.port))
            deaf.sendall(
                f"GET /api/v1/live HTTP/1.1\r\nHost: {at.netloc}\r\n"
                f"Authorization: Bearer {kit.api_token('auditor')}\r\n\r\n".encode()
            )
            wait_for(lambda: hub(kit).viewers == 2)
            one = next(g for g in hub(kit)._groups.values() if g.sight.role == "auditor")
            (viewer,) = one.viewers
            loop = next(task.get_loop() for task in [hub(kit)._task] if task is not None)
            piece = event("vehicles", {"items": ["x" * 4_000_000]})
            for _ in range(3):  # more than the kernel takes: its task waits in the middle of a piece
                loop.call_soon_threadsafe(viewer.queue.put_nowait, piece)
            wait_for(lambda: viewer.queue.qsize() == 1)
        assert here.next() is None, "an answer that ended as answers do"
        answer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_store_that_cannot_be_read_is_tried_again(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_hub, "_RETRY_S", 0.05)
    with kit.server() as url, stream(kit, url) as here:
        here.until("hello")
        whole = Hub._look
        failures = iter(range(3))

        def broken(self: Hub, *args: Any) -> Any:
            if next(failures, None) is not None:
                raise live_hub.CloudError("the disk is away")
            return whole(self, *args)

        monkeypatch.setattr(Hub, "_look", broken)
        id_ = kit.incident()
        assert here.until("incident")["id"] == id_


# --- pure parts ---------------------------------------------------------------------------------------------


def test_a_batch_names_each_thing_once() -> None:
    rows = [
        FeedRow(3, "incident", "a", "i1"), FeedRow(4, "vehicle", "a", "a"), FeedRow(5, "incident", "b", "i2"),
        FeedRow(6, "case", "a", "i1"), FeedRow(7, "title", "a", "t"), FeedRow(9, "log", "", "12"),
    ]  # fmt: skip
    found = batch_of(rows, 2)
    assert found == Batch(9, ("i2", "i1"), frozenset({"a", "b"}), frozenset({("t", "a")}))
    assert batch_of([], 2) == Batch(2)


def test_an_event_is_one_line_of_json() -> None:
    assert event("vehicles", {"name": "a\nb\u2028"}, 7) == (
        'event: vehicles\nid: 7\ndata: {"name":"a\\nb\u2028"}\n\n'.encode()
    )


def test_one_reset_says_it_all() -> None:
    piece = encoded([("incident", {"id": "x"}), ("reset", {}), ("vehicles", {"items": []})], 5)
    assert piece == b"event: reset\nid: 5\ndata: {}\n\n"


def test_a_sight_has_no_name() -> None:
    one = Principal("t", 1, "A", "operator", frozenset({"read:fleet", "manage"}), frozenset({"N"}), "zh", "x")
    other = Principal("t", 2, "B", "operator", frozenset({"read:fleet"}), frozenset({"N"}))
    assert sight_of(one) == sight_of(other)
    for changed in ({"tenant": "u"}, {"role": "auditor"}, {"branches": frozenset()}, {"scopes": frozenset()}):
        assert sight_of(live_events.replace(other, **changed)) != sight_of(other)


def test_too_many_vehicles_or_titles_are_read_anew(kit: ServeKit) -> None:
    who = sight_of(kit.principal())
    devices = {f"car-{n}" for n in range(live_events.MAX_VEHICLES + 1)}
    titles = {(f"{n}", "car-1") for n in range(live_events.MAX_TITLES + 1)}
    with kit.context.stores.reading() as db:
        assert live_hub.together(db, kit.context, who, devices, set()) == [("reset", {})]
        assert live_events.title_events(db, who, titles) == [("reset", {})]
        assert live_events.title_events(db, who, {("b", "car-1"), ("a", "car-1")}) == [
            ("title", {"token": "a"}), ("title", {"token": "b"}),
        ]  # fmt: skip


def test_titles_of_other_branches_are_not_told(kit: ServeKit) -> None:
    with kit.context.stores.writing() as store, store.transaction() as db:
        fleet.set_card(db, "fund", "car-1", None, "North", None)
        fleet.set_card(db, "fund", "car-2", None, "South", None)
    who = live_events.replace(sight_of(kit.principal()), branches=frozenset({"North"}))
    with kit.context.stores.reading() as db:
        found = live_events.title_events(db, who, {("a", "car-1"), ("b", "car-2"), ("c", "car-9")})
    assert found == [("title", {"token": "a"})]


def test_a_viewer_is_detached_once(kit: ServeKit) -> None:
    async def run() -> None:
        one = Hub(kit.context)
        viewer = Viewer(kit.principal())
        await one.attach(viewer)
        assert one.viewers == 1
        one.detach(viewer)
        one.detach(viewer)
        assert one.viewers == 0
        one.admit(viewer.principal)
        assert one._task is not None
        await asyncio.wait_for(one._task, DEADLINE_S)

    asyncio.run(run())
