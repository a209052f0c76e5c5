"""Tests for what a call belongs to: the session, project, tags and user, as headers and
agents say, and as the usage is grouped by."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from modelyard.runtime.attribution import split_user
from modelyard.testing import Upstream, chat_answer
from tests.gateway.conftest import Running
from tests.gateway.test_money import chat, usage_by
from tests.gateway.test_traffic import ask

Start = Callable[..., Running]
HELLO = [{"role": "user", "content": "hi"}]
SESSION = "0e6a2f0c-93a1-4c55-8d5e-1f6f0f2b7a11"
ACCOUNT = "5d1d8a4e-7f0b-4b0e-9a52-2b7f5e6c9d00"
DEVICE = "a" * 64


def post(running: Running, path: str, body: Any, **headers: str) -> Any:
    """Return the answer to a request; underscores of header names are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(running, "POST", path, body, headers=named)


@pytest.mark.case("8.2")
def test_headers_say_what_a_call_belongs_to(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "messages": HELLO}
    headers = {
        "x_modelyard_session": "s-1",
        "x_modelyard_project": "Site search",
        "x_modelyard_tags": "red, blue,red",
    }
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert post(running, path, {**body, "max_tokens": 5}, **headers).status == 200
    assert chat(running, "echo/echo").status == 200
    for row in running.flush()[1:]:
        assert (row.session, row.project, row.tags) == (
            "s-1",
            "Site search",
            "blue,red",
        )
    by_session = {row["session"]: row["calls"] for row in usage_by(running, "session")}
    assert by_session == {"s-1": 2, "-": 1}
    by_project = {row["project"]: row["calls"] for row in usage_by(running, "project")}
    assert by_project == {"Site search": 2, "-": 1}
    by_tag = {row["tag"]: row["calls"] for row in usage_by(running, "tag")}
    assert by_tag == {"red": 2, "blue": 2, "-": 1}


def test_sums_by_tag_add_up_over_different_sets_of_tags(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "messages": HELLO}
    for tags in ("a", "a,b", "b,c"):
        post(running, "/v1/chat/completions", body, x_modelyard_tags=tags)
    sums = usage_by(running, "tag,model")
    assert {row["tag"]: row["calls"] for row in sums} == {"a": 2, "b": 2, "c": 1}
    assert {row["model"] for row in sums} == {"echo"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-modelyard-session", "x" * 129),
        ("x-modelyard-session", "tab\there"),
        ("x-modelyard-project", "\u00e9"),
        ("x-modelyard-tags", "x" * 65),
        ("x-modelyard-tags", "two words"),
        ("x-modelyard-tags", ",".join(f"t{n}" for n in range(11))),
    ],
)
def test_invalid_headers_are_refused(start_gateway: Start, name: str, value: str):
    body = {"model": "echo/echo", "messages": HELLO}
    reply = ask(
        start_gateway(), "POST", "/v1/chat/completions", body, headers={name: value}
    )
    assert (reply.status, reply.json["error"]["param"]) == (400, name)


@pytest.mark.case("8.2")
@pytest.mark.parametrize(
    ("user_id", "user"),
    [
        (
            {"account_uuid": ACCOUNT, "device_id": DEVICE, "session_id": SESSION},
            ACCOUNT,
        ),
        ({"account_uuid": "", "device_id": DEVICE, "session_id": SESSION}, DEVICE),
        (f"user_{DEVICE}_account_{ACCOUNT}_session_{SESSION}", ACCOUNT),
        (f"user_{DEVICE}_account__session_{SESSION}", DEVICE),
    ],
)
def test_the_user_of_claude_code_is_its_account(
    start_gateway: Start, user_id: Any, user: str
):
    running = start_gateway()
    text = user_id if isinstance(user_id, str) else json.dumps(user_id)
    body = {
        "model": "echo/echo",
        "max_tokens": 5,
        "messages": HELLO,
        "metadata": {"user_id": text},
    }
    assert post(running, "/v1/messages", body).status == 200
    (row,) = running.flush()
    assert (row.user, row.session) == (user, SESSION)


@pytest.mark.case("8.2")
def test_the_header_of_claude_code_names_the_session(start_gateway: Start):
    running = start_gateway()
    body = {"model": "echo/echo", "max_tokens": 5, "messages": HELLO}
    post(running, "/v1/messages", body, x_claude_code_session_id=SESSION)
    # A value that is no name is not the caller's choice, so it is left out.
    post(running, "/v1/messages", body, x_claude_code_session_id="x" * 200)
    assert [row.session for row in running.flush()] == ["", SESSION]


def test_the_whole_text_still_reaches_the_provider(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    server = upstream(lambda request: chat_answer("fine"))
    running = start_gateway(server)
    assert chat(running, "openai/gpt-5-mini", user="plain-user").status == 200
    assert server.requests[0].json["user"] == "plain-user"
    (row,) = running.flush()
    assert (row.user, row.session) == ("plain-user", "")


def test_openais_metadata_and_cache_key_are_read(start_gateway: Start):
    running = start_gateway()
    metadata = {"session_id": "s-2", "project": "p", "tags": "x,y"}
    assert chat(running, "echo/echo", metadata=metadata).status == 200
    body = {"model": "echo/echo", "input": "hi", "prompt_cache_key": "codex-1"}
    assert post(running, "/v1/responses", body).status == 200
    codex, metered = running.flush()
    assert (metered.session, metered.project, metered.tags) == ("s-2", "p", "x,y")
    assert codex.session == "codex-1"


def test_embeddings_are_attributed_too(
    start_gateway: Start, upstream: Callable[..., Upstream]
):
    running = start_gateway()
    body = {"model": "echo/echo", "input": "hi"}
    reply = post(running, "/v1/embeddings", body, x_modelyard_tags="t")
    if reply.status == 200:
        assert running.flush()[0].tags == "t"


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '{"session_id": 5}', "user_x", "{" * 9000, "\0", ""]
)
def test_any_other_user_stays_as_it_is(text: str):
    assert split_user(text) == (text, "")


def test_an_unknown_grouping_is_refused(start_gateway: Start):
    assert ask(start_gateway(), "GET", "/admin/v1/usage?by=tags").status == 400
