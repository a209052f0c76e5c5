"""Answers of plugin models reach callers in full, and what a plugin needs of them comes
back to it with the next request."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    PluginError,
)
from modelyard.plugins.model_errors import as_invoke_error
from modelyard.wire.openai_moderations import CATEGORIES
from tests.plugins.conftest import PluginGateway, played_gateway

pytestmark = pytest.mark.proof("plugin-kinds")

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("weather", "now")
]


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, environments: Path
) -> Iterator[PluginGateway]:
    home = tmp_path_factory.mktemp("answers")
    models = {"odd": "features: [tool-call]\n", "alone": "features: [tool-call]\n"}
    failover = {"played/odd": ["echo/echo"]}
    with played_gateway(
        home, weights_folder, environments, models, failover=failover
    ) as started:
        yield started


@pytest.fixture(scope="module")
def client(gateway: PluginGateway) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=gateway.running.url, api_key="any", max_retries=0, timeout=60
    ) as api:
        yield api


def script(*deltas: Any, error: Any = None) -> list[Any]:
    played = {"deltas": deltas} | ({"error": error} if error else {})
    return [{"role": "user", "content": json.dumps(played)}]


def said(content: Any = "", *calls: Any, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message["tool_calls"] = [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for call_id, name, arguments in calls
    ]
    opaque = {"opaque_body": fields.pop("opaque")} if "opaque" in fields else {}
    return {"message": message | opaque, **fields}


def both(
    client: OpenAI, messages: list[Any], model: str = "played/alone"
) -> Iterator[dict[str, Any]]:
    """Yield the answer as a whole, and folded from a stream."""
    ask: Any = {"model": model, "messages": messages, "tools": TOOLS}
    choice = client.chat.completions.create(**ask).choices[0]
    yield choice.model_dump(exclude_none=True)
    with client.chat.completions.create(**ask, stream=True) as stream:
        yield folded(stream)


def folded(stream: Any) -> dict[str, Any]:
    """Return the choice that a stream adds up to."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    message["reasoning_details"] = []
    reasons: list[str] = []
    for part in (part for chunk in stream for part in chunk.choices):
        delta = part.delta.model_dump(exclude_none=True)
        for name in ("content", "reasoning_content"):
            message[name] += delta.get(name, "")
        message["reasoning_details"] += delta.get("reasoning_details", [])
        for fragment in delta.get("tool_calls", []):
            add_call(message["tool_calls"], fragment)
        reasons += [part.finish_reason] if part.finish_reason else []
    assert len(reasons) == 1
    kept = {key: value for key, value in message.items() if value}
    return {"message": kept, "finish_reason": reasons[0]}


def add_call(calls: list[Any], fragment: dict[str, Any]) -> None:
    if fragment["index"] == len(calls):
        function = {"name": "", "arguments": ""}
        calls.append({"id": fragment["id"], "function": function})
    function = calls[fragment["index"]]["function"]
    for name in ("name", "arguments"):
        function[name] += fragment["function"].get(name, "")


def calls_of(choice: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (call["function"]["name"], call["function"]["arguments"])
        for call in choice["message"]["tool_calls"]
    ]


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        ([said("hi"), said("", usage=USAGE)], "stop"),
        ([said("hi", finish_reason="FinishReason.MAX_TOKENS")], "length"),
        ([said("hi", finish_reason="null"), said("!")], "stop"),
        ([said("hi", finish_reason="SAFETY"), said("", finish_reason="")], "content_filter"),
        ([said("", ("a", "now", "{}"))], "tool_calls"),
        ([said("", ("a", "now", "{}")), said("", finish_reason="stop")], "tool_calls"),
        ([said("hi", finish_reason="length"), said("", ("a", "now", '{"a'))], "length"),
    ],
)  # fmt: skip
def test_every_answer_has_a_finish_reason(
    client: OpenAI, deltas: list[Any], reason: str
):
    for choice in both(client, script(*deltas)):
        assert choice["finish_reason"] == reason


PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'


