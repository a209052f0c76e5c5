"""GET /health, /health/live, /health/ready, and a short greeting at /."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelyard.base.version import __version__
from modelyard.gateway.http import Reply, Request, json_reply

_TEXT: dict[str, Any] = {"type": "string"}
ALIVE: dict[str, Any] = {
    "type": "object",
    "required": ["status", "version", "sandbox"],
    "properties": {"status": _TEXT, "version": _TEXT, "sandbox": _TEXT},
}
READY: dict[str, Any] = {
    "type": "object",
    "required": ["status", "problem"],
    "properties": {"status": _TEXT, "problem": {"type": ["string", "null"]}},
}


@dataclass(frozen=True, slots=True)
class Route:
    """GET /health: the server runs, and how workflow programs are sandboxed (`unknown`
    before the first one).

    Public, so problems are not included; operators see them in `modelyard doctor` and
    the console.
    """

    sandbox: Callable[[], str]

    async def __call__(self, request: Request) -> Reply:
        """Answer that the process runs; programs that supervise it restart it
        otherwise."""
        return json_reply(
            {"status": "ok", "version": __version__, "sandbox": self.sandbox()}
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps the server from working as it should."""

    text: str
    """The part before the colon is public: it may mention a full disk, but not the
    address of another server."""
    takes_calls: bool = False
    """Whether calls of models are answered nevertheless."""

    @property
    def public_text(self) -> str:
        """The part that everybody may read."""
        return self.text.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Ready:
    """GET /health/ready: whether a load balancer should send calls here.

    503 while the server drains, or would refuse calls. While a service that all servers
    share is away, but calls are answered, it is 200 with the status `degraded`: all
    servers at once would be taken out, and nothing would be answered any more.

    Public, so the reason is short; details are in GET /admin/v1/about and in the log.
    """

    problem: Callable[[], Problem | None]

    async def __call__(self, request: Request) -> Reply:
        """Answer whether requests can be served; load balancers send none otherwise."""
        problem = self.problem()
        if problem is None:
            return json_reply({"status": "ok", "problem": None})
        status = "degraded" if problem.takes_calls else "unavailable"
        return json_reply(
            {"status": status, "problem": problem.public_text},
            status=200 if problem.takes_calls else 503,
        )


_WELCOME = f"""Modelyard {__version__}

This is an API. Point an OpenAI client at /v1 and use the model "default":

  curl {{origin}}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{{{"model": "default", "messages": [{{{{"role": "user", "content": "Say hello"}}}}]}}}}'

Available models: GET /v1/models
"""


@dataclass(frozen=True, slots=True)
class Welcome:
    """GET /: a short usage text. Browsers are redirected to the console."""

    async def __call__(self, request: Request) -> Reply:
        """Send a browser to the console, and tell a program where the API is."""
        if "text/html" in (request.header(b"accept") or ""):
            # The response depends on Accept, which caches have to know.
            return Reply(
                b"",
                303,
                b"text/plain; charset=utf-8",
                {"location": "/console/", "vary": "accept"},
            )
        origin = f"{request.scope.get('scheme', 'http')}://{request.header(b'host') or '127.0.0.1:8790'}"  # noqa: E501
        return Reply(
            _WELCOME.format(origin=origin).encode(),
            content_type=b"text/plain; charset=utf-8",
        )
