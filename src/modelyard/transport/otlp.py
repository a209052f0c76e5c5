"""Spans to an OpenTelemetry collector: by OpenTelemetry's own exporter, through the one client that goes out.

The exporter encodes, sends again what a busy collector refused, and follows no redirect. It sends by a session of
`requests`; the session here has one adapter, and no connections of its own.
"""

import asyncio
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from requests import PreparedRequest, Response, Session
from requests.adapters import BaseAdapter
from requests.exceptions import ConnectionError as SendingError
from requests.exceptions import Timeout

from modelyard.base.errors import ModelyardError
from modelyard.transport.http import HttpClient, Timeouts

_SECONDS = 10.0
"""Of sending a batch, the times that it is sent again included."""
_MOST = 1 << 20


def otlp_exporter(client: HttpClient, endpoint: str, loop: asyncio.AbstractEventLoop) -> OTLPSpanExporter:
    """An exporter for the SDK, which calls it in a thread of its own; `loop` is the one that `client` belongs to."""
    return OTLPSpanExporter(
        endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=_SECONDS, session=_session(client, loop)
    )


def _session(client: HttpClient, loop: asyncio.AbstractEventLoop) -> Session:
    session = Session()
    session.trust_env = False  # no proxy and no password of this machine's files
    session.adapters.clear()
    adapter = _Adapter(client, loop)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Adapter(BaseAdapter):
    """Sends what a session prepared."""

    def __init__(self, client: HttpClient, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._client = client
        self._loop = loop

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, whole. Raises `requests`' errors, by which the exporter knows what it may send again."""
        del stream, verify, cert, proxies  # the client's own are the only ones
        if self._loop.is_closed():
            raise SendingError("the loop that sends is closed", request=request)
        sending = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        try:
            return sending.result(timeout)
        except TimeoutError as error:
            sending.cancel()
            raise Timeout("the collector does not answer", request=request) from error
        except (ModelyardError, RuntimeError) as error:
            raise SendingError(str(error), request=request) from error

    async def _answer(self, request: PreparedRequest) -> Response:
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        body = request.body or b""
        answer = await self._client.send(
            str(request.method), str(request.url), headers=_sent(request.headers),
            body=[body.encode() if isinstance(body, str) else body], timeouts=limits,
        )  # fmt: skip
        content = await answer.read(most=_MOST)
        response = Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response.raw = BytesIO(content)
        response.request = request
        response.url = str(request.url)
        return response

    def close(self) -> None:
        """The client is the server's, and stays open."""


def _sent(headers: Mapping[str, str]) -> dict[str, str]:
    """Without those that the client writes itself, or keeps promises of that we do not."""
    own = ("content-length", "connection", "accept-encoding")
    return {name.lower(): value for name, value in headers.items() if name.lower() not in own}
