"""Every feature that names an address, given every form of one that leads inside. Run within `unshare -n`, in the
network of `hostile_urls`: everything inside answers a canary there, and names are scripted."""

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
from tools.show.hostile_urls import CASES, connects, publics, scripted_names, set_up

TENANT = "acme"
LEGITIMATE = "http://public.test/"
Feature = Callable[[str], Awaitable[Any]]


def features(yard: Modelyard) -> dict[str, Feature]:
    """Name → what it does with an address; the answer, as far as a tenant would see it."""
    return {**_providers(yard), **_tools(yard), **_documents(yard), **_others(yard)}


def _providers(yard: Modelyard) -> dict[str, Feature]:
    check = yard.services.checks.credentials
    account = _account()

    async def chat(url: str) -> str:
        """As a call to a model with a stored credential of the tenant's."""
        values = {"base_url": url, "api_key": "sk"}
        callee: Any = yard.services.providers.manager.factory.get_model("openai_api_compatible", ModelType.LLM)
        request = LLMRequest(messages=[UserPromptMessage(content="hi")])
        return "".join([str(one) async for one in callee.invoke("m", values, request)])

    async def stored(url: str) -> str:
        """As an administrator of the tenant saves it, and somebody calls it."""
        boss = Caller(tenant=TENANT)
        given = {"provider": "openai_api_compatible", "values": {"base_url": url, "api_key": "sk"}}
        made = await yard.services.tenancy.administration.create(boss, TENANT, "credential", "own", given)
        try:
            model = yard.services.calls.models.find(TENANT, "openai_api_compatible/m", ModelType.LLM)
            return str(await model.invoke_llm(LLMRequest(messages=[UserPromptMessage(content="hi")])))
        finally:
            await yard.services.tenancy.administration.remove(boss, TENANT, "credential", made["id"])

    async def token(url: str) -> Any:
        key = json.dumps({**account, "token_uri": url})
        callee: Any = yard.services.providers.manager.factory.get_model("vertex_ai", ModelType.LLM)
        return await callee.endpoint.auth.headers("POST", url, {"service_account_key": key}, [])

    return {
        "provider: check of a form": lambda url: check(TENANT, "openai_api_compatible", {"base_url": url}),
        "provider: an address in ollama's form": lambda url: check(TENANT, "ollama", {"base_url": url}),
        "provider: an address under another name": lambda url: check(
            TENANT, "azure_openai", {"endpoint": url, "api_key": "sk"}
        ),
        "provider: chat": chat,
        "provider: a stored credential": stored,
        "provider: a service account's token address": token,
    }


def _tools(yard: Modelyard) -> dict[str, Feature]:
    providers, egress = yard.services.tools.providers, yard.services.network.egress

    async def api(url: str) -> Any:
        operation = Operation(name="look", method="GET", path="")
        tool = ApiTool(
            operation, provider="x", server=url, auth=Auth(), egress=egress, tokens=Tokens(egress), tenant=TENANT
        )
        return [one async for one in tool.invoke({}, ToolContext(tenant=TENANT))]

    async def described(url: str) -> Any:
        """A description, given as a text, whose server this is."""
        document = {"openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "servers": [{"url": url}],
                    "paths": {"/": {"get": {"operationId": "look", "responses": {}}}}}  # fmt: skip
        await providers.add_api(TENANT, "described", json.dumps(document))
        return await _called(yard, "described/look", {})

    return {
        "API tool: its description": lambda url: providers.add_api(TENANT, "api", url=url),
        "API tool: a server chosen by hand": api,
        "API tool: the server of its description": described,
        "API tool: its token address": lambda url: Tokens(egress).get(
            Auth(type="oauth2", user="a", value="b", token_url=url), tenant=TENANT, row="1"
        ),
        "MCP server": lambda url: providers.add_mcp(TENANT, "mcp", url=url),
        "API extension": lambda url: providers.extensions.add(TENANT, "extension", url, "key"),
        "tool http_request": lambda url: _called(yard, "http/http_request", {"url": url}),
        "tool http_request: POST": lambda url: _called(
            yard, "http/http_request", {"url": url, "method": "POST", "body": "x"}
        ),
        "tool webscraper": lambda url: _called(yard, "webscraper/webscraper", {"url": url}),
    }


