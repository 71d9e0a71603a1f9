"""Accounts, logins, one-time links, sessions and API tokens: who may enter, and who may not any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from cloudkit import TENANT
from serve_kit import OTHER, PASSWORD, ServeKit, kit, quick_passwords
from starlette.testclient import TestClient

from cloud_sync.errors import BadRequest, Conflict, NotFound, StoreBusy
from cloud_sync.runtime.serve import accounts, attempts, sessions
from cloud_sync.runtime.serve.accounts import (
    MAX_WAITING,
    NewAccount,
    name_key,
    weakness,
)
from cloud_sync.runtime.serve.attempts import ADDRESS_FREE, NAME_FREE, network_of
from cloud_sync.runtime.serve.config import SessionLimits
from cloud_sync.runtime.serve.db import ServeDb
from cloud_sync.runtime.serve.deps import Context

__all__ = ["kit"]

GOOD = "correct horse battery staple"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Moves real time on, in seconds."""
    now = [Context.real_ms()]
    monkeypatch.setattr(Context, "real_ms", staticmethod(lambda: now[0]))

    def move(seconds: int) -> None:
        now[0] += seconds * 1000

    return move


def login(client: TestClient, name: str, password: str = PASSWORD) -> int:
    answer = client.post("/api/v1/session", json={"name": name, "password": password})
    if answer.status_code == 200:
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
    return answer.status_code


def manager(kit: ServeKit) -> TestClient:
    return kit.client("operator")


def made(kit: ServeKit, name: str, role: str = "operator", **more: object) -> dict[str, object]:
    answer = manager(kit).post("/api/v1/accounts", json={"name": name, "role": role, **more})
    assert answer.status_code == 201, answer.text
    value: dict[str, object] = answer.json()
    return value


def token_of(link: object) -> str:
    return str(link).rpartition("/")[2]


# --- login ---------------------------------------------------------------------------------------------


def test_a_login_gives_a_session_and_its_token(kit: ServeKit) -> None:
    client = kit.anonymous()
    assert client.get("/api/v1/session").status_code == 401
    answer = client.post("/api/v1/session", json={"name": " Operator ", "password": PASSWORD})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["tenant"], said["account"]["name"], said["account"]["role"]) == (
        TENANT,
        "operator",
        "operator",
    )
    assert "manage" in said["scopes"] and said["clocks"] == ["live"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert client.get("/api/v1/session").json()["csrf"] == said["csrf"]
    assert PASSWORD not in answer.text and cookie.partition("=")[2].partition(";")[0] not in answer.text


def test_wrong_name_wrong_password_and_disabled_say_the_same(kit: ServeKit) -> None:
    manager(kit).patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'auditor']}", json={"disabled": True})
    answers = []
    for name, password in (("operator", "wrong password"), ("nobody", PASSWORD), ("auditor", PASSWORD)):
        answers.append(kit.anonymous().post("/api/v1/session", json={"name": name, "password": password}))
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["code"] == "login_failed"


def test_an_unknown_name_costs_a_hash_as_well(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str | None] = []
    real = kit.context.passwords.verify
    monkeypatch.setattr(
        type(kit.context.passwords), "verify", lambda self, s, p: (checked.append(s), real(s, p))[1]
    )
    login(kit.anonymous(), "nobody")
    login(kit.anonymous(), "operator", "wrong password")
    assert len(checked) == 2 and checked[0] is None and checked[1] is not None
    assert kit.context.passwords._nobody.split("$")[:4] == str(checked[1]).split("$")[:4]


def test_the_tenant_may_be_typed_before_a_shared_name(kit: ServeKit) -> None:
    client = kit.anonymous()
    assert login(client, f"{OTHER}/operator") == 200
    assert client.get("/api/v1/session").json()["tenant"] == OTHER
    assert login(kit.anonymous(), "nowhere/operator") == 401


