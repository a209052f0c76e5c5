"""Public routes of plugins: endpoints (`/e/ID/…`), signed file addresses and serverless
callbacks. Trigger webhooks are in `trigger_webhooks`.

Callers show no API key. The id in the address, a signature or a session authorises the
request.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, PluginError
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
        """Pass a request to the plugin that owns its URL, and stream the plugin's
        response."""
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
            yield decode_hex(first["result"])
        async for answer in answers:
            if answer.get("result"):
                yield decode_hex(answer["result"])


def decode_hex(value: Any) -> bytes:
    """Decode hexadecimal text. Raises PluginError if it is not hexadecimal."""
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise PluginError("Response is not hexadecimal") from None


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
        stored_file, data = await self.files.get(tenant, name)
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
        stored_file = await self.files.add(
            tenant, name or file.filename, file.data, mime_type
        )
        # The reply contains an address that reads the file for one day.
        query = self.files.sign("read", tenant, stored_file.id, seconds=86_400.0)
        metadata: dict[str, Any] = msgspec.to_builtins(stored_file)
        # Clients of this interface know these fields only.
        del metadata["sha256"]
        document = {
            **metadata,
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
        """Answer a call that a plugin makes back to the server."""
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
                "message": error.public_text,
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