async def _called(yard: Modelyard, name: str, arguments: dict[str, Any]) -> Any:
    tool = await yard.tools.named(TENANT, name)
    found = await yard.tools.observe(tool, tool.name, json.dumps(arguments), ToolContext(tenant=TENANT))
    return found.text


def _documents(yard: Modelyard) -> dict[str, Feature]:
    knowledge = yard.knowledge
    gatherer, external = knowledge.gatherer, knowledge.external

    async def all_of(found: AsyncIterator[Any]) -> list[Any]:
        return [one async for one in found]

    async def asked(url: str) -> Any:
        row = await external.add(TENANT, "elsewhere", url, "key")
        settings = SimpleNamespace(external_knowledge_api_id=row, external_knowledge_id="1")
        dataset: Any = SimpleNamespace(tenant=TENANT, settings=settings)
        try:
            return await external.retrieve(dataset, "what?", 3, 0.0, None)
        finally:
            await external.delete(TENANT, row)

    return {
        "dataset: a page": lambda url: gatherer._reader.fetch(url),  # pyright: ignore[reportPrivateUsage]
        "dataset: a site": lambda url: all_of(gatherer.pages(url, most=3)),
        "dataset: a sitemap": lambda url: all_of(gatherer.sitemap(url)),
        "dataset: a feed": lambda url: all_of(gatherer.feed(url)),
        "dataset: values of an API": lambda url: all_of(gatherer.values(url, "$")),
        "external knowledge": asked,
    }


def _others(yard: Modelyard) -> dict[str, Feature]:
    oidc = Oidc(
        yard.services.network.egress,
        yard.services.clock,
        issuer="http://issuer.example",
        client_id="a",
        client_secret="b",
    )

    async def node(url: str) -> Any:
        one = HttpRequestNode("get", HttpRequestData(url=url))
        services = SimpleNamespace(http=yard.services.network.egress, files=None)
        context: Any = SimpleNamespace(pool=VariablePool(), services=services, idempotency_key="k")
        return await one.run(context)

    files = yard.services.workflows.files(TENANT)
    market = yard.services.plugins.market
    return {
        "workflow: HTTP node": node,
        "workflow: a file by its address": lambda url: files.read(
            File(type="document", transfer_method="remote_url", remote_url=url)
        ),
        "plugins: a package by its address": market.github,
        "plugins: what a market's index names": lambda url: market.download(url, operators="http://market.example"),
        "sign-in: what an issuer's description names": lambda url: oidc._ask(  # pyright: ignore[reportPrivateUsage]
            "POST", url, b"client_secret=b"
        ),
    }


def _account() -> dict[str, str]:
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"client_email": "a@b.example", "private_key": pem.decode()}


async def tried(feature: Feature) -> dict[str, Any]:
    """What came of all forms through one feature, twice each: a name may stand for another address the second time."""
    reached: list[str] = []
    unhandled: list[str] = []
    before = len(connects)
    for url in CASES:
        for _ in range(2):
            try:
                async with asyncio.timeout(20):
                    said = repr(await feature(url))
            except ModelyardError as error:
                said = str(error)
            except Exception as error:  # noqa: BLE001  whatever else comes of it is a failure of ours
                said = f"{type(error).__name__}: {error}"
                unhandled.append(f"{url}: {said[:200]}")
            if "canary" in said:
                reached.append(url)
    seen = len(publics)
    with suppress(ModelyardError):  # it says hello, which is no description, market or model
        await feature(LEGITIMATE)
    return {
        "reached": reached, "unhandled": unhandled, "connects": len(connects) - before,
        "public": len(publics) > seen,
    }  # fmt: skip


async def world(home: str) -> dict[str, Any]:
    settings = msgspec.convert(
        {"home": home, "local": {"enabled": False}, "plugins": {"debug_port": 0}, "retries": 0}, Settings
    )
    yard = Modelyard(settings, environ={})
    try:
        await yard.open()
        await yard.services.tenancy.administration.create(Caller(tenant="default"), "default", "tenant", TENANT, {})
        return {name: await tried(feature) for name, feature in features(yard).items()}
    finally:
        await yard.aclose()


def main() -> int:
    set_up()
    scripted_names()
    with tempfile.TemporaryDirectory(prefix="modelyard-egress-") as home:
        print(json.dumps(asyncio.run(world(str(Path(home))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
