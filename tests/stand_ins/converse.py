"""AWS Bedrock's Converse API, as strict as its documentation says."""

import base64
import re
from typing import Any
from urllib.parse import unquote

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer
from modelyard.transport.aws_events import CONTENT_TYPE, dump_event
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
    pieces_of,
    refuse_if,
)

_FIELDS = {
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig",
    "additionalModelRequestFields", "additionalModelResponseFieldPaths", "promptVariables",
    "requestMetadata", "performanceConfig", "serviceTier", "outputConfig",
}  # fmt: skip
_INFERENCE = {"maxTokens", "temperature", "topP", "stopSequences"}
_BLOCKS = {
    "text", "image", "document", "video", "audio", "toolUse", "toolResult",
    "guardContent", "cachePoint", "reasoningContent", "citationsContent", "searchResult",
}  # fmt: skip
_MODEL_FIELDS = {
    "thinking", "anthropic_beta", "top_k", "output_config", "tool_choice",
    "context_management",
}  # fmt: skip
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Converse(StandIn):
    """AWS Bedrock's Converse API with a Claude model."""

    vendor = "anthropic"  # signatures of Claude are valid on all platforms
    overflow = "Input is too long for requested model."

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._cache = PrefixCache()

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error as AWS does."""
        answer = json_answer({"message": str(refusal)}, status=refusal.status)
        headers = {**answer.headers, "x-amzn-errortype": "ValidationException"}
        return HttpAnswer(status=refusal.status, headers=headers, body=answer.body)

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what Bedrock refuses."""
        _refuse_extra(body, _FIELDS, "request")
        _refuse_extra(body.get("inferenceConfig") or {}, _INFERENCE, "inferenceConfig")
        extra = body.get("additionalModelRequestFields") or {}
        _refuse_extra(extra, _MODEL_FIELDS, "additionalModelRequestFields")
        model = unquote(request.path.partition("/model/")[2].partition("/")[0])
        _check_thinking(model, body, extra)
        names = _check_tools(body)
        messages = body["messages"]
        refuse_if(not messages, "A conversation must start with a user message.")
        refuse_if(messages[0]["role"] != "user", "A conversation must start with a user message.")  # fmt: skip
        for index, message in enumerate(messages):
            self._check_message(index, message)
        _check_pairs(messages)
        uses_tools = any(
            {"toolUse", "toolResult"} & {*block}
            for message in messages
            for block in message["content"]
        )
        refuse_if(
            uses_tools and not names,
            "The toolConfig field must be defined when using toolUse and toolResult"
            " content blocks.",
        )
        _check_points(body)

    def _check_message(self, index: int, message: Any) -> None:
        """Raise Refusal for what is wrong with a single message."""
        location = f"messages.{index}"
        _refuse_extra(message, {"role", "content"}, location)
        refuse_if(not message["content"], f"The content field at {location} is empty.")
        for block in message["content"]:
            refuse_if(len(block) != 1, f"{location}: a content block has one member")
            _refuse_extra(block, _BLOCKS, location)
            if "text" in block:
                refuse_if(
                    not block["text"].strip(), f"The text field at {location} is blank."
                )
            if use := block.get("toolUse"):
                _refuse_extra(use, {"toolUseId", "name", "input", "type"}, location)
                refuse_if(
                    not _NAME.fullmatch(use["name"]), f"{location}: illegal tool name"
                )
                refuse_if(not isinstance(use["input"], dict), f"{location}: input is no object")  # fmt: skip
            if result := block.get("toolResult"):
                _check_result(result, location)
            if thought := block.get("reasoningContent"):
                text = thought["reasoningText"]
                is_own = text.get("signature") == self.sign(text["text"])
                refuse_if(
                    not is_own, f"{location}: Invalid `signature` in `thinking` block"
                )

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return the request in no vendor's format."""
        extra = body.get("additionalModelRequestFields") or {}
        kind = (extra.get("thinking") or {}).get("type")
        conversation = Conversation(
            tools=_tools(body), wants_thinking=kind in ("enabled", "adaptive")
        )
        for message in body["messages"]:
            uses = [b["toolUse"] for b in message["content"] if "toolUse" in b]
            if uses:
                calls = [ToolCall(u["name"], u["input"], u["toolUseId"]) for u in uses]
                conversation.turns.append(calls)
            if message["role"] == "user":
                _add_content(conversation, message["content"])
        return conversation

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what is read of the tools, the system and the messages."""
        tools = (body.get("toolConfig") or {}).get("tools", ())
        blocks = [*tools, *body.get("system", ()), *body["messages"]]
        return self._cache.use([compact(block) for block in blocks])

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return the answer, whole or as AWS's events."""
        usage = {
            "inputTokens": use.total - use.read, "outputTokens": output,
            "totalTokens": use.total + output, "cacheReadInputTokens": use.read,
        }  # fmt: skip
        reason = "tool_use" if answer.calls else "end_turn"
        blocks = self._blocks(answer)
        if not request.path.endswith("/converse-stream"):
            message = {"role": "assistant", "content": blocks}
            document = {"output": {"message": message}, "stopReason": reason}
            return json_answer(
                {**document, "usage": usage, "metrics": {"latencyMs": 1}}
            )
        events: list[tuple[str, Any]] = [("messageStart", {"role": "assistant"})]
        for index, block in enumerate(blocks):
            events += _block_events(index, block)
        events.append(("messageStop", {"stopReason": reason}))
        events.append(("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
        content = [dump_event(name, compact(event).encode()) for name, event in events]
        return HttpAnswer(headers={"content-type": CONTENT_TYPE}, pieces=content)

    def _blocks(self, answer: Answer) -> list[Any]:
        """Return the content blocks of an answer."""
        blocks: list[Any] = []
        if answer.thinking:
            text = {"text": answer.thinking, "signature": self.sign(answer.thinking)}
            blocks.append({"reasoningContent": {"reasoningText": text}})
        blocks.append({"text": answer.text})
        for call in answer.calls:
            used = {"toolUseId": f"tooluse_{call.id}", "name": call.name}
            blocks.append({"toolUse": {**used, "input": call.arguments}})
        return blocks


def _tools(body: Any) -> list[Tool]:
    """Return the tools in no vendor's format."""
    tools = (body.get("toolConfig") or {}).get("tools", ())
    specs = [tool["toolSpec"] for tool in tools if "toolSpec" in tool]
    return [Tool(spec["name"], spec["inputSchema"]["json"]) for spec in specs]


def _add_content(conversation: Conversation, blocks: list[Any]) -> None:
    """Add the blocks of a user's message to a conversation."""
    for block in blocks:
        if result := block.get("toolResult"):
            conversation.add_result(result["toolUseId"], _result(result))
        conversation.add_user_text(block.get("text", ""))
        conversation.user_images += "image" in block


def _block_events(index: int, block: Any) -> list[tuple[str, Any]]:
    """Return the events of a content block."""
    location = {"contentBlockIndex": index}
    events: list[tuple[str, Any]] = []
    deltas: list[Any] = []
    if use := block.get("toolUse"):
        start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
        events.append(("contentBlockStart", {**location, "start": start}))
        deltas = [{"toolUse": {"input": t}} for t in pieces_of(compact(use["input"]))]
    elif thought := block.get("reasoningContent"):
        text = thought["reasoningText"]
        deltas = [{"reasoningContent": {"text": t}} for t in pieces_of(text["text"])]
        deltas.append({"reasoningContent": {"signature": text["signature"]}})
    else:
        deltas = [{"text": text} for text in pieces_of(block["text"])]
    events += [("contentBlockDelta", {**location, "delta": delta}) for delta in deltas]
    return [*events, ("contentBlockStop", location)]


def _refuse_extra(document: Any, known: set[str], location: str) -> None:
    """Raise Refusal for the first unknown field of a document."""
    for name in document:
        refuse_if(
            name not in known,
            f"extraneous key [{name}] is not permitted at {location}",
        )


def _result(result: Any) -> ToolResult:
    """Return a result in no vendor's format."""
    texts = [
        block.get("text") or compact(block.get("json", ""))
        for block in result["content"]
    ]
    return ToolResult(
        "".join(texts), sum("image" in each for each in result["content"])
    )


def _check_result(result: Any, location: str) -> None:
    """Raise Refusal for an empty or unknown result."""
    _refuse_extra(result, {"toolUseId", "content", "status", "type"}, location)
    refuse_if(
        not result["content"] and result.get("status") == "error",
        f"{location}: content of a failed toolResult must not be empty",
    )
    for block in result["content"]:
        _refuse_extra(
            block,
            {"text", "json", "image", "document", "video", "searchResult"},
            location,
        )
        if image := block.get("image"):
            base64.b64decode(image["source"]["bytes"], validate=True)


def _check_thinking(model: str, body: Any, extra: Any) -> None:
    """Raise Refusal for what Claude does not take beside thinking."""
    kind = (extra.get("thinking") or {}).get("type")
    inference = body.get("inferenceConfig") or {}
    refuse_if(
        "4-5" in model and kind == "adaptive",
        "adaptive thinking is not supported on this model",
    )
    budget = (extra.get("thinking") or {}).get("budget_tokens", 1024)
    refuse_if(
        not 1024 <= budget < max(1025, inference.get("maxTokens", 1 << 30)),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    )
    refuse_if(
        kind in ("enabled", "adaptive") and inference.get("temperature", 1) != 1,
        "`temperature` may only be set to 1 when thinking is enabled.",
    )
    choice = (body.get("toolConfig") or {}).get("toolChoice") or {}
    refuse_if(
        kind in ("enabled", "adaptive") and {"any", "tool"} & {*choice},
        "Thinking may not be enabled when tool_choice forces tool use.",
    )


def _check_tools(body: Any) -> list[str]:
    """Return the names of the tools. Raises Refusal for what Bedrock does not take."""
    config = body.get("toolConfig")
    if config is None:
        return []
    _refuse_extra(config, {"tools", "toolChoice"}, "toolConfig")
    refuse_if(not config["tools"], "toolConfig.tools: length must be at least 1")
    _refuse_extra(config.get("toolChoice") or {}, {"auto", "any", "tool"}, "toolChoice")
    names: list[str] = []
    for tool in config["tools"]:
        _refuse_extra(tool, {"toolSpec", "cachePoint", "systemTool"}, "tools")
        spec = tool.get("toolSpec")
        if spec is None:
            continue
        _refuse_extra(
            spec, {"name", "description", "inputSchema", "strict"}, "toolSpec"
        )
        refuse_if(not _NAME.fullmatch(spec["name"]), "toolSpec.name: illegal name")
        refuse_if(spec.get("description") == "", "toolSpec.description: is empty")
        schema = spec["inputSchema"]["json"]
        refuse_if(
            schema.get("type") != "object"
            or schema.keys() & {"oneOf", "anyOf", "allOf"},
            f"The value at toolConfig {spec['name']} inputSchema.json.type must be object.",
        )
        names.append(spec["name"])
    refuse_if(len(names) != len(set(names)), "toolSpec names must be unique")
    return names


def _check_pairs(messages: Any) -> None:
    """Raise Refusal for roles that do not alternate, and calls without results."""
    open_ids: list[str] = []
    for index, message in enumerate(messages):
        refuse_if(
            index and message["role"] == messages[index - 1]["role"],
            "roles must alternate between user and assistant",
        )
        results = [
            block["toolResult"]["toolUseId"]
            for block in message["content"]
            if "toolResult" in block
        ]
        refuse_if(
            sorted(results) != sorted(open_ids),
            f"Expected toolResult blocks at messages.{index}.content for the following"
            f" Ids: {', '.join(open_ids)}",
        )
        open_ids = [
            block["toolUse"]["toolUseId"]
            for block in message["content"]
            if "toolUse" in block
        ]
    refuse_if(open_ids, f"Expected toolResult blocks for {', '.join(open_ids)}")


def _check_points(body: Any) -> None:
    """Raise Refusal for more than four cache points."""
    blocks = [*(body.get("toolConfig") or {}).get("tools", ()), *body.get("system", ())]
    blocks += [block for message in body["messages"] for block in message["content"]]
    points = sum("cachePoint" in block for block in blocks)
    refuse_if(points > 4, f"You may have up to 4 cache points, found {points}.")
