from __future__ import annotations

import pytest

from firmware_bridge.reading import PortCondition
from models.ports import MAX_PORTS, Ports


@pytest.mark.parametrize(
    ("condition", "fault"),
    [
        (PortCondition.OK, False),
        (PortCondition.NO_BYTES, False),
        (PortCondition.ABSENT, True),
        (PortCondition.NO_SENTENCE, True),
    ],
)
def test_which_conditions_are_faults(condition: PortCondition, fault: bool) -> None:
    ports = Ports()
    ports.condition("a", condition, 0, 0.0)
    assert ports.any_fault() is fault
    ports.heard("a", 1, 1.0)
    assert not ports.any_fault()


def test_a_condition_is_not_a_word_of_the_port() -> None:
    ports = Ports()
    port = ports.heard("a", 1, 1.0)
    ports.condition("a", PortCondition.NO_BYTES, 9, 9.0)
    assert port is not None and port.heard_watch_s == 1.0


def test_names_cannot_fill_the_memory() -> None:
    ports = Ports()
    kept = [ports.heard(str(n), n, float(n)) for n in range(1000)]
    assert sum(port is not None for port in kept) == MAX_PORTS
    ports.condition("another", PortCondition.ABSENT, 0, 0.0)
    assert not ports.any_fault()