def test_many_wrong_passwords_make_the_name_wait(kit: ServeKit, later: Callable[[int], None]) -> None:
    client = kit.anonymous()
    assert [login(client, "operator", "wrong") for _ in range(NAME_FREE)] == [401] * NAME_FREE
    answer = client.post("/api/v1/session", json={"name": "operator", "password": PASSWORD})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert "operator" not in answer.text and answer.json()["code"] == "too_often"
    assert login(kit.anonymous(), "auditor") == 200  # others are not concerned
    waits = []
    for _ in range(4):
        later(int(answer.headers["retry-after"]))
        assert login(client, "operator", "wrong") == 401
        answer = client.post("/api/v1/session", json={"name": "OPERATOR", "password": PASSWORD})
        waits.append(int(answer.headers["retry-after"]))
    assert waits == [2, 4, 8, 16]
    later(16)
    assert login(client, "operator") == 200
    assert login(client, "operator", "wrong") == 401  # and it begins anew
    assert login(client, "operator") == 200


def test_the_longest_wait_of_a_name_is_bounded(kit: ServeKit) -> None:
    with kit.context.db.transaction() as db:
        for n in range(40):
            attempts.begin_attempt(db, "victim", f"10.0.0.{n}", n * 10**6)
        wait_s = attempts.begin_attempt(db, "victim", "10.0.1.1", 39 * 10**6 + 1)
    assert wait_s == attempts.NAME_LONGEST_S


def test_an_address_waits_whatever_names_it_tries(kit: ServeKit, later: Callable[[int], None]) -> None:
    client = kit.anonymous()
    assert [login(client, f"name{n}", "wrong") for n in range(ADDRESS_FREE)] == [401] * ADDRESS_FREE
    assert login(client, "operator") == 429
    later(1)
    assert login(client, "operator") == 200


def test_attempts_outlive_a_restart(kit: ServeKit) -> None:
    client = kit.anonymous()
    for _ in range(NAME_FREE + 1):
        login(client, "operator", "wrong")
    again = ServeDb(kit.context.config.store)
    with again.transaction() as db:
        assert attempts.begin_attempt(db, "operator", "10.9.9.9", Context.real_ms()) > 0
    again.close()


