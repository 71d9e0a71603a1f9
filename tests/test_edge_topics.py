from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import topics
from edge.errors import FormatError
from provisioning.errors import IdentityError
from provisioning.identity import Identity

CAR, OTHER = Identity("fund", "car-1"), Identity("fund", "car-2")
COLLECTOR, CLOUD = Identity("fund", "collector"), Identity("cloud", "collector")
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(NAMES, NAMES)
def test_topics_round_trip(tenant: str, device: str) -> None:
    assert topics.parse_seg_topic(topics.seg_topic(tenant, device)) == (tenant, device)
    assert topics.parse_receipt_topic(topics.receipt_topic(tenant, device)) == (tenant, device)


@pytest.mark.parametrize(
    "name", ["", "A", "+", "#", "a/b", "-a", "a" * 64, "a b", "ä", "a\n", "a.b", "a:b", "a\x00", "²"]
)
def test_names_outside_of_the_grammar_make_no_topic(name: str) -> None:
    for make in (topics.seg_topic, topics.receipt_topic):
        with pytest.raises(IdentityError):
            make(name, "car-1")
        with pytest.raises(IdentityError):
            make("fund", name)


@pytest.mark.parametrize(
    "topic",
    [
        "", "hf", "hf/1/fund/car-1", "hf/1/fund/car-1/seg/", "hf/1/fund/car-1/rcpt", "hf/2/fund/car-1/seg",
        "/hf/1/fund/car-1/seg", "hf/1/+/car-1/seg", "hf/1/fund/#", "hf/1//car-1/seg", "hf/1/fund/CAR/seg",
        "hf/1/fund/car-1/seg\n", "hf/1/fund/car-1/SEG", "xhf/1/fund/car-1/seg", "hf/11/fund/car-1/seg",
    ],
)  # fmt: skip
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(FormatError):
        topics.parse_seg_topic(topic)


def test_a_device_reaches_its_own_two_topics() -> None:
    own_up, own_down = topics.seg_topic("fund", "car-1"), topics.receipt_topic("fund", "car-1")
    assert topics.may_publish(CAR, own_up)
    assert topics.may_subscribe(CAR, own_down)
    assert topics.may_receive(CAR, own_down)
    assert not topics.may_publish(CAR, own_down), "a receipt is not a device's to send"
    assert not topics.may_subscribe(CAR, own_up)
    for other in (topics.seg_topic("fund", "car-2"), topics.seg_topic("bank", "car-1"), "$SYS/x", "x"):
        assert not topics.may_publish(CAR, other)


@pytest.mark.parametrize(
    "wide",
    ["#", "+/#", "hf/#", "hf/1/#", "hf/1/fund/#", "hf/1/fund/+/rcpt", "hf/1/+/car-1/rcpt",
     "hf/1/fund/car-1/+", "hf/1/fund/car-1/#", "hf/1/fund/car-1/rcpt/#",
     "$share/g/hf/1/fund/car-1/rcpt", "hf/1/fund/car-2/rcpt",
     topics.COLLECT_FILTER],
)  # fmt: skip
def test_a_device_cannot_widen_its_filter(wide: str) -> None:
    assert not topics.may_subscribe(CAR, wide)
    assert not topics.may_receive(CAR, wide)


def test_a_collector_serves_its_tenant_and_that_of_the_cloud_all() -> None:
    for collector in (COLLECTOR, CLOUD):
        assert topics.may_subscribe(collector, topics.COLLECT_FILTER)
        assert topics.may_publish(collector, topics.receipt_topic("fund", "car-1"))
        assert topics.may_receive(collector, topics.seg_topic("fund", "car-1"))
        assert not topics.may_publish(collector, topics.seg_topic("fund", "car-1"))
        for wide in ("#", "hf/1/#", "hf/1/+/#", "hf/1/+/+/+", "hf/1/+/+/rcpt"):
            assert not topics.may_subscribe(collector, wide)
    assert topics.may_subscribe(COLLECTOR, "hf/1/fund/+/seg")
    assert not topics.may_subscribe(COLLECTOR, "hf/1/bank/+/seg")
    assert not topics.may_publish(COLLECTOR, topics.receipt_topic("bank", "car-1"))
    assert not topics.may_receive(COLLECTOR, topics.seg_topic("bank", "car-1"))
    assert topics.may_receive(CLOUD, topics.seg_topic("bank", "car-1"))


@given(st.text(max_size=80))
def test_no_text_is_allowed_by_accident(text: str) -> None:
    for identity in (CAR, OTHER, COLLECTOR, CLOUD):
        if topics.may_publish(identity, text):
            parts = text.split("/")
            assert len(parts) == 5 and "+" not in text and "#" not in text
