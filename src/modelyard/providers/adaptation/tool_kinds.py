"""Kinds of tools: a kind that the target has is used, another is emulated by functions
and restored in the answer, or left out and named.

Freeform tools become a function with one text, namespaces become flat names, and tools
that an API defines for its clients become functions whose calls come back as that API's
own. A tool that only its vendor can run is translated, or left out together with a
forced choice of it.
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from modelyard.base.json_types import is_object
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    Extra,
    OpaquePromptMessageContent,
    PromptMessageTool,
    ToolCall,
    ToolPromptMessage,
    UserPromptMessage,
)
from modelyard.models.types import JSON
from modelyard.providers.adaptation.call_restorer import CallForm, CallRestorer
from modelyard.providers.adaptation.draft import Draft
from modelyard.providers.adaptation.searches import SearchRestorer
from modelyard.providers.adaptation.text_input import FIELD
from modelyard.providers.adaptation.vendor_tools import (
    client_tool_of,
    is_run_elsewhere,
    search_of,
    translated_tool,
)
from modelyard.wire import anthropic, gemini, openai_chat
from modelyard.wire import openai_responses as responses

_MAX_REPORTED_CHARS = 64


def adapt_tool_kinds(draft: Draft) -> None:
    """Replace the tools of kinds that the target does not have."""
    request, target_format = draft.request, draft.target.format
    # What the format itself defines is for the server to accept.
    if (
        request.format == target_format
        and not _wraps_custom_tools(draft)
        and not any(_is_run_elsewhere(tool, draft) for tool in request.tools)
    ):
        return
    adapter = _ToolAdapter(draft)
    adapter.add_all(_declared_tools(draft))
    changes: dict[str, Any] = {}
    messages = [adapter.adapted_message(each) for each in request.messages]
    if any(new is not old for new, old in zip(messages, request.messages, strict=True)):
        changes["messages"] = [each for each in messages if each is not None]
    if adapter.is_changed:
        changes["tools"] = adapter.tools
        changes["tool_choice"] = adapter.adapted_choice(request.tool_choice)
    if changes:
        draft.change(**changes)
    if adapter.restores_searches:
        draft.restorers.insert(0, SearchRestorer)
    # Answers are restored in the opposite order of the rules.
    if adapter.forms:
        draft.restorers.insert(0, partial(CallRestorer, adapter.forms))


def _is_run_elsewhere(tool: PromptMessageTool, draft: Draft) -> bool:
    """Return whether a tool of the target's own format is run by another server."""
    return is_run_elsewhere(tool, draft.target.capabilities)


def _wraps_custom_tools(draft: Draft) -> bool:
    """Return whether freeform tools need a function that stands for them."""
    if draft.target.format == responses.FORMAT:
        return False
    is_chat = draft.target.format == openai_chat.FORMAT
    return not (is_chat and draft.target.capabilities.custom_tools)


def _declared_tools(draft: Draft) -> list[PromptMessageTool]:
    """Return the request's tools, with those that are declared in its messages."""
    tools = list(draft.request.tools)
    for message in draft.request.messages:
        for body in _tools_in(message):
            tools += responses.parse_tools(body, "input.tools")
    return tools


def _tools_in(message: AnyPromptMessage) -> Iterable[list[Any]]:
    """Yield the lists of tools that a message declares: in an item for that, or as the
    result of a search for tools."""
    for part in message.parts:
        if isinstance(part, OpaquePromptMessageContent) and _is_declaration(part):
            yield part.data.get("tools") or []
    item = message.extra.get(responses.FORMAT, {}).get("item")
    if isinstance(message, ToolPromptMessage) and is_object(item):
        yield item.get("tools") or []


def _is_declaration(part: Any) -> bool:
    """Return whether a part is an item that declares further tools."""
    return (
        isinstance(part, OpaquePromptMessageContent)
        and part.format == responses.FORMAT
        and part.data.get("type") == "additional_tools"
    )


def reported_name(name: str) -> str:
    """Return a caller's name in a form that fits into a response header."""
    printable = "".join(
        character if character.isascii() and character.isprintable() else "_"
        for character in name[:_MAX_REPORTED_CHARS]
    )
    return printable.replace(",", "_") or "tool"