def test_attempts_are_counted_before_the_password_is_checked(
    kit: ServeKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred at once gain nothing: only NAME_FREE of them reach the hash."""
    checked: list[str] = []
    monkeypatch.setattr(
        type(kit.context.passwords), "verify", lambda self, s, p: (checked.append(p), False)[1]
    )
    clients = [kit.anonymous() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda client: login(client, "operator", "wrong"), clients))
    assert len(checked) == NAME_FREE
    assert sorted(set(codes)) == [401, 429]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"), ("testclient", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_what_one_attacker_has(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_full_queue_of_passwords_is_said(kit: ServeKit) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_WAITING):
            stack.enter_context(kit.context.passwords.place())
        with pytest.raises(StoreBusy), kit.context.passwords.place():
            pass
        answer = kit.anonymous().post("/api/v1/session", json={"name": "operator", "password": PASSWORD})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert login(kit.anonymous(), "operator") == 200


def test_older_hashes_are_renewed_at_login(kit: ServeKit) -> None:
    from argon2 import PasswordHasher

    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    with kit.context.db.transaction() as db:
        db.execute("UPDATE accounts SET password = ? WHERE id = ?", (old, kit.accounts[TENANT, "operator"]))
    assert login(kit.anonymous(), "operator") == 200
    with kit.context.db.reading() as db:
        _, stored = accounts.by_login(db, "operator")
    assert stored != old and kit.context.passwords.verify(stored, PASSWORD)


def test_the_parameters_are_those_of_rfc_9106() -> None:
    from argon2 import PasswordHasher, Type

    hasher = PasswordHasher()
    assert (hasher.type, hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (Type.ID, 65536, 3, 4)


def test_a_password_typed_on_another_keyboard_is_the_same() -> None:
    passwords = quick_passwords()
    stored = passwords.hash("Zu\u0308richsee 2026!")
    assert passwords.verify(stored, "Z\u00fcrichsee 2026!")
    assert not passwords.verify(None, "Z\u00fcrichsee 2026!")
    assert not passwords.verify("not a hash", "x")
    passwords.close()


@pytest.mark.parametrize("password", ["aaaaaaaaaaaaaaaa", "my name is operator", "HoldFast forever", "short"])
def test_weak_passwords(password: str) -> None:
    assert weakness(password, "operator")


def test_good_passwords() -> None:
    assert weakness(GOOD, "operator") is None
    assert weakness("\u62bc\u54c1\u8f66\u8f86\u5b89\u5168\u7ba1\u7406\u7cfb\u7edf\u4e8c\u96f6", "li") is None


def test_names_are_the_same_however_they_are_typed() -> None:
    assert name_key("  Ａlice ") == name_key("ALICE") == "alice"
    assert name_key("Straße") == name_key("STRASSE")


# --- sessions ------------------------------------------------------------------------------------------


def test_logout_ends_the_session_on_the_server(kit: ServeKit) -> None:
    client = kit.client()
    stolen = client.cookies.get(kit.context.cookie)
    assert client.delete("/api/v1/session").status_code == 204
    thief = kit.anonymous()
    thief.cookies.set(kit.context.cookie, str(stolen), domain="127.0.0.1", path="/")
    answer = thief.get("/api/v1/session")
    assert answer.status_code == 401 and "ended" in answer.json()["detail"]


def test_a_session_that_the_browser_brought_becomes_no_login(kit: ServeKit) -> None:
    """Session fixation: the login makes a new token, and the old session ends."""
    brought = kit.client("partner").cookies.get(kit.context.cookie)
    chosen = {"Cookie": f"{kit.context.cookie}={'x' * 43}"}
    body = {"name": "operator", "password": PASSWORD}
    answer = kit.anonymous().post("/api/v1/session", json=body, headers=chosen)
    assert answer.status_code == 200 and "x" * 43 not in answer.headers["set-cookie"]
    assert kit.anonymous().get("/api/v1/session", headers=chosen).status_code == 401
    second = kit.anonymous()
    second.cookies.set(kit.context.cookie, str(brought), domain="127.0.0.1", path="/")
    assert second.get("/api/v1/session").status_code == 200
    assert login(second, "operator") == 200
    with kit.context.db.reading() as db:
        limits = kit.context.config.session
        assert sessions.find_session(db, str(brought), limits, kit.context.real_ms()) is None


def test_an_idle_session_ends_and_one_in_use_ends_at_the_end_of_its_life(kit: ServeKit) -> None:
    limits = SessionLimits(idle_s=100, life_s=250)
    with kit.context.db.transaction() as db:
        number = kit.accounts[TENANT, "operator"]
        token = sessions.open_session(db, TENANT, number, 0)
        assert sessions.find_session(db, token, limits, 99_000) is not None
        assert sessions.find_session(db, token, limits, 100_000) is None
        sessions.touch_session(db, token, number, 90_000)
        sessions.touch_session(db, token, number, 180_000)
        assert sessions.find_session(db, token, limits, 249_000) is not None
        assert sessions.find_session(db, token, limits, 250_000) is None
        assert sessions.sweep(db, limits, 250_000) == 1


def test_being_seen_is_noted_once_a_minute(kit: ServeKit, later: Callable[[int], None]) -> None:
    client = kit.client("auditor")

    def seen() -> object:
        rows = manager(kit).get("/api/v1/accounts").json()["items"]
        return next(row["last_seen"] for row in rows if row["name"] == "auditor")

    first = seen()
    later(30)
    client.get("/api/v1/session")
    assert seen() == first
    later(31)
    client.get("/api/v1/session")
    assert seen() != first


def test_only_the_newest_sessions_of_an_account_live(kit: ServeKit) -> None:
    number = kit.accounts[TENANT, "operator"]
    with kit.context.db.transaction() as db:
        made = [sessions.open_session(db, TENANT, number, n + 1) for n in range(sessions.MAX_SESSIONS + 1)]
        limits = SessionLimits()
        assert sessions.find_session(db, made[0], limits, 100) is None
        assert sessions.find_session(db, made[1], limits, 100) is not None


def test_a_new_password_ends_every_session_but_gives_this_one_a_new_token(kit: ServeKit) -> None:
    here, elsewhere = kit.client(), kit.client()
    before = here.cookies.get(kit.context.cookie)
    wrong = here.post("/api/v1/session/password", json={"old": "wrong", "new": GOOD})
    assert wrong.status_code == 401
    weak = here.post("/api/v1/session/password", json={"old": PASSWORD, "new": "aaaaaaaaaaaaaaa"})
    assert weak.status_code == 422 and weak.json()["code"] == "weak_password"
    assert elsewhere.get("/api/v1/session").status_code == 200
    done = here.post("/api/v1/session/password", json={"old": PASSWORD, "new": GOOD})
    assert done.status_code == 200
    assert elsewhere.get("/api/v1/session").status_code == 401
    old = kit.anonymous()
    old.cookies.set(kit.context.cookie, str(before), domain="127.0.0.1", path="/")
    assert old.get("/api/v1/session").status_code == 401
    assert login(kit.anonymous(), "operator") == 401
    assert login(kit.anonymous(), "operator", GOOD) == 200


def test_the_language_is_ones_own(kit: ServeKit) -> None:
    client = kit.client("partner")
    assert client.patch("/api/v1/session", json={"language": "zh"}).json()["account"]["language"] == "zh"
    assert client.get("/api/v1/session").json()["account"]["language"] == "zh"
    assert client.patch("/api/v1/session", json={"language": "xx"}).status_code == 422


# --- one-time links ------------------------------------------------------------------------------------


def test_an_account_is_made_and_entered_once(kit: ServeKit) -> None:
    value = made(kit, "anna", "auditor", branches=["north"], language="zh", email="anna@fund.example")
    assert str(value["link"]).startswith("http://127.0.0.1:8480/#/enter/")
    assert login(kit.anonymous(), "anna", "anything at all") == 401
    body = {"token": token_of(value["link"]), "password": GOOD}
    weak = kit.anonymous().post("/api/v1/enter", json=body | {"password": "anna anna anna"})
    assert weak.status_code == 422  # and the link lives on
    client = kit.anonymous()
    entered = client.post("/api/v1/enter", json=body)
    assert entered.status_code == 200
    assert entered.json()["account"]["name"] == "anna" and entered.json()["account"]["branches"] == ["north"]
    assert client.get("/api/v1/session").status_code == 200
    again = kit.anonymous().post("/api/v1/enter", json=body)
    assert again.status_code == 410 and again.json()["code"] == "link_gone"
    assert login(kit.anonymous(), "anna", GOOD) == 200


def test_two_use_one_link_at_once_and_one_wins(kit: ServeKit) -> None:
    token = token_of(made(kit, "anna")["link"])
    clients, gate = [kit.anonymous() for _ in range(4)], threading.Barrier(4)

    def use(number: int) -> int:
        gate.wait()
        body = {"token": token, "password": f"{GOOD} {number}"}
        return clients[number].post("/api/v1/enter", json=body).status_code

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(use, range(4)))
    assert sorted(codes) == [200, 410, 410, 410]
    assert login(kit.anonymous(), "anna", f"{GOOD} {codes.index(200)}") == 200


def test_a_link_is_too_old_after_two_days(kit: ServeKit, later: Callable[[int], None]) -> None:
    token = token_of(made(kit, "anna")["link"])
    later(48 * 3600 - 1)
    with kit.context.db.reading() as db:
        assert accounts.link_target(db, token, Context.real_ms()) is not None
    later(1)
    assert kit.anonymous().post("/api/v1/enter", json={"token": token, "password": GOOD}).status_code == 410


def test_a_new_link_ends_the_older_one(kit: ServeKit) -> None:
    value = made(kit, "anna")
    number = value["account"]["id"]  # type: ignore[index]
    newer = manager(kit).patch(f"/api/v1/accounts/{number}", json={"new_link": True}).json()["link"]
    first = kit.anonymous().post("/api/v1/enter", json={"token": token_of(value["link"]), "password": GOOD})
    assert first.status_code == 410
    assert kit.anonymous().post("/api/v1/enter", json={"token": token_of(newer), "password": GOOD}).is_success


def test_links_and_tokens_are_stored_hashed(kit: ServeKit) -> None:
    link, api, session = token_of(made(kit, "anna")["link"]), kit.api_token(), kit.session()
    with kit.context.db.reading() as db:
        dump = "\n".join(db.iterdump())
    for secret in (link, api.rpartition("_")[2], session, PASSWORD):
        assert secret not in dump


def test_the_first_account_chooses_its_name_and_manages(kit: ServeKit) -> None:
    with kit.context.db.transaction() as db:
        for table in ("accounts", "sessions", "tokens"):
            db.execute(f"DELETE FROM {table}")
        token = accounts.make_link(db, TENANT, None, Context.real_ms())
    assert kit.anonymous().get("/api/v1/entry").json()["first"] is True
    nameless = kit.anonymous().post("/api/v1/enter", json={"token": token, "password": GOOD})
    assert nameless.status_code == 422 and nameless.json()["detail"].startswith("name:")
    for bad in ("../x", "<b>", "a/b", " "):
        answer = kit.anonymous().post("/api/v1/enter", json={"token": token, "name": bad, "password": GOOD})
        assert answer.status_code == 422
    body = {"token": token, "name": "Chef Müller", "password": GOOD}
    said = kit.anonymous().post("/api/v1/enter", json=body).json()
    assert (said["account"]["name"], said["account"]["manages"], said["tenant"]) == (
        "Chef Müller",
        True,
        TENANT,
    )
    assert kit.anonymous().get("/api/v1/entry").json()["first"] is False


def test_a_first_link_is_void_once_an_account_exists(kit: ServeKit) -> None:
    with kit.context.db.transaction() as db:
        token = accounts.make_link(db, TENANT, None, Context.real_ms())
    body = {"token": token, "name": "intruder", "password": GOOD}
    assert kit.anonymous().post("/api/v1/enter", json=body).status_code == 410


# --- managing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["auditor", "technician", "partner"])
def test_only_who_manages_sees_and_makes_accounts(kit: ServeKit, role: str) -> None:
    client = kit.client(role)
    for answer in (
        client.get("/api/v1/accounts"),
        client.post("/api/v1/accounts", json={"name": "x", "role": "operator"}),
        client.patch("/api/v1/accounts/1", json={"role": "operator"}),
    ):
        assert answer.status_code == 403
        assert answer.json()["code"] == "scope_missing" and "manage" in answer.json()["detail"]


def test_accounts_of_another_tenant_do_not_exist(kit: ServeKit) -> None:
    stranger = kit.client("operator", OTHER)
    ours = kit.accounts[TENANT, "auditor"]
    assert stranger.patch(f"/api/v1/accounts/{ours}", json={"disabled": True}).status_code == 404
    listed = stranger.get("/api/v1/accounts").json()["items"]
    assert {row["id"] for row in listed} == {n for (tenant, _), n in kit.accounts.items() if tenant == OTHER}
    assert login(kit.anonymous(), "auditor") == 200


def test_a_taken_name_is_refused_and_another_tenants_is_not_told(kit: ServeKit) -> None:
    again = manager(kit).post("/api/v1/accounts", json={"name": "AUDITOR", "role": "auditor"})
    assert again.status_code == 409 and again.json()["code"] == "name_taken"
    made(kit, "hans")
    elsewhere = kit.client("operator", OTHER).post(
        "/api/v1/accounts", json={"name": "hans", "role": "auditor"}
    )
    assert elsewhere.status_code == 201


def test_html_in_a_name_comes_back_as_text_or_not_at_all(kit: ServeKit) -> None:
    name = "<img src=x onerror=alert(1)>"
    refused = manager(kit).post("/api/v1/accounts", json={"name": name, "role": "auditor"})
    assert refused.status_code == 422 and "onerror" not in refused.text
    with kit.context.db.transaction() as db:
        accounts.add(db, NewAccount(TENANT, name, "auditor"), 1)
    listed = manager(kit).get("/api/v1/accounts")
    assert name in [row["name"] for row in listed.json()["items"]]
    assert listed.headers["content-type"] == "application/json"
    assert listed.headers["x-content-type-options"] == "nosniff"


def test_disabled_means_at_once(kit: ServeKit) -> None:
    victim, api = kit.client("auditor"), kit.token_client("auditor")
    assert victim.get("/api/v1/session").status_code == api.get("/api/v1/session").status_code == 200
    number = kit.accounts[TENANT, "auditor"]
    link = manager(kit).patch(f"/api/v1/accounts/{number}", json={"new_link": True}).json()["link"]
    assert manager(kit).patch(f"/api/v1/accounts/{number}", json={"disabled": True}).status_code == 200
    assert victim.get("/api/v1/session").status_code == api.get("/api/v1/session").status_code == 401
    entered = kit.anonymous().post("/api/v1/enter", json={"token": token_of(link), "password": GOOD})
    assert entered.status_code == 410
    both = manager(kit).patch(f"/api/v1/accounts/{number}", json={"new_link": True})
    assert both.status_code == 400
    assert manager(kit).patch(f"/api/v1/accounts/{number}", json={"disabled": False}).status_code == 200
    assert login(kit.anonymous(), "auditor") == 200
    assert victim.get("/api/v1/session").status_code == api.get("/api/v1/session").status_code == 401


def test_less_role_means_less_at_once_for_sessions_and_tokens(kit: ServeKit) -> None:
    made(kit, "anna")
    with kit.context.db.reading() as db:
        row, _ = accounts.by_login(db, "anna")
    assert row is not None
    kit.accounts[TENANT, "anna"] = row.id
    client, api = kit.client("anna"), kit.token_client("anna")
    for one in (client, api):
        assert "write:incidents" in one.get("/api/v1/session").json()["scopes"]
    manager(kit).patch(f"/api/v1/accounts/{row.id}", json={"role": "technician"})
    for one in (client, api):
        assert one.get("/api/v1/session").json()["scopes"] == ["read:fleet", "read:log"]


def test_the_last_manager_stays(kit: ServeKit) -> None:
    own = kit.accounts[TENANT, "operator"]
    for change in ({"disabled": True}, {"manages": False}):
        answer = manager(kit).patch(f"/api/v1/accounts/{own}", json=change)
        assert answer.status_code == 400 and "last account that manages" in answer.json()["detail"]
    made(kit, "second", manages=True)
    assert manager(kit).patch(f"/api/v1/accounts/{own}", json={"manages": False}).status_code == 200


@pytest.mark.parametrize("role", ["technician", "partner"])
def test_some_roles_never_manage(kit: ServeKit, role: str) -> None:
    body = {"name": "x1", "role": role, "manages": True}
    assert manager(kit).post("/api/v1/accounts", json=body).status_code == 400
    number = kit.accounts[TENANT, role]
    assert manager(kit).patch(f"/api/v1/accounts/{number}", json={"manages": True}).status_code == 400


def test_who_is_confined_to_branches_gives_nobody_more(kit: ServeKit) -> None:
    with kit.context.db.transaction() as db:
        new = NewAccount(TENANT, "north", "operator", True, ("north",))
        kit.accounts[TENANT, "north"] = accounts.add(db, new, 1)
    client = kit.client("north")
    for branches in ([], ["south"], ["north", "south"]):
        answer = client.post("/api/v1/accounts", json={"name": "n1", "role": "partner", "branches": branches})
        assert answer.status_code == 403 and answer.json()["code"] == "denied"
    own = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'north']}", json={"branches": []})
    assert own.status_code == 403
    others = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'operator']}", json={"new_link": True})
    assert others.status_code == 403  # a link of one who sees everything would be that
    good = client.post("/api/v1/accounts", json={"name": "n2", "role": "partner", "branches": ["north"]})
    assert good.status_code == 201


@pytest.mark.parametrize("email", ["no address", "a@b\r\nBcc: x@y", "@x", "x@"])
def test_an_email_must_be_one(kit: ServeKit, email: str) -> None:
    body = {"name": "anna", "role": "auditor", "email": email}
    assert manager(kit).post("/api/v1/accounts", json=body).status_code == 422


def test_changes_stand_in_the_audit(kit: ServeKit) -> None:
    made(kit, "anna")
    login(kit.anonymous(), "auditor", "wrong")
    login(kit.anonymous(), "auditor")
    rows = kit.client("auditor").get("/api/v1/audit").json()["items"]
    seen = {(row["account"], row["action"]) for row in rows}
    assert {("operator", "account_made"), ("auditor", "login_failed"), ("auditor", "login")} <= seen


def test_a_tenant_has_a_bounded_number_of_accounts(kit: ServeKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 4)
    with pytest.raises(BadRequest), kit.context.db.transaction() as db:
        accounts.add(db, NewAccount(TENANT, "one more", "auditor"), 1)


def test_accounts_by_the_module_alone(kit: ServeKit) -> None:
    with pytest.raises(Conflict), kit.context.db.transaction() as db:
        accounts.add(db, NewAccount(TENANT, "operator", "auditor"), 1)
    with pytest.raises(NotFound), kit.context.db.reading() as db:
        accounts.find(db, OTHER, kit.accounts[TENANT, "operator"])
    with pytest.raises(ValueError, match="password"), kit.context.db.transaction() as db:
        accounts.update(db, TENANT, 1, {"password": "x"})


# --- API tokens ----------------------------------------------------------------------------------------


def test_a_token_has_some_scopes_and_needs_no_csrf(kit: ServeKit) -> None:
    client = kit.client("operator")
    answer = client.post(
        "/api/v1/tokens", json={"name": "ci", "scopes": ["read:fleet", "manage"], "days": 30}
    )
    assert answer.status_code == 201
    value = answer.json()
    assert value["secret"].startswith(f"hft_{value['token']['id']}_")
    program = kit.anonymous()
    program.headers["Authorization"] = f"Bearer {value['secret']}"
    said = program.get("/api/v1/session").json()
    assert said["scopes"] == ["read:fleet", "manage"] and said["csrf"] == ""
    assert program.get("/api/v1/incidents").status_code == 403
    assert program.post("/api/v1/accounts", json={"name": "bot", "role": "technician"}).status_code == 201
    listed = client.get("/api/v1/tokens")
    assert value["secret"] not in listed.text
    assert [row["last_used"] is not None for row in listed.json()["items"]] == [True]


def test_a_token_cannot_have_more_than_its_account(kit: ServeKit) -> None:
    body = {"name": "x", "scopes": ["read:fleet", "read:exact"], "days": 1}
    answer = kit.client("auditor").post("/api/v1/tokens", json=body)
    assert answer.status_code == 403 and "read:exact" in answer.json()["detail"]


def test_a_token_makes_no_tokens_and_sets_no_password(kit: ServeKit) -> None:
    program = kit.token_client("operator")
    body = {"name": "x", "scopes": ["read:fleet"], "days": 1}
    assert program.post("/api/v1/tokens", json=body).status_code == 403
    change = {"old": PASSWORD, "new": GOOD}
    assert program.post("/api/v1/session/password", json=change).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "Bearer", "Bearer ", "Bearer hft_", "Bearer hft_0000000000000000_" + "a" * 43, "Basic b3A6cHc=",
        "Bearer " + "x" * 5000, "Bearer hft_\u00e9", "hft_x", "Bearer hft_00000000_" + "a" * 43 + "\t",
    ],
)  # fmt: skip
def test_wrong_tokens(kit: ServeKit, header: str) -> None:
    client = kit.client()  # its good cookie does not help
    answer = client.get("/api/v1/session", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "not_logged_in"


def test_the_secret_must_fit_the_id(kit: ServeKit) -> None:
    first, second = kit.api_token("operator"), kit.api_token("partner")
    mixed = f"{first.rpartition('_')[0]}_{second[-43:]}"
    assert (
        kit.anonymous().get("/api/v1/session", headers={"Authorization": f"Bearer {mixed}"}).status_code
        == 401
    )


def test_an_expired_token_is_dead(kit: ServeKit, later: Callable[[int], None]) -> None:
    program = kit.token_client("operator")
    later(86_399)
    assert program.get("/api/v1/session").status_code == 200
    later(1)
    assert program.get("/api/v1/session").status_code == 401


def test_who_sees_and_ends_whose_tokens(kit: ServeKit) -> None:
    kit.api_token("auditor")
    kit.api_token("partner")
    kit.api_token("partner", OTHER)
    auditor = kit.client("auditor")
    own = auditor.get("/api/v1/tokens").json()["items"]
    assert [row["account"] for row in own] == ["auditor"]
    all_ours = manager(kit).get("/api/v1/tokens").json()["items"]
    assert sorted(row["account"] for row in all_ours) == ["auditor", "partner"]
    partners = next(row["id"] for row in all_ours if row["account"] == "partner")
    assert auditor.delete(f"/api/v1/tokens/{partners}").status_code == 404
    assert kit.client("operator", OTHER).delete(f"/api/v1/tokens/{partners}").status_code == 404
    assert auditor.delete(f"/api/v1/tokens/{own[0]['id']}").status_code == 204
    assert manager(kit).delete(f"/api/v1/tokens/{partners}").status_code == 204
    assert manager(kit).delete("/api/v1/tokens/not-an-id").status_code == 422
    assert manager(kit).get("/api/v1/tokens").json()["items"] == []


# --- confined to branches --------------------------------------------------------------------------------


def test_a_confined_manager_takes_over_nobody(kit: ServeKit) -> None:
    """Not an account that sees more, not one of another branch, not by giving it the own branches first."""
    client = kit.confined("north", ("north",))
    kit.confined("south", ("south",))
    kit.confined("both", ("north", "south"))
    for name in ("operator", "auditor", "south", "both"):
        number = kit.accounts[TENANT, name]
        for change in (
            {"new_link": True},
            {"branches": ["north"], "new_link": True},
            {"branches": ["north"]},
            {"disabled": True},
            {"role": "auditor"},
            {"email": "thief@fund.example"},
            {},
        ):
            answer = client.patch(f"/api/v1/accounts/{number}", json=change)
            assert answer.status_code == 403 and answer.json()["code"] == "denied", (name, change)
            assert "link" not in answer.json()
        with kit.context.db.reading() as db:
            assert accounts.find(db, TENANT, number).email is None
            assert not accounts.find(db, TENANT, number).disabled
    kit.confined("colleague", ("north",), manages=False)
    theirs = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'colleague']}", json={"new_link": True})
    assert theirs.status_code == 200 and theirs.json()["link"]


def test_a_confined_manager_sees_the_accounts_and_tokens_of_the_own_branches(kit: ServeKit) -> None:
    client = kit.confined("north", ("north", "coast"))
    kit.confined("colleague", ("coast",))
    kit.confined("south", ("south",))
    kit.confined("both", ("north", "south"))
    for name in ("operator", "south", "both", "colleague", "north"):
        kit.api_token(name)
    listed = {row["name"] for row in client.get("/api/v1/accounts").json()["items"]}
    assert listed == {"north", "colleague"}
    tokens_of = {row["account"] for row in client.get("/api/v1/tokens").json()["items"]}
    assert tokens_of == {"north", "colleague"}
    everything = manager(kit).get("/api/v1/tokens").json()["items"]
    assert {row["account"] for row in everything} == {"operator", "south", "both", "colleague", "north"}
    for row in everything:
        mine = row["account"] in ("north", "colleague")
        assert client.delete(f"/api/v1/tokens/{row['id']}").status_code == (204 if mine else 404)


def test_a_partner_never_sees_all(kit: ServeKit) -> None:
    client = manager(kit)
    without = client.post("/api/v1/accounts", json={"name": "p1", "role": "partner"})
    assert without.status_code == 400 and "never all" in without.json()["detail"]
    for change in ({"role": "partner"}, {"role": "partner", "branches": []}):
        answer = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'technician']}", json=change)
        assert answer.status_code == 400 and "never all" in answer.json()["detail"]
    emptied = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'partner']}", json={"branches": []})
    assert emptied.status_code == 400
    both = {"role": "partner", "branches": ["north"]}
    changed = client.patch(f"/api/v1/accounts/{kit.accounts[TENANT, 'technician']}", json=both)
    assert changed.status_code == 200


def test_a_partner_without_a_branch_in_an_older_database_sees_no_vehicle(kit: ServeKit) -> None:
    kit.branch("car-1", "north")
    incident = kit.incident("car-1")
    with kit.context.db.transaction() as db:
        accounts.update(db, TENANT, kit.accounts[TENANT, "partner"], {"branches": []})
    client = kit.client("partner")
    assert client.get("/api/v1/vehicles").json()["items"] == []
    assert client.get("/api/v1/incidents").json()["items"] == []
    assert client.get("/api/v1/vehicles/car-2").status_code == 404
    assert client.get(f"/api/v1/incidents/{incident}").status_code == 404
