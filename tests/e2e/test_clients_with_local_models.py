"""Tests with four vendors' official clients against a new server with local models."""

import gc
from collections.abc import Iterator
from typing import Any

import anthropic
import cohere
import openai
import pytest
from google import genai
from google.genai import types

from tests.e2e.conftest import Served

pytestmark = [
    pytest.mark.proof("clients"),
    pytest.mark.local,
    pytest.mark.xdist_group("local"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect garbage, so that unclosed connections are reported in their own test."""
    yield
    gc.collect()


ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]


def origin(served: Served) -> str:
    return served.url.removesuffix("/v1")


def test_anthropics(served: Served):
    client = anthropic.Anthropic(base_url=origin(served), api_key="none", max_retries=0)
    message = client.messages.create(
        model="default", max_tokens=20, messages=ASKED, extra_body={"temperature": 0}
    )
    assert "hello" in message.content[0].text.lower()
    with client.messages.stream(
        model="default", max_tokens=20, messages=ASKED, extra_body={"temperature": 0}
    ) as stream:
        assert "hello" in "".join(stream.text_stream).lower()
        assert stream.get_final_message().usage.output_tokens > 0
    token_count = client.messages.count_tokens(model="default", messages=ASKED)
    assert token_count.input_tokens == message.usage.input_tokens
    tools: list[Any] = [
        {
            "name": "get_weather",
            "description": "Get the weather of a city",
            "input_schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }
    ]
    choice: Any = {"type": "tool", "name": "get_weather"}
    question: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = client.messages.create(
        model="default",
        max_tokens=100,
        extra_body={"temperature": 0},
        messages=question,
        tools=tools,
        tool_choice=choice,
    )
    block = next(
        content_block
        for content_block in called.content
        if content_block.type == "tool_use"
    )
    assert (block.name, "paris" in str(block.input).lower()) == ("get_weather", True)


def test_googles(served: Served):
    client = genai.Client(
        api_key="none", http_options=types.HttpOptions(base_url=origin(served))
    )
    config = types.GenerateContentConfig(temperature=0, max_output_tokens=20)
    assert (
        "hello"
        in client.models.generate_content(
            model="default", contents="Say hello.", config=config
        ).text.lower()
    )
    streamed = client.models.generate_content_stream(
        model="default", contents="Say hello.", config=config
    )
    assert "hello" in "".join(chunk.text or "" for chunk in streamed).lower()
    vectors = client.models.embed_content(
        model="default-text-embedding", contents=["a", "b"]
    ).embeddings
    assert [len(embedding.values) for embedding in vectors] == [512, 512]


def test_coheres(served: Served):
    client = cohere.ClientV2(api_key="none", base_url=origin(served))
    response = client.chat(
        model="default", messages=ASKED, temperature=0, max_tokens=20
    )
    assert "hello" in response.message.content[0].text.lower()
    documents = ["Sydney is the largest city.", "Canberra is the capital of Australia."]
    ranked = client.rerank(
        model="default-rerank", query="capital of Australia", documents=documents
    )
    assert ranked.results[0].index == 1
    embedded = client.embed(
        model="default-text-embedding",
        texts=["a"],
        input_type="search_document",
        embedding_types=["float"],
    )
    assert len(embedded.embeddings.float_[0]) == 512


def test_openais_responses(served: Served):
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    first = client.responses.create(
        model="default",
        input="My name is Ada. Say hello.",
        temperature=0,
        max_output_tokens=30,
    )
    assert first.output_text
    second = client.responses.create(
        model="default",
        input="What is my name?",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=30,
    )
    assert "ada" in second.output_text.lower()
    shaped: Any = {
        "format": {
            "type": "json_schema",
            "name": "city",
            "schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }
    }
    answer = client.responses.create(
        model="default",
        input="Name a city in France.",
        text=shaped,
        max_output_tokens=60,
    )
    assert '"city"' in answer.output_text


@pytest.mark.case("2.3")
@pytest.mark.parametrize("stream", [False, True])
def test_a_freeform_tool_on_the_local_model(served: Served, stream: bool):
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tool: Any = {
        "type": "custom",
        "name": "write_note",
        "description": "Write a note.",
        "format": grammar,
    }
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        create: Any = client.responses.create
        answer = create(
            model="default",
            input="Write the note 'hello'.",
            tools=[tool],
            tool_choice={"type": "custom", "name": "write_note"},
            stream=stream,
            temperature=0,
            max_output_tokens=100,
        )
        response = list(answer)[-1].response if stream else answer
    (item,) = [item for item in response.output if item.type == "custom_tool_call"]
    assert item.name == "write_note"
    assert item.input
