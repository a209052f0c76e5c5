"""Real exchanges, replayed: what we read and write again means the same."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from modelyard.base.errors import InvokeError
from modelyard.models.llm import fold
from modelyard.providers.http_errors import error_of
from modelyard.transport.sse import DONE, EventStream
from modelyard.wire import openai_chat, openai_embeddings

FILE = Path(__file__).with_name("recordings") / "openai.jsonl.gz"


@cache
def exchanges(ending: str) -> list[dict[str, Any]]:
    with gzip.open(FILE, "rt", encoding="utf-8") as stream:
        every = [json.loads(line) for line in stream]
    return [one for one in every if one["path"].partition("?")[0].endswith(ending)]


def meaning(value: Any) -> Any:
    """The value without what says nothing: nulls, empty lists, objects and texts."""
    if isinstance(value, dict):
        return {key: inner for key, raw in value.items() if (inner := meaning(raw)) not in (None, [], {}, "")}
    return [meaning(one) for one in value] if isinstance(value, list) else value


def parsed_requests() -> list[tuple[dict[str, Any], Any]]:
    found: list[tuple[dict[str, Any], Any]] = []
    for one in exchanges("/chat/completions"):
        try:
            found.append((one["request"], openai_chat.parse_request(one["request"])))
        except InvokeError:
            continue
    return found


def test_nearly_every_recorded_request_is_understood():
    """What is not: server tools and parts of other vendors, and requests that were wrong on purpose."""
    assert len(parsed_requests()) >= 0.97 * len(exchanges("/chat/completions"))


def test_a_request_says_the_same_after_reading_and_writing():
    for body, request in parsed_requests():
        field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        again = openai_chat.dump_request(request, body.get("model", ""), {"max_tokens_field": field})
        for name in ("messages", "temperature", "top_p", "stop", "seed", "response_format", "tool_choice", field):
            if name == "messages" and "reasoning" in json.dumps(body):
                continue  # vendors spell the field in two ways; we write one
            wanted = meaning(body.get(name))
            got = meaning(again.get(name))
            if name == "stop" and isinstance(wanted, str):
                wanted = [wanted]
            if name == "messages":
                wanted, got = _without_details(wanted), _without_details(got)
            if name == "tool_choice" and wanted == "any":
                wanted = "required"
            assert got == wanted, (body, name)


def _without_details(messages: Any) -> Any:
    text = json.dumps(messages, sort_keys=True)
    return text.replace(', "detail": "auto"', "").replace('"detail": "auto", ', "")


def test_reading_what_we_wrote_gives_the_same_request():
    for body, request in parsed_requests():
        again = openai_chat.dump_request(request, "m", {})
        again.pop("stream_options", None)
        assert openai_chat.parse_request(again) == request, body


def test_every_whole_answer_keeps_its_text_calls_and_usage():
    count = 0
    for one in exchanges("/chat/completions"):
        body = one["response"]
        if one["status"] != 200 or not isinstance(body, dict) or not body.get("choices"):
            continue
        try:
            result = openai_chat.parse_result(body)
        except InvokeError:
            continue
        written = openai_chat.dump_result(result)
        assert openai_chat.parse_result(written) == result
        message = body["choices"][0]["message"]
        assert meaning(written["choices"][0]["message"].get("content")) == meaning(message.get("content"))
        names = [call["function"]["name"] for call in message.get("tool_calls") or ()]
        assert [call.function.name for call in result.tool_calls] == names
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert written["usage"][name] == (body.get("usage") or {}).get(name, 0)
        count += 1
    assert count > 500


def test_every_stream_reads_to_its_end_and_writes_to_the_same_answer():
    count = 0
    for one in exchanges("/chat/completions"):
        if one["status"] != 200 or not isinstance(one["response"], str):
            continue
        events = EventStream()
        data = events.feed(one["response"].encode()) + events.finish()
        parser = openai_chat.StreamParser()
        try:
            chunks = [chunk for event in data if event not in (DONE, b"") for chunk in parser.feed(json.loads(event))]
            parser.finish(done=DONE in data)
        except InvokeError:
            # Cut short, or an error in the middle: said so, not passed over.
            assert DONE not in data or '"error"' in one["response"]
            continue
        if not any(chunk.delta.finish_reason for chunk in chunks):
            continue  # ended by [DONE] alone, which is no event
        whole, again = fold(chunks), fold(openai_chat.parse_stream(openai_chat.dump_stream(chunks)))
        assert (again.choices, again.usage, again.id) == (whole.choices, whole.usage, whole.id), one["id"]
        count += 1
    assert count > 120


def test_every_embedding_answer_is_read():
    count = 0
    for one in exchanges("/embeddings"):
        if one["status"] == 200 and isinstance(one["response"], dict) and one["response"].get("data"):
            result = openai_embeddings.parse_result(one["response"])
            assert len(result.embeddings) == len(one["response"]["data"])
            assert all(isinstance(number, float | int) for number in result.embeddings[0])
            count += 1
    assert count > 20


def test_every_refusal_becomes_an_error_with_the_providers_words():
    count = 0
    for one in [*exchanges("/chat/completions"), *exchanges("/embeddings")]:
        if one["status"] >= 400:
            error = error_of(one["status"], {}, json.dumps(one["response"]).encode(), provider="p")
            assert str(error).startswith("[p] ")
            assert "without a message" not in str(error), one["response"]
            count += 1
    assert count > 10
