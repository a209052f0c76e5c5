"""Anthropic's Messages API, as strict as its documentation says."""

import base64
import re
from typing import Any

import jsonschema
from anthropic.types.message_create_params import MessageCreateParamsBase

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer
from tests.stand_ins import typed
from tests.stand_ins.prompt_cache import CacheUse, MarkedCache
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

BETA_FIELDS = {
    "context_management": "context-management-",
    "mcp_servers": "mcp-client-",
    "speed": "fast-mode-",
    "diagnostics": "cache-diagnosis-",
}
OUTPUT_LIMITS = {
    "claude-3-haiku": 4096,
    "claude-opus-4-1": 32_000,
    "claude-opus-4-6": 128_000,
    "claude-opus-4-7": 128_000,
    "claude-opus-4-8": 128_000,
    "": 64_000,
}
_SYSTEM_BETA = "mid-conversation-system-"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


class Messages(StandIn):
    """Anthropic's Messages API."""

    vendor = "anthropic"
    overflow = "prompt is too long: 205123 tokens > 200000 maximum"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._cache = MarkedCache()

    def other_path(self, request: UpstreamRequest) -> HttpAnswer | None:
        """Answer the requests that are no messages."""
        path = request.path.partition("?")[0]
        if path.endswith("/messages/count_tokens"):
            return json_answer({"input_tokens": len(request.body) // 4})
        return None if path.endswith("/messages") else json_answer({})

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error in Anthropic's format."""
        error = {"type": "invalid_request_error", "message": str(refusal)}
        return error_document(
            refusal, type="error", error=error, request_id=self.new_id("req_")
        )

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what Anthropic refuses."""
        refuse_if(
            "anthropic-version" not in request.headers,
            "anthropic-version: header is required",
        )
        betas = request.headers.get("anthropic-beta", "").split(",")
        for name, prefix in BETA_FIELDS.items():
            has_beta = any(beta.strip().startswith(prefix) for beta in betas)
            refuse_if(
                name in body and not has_beta, f"{name}: Extra inputs are not permitted"
            )
        _check_fields(body)
        _check_tools(body)
        _check_thinking(body)
        _check_marks(body)
        refuse_if(not body["messages"], "messages: at least one message is required")
        # Opus 4.8 is the first model that takes them without a beta name.
        takes_system = "opus-4-8" in body["model"] or any(
            beta.strip().startswith(_SYSTEM_BETA) for beta in betas
        )
        for index, message in enumerate(body["messages"]):
            refuse_if(
                message["role"] == "system" and not takes_system,
                'messages: Unexpected role "system". The Messages API accepts a'
                " top-level `system` parameter",
            )
            self._check_message(index, message)
        _check_pairs(body["messages"])
        _check_end(body)

    def _check_message(self, index: int, message: Any) -> None:
        """Raise Refusal for what is wrong with a single message."""
        location = f"messages.{index}"
        refuse_if(not message["content"], f"{location}: messages must have content")
        for number, block in enumerate(_blocks(message)):
            where = f"{location}.content.{number}"
            kind = block["type"]
            if kind == "text":
                refuse_if(
                    not block["text"].strip(),
                    "messages: text content blocks must contain non-whitespace text",
                )
            elif kind == "thinking":
                is_own = block["signature"] == self.sign(block["thinking"])
                refuse_if(
                    not is_own, f"{where}: Invalid `signature` in `thinking` block"
                )
            elif kind in ("tool_use", "tool_result"):
                name = "id" if kind == "tool_use" else "tool_use_id"
                refuse_if(
                    not _ID.fullmatch(block[name]),
                    f"{where}.{kind}.{name}: String should match pattern"
                    " '^[a-zA-Z0-9_-]+$'",
                )
            _check_pictures(block, where)

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return the request in no vendor's format."""
        thinking = body.get("thinking", {}).get("type")
        conversation = Conversation(
            tools=[_tool(tool) for tool in body.get("tools", ())],
            wants_thinking=thinking in ("enabled", "adaptive"),
        )
        for message in body["messages"]:
            calls: list[ToolCall] = []
            for block in _blocks(message):
                if block["type"] == "tool_use":
                    calls.append(ToolCall(block["name"], block["input"], block["id"]))
                elif block["type"] == "tool_result":
                    conversation.add_result(block["tool_use_id"], _result(block))
                elif block["type"] == "text" and message["role"] == "user":
                    conversation.add_user_text(block["text"])
                elif block["type"] == "image":
                    conversation.user_images += 1
            if calls:
                conversation.turns.append(calls)
        return conversation

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what is read up to the marks: tools, then the system, then messages."""
        system = body.get("system") or []
        blocks = [*body.get("tools", ())]
        blocks += [{"text": system}] if isinstance(system, str) else system
        for message in body["messages"]:
            blocks += [{"role": message["role"], **each} for each in _blocks(message)]
        marks = [n for n, block in enumerate(blocks) if block.get("cache_control")]
        texts = [
            compact({k: v for k, v in block.items() if k != "cache_control"})
            for block in blocks
        ]
        return self._cache.use(texts, marks)

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return the answer as a message, whole or as events."""
        usage = {
            "input_tokens": use.total - use.read - use.written,
            "cache_read_input_tokens": use.read,
            "cache_creation_input_tokens": use.written,
            "output_tokens": output,
        }
        head = {
            "id": self.new_id("msg_"), "type": "message", "role": "assistant",
            "model": body["model"], "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        blocks = self._answer_blocks(answer)
        reason = "tool_use" if answer.calls else "end_turn"
        if not body.get("stream"):
            return json_answer({**head, "content": blocks, "stop_reason": reason})
        start = {**head, "content": [], "stop_reason": None}
        start["usage"] = {**usage, "output_tokens": 1}
        events: list[Any] = [{"type": "message_start", "message": start}]
        events.append({"type": "ping"})
        for index, block in enumerate(blocks):
            events += _block_events(index, block)
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        return events_answer([*events, {"type": "message_stop"}])

    def _answer_blocks(self, answer: Answer) -> list[Any]:
        """Return the blocks of an answer."""
        blocks: list[Any] = []
        if answer.thinking:
            signature = self.sign(answer.thinking)
            blocks.append(
                {
                    "type": "thinking",
                    "thinking": answer.thinking,
                    "signature": signature,
                }
            )
        if answer.search:
            blocks += self._search_blocks(answer.search)
        blocks.append({"type": "text", "text": answer.text})
        for call in answer.calls:
            used = {
                "id": f"toolu_{call.id}",
                "name": call.name,
                "input": call.arguments,
            }
            blocks.append({"type": "tool_use", **used})
        return blocks

    def _search_blocks(self, query: str) -> list[Any]:
        """Return the blocks of a search that Anthropic runs."""
        search_id = self.new_id("srvtoolu_")
        hit = {
            "type": "web_search_result", "title": "Releases", "page_age": None,
            "url": "https://example.org/releases", "encrypted_content": self.sign(query),
        }  # fmt: skip
        return [
            {
                "type": "server_tool_use", "id": search_id, "name": "web_search",
                "input": {"query": query},
            },
            {
                "type": "web_search_tool_result", "tool_use_id": search_id,
                "content": [hit],
            },
        ]  # fmt: skip


def _blocks(message: Any) -> list[Any]:
    """Return the content blocks of a message."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tool(tool: Any) -> Tool:
    """Return a tool in no vendor's format."""
    if "input_schema" in tool:
        return Tool(tool["name"], tool["input_schema"])
    return Tool(tool["name"], kind="search")


def _result(block: Any) -> ToolResult:
    """Return a tool result in no vendor's format."""
    content = block.get("content", "")
    if isinstance(content, str):
        return ToolResult(content)
    texts = [item["text"] for item in content if item["type"] == "text"]
    return ToolResult("".join(texts), sum(item["type"] == "image" for item in content))


def _block_events(index: int, block: Any) -> list[Any]:
    """Return the events of a content block."""
    deltas: list[Any] = []
    if block["type"] == "text":
        start: Any = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": t} for t in pieces_of(block["text"])]
    elif block["type"] == "thinking":
        start = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [
            {"type": "thinking_delta", "thinking": t}
            for t in pieces_of(block["thinking"])
        ]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif block["type"] in ("tool_use", "server_tool_use"):
        start = {**block, "input": {}}
        texts = ["", *pieces_of(compact(block["input"]))]
        deltas = [{"type": "input_json_delta", "partial_json": t} for t in texts]
    else:
        start = block
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _check_fields(body: Any) -> None:
    """Raise Refusal for fields that the documentation does not have."""
    # Older models take these, though the library no longer has them.
    skipped_fields = {*BETA_FIELDS, "stream", "temperature", "top_p", "top_k"}
    stable_fields = {
        name: value for name, value in body.items() if name not in skipped_fields
    }
    if reason := typed.problem(stable_fields, MessageCreateParamsBase):
        raise Refusal(reason)
    limits = (
        n for model, n in OUTPUT_LIMITS.items() if body["model"].startswith(model)
    )
    limit = next(limits)
    refuse_if(
        body["max_tokens"] > limit,
        f"max_tokens: {body['max_tokens']} > {limit}, which is the maximum allowed"
        f" number of output tokens for {body['model']}",
    )


def _check_tools(body: Any) -> None:
    """Raise Refusal for tools that Anthropic does not take."""
    tools = body.get("tools") or []
    names = [tool["name"] for tool in tools]
    refuse_if(len(names) != len(set(names)), "tools: Tool names must be unique.")
    refuse_if(
        "tool_choice" in body and not tools,
        "tool_choice may only be specified while providing tools",
    )
    for index, tool in enumerate(tools):
        refuse_if(
            not _NAME.fullmatch(tool["name"]),
            f"tools.{index}.custom.name: String should match pattern"
            " '^[a-zA-Z0-9_-]{1,128}$'",
        )
        if "input_schema" not in tool:
            continue
        schema, location = tool["input_schema"], f"tools.{index}.custom.input_schema"
        refuse_if(
            schema.keys() & {"oneOf", "allOf", "anyOf"},
            f"{location}: input_schema does not support oneOf, allOf, or anyOf at the top"
            " level",
        )
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise Refusal(
                f"{location}: JSON schema is invalid. It must match JSON Schema draft"
                f" 2020-12 ({error.message[:100]})"
            ) from error


def _check_thinking(body: Any) -> None:
    """Raise Refusal for forms of thinking, and for what is refused beside it."""
    model, kind = body["model"], body.get("thinking", {}).get("type")
    effort = (body.get("output_config") or {}).get("effort")
    is_adaptive_only = re.search("opus-4-[78]|-5", model.replace("4-5", "")) is not None
    refuse_if(
        is_adaptive_only and kind not in (None, "adaptive"),
        '"thinking.type.enabled" is not supported for this model.',
    )
    refuse_if(
        "4-5" in model and kind == "adaptive",
        "adaptive thinking is not supported on this model",
    )
    refuse_if(
        effort and "4-5" in model and "opus" not in model,
        "This model does not support the effort parameter.",
    )
    budget = body.get("thinking", {}).get("budget_tokens", 1024)
    refuse_if(
        not 1024 <= budget < max(1025, body["max_tokens"]),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    )
    refuse_if(
        "temperature" in body and "top_p" in body,
        "`temperature` and `top_p` cannot both be specified for this model.",
    )
    if kind in ("enabled", "adaptive"):
        refuse_if(
            body.get("temperature", 1) != 1 or "top_k" in body,
            "`temperature` may only be set to 1 when thinking is enabled.",
        )
        refuse_if(
            body.get("tool_choice", {}).get("type") in ("any", "tool"),
            "Thinking may not be enabled when tool_choice forces tool use.",
        )
    if is_adaptive_only:
        refuse_if(
            body.get("temperature", 1) != 1 or body.keys() & {"top_p", "top_k"},
            "`temperature` is deprecated for this model.",
        )


def _check_marks(body: Any) -> None:
    """Raise Refusal for too many cache marks, or a long one after a short one."""
    system = body.get("system") or []
    blocks = [*body.get("tools", ()), *(system if isinstance(system, list) else ())]
    for message in body["messages"]:
        for block in _blocks(message):
            inner = block.get("content")
            blocks += [block, *(inner if isinstance(inner, list) else ())]
    marks = [block["cache_control"] for block in blocks if block.get("cache_control")]
    refuse_if(
        len(marks) > 4,
        "A maximum of 4 blocks with cache_control may be provided. Found"
        f" {len(marks)}.",
    )
    lifetimes = [mark.get("ttl", "5m") for mark in marks]
    refuse_if(
        lifetimes != sorted(lifetimes),
        "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control"
        " block",
    )


def _check_pairs(messages: Any) -> None:
    """Raise Refusal for calls without results in the next message, and the reverse."""
    refuse_if(messages[0]["role"] != "user", "messages: first message must use user")
    open_ids: list[str] = []
    earlier_ids: set[str] = set()
    for index, blocks in enumerate(_merged(messages)):
        _check_results(index, blocks, open_ids)
        open_ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        refuse_if(earlier_ids & {*open_ids}, "messages: `tool_use` ids must be unique")
        earlier_ids |= {*open_ids}
    refuse_if(open_ids, f"`tool_use` ids were found without `tool_result`: {open_ids}")


def _merged(messages: Any) -> list[list[Any]]:
    """Return the blocks of the turns; messages of a role in a row are one turn."""
    turns: list[list[Any]] = []
    role = ""
    for message in messages:
        if message["role"] != role:
            turns.append([])
        turns[-1] += _blocks(message)
        role = message["role"]
    return turns


def _check_results(index: int, blocks: list[Any], open_ids: list[str]) -> None:
    """Raise Refusal if a turn does not begin with the results of the open calls."""
    results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
    missing = [call_id for call_id in open_ids if call_id not in results]
    refuse_if(
        missing,
        f"messages.{index - 1}: `tool_use` ids were found without `tool_result`"
        f" blocks immediately after: {', '.join(missing)}.",
    )
    extra = [call_id for call_id in results if call_id not in open_ids]
    refuse_if(
        extra or len(results) != len(set(results)),
        f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks:"
        f" {', '.join(extra or results)}.",
    )
    kinds = [block["type"] for block in blocks]
    refuse_if(
        results and kinds[: len(results)] != ["tool_result"] * len(results),
        f"messages.{index}: tool_result blocks must come first in the content",
    )


def _check_end(body: Any) -> None:
    """Raise Refusal for an answer that the model does not go on with."""
    last = body["messages"][-1]
    if last["role"] == "assistant":
        text = _blocks(last)[-1].get("text", "")
        refuse_if(
            text != text.rstrip(),
            "messages: final assistant content cannot end with trailing whitespace",
        )
        refuse_if(
            re.search("4-[678]|(?<!4)-5$", body["model"]),
            "This model does not support assistant message prefill.",
        )


def _check_pictures(block: Any, where: str) -> None:
    """Raise Refusal for pictures that are none."""
    inner = block.get("content")
    for image_block in [block, *(inner if isinstance(inner, list) else ())]:
        source = image_block.get("source") or {}
        if image_block["type"] != "image" or source.get("type") != "base64":
            continue
        refuse_if(source["media_type"] not in _PICTURES, f"{where}: unknown media type")
        try:
            base64.b64decode(source["data"], validate=True)
        except ValueError as error:
            raise Refusal(f"{where}: invalid base64 data") from error
