"""Claims of the pages that no other test checks: small behaviours, each tried."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from modelyard.app import Modelyard, maintenance
from modelyard.app.gateway import gateway_for
from modelyard.base import errors
from modelyard.base.errors import ConfigError
from modelyard.base.settings import (
    ConnectionSettings,
    CredentialSettings,
    EgressSettings,
    NetworkSettings,
    ProviderSettings,
    Settings,
)
from modelyard.cli import connection_limits
from modelyard.gateway.admin.inputs import ToolProviderInput
from modelyard.models.capabilities import Capabilities
from modelyard.providers.local.voices import PACKED_VOICES
from modelyard.runtime.load_balancing import LBModelManager
from modelyard.runtime.telemetry import OpenTelemetryCallback
from modelyard.storage import schema
from modelyard.storage.database import Database, migrations
from modelyard.testing import Handler, Upstream, chat_answer
from modelyard.wire import anthropic, openai_chat
from tests.docs.pages import ROOT
from tests.docs.test_facts import figures_in

ORIGIN = "http://127.0.0.1:8790"


def test_invoke_errors_have_the_five_types_of_dify():
    names = (
        "InvokeConnectionError", "InvokeServerUnavailableError", "InvokeRateLimitError",
        "InvokeAuthorizationError", "InvokeBadRequestError",
    )  # fmt: skip
    types = [getattr(errors, name) for name in names]
    assert all(issubclass(error_type, errors.InvokeError) for error_type in types)


def test_there_are_as_many_voices_as_the_page_says():
    ((english, chinese),) = figures_in(
        "docs/local-models.md", r"English \((\d+) voices\) and Chinese \((\d+) voices\)"
    )
    languages = [voice[0] for voice in PACKED_VOICES]
    counts = languages.count("a") + languages.count("b"), languages.count("z")
    assert counts == (int(english), int(chinese))


def test_a_cooldown_is_waited_for_as_long_as_the_page_says():
    (seconds,) = figures_in("docs/how-to/routes.md", r"`wait` \(up to (\d+) s\)")
    default = LBModelManager.__init__.__kwdefaults__["patience"]
    assert default == float(seconds)


def test_open_files_leave_as_many_connections_as_the_page_says():
    page = "docs/how-to/run-for-others.md"
    sentence = r"`ulimit -n (\d+)` leaves (\d+) connections"
    ((files, connections),) = figures_in(page, sentence)
    capacity = connection_limits.capacity_for(ConnectionSettings(), int(files))
    assert capacity.most == int(connections)
    (limit,) = figures_in(page, r"hard limit \(at most ([\d,]+)\)")
    assert int(limit.replace(",", "")) == connection_limits._MAX_FILES


def test_servers_look_for_changes_more_often_than_every_second():
    assert maintenance._REFRESH_SECONDS < 1


def test_checks_of_the_database_pause_fifty_times_as_long_as_they_take(
    monkeypatch: pytest.MonkeyPatch,
):
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    pauses: list[float] = []

    def check() -> None:
        clock.now += 4.0

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(maintenance.asyncio, "sleep", sleep)
    database: Any = SimpleNamespace(check=check)
    any_clock: Any = clock
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(maintenance.check_database_forever(database, any_clock))
    assert pauses == [200.0]


def test_an_upgrade_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x.db"
    Database(path).close()
    newest = migrations()[-1][0]
    broken = "CREATE TABLE half_done (id INTEGER);\nSELECT x FROM nowhere;\n"
    with monkeypatch.context() as patched:
        patched.setattr(
            schema, "migrations", lambda: [*migrations(), (newest + 1, broken)]
        )
        with pytest.raises(Exception, match="nowhere"):
            Database(path)
    database = Database(path)
    tables = database.read("SELECT name FROM sqlite_master WHERE type = 'table'")
    recorded = database.read("SELECT MAX(number) AS newest FROM migrations")
    database.close()
    assert "half_done" not in {row["name"] for row in tables}
    assert recorded[0]["newest"] == newest


class Spans:
    """Counts the spans that a callback exports."""

    def __init__(self, sample: float) -> None:
        self.count = 0
        self.callback = OpenTelemetryCallback(None, sample=sample)  # type: ignore[arg-type]
        self.callback._span = self._add  # type: ignore[method-assign]

    def _add(self, *_: object) -> None:
        self.count += 1


def test_failed_calls_are_traced_whatever_the_sample():
    spans = Spans(sample=0.0)
    invocation: Any = None
    for status in ("ok", "cancelled", "upstream_unavailable"):
        outcome: Any = SimpleNamespace(status=status)
        if status == "ok":
            spans.callback.on_after_invoke(invocation, outcome)
        else:
            spans.callback.on_invoke_error(invocation, ValueError(), outcome)
    assert spans.count == 1


def test_a_tenant_can_name_no_program():
    fields = {field.name for field in msgspec.structs.fields(ToolProviderInput)}
    assert "stdio" in fields  # the name of a program that the settings list
    assert not fields & {"command", "args", "arguments", "env", "program"}


def test_a_program_has_to_be_registered(settings: Settings):
    async def work() -> None:
        async with Modelyard(settings, environ={}) as yard:
            await yard.services.tools.providers.add_mcp("default", "x", stdio="/bin/sh")

    with pytest.raises(ConfigError, match="No program is registered as '/bin/sh'"):
        asyncio.run(work())


async def call(
    gateway: Any, method: str, path: str, document: Any = None
) -> httpx.Response:
    """Call a gateway as a program on this machine does."""
    transport = httpx.ASGITransport(gateway, client=("127.0.0.1", 9))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        return await client.request(method, path, json=document)


def test_every_route_answers_with_a_request_id(settings: Settings):
    async def work() -> None:
        async with Modelyard(settings, environ={}) as yard:
            gateway = gateway_for(yard.services)
            paths = {
                row.path for _, row in gateway.router.rows() if "{" not in row.path
            }
            assert len(paths) > 50
            for path in [*sorted(paths), "/nowhere"]:
                answer = await call(gateway, "OPTIONS", path)
                assert answer.headers["x-request-id"].startswith("req_"), path

    asyncio.run(work())


def test_mcp_offers_only_the_tools_in_its_address(settings: Settings):
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}

    async def names(gateway: Any, path: str) -> set[str]:
        answer = (await call(gateway, "POST", path, message)).json()
        return {tool["name"] for tool in answer["result"]["tools"]}

    async def work() -> None:
        async with Modelyard(settings, environ={}) as yard:
            gateway = gateway_for(yard.services)
            assert len(await names(gateway, "/mcp")) > 1
            assert await names(gateway, "/mcp?tools=calculate") == {"calculate"}

    asyncio.run(work())


def test_a_parameter_without_a_rule_is_sent_to_the_provider(
    settings: Settings, upstream: Callable[[Handler], Upstream]
):
    server = upstream(lambda request: chat_answer("Yes."))
    nimbus = ProviderSettings(
        path=str(ROOT / "tests" / "data" / "dify_nimbus"),
        base_url=server.url,
        credentials=[CredentialSettings(values={"api_key": "k"})],
    )
    changed = msgspec.structs.replace(settings, providers=[nimbus])

    async def work() -> None:
        async with Modelyard(changed, environ={}) as yard:
            await yard.chat("Is it so?", model="nimbus-large", seed=3)

    asyncio.run(work())
    assert server.requests[-1].json["seed"] == 3


def test_requests_to_addresses_of_users_pass_by_every_proxy(
    settings: Settings, upstream: Callable[[Handler], Upstream]
):
    server = upstream(lambda request: chat_answer("direct"))
    host = server.url.removeprefix("http://").removesuffix("/v1")
    changed = msgspec.structs.replace(
        settings,
        network=NetworkSettings(proxy="http://127.0.0.1:1"),
        egress=EgressSettings(private=[host]),
    )

    async def work() -> int:
        environ = {"HTTP_PROXY": "http://127.0.0.1:1"}
        async with Modelyard(changed, environ=environ) as yard:
            answer = await yard.services.network.egress.fetch("GET", server.url)
            return answer.status

    assert asyncio.run(work()) == 200


@pytest.mark.parametrize(("is_open", "status"), [(False, 401), (True, 200)])
def test_other_machines_reach_the_interface_for_plugins_only_where_it_is_open(
    settings: Settings, is_open: bool, status: int
):
    plugins = msgspec.structs.replace(settings.plugins, open_interface=is_open)
    changed = msgspec.structs.replace(settings, plugins=plugins)

    async def work() -> int:
        async with Modelyard(changed, environ={}) as yard:
            gateway: Any = gateway_for(yard.services)
            transport = httpx.ASGITransport(gateway, client=("192.0.2.7", 9))
            key = {"x-api-key": yard.services.plugins.key}
            async with httpx.AsyncClient(
                transport=transport, base_url=ORIGIN, headers=key
            ) as client:
                path = "/plugin/default/management/list?page=1&page_size=10"
                return (await client.get(path)).status_code

    assert asyncio.run(work()) == status


def test_the_name_of_a_removed_tenant_cannot_be_used_again(settings: Settings):
    async def work() -> list[int]:
        async with Modelyard(settings, environ={}) as yard:
            gateway = gateway_for(yard.services)
            tenants = "/admin/v1/tenants"
            answers = [
                await call(gateway, "POST", tenants, {"name": "acme"}),
                await call(gateway, "DELETE", f"{tenants}/acme"),
                await call(gateway, "POST", tenants, {"name": "acme"}),
            ]
            return [answer.status_code for answer in answers]

    created, removed, created_again = asyncio.run(work())
    assert (created, removed) == (201, 200)
    assert created_again >= 400


def test_a_field_of_one_format_is_left_out_of_others_and_counts_as_no_parameter():
    document = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "logit_bias": {"1": 2},
        "top_k": 5,
    }
    request = openai_chat.parse_request(document)
    assert request.model_parameters == {"top_k": 5}
    assert openai_chat.dump_request(request, "m", Capabilities())["logit_bias"] == {
        "1": 2
    }
    assert "logit_bias" not in anthropic.dump_request(request, "m", Capabilities())
