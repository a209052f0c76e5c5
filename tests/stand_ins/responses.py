"""OpenAI's Responses API, as strict as its documentation says."""

from typing import Any

from openai.types.responses.response_create_params import ResponseCreateParamsBase

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer
from tests.stand_ins import typed
from tests.stand_ins.chat import check_effort, check_functions, check_length
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

_PREFIXES = {
    "message": "msg", "function_call": "fc", "custom_tool_call": "ctc",
    "reasoning": "rs", "web_search_call": "ws",
}  # fmt: skip
_CALLS = ("function_call", "custom_tool_call", "tool_search_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output", "tool_search_output")
_SEARCH_FIELDS = ("external_web_access", "search_content_types")
_SEARCHES = ("web_search", "web_search_preview")


class Responses(StandIn):
    """OpenAI's Responses API."""

    vendor = "openai-responses"
    overflow = (
        "Your input exceeds the context window of this model. Please adjust"
        " your input and try again."
    )
    overflow_code = "context_length_exceeded"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._cache = PrefixCache()

    def other_path(self, request: UpstreamRequest) -> HttpAnswer | None:
        """Answer other paths, and the request for a WebSocket."""
        if "upgrade" in request.headers:
            return json_answer({}, status=426)
        if request.path.partition("?")[0].endswith("/responses"):
            return None
        if request.path.partition("?")[0].endswith("/models"):
            return json_answer({"object": "list", "data": []})
        return json_answer({"detail": "Not Found"}, status=404)

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error in OpenAI's format."""
        error = {"message": str(refusal), "type": "invalid_request_error"}
        fields = {"param": None, "code": None, **refusal.fields}
        return error_document(refusal, error={**error, **fields})

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what OpenAI refuses."""
        # OpenAI takes `client_metadata` of Codex, though its library lacks the field.
        known = {
            name: value
            for name, value in body.items()
            if name not in ("stream", "client_metadata")
        }
        if reason := typed.problem(_without_codex(known), ResponseCreateParamsBase):
            raise Refusal(f"Unknown parameter: {reason}", code="unknown_parameter")
        reasoning = body.get("reasoning") or {}
        check_effort(body["model"], reasoning.get("effort"), "reasoning.effort")
        check_length(body, "user", 64)
        check_length(body, "prompt_cache_key", 64)
        functions = [
            tool for tool in body.get("tools", ()) if tool["type"] == "function"
        ]
        check_functions(functions)
        refuse_if(
            body.get("tool_choice") not in (None, "auto", "none")
            and not body.get("tools"),
            "Tool choice is only allowed when 'tools' are specified.",
        )
        if isinstance(body["input"], list):
            self._check_items(body)

    def _check_items(self, body: Any) -> None:
        """Raise Refusal for items that do not go together."""
        is_stored = body.get("store", True)
        open_ids: list[str] = []
        for index, item in enumerate(body["input"]):
            kind = item.get("type", "message")
            prefix = _PREFIXES.get(kind)
            item_id = item.get("id")
            refuse_if(
                item_id and prefix and not item_id.startswith(prefix),
                f"Invalid 'input[{index}].id': '{item_id}'. Expected an ID that begins"
                f" with '{prefix}'.",
            )
            check_length(item, "id", 64, f"input[{index}].")
            check_length(item, "call_id", 64, f"input[{index}].")
            if kind == "reasoning":
                self._check_reasoning(index, item, is_stored)
            elif kind in _CALLS:
                open_ids.append(item["call_id"])
            elif kind in _OUTPUTS:
                refuse_if(
                    item["call_id"] not in open_ids,
                    "No tool call found for function call output with call_id"
                    f" {item['call_id']}.",
                )
                open_ids.remove(item["call_id"])
        refuse_if(
            open_ids, f"No tool output found for function call {', '.join(open_ids)}."
        )

    def _check_reasoning(self, index: int, item: Any, is_stored: bool) -> None:
        """Raise Refusal for a reasoning item that this API did not issue."""
        secret = item.get("encrypted_content")
        refuse_if(
            not secret and not is_stored,
            f"Item with id '{item.get('id')}' not found. Items are not persisted when"
            " `store` is set to false.",
            status=404,
        )
        text = "".join(part["text"] for part in item.get("summary", ()))
        refuse_if(
            secret and secret != self.sign(text),
            f"The encrypted content {secret} could not be verified.",
            code="invalid_encrypted_content",
        )
        del index

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return the request in no vendor's format."""
        conversation = Conversation(tools=_tools(body.get("tools", ())))
        # Without `effort: none` these models think; the summary is shown if asked for.
        conversation.wants_thinking = bool((body.get("reasoning") or {}).get("summary"))
        items = body["input"]
        if isinstance(items, str):
            return conversation
        is_in_turn = False
        for item in items:
            kind = item.get("type", "message")
            if kind in _CALLS and not is_in_turn:
                conversation.turns.append([])
            if kind in _CALLS:
                conversation.turns[-1].append(_call(item))
            is_in_turn = kind in _CALLS or (is_in_turn and kind == "reasoning")
            _add_item(conversation, kind, item)
        return conversation

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what is read of the instructions, the tools and the items."""
        items = body["input"]
        items = [items] if isinstance(items, str) else items
        blocks = [body.get("instructions") or "", *body.get("tools", ()), *items]
        return self._cache.use([compact(block) for block in blocks])

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return the answer as a response, whole or as events."""
        items = self._items(body, answer)
        usage = {
            "input_tokens": use.total, "output_tokens": output,
            "total_tokens": use.total + output,
            "input_tokens_details": {"cached_tokens": use.read},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        head = {
            "id": self.new_id("resp_"), "object": "response", "created_at": 1,
            "model": body["model"], "error": None, "incomplete_details": None,
            "instructions": None, "metadata": {}, "parallel_tool_calls": True,
            "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [],
        }  # fmt: skip
        done = {**head, "status": "completed", "output": items, "usage": usage}
        if not body.get("stream"):
            return json_answer(done)
        start = {**head, "status": "in_progress", "output": [], "usage": None}
        events: list[Any] = [{"type": "response.created", "response": start}]
        for index, item in enumerate(items):
            events += _item_events(index, item)
        events.append({"type": "response.completed", "response": done})
        numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
        return events_answer(numbered)

    def _items(self, body: Any, answer: Answer) -> list[Any]:
        """Return the output items of an answer."""
        items: list[Any] = []
        if answer.thinking:
            summary = [{"type": "summary_text", "text": answer.thinking}]
            item = {"type": "reasoning", "id": self.new_id("rs_"), "summary": summary}
            if "reasoning.encrypted_content" in (body.get("include") or ()):
                item["encrypted_content"] = self.sign(answer.thinking)
            items.append(item)
        if answer.search:
            action = {"type": "search", "query": answer.search}
            search = {"type": "web_search_call", "id": self.new_id("ws_")}
            items.append({**search, "status": "completed", "action": action})
        text = {"type": "output_text", "text": answer.text, "annotations": []}
        message = {"type": "message", "id": self.new_id("msg_"), "role": "assistant"}
        items.append({**message, "status": "completed", "content": [text]})
        items += [self._call_item(call) for call in answer.calls]
        return items

    def _call_item(self, call: ToolCall) -> Any:
        """Return the item of a call."""
        head = {"name": call.name, "call_id": f"call_{call.id}"}
        if call.kind == "custom":
            item_id = self.new_id("ctc_")
            return {
                "type": "custom_tool_call",
                "id": item_id,
                **head,
                "input": call.arguments,
            }
        head |= {"arguments": compact(call.arguments), "status": "completed"}
        return {"type": "function_call", "id": self.new_id("fc_"), **head}


def _without_codex(body: Any) -> Any:
    """Return a body without what OpenAI takes of its own Codex, though its library's
    types lack it: ids of messages, empty fields of items, access of searches."""
    result = dict(body)
    if "tools" in body:
        result["tools"] = [
            {k: v for k, v in tool.items() if k not in _SEARCH_FIELDS}
            for tool in body["tools"]
        ]
    if isinstance(body["input"], list):
        result["input"] = [_plain_item(item) for item in body["input"]]
    return result


def _plain_item(item: Any) -> Any:
    """Return an item without empty fields and those of Codex alone."""
    kind = item.get("type", "message")
    own_fields: list[str] = ["status"] if kind == "custom_tool_call" else []
    if kind == "message" and item.get("role") != "assistant":
        own_fields.append("id")
    return {
        name: value
        for name, value in item.items()
        if value is not None and name not in own_fields
    }


def _tools(tools: Any) -> list[Tool]:
    """Return tools in no vendor's format."""
    result: list[Tool] = []
    for tool in tools:
        if tool["type"] == "function":
            result.append(Tool(tool["name"], tool.get("parameters") or {}))
        elif tool["type"] == "custom":
            result.append(Tool(tool["name"], kind="custom"))
        elif tool["type"].startswith(_SEARCHES):
            result.append(Tool("web_search", kind="search"))
    return result


def _add_item(conversation: Conversation, kind: str, item: Any) -> None:
    """Add what an item that is no call says to a conversation."""
    if kind in _OUTPUTS:
        conversation.add_result(item["call_id"], _result(item))
    elif kind == "additional_tools":
        conversation.tools += _tools(item["tools"])
    elif kind == "message" and item["role"] == "user":
        content = item["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        conversation.add_user_text("".join(part.get("text", "") for part in parts))
        conversation.user_images += sum("image_url" in part for part in parts)
    elif kind == "web_search_call":
        conversation.turns.append([ToolCall("web_search", None, kind="search")])


def _call(item: Any) -> ToolCall:
    """Return a call of the history in no vendor's format."""
    if item["type"] == "custom_tool_call":
        return ToolCall(item["name"], item["input"], item["call_id"], "custom")
    arguments = typed.parsed(item.get("arguments") or "{}")
    return ToolCall(item.get("name", ""), arguments, item["call_id"])


def _result(item: Any) -> ToolResult:
    """Return a result in no vendor's format."""
    output = item.get("output", "")
    if isinstance(output, str):
        return ToolResult(output)
    text = "".join(part.get("text", "") for part in output)
    return ToolResult(text, sum(part["type"] == "input_image" for part in output))


def _item_events(index: int, item: Any) -> list[Any]:
    """Return the events of an output item."""
    location = {"output_index": index, "item_id": item["id"]}
    kind = item["type"]
    if kind == "message":
        started, inner = {**item, "content": []}, _text_events(location, item)
    elif kind == "reasoning":
        started, inner = {**item, "summary": []}, _summary_events(location, item)
    elif kind in ("function_call", "custom_tool_call"):
        name = "arguments" if kind == "function_call" else "input"
        event = (
            "function_call_arguments"
            if kind == "function_call"
            else "custom_tool_call_input"
        )
        started = {**item, name: ""}
        inner = [
            {"type": f"response.{event}.delta", **location, "delta": text}
            for text in pieces_of(item[name])
        ]
        inner.append({"type": f"response.{event}.done", **location, name: item[name]})
    else:
        started, inner = {**item, "status": "in_progress"}, []
    return [
        {"type": "response.output_item.added", "output_index": index, "item": started},
        *inner,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _text_events(location: Any, item: Any) -> list[Any]:
    """Return the events of a message's text."""
    part = item["content"][0]
    where = {**location, "content_index": 0}
    empty = {**part, "text": ""}
    deltas = [
        {
            "type": "response.output_text.delta",
            **where,
            "delta": text,
            "logprobs": [],
        }
        for text in pieces_of(part["text"])
    ]
    return [
        {"type": "response.content_part.added", **where, "part": empty},
        *deltas,
        {
            "type": "response.output_text.done",
            **where,
            "text": part["text"],
            "logprobs": [],
        },
        {"type": "response.content_part.done", **where, "part": part},
    ]


def _summary_events(location: Any, item: Any) -> list[Any]:
    """Return the events of a summary of thoughts."""
    part = item["summary"][0]
    where = {**location, "summary_index": 0}
    kind = "response.reasoning_summary"
    deltas = [
        {"type": f"{kind}_text.delta", **where, "delta": text}
        for text in pieces_of(part["text"])
    ]
    return [
        {"type": f"{kind}_part.added", **where, "part": {**part, "text": ""}},
        *deltas,
        {"type": f"{kind}_text.done", **where, "text": part["text"]},
        {"type": f"{kind}_part.done", **where, "part": part},
    ]
