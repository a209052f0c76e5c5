"""Google's Gemini API, as strict as its documentation says."""

import base64
import re
from typing import Any

import pydantic
from google.genai import types

from modelyard.testing import Answer as HttpAnswer
from modelyard.testing import UpstreamRequest, json_answer
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

_FIELDS: dict[str, Any] = {
    "contents": list[types.Content],
    "systemInstruction": types.Content,
    "tools": list[types.Tool],
    "toolConfig": types.ToolConfig,
    "generationConfig": types.GenerationConfig,
    "safetySettings": list[types.SafetySetting],
    "cachedContent": str,
    "labels": dict[str, str],
    "store": bool,
    "serviceTier": str,
}
_ADAPTERS = {name: pydantic.TypeAdapter(hint) for name, hint in _FIELDS.items()}
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
SKIP = "skip_thought_signature_validator"
_LEVELS = {
    "gemini-3-pro": ("low", "high"),
    "gemini-3.1-pro": ("low", "medium", "high"),
    "gemini-3": ("minimal", "low", "medium", "high"),
}


class Gemini(StandIn):
    """Google's Gemini API."""

    vendor = "gemini"
    overflow = (
        "The input token count (1052345) exceeds the maximum number of toke"
        "ns allowed (1048576)."
    )

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._cache = PrefixCache()

    def other_path(self, request: UpstreamRequest) -> HttpAnswer | None:
        """Answer the requests that are no calls of a model."""
        if "countTokens" in request.path:
            return json_answer({"totalTokens": len(request.body) // 4})
        return None if "enerateContent" in request.path else json_answer({})

    def error(self, refusal: Refusal) -> HttpAnswer:
        """Return an error in Google's format."""
        error = {"code": refusal.status, "message": str(refusal)}
        return error_document(refusal, error={**error, "status": "INVALID_ARGUMENT"})

    def check(self, request: UpstreamRequest, body: Any) -> None:
        """Raise Refusal for what Google refuses."""
        refuse_if(
            "x-goog-api-key" not in request.headers and "key=" not in request.path,
            "Method doesn't allow unregistered callers",
        )
        for name, value in body.items():
            refuse_if(
                name not in _ADAPTERS,
                f'Invalid JSON payload received. Unknown name "{name}": Cannot find'
                " field.",
            )
            _check_type(name, value)
        model = request.path.partition("/models/")[2].partition(":")[0]
        _check_config(model, body.get("generationConfig") or {})
        _check_declarations(body)
        refuse_if(not body.get("contents"), "contents is not specified")
        _check_turns(body["contents"])
        if "gemini-3" in model or "gemini-4" in model:
            self._check_signatures(body["contents"])

    def _check_signatures(self, contents: Any) -> None:
        """Raise Refusal if a step of the current turn has lost its signature."""
        last_text = max(
            (
                index
                for index, content in enumerate(contents)
                if content["role"] == "user" and _has_text(content)
            ),
            default=0,
        )
        for index, content in enumerate(contents):
            calls = [part for part in content["parts"] if "functionCall" in part]
            for number, part in enumerate(content["parts"]):
                self._check_signature(part, index, number)
            if calls and index > last_text and content["role"] == "model":
                name = calls[0]["functionCall"]["name"]
                refuse_if(
                    not calls[0].get("thoughtSignature"),
                    "Function call is missing a thought_signature in functionCall"
                    " parts. This is required for tools to work correctly. function"
                    f" call `default_api:{name}`, position {index}.",
                )

    def _check_signature(self, part: Any, index: int, number: int) -> None:
        """Raise Refusal for a signature that Google did not issue."""
        signature = part.get("thoughtSignature")
        if signature is None or signature == SKIP:
            return
        text = part.get("text") or compact(part.get("functionCall", {}).get("args", ""))
        is_own = signature in (self._signature(text), self._signature(""))
        refuse_if(
            not is_own,
            f"Corrupted thought signature. (contents[{index}].parts[{number}])",
        )

    def _signature(self, text: str) -> str:
        """Return the signature of a part, as bytes in base64."""
        return base64.b64encode(bytes.fromhex(self.sign(text))).decode()

    def conversation(self, request: UpstreamRequest, body: Any) -> Conversation:
        """Return the request in no vendor's format."""
        thinking = (body.get("generationConfig") or {}).get("thinkingConfig") or {}
        conversation = Conversation(
            tools=list(_tools(body)),
            wants_thinking=bool(thinking.get("includeThoughts")),
        )
        waiting: list[ToolCall] = []
        for index, content in enumerate(body["contents"]):
            calls = [
                _call(part["functionCall"], f"{index}_{number}")
                for number, part in enumerate(content["parts"])
                if "functionCall" in part
            ]
            if calls:
                conversation.turns.append(calls)
                waiting = [*calls]
            if content["role"] == "user":
                _add_content(conversation, content["parts"], waiting)
        return conversation

    def cached(self, request: UpstreamRequest, body: Any) -> CacheUse:
        """Return what is read of the system, the tools and the contents."""
        blocks = [body.get("systemInstruction"), *body.get("tools", ())]
        return self._cache.use([compact(each) for each in [*blocks, *body["contents"]]])

    def render(
        self,
        request: UpstreamRequest,
        body: Any,
        answer: Answer,
        use: CacheUse,
        output: int,
    ) -> HttpAnswer:
        """Return the answer, whole or as a stream of responses."""
        usage = {
            "promptTokenCount": use.total, "cachedContentTokenCount": use.read,
            "candidatesTokenCount": output, "totalTokenCount": use.total + output,
        }  # fmt: skip
        parts = list(self._parts(answer))
        head = {"modelVersion": "m", "responseId": self.new_id("r")}
        if "streamGenerateContent" not in request.path:
            document = _response(parts, finish="STOP", grounds=bool(answer.search))
            return json_answer({**head, **document, "usageMetadata": usage})
        events = [{**head, **_response([part])} for part in _streamed(parts)]
        last = _response([{"text": ""}], finish="STOP", grounds=bool(answer.search))
        events.append({**head, **last, "usageMetadata": usage})
        return events_answer(events)

    def _parts(self, answer: Answer) -> Any:
        """Yield the parts of an answer. The first call carries the signature, or the
        text if there is no call."""
        if answer.thinking:
            yield {"text": answer.thinking, "thought": True}
        text = {"text": answer.text}
        if not answer.calls:
            text["thoughtSignature"] = self._signature(answer.text)
        yield text
        for index, call in enumerate(answer.calls):
            part = {"functionCall": {"name": call.name, "args": call.arguments}}
            if index == 0:
                part["thoughtSignature"] = self._signature("")
            yield part


def _streamed(parts: list[Any]) -> Any:
    """Yield the parts of a stream: texts come in pieces, the signature with the last."""
    for part in parts:
        if "text" not in part:
            yield part
            continue
        signature = part.pop("thoughtSignature", None)
        for text in pieces_of(part["text"], 11):
            yield {**part, "text": text}
        if signature:
            yield {"text": "", "thoughtSignature": signature}


def _response(parts: list[Any], *, finish: str = "", grounds: bool = False) -> Any:
    """Return a response with these parts."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}}
    if finish:
        candidate["finishReason"] = finish
    if grounds:
        web = {"uri": "https://example.org/releases", "title": "Releases"}
        segment = {"startIndex": 0, "endIndex": 12, "text": "The released"}
        candidate["groundingMetadata"] = {
            "webSearchQueries": ["released version"],
            "groundingChunks": [{"web": web}],
            "groundingSupports": [{"segment": segment, "groundingChunkIndices": [0]}],
        }
    return {"candidates": [{**candidate, "index": 0}]}


def _has_text(content: Any) -> bool:
    """Return whether a content has a text of the user."""
    return any("text" in part for part in content["parts"])


def _tools(body: Any) -> Any:
    """Yield the tools in no vendor's format."""
    for tool in body.get("tools", ()):
        for declared in tool.get("functionDeclarations", ()):
            schema = declared.get("parametersJsonSchema") or declared.get("parameters")
            yield Tool(declared["name"], schema or {})
        if "googleSearch" in tool:
            yield Tool("google_search", kind="search")


def _add_content(
    conversation: Conversation, parts: list[Any], waiting: list[ToolCall]
) -> None:
    """Add the parts of a user's content to a conversation. `waiting` are the calls
    without a response."""
    for part in parts:
        if response := part.get("functionResponse"):
            call = _called(response, waiting)
            conversation.add_result(call.id, _result(response))
        conversation.add_user_text(part.get("text", ""))
        conversation.user_images += "inlineData" in part


_NO_ID = re.compile(r"\d+_\d+")
"""What stands for the id of a call that came without one."""


def _call(call: Any, call_id: str) -> ToolCall:
    """Return a call of the history in no vendor's format."""
    return ToolCall(call["name"], call.get("args", {}), call.get("id") or call_id)


def _called(response: Any, waiting: list[ToolCall]) -> ToolCall:
    """Return the call that a response belongs to: by its id, or the next by its name
    where the call came without one."""
    for call in waiting:
        is_same = response.get("id", call.id) == call.id or _NO_ID.fullmatch(call.id)
        if is_same and response["name"] == call.name:
            waiting.remove(call)
            return call
    raise Refusal(f"No function call for the response of {response['name']!r}.")


def _result(response: Any) -> ToolResult:
    """Return a result in no vendor's format."""
    images = sum("inlineData" in part for part in response.get("parts") or ())
    return ToolResult("".join(_texts(response["response"])), images)


def _texts(value: Any) -> Any:
    """Yield all texts in a document."""
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else ():
        yield from _texts(each)
    for each in value if isinstance(value, list) else ():
        yield from _texts(each)


def _check_type(name: str, value: Any) -> None:
    """Raise Refusal for fields that Google's library does not have."""
    if name == "contents":
        value = [
            {**content, "parts": [_without_placeholder(p) for p in content["parts"]]}
            for content in value
        ]
    try:
        _ADAPTERS[name].validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        raise Refusal(
            f"Invalid JSON payload received. Unknown name at '{name}.{location}':"
            f" {first['msg']}"
        ) from error


def _without_placeholder(part: Any) -> Any:
    """Return a part without Google's placeholder, which is no base64."""
    is_skipped = part.get("thoughtSignature") == SKIP
    return {k: v for k, v in part.items() if k != "thoughtSignature" or not is_skipped}


def _check_config(model: str, config: Any) -> None:
    """Raise Refusal for thinking that the model does not have, and long lists."""
    thinking = config.get("thinkingConfig") or {}
    refuse_if(
        thinking.keys() >= {"thinkingLevel", "thinkingBudget"},
        "You can only set one of thinking_budget and thinking_level.",
    )
    words = next((w for name, w in _LEVELS.items() if model.startswith(name)), ())
    level = (thinking.get("thinkingLevel") or "").lower()
    refuse_if(
        level and level not in words,
        "Thinking level is not supported for this model.",
    )
    refuse_if(
        "2.5-pro" in model and thinking.get("thinkingBudget") == 0,
        "Budget 0 is invalid. This model only works in thinking mode.",
    )
    refuse_if(
        len(config.get("stopSequences") or ()) > 5,
        "The number of stop sequences must be at most 5.",
    )


def _check_declarations(body: Any) -> None:
    """Raise Refusal for functions with illegal names or schemas."""
    kinds: set[str] = set()
    names: list[str] = []
    for tool in body.get("tools", ()):
        kinds |= {*tool}
        for declared in tool.get("functionDeclarations", ()):
            name = declared["name"]
            names.append(name)
            refuse_if(
                not _NAME.fullmatch(name),
                f"Invalid function name {name!r}. Must start with a letter or an"
                " underscore.",
            )
            refuse_if(
                "parameters" in declared and "parametersJsonSchema" in declared,
                "parameters and parametersJsonSchema are mutually exclusive.",
            )
            _check_arrays(declared.get("parameters"), name)
    refuse_if(len(names) != len(set(names)), "Duplicate function declaration found.")
    refuse_if(
        "functionDeclarations" in kinds and len(kinds) > 1,
        "Tool use with function calling is unsupported by the model.",
    )


def _check_arrays(schema: Any, name: str) -> None:
    """Raise Refusal for arrays without items, and for enums that hold other values
    than texts."""
    if not isinstance(schema, dict):
        return
    kind = str(schema.get("type", "")).lower()
    refuse_if(
        kind == "array" and "items" not in schema,
        f"GenerateContentRequest.tools[0].function_declarations {name}: items: missing"
        " field.",
    )
    properties = schema.get("properties") or {}
    for each in [*properties.values(), schema.get("items"), *schema.get("anyOf", ())]:
        _check_arrays(each, name)


def _check_turns(contents: Any) -> None:
    """Raise Refusal for empty contents, and calls without as many responses."""
    for index, content in enumerate(contents):
        refuse_if(
            content.get("role") not in ("user", "model"),
            "Please use a valid role: user, model.",
        )
        refuse_if(
            not content["parts"] or not all(content["parts"]),
            f"contents[{index}].parts: required oneof field 'data' must have one"
            " initialized field",
        )
        calls = sum("functionCall" in part for part in content["parts"])
        follower = contents[index + 1] if index + 1 < len(contents) else None
        responses = sum(
            "functionResponse" in part for part in (follower or {"parts": []})["parts"]
        )
        refuse_if(
            calls != responses and (calls or responses),
            "Please ensure that the number of function response parts is equal to the"
            " number of function call parts of the function call turn.",
        )
        refuse_if(
            calls and (index == 0 or contents[index - 1]["role"] != "user"),
            "Please ensure that function call turn comes immediately after a user turn"
            " or after a function response turn.",
        )
