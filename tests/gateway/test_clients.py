"""Tests with official clients and third-party libraries against the gateway.

Each uses its own format; a mock OpenAI serves them.
"""

import asyncio
import gc
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import cohere
import openai
import pytest
from google import genai
from google.genai import types
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from modelyard.testing import (
    Answer,
    Handler,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    error_answer,
    json_answer,
    stream_answer,
)
from tests.gateway.conftest import Running

Start = Callable[..., Running]
MODEL = "openai/gpt-4o"
LOOK = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"city":"Oslo"}'},
}
pytestmark = [
    pytest.mark.proof("clients"),
    # Third-party libraries may emit warnings.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect garbage, so that unclosed connections are reported in their own test."""
    yield
    gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _collected_at_the_end() -> Iterator[None]:
    """Collect the connections that were referenced until the last fixture ended."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def served(request: UpstreamRequest) -> Answer:
    """A mock model: calls its tool once, returns JSON if requested, else says hello."""
    if request.path.endswith("/embeddings"):
        return embedding_answer([[0.5, 0.25]] * len(request.json["input"]))
    if request.path.endswith("/rerank"):
        return json_answer(
            {
                "results": [
                    {"index": 1, "relevance_score": 0.9},
                    {"index": 0, "relevance_score": 0.1},
                ]
            }
        )
    # The provider's own format is passed through.
    if request.path.endswith("/responses"):
        return json_answer(RESPONSE)
    if request.path.endswith("/audio/speech"):
        return Answer(headers={"content-type": "audio/mpeg"}, body=b"ID3sound")
    if request.path.endswith("/audio/transcriptions"):
        return json_answer({"text": "words"})
    body = request.json
    if "prompt" in body:
        return json_answer(
            {"choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}]}
        )
    answered = any(message["role"] == "tool" for message in body["messages"])
    wants_json = "response_format" in body
    if body.get("tools") and not answered:
        tool_call = {
            **CALL,
            "function": {
                **CALL["function"],
                "name": body["tools"][0]["function"]["name"],
            },
        }
        return chat_answer("", tool_calls=[tool_call])
    if wants_json:
        return chat_answer('{"city": "Oslo"}')
    return (
        stream_answer(chat_events(["he", "llo"]))
        if body.get("stream")
        else chat_answer("hello")
    )


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 7,
        "output_tokens": 3,
        "total_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}


@pytest.fixture
def running(start_gateway: Start, upstream: Callable[[Handler], Upstream]) -> Running:
    return start_gateway(upstream(served))


# ---------------------------------------------------------------------------- Anthropic


@pytest.fixture
def claude(running: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.origin, api_key="none", max_retries=0)


MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


def test_anthropics_client_chats_streams_counts_and_calls_tools(
    claude: anthropic.Anthropic,
):
    message = claude.messages.create(model=MODEL, max_tokens=50, messages=MESSAGES)
    assert (
        message.content[0].text,
        message.stop_reason,
        message.usage.input_tokens,
    ) == ("hello", "end_turn", 7)
    with claude.messages.stream(
        model=MODEL, max_tokens=50, messages=MESSAGES
    ) as stream:
        assert "".join(stream.text_stream) == "hello"
        assert stream.get_final_message().usage.output_tokens == 2
    tools: list[Any] = [{"name": "look", "description": "d", "input_schema": LOOK}]
    called = claude.messages.create(
        model=MODEL, max_tokens=50, messages=MESSAGES, tools=tools
    )
    assert (called.content[0].name, called.content[0].input, called.stop_reason) == (
        "look",
        {"city": "Oslo"},
        "tool_use",
    )
    result = {
        "type": "tool_result",
        "tool_use_id": called.content[0].id,
        "content": "rain",
    }
    history = [
        *MESSAGES,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    assert (
        claude.messages.create(
            model=MODEL, max_tokens=50, messages=history, tools=tools
        )
        .content[0]
        .text
        == "hello"
    )
    assert claude.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens > 3


def test_anthropics_client_gets_errors_in_its_own_format(claude: anthropic.Anthropic):
    with pytest.raises(anthropic.NotFoundError, match="is not available"):
        claude.messages.create(model="nope", max_tokens=5, messages=MESSAGES)
    stray: list[Any] = [
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "x", "content": "y"}],
        }
    ]
    with pytest.raises(anthropic.BadRequestError, match="tool_use_id"):
        claude.messages.create(model=MODEL, max_tokens=5, messages=stray)


# ------------------------------------------------------------------------------- Google


@pytest.fixture
def gemini(running: Running) -> genai.Client:
    return genai.Client(
        api_key="none", http_options=types.HttpOptions(base_url=running.origin)
    )


def test_googles_client_chats_streams_counts_embeds_and_calls_tools(
    gemini: genai.Client,
):
    response = gemini.models.generate_content(model=MODEL, contents="hi")
    assert (response.text, response.usage_metadata.prompt_token_count) == ("hello", 7)
    streamed = gemini.models.generate_content_stream(model=MODEL, contents="hi")
    assert "".join(chunk.text or "" for chunk in streamed) == "hello"
    declared = types.FunctionDeclaration(name="look", parameters_json_schema=LOOK)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])]
    )
    called = gemini.models.generate_content(model=MODEL, contents="hi", config=config)
    assert (called.function_calls[0].name, called.function_calls[0].args) == (
        "look",
        {"city": "Oslo"},
    )
    shaped = types.GenerateContentConfig(
        response_mime_type="application/json", response_json_schema=LOOK
    )
    assert json.loads(
        gemini.models.generate_content(model=MODEL, contents="hi", config=shaped).text
    ) == {"city": "Oslo"}
    assert gemini.models.count_tokens(model=MODEL, contents="hi").total_tokens > 3
    vectors = gemini.models.embed_content(
        model="openai/text-embedding-3-small", contents=["a", "b"]
    ).embeddings
    assert [embedding.values for embedding in vectors] == [[0.5, 0.25]] * 2
    with pytest.raises(genai.errors.ClientError, match="is not available"):
        gemini.models.generate_content(model="nope", contents="hi")


# ------------------------------------------------------------------------------- Cohere


def test_coheres_client_chats_streams_embeds_and_calls_tools(running: Running):
    client = cohere.ClientV2(api_key="none", base_url=running.origin)
    response = client.chat(model=MODEL, messages=MESSAGES)
    assert (response.message.content[0].text, response.usage.tokens.input_tokens) == (
        "hello",
        7,
    )
    texts = [
        event.delta.message.content.text
        for event in client.chat_stream(model=MODEL, messages=MESSAGES)
        if event.type == "content-delta"
    ]
    assert "".join(texts) == "hello"
    tools: list[Any] = [
        {"type": "function", "function": {"name": "look", "parameters": LOOK}}
    ]
    called = client.chat(model=MODEL, messages=MESSAGES, tools=tools)
    assert called.message.tool_calls[0].function.name == "look"
    embedded = client.embed(
        model="openai/text-embedding-3-small",
        texts=["a"],
        input_type="search_query",
        embedding_types=["float"],
    )
    assert embedded.embeddings.float_ == [[0.5, 0.25]]


def test_coheres_client_reranks(start_gateway: Start):
    client = cohere.ClientV2(api_key="none", base_url=start_gateway().origin)
    ranked = client.rerank(model="echo/echo", query="b", documents=["a", "b"], top_n=1)
    assert len(ranked.results) == 1


# ------------------------------------------------------------------------------- OpenAI


def test_openais_client_continues_from_stored_responses(
    running: Running, start_gateway: Start
):
    client = openai.OpenAI(base_url=start_gateway().url, api_key="none", max_retries=0)
    first = client.responses.create(model="echo/echo", input="one")
    second = client.responses.create(
        model="echo/echo", input="two", previous_response_id=first.id
    )
    third = client.responses.create(
        model="echo/echo", input="three", previous_response_id=second.id, stream=True
    )
    kinds = [event.type for event in third]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert client.responses.retrieve(second.id).previous_response_id == first.id
    assert client.responses.input_items.list(first.id).data[0].content == "one"
    client.responses.delete(first.id)
    for lookup in (lambda: client.responses.retrieve(first.id),
                 lambda: client.responses.create(model="echo/echo", input="x", previous_response_id=first.id)):  # fmt: skip
        with pytest.raises(openai.NotFoundError, match="not found"):
            lookup()
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.create(model="echo/echo", input="x", background=True)


def test_openais_client_works_with_every_other_route(running: Running):
    client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    assert (
        client.responses.create(model=MODEL, input="hi", store=False).output_text
        == "hello"
    )
    assert (
        client.completions.create(model=MODEL, prompt="hi").choices[0].text == "hello"
    )
    with client.audio.speech.with_streaming_response.create(
        model="openai/tts-1", voice="alloy", input="hi"
    ) as sound:
        assert sound.read() == b"ID3sound"
    transcript = client.audio.transcriptions.create(
        model="openai/whisper-1", file=("a.wav", b"RIFF")
    )
    assert transcript.text == "words"


def test_unsupported_parameters_are_dropped_and_reported_or_refused(running: Running):
    client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    create = client.chat.completions.with_raw_response.create
    response = create(model=MODEL, messages=MESSAGES, extra_body={"top_k": 5})
    assert response.headers["x-modelyard-dropped"] == "top_k"
    refuse = {"x-modelyard-unsupported": "refuse"}
    with pytest.raises(openai.BadRequestError, match="does not support 'top_k'"):
        create(
            model=MODEL,
            messages=MESSAGES,
            extra_body={"top_k": 5},
            extra_headers=refuse,
        )


# ------------------------------------------------------- libraries built on the clients


class City(BaseModel):
    city: str


def test_langchain_chats_streams_calls_tools_structures_answers_and_embeds(
    running: Running,
):
    llm = ChatOpenAI(model=MODEL, base_url=running.url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    assert llm.invoke([HumanMessage("hi")]).content == "hello"
    assert "".join(chunk.content for chunk in llm.stream("hi")) == "hello"
    tool = {
        "type": "function",
        "function": {"name": "look", "description": "d", "parameters": LOOK},
    }
    assert llm.bind_tools([tool]).invoke("hi").tool_calls[0]["args"] == {"city": "Oslo"}
    assert llm.with_structured_output(City, method="json_schema").invoke("hi") == City(
        city="Oslo"
    )
    embed = OpenAIEmbeddings(
        model="openai/text-embedding-3-small",
        base_url=running.url,
        api_key="none",
        check_embedding_ctx_length=False,
    )  # type: ignore[call-arg,arg-type]
    assert embed.embed_query("a") == [0.5, 0.25]


class Letters(OpenAIEmbeddings):
    """LangChain's embeddings as they are by default, but with a tokenizer that need not
    be fetched: each letter is a token."""

    def _tokenize(self, texts: list[str], chunk_size: int) -> Any:  # type: ignore[override]
        tokens = [[ord(character) for character in text] for text in texts]
        counts = [len(token_ids) for token_ids in tokens]
        return range(0, len(texts), chunk_size), tokens, [*range(len(texts))], counts


@pytest.mark.case("10.1")
def test_langchains_embeddings_by_default_are_token_ids(
    start_gateway: Start, upstream: Callable[[Handler], Upstream]
):
    server = upstream(served)
    embed = Letters(
        model="openai/text-embedding-3-small",
        base_url=start_gateway(server).url,
        api_key="none",
    )  # type: ignore[call-arg,arg-type]
    assert embed.check_embedding_ctx_length
    assert embed.embed_documents(["ab", "c"]) == [[0.5, 0.25]] * 2
    assert server.requests[-1].json["input"] == [[97, 98], [99]]


@pytest.mark.parametrize("api_format", ["chat", "anthropic", "google"])
def test_pydantic_ai_runs_an_agent_with_a_tool_in_each_format(
    running: Running, api_format: str
):
    cities: list[str] = []
    match api_format:
        case "chat":
            model: Any = OpenAIChatModel(
                MODEL, provider=OpenAIProvider(base_url=running.url, api_key="none")
            )
        case "anthropic":
            model = AnthropicModel(
                MODEL,
                provider=AnthropicProvider(
                    anthropic_client=anthropic.AsyncAnthropic(
                        base_url=running.origin, api_key="none"
                    )
                ),
            )
        case _:
            client = genai.Client(
                api_key="none", http_options=types.HttpOptions(base_url=running.origin)
            )
            model = GoogleModel(MODEL, provider=GoogleProvider(client=client))

    agent = Agent(model)

    @agent.tool_plain
    def look(city: str) -> str:
        cities.append(city)
        return "rain"

    result = asyncio.run(agent.run("How is it in Oslo?"))
    assert (result.output, cities) == ("hello", ["Oslo"])
    assert (
        result.usage().input_tokens == 14
        if callable(result.usage)
        else result.usage.input_tokens == 14
    )


def test_pydantic_ai_uses_the_responses_api(running: Running):
    model = OpenAIResponsesModel(
        MODEL, provider=OpenAIProvider(base_url=running.url, api_key="none")
    )
    assert asyncio.run(Agent(model).run("hi")).output == "hello"


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        ("/v1/messages", b"{", lambda error_body: error_body["error"]["type"] == "invalid_request_error" and error_body["type"] == "error"),
        ("/v1beta/models/openai/gpt-4o:generateContent", b"[]", lambda error_body: error_body["error"]["status"] == "INVALID_ARGUMENT"),
        ("/v1beta/models/openai/gpt-4o:fly", b"{}", lambda error_body: error_body["error"]["status"] == "NOT_FOUND"),
        ("/v2/chat", b'{"messages": 5}', lambda error_body: "'messages' must be a list" in error_body["message"]),
        ("/v1/responses", b'{"model": "echo/echo"}', lambda error_body: error_body["error"]["param"] == "input"),
        ("/v1/completions", b'{"model": "echo/echo", "prompt": [1, 2]}', lambda error_body: error_body["error"]["param"] == "prompt"),
        ("/v1/messages", b'{"model": "echo/echo", "max_tokens": 0, "messages": [{"role": "user", "content": "x"}]}',
         lambda error_body: "max_tokens" in error_body["error"]["message"]),
        ("/v1/messages", b'{"model": "echo/echo", "max_tokens": 5, "messages": [{"role": "robot", "content": "x"}]}',
         lambda error_body: "messages[0].role" in error_body["error"]["message"]),
        ("/v1/messages", b'{"model":"echo/echo","max_tokens":5,"messages":[{"role":"user","content":[{"type":"image",'
         b'"source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}',
         lambda error_body: "the bytes of an image" in error_body["error"]["message"]),
    ],
)  # fmt: skip
def test_each_invalid_request_gets_an_error_in_its_format(
    start_gateway: Start, path: str, body: bytes, shape: Any
):
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        start_gateway().origin + path, body, {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code in (400, 404)
    assert shape(json.loads(caught.value.read()))


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda r: stream_answer(chat_events(["half"])[:-3]), "ended without"),
        (
            lambda r: Answer(
                headers={"content-type": "text/html"}, body=b"<html>no</html>"
            ),
            "ended without",
        ),
        (
            lambda r: Answer(
                headers={"content-type": "application/json"}, body=b"<html>no</html>"
            ),
            "web page",
        ),
        (lambda r: stream_answer([b"data: {nonsense\n\n"]), "not JSON"),
        (lambda r: stream_answer([b"data: " + b"x" * (1 << 20)] * 17), "exceeds"),
        (lambda r: error_answer(429, "slow", retry_after="3"), "slow"),
    ],
)
def test_an_upstream_failure_is_an_error_in_the_callers_format(
    start_gateway: Start,
    upstream: Callable[[Handler], Upstream],
    answer: Handler,
    part: str,
):
    running = start_gateway(upstream(answer))
    claude = anthropic.Anthropic(base_url=running.origin, api_key="none", max_retries=0)
    with (
        pytest.raises(anthropic.APIError, match=part),
        claude.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream,
    ):
        stream.get_final_message()
    gemini = genai.Client(
        api_key="none", http_options=types.HttpOptions(base_url=running.origin)
    )
    # A rate-limited key is in cooldown.
    with pytest.raises(Exception, match=f"{part}|in cooldown"):
        list(gemini.models.generate_content_stream(model=MODEL, contents="hi"))


def test_implausible_token_counts_are_replaced_by_estimates(
    start_gateway: Start, upstream: Callable[[Handler], Upstream]
):
    odd = b'{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":-5,"completion_tokens":1e400}}'
    running = start_gateway(
        upstream(
            lambda r: Answer(headers={"content-type": "application/json"}, body=odd)
        )
    )
    client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    # JSON has no number as large as 1e400.
    try:
        completion = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    except openai.APIStatusError as error:
        assert "not JSON" in error.message
    else:
        assert completion.usage.prompt_tokens >= 0
