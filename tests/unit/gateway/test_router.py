"""Tests for the router: matching requests to routes, and RFC 9110 answers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.gateway.errors import ANTHROPIC, GOOGLE, OPENAI
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.gateway.router import Router
from modelyard.gateway.table import (
    DEVELOPER,
    METHODS,
    NO_AUTH,
    Admission,
    Api,
    Auth,
    MethodNotAllowedError,
    NoSuchPathError,
    Row,
    UnknownMethodError,
    call_handler,
)
from modelyard.tenancy.caller import Role


async def handler(request: Request) -> Reply:
    return json_reply({"path": request.path})


def row(method: str, path: str, **flags: bool) -> Row:
    return Row(
        method=method, path=path, auth=DEVELOPER, handler=handler, summary="", **flags
    )  # type: ignore[arg-type]


def api(name: str, prefix: str, *rows: Row, errors: object = OPENAI) -> Api:
    return Api(
        name=name, title=name, about="", prefixes=(prefix,), errors=errors, rows=rows
    )  # type: ignore[arg-type]


OPEN = api(
    "openai", "/v1",
    row("GET", "/v1/models"), row("GET", "/v1/models/{model:path}"), row("POST", "/v1/chat/completions"),
    row("GET", "/v1/things"), row("POST", "/v1/things"), row("PUT", "/v1/things/{thing}"),
    row("POST", "/v1/things/known"), row("POST", "/v1/things/{thing}/{verb}-soon"), row("GET", "/v1/things/{a}/{b}"),
)  # fmt: skip
CLAUDE = api("anthropic", "/v1/messages", row("POST", "/v1/messages"), errors=ANTHROPIC)
GEMINI = api(
    "google",
    "/v1beta",
    row("POST", "/v1/models/{name:path}:generateContent"),
    errors=GOOGLE,
)
HOOKS = api("hooks", "/e", row("GET", "/e/{hook}/{rest:path}", takes_any_method=True))
ROUTER = Router([OPEN, CLAUDE, GEMINI, HOOKS])


@pytest.mark.parametrize(("method", "path", "expected", "names"), [
    ("GET", "/v1/models", "/v1/models", {}),
    ("GET", "/v1/models/", "/v1/models", {}),
    ("GET", "/v1/models/openai/gpt-5", "/v1/models/{model:path}", {"model": "openai/gpt-5"}),
    ("POST", "/v1/models/openai/gpt-5:generateContent", "/v1/models/{name:path}:generateContent", {"name": "openai/gpt-5"}),
    ("HEAD", "/v1/things", "/v1/things", {}),
    ("PUT", "/v1/things/known", "/v1/things/{thing}", {"thing": "known"}),
    ("POST", "/v1/things/known", "/v1/things/known", {}),
    ("POST", "/v1/things/x/stop-soon", "/v1/things/{thing}/{verb}-soon", {"thing": "x", "verb": "stop"}),
    ("GET", "/v1/things/x/stop-soon", "/v1/things/{a}/{b}", {"a": "x", "b": "stop-soon"}),
    ("PATCH", "/e/1/any/where", "/e/{hook}/{rest:path}", {"hook": "1", "rest": "any/where"}),
])  # fmt: skip
def test_a_request_reaches_the_most_specific_row(
    method: str, path: str, expected: str, names: dict[str, str]
):
    matched_route = ROUTER.find(method, path)
    assert (matched_route.row.path, dict(matched_route.names)) == (expected, names)


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("GET", "/v1/chat/completions", "POST, OPTIONS"),
    ("PUT", "/v1/things", "GET, HEAD, POST, OPTIONS"),
    ("DELETE", "/v1/things/known", "POST, PUT, OPTIONS"),
    ("DELETE", "/v1/models/x:generateContent", "GET, HEAD, POST, OPTIONS"),
])  # fmt: skip
def test_a_wrong_method_gets_the_allowed_methods(method: str, path: str, allow: str):
    with pytest.raises(MethodNotAllowedError) as caught:
        ROUTER.find(method, path)
    assert caught.value.headers == {"allow": allow}
    assert (
        ROUTER.find("OPTIONS", path).row.status,
        ", ".join(ROUTER.allowed(path)),
    ) == (204, allow)


def test_an_unknown_method_is_a_different_error():
    for path in ("/v1/things", "/v1/nothing", "/v1/things/x"):
        with pytest.raises(UnknownMethodError):
            ROUTER.find("BREW", path)


@pytest.mark.parametrize(("path", "message"), [
    ("/v1/file", "Not found: /v1/file"),
    ("/v1/thing", "Not found: /v1/thing; did you mean /v1/things?"),
    ("/v1/chat/completion", "Not found: /v1/chat/completion; did you mean /v1/chat/completions?"),
    ("/v1/messages/batches", "Not found: /v1/messages/batches; did you mean /v1/messages?"),
    ("/v1/models\n", "Not found: /v1/models\n; did you mean /v1/models?"),
    ("/" + "x" * 5000, "Not found: /" + "x" * 199),
])  # fmt: skip
def test_an_unknown_path_gets_the_closest_path(path: str, message: str):
    with pytest.raises(NoSuchPathError) as caught:
        ROUTER.find("GET", path)
    assert str(caught.value) == message


@pytest.mark.parametrize(("path", "headers", "expected"), [
    ("/v1/nothing", [], OPENAI),
    ("/v1/messages/batches", [], ANTHROPIC),
    ("/v1/messagesx", [], OPENAI),
    ("/v1beta/x", [], GOOGLE),
    ("/v1/nothing", [(b"anthropic-version", b"2023-06-01")], ANTHROPIC),
    ("/v1/nothing", [(b"x-goog-api-key", b"x")], GOOGLE),
    ("/nothing", [], OPENAI),
])  # fmt: skip
def test_what_is_in_no_table_is_refused_in_its_clients_words(
    path: str, headers: list[tuple[bytes, bytes]], expected: object
):
    assert ROUTER.errors_for(path, headers) is expected


async def refuse(request: Request, row: Row) -> Reply:
    raise AssertionError(f"{request} must not enter for {row}")


def test_options_is_answered_without_authentication():
    closed = Api(
        name="closed", title="", about="", prefixes=("/closed",), errors=OPENAI, rows=(row("POST", "/closed"),),
        enter=refuse,
    )  # fmt: skip
    matched_route = Router([closed]).find("OPTIONS", "/closed")
    assert (
        matched_route.api.errors,
        matched_route.api.enter,
        matched_route.row.auth,
    ) == (OPENAI, call_handler, NO_AUTH)


def test_two_rows_for_one_method_and_path_are_an_error():
    for left_path, right_path in (
        ("/a/b", "/a/b"),
        ("/a/{x}", "/a/{y}"),
        ("/a/{x:path}:go", "/a/{y:path}:go"),
    ):
        with pytest.raises(ValueError, match="Duplicate route GET"):
            Router(
                [
                    api("x", "/", row("GET", left_path)),
                    api("y", "/", row("GET", right_path)),
                ]
            )


def test_only_api_keys_have_a_role():
    with pytest.raises(ValueError, match="role"):
        Auth(Admission.API_KEY)
    with pytest.raises(ValueError, match="role"):
        Auth(Admission.APP_KEY, Role.OWNER)
    assert not NO_AUTH.checks_origin


SEGMENT = st.text("ab-:.", min_size=1, max_size=3)
PIECE = st.one_of(st.sampled_from(["things", "models", "known"]), SEGMENT)
PATTERN = st.lists(st.one_of(PIECE, st.just("{}")), min_size=1, max_size=5)


@given(
    st.lists(st.tuples(st.sampled_from(METHODS), PATTERN), max_size=12),
    st.lists(PIECE, min_size=1, max_size=5),
)
def test_the_router_agrees_with_a_linear_search(
    table: list[tuple[str, list[str]]], requested_segments: list[str]
):
    """The router agrees with trying one regular expression per row in turn."""
    paths = {
        (
            method,
            "/"
            + "/".join(
                segment if segment != "{}" else f"{{n{n}}}"
                for n, segment in enumerate(pattern_segments)
            ),
        )
        for method, pattern_segments in table
    }
    router, path = (
        Router(
            [
                api(
                    "x",
                    "/",
                    *(row(*method_and_path) for method_and_path in sorted(paths)),
                )
            ]
        ),
        "/" + "/".join(requested_segments),
    )
    matching_methods = {
        method
        for method, route_path in paths
        if re.fullmatch(re.sub(r"\\\{n\d\\\}", "[^/]+", re.escape(route_path)), path)
    }
    expected = (
        matching_methods
        | ({"OPTIONS"} if matching_methods else set())
        | ({"HEAD"} if "GET" in matching_methods else set())
    )
    assert set(router.allowed(path)) == expected
    for method in METHODS:
        if method in expected:
            assert router.find(method, path).row.method in (method, "GET")
        else:
            with pytest.raises((NoSuchPathError, MethodNotAllowedError)):
                router.find(method, path)
