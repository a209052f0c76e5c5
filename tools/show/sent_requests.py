"""Send recorded requests through the gateway in their own format, and compare what
arrives at the provider.

Both bodies are brought into one spelling first, since a format has several for the same
thing (a text, or a list with one text; snake case in Google's); what is accepted as the
same is listed in `SPELLINGS`, and what the gateway changes on purpose in `ADAPTED`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.testing import Answer, UpstreamRequest
from tools.show.exchanges import Exchange
from tools.show.reader.facts import canonical, digest
from tools.show.replay import (
    JSON,
    RecordedUpstream,
    Reply,
    ask,
    gateway_over,
    minimal_request,
    provider_of,
)
from tools.show.sameness import Change, changes

FORMATS = (
    "openai_chat",
    "openai_responses",
    "anthropic",
    "gemini",
    "cohere",
    "openai_completions",
)
"""The formats in which the gateway takes requests."""

SPELLINGS = (
    "null, an empty text, list or object, and `false` for a switch say as much as absence",
    "a text is a list with one text",
    "adjacent messages of one role are one message, and calls stand in their message",
    "Google's fields in snake case and in camel case are the same",
    "base64 has two alphabets",
    "levels of Google's thinking have no case",
    "a message without content says nothing, and a full stop stands for an empty turn",
    "a text of blanks alone, which Claude refuses, says as much as absence",
    "one stop sequence is a list with one",
    "`functions` and `function_call` are the older spelling of tools",
    "`output_format` is the older spelling of `output_config.format`",
    "items of Responses that came from an answer may lack its status and empty lists",
    "arguments of calls are compared as JSON",
)
"""What both bodies are brought to before they are compared."""

_LIMIT = "models that reason, and servers that do not, take the limit by another name"
_THOUGHTS = "thoughts are sent in the field that the provider's file names"
_SCHEMA = "the field that takes all of JSON Schema"
_AS_TEXT = "a document of plain text is sent as text, which all vendors take"
ADAPTED: dict[tuple[str, str, str], str] = {
    ("openai_chat", ".max_completion_tokens", "added"): _LIMIT,
    ("openai_chat", ".max_completion_tokens", "lost"): _LIMIT,
    ("openai_chat", ".max_tokens", "added"): _LIMIT,
    ("openai_chat", ".max_tokens", "lost"): _LIMIT,
    ("openai_chat", ".messages[].reasoning", "lost"): _THOUGHTS,
    ("openai_chat", ".messages[].reasoning_content", "added"): _THOUGHTS,
    ("gemini", ".contents[].parts[].thoughtSignature", "added"): (
        "Gemini 3 refuses a call without a signature; its documented placeholder is sent"
    ),
    ("gemini", ".tools[].functionDeclarations[].parameters", "lost"): _SCHEMA,
    ("gemini", ".tools[].functionDeclarations[].parametersJsonSchema", "added"): (
        _SCHEMA
    ),
    ("openai_responses", ".input[].content[].file_data", "lost"): _AS_TEXT,
    ("openai_responses", ".input[].content[].filename", "lost"): _AS_TEXT,
    ("openai_responses", ".input[].content[].text", "added"): _AS_TEXT,
    ("openai_responses", ".input[].content[].type", "changed"): _AS_TEXT,
}
"""(format, path, kind of change) → why the gateway changes a request on purpose."""
FAILED = "the call failed, so its response names nothing that was left out"

# Refusals before sending that are documented: pattern in the message → reason.
REFUSED: tuple[tuple[str, str], ...] = (
    (r"'(background|conversation)' is not supported", "needs state at the vendor"),
    (r"not found, or older than", "refers to a response that the gateway did not make"),
    (
        r"'messages\[\d+\]\.tool_call_id' is required",
        "invalid: a result without its call",
    ),
    (r"'temperature' must be between", "invalid: the vendor refused it too"),
    (r"must be the bytes of an image", "invalid: the vendor refused it too"),
)


class RequestLog(RecordedUpstream):
    """An upstream that answers with recordings, and remembers the requests."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        super().__init__(exchanges)
        self.seen: list[JSON] = []

    def __call__(self, request: UpstreamRequest) -> Answer:
        self.seen.append(json.loads(request.body))
        return super().__call__(request)


