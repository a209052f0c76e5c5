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
from modelyard.transport.egress import EgressError

_MAX_RESPONSE_BYTES = 5 << 20


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the HTTP tool; none without an egress client."""
    if (egress := parts.egress) is None:
        return []

    async def http_request(
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
        sent = dict(headers or {})
        names = {header_name.lower() for header_name in sent}
        data = b""
        if body is not None and body != "":
            is_text = isinstance(body, str)
            data = (body if is_text else json.dumps(body, ensure_ascii=False)).encode()
            if "content-type" not in names:
                looks_json = not is_text or body.lstrip()[:1] in ("{", "[")
                sent["content-type"] = (
                    "application/json" if looks_json else "text/plain"
                )
        # A run that continues after a crash may repeat the call; the key lets the
        # server recognise it.
        if (
            method not in ("GET", "HEAD")
            and context.key
            and "idempotency-key" not in names
        ):
            sent["idempotency-key"] = context.key
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"
        try:
            answer = await egress.fetch(
                method,
                url,
                headers=list(sent.items()),
                body=data,
                max_bytes=_MAX_RESPONSE_BYTES,
            )
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        text = await decode_async(
            answer.body, charset_of(answer.headers.get("content-type", ""))
        )
        if answer.status >= 400:
            # The query may contain secrets, so the error shows the address without it.
            raise ToolInvokeError(
                f"{method} {url.partition('?')[0][:200]} answers with status"
                f" {answer.status}: {text[:2000]}"
            )
        if "json" in answer.headers.get("content-type", ""):
            try:
                # Parsing a large response would block the event loop.
                return [json_message(await asyncio.to_thread(json.loads, text))]
            except (ValueError, RecursionError):
                pass
        return [text_message(text or f"status {answer.status}, nothing said")]

    return [FunctionTool(http_request, provider="http", kind="builtin")]
