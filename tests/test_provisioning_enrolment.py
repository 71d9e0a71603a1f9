"""The state machine of enrolment: what the journal remembers, what may follow, which clocks are believed."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edge.config import parse
from provisioning import ca
from provisioning.ca import Validity
from provisioning.enrolment import (
    ORDER,
    Exit,
    Journal,
    Step,
    Wanted,
    check_clock,
    node_toml,
    settle,
    tenant_of,
)
from provisioning.errors import EnrolError
from provisioning.identity import Identity

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CAR = Identity("fund", "car-1")


def root(name: str = "fund root") -> x509.Certificate:
    validity = Validity(NOW - timedelta(days=1), NOW + timedelta(days=7300))
    return ca.make_root(name, ca.new_key(), validity).certificate


ROOT = root()
BEGUN = settle(None, Wanted("car-1", kind="roadside", server="https://ca:8443", claim="ab"), ROOT)


def refused(work: object, exit_code: Exit, *words: str) -> None:
    with pytest.raises(EnrolError) as caught:
        work()  # type: ignore[operator]
    assert caught.value.exit_code == exit_code
    for word in words:
        assert word in str(caught.value)


def test_the_steps_come_in_their_order() -> None:
    journal, seen = BEGUN, []
    while (step := journal.next_step) is not None:
        seen.append(step)
        journal = journal.after(step)
    assert tuple(seen) == ORDER and Step.VERIFY in journal.done


@given(st.sets(st.sampled_from(Step)), st.booleans(), st.booleans(), st.text(max_size=20))
def test_the_journal_comes_back_as_it_went(
    done: set[Step], exchanging: bool, due: bool, credentials: str
) -> None:
    journal = replace(
        BEGUN, done=frozenset(done), exchanging=exchanging, reload_due=due, credentials=credentials
    )
    assert Journal.from_json(journal.to_json()) == journal


@given(st.binary(max_size=300))
def test_any_bytes_are_a_journal_or_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(EnrolError, match="move it away"):
        Journal.from_json(data)


@pytest.mark.parametrize("name", list(json.loads(BEGUN.to_json())))
def test_a_journal_without_one_of_its_entries_is_refused(name: str) -> None:
    value = json.loads(BEGUN.to_json())
    del value[name]
    refused(lambda: Journal.from_json(json.dumps(value).encode()), Exit.USAGE, "move it away")


def test_the_tenant_is_the_roots() -> None:
    assert tenant_of(ROOT) == "fund" and BEGUN.identity == CAR and BEGUN.kind == "roadside"
    refused(lambda: tenant_of(root("something else")), Exit.USAGE, "--tenant")


@pytest.mark.parametrize(
    "device", ["a/b", "car+1", "car/#", "../../etc", "Car-1", "", "x" * 64, "-car", "car 1"]
)
def test_names_with_separators_wildcards_or_nothing_are_refused(device: str) -> None:
    refused(lambda: settle(None, Wanted(device), ROOT), Exit.USAGE)


def test_reserved_names_and_unknown_kinds_are_refused() -> None:
    refused(lambda: settle(None, Wanted("collector"), ROOT), Exit.USAGE, "reserved")
    refused(lambda: settle(None, Wanted("car-1", kind="boat"), ROOT), Exit.USAGE, "vehicle or roadside")


def test_until_a_certificate_came_everything_may_be_corrected() -> None:
    other = root()
    again = settle(BEGUN.after(Step.KEYS), Wanted("car-2", kind="vehicle", server="https://b:1"), other)
    assert again.identity.device == "car-2" and again.server == "https://b:1" and again.root != BEGUN.root
    assert Step.KEYS in again.done


def test_afterwards_name_and_root_stand() -> None:
    certified = BEGUN.after(Step.TLS)
    refused(lambda: settle(certified, Wanted("car-2"), ROOT), Exit.USAGE, "fund.car-1", "--state")
    refused(lambda: settle(certified, Wanted("car-1"), root()), Exit.UNVERIFIED, "nothing was sent")
    assert settle(certified, Wanted(), ROOT) == certified


def test_a_wrong_tenant_does_not_stay_and_one_that_is_certified_does() -> None:
    refused_one = settle(BEGUN, Wanted(tenant="other"), ROOT).after(Step.KEYS)
    assert refused_one.identity.tenant == "other"
    assert settle(refused_one, Wanted(), ROOT).identity == CAR
    certified = refused_one.after(Step.TLS)
    assert settle(certified, Wanted(), ROOT).identity.tenant == "other"


def test_credentials_stay_from_the_first_sealed_key_on() -> None:
    asked = settle(BEGUN, Wanted(credentials="/etc/creds"), ROOT)
    assert asked.credentials == "/etc/creds"
    assert settle(asked, Wanted(), ROOT).credentials == ""
    assert settle(asked, Wanted(), ROOT, sealed=True) == asked


@pytest.mark.parametrize("year", [1970, 2025, 2099, 2200])
def test_a_clock_that_cannot_be_right_is_refused(year: int) -> None:
    refused(
        lambda: check_clock(datetime(year, 1, 1, tzinfo=UTC)), Exit.UNVERIFIED, "set the clock", str(year)
    )


def test_a_clock_before_the_root_is_refused() -> None:
    check_clock(NOW, ROOT)
    refused(lambda: check_clock(NOW - timedelta(days=2), ROOT), Exit.UNVERIFIED, "set the clock", "root")
    refused(lambda: check_clock(NOW + timedelta(days=7301), ROOT), Exit.UNVERIFIED, "set the clock")


@pytest.mark.parametrize("uplink", [{}, {"host": 'br"oker', "port": 8883, "server_name": ""}])
def test_the_configuration_is_one_that_the_edge_reads(uplink: dict[str, object]) -> None:
    text = node_toml(CAR, "roadside", "/var/lib/hold\\fast", uplink)
    config = parse(text, base="/etc/holdfast")
    assert (config.node.tenant, config.node.device, config.node.kind) == ("fund", "car-1", "roadside")
    assert config.state_dir == "/var/lib/hold\\fast"
    assert (config.uplink is None) == (not uplink)
    if config.uplink is not None:
        assert config.uplink.server_name == config.uplink.host == tomllib.loads(text)["uplink"]["host"]
