"""The Responses API's hosted tools for models whose provider runs none: ours take their place.

`code_interpreter` is code in the jail, `file_search` a search in the tenant's datasets, `mcp` a server that the tenant
has registered, `web_search` the tenant's tool of that name. What the model asks of them is done here, turn after turn,
until it answers or asks for a function of the caller's.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.fields import may, need
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, LLMResultChunkDelta, LLMUsage, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    OpaquePromptMessageContent,
    PromptMessageTool,
    ToolCall,
    ToolPromptMessage,
)
from modelyard.models.types import JSON
from modelyard.models.verbatim import VerbatimRequest
from modelyard.runtime.model_instance import ModelInstance
from modelyard.tools.entities import Tool, ToolContext, ToolError
from modelyard.tools.manager import Bound, Observation, ToolManager, ToolRef
from modelyard.tools.observation import cut
from modelyard.wire.openai_responses import FORMAT

FindTool = Callable[[str, str], Awaitable[Tool]]
"""(tenant, `provider/name`, `kind:provider/name` or `dataset:NAME`) → the tool. Raises ToolNotFoundError."""
_ROUNDS = 10
_MOST_CALLS = 64
_MOST_TEXT = 20_000
"""Characters of a result that the model is told."""
_SEARCHES = ("web_search", "web_search_preview", "web_search_2025_08_26", "web_search_preview_2025_03_11")
KINDS = ("code_interpreter", "file_search", "mcp", *_SEARCHES)


@dataclass
class Hosted:
    """What one request has of them: the name that the model knows → the tool, and how its calls are shown."""

    tools: dict[str, Tool] = field(default_factory=dict[str, Tool])
    kinds: dict[str, JSON] = field(default_factory=dict[str, JSON])
    most_calls: int = _MOST_CALLS


class HostedTools:
    def __init__(self, manager: ToolManager, find: FindTool) -> None:
        self.manager = manager
        self._find = find

    def wanted(self, instance: ModelInstance, asked: LLMRequest) -> bool:
        """Whether the request names hosted tools, and its model's provider has none."""
        return any(one.type in KINDS for one in asked.tools) and not instance.speaks(FORMAT)

    async def prepare(self, tenant: str, asked: LLMRequest, most_calls: int | None) -> tuple[LLMRequest, Hosted]:
        """The request with functions in the place of hosted tools. Raises InvokeBadRequestError."""
        found = Hosted(most_calls=_MOST_CALLS if most_calls is None else min(most_calls, _MOST_CALLS))
        tools: list[PromptMessageTool] = []
        for one in asked.tools:
            if one.type not in KINDS:
                tools.append(one)
                continue
            try:
                ours = await self._ours(tenant, one.extra.get(FORMAT, {}))
            except (ToolError, NotFoundError) as error:
                raise InvokeBadRequestError(f"{one.type}: {error}", param="tools") from error
            for tool, kind in ours:
                found.tools[tool.name] = tool
                found.kinds[tool.name] = kind
                tools.append(PromptMessageTool(
                    name=tool.name, description=tool.entity.description, parameters=dict(tool.schema)
                ))  # fmt: skip
        return msgspec.structs.replace(asked, tools=tools), found

    async def _ours(self, tenant: str, given: JSON) -> list[tuple[Tool, JSON]]:
        match given.get("type"):
            case "code_interpreter":
                return [(_named(await self._find(tenant, "code/python"), "code_interpreter"), given)]
            case "file_search":
                return await self._datasets(tenant, given)
            case "mcp":
                return await self._server(tenant, given)
            case _:
                return [(_named(await self._find(tenant, "web_search"), "web_search"), given)]

    async def _datasets(self, tenant: str, given: JSON) -> list[tuple[Tool, JSON]]:
        names = may(given, "vector_store_ids", list, "file_search.") or []
        if not names:
            raise InvokeBadRequestError(
                "file_search.vector_store_ids must name a dataset, by its name or its id", param="tools"
            )
        found: list[tuple[Tool, JSON]] = []
        for at, name in enumerate(names):
            alias = "file_search" if at == 0 else f"file_search_{at + 1}"
            about = f"Search the files of {name}." if len(names) > 1 else "Search the user's files."
            tool = await self._find(tenant, f"dataset:{name}")
            found.append((_named(tool, alias, about), given))
        return found

    async def _server(self, tenant: str, given: JSON) -> list[tuple[Tool, JSON]]:
        """The tools of a server that the tenant has registered under the label."""
        label = need(given, "server_label", str, "mcp.")
        if given.get("require_approval", "always") != "never":
            raise InvokeBadRequestError(
                "mcp.require_approval must be 'never' here: whether a server's tools may be called is said where it is "
                "registered", param="tools",
            )  # fmt: skip
        allowed: Any = given.get("allowed_tools")
        names = allowed.get("tool_names") if isinstance(allowed, dict) else allowed
        every = [one for one in await self.manager.list(tenant, "mcp") if one.provider == label]
        if not every:
            raise InvokeBadRequestError(
                f"no MCP server {label[:80]!r} is registered here: `modelyard tools add-mcp` adds one", param="tools"
            )
        return [
            (await self.manager.find(tenant, "mcp", label, one.name), given)
            for one in every
            if names is None or one.name in names
        ]