class _ToolAdapter:
    """Collects the tools of one request as the target takes them."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._format = draft.target.format
        self._wraps_custom_tools = _wraps_custom_tools(draft)
        self.tools: list[PromptMessageTool] = []
        self.forms: dict[str, CallForm] = {}
        """The target's name of a function → how the caller knows it."""
        self._names: dict[tuple[str, str], str] = {}
        """(namespace, name) → the flat name."""
        self._definitions: dict[str, PromptMessageTool] = {}
        self._replaced: dict[str, str] = {}
        """Name of a tool that a vendor runs → that of the target's; empty if it is left
        out."""
        self.is_changed = False
        self.restores_searches = False
        """Whether the caller knows searches as blocks of Anthropic's API."""

    def add_all(self, tools: Iterable[PromptMessageTool]) -> None:
        """Add tools of any kind."""
        declared = list(tools)
        # Functions keep their names, whatever the flat names of others are.
        for tool in declared:
            if tool.type == "function":
                self._definitions.setdefault(tool.name, tool)
        for tool in declared:
            self._add(tool)
        self.is_changed = self.tools != self._draft.request.tools

    def _add(self, tool: PromptMessageTool) -> None:
        """Add a tool as the target takes it."""
        if tool.type == "function":
            self._add_function(tool)
        elif tool.type == "custom":
            self._add_custom(tool)
        # A tool of the target's own format is for its server to judge.
        elif self._format in tool.extra and not _is_run_elsewhere(tool, self._draft):
            self.tools.append(tool)
        elif tool.type == "namespace":
            self._add_namespace(tool)
        else:
            self._add_vendor_tool(tool)

    def _add_function(self, tool: PromptMessageTool) -> None:
        """Add a function. The same one may be declared twice, as by a search for
        tools."""
        is_known = any(known.name == tool.name for known in self.tools)
        if not is_known:
            self.tools.append(tool)
        elif tool.parameters != self._definitions[tool.name].parameters:
            self._drop(tool.name)

    def _add_custom(
        self, tool: PromptMessageTool, flat_name: str = "", extra: Extra | None = None
    ) -> None:
        """Add a freeform tool, as a function with one text if the target has none."""
        name = flat_name or tool.name
        if not self._wraps_custom_tools:
            self.tools.append(_custom_tool(tool, name, self._format))
            if extra:
                self.forms[name] = CallForm(tool.name, "function", extra)
            return
        self._add_function(_text_function(tool, name))
        # A choice of the tool is looked up by this name.
        self._definitions.setdefault(name, self.tools[-1])
        self.forms[name] = CallForm(tool.name, "custom", extra or {})

    def _add_namespace(self, tool: PromptMessageTool) -> None:
        """Add the functions of a group under flat names."""
        body: JSON = tool.extra.get(responses.FORMAT, {})
        namespace = str(body.get("name") or "")
        description = str(body.get("description") or "")
        for inner in responses.parse_tools(body.get("tools") or [], "tools.tools"):
            # A tool that a vendor runs has no name of its own in a group.
            if inner.type not in ("function", "custom"):
                self._add(inner)
                continue
            flat_name = self._flat_name(namespace, inner.name)
            extra: Extra = {responses.FORMAT: {"namespace": namespace}}
            # The group's description tells what its functions have in common.
            text = inner.description or description
            if inner.type == "custom":
                inner = msgspec.structs.replace(inner, description=text)
                self._add_custom(inner, flat_name, extra)
                continue
            self._add_function(
                msgspec.structs.replace(inner, name=flat_name, description=text)
            )
            self.forms[flat_name] = CallForm(inner.name, "function", extra)

    def _flat_name(self, namespace: str, name: str) -> str:
        """Return a unique name for a function of a group; always the same one."""
        key = (namespace, name)
        if key not in self._names:
            flat_name = f"{namespace}__{name}"
            # A function of this very name may be declared too.
            while flat_name in self._definitions:
                flat_name += "_"
            self._names[key] = flat_name
            self._definitions[flat_name] = PromptMessageTool(name=flat_name)
        return self._names[key]

    def _add_vendor_tool(self, tool: PromptMessageTool) -> None:
        """Add a tool that a vendor's API defines: as a function if the client runs it,
        else as the target's own."""
        if client_tool := client_tool_of(tool):
            body: JSON = tool.extra.get(responses.FORMAT, {})
            parameters: Any = body.get("parameters") or client_tool.parameters
            function = PromptMessageTool(
                name=tool.name,
                description=str(body.get("description") or client_tool.description),
                parameters=parameters if is_object(parameters) else {},
            )
            # Anthropic's clients know the calls of such tools as calls of functions.
            if responses.FORMAT in tool.extra:
                self.forms[tool.name] = CallForm(tool.name, tool.type)
            self._add_function(function)
            return
        target_tool = translated_tool(tool, self._format)
        if target_tool is None or self._excludes(target_tool):
            self._drop(tool.name)
            return
        # A forced choice of the tool is one of the target's own then.
        self._replaced[tool.name] = target_tool.name
        self.tools.append(target_tool)
        is_anthropics = anthropic.FORMAT in tool.extra
        self.restores_searches |= is_anthropics and search_of(tool) is not None

    def _excludes(self, target_tool: PromptMessageTool) -> bool:
        """Return whether the target's own tool cannot stand beside functions, as with
        most models of Google."""
        has_functions = bool(self._definitions)
        return target_tool.type != "function" and (
            self._format == gemini.FORMAT and has_functions
        )

    def _drop(self, name: str) -> None:
        """Leave a tool out and report it."""
        self._replaced[name] = ""
        self._draft.drop(reported_name(name))

    def adapted_choice(self, choice: str | JSON | None) -> str | JSON | None:
        """Return the tool choice. A forced choice of a tool that is left out goes with
        it."""
        if not isinstance(choice, dict):
            return choice
        if "allowed" in choice:
            return self._adapted_allowed(choice)
        name = str(choice.get("name"))
        if name in self._definitions or name not in self._replaced:
            return {**choice, "name": self._flat_choice(name)}
        new_name = self._replaced[name]
        # Google cannot be forced to use a tool of its own.
        if not new_name or self._format == gemini.FORMAT:
            self._draft.drop("tool_choice")
            return None
        return {**choice, "name": new_name}

    def _adapted_allowed(self, choice: JSON) -> JSON | None:
        """Return a choice among some tools without those that are left out."""
        replaced = self._replaced
        names = [
            replaced.get(name, self._flat_choice(name)) for name in choice["allowed"]
        ]
        if remaining := [name for name in names if name]:
            return {**choice, "allowed": remaining}
        self._draft.drop("tool_choice")
        return None

    def _flat_choice(self, name: str) -> str:
        """Return the target's name of a function in a tool choice."""
        if name in self.forms or any(tool.name == name for tool in self.tools):
            return name
        # A choice does not name the group, so it must be clear without it.
        flat_names = [flat for (_, inner), flat in self._names.items() if inner == name]
        return flat_names[0] if len(flat_names) == 1 else name

    def adapted_message(self, message: AnyPromptMessage) -> AnyPromptMessage | None:
        """Return a message with its calls as the target knows them; None for one that
        only declares tools."""
        if isinstance(message, AssistantPromptMessage) and message.tool_calls:
            calls = [self._adapted_call(call) for call in message.tool_calls]
            # The same object tells that nothing has changed.
            if calls == message.tool_calls:
                return message
            return msgspec.structs.replace(message, tool_calls=calls)
        if isinstance(message, ToolPromptMessage):
            return self._adapted_result(message)
        parts = message.parts
        if not isinstance(message, UserPromptMessage) or not any(
            map(_is_declaration, parts)
        ):
            return message
        return None

    def _adapted_result(self, message: ToolPromptMessage) -> ToolPromptMessage:
        """Return a result; that of a search for tools names the functions it found."""
        item = message.extra.get(responses.FORMAT, {}).get("item")
        if not is_object(item) or item.get("type") != "tool_search_output":
            return message
        names: list[str] = []
        for tool in responses.parse_tools(item.get("tools") or [], "input.tools"):
            names += self._offered_names(tool)
        text = ", ".join(names)
        content = f"These tools can be called now: {text}" if names else "No tool found"
        return msgspec.structs.replace(message, content=content)

    def _offered_names(self, tool: PromptMessageTool) -> list[str]:
        """Return the names under which a tool is offered."""
        if tool.type != "namespace":
            return [tool.name]
        body: JSON = tool.extra.get(responses.FORMAT, {})
        inner = responses.parse_tools(body.get("tools") or [], "input.tools")
        namespace = str(body.get("name") or "")
        return [self._flat_name(namespace, each.name) for each in inner]

    def _adapted_call(self, call: ToolCall) -> ToolCall:
        """Return a call of an earlier turn as one of a function."""
        namespace = call.extra.get(responses.FORMAT, {}).get("namespace")
        name, arguments = call.function.name, call.function.arguments
        kind = call.type
        # The Responses API itself knows groups.
        if namespace and self._format != responses.FORMAT:
            name = self._flat_name(str(namespace), name)
        if kind == "custom" and self._wraps_custom_tools:
            arguments = json.dumps({FIELD: arguments}, ensure_ascii=False)
            kind = "function"
        elif kind != "custom":
            kind = "function"
        if (kind, name) == (call.type, call.function.name):
            return call
        function = msgspec.structs.replace(
            call.function, name=name, arguments=arguments
        )
        return msgspec.structs.replace(call, type=kind, function=function)


