"""Names of tools: each vendor accepts its own characters and lengths.

A name that the target would refuse is replaced by a legal one, which depends on the name
alone, so that it is the same in every turn. Answers get the caller's name back.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    PromptMessageTool,
    ToolCall,
    ToolPromptMessage,
)
from modelyard.models.types import JSON
from modelyard.providers.adaptation.call_restorer import CallForm, CallRestorer
from modelyard.providers.adaptation.draft import Draft

# 32 bits: two tools of one request do not collide by chance.
_DIGEST_CHARS = 8


@dataclass(frozen=True, slots=True)
class NameLimits:
    """What a vendor accepts as the name of a function."""

    max_chars: int
    legal: re.Pattern[str] = re.compile(r"[a-zA-Z0-9_-]+")
    illegal: re.Pattern[str] = re.compile(r"[^a-zA-Z0-9_-]+")
    """Characters that no legal name has."""

    def accepts(self, name: str) -> bool:
        """Return whether a name is legal."""
        return len(name) <= self.max_chars and bool(self.legal.fullmatch(name))


_OPENAI = NameLimits(64)
# Names begin with a letter or an underscore.
_GOOGLE_LEGAL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]*")
_GOOGLE_ILLEGAL = re.compile(r"[^a-zA-Z0-9_.-]+")
LIMITS: Mapping[str, NameLimits] = {
    "anthropic": NameLimits(128),
    "gemini": NameLimits(64, _GOOGLE_LEGAL, _GOOGLE_ILLEGAL),
}
"""By wire format. Formats without an entry have OpenAI's, which all of them accept.

Sources: OpenAI `^[a-zA-Z0-9_-]{1,64}$`, Anthropic `{1,128}`, Bedrock
`[a-zA-Z0-9_-]{1,64}`; Google's names begin with a letter or an underscore.
"""


def legal_name(name: str, limits: NameLimits) -> str:
    """Return a legal name: the same if it is one, otherwise one that is as similar as
    possible and ends with a digest of the name."""
    if limits.accepts(name):
        return name
    # The digest makes names unique that differ in their illegal characters alone.
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARS]
    readable = limits.illegal.sub("_", name).strip("_")
    readable = readable[: limits.max_chars - _DIGEST_CHARS - 1] or "tool"
    candidate = f"{readable}_{digest}"
    return candidate if limits.accepts(candidate) else f"t_{digest}"


def make_names_legal(draft: Draft) -> None:
    """Replace the names of functions that the target would refuse.

    Raises InvokeBadRequestError if the request has more tools than the server accepts.
    """
    request = draft.request
    _check_count(request, draft.target.capabilities.max_tools)
    limits = LIMITS.get(draft.target.format, _OPENAI)
    new_names = _new_names(request, limits)
    if not new_names:
        return
    draft.change(
        tools=[_renamed_tool(tool, new_names) for tool in request.tools],
        messages=[_renamed_message(message, new_names) for message in request.messages],
        tool_choice=_renamed_choice(request.tool_choice, new_names),
    )
    forms = {new: CallForm(name) for name, new in new_names.items()}
    # Answers are restored in the opposite order of the rules.
    draft.restorers.insert(0, partial(CallRestorer, forms))


def _check_count(request: LLMRequest, max_tools: int) -> None:
    """Raise InvokeBadRequestError if there are too many tools. 0 stands for no limit."""
    if max_tools and len(request.tools) > max_tools:
        raise InvokeBadRequestError(
            f"The model accepts at most {max_tools} tools, this request has"
            f" {len(request.tools)}",
            param="tools",
        )


def _new_names(request: LLMRequest, limits: NameLimits) -> dict[str, str]:
    """Return the legal names of those functions that need one."""
    names = dict.fromkeys(_function_names(request))
    # Legal names stay as they are, so the others must not take them.
    taken = {name for name in names if limits.accepts(name)}
    new_names: dict[str, str] = {}
    for name in names:
        if name in taken:
            continue
        candidate = legal_name(name, limits)
        # A function may have been given just this name.
        while candidate in taken:
            candidate = legal_name(f"{candidate} ", limits)
        taken.add(candidate)
        new_names[name] = candidate
    return new_names


def _function_names(request: LLMRequest) -> Iterable[str]:
    """Yield the names of the request's functions, declared and called."""
    # Tools of the vendor have names of its own.
    for tool in request.tools:
        if tool.type in ("function", "custom"):
            yield tool.name
    # The history may have calls of tools that are no longer declared.
    for message in request.messages:
        if isinstance(message, AssistantPromptMessage):
            for call in message.tool_calls:
                yield call.function.name


def _renamed_tool(
    tool: PromptMessageTool, new_names: Mapping[str, str]
) -> PromptMessageTool:
    """Return a tool with its legal name. Tools of the vendor keep theirs."""
    if tool.type not in ("function", "custom") or tool.name not in new_names:
        return tool
    return msgspec.structs.replace(tool, name=new_names[tool.name])


def _renamed_message(
    message: AnyPromptMessage, new_names: Mapping[str, str]
) -> AnyPromptMessage:
    """Return a message whose calls, or whose result, have legal names."""
    if isinstance(message, AssistantPromptMessage) and message.tool_calls:
        calls = [_renamed_call(call, new_names) for call in message.tool_calls]
        return msgspec.structs.replace(message, tool_calls=calls)
    if isinstance(message, ToolPromptMessage) and message.name is not None:
        name = new_names.get(message.name, message.name)
        return msgspec.structs.replace(message, name=name)
    return message


def _renamed_call(call: ToolCall, new_names: Mapping[str, str]) -> ToolCall:
    """Return a call with the legal name of its function."""
    name = new_names.get(call.function.name)
    if name is None:
        return call
    function = msgspec.structs.replace(call.function, name=name)
    return msgspec.structs.replace(call, function=function)


def _renamed_choice(
    choice: str | JSON | None, new_names: Mapping[str, str]
) -> str | JSON | None:
    """Return a tool choice with legal names."""
    if not isinstance(choice, dict):
        return choice
    renamed = dict(choice)
    if isinstance(name := choice.get("name"), str):
        renamed["name"] = new_names.get(name, name)
    if "allowed" in choice:
        renamed["allowed"] = [new_names.get(name, name) for name in choice["allowed"]]
    return renamed