def _named(tool: Tool, alias: str, description: str = "") -> Tool:
    return Bound(tool, ToolRef(alias=alias, description=description))


# ---------------------------------------------------------------------------------------------- asking


@dataclass
class HostedModel:
    """A model with its hosted tools: asked like any other, it calls them itself."""

    instance: ModelInstance
    tools: HostedTools
    hosted: Hosted
    context: ToolContext

    @property
    def model(self) -> str:
        return self.instance.model

    async def invoke_llm(self, asked: LLMRequest) -> LLMResult:
        async with aclosing(self.stream_llm(asked)) as chunks:
            return fold([chunk async for chunk in chunks])

    def stream_verbatim(self, asked: VerbatimRequest) -> AsyncGenerator[LLMResultChunk, None]:
        return self.stream_llm(asked.parse())

    async def stream_llm(self, asked: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
        """Chunks of all turns as of one answer; what was done stands in it as items of its own."""
        usage = LLMUsage()
        calls = 0
        for turn in range(_ROUNDS):
            is_last = turn == _ROUNDS - 1 or calls >= self.hosted.most_calls
            request = self._without(asked) if is_last else asked
            seen: list[LLMResultChunk] = []
            names: dict[int | None, str] = {}
            async with aclosing(self.instance.stream_llm(request)) as chunks:
                async for chunk in chunks:
                    seen.append(chunk)
                    yield self._shown(chunk, names)
            result = fold(seen)
            usage = usage + result.usage
            mine = [one for one in result.message.tool_calls if one.function.name in self.hosted.tools]
            theirs = len(result.message.tool_calls) - len(mine)
            if mine:
                items, answers = await self._called(mine)
                calls += len(mine)
                for item in items:
                    yield self._chunk(AssistantPromptMessage(
                        content=[OpaquePromptMessageContent(format=FORMAT, data=item)]
                    ))  # fmt: skip
                asked = msgspec.structs.replace(asked, messages=[*asked.messages, result.message, *answers])
            if theirs or not mine or is_last:
                delta = LLMResultChunkDelta(usage=usage, finish_reason="tool_calls" if theirs else result.finish_reason)
                yield LLMResultChunk(model=result.model, delta=delta)
                return

    def _without(self, asked: LLMRequest) -> LLMRequest:
        """The request without hosted tools: it is time to answer."""
        rest = [one for one in asked.tools if one.name not in self.hosted.tools]
        return msgspec.structs.replace(asked, tools=rest, tool_choice=None)

    def _shown(self, chunk: LLMResultChunk, names: dict[int | None, str]) -> LLMResultChunk:
        """A chunk without the calls that are made here, and without its turn's end. `names`: what its calls are of."""
        delta = chunk.delta
        for one in delta.message.tool_calls:
            names.setdefault(one.index, one.function.name)
        kept = [one for one in delta.message.tool_calls if names.get(one.index) not in self.hosted.tools]
        message = msgspec.structs.replace(delta.message, tool_calls=kept)
        shown = msgspec.structs.replace(delta, message=message, usage=None, finish_reason=None)
        return msgspec.structs.replace(chunk, delta=shown)

    def _chunk(self, message: AssistantPromptMessage) -> LLMResultChunk:
        return LLMResultChunk(model=self.model, delta=LLMResultChunkDelta(message=message))

    async def _called(self, calls: Sequence[ToolCall]) -> tuple[list[JSON], list[AnyPromptMessage]]:
        """(items for the caller, results for the model), in the order of the calls."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._observed(one)) for one in calls]
        items: list[JSON] = []
        answers: list[AnyPromptMessage] = []
        for call, task in zip(calls, tasks, strict=True):
            seen = task.result()
            items.append(item_of(call, self.hosted.kinds[call.function.name], seen))
            answers.append(ToolPromptMessage(
                content=cut(seen.text, _MOST_TEXT), tool_call_id=call.id, name=call.function.name,
                is_error=bool(seen.error),
            ))  # fmt: skip
        return items, answers

    async def _observed(self, call: ToolCall) -> Observation:
        name = call.function.name
        context = replace(self.context, key=f"{self.context.key}/{call.id}")
        return await self.tools.manager.observe(self.hosted.tools[name], name, call.function.arguments, context)


# ---------------------------------------------------------------------------------------------- items


def item_of(call: ToolCall, given: JSON, seen: Observation) -> JSON:
    """What was done, as the Responses API shows it."""
    text = cut(seen.text, _MOST_TEXT)
    status = "failed" if seen.error else "completed"
    match given.get("type"):
        case "code_interpreter":
            return {
                "type": "code_interpreter_call", "id": new_id("ci"), "container_id": "jail", "status": status,
                "code": str(seen.arguments.get("code") or ""), "outputs": [{"type": "logs", "logs": text}],
            }  # fmt: skip
        case "file_search":
            results = [
                {
                    "file_id": str(one.get("document_id") or ""), "filename": str(one.get("document_name") or ""),
                    "score": one.get("score"), "text": str(one.get("content") or ""), "attributes": {},
                }
                for one in seen.gathered.sources
            ]  # fmt: skip
            return {
                "type": "file_search_call", "id": new_id("fs"), "status": status,
                "queries": [str(seen.arguments.get("query") or "")], "results": results,
            }  # fmt: skip
        case "mcp":
            return {
                "type": "mcp_call", "id": new_id("mcp"), "server_label": given["server_label"],
                "name": call.function.name, "arguments": call.function.arguments or "{}", "approval_request_id": None,
                "output": None if seen.error else text, "error": text if seen.error else None, "status": status,
            }  # fmt: skip
        case _:
            query = next((str(one) for one in seen.arguments.values() if isinstance(one, str)), "")
            return {
                "type": "web_search_call", "id": new_id("ws"), "status": status,
                "action": {"type": "search", "query": query, "sources": []},
            }  # fmt: skip


def as_functions(items: Sequence[Any]) -> list[Any]:
    """Items of an earlier answer with our tools' calls as functions': what a model without hosted tools can read."""
    found: list[Any] = []
    for item in items:
        told = _function_of(item) if isinstance(item, Mapping) else None
        if told is None:
            found.append(item)
            continue
        name, arguments, output = told
        call = str(item.get("id"))
        found.append({"type": "function_call", "call_id": call, "name": name, "arguments": json.dumps(arguments)})
        found.append({"type": "function_call_output", "call_id": call, "output": output})
    return found


def _function_of(item: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """(name, arguments, what came of it); None for what is none of ours."""
    match item.get("type"):
        case "code_interpreter_call":
            logs = "\n".join(str(one.get("logs") or "") for one in item.get("outputs") or ())
            return "code_interpreter", {"code": item.get("code") or ""}, logs or "Nothing was printed."
        case "file_search_call":
            texts = [str(one.get("text") or "") for one in item.get("results") or ()]
            return (
                "file_search",
                {"query": " ".join(item.get("queries") or ())},
                "\n".join(texts) or "Nothing was found.",
            )
        case "mcp_call":
            try:
                arguments = json.loads(str(item.get("arguments") or "{}"))
            except ValueError:
                arguments = {}
            return str(item.get("name")), arguments, str(item.get("output") or item.get("error") or "")
        case "web_search_call":
            action: Any = item.get("action") or {}
            return "web_search", {"query": action.get("query") or ""}, "It was searched."
        case _:
            return None
