"""OpenAI's Chat Completions API, as strict as its documentation says, and a plain server
that knows this format alone."""

import re
from collections.abc import Iterator
from typing import Any

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer
from tests.stand_ins import typed
from tests.stand_ins.prompt_cache import CacheUse, PrefixCache
from tests.stand_ins.session import (
    Answer,
    Conversation,
    Session,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.stand_ins.vendor import (
    Refusal,
    StandIn,
    compact,
    error_document,
    events_answer,
    pieces_of,
    refuse_if,
)

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONS = re.compile(r"(gpt-5|o\d)")
_NO_SAMPLING = (
    "temperature", "top_p", "logprobs", "top_logprobs",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip
_WORDS = {
    "gpt-5.1": ("none", "low", "medium", "high"),
    "gpt-5-pro": ("high",),
    "gpt-5": ("minimal", "low", "medium", "high"),
}
_LIMITS = {"gpt-4o": 16_384, "gpt-5": 128_000}


class Chat(StandIn):
    """OpenAI's Chat Completions API."""

    vendor = "openai"
    overflow = (
        "This model's maximum context length is 400000 tokens. However, you"
        "r messages resulted in 405123 tokens. Please reduce the length of "
        "the messages."
    )
    overflow_code = "context_length_exceeded"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._cache = PrefixCache()

    def other_path(self, request: UpstreamRequest) -> HttpAnswer | None:
        """Answer other paths as a server that lacks them."""
        if request.path.endswith("/chat/completions"):
            return None
        return json_answer({"detail": "Not Found"}, status=404)

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error in OpenAI's format."""
        error = {"message": str(refusal), "type": "invalid_request_error"}
        fields = {"param": None, "code": None, **refusal.fields}
        return error_document(refusal, error={**error, **fields})

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what OpenAI refuses."""
        for index, message in enumerate(body.get("messages", ())):
            _check_pictures(index, message)
        known = {name: value for name, value in body.items() if name != "stream"}
        if reason := typed.problem(known, CompletionCreateParamsBase):
            raise Refusal(f"Unrecognized request argument supplied: {reason}")
        _check_model(body)
        _check_lengths(body)
        check_functions(
            [tool["function"] for tool in body.get("tools", ()) if "function" in tool]
        )
        _check_companions(body)
        check_turns(body["messages"])

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return the request in no vendor's format."""
        conversation = Conversation(
            tools=[_tool(tool) for tool in body.get("tools", ())],
            wants_thinking=self.shows_thinking(body),
        )
        if "web_search_options" in body:
            conversation.tools.append(Tool("web_search", kind="search"))
        for message in body["messages"]:
            if calls := [_call(each) for each in message.get("tool_calls") or ()]:
                conversation.turns.append(calls)
            _add_content(conversation, message)
        return conversation

    def shows_thinking(self, body: Any) -> bool:
        """Return whether answers have thoughts; OpenAI's never do in this format."""
        del body
        return False

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what is read of the tools and the messages."""
        blocks = [compact(tool) for tool in body.get("tools", ())]
        return self._cache.use([*blocks, *map(compact, body["messages"])])

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return the answer as a completion, whole or as chunks."""
        usage = {
            "prompt_tokens": use.total, "completion_tokens": output,
            "total_tokens": use.total + output,
            "prompt_tokens_details": {"cached_tokens": use.read},
        }  # fmt: skip
        head = {"id": self.new_id("chatcmpl-"), "created": 1, "model": body["model"]}
        calls = [_answered_call(call) for call in answer.calls]
        reason = "tool_calls" if calls else "stop"
        if not body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": answer.text}
            if calls:
                message["tool_calls"] = calls
            choice = {"index": 0, "message": message, "finish_reason": reason}
            head["object"] = "chat.completion"
            return json_answer({**head, "choices": [choice], "usage": usage})
        head["object"] = "chat.completion.chunk"
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            for delta in self.deltas(answer, calls)
        ]
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        chunks.append({**head, "choices": [last]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": usage})
        return events_answer(chunks, b"data: [DONE]\n\n")

    def deltas(self, answer: Answer, calls: list[Any]) -> Iterator[Any]:
        """Yield the deltas of a stream."""
        yield {"role": "assistant", "content": ""}
        for text in pieces_of(answer.text):
            yield {"content": text}
        for index, call in enumerate(calls):
            kind = call["type"]
            name = "arguments" if kind == "function" else "input"
            inner = call[kind]
            yield {"tool_calls": [{"index": index, **call, kind: {**inner, name: ""}}]}
            for text in pieces_of(inner[name]):
                yield {"tool_calls": [{"index": index, kind: {name: text}}]}


_PLAIN_FIELDS = {
    "model", "messages", "tools", "tool_choice", "stream", "stream_options", "n", "seed",
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "logprobs",
    "presence_penalty", "frequency_penalty", "response_format", "logit_bias",
    "top_logprobs",
}  # fmt: skip
_PLAIN_MESSAGES = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "reasoning_content", "reasoning"},
    "tool": {"role", "content", "tool_call_id"},
}
_PLAIN_FUNCTION = {"name", "description", "parameters"}


class PlainChat(Chat):
    """A server of one's own with chat completions alone, which refuses every field that
    it does not know, and streams all calls under index 0."""

    vendor = "plain"
    overflow = (
        "This model's maximum context length is 262144 tokens. However, your request has"
        " 265123 input tokens. Please reduce the length of the input messages."
    )
    overflow_code = ""

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error as vLLM does."""
        error = {"message": str(refusal), "type": "BadRequestError", "code": 400}
        return error_document(refusal, error={**error, "param": None})

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what older builds of vLLM refuse."""
        for index, message in enumerate(body["messages"]):
            role = message["role"]
            refuse_if(role not in _PLAIN_MESSAGES, f"Unexpected message role {role!r}")
            _refuse_extra(message, _PLAIN_MESSAGES[role], f"messages.{index}")
            refuse_if(
                role == "system" and index,
                "System message must be at the beginning.",
            )
            _check_pictures(index, message)
        for index, tool in enumerate(body.get("tools", ())):
            _refuse_extra(tool, {"type", "function"}, f"tools.{index}")
            _refuse_extra(tool["function"], _PLAIN_FUNCTION, f"tools.{index}.function")
        _refuse_extra(body, _PLAIN_FIELDS, "body")
        check_functions([tool["function"] for tool in body.get("tools", ())])
        _check_companions(body)
        check_turns(body["messages"])

    def shows_thinking(self, body: Any) -> bool:
        """The model always shows its thoughts."""
        return True

    def deltas(self, answer: Answer, calls: list[Any]) -> Iterator[Any]:
        """Yield thoughts first, then the text, and all calls whole under index 0."""
        yield {"role": "assistant", "content": ""}
        for text in pieces_of(answer.thinking):
            yield {"reasoning_content": text}
        for text in pieces_of(answer.text):
            yield {"content": text}
        for call in calls:
            yield {"tool_calls": [{"index": 0, **call}]}


def _refuse_extra(document: Any, known: set[str], location: str) -> None:
    """Raise Refusal for the first unknown field of a document."""
    for name in document:
        refuse_if(
            name not in known,
            f"[{{'type': 'extra_forbidden', 'loc': ('{location}', '{name}'), 'msg':"
            " 'Extra inputs are not permitted'}]",
        )


def _tool(tool: Any) -> Tool:
    """Return a tool in no vendor's format."""
    if tool["type"] == "custom":
        return Tool(tool["custom"]["name"], kind="custom")
    return Tool(tool["function"]["name"], tool["function"].get("parameters") or {})


def _add_content(conversation: Conversation, message: Any) -> None:
    """Add the content of a message to a conversation."""
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    text = "".join(part.get("text", "") for part in parts)
    if message["role"] == "tool":
        conversation.add_result(message["tool_call_id"], ToolResult(text))
    elif message["role"] == "user":
        conversation.add_user_text(text)
        conversation.user_images += sum("image_url" in part for part in parts)


def _call(call: Any) -> ToolCall:
    """Return a call of the history in no vendor's format."""
    if call["type"] == "custom":
        custom = call["custom"]
        return ToolCall(custom["name"], custom["input"], call["id"], "custom")
    function = call["function"]
    arguments = typed.parsed(function["arguments"])
    return ToolCall(function["name"], arguments, call["id"])


def _answered_call(call: ToolCall) -> Any:
    """Return a call of an answer."""
    if call.kind == "custom":
        custom = {"name": call.name, "input": call.arguments}
        return {"id": f"call_{call.id}", "type": "custom", "custom": custom}
    function = {"name": call.name, "arguments": compact(call.arguments)}
    return {"id": f"call_{call.id}", "type": "function", "function": function}


def _check_pictures(index: int, message: Any) -> None:
    """Raise Refusal for a picture in a message that may have none."""
    content = message.get("content")
    if message["role"] == "user" or not isinstance(content, list):
        return
    refuse_if(
        any("image_url" in part for part in content),
        f"Invalid 'messages[{index}]'. Image URLs are only allowed for messages with"
        f" role 'user', but this message with role '{message['role']}' contains an"
        " image URL.",
        code="invalid_value",
    )


def _check_model(body: Any) -> None:
    """Raise Refusal for what the model does not take."""
    model, effort = body["model"], body.get("reasoning_effort")
    limit = next((n for name, n in _LIMITS.items() if model.startswith(name)), 128_000)
    tokens = body.get("max_completion_tokens") or body.get("max_tokens") or 1
    refuse_if(
        tokens > limit,
        f"max_tokens is too large: {tokens}. This model supports at most {limit}"
        " completion tokens",
        param="max_tokens",
        code="invalid_value",
    )
    if not _REASONS.match(model):
        refuse_if(
            effort is not None,
            "Unrecognized request argument supplied: reasoning_effort",
        )
        return
    check_effort(model, effort, "reasoning_effort")
    refused = ["max_tokens", "stop", *(() if effort == "none" else _NO_SAMPLING)]
    for name in refused:
        refuse_if(
            body.get(name) not in (None, 1 if name == "temperature" else None),
            f"Unsupported parameter: '{name}' is not supported with this model.",
            param=name,
            code="unsupported_parameter",
        )


def check_effort(model: str, effort: str | None, param: str) -> None:
    """Raise Refusal for a word that the model does not know."""
    words = next((w for name, w in _WORDS.items() if model.startswith(name)), None)
    if effort is not None and words and effort not in words:
        raise Refusal(
            f"Unsupported value: '{effort}' is not supported with the '{model}' model."
            f" Supported values are: {words}.",
            param=param,
            code="unsupported_value",
        )


def _check_lengths(body: Any) -> None:
    """Raise Refusal for texts that are too long, and metadata without storage."""
    check_length(body, "user", 64)
    check_length(body, "prompt_cache_key", 64)
    check_length(body, "safety_identifier", 64)
    refuse_if(
        body.get("metadata") and not body.get("store"),
        "The 'metadata' parameter is only allowed when 'store' is enabled.",
    )
    for index, message in enumerate(body["messages"]):
        for number, call in enumerate(message.get("tool_calls") or ()):
            check_length(call, "id", 40, f"messages[{index}].tool_calls[{number}].")
        check_length(message, "tool_call_id", 40, f"messages[{index}].")


def check_length(document: Any, name: str, limit: int, location: str = "") -> None:
    """Raise Refusal for a text that is longer than the limit."""
    length = len(document.get(name) or "")
    problem = (
        f"Invalid '{location}{name}': string too long. Expected a string with maximum"
        f" length {limit}, but got a string with length {length} instead."
    )
    param, code = f"{location}{name}", "string_above_max_length"
    refuse_if(length > limit, problem, param=param, code=code)


def check_functions(functions: list[Any]) -> None:
    """Raise Refusal for functions with illegal names or schemas."""
    refuse_if(
        len(functions) > 128,
        f"Invalid 'tools': array too long. Expected an array with maximum length 128,"
        f" but got an array with length {len(functions)} instead.",
        code="array_above_max_length",
    )
    for index, function in enumerate(functions):
        name = function["name"]
        refuse_if(
            not _NAME.fullmatch(name),
            f"Invalid 'tools[{index}].function.name': string does not match pattern."
            " Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
        )
        schema = function.get("parameters")
        if schema is None:
            continue
        refuse_if(
            schema.get("type") != "object"
            or schema.keys() & {"oneOf", "anyOf", "allOf", "enum", "not"},
            f"Invalid schema for function '{name}': schema must have type 'object' and"
            " not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level.",
        )
        _check_schema(name, schema, function.get("strict") is True)


def _check_schema(name: str, schema: Any, is_strict: bool) -> None:
    """Raise Refusal for arrays without items, and open objects in strict mode."""
    if not isinstance(schema, dict):
        return
    prefix = f"Invalid schema for function '{name}': In context=()"
    refuse_if(
        schema.get("type") == "array" and "items" not in schema,
        f"{prefix}, array schema missing items.",
    )
    properties = schema.get("properties") or {}
    if is_strict and schema.get("type") == "object":
        refuse_if(
            schema.get("additionalProperties") is not False,
            f"{prefix}, 'additionalProperties' is required to be supplied and to be"
            " false.",
        )
        refuse_if(
            {*properties} != {*schema.get("required", ())},
            f"{prefix}, 'required' is required to be supplied and to be an array"
            " including every key in properties.",
        )
    inner = [*properties.values(), schema.get("items")]
    for each in [*inner, *schema.get("anyOf", ())]:
        _check_schema(name, each, is_strict)


def _check_companions(body: Any) -> None:
    """Raise Refusal for fields that are valid only beside another."""
    for name in ("tool_choice", "parallel_tool_calls"):
        refuse_if(
            name in body and not body.get("tools"),
            f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are"
            " specified.",
            param=name,
        )
    refuse_if(body.get("tools") == [], "[] is too short - 'tools'", param="tools")
    refuse_if(
        body.get("stream_options") is not None and not body.get("stream"),
        "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
    )


def check_turns(messages: Any) -> None:
    """Raise Refusal for calls without results, results without calls, and empty
    messages."""
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            refuse_if(
                message["tool_call_id"] not in open_ids,
                f"Invalid parameter: messages[{index}] with role 'tool' must be a"
                " response to a preceeding message with 'tool_calls'.",
            )
            open_ids.remove(message["tool_call_id"])
            continue
        _refuse_open(open_ids)
        calls = message.get("tool_calls") or ()
        open_ids = [call["id"] for call in calls]
        refuse_if(
            not calls and message.get("content") in (None, "", []),
            f"Invalid value for 'content': expected a string, got null."
            f" (messages[{index}])",
        )
    _refuse_open(open_ids)


def _refuse_open(open_ids: list[str]) -> None:
    """Raise Refusal if calls have no results."""
    refuse_if(
        open_ids,
        "An assistant message with 'tool_calls' must be followed by tool messages"
        " responding to each 'tool_call_id'. The following tool_call_ids did not have"
        f" response messages: {', '.join(open_ids)}",
    )