@pytest.mark.parametrize(
    "deltas",
    [
        # Ids that are the name of the function, the same text for all, or nothing.
        [said("", ("weather", "weather", PARIS), ("weather", "weather", ROME))],
        [said("", ("weather", "weather", PARIS)), said("", ("weather", "weather", ROME))],
        [said("", ("x", "weather", PARIS), ("x", "weather", ROME))],
        [said("", ("", "weather", PARIS), ("", "weather", ROME))],
        [said("", ("", "weather", PARIS)), said("", ("", "weather", ROME))],
        # Arguments in pieces: with the id alone, with id and name again, with neither.
        [said("", ("a", "weather", '{"city": ')), said("", ("a", "", '"Paris"}')), said("", ("b", "weather", ROME))],
        [said("", ("a", "weather", '{"city"')), said("", ("a", "weather", ': "Paris"}')), said("", ("b", "weather", ROME))],
        [said("", ("a", "weather", "")), said("", ("", "", PARIS)), said("", ("b", "weather", "")), said("", ("", "", ROME))],
        [said("", ("", "weather", '{"ci')), said("", ("", "weather", 'ty": "Paris"}')), said("", ("", "weather", ROME))],
    ],
)  # fmt: skip
def test_calls_of_one_tool_are_told_apart(client: OpenAI, deltas: list[Any]):
    for choice in both(client, script(*deltas)):
        assert calls_of(choice) == [("weather", PARIS), ("weather", ROME)]
        ids = {call["id"] for call in choice["message"]["tool_calls"]}
        assert len(ids) == 2
        assert "" not in ids


def test_calls_without_arguments_are_told_apart(client: OpenAI):
    deltas = [said("", ("now", "now", ""), ("now", "now", ""))]
    for choice in both(client, script(*deltas)):
        assert [name for name, _ in calls_of(choice)] == ["now", "now"]


def test_the_plugin_gets_its_own_ids_and_the_names_of_results(client: OpenAI):
    deltas = [said("", ("weather", "weather", PARIS), ("weather", "weather", ROME))]
    for choice in both(client, script(*deltas)):
        message = choice["message"] | {"role": "assistant"}
        for call in message["tool_calls"]:
            call["type"] = "function"
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "20"}
            for call in message["tool_calls"]
        ]
        received = history(client, [message, *results])
        assert [call["id"] for call in received[1]["tool_calls"]] == ["weather"] * 2
        assert [(m["tool_call_id"], m["name"]) for m in received[2:4]] == [
            ("weather", "weather")
        ] * 2


def history(
    client: OpenAI, messages: list[Any], model: str = "played/alone"
) -> list[Any]:
    """Return the messages that the plugin receives after a question and these."""
    completion = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "user", "content": "first"},
            *messages,
            {"role": "user", "content": "and then?"},
        ],
        tools=TOOLS,
    )
    return json.loads(str(completion.choices[0].message.content))["prompt_messages"]


def test_content_in_parts_is_one_text(client: OpenAI):
    parts = [{"type": "text", "data": "one "}, {"type": "text", "data": "two "}]
    for choice in both(client, script(said(parts), said("three"))):
        assert choice["message"]["content"] == "one two three"


def test_text_around_an_image_keeps_its_order(gateway: PluginGateway):
    image = {"type": "image", "format": "png", "mime_type": "image/png", "base64_data": "aGk=", "url": ""}  # fmt: skip
    deltas = [said("before"), said([{"type": "text", "data": " it"}, image]), said("after"), said(" all")]  # fmt: skip
    body = {"messages": script(*deltas), "model": "played/alone", "max_tokens": 100}
    answered = httpx.post(
        f"{gateway.running.url}/messages", json=body, timeout=60
    ).json()
    texts = [part.get("text") for part in answered["content"]]
    assert "".join(text for text in texts if text) == "before itafter all"


MARKED = "<think>\n<!--their-mark-->a &lt; b &amp; c\n</think>"


