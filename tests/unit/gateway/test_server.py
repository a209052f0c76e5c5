"""Errors of the gateway as an ASGI application."""

import asyncio
import json
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.auth import Authenticator
from modelyard.gateway.errors import ANTHROPIC, OPENAI
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.server import Gateway
from modelyard.gateway.table import NO_AUTH, Api, Row
from modelyard.gateway.tenant_content import ContentRules


async def fine(request: Request) -> Reply:
    return json_reply({"path": request.path})


async def refused(request: Request) -> Reply:
    raise InvokeBadRequestError("no such luck")


async def broken(request: Request) -> Reply:
    raise ZeroDivisionError


def api(name: str, prefix: str, errors: Any, **handlers: Any) -> Api:
    rows = [
        Row(
            method="GET",
            path=f"{prefix}/{path}",
            auth=NO_AUTH,
            handler=handler,
            summary="",
        )
        for path, handler in handlers.items()
    ]
    return Api(
        name=name, title=name, about="", prefixes=(prefix,), errors=errors, rows=rows
    )


class PlainGateway(Gateway):
    """The gateway without what checks its answers in tests, which routes them too."""

    _failure, _audit = Gateway._failure, Gateway._audit


class CountingGateway:
    """A gateway with two APIs, called without a server; it counts the look-ups."""

    def __init__(self) -> None:
        async def prepare() -> None:
            pass

        handlers = {"fine": fine, "refused": refused, "broken": broken}
        apis = [
            api("openai", "/open", OPENAI, **handlers),
            api("anthropic", "/claude", ANTHROPIC, **handlers),
        ]
        self.gateway = PlainGateway(
            apis,
            Authenticator(["secret"]),
            ContentRules(origin=lambda: ""),
            max_body=1 << 20,
            prepare=prepare,
        )
        self.searched_paths: list[str] = []
        find = self.gateway.router.find

        def counted(method: str, path: str) -> Any:
            self.searched_paths.append(path)
            return find(method, path)

        self.gateway.router.find = counted

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Return the status and the body of a response."""
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        asyncio.run(self.gateway(scope, receive, send))
        body = b"".join(message.get("body", b"") for message in messages[1:])
        return messages[0]["status"], json.loads(body)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/claude/fine", 200),
        ("GET", "/claude/refused", 400),
        ("GET", "/claude/broken", 500),
        ("GET", "/claude/nothing", 404),
        ("POST", "/claude/fine", 405),
    ],
)
def test_a_request_is_routed_once_whatever_comes_of_it(
    method: str, path: str, status: int
):
    counting = CountingGateway()
    actual_status, body = counting.get(path, method)
    assert actual_status == status
    assert counting.searched_paths == [path]
    # Anthropic's errors name their type at the top.
    assert (body.get("type") == "error") == (status >= 400)


def test_an_error_is_in_the_format_of_the_api_that_the_request_reaches():
    counting = CountingGateway()
    assert counting.get("/open/refused")[1]["error"]["message"] == "no such luck"
    assert "type" not in counting.get("/open/refused")[1]
    assert counting.get("/claude/refused")[1]["type"] == "error"
