"""Tests for the composition of services: frozen values, none of which holds it all."""

import asyncio
import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.app.live_settings import LiveSettings
from modelyard.app.services import Services
from modelyard.base.errors import ConfigError
from modelyard.base.settings import Settings


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Modelyard]:
    new_yard = Modelyard(Settings(home=str(tmp_path)), environ={})
    yield new_yard
    asyncio.run(new_yard.aclose())


def test_every_service_group_is_frozen(yard: Modelyard):
    services = yard.services
    rooms = [getattr(services, field.name) for field in dataclasses.fields(services)]
    values = [room for room in (services, *rooms) if dataclasses.is_dataclass(room)]
    assert len(values) > 8
    for value in values:
        first = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, first, None)


def test_no_component_holds_all_services(yard: Modelyard):
    gateway = gateway_for(yard.services)
    holders = [
        holder for holder in gc.get_referrers(yard.services) if not _is_a_frame(holder)
    ]
    closing = [
        holder
        for holder in holders
        if getattr(holder, "__func__", None) is Services.aclose
    ]
    facade = (yard, yard.__dict__)
    unexpected_holders = [
        holder
        for holder in holders
        if holder not in closing and not any(holder is owner for owner in facade)
    ]
    assert unexpected_holders == []
    assert len(closing) == 1  # `aclose` of the server's shutdown
    assert gateway.router.apis


def _is_a_frame(holder: Any) -> bool:
    return type(holder).__name__ in ("frame", "cell") or isinstance(holder, list)


def test_the_facade_is_thin():
    methods = [
        name
        for name, member in vars(Modelyard).items()
        if callable(member) or isinstance(member, property)
    ]
    assert len(methods) <= 25


def test_settings_listeners_are_called_in_registration_order(tmp_path: Path):
    live_settings = LiveSettings(Settings(home=str(tmp_path)))
    received: list[tuple[str, int]] = []
    live_settings.on_change(lambda settings: received.append(("first", settings.port)))
    live_settings.follow(lambda settings: received.append(("second", settings.port)))
    live_settings.replace(msgspec.structs.replace(live_settings.current, port=9))
    assert received == [("second", 8790), ("first", 9), ("second", 9)]
    assert live_settings.current.port == 9


def test_invalid_settings_change_nothing(yard: Modelyard):
    previous_settings = yard.settings
    rules = yard.services.network.egress.rules
    circle = {"openai/a": ["openai/b"], "openai/b": ["openai/a"]}
    changed = msgspec.structs.replace(
        previous_settings,
        failover=circle,
        egress=msgspec.structs.replace(previous_settings.egress, ports=[1]),
    )
    with pytest.raises(ConfigError, match="cycle"):
        yard.reload(changed)
    assert yard.settings is previous_settings
    assert yard.services.network.egress.rules == rules


def test_valid_settings_reach_every_service(yard: Modelyard):
    previous_settings = yard.settings
    yard.reload(msgspec.structs.replace(
        previous_settings,
        egress=msgspec.structs.replace(previous_settings.egress, ports=[1]),
        limits={"few": {"unit": "requests", "amount": 1}},
        queue=msgspec.structs.replace(previous_settings.queue, capacity=7),
    ))  # fmt: skip
    services = yard.services
    assert services.network.egress.rules.ports == {1}
    assert services.calls.queue.capacity == 7
    assert [limit.name for limit, _ in _limits(yard)] == ["few"]


def _limits(yard: Modelyard) -> list[Any]:
    from modelyard.tenancy.resource_types import Limit

    return list(yard.services.tenancy.directory.of("default", Limit))
