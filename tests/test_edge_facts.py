"""facts.sock: its messages, its server, its client."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import facts
from edge.facts import FactIn, FactsError, Fields, ReceiptIn, Request, SealIn, StatusIn
from edge.runtime import facts_client, facts_server
from edge.runtime.facts_server import MAX_CLIENTS, FactsServer
from edge.runtime.log import Log
from firmware_bridge.wire import cbor


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({0: "receipt", 1: b"x"}, ReceiptIn(b"x")),
        ({0: "fact", 1: "uplink", 2: "no broker"}, FactIn("uplink", "no broker")),
        ({0: "status"}, StatusIn()),
        ({0: "seal"}, SealIn()),
    ],
)
def test_requests(fields: Fields, meant: Request) -> None:
    assert facts.request(cbor.encode(dict(fields))) == meant


@pytest.mark.parametrize(
    "fields",
    [
        {}, {1: "status"}, {0: "status", 1: 1}, {0: "erase"}, {0: 5}, {0: "receipt"},
        {0: "receipt", 1: "text"},
        {0: "fact", 1: "", 2: "x"}, {0: "fact", 1: "x" * 65, 2: "x"}, {0: "fact", 1: "x", 2: "é" * 1025},
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(fields: Fields) -> None:
    with pytest.raises(FactsError):
        facts.request(cbor.encode(dict(fields)))


@given(st.binary(max_size=100))
def test_noise_is_refused(data: bytes) -> None:
    try:
        facts.request(data)
    except FactsError:
        return
    assert data in {cbor.encode({0: "status"}), cbor.encode({0: "seal"})}


def test_lengths_are_bounded() -> None:
    for size in (0, facts.MAX_MESSAGE + 1, (1 << 32) - 1):
        with pytest.raises(FactsError):
            facts.length(struct.pack(">I", size))
    with pytest.raises(FactsError):
        facts.frame({0: "x" * facts.MAX_MESSAGE})


def test_answers() -> None:
    assert facts.result(facts.ok(3, 4)) == {0: "ok", 1: 3, 2: 4}
    with pytest.raises(FactsError, match="no such log"):
        facts.result(facts.error("no such log"))
    with pytest.raises(FactsError):
        facts.result({0: "perhaps"})


async def _answer(request: Request) -> Fields:
    match request:
        case FactIn(_, "refuse"):
            raise FactsError("refused")
        case FactIn(_, text):
            return facts.ok(len(text))
        case ReceiptIn(data):
            return facts.ok(len(data))
        case _:
            return facts.ok("{}")


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[FactsServer]:
    server = FactsServer(path, _answer, Log("error"))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def test_client_and_server_together(tmp_path: Path) -> None:
    path = tmp_path / "f"

    async def main() -> None:
        async with served(path):
            assert path.stat().st_mode & 0o777 == 0o600
            assert (await facts_client.call_async(path, "fact", {1: "a", 2: "four"}))[1] == 4
            assert (await asyncio.to_thread(facts_client.call, path, "receipt", {1: bytes(500_000)}))[
                1
            ] == 500_000
            with pytest.raises(FactsError, match="refused"):
                await facts_client.call_async(path, "fact", {1: "a", 2: "refuse"})
            with pytest.raises(FactsError, match="not known"):
                await facts_client.call_async(path, "erase")
        assert not path.exists()

    asyncio.run(main())


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))

    async def main() -> None:
        async with served(path):
            assert (await facts_client.call_async(path, "status"))[1] == "{}"

    asyncio.run(main())


def test_garbage_slow_and_many_clients_harm_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    monkeypatch.setattr(facts_server, "MESSAGE_S", 0.2)

    async def ended(data: bytes) -> bool:
        """Whether the server hangs up on a client that says this and then waits."""
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer == b""

    async def main() -> None:
        async with served(path):
            assert await ended(b"\xff\xff\xff\xff")
            assert await ended(b"\0\0")
            assert await ended(struct.pack(">I", 100) + b"only this")
            idle = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CLIENTS + 4)]
            await asyncio.sleep(0.05)
            assert await idle[-1][0].read() == b""
            for _, writer in idle:
                writer.close()
            await asyncio.sleep(0.05)
            _, gone = await asyncio.open_unix_connection(str(path))
            gone.write(facts.frame({0: "status"}))
            gone.close()  # does not wait for the answer
            bad = struct.pack(">I", 3) + b"\xff\xff\xff"
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(bad + facts.frame({0: "status"}))
            size = facts.length(await reader.readexactly(4))
            assert facts.fields(await reader.readexactly(size))[0] == "error"
            size = facts.length(await reader.readexactly(4))
            assert facts.fields(await reader.readexactly(size))[0] == "ok"
            writer.close()

    asyncio.run(main())


def test_a_stranger_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    stranger = struct.pack("3i", 1, os.geteuid() + 12345, 1)
    monkeypatch.setattr(socket.socket, "getsockopt", lambda *_: stranger)

    async def main() -> None:
        async with served(path):
            with pytest.raises(FactsError):
                await facts_client.call_async(path, "status")

    asyncio.run(main())


def test_nobody_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="holdfast edge"):
        facts_client.call(tmp_path / "absent", "status")
    with pytest.raises(FactsError, match="holdfast edge"):
        asyncio.run(facts_client.call_async(tmp_path / "absent", "status"))


def test_a_server_that_hangs_up_or_never_answers(tmp_path: Path) -> None:
    path = tmp_path / "f"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def hang_up() -> None:
        server.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(FactsError):
        facts_client.call(path, "status")
    thread.join()
    with pytest.raises(FactsError, match="Timeout"):
        facts_client.call(path, "status", timeout_s=0.1)
    server.close()
