"""What a server speaks is learnt from its answers, and the call goes on without what it
refuses."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from modelyard.base.errors import ErrorAnswer, InvokeBadRequestError
from modelyard.base.settings import CredentialSettings, ProviderSettings
from modelyard.cli.providers import add, check
from modelyard.providers.learnt import (
    REMEMBERED_SECONDS,
    LearntServers,
    has_field,
    refused_field,
    without_fields,
)
from modelyard.testing import (
    Answer,
    FakeClock,
    UpstreamRequest,
    chat_answer,
    chat_events,
    embedding_answer,
    json_answer,
)
from tests.gateway.conftest import Running
from tests.gateway.error_world import (
    DIRECT,
    USUAL,
    Play,
    Reply,
    Start,
    World,
    openai_error,
    stream,
)

WAYS = pytest.mark.parametrize("headers", [DIRECT, USUAL], ids=["direct", "usual"])
NOT_FOUND = json_answer({"detail": "Not Found"}, status=404)
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"


class Server(World):
    """A gateway with one server that is known by its address alone."""

    def __init__(self, start_gateway: Start, upstream: Play, **changes: Any) -> None:
        self.spoken = {CHAT}
        self.refused: dict[str, str] = {}
        self.form_refusal: tuple[str, str] = ("", "")
        self.missing = NOT_FOUND
        self.answers = dict(ANSWERS)
        self.upstream = upstream(self.answer)
        provider = ProviderSettings(
            name="my-server",
            base_url=self.upstream.url,
            credentials=[CredentialSettings(values={})],
        )
        self.running: Running = start_gateway(
            providers=[provider], api_keys=["key-of-the-caller"], **changes
        )

    def answer(self, request: UpstreamRequest) -> Answer:
        """Answer in the spoken formats, and refuse some fields."""
        if request.method == "POST" and request.path not in self.spoken:
            return self.missing
        if request.path == "/v1/audio/transcriptions":
            field, message = self.form_refusal
            if f'name="{field}"'.encode() in request.body:
                return openai_error(message)
            return json_answer({"text": "said"})
        body = request.json if request.body else {}
        for name, message in self.refused.items():
            if has_field(request.body, name):
                return openai_error(message)
        if request.path in self.answers:
            return self.answers[request.path]
        if body.get("stream"):
            return stream(chat_events(["he", "llo"]))
        return chat_answer("hello")


TEXT = {"type": "output_text", "text": "hello", "annotations": []}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [TEXT],
        }
    ],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}
COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "text": "hello", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ANSWERS = {
    "/v1/audio/speech": Answer(headers={"content-type": "audio/mpeg"}, body=b"sound"),
    "/v1/embeddings": embedding_answer([[0.5, 0.25]]),
    RESPONSES: json_answer(RESPONSE),
    COMPLETIONS: json_answer(COMPLETION),
    MESSAGES: json_answer(MESSAGE),
}
MODEL = "my-server/m"


@pytest.fixture
def server(start_gateway: Start, upstream: Play) -> Server:
    return Server(start_gateway, upstream)


def text_of(reply: Reply) -> str:
    """Return the text of a Responses answer."""
    assert reply.status == 200, reply.body
    return reply.json["output"][0]["content"][0]["text"]


@pytest.mark.case("one-format")
@pytest.mark.parametrize(
    "missing",
    [
        NOT_FOUND,
        json_answer({"detail": "Method Not Allowed"}, status=405),
        json_answer({"error": {"message": "Not implemented", "code": 501}}, status=501),
        Answer(status=404, body=b"404 page not found"),
        json_answer({"error": "Unexpected endpoint or method. (POST /v1/responses)"}),
    ],
    ids=["404", "405", "501", "text", "200"],
)
def test_a_missing_format_is_asked_for_once(server: Server, missing: Answer):
    server.missing = missing
    assert text_of(server.responses(MODEL)) == "hello"
    assert server.paths == [RESPONSES, CHAT]
    assert text_of(server.responses(MODEL)) == "hello"
    assert text_of(server.responses("my-server/other")) == "hello"
    assert server.paths == [RESPONSES, CHAT, CHAT, CHAT]


@pytest.mark.case("one-format")
def test_a_stream_goes_on_in_the_format_that_is_spoken(server: Server):
    reply = server.responses(MODEL, stream=True)
    assert reply.status == 200
    assert reply.events[-1][0] == "response.completed"
    assert server.paths == [RESPONSES, CHAT]
    assert server.responses(MODEL, stream=True).status == 200
    assert server.paths[2:] == [CHAT]


@pytest.mark.case("one-format")
def test_a_format_is_asked_for_again_after_a_time(server: Server):
    text_of(server.responses(MODEL))
    model = server.running.yard.services.providers.manager.factory.get_model(
        "my-server", model_type()
    )
    clock = FakeClock()
    learnt = model.endpoint.learnt
    learnt.now = clock.monotonic
    learnt.refuse_format(server.upstream.url, "openai_responses")
    text_of(server.responses(MODEL))
    clock.advance(REMEMBERED_SECONDS + 1)
    server.spoken.add(RESPONSES)
    text_of(server.responses(MODEL))
    text_of(server.responses(MODEL))
    assert server.paths == [RESPONSES, CHAT, CHAT, RESPONSES, RESPONSES]


def model_type() -> Any:
    from modelyard.models.types import ModelType

    return ModelType.LLM


@pytest.mark.case("one-format")
@WAYS
def test_a_chat_goes_on_as_a_response(server: Server, headers: dict[str, str]):
    server.spoken = {CHAT, RESPONSES}
    # A connection is idle from now on, so that the first refusal meets a direct call.
    assert server.chat(MODEL, headers).status == 200
    server.spoken = {RESPONSES}
    for _ in range(2):
        reply = server.chat(MODEL, headers)
        assert reply.status == 200
        assert reply.json["choices"][0]["message"]["content"] == "hello"
    assert server.paths == [CHAT, CHAT, RESPONSES, RESPONSES]
    assert (server.direct_calls > 0) == (headers is DIRECT)


@pytest.mark.case("one-format")
@WAYS
def test_messages_go_on_as_a_chat(server: Server, headers: dict[str, str]):
    assert server.chat(MODEL, headers).status == 200
    for is_stream in (False, True, False):
        reply = server.messages(MODEL, headers, stream=is_stream)
        assert reply.status == 200
        assert b"llo" in reply.body
    assert server.paths == [CHAT, MESSAGES, CHAT, CHAT, CHAT]


def test_a_call_is_made_in_the_callers_format_if_the_server_speaks_it(server: Server):
    server.spoken = {CHAT, RESPONSES, MESSAGES, COMPLETIONS}
    assert server.messages(MODEL).json["content"][0]["text"] == "hello"
    assert text_of(server.responses(MODEL)) == "hello"
    assert server.chat(MODEL).status == 200
    document = {"model": MODEL, "prompt": "hi"}
    assert server.call("/v1/completions", document).status == 200
    assert server.gemini(MODEL).status == 200
    assert server.paths == [MESSAGES, RESPONSES, CHAT, COMPLETIONS, CHAT]


def test_a_chat_with_tools_goes_on_as_messages(server: Server):
    server.spoken = {MESSAGES, COMPLETIONS}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for _ in range(2):
        reply = server.chat(MODEL, tools=[tool])
        assert reply.json["choices"][0]["message"]["content"] == "hello"
    assert server.paths == [CHAT, RESPONSES, MESSAGES, MESSAGES]


def test_an_api_that_has_no_other_format_is_the_operators_error(server: Server):
    for path, document in (
        ("/v1/embeddings", {"model": MODEL, "input": "hi"}),
        ("/v1/audio/speech", {"model": MODEL, "input": "hi", "voice": "v"}),
    ):
        reply = server.call(path, document)
        assert reply.status == 502
        error = reply.json["error"]
        assert error["code"] == "upstream_endpoint_not_found"
    # The server speaks chat all the same.
    assert server.chat(MODEL).status == 200


@pytest.mark.case("one-format")
def test_a_completion_goes_on_as_a_chat(server: Server):
    for _ in range(2):
        document = {"model": MODEL, "prompt": "hi"}
        reply = server.call("/v1/completions", document)
        assert reply.json["choices"][0]["text"] == "hello"
    assert server.paths == [COMPLETIONS, CHAT, CHAT]


def test_a_chat_goes_on_as_a_completion_unless_it_has_tools(server: Server):
    server.spoken = {COMPLETIONS}
    assert server.chat(MODEL).json["choices"][0]["message"]["content"] == "hello"
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    reply = server.chat(MODEL, tools=[tool])
    assert reply.status == 502
    assert reply.json["error"]["code"] == "upstream_endpoint_not_found"


def test_a_server_that_speaks_nothing_is_asked_anew(server: Server):
    server.spoken = set()
    for _ in range(2):
        server.upstream.requests.clear()
        reply = server.chat(MODEL)
        assert reply.status == 502
        assert "check the base URL" in reply.json["error"]["message"]
        assert server.paths == [CHAT, RESPONSES, MESSAGES, COMPLETIONS]
    # The address was right, and the server is up now.
    server.spoken = {CHAT}
    assert server.chat(MODEL).status == 200


@pytest.mark.parametrize("spoken", [RESPONSES, MESSAGES])
def test_a_stream_in_another_format_is_no_empty_answer(server: Server, spoken: str):
    """Some servers answer every path, each in the one format that they speak."""
    server.spoken = {spoken}
    server.answers[spoken] = stream(chat_events(["he", "llo"]))
    reply = server.chat(MODEL, stream=True)
    assert reply.status >= 500, reply.body
    assert "ended" in reply.json["error"]["message"]


def test_a_missing_model_is_not_a_missing_format(server: Server):
    server.spoken = set()
    server.missing = openai_error("The model `m` does not exist.", status=404)
    assert server.responses(MODEL).status == 404
    assert server.paths == [RESPONSES]


# ------------------------------------------------------------------------------- fields

TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
}
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "response_format": (
        {"response_format": {"type": "json_object"}},
        "Unknown parameter: 'response_format'.",
    ),
    "parallel_tool_calls": (
        {"parallel_tool_calls": False, "tools": [TOOL]},
        "parallel_tool_calls is not supported by this server",
    ),
    "strict": ({"tools": [TOOL]}, "Unsupported field: tools[0].function.strict"),
    "seed": ({"seed": 1}, "Unrecognized request argument supplied: seed"),
    "logit_bias": ({"logit_bias": {"1": 2}}, "[{'loc': ('body', 'logit_bias'),"
                   " 'msg': 'Extra inputs are not permitted'}]"),
    "temperature": ({"temperature": 0.5}, "`temperature` is not supported"),
    "user": ({"user": "u"}, "Unexpected keyword argument 'user'"),
}  # fmt: skip


@pytest.mark.case("one-format")
@pytest.mark.parametrize("name", FIELDS)
@WAYS
def test_a_refused_field_is_left_out_and_named(
    server: Server, headers: dict[str, str], name: str
):
    assert server.chat(MODEL, headers).status == 200
    fields, message = FIELDS[name]
    server.refused = {name: message}
    server.upstream.requests.clear()
    for is_stream in (False, True, False):
        reply = server.chat(MODEL, headers, stream=is_stream, **fields)
        assert reply.status == 200, reply.body
        assert reply.headers["x-modelyard-dropped"].split(", ") == [name]
    has = [has_field(request.body, name) for request in server.upstream.requests]
    assert has == [True, False, False, False]
    # Other models, and calls without the field, are not concerned.
    assert "x-modelyard-dropped" not in server.chat(MODEL, headers).headers
    server.refused.clear()
    reply = server.chat("my-server/other", headers, **fields)
    assert "x-modelyard-dropped" not in reply.headers
    assert has_field(server.upstream.requests[-1].body, name)


@pytest.mark.case("one-format")
@WAYS
def test_refused_stream_options_are_named_if_the_caller_sent_them(
    server: Server, headers: dict[str, str]
):
    assert server.chat(MODEL, headers).status == 200
    server.refused = {"stream_options": "Unknown field 'stream_options'"}
    options = {"include_usage": True}
    for _ in range(2):
        reply = server.chat(MODEL, headers, stream=True, stream_options=options)
        assert reply.headers["x-modelyard-dropped"] == "stream_options"
        assert reply.events[-2][1]["usage"]["total_tokens"] > 0
        reply = server.chat(MODEL, headers, stream=True)
        assert reply.status == 200
        assert "x-modelyard-dropped" not in reply.headers
    refused = [
        request
        for request in server.upstream.requests
        if has_field(request.body, "stream_options")
    ]
    assert len(refused) == 1


@WAYS
def test_several_refused_fields_are_left_out_one_by_one(
    server: Server, headers: dict[str, str]
):
    assert server.chat(MODEL, headers).status == 200
    server.refused = {
        "seed": "Unknown parameter: 'seed'",
        "top_p": "Unknown parameter: 'top_p'",
    }
    reply = server.chat(MODEL, headers, seed=1, top_p=0.5)
    assert reply.status == 200
    assert set(reply.headers["x-modelyard-dropped"].split(", ")) == {"seed", "top_p"}
    reply = server.messages(MODEL, headers, top_p=0.5)
    assert reply.headers["x-modelyard-dropped"] == "top_p"


def test_a_caller_may_want_an_error_instead(server: Server):
    server.refused = {"seed": "Unknown parameter: 'seed'"}
    refuse = {"x-modelyard-unsupported": "refuse"}
    for _ in range(2):
        reply = server.chat(MODEL, refuse, seed=1)
        assert reply.status == 400
        assert "seed" in reply.json["error"]["message"]
    assert len(server.upstream.requests) == 1


@pytest.mark.case("one-format")
def test_refused_dimensions_of_an_embedding_are_left_out_and_named(server: Server):
    server.spoken = {"/v1/embeddings"}
    message = (
        'Model "m" does not support matryoshka representation, changing output'
        " dimensions will lead to poor results."
    )
    server.refused = {"dimensions": message, "encoding_format": "Unknown parameter:"
                      " 'encoding_format'"}  # fmt: skip
    document = {"model": MODEL, "input": "hi", "dimensions": 2}
    for _ in range(2):
        reply = server.call("/v1/embeddings", document)
        assert reply.status == 200
        assert reply.json["data"][0]["embedding"] == [0.5, 0.25]
        assert reply.headers["x-modelyard-dropped"] == "dimensions"
    assert len(server.upstream.requests) == 4
    reply = server.call("/v1/embeddings", {"model": MODEL, "input": "hi"})
    assert "x-modelyard-dropped" not in reply.headers


def test_a_refused_field_of_speech_is_left_out_and_named(server: Server):
    server.spoken = {"/v1/audio/speech"}
    server.refused = {"instructions": "Unknown parameter: 'instructions'"}
    document = {"model": MODEL, "input": "hi", "voice": "v", "instructions": "slow"}
    for _ in range(2):
        reply = server.call("/v1/audio/speech", document)
        assert (reply.status, reply.body) == (200, b"sound")
        assert reply.headers["x-modelyard-dropped"] == "instructions"
    assert len(server.upstream.requests) == 3
    server.refused = {"response_format": "Unknown parameter: 'response_format'"}
    reply = server.call("/v1/audio/speech", {**document, "response_format": "wav"})
    assert reply.status == 400


REFUSE = {"x-modelyard-unsupported": "refuse"}


@pytest.mark.parametrize(
    ("path", "name", "fields"),
    [
        ("/v1/audio/speech", "instructions", {"voice": "v", "instructions": "slow"}),
        ("/v1/embeddings", "dimensions", {"dimensions": 2}),
    ],
)
def test_a_caller_may_refuse_calls_without_a_field(
    server: Server, path: str, name: str, fields: dict[str, Any]
):
    server.spoken = {path}
    server.refused = {name: f"Unknown parameter: '{name}'"}
    document = {"model": MODEL, "input": "hi", **fields}
    # The first call learns it from the server, the second one is not sent.
    for _ in range(2):
        reply = server.call(path, document, REFUSE)
        assert reply.status == 400, reply.body
        assert name in reply.json["error"]["message"]
    assert len(server.upstream.requests) == 1
    assert server.call(path, document).headers["x-modelyard-dropped"] == name
    reply = server.call(path, document, {"x-modelyard-unsupported": "x"})
    assert reply.status == 400


@WAYS
def test_what_is_left_out_and_what_an_answer_loses_are_named_together(
    server: Server, headers: dict[str, str]
):
    server.refused = {"top_k": "Unknown parameter: 'top_k'"}
    server.answers[CHAT] = chat_answer("hello", audio={"id": "a", "data": "UklGRg=="})
    for _ in range(2):
        reply = server.messages(MODEL, headers, top_k=5)
        assert reply.headers["x-modelyard-dropped"] == "top_k, audio"


def test_a_refused_field_of_a_transcription_is_left_out_and_named(server: Server):
    path = "/v1/audio/transcriptions"
    server.spoken = {path}
    name = "timestamp_granularities"
    server.form_refusal = (f"{name}[]", f"{name} is not supported")
    boundary = "b"
    fields = {"model": MODEL, "response_format": "verbose_json", f"{name}[]": "word"}
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}'
        for field, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="file";'
        f' filename="a.wav"\r\n\r\nsound\r\n--{boundary}--\r\n'
    )
    content_type = f"multipart/form-data; boundary={boundary}"
    for _ in range(2):
        reply = server.send(path, "\r\n".join(parts), content_type)
        assert reply.status == 200, reply.body
        assert reply.json["text"] == "said"
        assert reply.headers["x-modelyard-dropped"] == name
    assert len(server.upstream.requests) == 3


@pytest.mark.parametrize(
    "message",
    [
        "Unknown parameter: 'messages'",
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only"
        " the default (1) value is supported.",
        "temperature must be at most 2",
        "seed is odd",
    ],
)
def test_other_refusals_reach_the_caller(server: Server, message: str):
    server.refused = {"temperature": message}
    reply = server.chat(MODEL, temperature=0.2, seed=1)
    assert reply.status == 400
    assert reply.json["error"]["message"] == message
    assert len(server.upstream.requests) == 1


# ------------------------------------------------------------------------- what is kept


def refusal(message: str, **fields: Any) -> InvokeBadRequestError:
    error = InvokeBadRequestError(message, param=fields.pop("param", None))
    error.answer = ErrorAnswer(status=400, **fields)
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (refusal("no", param="seed", code="unsupported_parameter"), "seed"),
        (refusal("no", param="seed", code="unsupported_value"), None),
        (refusal("no", param="seed"), None),
        (refusal("no", param="tools.0.function.strict", code="extra_forbidden"), "strict"),
        (refusal("Model does not support parameter reasoningEffort"), "reasoning_effort"),
        (refusal("metadata: Extra inputs are not permitted"), "metadata"),
        (refusal("property 'top_k' is unsupported"), "top_k"),
        (refusal("messages: Extra inputs are not permitted"), None),
        (refusal("Unknown model"), None),
        (InvokeBadRequestError("Unknown parameter: 'seed'"), None),
    ],
)  # fmt: skip
def test_the_field_that_a_refusal_names(error: InvokeBadRequestError, name: str | None):
    assert refused_field(error) == name


def test_the_strictness_of_tools_is_removed_in_both_shapes():
    body: dict[str, Any] = {
        "tools": [{"strict": True}, {"function": {"strict": False}}, "odd"]
    }
    assert without_fields(body, ["strict", "seed"]) == ["strict"]
    assert body == {"tools": [{}, {"function": {}}, "odd"]}
    assert without_fields(body, ["strict"]) == []
    assert without_fields({"tools": "odd"}, ["strict"]) == []
    assert not has_field(b"no json", "seed")
    assert not has_field(b"[]", "seed")


def test_what_is_learnt_ends_and_is_bounded():
    clock = FakeClock()
    learnt = LearntServers(clock.monotonic)
    assert learnt.is_empty
    for number in range(1500):
        learnt.refuse_format(f"http://{number}", "openai")
        learnt.refuse_field(f"http://{number}", "m", "seed")
    assert learnt.speaks("http://0", "openai")
    assert not learnt.speaks("http://1499", "openai")
    assert learnt.refused_fields("http://0", "m") == ()
    assert learnt.refused_fields("http://1499", "m") == ("seed",)
    clock.advance(REMEMBERED_SECONDS + 1)
    assert learnt.speaks("http://1499", "openai")
    assert learnt.refused_fields("http://1499", "m") == ()
    learnt.refuse_format("http://1499", "openai")
    learnt.forget_formats("http://1499")
    assert learnt.speaks("http://1499", "openai")


@pytest.mark.case("one-format")
def test_the_check_of_a_provider_says_what_its_server_speaks(
    upstream: Play, tmp_path: Any
):
    def answer(request: UpstreamRequest) -> Answer:
        if request.path == "/v1/models":
            return json_answer({"data": [{"id": "m"}]})
        if request.path in (CHAT, "/v1/audio/speech"):
            return openai_error("A field is required")
        return NOT_FOUND

    server = upstream(answer)
    runner = CliRunner(env={"MODELYARD_HOME": str(tmp_path)})
    added = runner.invoke(add, ["my-server", "--base-url", server.url])
    assert added.exit_code == 0, added.output
    checked = runner.invoke(check, ["my-server"])
    assert checked.exit_code == 0, checked.output
    assert (
        "formats found: openai, speech; not found: openai_responses, anthropic,"
        " openai_completions, embeddings, transcriptions\n"
    ) in checked.output
    bodies = {request.body for request in server.requests if request.body}
    assert bodies == {b"{}"}
    printed = runner.invoke(check, ["my-server", "--json"])
    assert list(json.loads(printed.output).values()) == [["m"]]
