"""Pass every spelling of an internal address to every feature that accepts an address.

Run with `unshare -n`, in the network of `hostile_urls`: every internal address answers
with a canary there, and name resolution is scripted.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import ModelType
from modelyard.people.oidc import Oidc
from modelyard.tenancy.caller import Caller
from modelyard.tools.api import ApiTool, Auth, Tokens
from modelyard.tools.entities import ToolContext
from modelyard.tools.openapi import Operation
from modelyard.workflow.nodes.http_request import HttpRequestData, HttpRequestNode
from modelyard.workflow.variables import File, VariablePool
from tools.show.hostile_urls import (
    CASES,
    connects,
    install_scripted_resolver,
    publics,
    set_up,
)

TENANT = "acme"
LEGITIMATE = "http://public.test/"
Feature = Callable[[str], Awaitable[Any]]


def features(yard: Modelyard) -> dict[str, Feature]:
    """Return feature name → a function that uses an address and returns the answer as a
    tenant would see it."""
    return {
        **_provider_features(yard),
        **_tool_features(yard),
        **_document_features(yard),
        **_other_features(yard),
    }


def _provider_features(yard: Modelyard) -> dict[str, Feature]:
    check = yard.services.checks.credentials
    account = _account()

    async def chat(url: str) -> str:
        """Call a model with a credential of the tenant."""
        values = {"base_url": url, "api_key": "sk"}
        callee: Any = yard.services.providers.manager.factory.get_model(
            "openai_api_compatible", ModelType.LLM
        )
        chunks = callee.invoke("m", values, _HI)
        return "".join([str(chunk) async for chunk in chunks])

    async def token(url: str) -> Any:
        """Request an OAuth token with a service account whose token address is `url`."""
        key = json.dumps({**account, "token_uri": url})
        callee: Any = yard.services.providers.manager.factory.get_model(
            "vertex_ai", ModelType.LLM
        )
        return await callee.endpoint.auth.headers(
            "POST", url, {"service_account_key": key}, []
        )

    return {
        "provider: check of a form": lambda url: check(
            TENANT, "openai_api_compatible", {"base_url": url}
        ),
        "provider: an address in ollama's form": lambda url: check(
            TENANT, "ollama", {"base_url": url}
        ),
        "provider: an address under another name": lambda url: check(
            TENANT, "azure_openai", {"endpoint": url, "api_key": "sk"}
        ),
        "provider: chat": chat,
        "provider: a stored credential": lambda url: _call_with_stored(yard, url),
        "provider: a service account's token address": token,
    }


_HI = LLMRequest(messages=[UserPromptMessage(content="hi")])


async def _call_with_stored(yard: Modelyard, url: str) -> str:
    """Store a credential as the tenant's administrator and call a model with it.

    The credential belongs to a tenant, not to the operator: its addresses are not
    trusted.
    """
    admin, caller = yard.services.tenancy.administration, Caller(tenant=TENANT)
    credential = {
        "provider": "openai_api_compatible",
        "values": {"base_url": url, "api_key": "sk"},
    }
    created = await admin.create(caller, TENANT, "credential", "own", credential)
    try:
        model = yard.services.calls.models.find(
            TENANT, "openai_api_compatible/m", ModelType.LLM
        )
        return str(await model.invoke_llm(_HI))
    finally:
        await admin.remove(caller, TENANT, "credential", created["id"])


def _tool_features(yard: Modelyard) -> dict[str, Feature]:
    providers, egress = yard.services.tools.providers, yard.services.network.egress

    async def api(url: str) -> Any:
        """Call an API tool whose server address was entered manually."""
        operation = Operation(name="look", method="GET", path="")
        tool = ApiTool(
            operation,
            provider="x",
            server=url,
            auth=Auth(),
            egress=egress,
            tokens=Tokens(egress),
            tenant=TENANT,
        )
        return [output async for output in tool.invoke({}, ToolContext(tenant=TENANT))]

    async def described(url: str) -> Any:
        """Add an API tool whose description names `url` as its server, and call it."""
        # The description itself is passed as text, so that only its server address is
        # fetched.
        document = {
            "openapi": "3.0.0",
            "info": {"title": "x", "version": "1"},
            "servers": [{"url": url}],
            "paths": {"/": {"get": {"operationId": "look", "responses": {}}}},
        }
        await providers.add_api(TENANT, "described", json.dumps(document))
        return await _call_tool(yard, "described/look", {})

    return {
        "API tool: its description": lambda url: providers.add_api(
            TENANT, "api", url=url
        ),
        "API tool: a server chosen by hand": api,
        "API tool: the server of its description": described,
        "API tool: its token address": lambda url: Tokens(egress).get(
            Auth(type="oauth2", user="a", value="b", token_url=url),
            tenant=TENANT,
            row="1",
        ),
        "MCP server": lambda url: providers.add_mcp(TENANT, "mcp", url=url),
        "API extension": lambda url: providers.extensions.add(
            TENANT, "extension", url, "key"
        ),
        "tool http_request": lambda url: _call_tool(
            yard, "http/http_request", {"url": url}
        ),
        "tool http_request: POST": lambda url: _call_tool(
            yard, "http/http_request", {"url": url, "method": "POST", "body": "x"}
        ),
        "tool webscraper": lambda url: _call_tool(
            yard, "webscraper/webscraper", {"url": url}
        ),
    }


async def _call_tool(yard: Modelyard, name: str, arguments: dict[str, Any]) -> Any:
    """Call a tool as the agent does and return the text that the model would see."""
    tool = await yard.tools.get_by_name(TENANT, name)
    observation = await yard.tools.observe(
        tool, tool.name, json.dumps(arguments), ToolContext(tenant=TENANT)
    )
    return observation.text


def _document_features(yard: Modelyard) -> dict[str, Feature]:
    knowledge = yard.knowledge
    gatherer, external = knowledge.gatherer, knowledge.external

    async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
        """Return all documents of an asynchronous stream as a list."""
        return [document async for document in stream]

    async def query_external(url: str) -> Any:
        """Add an external knowledge API, query it and delete it again."""
        row = await external.add(TENANT, "elsewhere", url, "key")
        settings = SimpleNamespace(
            external_knowledge_api_id=row, external_knowledge_id="1"
        )
        dataset: Any = SimpleNamespace(tenant=TENANT, settings=settings)
        # Remove the API in any case, because its name is used again for the next
        # address.
        try:
            return await external.retrieve(dataset, "what?", 3, 0.0, None)
        finally:
            await external.delete(TENANT, row)

    return {
        "dataset: a page": lambda url: gatherer._reader.fetch(url),  # pyright: ignore[reportPrivateUsage]
        "dataset: a site": lambda url: all_of(gatherer.pages(url, max_pages=3)),
        "dataset: a sitemap": lambda url: all_of(gatherer.sitemap(url)),
        "dataset: a feed": lambda url: all_of(gatherer.feed(url)),
        "dataset: values of an API": lambda url: all_of(gatherer.values(url, "$")),
        "external knowledge": query_external,
    }


def _other_features(yard: Modelyard) -> dict[str, Feature]:
    # The issuer is fixed. Only the endpoint addresses that it publishes vary.
    oidc = Oidc(
        yard.services.network.egress,
        yard.services.clock,
        issuer="http://issuer.example",
        client_id="a",
        client_secret="b",
    )

    async def node(url: str) -> Any:
        """Run an HTTP request node of a workflow."""
        http_node = HttpRequestNode("get", HttpRequestData(url=url))
        services = SimpleNamespace(http=yard.services.network.egress, files=None)
        context: Any = SimpleNamespace(
            pool=VariablePool(), services=services, idempotency_key="k"
        )
        return await http_node.run(context)

    files = yard.services.workflows.files(TENANT)
    market = yard.services.plugins.market
    return {
        "workflow: HTTP node": node,
        "workflow: a file by its address": lambda url: files.read(
            File(type="document", transfer_method="remote_url", remote_url=url)
        ),
        "plugins: a package by its address": market.github,
        "plugins: what a market's index names": lambda url: market.download(
            url, operators="http://market.example"
        ),
        "sign-in: what an issuer's description names": lambda url: oidc._ask(  # pyright: ignore[reportPrivateUsage]
            "POST", url, b"client_secret=b"
        ),
    }


def _account() -> dict[str, str]:
    """Return a service account with a new RSA key."""
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {"client_email": "a@b.example", "private_key": pem.decode()}


async def try_feature(feature: Feature) -> dict[str, Any]:
    """Try all addresses through one feature, twice each, because a name may resolve to
    another address the second time.

    Returns the addresses that were reached, unhandled errors, the number of internal
    connects, and whether the public address was reached.
    """
    reached: list[str] = []
    unhandled: list[str] = []
    connects_before = len(connects)
    for url in CASES:
        for _ in range(2):
            # A blocked address is an error at once. The timeout ends features that
            # hang.
            try:
                async with asyncio.timeout(20):
                    outcome = repr(await feature(url))
            except ModelyardError as error:
                outcome = str(error)
            except Exception as error:  # noqa: BLE001
                outcome = f"{type(error).__name__}: {error}"
                unhandled.append(f"{url}: {outcome[:200]}")
            # The canary in a result or an error means that an internal response leaked.
            if "canary" in outcome:
                reached.append(url)
    publics_before = len(publics)
    with suppress(
        ModelyardError
    ):  # it says hello, which is no description, market or model
        await feature(LEGITIMATE)
    return {
        "reached": reached,
        "unhandled": unhandled,
        "connects": len(connects) - connects_before,
        "public": len(publics) > publics_before,
    }


async def world(home: str) -> dict[str, Any]:
    """Start Modelyard without local models and try all features."""
    settings = msgspec.convert(
        # No retries: each address is tried exactly as often as the loop says.
        {
            "home": home,
            "local": {"enabled": False},
            "plugins": {"debug_port": 0},
            "retries": 0,
        },
        Settings,
    )
    yard = Modelyard(settings, environ={})
    try:
        await yard.open()
        await yard.services.tenancy.administration.create(
            Caller(tenant="default"), "default", "tenant", TENANT, {}
        )
        return {
            name: await try_feature(feature) for name, feature in features(yard).items()
        }
    finally:
        await yard.aclose()


def main() -> int:
    """Set up the network and print the report as JSON."""
    set_up()
    install_scripted_resolver()
    with tempfile.TemporaryDirectory(prefix="modelyard-egress-") as home:
        print(json.dumps(asyncio.run(world(str(Path(home))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
