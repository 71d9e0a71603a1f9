"""A LoRaWAN server near a roadside node as a source of readings: ChirpStack's MQTT events.

The broker is a local one that the configuration names, usually on 127.0.0.1. `port = 8883` means TLS with the
node's own keys.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiomqtt

from edge.config import ChirpStack, Config
from edge.errors import ConfigError
from edge.reconnect import Reconnects
from edge.runtime.load import open_clock
from edge.runtime.mqtt_tls import client_context
from firmware_bridge.reading import PortCondition, PortState, Reading, Refusal
from firmware_bridge.runtime.clock import Clock
from firmware_bridge.sensors.chirpstack import ChirpStackDecoder

PORT: Final = "chirpstack"
"""Name of this source in readings and status."""
TLS_PORT: Final = 8883
CALL_TIMEOUT_S: Final = 10.0
Deliver = Callable[[list[Reading | Refusal]], None]


async def run(config: Config, deliver: Deliver) -> None:
    """Subscribe, deliver, and connect again, until cancelled. Returns at once where there is no [chirpstack].

    A server that cannot be reached is a `PortState`, told once when it begins and once when it ends.
    """
    if config.chirpstack is None:
        return
    clock = open_clock(config)
    reconnects, told = Reconnects(), ""
    loop = asyncio.get_running_loop()

    def tell(condition: PortCondition, detail: str) -> None:
        nonlocal told
        if told != condition.value:
            told = condition.value
            deliver([PortState(clock.mono_ns(), PORT, condition, detail)])

    while True:
        began: float | None = None
        try:
            async with _client(config, config.chirpstack) as client:
                began = loop.time()
                await client.subscribe(config.chirpstack.topic, qos=0)
                tell(PortCondition.OK, f"subscribed to {config.chirpstack.topic}")
                await _receive(client, clock, deliver)
        except (aiomqtt.MqttError, ConfigError, OSError) as error:
            where = f"{config.chirpstack.host}:{config.chirpstack.port}"
            tell(PortCondition.ABSENT, f"no ChirpStack broker at {where}: {error}")
        jitter = random.random()
        lived = None if began is None else loop.time() - began
        await asyncio.sleep(reconnects.refused(jitter) if lived is None else reconnects.ended(lived, jitter))


def _client(config: Config, server: ChirpStack) -> aiomqtt.Client:
    tls = client_context(Path(config.path("keys")), None) if server.port == TLS_PORT else None
    return aiomqtt.Client(server.host, server.port, timeout=CALL_TIMEOUT_S, tls_context=tls)


async def _receive(client: aiomqtt.Client, clock: Clock, deliver: Deliver) -> None:
    decoder = ChirpStackDecoder(PORT)
    async for message in client.messages:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        deliver(decoder.feed(str(message.topic), payload, clock.mono_ns()))
