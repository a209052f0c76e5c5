"""Public routes of plugins: endpoints (`/e/ID/…`), trigger webhooks (`/t/ID`), signed
file addresses and serverless callbacks.

Callers show no API key. The id in the address, a signature or a session authorises the
request.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from email.parser import BytesParser
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.base.fields import short_repr
from modelyard.base.json_types import is_array, is_object
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import Reply, Request, StreamReply, json_reply
from modelyard.gateway.raw_requests import raw_request
from modelyard.gateway.tenant_content import (
    FILE_HEADERS,
    ContentRules,
    disposition,
    media_type,
    outgoing,
    response_status,
)
from modelyard.models.types import JSON
from modelyard.plugins.serverless import ServerlessSessions
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import current_caller
from modelyard.tenant_plugins.endpoints import PluginEndpoints
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.workflow.triggers import Triggers

VERBS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
# Bytes of a request body that is forwarded to a plugin's endpoint.
_MAX_BODY_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """Handler of ANY /e/ID/PATH: forwards the raw HTTP request to the plugin that
    serves the endpoint."""

    plugins: Plugins
    endpoints: PluginEndpoints
    origin: Callable[[], str]
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply | StreamReply:
        hook, subpath = request.names["hook"], request.names.get("rest", "")
        tenant, endpoint, settings = self.endpoints.endpoint(hook)
        path = f"/{subpath}"
        # Headers, body and settings go to the plugin as one raw HTTP request in
        # hexadecimal.
        body = await request.body(_MAX_BODY_BYTES)
        sent = {
            "Dify-Hook-Id": hook,
            "Dify-Hook-Url": f"{self.origin()}/e/{hook}{path}",
        }
        data = {
            "raw_http_request": raw_request(
                request, path, body, sent, self.rules
            ).hex(),
            "settings": settings,
        }
        answers = self.plugins.call(
            tenant,
            endpoint.plugin,
            "endpoint",
            "invoke_endpoint",
            data,
            user=endpoint.user,
            extra={"endpoint_id": hook},
        )
        # The first message carries status and headers, so it is needed before the reply
        # can start.
        first = await anext(answers, None)
        if first is None:
            # The plugin's call is still open when the reply cannot be sent: end it,
            # here and below.
            await answers.aclose()
            raise PluginError(
                "Endpoint closed without a response", plugin=endpoint.plugin
            )
        try:
            plugin_headers: dict[str, Any] = first.get("headers") or {}
            headers = outgoing(
                ((str(name), str(value)) for name, value in plugin_headers.items()),
                endpoint.plugin,
            )
            status = response_status(first.get("status"), endpoint.plugin)
        except PluginError:
            await answers.aclose()
            raise
        return StreamReply(_body_chunks(first, answers), None, headers, status=status)


async def _body_chunks(
    first: JSON, answers: AsyncGenerator[JSON, None]
) -> AsyncGenerator[bytes, None]:
    """Yield the response body, decoded from the plugin's messages."""
    async with aclosing(answers):
        if first.get("result"):
            yield _decode_hex(first["result"])
        async for answer in answers:
            if answer.get("result"):
                yield _decode_hex(answer["result"])


def _decode_hex(value: Any) -> bytes:
    """Decode hexadecimal text. Raises PluginError if it is not hexadecimal."""
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise PluginError("Response is not hexadecimal") from None


