"""The HTTP tool. Its requests go through the egress guard."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlencode

from modelyard.base.charsets import charset_of, decode_async
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import (
    ToolContext,
    ToolInvokeError,
    json_message,
    text_message,
)
from modelyard.tools.function import FunctionTool
from modelyard.transport.egress import EgressClient, EgressError

_MAX_RESPONSE_BYTES = 5 << 20


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the HTTP tool; none without an egress client."""
    if (egress := parts.egress) is None:
        return []
    tools = _HttpTools(egress)
    return [FunctionTool(tools.http_request, provider="http", kind="builtin")]


class _HttpTools:
    """The tool as a method. Its docstring is sent to models as its description."""

    def __init__(self, egress: EgressClient) -> None:
        self._egress = egress

    async def http_request(
        self,
        url: str,
        context: ToolContext,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"] = "GET",
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        body: Any = None,
    ) -> Any:
        """Send an HTTP request and give its answer.

        url: beginning with https:// or http://
        params: what stands behind the ? of the address
        body: text, or an object that is sent as JSON
        """
        sent_headers = dict(headers or {})
        names = {header_name.lower() for header_name in sent_headers}
        data, media_type = _encode_body(body)
        if media_type and "content-type" not in names:
            sent_headers["content-type"] = media_type
        # A run that continues after a crash may repeat the call; the key lets the
        # server recognise it.
        is_safe = method in ("GET", "HEAD")
        if not is_safe and context.key and "idempotency-key" not in names:
            sent_headers["idempotency-key"] = context.key
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"
        try:
            answer = await self._egress.fetch(
                method,
                url,
                headers=list(sent_headers.items()),
                body=data,
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        content_type = answer.headers.get("content-type", "")
        text = await decode_async(answer.body, charset_of(content_type))
        if answer.status >= 400:
            # The query may contain secrets, so the error shows the address without it.
            raise ToolInvokeError(
                f"{method} {url.partition('?')[0][:200]} returned status"
                f" {answer.status}: {text[:2000]}"
            )
        return [await _response_message(answer.status, content_type, text)]


def _encode_body(body: Any) -> tuple[bytes, str]:
    """Return (body, media type) for a text, or for a value that is sent as JSON; both
    are empty if there is no body."""
    if body is None or body == "":
        return b"", ""
    is_text = isinstance(body, str)
    data = (body if is_text else json.dumps(body, ensure_ascii=False)).encode()
    looks_json = not is_text or body.lstrip()[:1] in ("{", "[")
    return data, "application/json" if looks_json else "text/plain"


async def _response_message(
    status: int, content_type: str, text: str
) -> dict[str, Any]:
    """Return a response as a JSON message if it is declared and valid as JSON, else as
    text."""
    if "json" in content_type:
        try:
            # Parsing a large response would block the event loop.
            return json_message(await asyncio.to_thread(json.loads, text))
        except (ValueError, RecursionError):
            pass
    return text_message(text or f"Status {status}, empty response.")