@dataclass
class Sent:
    """What became of one recorded request."""

    exchange: Exchange
    problems: list[str] = field(default_factory=list[str])
    """Differences without a reason."""
    excused: list[str] = field(default_factory=list[str])
    """Reasons of accepted differences."""
    refused: str = ""
    """Why it was refused before sending; empty if it was sent."""


def with_request(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Return the exchanges whose request can be sent in its own format."""
    return [
        exchange
        for exchange in exchanges
        if exchange.format in FORMATS
        and isinstance(exchange.request, dict)
        and exchange.request
    ]


async def send_recorded(exchanges: Sequence[Exchange]) -> list[Sent]:
    """Send each recorded request, and compare what arrived."""
    log = RequestLog(exchanges)
    outcomes: list[Sent] = []
    async with gateway_over(exchanges, log) as gateway:
        for number, exchange in enumerate(exchanges):
            log.seen.clear()
            path, body = request_of(exchange, number)
            reply = await ask(gateway, path, body, _beta_headers(exchange))
            outcomes.append(compare_request(exchange, reply, log.seen))
    return outcomes


def request_of(exchange: Exchange, number: int) -> tuple[str, JSON]:
    """Return the path and body that send a recorded request to recording `number`."""
    model = f"{provider_of(exchange)}/rec-{number}"
    is_stream = ":stream" in exchange.path or exchange.is_stream
    path, _ = minimal_request(exchange.format, model, stream=is_stream)
    if exchange.format == "gemini":
        return path, dict(exchange.request)
    return path, {**exchange.request, "model": model}


# Fields of Anthropic's API in beta; recordings have no headers, so the names are added,
# and so is that for messages of the system, since the model's name is not the recorded
# one, by which the gateway knows what a model takes.
_INLINE_SYSTEM = "mid-conversation-system-2026-04-07"
_BETAS = {
    "context_management": "context-management-2025-06-27,compact-2026-01-12",
    "mcp_servers": "mcp-client-2025-11-20",
}


def _beta_headers(exchange: Exchange) -> dict[str, str]:
    """Return the beta names that the fields of a request need."""
    if exchange.format != "anthropic":
        return {}
    names = [name for key, name in _BETAS.items() if key in exchange.request]
    if any(message["role"] == "system" for message in exchange.request["messages"]):
        names.append(_INLINE_SYSTEM)
    return {"anthropic-beta": ",".join(names)} if names else {}


def compare_request(exchange: Exchange, reply: Reply, seen: Sequence[JSON]) -> Sent:
    """Compare a recorded request with what arrived at the provider."""
    outcome = Sent(exchange)
    if not seen:
        _note_refusal(outcome, reply)
        return outcome
    dropped = _dropped(reply.headers)
    before = normalized(exchange.format, exchange.request)
    after = normalized(exchange.format, seen[-1])
    for change in changes(before, after):
        reason = _reason(exchange, change, dropped, is_failed=reply.status != 200)
        if reason:
            outcome.excused.append(reason)
        else:
            outcome.problems.append(str(change))
    return outcome


def _note_refusal(outcome: Sent, reply: Reply) -> None:
    """Note why a request was not sent; it is a problem if no reason is listed."""
    message = reply.body.decode()
    reasons = [why for pattern, why in REFUSED if re.search(pattern, message)]
    outcome.refused = reasons[0] if reasons else ""
    if not reasons:
        outcome.problems.append(f"refused with {reply.status}: {message[:200]}")


def _dropped(headers: Mapping[str, str]) -> list[str]:
    """Return the fields that the response names as left out."""
    names = headers.get("x-modelyard-dropped", "").split(",")
    return [name.strip() for name in names if name.strip()]


def _reason(
    exchange: Exchange, change: Change, dropped: Sequence[str], *, is_failed: bool
) -> str:
    """Return why a change is accepted; empty if it is not."""
    path = change.path.lstrip(".").replace("[]", "")
    if change.kind != "added" and any(_covers(name, path) for name in dropped):
        return "left out, and named in the response"
    if is_failed and change.path == ".reasoning_effort":
        return FAILED
    return ADAPTED.get((exchange.format, change.path, change.kind), "")


def _covers(name: str, path: str) -> bool:
    """Whether the name of a dropped field stands for a path."""
    return path == name or path.startswith(f"{name}.") or name.startswith(path)


# ------------------------------------------------------------------------ one spelling


def normalized(name: str, body: JSON) -> Any:
    """Return a request in one spelling, without the model."""
    body = {key: value for key, value in body.items() if key != "model"}
    match name:
        case "openai_chat":
            body = _chat(body)
        case "openai_responses":
            body = _responses(body)
        case "anthropic":
            body = _anthropic(body)
        case "gemini":
            body = _google(body)
        case _:
            body = _common(body)
    return without_empty(body)


def without_empty(node: Any) -> Any:
    """Return a document without what says nothing."""
    if isinstance(node, dict):
        cleaned = {key: without_empty(value) for key, value in node.items()}
        return {
            key: value
            for key, value in cleaned.items()
            if value is not None and value not in ("", [], {})
        }
    if isinstance(node, list):
        return [without_empty(element) for element in node]
    return node


def _common(body: JSON) -> JSON:
    """Return a body without switches that are off, and with lists of stop sequences."""
    if body.get("stream") is False:
        del body["stream"]
    body.pop("stream_options", None)
    for key in ("stop", "stop_sequences", "prompt"):
        if isinstance(body.get(key), str):
            body[key] = [body[key]]
    return body


def _text_list(content: Any, kind: str = "text") -> Any:
    """Return a content as a list of parts."""
    if isinstance(content, str):
        return [{"type": kind, "text": content}] if content else []
    return content


def _without(fields: JSON, *pairs: tuple[str, Any]) -> JSON:
    """Return an object without fields that have their default value."""
    return {key: value for key, value in fields.items() if (key, value) not in pairs}


def _chat(body: JSON) -> JSON:
    """Return a chat completion request in one spelling."""
    body = _common(body)
    functions = body.pop("functions", None)
    if functions:
        body["tools"] = [{"function": function} for function in functions]
    choice = body.pop("function_call", None)
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    if choice:
        body["tool_choice"] = choice
    body["tools"] = [
        _without(tool, ("type", "function")) for tool in body.get("tools") or ()
    ]
    messages = [_chat_message(message) for message in body["messages"]]
    # Agents keep answers that broke off; some servers refuse them, others read nothing.
    body["messages"] = [
        message
        for message in messages
        if message.get("role") != "assistant"
        or {*without_empty(message)} - {"role", "reasoning_content"}
    ]
    return body


def _chat_message(message: JSON) -> JSON:
    """Return a chat message in one spelling."""
    message = {**message, "content": _text_list(message.get("content"))}
    message["tool_calls"] = [
        _chat_call(call) for call in message.get("tool_calls") or ()
    ]
    return message


def _chat_call(call: JSON) -> JSON:
    """Return a call with its arguments as JSON."""
    call = _without(call, ("type", "function"))
    if isinstance(call.get("function"), dict):
        arguments = canonical(call["function"].get("arguments"))
        call["function"] = {**call["function"], "arguments": arguments}
    return call


def _responses(body: JSON) -> JSON:
    """Return a request of the Responses API in one spelling."""
    body = _common(body)
    items = body.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    spelled = [_item(item) for item in items or ()]
    body["input"] = [
        item for item in spelled if "role" not in item or item.get("content")
    ]
    return body


def _item(item: JSON) -> JSON:
    """Return an item in one spelling."""
    item = _without(item, ("type", "message"), ("status", "completed"))
    item = {key: value for key, value in item.items() if key != "status"}
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    if "content" in item:
        item["content"] = _text_list(item["content"], kind)
    if "arguments" in item:
        item["arguments"] = canonical(item["arguments"])
    return item


def _anthropic(body: JSON) -> JSON:
    """Return a request of the Messages API in one spelling."""
    body = _common(body)
    if "output_format" in body:
        config = body.get("output_config") or {}
        body["output_config"] = {**config, "format": body.pop("output_format")}
    body["system"] = _text_list(body.get("system"))
    body["tools"] = [
        _without(tool, ("type", "custom")) for tool in body.get("tools") or ()
    ]
    body["messages"] = _joined(
        (message["role"], [_block(block) for block in _visible(message["content"])])
        for message in body["messages"]
    )
    return body


def _visible(content: Any) -> list[JSON]:
    """Return the blocks of a message without texts of blanks alone."""
    blocks = _text_list(content)
    return [each for each in blocks if each.get("text", "-").strip()]


def _joined(turns: Iterable[tuple[str, list[JSON]]]) -> list[JSON]:
    """Return (role, parts) as turns. Parts that say nothing are left out, and adjacent
    turns of one role are one."""
    joined: list[JSON] = []
    for role, parts in turns:
        filled = [part for part in parts if not _is_filler(part)]
        if filled and joined and joined[-1]["role"] == role:
            joined[-1]["parts"] += filled
        elif filled:
            joined.append({"role": role, "parts": filled})
    return joined


def _block(block: JSON) -> JSON:
    """Return a block in one spelling."""
    block = _without(block, ("is_error", False))
    if block.get("type") == "tool_result":
        block["content"] = _text_list(block.get("content"))
    return block


def _is_filler(part: JSON) -> bool:
    """Whether a part is a text that says nothing."""
    return part.get("text", "-") in ("", ".") and not part.get("thoughtSignature")


def _google(body: JSON) -> JSON:
    """Return a request of Google's API in one spelling."""
    body = _camel(body)
    body["contents"] = _joined(
        (
            content.get("role") or "user",
            [_google_part(part) for part in content.get("parts") or ()],
        )
        for content in body.get("contents") or ()
    )
    thinking = (body.get("generationConfig") or {}).get("thinkingConfig") or {}
    if isinstance(thinking.get("thinkingLevel"), str):
        thinking["thinkingLevel"] = thinking["thinkingLevel"].lower()
    if isinstance(body.get("systemInstruction"), dict):
        parts = body["systemInstruction"].get("parts") or ()
        body["systemInstruction"] = [part.get("text") for part in parts]
    return body


# Objects whose keys are the caller's own words.
_OWN_KEYS = ("args", "response", "properties", "labels", "responseSchema", "parameters")


def _camel(node: Any) -> Any:
    """Return a document with Google's fields in camel case."""
    if isinstance(node, list):
        return [_camel(element) for element in node]
    if not isinstance(node, dict):
        return node
    renamed: JSON = {}
    for key, value in node.items():
        name = re.sub(r"_([a-z])", lambda match: match[1].upper(), key)
        renamed[name] = value if name in _OWN_KEYS else _camel(value)
    return renamed


def _google_part(part: JSON) -> JSON:
    """Return a part with its bytes as a hash."""
    data = part.get("inlineData")
    if isinstance(data, dict):
        part = {**part, "inlineData": {**data, "data": digest(data.get("data"))}}
    result = part.get("functionResponse")
    if isinstance(result, dict) and result.get("parts"):
        files = [_google_part(file) for file in result["parts"]]
        part = {**part, "functionResponse": {**result, "parts": files}}
    if part.get("thoughtSignature"):
        signature = part["thoughtSignature"].translate(str.maketrans("-_", "+/"))
        part = {**part, "thoughtSignature": signature.rstrip("=")}
    return part


def summary(outcomes: Sequence[Sent]) -> Iterator[tuple[str, int, int, int]]:
    """Yield (format, requests, equal or explained, refused) for each format."""
    for name in FORMATS:
        group = [sent for sent in outcomes if sent.exchange.format == name]
        if group:
            passed = sum(not sent.problems for sent in group)
            refused = sum(bool(sent.refused) for sent in group)
            yield name, len(group), passed, refused