@pytest.mark.parametrize(
    ("pieces", "reasoning", "text"),
    [
        (["<think>\nhmm\n</think>\n\nyes"], "hmm", "yes"),
        (["<th", "ink>\nh", "mm", "\n", "</thi", "nk>", "\n\nyes"], "hmm", "yes"),
        ([*MARKED, "yes"], "a < b & c", "yes"),
        (["<think>", "one\n", "\ntwo"], "one\n\ntwo", ""),
        (["a <think> b </think>"], "", "a <think> b </think>"),
    ],
)
def test_reasoning_in_the_text_is_reasoning(
    client: OpenAI, pieces: list[str], reasoning: str, text: str
):
    for choice in both(client, script(*[said(piece) for piece in pieces])):
        message = choice["message"]
        assert message.get("reasoning_content", "") == reasoning
        assert message.get("content", "") == text


@pytest.mark.parametrize("is_loose", [False, True])
@pytest.mark.parametrize(
    ("deltas", "content", "opaque"),
    [
        ([said(MARKED), said("yes", ("c", "now", "{}"))], f"{MARKED}yes", None),
        (
            [said("yes", ("c", "now", "{}"), opaque={"items": [{"type": "x"}]})],
            "yes",
            {"items": [{"type": "x"}]},
        ),
        (
            [said("<think>why</think>"), said("", ("c", "now", "{}"), opaque=["k"])],
            "<think>why</think>",
            ["k"],
        ),
    ],
)
def test_a_plugin_gets_back_what_it_sent_with_its_calls(
    client: OpenAI, deltas: list[Any], content: str, opaque: Any, is_loose: bool
):
    for choice in both(client, script(*deltas)):
        message = choice["message"] | {"role": "assistant"}
        message["tool_calls"][0]["type"] = "function"
        # Many clients return the text and the calls only.
        if is_loose:
            message = {
                name: message[name]
                for name in ("role", "content", "tool_calls")
                if name in message
            }
        result = {
            "role": "tool",
            "tool_call_id": message["tool_calls"][0]["id"],
            "content": "12:00",
        }
        received = history(client, [message, result])
        assert received[1]["content"] == content
        assert received[1].get("opaque_body") == opaque
        assert received[1]["tool_calls"][0]["id"] == "c"
        assert received[2]["tool_call_id"] == "c"


def test_reasoning_of_an_answer_goes_back_as_text(client: OpenAI):
    for choice in both(client, script(said("<think>\nhmm\n</think>\n\nyes"))):
        message = choice["message"] | {"role": "assistant"}
        message.pop("tool_calls", None)
        assert history(client, [message])[1]["content"] == (
            "<think>\nhmm\n</think>\nyes"
        )


def test_an_opaque_body_is_not_shown_to_another_plugin_or_changed(client: OpenAI):
    deltas = [said("yes", ("c", "now", "{}"), opaque={"secret": 1})]
    choice = next(iter(both(client, script(*deltas))))
    message = choice["message"] | {"role": "assistant"}
    call_id = message["tool_calls"][0]["id"]
    message.pop("reasoning_details", None)
    for changed in (call_id[:-9], call_id.replace("mYardSigp", "mYardSigg")):
        message["tool_calls"][0] |= {"id": changed, "type": "function"}
        result = {"role": "tool", "tool_call_id": changed, "content": "12:00"}
        received = history(client, [message, result])
        assert "opaque_body" not in received[1]


