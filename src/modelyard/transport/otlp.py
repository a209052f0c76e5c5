"""Export of spans to an OpenTelemetry collector, with OpenTelemetry's exporter on top
of this package's HTTP client.

The exporter encodes and retries; it follows no redirects. It sends through a `requests`
session, which is given an adapter here and opens no connections of its own.
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

_TIMEOUT_SECONDS = 10.0
"""Timeout for a batch, including retries."""
# Maximum size of a collector's response.
_MAX_RESPONSE_BYTES = 1 << 20


def otlp_exporter(
    client: HttpClient, endpoint: str, loop: asyncio.AbstractEventLoop
) -> OTLPSpanExporter:
    """Create an exporter, which the SDK calls in its own thread. `loop` is the event
    loop to which `client` belongs."""
    return OTLPSpanExporter(
        endpoint=endpoint.rstrip("/") + "/v1/traces",
        timeout=_TIMEOUT_SECONDS,
        session=_session(client, loop),
    )


def _session(client: HttpClient, loop: asyncio.AbstractEventLoop) -> Session:
    """Create a `requests` session that sends everything through the HTTP client.

    It uses no proxies and no credentials of this machine's environment.
    """
    session = Session()
    session.trust_env = False  # no proxy and no password of this machine's files
    session.adapters.clear()
    adapter = _Adapter(client, loop)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Adapter(BaseAdapter):
    """A requests adapter that sends through the asynchronous client."""

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
        """Send a prepared request and return the complete response.

        Raises the errors of `requests`, from which the exporter decides about retries.
        """
        del stream, verify, cert, proxies  # the client's own are the only ones
        # At shutdown the exporter may flush after the loop has ended.
        if self._loop.is_closed():
            raise SendingError("The sender's event loop is closed", request=request)
        # The exporter's thread waits while the event loop sends.
        sending = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
        try:
            return sending.result(timeout)
        except TimeoutError as error:
            sending.cancel()
            raise Timeout("OTLP collector not reachable", request=request) from error
        except (ModelyardError, RuntimeError) as error:
            raise SendingError(str(error), request=request) from error

    async def _answer(self, request: PreparedRequest) -> Response:
        """Send a prepared request; return the response as `requests` has it.

        Runs in the client's event loop. Raises InvokeError, also for a body of more
        than 1 MiB, and ConfigError for an invalid URL.
        """
        limits = Timeouts(connect=5.0, first_byte=5.0, between_bytes=5.0)
        body = request.body or b""
        answer = await self._client.send(
            str(request.method),
            str(request.url),
            headers=_sent(request.headers),
            body=[body.encode() if isinstance(body, str) else body],
            timeouts=limits,
        )
        content = await answer.read(max_bytes=_MAX_RESPONSE_BYTES)
        # The exporter expects a response object of `requests`.
        response = Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response.raw = BytesIO(content)
        response.request = request
        response.url = str(request.url)
        return response

    def close(self) -> None:
        """Do nothing: the client belongs to the server and stays open."""


def _sent(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers without those that the client sets itself, or whose promises
    it does not keep."""
    excluded_headers = ("content-length", "connection", "accept-encoding")
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() not in excluded_headers
    }
