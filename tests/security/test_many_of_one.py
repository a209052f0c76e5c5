"""Tests for lists from callers: each has a maximum length, which the error names."""

from collections.abc import Callable
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.entities import Condition, Conditions
from modelyard.knowledge.filters import check
from modelyard.wire import (
    anthropic,
    bedrock,
    cohere,
    cohere_retrieval,
    dashscope,
    gemini,
    ollama,
    openai_chat,
    openai_rerank,
    openai_responses,
)
from modelyard.workflow.nodes.trigger import ScheduleData
from modelyard.workflow.schedule import ScheduleError, schedule_of

_MANY = 1025
_CHAT = {"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
_FUNCTION = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}},
}
_REQUESTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "openai": (openai_chat.parse_request, {**_CHAT, "tools": [_FUNCTION] * _MANY}),
    "openai's functions": (openai_chat.parse_request, {**_CHAT, "functions": [{"name": "f"}] * _MANY}),
    "responses": (openai_responses.parse_request, {
        "model": "m", "input": "a", "tools": [{"type": "function", "name": "f", "parameters": {}}] * _MANY}),
    "anthropic": (anthropic.parse_request, {**_CHAT, "tools": [{"name": "f", "input_schema": {}}] * _MANY}),
    "cohere": (cohere.parse_request, {**_CHAT, "tools": [_FUNCTION] * _MANY}),
    "ollama": (ollama.parse_request, {**_CHAT, "tools": [_FUNCTION] * _MANY}),
    "gemini": (lambda body: gemini.parse_request(body, stream=False), {
        "contents": [{"parts": [{"text": "a"}]}], "tools": [{"functionDeclarations": [{"name": "f"}] * _MANY}]}),
    "bedrock": (lambda body: bedrock.parse_request(body, stream=False), {
        "messages": [{"role": "user", "content": [{"text": "a"}]}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}] * _MANY}}),
    "dashscope": (lambda body: dashscope.parse_request(body, stream=False), {
        "input": {"messages": [{"role": "user", "content": "a"}]}, "parameters": {"tools": [_FUNCTION] * _MANY}}),
    "rerank": (openai_rerank.parse_request, {"query": "q", "documents": ["d"] * 1001}),
    "cohere's rerank": (cohere_retrieval.parse_rerank_request, {"query": "q", "documents": ["d"] * 10_001}),
}  # fmt: skip


@pytest.mark.parametrize("name", _REQUESTS)
def test_a_request_with_too_many_items_names_the_field(name: str):
    parse, body = _REQUESTS[name]
    with pytest.raises(
        InvokeBadRequestError,
        match=r"'[\w.]+' has \d+,\d{3} entries; maximum \d+,\d{3}",
    ):
        parse(body)


def test_conditions_and_cron_expressions_are_limited():
    condition = Condition(name="a", comparison_operator="is", value="b")
    check(Conditions(logical_operator="or", conditions=[condition] * 200))
    with pytest.raises(InvokeBadRequestError, match="has 201 entries; maximum 200"):
        check(Conditions(logical_operator="or", conditions=[condition] * 201))
    with pytest.raises(
        ScheduleError, match="has 60,009 characters; the maximum is 1,000"
    ):
        schedule_of(
            ScheduleData(
                title="t", mode="cron", cron_expression="1," * 30_000 + "1 * * * *"
            )
        )
