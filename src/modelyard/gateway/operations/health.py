"""GET /health, /health/live, /health/ready, and a word of welcome at /."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelyard.base.version import __version__
from modelyard.gateway.http import Reply, Request, json_reply

_TEXT: dict[str, Any] = {"type": "string"}
ALIVE: dict[str, Any] = {
    "type": "object",
    "required": ["status", "version", "jail"],
    "properties": {"status": _TEXT, "version": _TEXT, "jail": _TEXT},
}
READY: dict[str, Any] = {
    "type": "object",
    "required": ["status", "problem"],
    "properties": {"status": _TEXT, "problem": {"type": ["string", "null"]}},
}


@dataclass(frozen=True, slots=True)
class Route:
    """That the server is there; how workflows' programs are held: the jail's level, `unknown` before any ran. Anybody
    may ask: what went wrong here is the operator's to see, in `modelyard doctor` and the console."""

    jail: Callable[[], str]

    async def __call__(self, request: Request) -> Reply:
        return json_reply({"status": "ok", "version": __version__, "jail": self.jail()})


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether calls should be sent here: 503 while the server drains, or cannot write down what calls cost. Anybody may
    ask, so the reason is short; the rest is in GET /admin/v1/about and the log."""

    problem: Callable[[], str | None]

    async def __call__(self, request: Request) -> Reply:
        problem = self.problem()
        reason = problem.partition(":")[0] if problem is not None else None
        document = {"status": "ok" if problem is None else "unavailable", "problem": reason}
        return json_reply(document, status=200 if problem is None else 503)


_WELCOME = f"""Modelyard {__version__}

This is an API. Point an OpenAI client at /v1 and use the model "default":

  curl {{origin}}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{{{"model": "default", "messages": [{{{{"role": "user", "content": "Say hello"}}}}]}}}}'

What there is: GET /v1/models
"""


@dataclass(frozen=True, slots=True)
class Welcome:
    """GET /: how to begin. People's browsers are led to the console."""

    async def __call__(self, request: Request) -> Reply:
        if "text/html" in (request.header(b"accept") or ""):
            return Reply(b"", 303, b"text/plain; charset=utf-8", {"location": "/console/", "vary": "accept"})
        origin = f"{request.scope.get('scheme', 'http')}://{request.header(b'host') or '127.0.0.1:8790'}"
        return Reply(_WELCOME.format(origin=origin).encode(), content_type=b"text/plain; charset=utf-8")