def _text_function(tool: PromptMessageTool, name: str) -> PromptMessageTool:
    """Return a function with one required text, which stands for a freeform tool."""
    grammar = _grammar(tool)
    paragraphs = [
        tool.description,
        f"Put the whole text into `{FIELD}`, exactly as the tool expects it.",
    ]
    if grammar:
        syntax = grammar.get("syntax") or "given"
        paragraphs.append(
            f"The text must match this {syntax} grammar:\n{grammar.get('definition')}"
        )
    return PromptMessageTool(
        name=name,
        description="\n\n".join(text for text in paragraphs if text),
        parameters={
            "type": "object",
            "properties": {FIELD: {"type": "string"}},
            "required": [FIELD],
        },
        cache_control=tool.cache_control,
    )


def _grammar(tool: PromptMessageTool) -> Mapping[str, Any]:
    """Return `syntax` and `definition` of a freeform tool's grammar; empty without.

    Chat Completions nests them one level deeper than the Responses API.
    """
    for format_name in (responses.FORMAT, openai_chat.FORMAT):
        text_format = tool.extra.get(format_name, {}).get("format")
        if is_object(text_format) and text_format.get("type") == "grammar":
            nested = text_format.get("grammar")
            return nested if is_object(nested) else text_format
    return {}


def _custom_tool(
    tool: PromptMessageTool, name: str, target_format: str
) -> PromptMessageTool:
    """Return a freeform tool in the target's format, with its grammar."""
    grammar = _grammar(tool)
    fields = {
        "syntax": grammar.get("syntax"),
        "definition": grammar.get("definition"),
    }
    extra: Extra = tool.extra
    if grammar and target_format not in tool.extra:
        is_flat = target_format == responses.FORMAT
        text_format = fields if is_flat else {"grammar": fields}
        extra = {target_format: {"format": {"type": "grammar", **text_format}}}
    return msgspec.structs.replace(tool, name=name, extra=extra)


def drop_fields_without_tools(draft: Draft) -> None:
    """Leave out the fields that are valid only beside tools, if no tool is left."""
    if draft.request.tools:
        return
    if draft.request.tool_choice is not None:
        draft.change(tool_choice=None)
        draft.drop("tool_choice")
    draft.drop_parameter("parallel_tool_calls")


def restore_bedrock_tools(draft: Draft) -> None:
    """Declare the tools of the history for Converse, which requires it for every call
    and result, even if no tool may be called any more."""
    request = draft.request
    if draft.target.format != "bedrock":
        return
    names = dict.fromkeys(
        call.function.name
        for message in request.messages
        if isinstance(message, AssistantPromptMessage)
        for call in message.tool_calls
    )
    # Without calls the tools may be left out.
    if not names:
        return
    if request.tool_choice == "none":
        # Converse has no such choice, and needs the tools.
        draft.change(tool_choice=None)
        draft.drop("tool_choice")
    if not request.tools:
        schema: JSON = {"type": "object", "properties": {}}
        draft.change(
            tools=[PromptMessageTool(name=name, parameters=schema) for name in names]
        )
