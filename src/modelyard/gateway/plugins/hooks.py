"""Addresses that plugins serve (`/e/ID/…`), webhooks that trigger them (`/t/ID`), and files that they hand in and read.

Whoever calls these has no key of ours: the id in the address, or the signature behind it, is what admits.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from email.parser import BytesParser
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.raw_requests import raw_request
from modelyard.gateway.tenant_content import FILE, ContentRules, disposition, media_type, outgoing, status_of
from modelyard.models.types import JSON
from modelyard.plugins.serverless import ServerlessSessions
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import current_caller
from modelyard.tenant_plugins.endpoints import PluginEndpoints
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.workflow.triggers import Triggers

VERBS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
_MOST_BODY = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """ANY /e/ID/PATH: a plugin answers."""

    plugins: Plugins
    endpoints: PluginEndpoints
    origin: Callable[[], str]
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply | StreamReply:
        hook, rest = request.names["hook"], request.names.get("rest", "")
        tenant, endpoint, settings = self.endpoints.endpoint(hook)
        path = f"/{rest}"
        body = await request.body(_MOST_BODY)
        sent = {"Dify-Hook-Id": hook, "Dify-Hook-Url": f"{self.origin()}/e/{hook}{path}"}
        data = {"raw_http_request": raw_request(request, path, body, sent, self.rules).hex(), "settings": settings}
        answers = self.plugins.call(
            tenant,
            endpoint.plugin,
            "endpoint",
            "invoke_endpoint",
            data,
            user=endpoint.user,
            more={"endpoint_id": hook},
        )
        first = await anext(answers, None)
        if first is None:
            await answers.aclose()
            raise PluginError("it ended without an answer", plugin=endpoint.plugin)
        try:
            given = first.get("headers") or {}
            headers = outgoing(((str(name), str(value)) for name, value in given.items()), endpoint.plugin)
            status = status_of(first.get("status"), endpoint.plugin)
        except PluginError:
            await answers.aclose()
            raise
        return StreamReply(_pieces(first, answers), None, headers, status=status)


async def _pieces(first: JSON, answers: AsyncGenerator[JSON, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers):
        if first.get("result"):
            yield _unhexed(first["result"])
        async for answer in answers:
            if answer.get("result"):
                yield _unhexed(answer["result"])


def _unhexed(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise PluginError("its answer is not hexadecimal") from None


@dataclass(frozen=True, slots=True)
class TriggerRoute:
    """ANY /t/ID: something happened elsewhere; the trigger plugin says what, and what to answer."""

    plugins: Plugins
    subscriptions: PluginSubscriptions
    triggers: Triggers
    on_event: Callable[[], Callable[[str, str, str, JSON], Awaitable[None]] | None]
    """Who else is told (tenant, subscription, event, variables); None where nobody is."""
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply:
        name, rest = request.names["subscription"], request.names.get("rest", "")
        tenant, subscription, kept = self.subscriptions.subscription(name)
        raw = raw_request(request, f"/{rest}", await request.body(), {}, self.rules).hex()
        common = {"provider": subscription.provider, "raw_http_request": raw, **kept}
        found = await self.plugins.one(tenant, subscription.plugin, "trigger", "dispatch_trigger_event", common)
        common = {"credentials": {}, "credential_type": "unauthorized", **common, "payload": found.get("payload") or {}}

        async def told(event: str, parameters: JSON) -> JSON | None:
            """What a node, or a listener, hears of it; None where it is none of those that it wants."""
            data = {**common, "event": event, "parameters": parameters}
            said = await self.plugins.one(tenant, subscription.plugin, "trigger", "invoke_trigger_event", data)
            return None if said.get("cancelled") else said.get("variables") or {}

        provider = f"{subscription.plugin}/{subscription.provider}"
        for event in map(str, found.get("events") or ()):
            for one in self.triggers.listeners(tenant, name, provider, event):
                if (variables := await told(event, one.trigger.parameters)) is not None:
                    await self.triggers.hear(one, variables)
            listen = self.on_event()
            if listen is not None and (variables := await told(event, {})) is not None:
                await listen(tenant, name, event, variables)
        return _answered(found.get("response"), subscription.plugin)


def _answered(raw: Any, plugin: str) -> Reply:
    """A raw HTTP response, in hexadecimal, as one of ours."""
    data = _unhexed(raw) if raw else b"HTTP/1.1 200 OK\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, rest = head.partition(b"\r\n")
    _, _, said = line.partition(b" ")
    status = status_of(said.split(b" ", 1)[0].decode("latin-1"), plugin)
    sent = outgoing(BytesParser().parsebytes(rest + b"\r\n\r\n").items(), plugin)
    headers = {name.decode(): value.decode("latin-1") for name, value in sent}
    kind = headers.pop("content-type")
    return Reply(body, status=status, content_type=kind.encode("latin-1"), headers=headers)


@dataclass(frozen=True, slots=True)
class Files:
    """GET /files/ID and POST /files/plugins/upload, both by signed address."""

    files: FileStore
    shuts_out: Callable[[str], bool]
    """Whether a tenant was switched off."""

    async def read(self, request: Request) -> Reply:
        """GET /files/ID. Raises NotFoundError."""
        name = request.names["file"]
        tenant = self._signed(request, "read", name)
        stored, data = await asyncio.to_thread(self.files.get, tenant, name)
        # Files are somebody's: a browser must not run what is in them on this server's behalf.
        headers = {**FILE, "content-disposition": disposition("attachment", f"{stored.id}{stored.extension}")}
        return Reply(data, content_type=media_type(stored.mime_type), headers=headers)

    async def upload(self, request: Request) -> Reply:
        """POST /files/plugins/upload. Raises NotFoundError."""
        plugin, name = request.query("plugin") or "", request.query("name") or ""
        tenant = self._signed(request, "upload", f"{plugin}\n{name}")
        request.payer = tenant
        file, _ = file_form(request.header(b"content-type") or "", await request.body())
        kind = request.query("mimetype") or ""
        stored = await asyncio.to_thread(self.files.add, tenant, name or file.filename, file.data, kind)
        query = self.files.sign("read", tenant, stored.id, seconds=86_400.0)
        document = {**msgspec.to_builtins(stored), "extension": stored.extension,
                    "preview_url": f"/files/{stored.id}?{query}"}  # fmt: skip
        return json_reply(document, status=201)

    def _signed(self, request: Request, what: str, rest: str) -> str:
        """The tenant. Raises NotFoundError where the signature is none, or is too old."""
        tenant = request.query("tenant") or ""
        until, sign = request.query("until") or "", request.query("sign") or ""
        if not self.files.is_signed(what, tenant, rest, until, sign) or self.shuts_out(tenant):
            raise NotFoundError("this address is not signed, or its time is over", code="file_not_found")
        return tenant


@dataclass(frozen=True, slots=True)
class TransactionRoute:
    """POST /backwards-invocation/transaction: what plugins that are served elsewhere ask of us. The session admits."""

    sessions: ServerlessSessions

    async def __call__(self, request: Request) -> Reply | StreamReply:
        session = request.header(b"dify-plugin-session-id") or ""
        try:
            request.payer = self.sessions.tenant_of(session)
            caller = self.sessions.context(session).run(current_caller)
            if caller is not None:
                request.identify(caller)
            body = await request.body()
            pieces = self.sessions.answer(session, body)
            first = await anext(pieces)
        except NotFoundError as error:
            document = {"event": "error", "message": str(error), "data": {"error_type": "SessionNotFound"}}
            return json_reply(document, status=400)
        return StreamReply(_after(first, pieces), None, [(b"content-type", b"application/octet-stream")])


async def _after(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece
