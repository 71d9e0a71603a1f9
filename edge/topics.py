"""MQTT topics, and who may use which: the same rules for every broker, by certified identity.

    hf/1/<tenant>/<device>/seg     up: one signed segment a message
    hf/1/<tenant>/<device>/rcpt    down: one receipt a message

QoS 1 both ways, MQTT 3.1.1. A device reaches its own two topics and nothing else; a collector takes in the
segments of its tenant (the one of tenant `cloud` of all) and answers with receipts.
"""

from __future__ import annotations

from typing import Final

from edge.errors import FormatError
from provisioning.errors import IdentityError
from provisioning.identity import CLOUD, Identity

COLLECT_FILTER: Final = "hf/1/+/+/seg"
"""What a collector subscribes to; the broker delivers what its tenant allows."""
_PREFIX: Final = "hf/1/"
_SEGMENT: Final = "seg"
_RECEIPT: Final = "rcpt"
_LEVELS: Final = 5


def seg_topic(tenant: str, device: str) -> str:
    """Where `device` publishes its segments. Raises IdentityError for names outside of the grammar."""
    Identity(tenant, device)
    return f"{_PREFIX}{tenant}/{device}/{_SEGMENT}"


def receipt_topic(tenant: str, device: str) -> str:
    """Where `device` hears its receipts. Raises IdentityError for names outside of the grammar."""
    Identity(tenant, device)
    return f"{_PREFIX}{tenant}/{device}/{_RECEIPT}"


def parse_seg_topic(topic: str) -> tuple[str, str]:
    """Tenant and device of a segment's topic. Raises FormatError."""
    return _parse(topic, _SEGMENT)


def parse_receipt_topic(topic: str) -> tuple[str, str]:
    """Tenant and device of a receipt's topic. Raises FormatError."""
    return _parse(topic, _RECEIPT)


def may_publish(identity: Identity, topic: str) -> bool:
    """Whether `identity` may publish to `topic`."""
    try:
        if identity.is_collector:
            tenant, _ = parse_receipt_topic(topic)
            return identity.tenant in (CLOUD, tenant)
        return parse_seg_topic(topic) == (identity.tenant, identity.device)
    except FormatError:
        return False


def may_receive(identity: Identity, topic: str) -> bool:
    """Whether a message on `topic` may be delivered to `identity`, whatever it subscribed to."""
    try:
        if identity.is_collector:
            tenant, _ = parse_seg_topic(topic)
            return identity.tenant in (CLOUD, tenant)
        return parse_receipt_topic(topic) == (identity.tenant, identity.device)
    except FormatError:
        return False


def may_subscribe(identity: Identity, topic_filter: str) -> bool:
    """Whether `identity` may subscribe to `topic_filter`; compared whole, so that no wildcard slips in.

    A tenant's collector may use COLLECT_FILTER; `may_receive` keeps the other tenants' segments from it.
    """
    if identity.is_collector:
        return topic_filter in (COLLECT_FILTER, f"{_PREFIX}{identity.tenant}/+/{_SEGMENT}") or may_receive(
            identity, topic_filter
        )
    return topic_filter == receipt_topic(identity.tenant, identity.device)


def _parse(topic: str, last: str) -> tuple[str, str]:
    levels = topic.split("/")
    if len(levels) != _LEVELS or not topic.startswith(_PREFIX) or levels[-1] != last:
        raise FormatError(f"topic {topic!r:.120} is not {_PREFIX}<tenant>/<device>/{last}")
    try:
        identity = Identity(levels[2], levels[3])
    except IdentityError as error:
        raise FormatError(f"topic {topic!r:.120}: {error}") from error
    return identity.tenant, identity.device
