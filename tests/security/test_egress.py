"""What tenants name is reached through the guard, whatever names it; what the operator names is reached as written."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tools.show.hostile_urls import CASES

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import CredentialSettings, EgressSettings, ProviderSettings
from modelyard.models.types import OperatorCredentials
from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer, json_answer
from tests.gateway.conftest import Running, start_gateway
from tests.gateway.test_traffic import Got, ask

__all__ = ["start_gateway"]
pytestmark = pytest.mark.anyio
Start = Callable[..., Running]
BOSS = "operator-key-1"
CANARY = "inside-canary-7c1f"


def inside(request: UpstreamRequest) -> Answer:
    """A server of the private network: says what nobody outside may read, as a word and as an API's error."""
    if request.path.endswith("/chat/completions") and request.key != "sk-right":
        return json_answer({"error": {"message": CANARY}}, status=401)
    if request.path.endswith("/models"):
        return json_answer({"object": "list", "data": [{"id": CANARY}]})
    return chat_answer(CANARY)


@pytest.fixture
def internal() -> Iterator[Upstream]:
    with Upstream(inside) as one:
        yield one


@pytest.fixture
def house(start_gateway: Start) -> tuple[Running, str]:
    """(a gateway with two tenants, the key of one's administrator)."""
    running = start_gateway(api_keys=[BOSS])
    return running, administrator(running, "acme")


def administrator(running: Running, tenant: str) -> str:
    assert ask(running, "POST", "/admin/v1/tenants", {"name": tenant}, key=BOSS).status == 201
    made = ask(running, "POST", f"/admin/v1/keys?tenant={tenant}", {"name": "admin", "role": "owner"}, key=BOSS)
    return made.json["key"]


def credential(provider: str, **values: Any) -> dict[str, Any]:
    return {"name": f"{provider}-own", "provider": provider, "values": values}


def call(running: Running, model: str, *, key: str) -> Got:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return ask(running, "POST", "/v1/chat/completions", body, key=key)


# ------------------------------------------------------------------------------------------------ model providers


@pytest.mark.parametrize("provider", ["openai_api_compatible", "ollama", "openai", "azure_openai", "anthropic"])
def test_a_tenants_provider_does_not_reach_the_private_network(
    house: tuple[Running, str], internal: Upstream, provider: str
):
    running, key = house
    field = "endpoint" if provider == "azure_openai" else "base_url"
    form = credential(provider, api_key="sk-right", **{field: internal.url})
    assert ask(running, "POST", "/admin/v1/credentials", form, key=key).status == 201
    answered = call(running, f"{provider}/m", key=key)
    assert (answered.status, answered.json["error"]["code"]) == (400, "egress_refused"), answered.body
    checked = ask(running, "POST", f"/admin/v1/providers/{provider}/check", {"values": form["values"]}, key=key)
    assert checked.json["works"] is False
    assert CANARY.encode() not in answered.body + checked.body
    assert internal.requests == []


def test_the_operators_word_for_a_tenant_is_the_operators(house: tuple[Running, str], internal: Upstream):
    running, key = house
    form = credential("openai_api_compatible", api_key="sk-right", base_url=internal.url)
    made = ask(running, "POST", "/admin/v1/credentials?tenant=acme", form, key=BOSS)
    assert made.json["set_by_operator"] is True
    assert call(running, "openai_api_compatible/m", key=key).json["choices"][0]["message"]["content"] == CANARY
    # What the tenant changes of it later is the tenant's; what it cannot have changed stays.
    row = f"/admin/v1/credentials/{made.json['id']}"
    assert ask(running, "PATCH", row, {"weight": 2.0}, key=key).json["set_by_operator"] is True
    assert call(running, "openai_api_compatible/m", key=key).status == 200
    assert ask(running, "PATCH", row, {"values": form["values"]}, key=key).json["set_by_operator"] is False
    assert call(running, "openai_api_compatible/m", key=key).json["error"]["code"] == "egress_refused"
    # The operator's touch of another field blesses nothing.
    assert ask(running, "PATCH", f"{row}?tenant=acme", {"weight": 1.0}, key=BOSS).json["set_by_operator"] is False
    refused = ask(running, "PATCH", row, {"set_by_operator": True}, key=key)
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")