def test_anthropics_clients_return_an_opaque_body_too(gateway: PluginGateway):
    deltas = [said("<think>\nhmm\n</think>"), said("", ("c", "now", "{}"), opaque={"k": 1})]  # fmt: skip
    tools = [{"name": "now", "input_schema": {"type": "object", "properties": {}}}]
    body: dict[str, Any] = {"model": "played/alone", "max_tokens": 100, "tools": tools}
    url = f"{gateway.running.url}/messages"
    first = httpx.post(url, json={**body, "messages": script(*deltas)}, timeout=60)
    answered = first.json()
    assert answered["stop_reason"] == "tool_use"
    kinds = [block["type"] for block in answered["content"]]
    assert kinds == ["thinking", "tool_use"]
    assert answered["content"][0]["thinking"] == "hmm"
    call = answered["content"][1]
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": answered["content"]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call["id"], "content": "12"},
                {"type": "text", "text": "and then?"},
            ],
        },
    ]
    again = httpx.post(url, json={**body, "messages": messages}, timeout=60).json()
    received = json.loads(again["content"][-1]["text"])["prompt_messages"]
    assert received[1]["opaque_body"] == {"k": 1}
    assert received[1]["content"] == "<think>\nhmm\n</think>"


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (("InvokeRateLimitError", "[x] slow down"), 429),
    (("InvokeAuthorizationError", "[x] Incorrect model credentials provided"), 401),
    (("InvokeError", "[x] Error: API request failed with status code 429: {}"), 429),
    (("InvokeError", "[x] Error: API request failed with status code 401: no"), 401),
    (("InvokeError", "[x] Error: Error code: 429 - {'error': {'message': 'no'}}"), 429),
    (("InvokeError", "[x] Error: {'message': 'no', 'code': 'rate_limit_exceeded'}"), 429),
    (("InvokeError", "[g] Error: 429 RESOURCE_EXHAUSTED. {'error': {'code': 429}}"), 429),
    (("InvokeError", "[x] Error: 401 Client Error: Unauthorized for url: http://x"), 401),
    (("InvokeBadRequestError", "[x] Bad Request Error, Error code: 429 - {}"), 429),
    (("InvokeConnectionError", "[x] Connection Error, Error code: 401 - {}"), 401),
    (("InvokeServerUnavailableError", "[x] HTTP 401 Unauthorized"), 401),
    (("RateLimitError", "no"), 429),
    (("APIReachLimitError", "no"), 429),
    (("AuthenticationError", "no"), 401),
    (("Unauthenticated", "no"), 401),
    (("ThrottlingException", "no"), 429),
    (("Exception", "Throttling.RateQuota: Requests rate limit exceeded"), 429),
    (("RuntimeError", "Invalid API-key provided."), 401),
    (("InvokeError", "[x] Error: Too many requests, please wait"), 429),
    (("ValueError", "max_tokens (512) must be at most 429"), 400),
    (("InvokeBadRequestError", "[x] Bad Request Error, no such thing"), 400),
    (("InvokeError", "[x] Error: Error code: 503 - busy"), 503),
    (("InvokeError", "[x] Error: API request failed with status code 403: Port 1 of '::1' is blocked; allowed are 80, 443, and addresses listed under egress.private"), 502),
    (("ConnectError", "All connection attempts failed"), 502),
]  # fmt: skip


CLASSES = {
    400: InvokeBadRequestError,
    401: InvokeAuthorizationError,
    429: InvokeRateLimitError,
    502: InvokeConnectionError,
    503: InvokeServerUnavailableError,
}


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_errors_are_recognised_by_class_and_text(error: tuple[str, str], status: int):
    name, text = error
    converted = as_invoke_error(PluginError(text, kind=name), "played")
    assert type(converted) is CLASSES[status]


def test_a_refusal_before_the_first_text_fails_over_and_rests(
    gateway: PluginGateway, client: OpenAI
):
    refused = ("InvokeError", "[x] Error: API request failed with status code 429: no")
    for is_stream in (False, True):
        body = {
            "model": "played/odd",
            "messages": script(error=refused),
            "stream": is_stream,
        }
        answered = httpx.post(
            f"{gateway.running.url}/chat/completions", json=body, timeout=60
        )
        assert answered.status_code == 200
        assert "echo" in answered.text
    body = {"model": "played/alone", "messages": script(said("a"), error=refused)}
    with httpx.stream(
        "POST",
        f"{gateway.running.url}/chat/completions",
        json={**body, "stream": True},
        timeout=60,
    ) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data:")]
    assert "rate_limit" in lines[-1]


def test_a_verdict_has_no_category_that_nobody_judged(plugged: Callable[..., Any]):
    gateway = plugged()
    gateway.install("sixfold")
    body = {"model": "sixfold/words", "input": ["a bad word"]}
    answered = httpx.post(
        f"{gateway.running.url}/moderations", json=body, timeout=60
    ).json()
    # Clients of this format need all of OpenAI's categories, and no other is added.
    assert set(answered["results"][0]["categories"]) == set(CATEGORIES)
