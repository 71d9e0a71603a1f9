"""The application as a whole: description, tags, connections; and `holdfast serve` as a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudkit import TENANT, Kit, make_kit
from mqtt_lab import free_port
from serve_kit import OTHER, ServeKit, kit, write_serve_config

from cloud_sync.errors import NotFound, StoreBusy, StoreError, StoreReadOnly
from cloud_sync.runtime.serve import accounts, app, daemon, db, deps
from cloud_sync.runtime.serve.db import Pool, ServeDb, StorePool

__all__ = ["kit"]

GOOD = "correct horse battery staple"


# --- description ---------------------------------------------------------------------------------------


def operations(kit: ServeKit) -> list[tuple[str, str, dict[str, Any]]]:
    schema = kit.anonymous().get("/api/v1/openapi.json").json()
    return [(path, method, op) for path, item in schema["paths"].items() for method, op in item.items()]


def test_the_description_has_all_parts(kit: ServeKit) -> None:
    schema = kit.anonymous().get("/api/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    schemes = schema["components"]["securitySchemes"]
    assert (schemes["session"]["in"], schemes["token"]["scheme"]) == ("cookie", "bearer")
    paths = schema["paths"]
    for path in (
        "/api/v1/entry", "/api/v1/session", "/api/v1/enter", "/api/v1/vehicles", "/api/v1/vehicles/{device}",
        "/api/v1/map", "/api/v1/incidents", "/api/v1/incidents/{id}/acts", "/api/v1/titles", "/api/v1/log",
        "/api/v1/log/proof", "/api/v1/audit", "/api/v1/alarms", "/api/v1/completeness", "/api/v1/places",
        "/api/v1/live", "/api/v1/rules", "/api/v1/webhooks", "/api/v1/deliveries", "/api/v1/accounts",
        "/api/v1/tokens", "/api/v1/labels",
    ):  # fmt: skip
        assert path in paths, path
    assert not [path for path in paths if path.startswith(("/page", "/words", "/auth"))]


def test_every_operation_is_named_described_tagged_and_guarded(kit: ServeKit) -> None:
    found = operations(kit)
    names = [op["operationId"] for _, _, op in found]
    assert len(names) == len(set(names)) > 40
    open_to_all = set()
    for path, method, op in found:
        assert op["tags"] and (op.get("description") or op.get("summary")), path
        assert op["responses"]["4XX"] == {"$ref": "#/components/responses/Problem"}
        assert "422" not in op["responses"]
        if op.get("security"):
            assert op["security"] == [{"session": []}, {"token": []}] and "401" in op["responses"]
        else:
            open_to_all.add((method, path))
    assert open_to_all == {("get", "/api/v1/entry"), ("post", "/api/v1/session"), ("post", "/api/v1/enter")}


def test_every_reference_leads_somewhere(kit: ServeKit) -> None:
    text = kit.anonymous().get("/api/v1/openapi.json").text
    schema = json.loads(text)
    for reference in set(re.findall(r'"\$ref":"#/([^"]+)"', text.replace('": "', '":"'))):
        at: Any = schema
        for part in reference.split("/"):
            at = at[part]


def test_nothing_but_the_three_doors_opens_without_a_login(kit: ServeKit) -> None:
    client = kit.anonymous()
    for path, method, op in operations(kit):
        if not op.get("security"):
            continue
        url = re.sub(r"\{[^}]+\}", "1", path)
        answer = client.request(method, url, json={} if method != "get" else None)
        assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
        assert answer.headers["www-authenticate"].startswith("Bearer")


# --- tags and compression of JSON ----------------------------------------------------------------------


def test_a_list_has_a_tag_that_the_time_does_not_change(kit: ServeKit) -> None:
    client = kit.client()
    first = client.get("/api/v1/vehicles")
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    kit.kit.clock.wall_ms += 1000
    again = client.get("/api/v1/vehicles", headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert again.headers["cache-control"] == "no-store" and "content-type" not in again.headers
    kit.incident()
    assert client.get("/api/v1/vehicles", headers={"If-None-Match": tag}).status_code == 200


def test_large_json_is_compressed_but_not_beside_a_secret(kit: ServeKit) -> None:
    client = kit.client()
    answer = client.get("/api/v1/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip" and "Accept-Encoding" in answer.headers["vary"]
    assert int(answer.headers["content-length"]) < len(answer.content) / 3
    with kit.context.db.transaction() as rows:
        for n in range(60):
            accounts.add(rows, accounts.NewAccount(TENANT, f"account-{n:03d}", "operator"), 1)
    session = client.get("/api/v1/session", headers={"Accept-Encoding": "gzip"})
    assert len(session.content) > 1000 and "content-encoding" not in session.headers


# --- connections ---------------------------------------------------------------------------------------


class Thing:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_pool_lends_to_one_at_a_time_and_drops_what_failed() -> None:
    pool = Pool(Thing)
    with pool.lend() as one, pool.lend() as two:
        assert one is not two
    with pool.lend() as three:
        assert three in (one, two)
    with pytest.raises(RuntimeError), pool.lend() as four:
        raise RuntimeError
    assert four.closed
    with pool.lend() as five:
        pool.close()
    assert five.closed


def test_a_pool_keeps_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "KEPT", 1)
    pool = Pool(Thing)
    with pool.lend() as one, pool.lend() as two:
        pass
    assert [one.closed, two.closed].count(True) == 1


def test_a_reader_reads_one_snapshot_and_cannot_write(kit: ServeKit) -> None:
    with kit.context.stores.reading() as reader:
        before = reader.execute("SELECT count(*) FROM segments").fetchone()
        kit.ingest("car-1")
        assert reader.execute("SELECT count(*) FROM segments").fetchone() == before
    with kit.context.stores.reading() as reader:
        assert reader.execute("SELECT count(*) FROM segments").fetchone()[0] == before[0] + 1
    with pytest.raises(StoreReadOnly), kit.context.stores.reading() as reader:
        reader.execute("DELETE FROM segments")


def test_a_failed_write_is_undone_and_a_locked_database_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 0.05)
    serve = ServeDb(tmp_path / "serve.db")
    with pytest.raises(RuntimeError), serve.transaction() as rows:
        accounts.add(rows, accounts.NewAccount(TENANT, "x", "technician"), 1)
        raise RuntimeError
    with serve.reading() as rows:
        assert not accounts.any_account(rows)
    with serve.transaction(), pytest.raises(StoreBusy), serve.transaction():
        pass
    with pytest.raises(StoreError), serve.reading() as rows:
        rows.execute("SELECT * FROM nothing")
    assert oct((tmp_path / "serve.db").stat().st_mode & 0o777) == "0o600"
    with serve.reading() as rows:
        assert rows.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert rows.execute("PRAGMA synchronous").fetchone() == (2,)
    serve.close()


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    ServeDb(tmp_path / "serve.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "serve.db")) as rows:
        rows.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (b"99",))
        rows.commit()
    with pytest.raises(StoreError, match="schema b'99'"):
        ServeDb(tmp_path / "serve.db")
    (tmp_path / "no.db").write_bytes(b"not a database, but long enough to be one" * 40)
    with pytest.raises(StoreError):
        ServeDb(tmp_path / "no.db")
    with pytest.raises(StoreReadOnly):
        ServeDb(tmp_path / "missing" / "serve.db")
    with pytest.raises(NotFound), StorePool(tmp_path / "store.db").reading():
        pass


def test_times_are_said_with_milliseconds() -> None:
    assert deps.iso(1_796_100_000_007) == "2026-12-01T04:40:00.007Z"
    assert deps.iso(0) == "1970-01-01T00:00:00.000Z"


# --- background tasks ----------------------------------------------------------------------------------


def test_a_background_task_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(app, "RESTART_S", 0.0)
    runs: list[int] = []

    async def breaks() -> None:
        runs.append(1)
        if len(runs) == 3:
            raise asyncio.CancelledError
        raise RuntimeError("broken")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(app._kept_running("breaks", breaks))
    assert len(runs) == 3


# --- holdfast serve ------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Kit:
    """A collector's folder whose collector has run once."""
    made = make_kit(tmp_path / "lab", ["car-1"])
    with made.collector():
        pass
    return made