@dataclass(frozen=True, slots=True)
class TriggerRoute:
    """Handler of ANY /t/ID: a trigger plugin decides which events a webhook call stands
    for and how to answer it."""

    plugins: Plugins
    subscriptions: PluginSubscriptions
    triggers: Triggers
    on_event: Callable[[], Callable[[str, str, str, JSON], Awaitable[None]] | None]
    """Additional listener for (tenant, subscription, event, variables); returns None if
    there is none."""
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply:
        name, subpath = request.names["subscription"], request.names.get("rest", "")
        tenant, subscription, secret_fields = self.subscriptions.subscription(name)
        # First call: the plugin verifies the request and names the events that it
        # contains.
        raw = raw_request(
            request, f"/{subpath}", await request.body(), {}, self.rules
        ).hex()
        common = {
            "provider": subscription.provider,
            "raw_http_request": raw,
            **secret_fields,
        }
        dispatch_result = await self.plugins.call_once(
            tenant, subscription.plugin, "trigger", "dispatch_trigger_event", common
        )
        webhook_call = _WebhookCall(
            plugins=self.plugins,
            tenant=tenant,
            subscription=name,
            plugin=subscription.plugin,
            provider=f"{subscription.plugin}/{subscription.provider}",
            common={
                "credentials": {},
                "credential_type": "unauthorized",
                **common,
                "payload": _object_in(dispatch_result, "payload", subscription.plugin),
            },
        )
        for event in _event_names(dispatch_result, subscription.plugin):
            await self._start_listeners(webhook_call, event)
            await self._notify_additional_listener(webhook_call, event)
        return _reply_from_raw(dispatch_result.get("response"), subscription.plugin)

    async def _start_listeners(self, call: "_WebhookCall", event: str) -> None:
        """Start the runs of all nodes that listen to an event."""
        # Second call, once per event and listener: each listening node has its own
        # parameters.
        for listener in self.triggers.listeners(
            call.tenant, call.subscription, call.provider, event
        ):
            variables = await call.variables(event, listener.trigger.parameters)
            if variables is not None:
                await self.triggers.start_listener(listener, variables)

    async def _notify_additional_listener(
        self, call: "_WebhookCall", event: str
    ) -> None:
        """Pass an event to the additional listener, if there is one. It gets the event
        without parameters."""
        listen = self.on_event()
        if listen is None:
            return
        variables = await call.variables(event, {})
        if variables is not None:
            await listen(call.tenant, call.subscription, event, variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class _WebhookCall:
    """A webhook call that a trigger plugin has verified."""

    plugins: Plugins
    tenant: str
    subscription: str
    plugin: str
    provider: str
    """The plugin with the name of its provider, as PLUGIN/PROVIDER."""
    common: JSON
    """Data that the plugin needs for each event of the call."""

    async def variables(self, event: str, parameters: JSON) -> JSON | None:
        """Return the variables of an event for these parameters, or None if the plugin
        filters the event out."""
        data = {**self.common, "event": event, "parameters": parameters}
        event_result = await self.plugins.call_once(
            self.tenant, self.plugin, "trigger", "invoke_trigger_event", data
        )
        if event_result.get("cancelled"):
            return None
        return _object_in(event_result, "variables", self.plugin)


def _object_in(result: JSON, name: str, plugin: str) -> JSON:
    """Return a field of a plugin's result that must be an object, empty if it is
    missing. Raises PluginError."""
    value: object = result.get(name) or {}
    if not is_object(value):
        raise PluginError(
            f"'{name}' of the plugin's result must be an object, not"
            f" {short_repr(value)}",
            plugin=plugin,
        )
    return dict(value)


def _event_names(result: JSON, plugin: str) -> list[str]:
    """Return the events that a plugin has found in a call. Raises PluginError."""
    names: object = result.get("events") or []
    if not is_array(names) or not all(isinstance(name, str) for name in names):
        raise PluginError(
            "'events' of the plugin's result must be a list of names, not"
            f" {short_repr(names)}",
            plugin=plugin,
        )
    return list(names)


def _reply_from_raw(raw: Any, plugin: str) -> Reply:
    """Parse a raw HTTP response in hexadecimal and return it as a reply. An absent one
    means an empty 200."""
    data = _decode_hex(raw) if raw else b"HTTP/1.1 200 OK\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, header_block = head.partition(b"\r\n")
    _, _, status_text = line.partition(b" ")
    status = response_status(status_text.split(b" ", 1)[0].decode("latin-1"), plugin)
    sent = outgoing(
        BytesParser().parsebytes(header_block + b"\r\n\r\n").items(), plugin
    )
    headers = {name.decode(): value.decode("latin-1") for name, value in sent}
    # `outgoing` always sets a content type; Reply takes it separately from the other
    # headers.
    content_type = headers.pop("content-type")
    return Reply(
        body,
        status=status,
        content_type=content_type.encode("latin-1"),
        headers=headers,
    )


@dataclass(frozen=True, slots=True)
class Files:
    """Handlers of GET /files/ID and POST /files/plugins/upload. Both require a signed
    address."""

    files: FileStore
    is_tenant_disabled: Callable[[str], bool]
    """Return whether a tenant is disabled."""

    async def read(self, request: Request) -> Reply:
        """GET /files/ID. Raises NotFoundError if the file does not exist or the
        signature is invalid."""
        name = request.names["file"]
        tenant = self._verify_signature(request, "read", name)
        stored_file, data = await asyncio.to_thread(self.files.get, tenant, name)
        # Files come from users: a browser must not execute their content with this
        # server's origin.
        headers = {
            **FILE_HEADERS,
            "content-disposition": disposition(
                "attachment", f"{stored_file.id}{stored_file.extension}"
            ),
        }
        return Reply(
            data, content_type=media_type(stored_file.mime_type), headers=headers
        )

    async def upload(self, request: Request) -> Reply:
        """POST /files/plugins/upload. Raises NotFoundError if the signature is invalid."""
        plugin, name = request.query("plugin") or "", request.query("name") or ""
        # Plugin and name are part of the signature, so a signed upload address is valid
        # for this file only.
        tenant = self._verify_signature(request, "upload", f"{plugin}\n{name}")
        request.payer = tenant
        file, _ = file_form(request.header(b"content-type") or "", await request.body())
        mime_type = request.query("mimetype") or ""
        stored_file = await asyncio.to_thread(
            self.files.add, tenant, name or file.filename, file.data, mime_type
        )
        # The reply contains an address that reads the file for one day.
        query = self.files.sign("read", tenant, stored_file.id, seconds=86_400.0)
        document = {
            **msgspec.to_builtins(stored_file),
            "extension": stored_file.extension,
            "preview_url": f"/files/{stored_file.id}?{query}",
        }
        return json_reply(document, status=201)

    def _verify_signature(self, request: Request, action: str, subject: str) -> str:
        """Return the tenant of a signed address. Raises NotFoundError if the signature
        is missing, invalid or expired."""
        tenant = request.query("tenant") or ""
        until, signature = request.query("until") or "", request.query("sign") or ""
        if not self.files.is_signed(
            action, tenant, subject, until, signature
        ) or self.is_tenant_disabled(tenant):
            raise NotFoundError(
                "Signature of the file address is missing, invalid or expired",
                code="file_not_found",
            )
        return tenant


@dataclass(frozen=True, slots=True)
class TransactionRoute:
    """Handler of POST /backwards-invocation/transaction: calls from plugins on a
    serverless runtime. The session id authorises them."""

    sessions: ServerlessSessions

    async def __call__(self, request: Request) -> Reply | StreamReply:
        session = request.header(b"dify-plugin-session-id") or ""
        try:
            request.payer = self.sessions.tenant_of(session)
            # The session remembers who called the plugin; its calls back are made as
            # that caller.
            caller = self.sessions.context(session).run(current_caller)
            if caller is not None:
                request.identify(caller)
            body = await request.body()
            chunks = self.sessions.answer(session, body)
            # Read the first chunk before the reply starts: an unknown session gets a
            # proper status.
            first = await anext(chunks)
        except NotFoundError as error:
            document = {
                "event": "error",
                "message": str(error),
                "data": {"error_type": "SessionNotFound"},
            }
            return json_reply(document, status=400)
        return StreamReply(
            _with_first_chunk(first, chunks),
            None,
            [(b"content-type", b"application/octet-stream")],
        )


async def _with_first_chunk(
    first: bytes, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Yield the first chunk, which was read already, and then the remaining ones."""
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
