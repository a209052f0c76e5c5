"""The choice of tools, where the target's format has no word for it."""

import msgspec

from modelyard.models.messages import PromptMessageTool
from modelyard.providers.adaptation.draft import Draft

_CHAT = "openai_chat"
# Formats without a field for the choice. `none` is said by sending no tools.
_WITHOUT_CHOICE = ("ollama",)
# Formats whose tools follow a schema strictly, one by one or all together.
_STRICT_FORMATS = (
    _CHAT,
    "openai_responses",
    "anthropic",
    "bedrock",
)


def adapt_tool_choice(draft: Draft) -> None:
    """Offer only the tools that may be called where the target cannot choose among
    some, and leave out a choice that it has no word for."""
    choice = draft.request.tool_choice
    if isinstance(choice, dict) and "allowed" in choice and not _takes_list(draft):
        _offer(draft, choice["allowed"])
        # The tools themselves are the list now; whether a call is required remains.
        mode = choice.get("mode")
        choice = mode if isinstance(mode, str) else "auto"
        draft.change(tool_choice=choice)
    target = draft.target.format
    if target in _WITHOUT_CHOICE and choice not in (None, "auto", "none"):
        draft.change(tool_choice=None)
        draft.drop("tool_choice")
    # It can force one function, and not any of them.
    if target == "dashscope" and choice == "required":
        draft.change(tool_choice="auto")
        draft.drop("tool_choice")


def _takes_list(draft: Draft) -> bool:
    """Whether the target can choose among some tools."""
    target = draft.target
    if draft.is_same_format or target.format == "openai_responses":
        return True
    choice = draft.request.tool_choice
    if target.format == "gemini" and isinstance(choice, dict):
        # Google reads the names only in its mode ANY, which requires a call.
        return choice.get("mode") == "required"
    # Other servers of the format are not known to have it.
    return target.format == _CHAT and target.capabilities.developer_role


def _offer(
    draft: Draft,
    names: list[str],
) -> None:
    """Leave only the tools of these names."""
    tools = [tool for tool in draft.request.tools if tool.name in names]
    # If no name fits, all tools are closer to the request than none.
    if tools:
        draft.change(tools=tools)


def adapt_strict_tools(draft: Draft) -> None:
    """Report strict tools where the target has no such promise. Cohere has one for all
    tools together."""
    tools = draft.request.tools
    target = draft.target.format
    if target in _STRICT_FORMATS or not any(tool.strict for tool in tools):
        return
    if target == "cohere" and all(tool.strict for tool in tools):
        return
    draft.change(tools=[_loose(tool) for tool in tools])
    draft.drop("strict")


def _loose(tool: PromptMessageTool) -> PromptMessageTool:
    """Return a tool without the promise."""
    return msgspec.structs.replace(tool, strict=None)