def test_a_tenant_does_not_take_the_operators_form_to_another_provider(house: tuple[Running, str], internal: Upstream):
    running, key = house
    form = credential("openai_api_compatible", api_key="sk-right", base_url=internal.url)
    made = ask(running, "POST", "/admin/v1/credentials?tenant=acme", form, key=BOSS)
    row = f"/admin/v1/credentials/{made.json['id']}"
    assert ask(running, "PATCH", row, {"provider": "ollama"}, key=key).json["set_by_operator"] is False
    assert call(running, "ollama/m", key=key).json["error"]["code"] == "egress_refused"
    assert internal.requests == []


def test_the_operator_lists_what_tenants_may_reach(start_gateway: Start, internal: Upstream):
    place = internal.url.removeprefix("http://").removesuffix("/v1")
    running = start_gateway(api_keys=[BOSS], egress=EgressSettings(private=[place]))
    key = administrator(running, "acme")
    form = credential("openai_api_compatible", api_key="sk-right", base_url=internal.url)
    ask(running, "POST", "/admin/v1/credentials", form, key=key)
    assert call(running, "openai_api_compatible/m", key=key).status == 200


def test_a_laptops_own_server_works_by_console_settings_and_catalogue(start_gateway: Start, internal: Upstream):
    mine = ProviderSettings(name="my-vllm", base_url=internal.url, credentials=[CredentialSettings(values={})])
    running = start_gateway(providers=[mine, ProviderSettings(name="vllm", base_url=internal.url)])
    form = credential("openai_api_compatible", api_key="sk-right", base_url=internal.url)
    assert ask(running, "POST", "/admin/v1/credentials", form).status == 201
    check = ask(running, "POST", "/admin/v1/providers/openai_api_compatible/check", {"values": form["values"]})
    assert check.json["works"] is True
    assert call(running, "openai_api_compatible/m", key="").status == 200
    for name in ("my-vllm", "vllm"):  # asked, and refused by itself: it was reached
        assert call(running, f"{name}/m", key="").json["error"]["code"] == "upstream_authorization"


def test_an_operators_server_serves_tenants_that_bring_a_key_and_no_address(start_gateway: Start, internal: Upstream):
    running = start_gateway(api_keys=[BOSS], providers=[ProviderSettings(name="my-vllm", base_url=internal.url)])
    key = administrator(running, "acme")
    ask(running, "POST", "/admin/v1/credentials", credential("my-vllm", api_key="sk-right"), key=key)
    assert call(running, "my-vllm/m", key=key).status == 200
    # The same host under another path is the tenant's word.
    other = internal.url.removesuffix("/v1") + "/internal/v1"
    key = administrator(running, "globex")
    ask(running, "POST", "/admin/v1/credentials", credential("my-vllm", api_key="sk-right", base_url=other), key=key)
    assert call(running, "my-vllm/m", key=key).json["error"]["code"] == "egress_refused"


async def test_no_form_of_an_inner_address_is_reached_as_a_tenants_provider(echo_yard: Callable[..., Modelyard]):
    """Names of the cases do not exist here, and redirects and rebinding need a network: the proof `egress` has both."""
    forms = [one for one in CASES if "test" not in one]
    assert len(forms) > 60
    yard = echo_yard()
    try:
        for url in forms:
            with pytest.raises(ModelyardError):
                await yard.check_credentials("default", "openai_api_compatible", {"base_url": url})
            assert not yard.guarded.connections
    finally:
        await yard.aclose()


def account(token_uri: str) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return json.dumps({"client_email": "a@b.example", "private_key": pem.decode(), "token_uri": token_uri})


def test_the_token_address_in_a_tenants_service_account_is_the_tenants_word(
    house: tuple[Running, str], internal: Upstream
):
    running, key = house
    values = {"service_account_key": account(f"{internal.url}/token"), "project_id": "p", "location": "us-central1"}
    made = ask(running, "POST", "/admin/v1/credentials", credential("vertex_ai", **values), key=key)
    assert made.status == 201, made.body
    answered = call(running, "vertex_ai/gemini-2.5-pro", key=key)
    assert answered.json["error"]["code"] == "egress_refused", answered.body
    assert internal.requests == []


async def test_clients_of_the_operator_and_of_tenants_share_no_connection(
    echo_yard: Callable[..., Modelyard], internal: Upstream
):
    yard = echo_yard()
    try:
        offered = await yard.check_credentials(
            "default", "openai_api_compatible", OperatorCredentials(base_url=internal.url)
        )
        assert offered == [CANARY]
        with pytest.raises(Exception, match="is no public address|must not be called"):
            await yard.check_credentials("default", "openai_api_compatible", {"base_url": internal.url})
        assert len(internal.requests) == 1
    finally:
        await yard.aclose()
