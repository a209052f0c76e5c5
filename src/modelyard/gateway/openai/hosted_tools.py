"""Hosted tools of the Responses API, run by this server for models whose provider has
none.

`code_interpreter` runs code in the sandbox, `file_search` searches the tenant's
datasets, `mcp` calls a server that the tenant registered, and `web_search` calls the
tenant's tool of that name. The server executes the model's calls turn after turn, until
the model answers or calls a function of the client.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import optional_field, required_field
from modelyard.base.ids import new_id
from modelyard.base.json_types import is_mapping, is_object
from modelyard.models.call_indexes import CallIndexes
from modelyard.models.llm import (
    LLMRequest,
    LLMResult,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
    fold,
)
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    OpaquePromptMessageContent,
    PromptMessageTool,
    ToolCall,
    ToolPromptMessage,
)
from modelyard.models.passthrough import PassthroughRequest, to_parsed_request
from modelyard.models.types import JSON
from modelyard.runtime.model_instance import ModelInstance
from modelyard.tools.entities import Tool, ToolContext, ToolError, ToolNotFoundError
from modelyard.tools.manager import BoundTool, Observation, ToolManager, ToolRef
from modelyard.tools.observation import truncate_middle
from modelyard.wire.openai_responses import FORMAT

FindTool = Callable[[str, str], Awaitable[Tool]]
"""(tenant, `provider/name`, `kind:provider/name` or `dataset:NAME`) → the tool. Raises
ToolNotFoundError."""
# A model that keeps searching would otherwise never answer.
_MAX_TURNS = 10
# Models may call a tool several times in one turn, in all turns.
_MAX_CALLS = 64
_MAX_RESULT_CHARS = 20_000
"""Maximum length of a tool result for the model, in characters."""
# OpenAI has renamed web search several times; clients use all of the names.
_SEARCHES = (
    "web_search",
    "web_search_preview",
    "web_search_2025_08_26",
    "web_search_preview_2025_03_11",
)
HOSTED_TYPES = ("code_interpreter", "file_search", "mcp", *_SEARCHES)


@dataclass
class HostedToolSet:
    """The hosted tools of one request: tool name → the tool, and tool name → its
    declaration in the request."""

    tools: dict[str, Tool] = field(default_factory=dict[str, Tool])
    kinds: dict[str, JSON] = field(default_factory=dict[str, JSON])
    most_calls: int = _MAX_CALLS


class HostedTools:
    """Replaces the hosted tools of requests by tools of this server."""

    def __init__(self, manager: ToolManager, find: FindTool) -> None:
        self.manager = manager
        self._find = find

    def is_needed(self, instance: ModelInstance, chat_request: LLMRequest) -> bool:
        """Return whether the request declares hosted tools that the model's provider
        does not run itself."""
        return any(
            tool.type in HOSTED_TYPES for tool in chat_request.tools
        ) and not instance.supports_wire_format(FORMAT)

    async def prepare(
        self, tenant: str, chat_request: LLMRequest, max_calls: int | None
    ) -> tuple[LLMRequest, HostedToolSet]:
        """Return the request with functions instead of hosted tools, and the tools
        behind them.

        A tool that this server does not have either stays as it is. Raises
        InvokeBadRequestError for an invalid declaration.
        """
        # The client may lower the limit of calls, but not raise it.
        hosted = HostedToolSet(
            most_calls=_MAX_CALLS if max_calls is None else min(max_calls, _MAX_CALLS)
        )
        tools: list[PromptMessageTool] = []
        for declared_tool in chat_request.tools:
            if declared_tool.type not in HOSTED_TYPES:
                tools.append(declared_tool)
                continue
            try:
                local_tools = await self._local_implementation(
                    tenant, declared_tool.extra.get(FORMAT, {})
                )
            except (ToolError, NotFoundError):
                # Nobody can run it here; the adaptation leaves it out and names it.
                tools.append(declared_tool)
                continue
            for tool, declaration in local_tools:
                hosted.tools[tool.name] = tool
                hosted.kinds[tool.name] = declaration
                # To the model a hosted tool is an ordinary function.
                tools.append(
                    PromptMessageTool(
                        name=tool.name,
                        description=tool.entity.description,
                        parameters=dict(tool.schema),
                    )
                )
        return msgspec.structs.replace(chat_request, tools=tools), hosted

    async def _local_implementation(
        self, tenant: str, declaration: JSON
    ) -> list[tuple[Tool, JSON]]:
        """Return the local tools for one declaration.

        Raises InvokeBadRequestError, ToolError, NotFoundError.
        """
        match declaration.get("type"):
            case "code_interpreter":
                return [
                    (
                        _with_alias(
                            await self._find(tenant, "code/python"), "code_interpreter"
                        ),
                        declaration,
                    )
                ]
            case "file_search":
                return await self._dataset_tools(tenant, declaration)
            case "mcp":
                return await self._mcp_tools(tenant, declaration)
            case _:
                return [
                    (
                        _with_alias(
                            await self._find(tenant, "web_search"), "web_search"
                        ),
                        declaration,
                    )
                ]

    async def _dataset_tools(
        self, tenant: str, declaration: JSON
    ) -> list[tuple[Tool, JSON]]:
        """Return a search tool for each dataset of a `file_search` declaration.

        Raises InvokeBadRequestError.
        """
        names = (
            optional_field(declaration, "vector_store_ids", list, "file_search.") or []
        )
        if not names:
            raise InvokeBadRequestError(
                "file_search.vector_store_ids must list datasets by name or id",
                param="tools",
            )
        dataset_tools: list[tuple[Tool, JSON]] = []
        for index, name in enumerate(names):
            # Function names must be unique, so further datasets get a number.
            alias = "file_search" if index == 0 else f"file_search_{index + 1}"
            description = (
                f"Search the files of {name}."
                if len(names) > 1
                else "Search the user's files."
            )
            tool = await self._find(tenant, f"dataset:{name}")
            dataset_tools.append((_with_alias(tool, alias, description), declaration))
        return dataset_tools

    async def _mcp_tools(
        self, tenant: str, declaration: JSON
    ) -> list[tuple[Tool, JSON]]:
        """Return the tools of the MCP server that the tenant registered under the
        label.

        Raises InvokeBadRequestError.
        """
        label = required_field(declaration, "server_label", str, "mcp.")
        allowed: Any = declaration.get("allowed_tools")
        # The allowed tools are a list, or an object with a list.
        names = allowed.get("tool_names") if is_object(allowed) else allowed
        server_tools = [
            tool
            for tool in await self.manager.list(tenant, "mcp")
            if tool.provider == label
        ]
        if not server_tools:
            raise ToolNotFoundError(
                f"MCP server {label[:80]!r} is not registered; `modelyard tools add-mcp`"
                " registers one"
            )
        # There is no approval step here, so a request that demands one must not run.
        if declaration.get("require_approval", "always") != "never":
            raise InvokeBadRequestError(
                "mcp.require_approval must be 'never': approval is configured where the"
                " MCP server is registered",
                param="tools",
            )
        return [
            (await self.manager.find(tenant, "mcp", label, tool.name), declaration)
            for tool in server_tools
            if names is None or tool.name in names
        ]


def _with_alias(tool: Tool, alias: str, description: str = "") -> Tool:
    """Return a tool under another name, with an optional description."""
    return BoundTool(tool, ToolRef(alias=alias, description=description))


# ----------------------------------------------------------------------------------------------
# model


@dataclass
class HostedModel:
    """A model with hosted tools. It is called like any other model, and executes the
    calls of hosted tools itself."""

    instance: ModelInstance
    tools: HostedTools
    hosted: HostedToolSet
    context: ToolContext

    @property
    def model(self) -> str:
        """Name of the model that answers."""
        return self.instance.model

    async def invoke_llm(self, chat_request: LLMRequest) -> LLMResult:
        """Return the complete response after all turns."""
        async with aclosing(self.stream_llm(chat_request)) as chunks:
            return fold([chunk async for chunk in chunks])

    def stream_verbatim(
        self, verbatim_request: PassthroughRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Stream the response. Passthrough is not possible, because the calls have to
        be intercepted."""
        return self.stream_llm(to_parsed_request(verbatim_request))

    async def stream_llm(
        self, chat_request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the chunks of all turns as one response; the executed calls appear in
        it as items."""
        usage = LLMUsage()
        call_count = 0
        # Each turn calls the model once; the last one has no hosted tools left, so the
        # model must answer.
        for turn in range(_MAX_TURNS):
            is_last = turn == _MAX_TURNS - 1 or call_count >= self.hosted.most_calls
            request = self._turn_request(chat_request, is_last=is_last)
            turn_chunks: list[LLMResultChunk] = []
            indexes = CallIndexes()
            names: dict[int | None, str] = {}
            async with aclosing(self.instance.stream_llm(request)) as chunks:
                async for chunk in chunks:
                    chunk = _with_call_indexes(chunk, indexes)
                    turn_chunks.append(chunk)
                    yield self._visible_chunk(chunk, names)
            result = fold(turn_chunks)
            usage = usage + result.usage
            # Calls of hosted tools are executed here, the others belong to the client.
            hosted_calls = self._hosted_calls(result)
            has_client_calls = len(result.message.tool_calls) > len(hosted_calls)
            if hosted_calls:
                items, answers = await self._execute_calls(turn, hosted_calls)
                call_count += len(hosted_calls)
                for item in items:
                    yield self._item_chunk(item)
                # The next turn continues with the calls and their results in the
                # history.
                chat_request = msgspec.structs.replace(
                    chat_request,
                    messages=[*chat_request.messages, result.message, *answers],
                )
            # Stop if the client has to act, or the model has answered, or the limit is
            # reached.
            if has_client_calls or not hosted_calls or is_last:
                yield _final_chunk(result, usage, has_client_calls=has_client_calls)
                return

    def _turn_request(self, chat_request: LLMRequest, *, is_last: bool) -> LLMRequest:
        """Return the request of a turn; that of the last one has no hosted tools, which
        makes the model answer."""
        if not is_last:
            return chat_request
        hosted_names = self.hosted.tools
        tools = [tool for tool in chat_request.tools if tool.name not in hosted_names]
        # A choice could name a hosted tool, which the model could not call any more.
        return msgspec.structs.replace(chat_request, tools=tools, tool_choice=None)

    def _hosted_calls(self, result: LLMResult) -> list[ToolCall]:
        """Return the calls of hosted tools in a turn's result."""
        return [
            tool_call
            for tool_call in result.message.tool_calls
            if tool_call.function.name in self.hosted.tools
        ]

    def _visible_chunk(
        self, chunk: LLMResultChunk, names: dict[int | None, str]
    ) -> LLMResultChunk:
        """Return a chunk without the hosted calls and without the end of its turn.

        `names` collects the function names by call index, because only the first chunk
        of a call carries the name.
        """
        delta = chunk.delta
        for tool_call in delta.message.tool_calls:
            names.setdefault(tool_call.index, tool_call.function.name)
        client_calls = [
            tool_call
            for tool_call in delta.message.tool_calls
            if names.get(tool_call.index) not in self.hosted.tools
        ]
        message = msgspec.structs.replace(delta.message, tool_calls=client_calls)
        # Usage and the finish reason are sent once, after the last turn.
        visible_delta = msgspec.structs.replace(
            delta, message=message, usage=None, finish_reason=None
        )
        return msgspec.structs.replace(chunk, delta=visible_delta)

    def _item_chunk(self, item: JSON) -> LLMResultChunk:
        """Return a chunk that shows an executed call as an item of the Responses API."""
        message = AssistantPromptMessage(
            content=[OpaquePromptMessageContent(format=FORMAT, data=item)]
        )
        return LLMResultChunk(
            model=self.model, delta=LLMResultChunkDelta(message=message)
        )

    async def _execute_calls(
        self, turn: int, calls: Sequence[ToolCall]
    ) -> tuple[list[JSON], list[AnyPromptMessage]]:
        """Execute calls concurrently. Returns (items for the client, results for the
        model), in the order of the calls."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._execute_call(f"{turn}.{position}", tool_call))
                for position, tool_call in enumerate(calls)
            ]
        items: list[JSON] = []
        answers: list[AnyPromptMessage] = []
        # Not in the order in which they ended: models expect that of their calls.
        for call, task in zip(calls, tasks, strict=True):
            observation = task.result()
            items.append(
                item_of(call, self.hosted.kinds[call.function.name], observation)
            )
            answers.append(
                ToolPromptMessage(
                    content=_result_text(observation),
                    tool_call_id=call.id,
                    name=call.function.name,
                    is_error=bool(observation.error),
                )
            )
        return items, answers

    async def _execute_call(self, number: str, call: ToolCall) -> Observation:
        """Execute one call. `number` is unique in the response, unlike the ids of some
        models: APIs take calls with the same key for repetitions of one."""
        name = call.function.name
        context = replace(self.context, key=f"{self.context.key}/{number}")
        return await self.tools.manager.observe(
            self.hosted.tools[name], name, call.function.arguments, context
        )


def _with_call_indexes(chunk: LLMResultChunk, indexes: CallIndexes) -> LLMResultChunk:
    """Return a chunk with an index in each fragment of a call."""
    # Most chunks are text.
    if not chunk.delta.message.tool_calls:
        return chunk
    message = indexes.fill(chunk.delta.message)
    delta = msgspec.structs.replace(chunk.delta, message=message)
    return msgspec.structs.replace(chunk, delta=delta)


def _final_chunk(
    result: LLMResult, usage: LLMUsage, *, has_client_calls: bool
) -> LLMResultChunk:
    """Return the last chunk of the response, with the usage of all turns."""
    finish_reason = "tool_calls" if has_client_calls else result.finish_reason
    delta = LLMResultChunkDelta(usage=usage, finish_reason=finish_reason)
    return LLMResultChunk(model=result.model, delta=delta)


# ----------------------------------------------------------------------------------------------
# items


def item_of(call: ToolCall, declaration: JSON, observation: Observation) -> JSON:
    """Return an executed call as an item of the Responses API."""
    match declaration.get("type"):
        case "code_interpreter":
            return _code_interpreter_item(observation)
        case "file_search":
            return _file_search_item(observation)
        case "mcp":
            return _mcp_item(call, declaration, observation)
        case _:
            return _web_search_item(observation)


def _code_interpreter_item(observation: Observation) -> JSON:
    """Return the item of executed code."""
    return {
        "type": "code_interpreter_call",
        "id": new_id("ci"),
        "container_id": "sandbox",
        "status": _item_status(observation),
        "code": str(observation.arguments.get("code") or ""),
        "outputs": [{"type": "logs", "logs": _result_text(observation)}],
    }


def _file_search_item(observation: Observation) -> JSON:
    """Return the item of a search in datasets."""
    results: list[JSON] = [
        {
            "file_id": str(source.get("document_id") or ""),
            "filename": str(source.get("document_name") or ""),
            "score": source.get("score"),
            "text": str(source.get("content") or ""),
            "attributes": {},
        }
        for source in observation.gathered.sources
    ]
    return {
        "type": "file_search_call",
        "id": new_id("fs"),
        "status": _item_status(observation),
        "queries": [str(observation.arguments.get("query") or "")],
        "results": results,
    }


def _mcp_item(call: ToolCall, declaration: JSON, observation: Observation) -> JSON:
    """Return the item of a call to an MCP server."""
    text = _result_text(observation)
    return {
        "type": "mcp_call",
        "id": new_id("mcp"),
        "server_label": declaration["server_label"],
        "name": call.function.name,
        "arguments": call.function.arguments or "{}",
        "approval_request_id": None,
        "output": None if observation.error else text,
        "error": text if observation.error else None,
        "status": _item_status(observation),
    }


def _web_search_item(observation: Observation) -> JSON:
    """Return the item of a web search."""
    # The parameter's name depends on the tenant's tool; its first text is taken as the
    # query.
    texts = (
        str(argument)
        for argument in observation.arguments.values()
        if isinstance(argument, str)
    )
    return {
        "type": "web_search_call",
        "id": new_id("ws"),
        "status": _item_status(observation),
        "action": {"type": "search", "query": next(texts, ""), "sources": []},
    }


def _item_status(observation: Observation) -> str:
    """Return the status of an executed call."""
    return "failed" if observation.error else "completed"


def _result_text(observation: Observation) -> str:
    """Return the result of an executed call, shortened if it is too long."""
    return truncate_middle(observation.text, _MAX_RESULT_CHARS)


def as_functions(items: Sequence[Any]) -> list[Any]:
    """Replace hosted calls in earlier items by function calls, for models that know no
    hosted tools."""
    converted: list[Any] = []
    for item in items:
        function_call = _function_of(item) if is_mapping(item) else None
        if function_call is None:
            converted.append(item)
            continue
        name, arguments, output = function_call
        call = str(item.get("id"))
        # The item held the call and its result; functions have two items for that.
        converted.append(
            {
                "type": "function_call",
                "call_id": call,
                "name": name,
                "arguments": json.dumps(arguments),
            }
        )
        converted.append(
            {"type": "function_call_output", "call_id": call, "output": output}
        )
    return converted


def _function_of(item: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """Return (name, arguments, result) of a hosted call, or None for any other item."""
    match item.get("type"):
        case "code_interpreter_call":
            return _code_interpreter_function(item)
        case "file_search_call":
            return _file_search_function(item)
        case "mcp_call":
            return _mcp_function(item)
        case "web_search_call":
            action: Any = item.get("action") or {}
            # The results of a search are not part of its item.
            return (
                "web_search",
                {"query": action.get("query") or ""},
                "It was searched.",
            )
        case _:
            return None


def _code_interpreter_function(item: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return (name, arguments, result) of executed code."""
    logs = [str(output.get("logs") or "") for output in item.get("outputs") or ()]
    return (
        "code_interpreter",
        {"code": item.get("code") or ""},
        "\n".join(logs) or "Nothing was printed.",
    )


def _file_search_function(item: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return (name, arguments, result) of a search in datasets."""
    texts = [str(result.get("text") or "") for result in item.get("results") or ()]
    return (
        "file_search",
        {"query": " ".join(item.get("queries") or ())},
        "\n".join(texts) or "Nothing was found.",
    )


def _mcp_function(item: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Return (name, arguments, result) of a call to an MCP server."""
    try:
        arguments = json.loads(str(item.get("arguments") or "{}"))
    except ValueError:
        arguments = dict[str, Any]()
    output = str(item.get("output") or item.get("error") or "")
    return str(item.get("name")), arguments, output