@contextlib.contextmanager
def serving(config: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`holdfast serve` until the block ends; the process and its first line."""
    process = command(config, *options)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def command(config: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cloud_sync", "serve", "--config", str(config), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refused(config: Path, *options: str) -> tuple[int, str]:
    process = command(config, *options)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_from_the_first_start_to_an_orderly_end(tmp_path: Path, lab: Kit) -> None:
    config = write_serve_config(tmp_path, lab)
    with serving(config, "--json") as (process, first):
        assert first["ready"] is True and first["url"] == f"http://127.0.0.1:{first['port']}"
        assert str(first["link"]).startswith(f"{first['url']}/#/enter/")
        token = str(first["link"]).rpartition("/")[2]
        with httpx.Client(base_url=first["url"], trust_env=False, timeout=30) as client:
            assert client.get("/api/v1/entry").json()["first"] is True
            body = {"token": token, "name": "chief", "password": GOOD}
            entered = client.post("/api/v1/enter", json=body)
            assert entered.status_code == 200 and entered.json()["tenant"] == TENANT
            assert "server" not in entered.headers
            with client.stream("GET", "/api/v1/live") as stream:  # an open stream does not hold the end up
                assert stream.status_code == 200
                next(stream.iter_raw())
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        assert process.stderr is not None
        assert token not in process.stderr.read()
    with serving(config) as (process, second):
        assert "link" not in second
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_link_that_was_not_used_is_replaced_at_the_next_start(tmp_path: Path, lab: Kit) -> None:
    config = write_serve_config(tmp_path, lab)
    links = []
    for _ in range(2):
        with serving(config) as (_, line):
            links.append(str(line["link"]).rpartition("/")[2])
    serve = ServeDb(tmp_path / "serve.db")
    with serve.reading() as rows:
        alive = [accounts.link_target(rows, token, deps.Context.real_ms()) for token in links]
    serve.close()
    assert alive == [None, (TENANT, None)]


def test_exit_codes(tmp_path: Path, lab: Kit) -> None:
    code, said = refused(tmp_path / "nowhere.toml")
    assert (code, "nowhere.toml" in said) == (2, True)
    code, said = refused(write_serve_config(tmp_path, lab, "[sesion]\n"))
    assert (code, "did you mean session?" in said) == (2, True)
    code, said = refused(write_serve_config(tmp_path, lab, serve='host = "0.0.0.0"'))
    assert (code, "in clear text" in said) == (2, True)
    smtp = '[smtp]\nhost = "mail.example"\nfrom = "a@b"\nuser = "u"\npassword_file = "missing"'
    code, said = refused(write_serve_config(tmp_path, lab, smtp))
    assert (code, "secret" in said) == (2, True)
    code, said = refused(write_serve_config(tmp_path, lab), "--tenant", "x")
    assert (code, "--new-link" in said) == (2, True)
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        text = f'[serve]\ncollector = "{lab.config_path}"\nport = {port}\n'
        (tmp_path / "taken.toml").write_text(text, "utf-8")
        code, said = refused(tmp_path / "taken.toml")
    assert (code, "is taken" in said) == (1, True)
    lab.config.store.unlink()
    code, said = refused(write_serve_config(tmp_path, lab))
    assert (code, "has the collector run" in said) == (1, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_13(tmp_path: Path, lab: Kit) -> None:
    config = write_serve_config(tmp_path, lab)
    tmp_path.chmod(0o500)
    try:
        assert refused(config)[0] == 13
    finally:
        tmp_path.chmod(0o700)


def test_a_missing_folder_for_serve_db_is_13(tmp_path: Path, lab: Kit) -> None:
    code, said = refused(write_serve_config(tmp_path, lab, serve='store = "missing/serve.db"'))
    assert (code, "owner, mode and mount" in said) == (13, True)


def test_a_new_link_at_the_server_itself(tmp_path: Path, lab: Kit) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f'[serve]\ncollector = "{lab.config_path}"\nport = 8480\n', "utf-8")

    def link(*options: str) -> dict[str, str]:
        process = command(config, "--json", *options)
        said, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        value: dict[str, str] = json.loads(said)
        return value

    first = link("--new-link", "chief")
    assert (first["account"], first["tenant"]) == ("chief", TENANT)  # the first account is made so, too
    assert first["link"].startswith("http://127.0.0.1:8480/#/enter/")
    assert link("--new-link", "CHIEF")["account"] == "chief"
    assert link("--new-link", "boss", "--tenant", OTHER)["tenant"] == OTHER
    code, said = refused(config, "--new-link", "nobody")
    assert (code, "check the name" in said) == (1, True)
    code, said = refused(config, "--new-link", "x", "--tenant", "Not A Tenant")
    assert (code, "not a tenant" in said) == (2, True)
    serve = ServeDb(tmp_path / "serve.db")
    with serve.transaction() as rows:
        rows.execute("UPDATE accounts SET disabled = 1 WHERE name = 'boss'")
    serve.close()
    code, said = refused(config, "--new-link", "boss")
    assert (code, "disabled" in said) == (1, True)


def test_the_kits_server_serves_streams_and_ends(kit: ServeKit) -> None:
    with kit.server() as url:
        cookie = {"Cookie": f"{kit.context.cookie}={kit.session()}"}
        with httpx.Client(base_url=url, headers=cookie, trust_env=False, timeout=30) as client:
            assert client.get("/api/v1/session").status_code == 200
            with client.stream("GET", "/api/v1/live") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert stream.headers["x-content-type-options"] == "nosniff"
                assert b"hello" in next(stream.iter_raw())
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("uvicorn")]


def test_a_connection_that_says_nothing_is_ended(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "HEAD_S", 0.2)
    with kit.server() as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\nHost: 127")
            assert silent.recv(100) == b""
