"""agent: a model with tools, until it has an answer; or a plugin's strategy, as that does it.

Replies and results are kept as steps below the node's own, so that a run that goes on after a crash asks no model and
calls no tool a second time for what it has.
"""

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.agents.agent import fitting_strategy
from modelyard.agents.events import (
    AgentCall,
    AgentFinished,
    ApprovalNeeded,
    RoundFinished,
    RoundStarted,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
)
from modelyard.agents.loop import AgentLoop, Entry
from modelyard.agents.state import AgentLimits, Task
from modelyard.agents.strategies import strategy_of
from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageContent,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.tools.entities import Message, Tool, ToolContext, ToolEntity, ToolNotFoundError, resources_message
from modelyard.tools.manager import ToolManager, ToolRef
from modelyard.tools.observation import Gathering
from modelyard.workflow.agent_tools import dataset_ref, tools_in
from modelyard.workflow.engine import Step
from modelyard.workflow.events import NodeRunAgentLog, NodeRunAgentThought, NodeRunRetrieverResource
from modelyard.workflow.memory import Calls, memory_messages, remembered
from modelyard.workflow.node import Effect, Node, NodeContext, NodeData, NodeError, NodePaused, NodeResult
from modelyard.workflow.prompts import (
    MemoryConfig,
    ModelConfig,
    content_of,
    dump_usage,
    files_in,
    find_model,
    metadata_of,
    parameters_of,
    supported,
)
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.tool_messages import Gathered, tool_input
from modelyard.workflow.variables import File, from_object, to_object

_APPROVAL_SECONDS = 36 * 3600.0
_ANSWER_ROOM = 1024
_RETRIEVED = 4


class AgentData(NodeData, kw_only=True):
    agent_strategy_provider_name: str = ""
    agent_strategy_name: str = ""
    agent_strategy_label: str = ""
    agent_parameters: dict[str, Any] = {}
    memory: MemoryConfig | None = None
    plugin_unique_identifier: str = ""
    output_schema: dict[str, Any] | None = None


class AgentNode(Node):
    type = "agent"
    Data = AgentData

    @property
    def effect(self) -> Effect:
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        data: AgentData = self.data
        parameters = {name: _parameter(given, context) for name, given in data.agent_parameters.items()}
        provider, name = data.agent_strategy_provider_name, data.agent_strategy_name
        agents = context.services.agents
        if provider and agents is not None and agents.serves(provider, name):
            return await _Plugin(self, context, parameters).run()
        try:
            strategy_of(name or "function_calling")
        except NotFoundError as error:
            raise NodeError(
                f"strategy {provider}/{name} is no strategy of ours, and no plugin here has it: {error}",
                kind="AgentStrategyNotFoundError", inputs=parameters,
            ) from error  # fmt: skip
        return await _Own(self, context, parameters, name or "function_calling").run()

    def references(self) -> Sequence[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for given in self.data.agent_parameters.values():
            if not isinstance(given, Mapping):
                continue
            value = given.get("value")
            if given.get("type") == "variable" and isinstance(value, list):
                found.append(tuple(str(part) for part in value))
            elif isinstance(value, str):
                found += selectors_in(value)
        return found


def _parameter(given: Any, context: NodeContext) -> Any:
    """Constants may hold selectors too: so the files that people have."""
    if isinstance(given, Mapping) and given.get("type") == "constant" and isinstance(given.get("value"), str):
        return render(given["value"], context.pool)
    return tool_input(given, context)


# ---------------------------------------------------------------------------------------------- our own loop


class _Steps:
    """The loop's record among the run's steps."""

    def __init__(self, context: NodeContext) -> None:
        self._recorder: Any = context.engine.recorder if context.engine is not None else None
        self._path = f"{context.key}#"
        found = self._recorder.steps(self._path) if self._recorder is not None else ()
        self._entries = [msgspec.convert(step.outputs, Entry) for step in found]

    def entries(self) -> Sequence[Entry]:
        return self._entries

    async def about_to(self, key: str) -> None:
        if self._recorder is not None:
            await self._recorder.about_to(f"{self._path}{key}")

    def keep(self, entry: Entry) -> None:
        if self._recorder is not None:
            outputs = msgspec.to_builtins(entry)
            self._recorder.record(Step(key=f"{self._path}{entry.key}", node_id=entry.key, outputs=outputs))


@dataclass(slots=True)
class _Round:
    """What a turn shows: the log of it, and the thought."""

    id: str = ""
    began: float = 0.0
    finished: RoundFinished | None = None
    results: dict[str, ToolFinished] = field(default_factory=dict[str, ToolFinished])


class _Own:
    def __init__(self, node: AgentNode, context: NodeContext, parameters: Mapping[str, Any], strategy: str) -> None:
        self.node = node
        self.context = context
        self.parameters = parameters
        self.strategy = strategy
        self.logs: dict[str, dict[str, Any]] = {}
        self.said: list[str] = []
        self._said_in = 0
        self._round = _Round()
        self._values: list[Any] = []

    async def run(self) -> NodeResult:
        context = self.context
        inputs = {name: value for name, value in self.parameters.items() if name != "tools"}
        if context.services.models is None:
            raise NodeError("there are no models to ask", kind="ModelNotExistError", inputs=inputs)
        config = _config(self.parameters.get("model"))
        try:
            model = find_model(context, config)
            loop, task = await self._loop(model, config)
            finished: AgentFinished | None = None
            async with aclosing(loop.run(task)) as events:
                async for event in events:
                    match event:
                        case AgentFinished():
                            finished = event
                        case ApprovalNeeded():
                            await self._paused(event)
                        case _:
                            self._show(event)
        except NodeError as error:
            error.inputs = error.inputs or inputs
            raise
        except ModelyardError as error:
            raise NodeError(str(error), kind="AgentInvocationError", inputs=inputs) from error
        if finished is None:
            raise NodeError("the agent ended without a word", kind="AgentInvocationError", inputs=inputs)
        return self._result(finished, inputs)

    async def _loop(self, model: Any, config: ModelConfig) -> tuple[AgentLoop, Task]:
        context, given = self.context, self.parameters
        strategy = fitting_strategy(self.strategy, model, is_completion=config.mode == "completion")
        parameters, stop = parameters_of(config, context)
        task = Task(
            query=_text(given.get("query")), instruction=_text(given.get("instruction")),
            tools=await self._tools(), parameters=parameters, stop=stop, prompt=_text(given.get("prompt")),
            schema=given.get("schema") or self.node.data.output_schema or None,
        )  # fmt: skip
        task.files = await self._files(model)
        if self.node.data.memory is not None:
            told: list[AnyPromptMessage] = [
                SystemPromptMessage(content=task.instruction), UserPromptMessage(content=task.query)
            ]  # fmt: skip
            shown: Calls = "messages" if strategy.name == "function_calling" and task.tools else "text"
            found = await remembered(
                self.node.data.memory, context, model, told, _ANSWER_ROOM, calls=shown, sums_up=True
            )
            task.history = await memory_messages(found, context, "low", calls=shown)
        run = context.run
        system = context.pool.of("sys")
        about = ToolContext(
            tenant=run.tenant, user=run.user, app=run.app, conversation=str(system.get("conversation_id") or ""),
            key=context.execution_id, depth=run.depth,
        )  # fmt: skip
        tools = context.services.tools
        loop = AgentLoop(
            model, strategy, tools.manager if tools is not None else ToolManager(), limits=self._limits(),
            context=about, record=_Steps(context), approve=self._approve, store=self._store,
            results=tools.results(context.key) if tools is not None else None, now=run.now,
        )  # fmt: skip
        return loop, task

    def _limits(self) -> AgentLimits:
        given = self.parameters
        wanted = given.get("maximum_iterations")
        try:
            iterations = int(wanted) if wanted not in (None, "") else 10
        except (TypeError, ValueError) as error:
            raise NodeError(
                f"maximum_iterations must be a number, not {str(wanted)[:40]!r}", kind="AgentInputTypeError"
            ) from error
        more = given.get("limits")
        known = (
            {name: value for name, value in more.items() if name in AgentLimits.__dataclass_fields__}
            if isinstance(more, Mapping)
            else {}
        )
        return AgentLimits(**{"iterations": iterations, **known})

    async def _tools(self) -> list[Tool]:
        refs = tools_in(self.parameters.get("tools"))
        datasets = self.parameters.get("datasets")
        refs += [dataset_ref(str(one)) for one in datasets or ()] if isinstance(datasets, list) else []
        found: dict[str, Tool] = {}
        for ref in refs:
            tool = await self._bound(ref)
            if tool.name not in found:
                found[tool.name] = tool
        return list(found.values())

    async def _bound(self, ref: ToolRef) -> Tool:
        services = self.context.services
        if ref.kind == "dataset-retrieval" and services.datasets is not None:
            return DatasetTool(services.datasets, ref)
        if services.tools is None:
            return MissingTool(ref, "there are no tools here")
        try:
            return await services.tools.bind(ref)
        except (ToolNotFoundError, NotFoundError) as error:
            return MissingTool(ref, str(error))

    async def _files(self, model: Any) -> list[PromptMessageContent]:
        given = self.parameters.get("files")
        files = files_in(from_object(given)) if given else files_in(self.context.value(["sys", "files"]))
        return supported([await content_of(one, self.context) for one in files], model)

    # what is asked of people, and kept for them

    async def _approve(self, calls: Sequence[AgentCall]) -> Mapping[str, str] | None:
        forms = self.context.services.forms
        if forms is None:
            return {one.id: "nobody can be asked: the run is not kept" for one in calls}
        answer = await forms.answer(f"{self.context.key}#{calls[0].id}")
        if answer is None:
            return None
        if "expired" in answer:
            return {one.id: "nobody agreed in time" for one in calls}
        agreed = answer.get("action") == "approve"
        why = str((answer.get("inputs") or {}).get("reason") or "the user said no")
        return {one.id: "" if agreed else why for one in calls}

    async def _paused(self, event: ApprovalNeeded) -> None:
        forms: Any = self.context.services.forms  # without them nothing waits: it is refused
        listed = "\n".join(f"- **{one.name}** `{one.arguments[:2000]}`" for one in event.calls)
        form = {
            "form_content": f"The agent wants to call:\n\n{listed}", "inputs": [
                {"type": "paragraph", "output_variable_name": "reason", "default": None, "option_source": None}
            ],
            "actions": [
                {"id": "approve", "title": "Approve", "button_style": "primary"},
                {"id": "refuse", "title": "Refuse", "button_style": "default"},
            ],
            "resolved_default_values": {},
        }  # fmt: skip
        key = f"{self.context.key}#{event.calls[0].id}"
        told = await forms.ask(key, form, self.context.run.now() + _APPROVAL_SECONDS)
        raise NodePaused({
            "TYPE": "human_input_required", "node_id": self.node.id, "node_title": self.node.title, **form, **told
        })  # fmt: skip

    async def _store(self, key: str, gathered: Gathering) -> list[dict[str, Any]]:
        files = self.context.services.files
        found: list[dict[str, Any]] = []
        for at, one in enumerate(gathered.blobs):
            if files is not None:
                name = one.name or f"{key.replace('.', '-')}-{at}.{one.mime_type.partition('/')[2].partition('+')[0]}"
                file = await files.save(name, one.data, one.mime_type)
                found.append(file.to_object())
        for url, kind in gathered.links:
            is_image = kind.startswith("image") or not kind
            name = url.partition("?")[0].rpartition("/")[2]
            file = File(
                type="image" if is_image else "document", transfer_method="remote_url", remote_url=url, mime_type=kind,
                filename=name,
            )  # fmt: skip
            found.append(file.to_object())
        found += [one if isinstance(one, dict) else to_object(one) for one in gathered.files]
        return found

    # what is shown

    def _show(self, event: Any) -> None:
        match event:
            case RoundStarted():
                self._round = _Round(id=self._id(f"round{event.round}"), began=event.at)
            case TextDelta():
                if self._said_in not in (0, event.round) and self.said:
                    self._say("\n")
                self._said_in = event.round
                self._say(event.text)
            case ThoughtDelta():
                self.context.reason(event.text, False)
            case RoundFinished():
                self._round.finished = event
                if not event.is_known:
                    self._log_round(event)
                    self._think()
            case ToolStarted():
                self._log_call(event)
            case ToolFinished():
                self._round.results[event.call.id] = event
                self._values += event.values
                if event.is_known:
                    return
                self._log_result(event)
                finished = self._round.finished
                if finished is not None and len(self._round.results) == len(finished.calls):
                    self._think()
            case _:
                pass

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.context.stream("text", text, False)

    def _id(self, what: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self.context.execution_id), what))

    def _think(self) -> None:
        """The turn as callers of agent apps know it."""
        told, results = self._round.finished, self._round.results
        if told is None:
            return
        self.context.emit(NodeRunAgentThought(
            **self.node.about(self.context.execution_id), at=self.context.run.now(), thought_id=self._round.id,
            position=told.round, thought=told.thought or told.text, tool=";".join(one.name for one in told.calls),
            tool_labels={one.name: one.label or {"en_US": one.name, "zh_Hans": one.name} for one in told.calls},
            tool_input=_by_name([(one.name, _arguments(one)) for one in told.calls]),
            observation=_by_name([
                (one.name, results[one.id].observation) for one in told.calls if one.id in results
            ]) if results else "",
            files=[file for one in told.calls if one.id in results for file in results[one.id].files],
        ))  # fmt: skip
        sources = [one for each in results.values() for one in each.sources]
        if sources:
            self.context.emit(NodeRunRetrieverResource(
                **self.node.about(self.context.execution_id), at=self.context.run.now(),
                retriever_resources=sources, context="",
            ))  # fmt: skip

    def _log(self, name: str, **more: Any) -> None:
        entry = self.logs.setdefault(name, {
            "id": self._id(name), "parent_id": None, "label": "", "status": "start", "error": None, "data": {},
            "metadata": {},
        })  # fmt: skip
        entry.update(more)
        self.context.emit(NodeRunAgentLog(
            **self.node.about(self.context.execution_id), at=self.context.run.now(), message_id=entry["id"],
            **{key: entry[key] for key in entry if key != "id"},
        ))  # fmt: skip

    def _log_round(self, event: RoundFinished) -> None:
        number = event.round
        usage = metadata_of(event.usage)
        times = {"started_at": event.started_at, "finished_at": event.at, "elapsed_time": event.at - event.started_at}
        parent = self._id(f"round{number}")
        self._log(f"round{number}", label=f"ROUND {number}", metadata={"started_at": event.started_at})
        self._log(
            f"thought{number}", parent_id=parent, label=f"{event.model} Thought", status="success",
            data={"output": event.text or event.thought, "tool_calls": [
                {"id": one.id, "name": one.name, "args": _arguments(one)} for one in event.calls
            ]},
            metadata={**times, **usage},
        )  # fmt: skip
        if not event.calls:
            self._log(
                f"round{number}", status="success", data={"output": {"llm_response": event.text}},
                metadata={**times, **usage},
            )  # fmt: skip

    def _log_call(self, event: ToolStarted) -> None:
        one = event.call
        self._log(
            f"call{event.round}.{one.id}", parent_id=self._id(f"round{event.round}"), label=f"CALL {one.name}",
            data={"input": _arguments(one)}, metadata={"started_at": event.at, "provider": one.provider},
        )  # fmt: skip

    def _log_result(self, event: ToolFinished) -> None:
        name = f"call{event.round}.{event.call.id}"
        before = self.logs.get(name, {}).get("metadata", {})
        metadata = {**before, "finished_at": event.at, "elapsed_time": event.seconds}
        self._log(
            name, status="error" if event.error else "success", error=event.observation if event.error else None,
            data={"input": event.arguments or _arguments(event.call), "output": event.observation}, metadata=metadata,
        )  # fmt: skip
        finished = self._round.finished
        if finished is not None and len(self._round.results) == len(finished.calls):
            outputs = {each.call.name: each.observation for each in self._round.results.values()}
            self._log(f"round{event.round}", status="success", data={"output": outputs})

    def _result(self, finished: AgentFinished, inputs: Mapping[str, Any]) -> NodeResult:
        text = "".join(self.said)
        if not text and finished.text:
            self._say(finished.text)
            text = finished.text
        self.context.stream("text", "", True)
        usage = dump_usage(finished.usage)
        files = [from_object(one) for one in finished.files]
        outputs: dict[str, Any] = {
            "text": text, "files": files, "json": [*self.logs.values(), *self._values], "usage": usage,
        }  # fmt: skip
        if finished.value is not None:
            outputs["structured_output"] = finished.value
        told = {
            "strategy": self.strategy, "rounds": finished.rounds, "tool_calls": finished.tool_calls,
            "tool_errors": finished.tool_errors, "ended_by": finished.reason,
        }  # fmt: skip
        return NodeResult(
            inputs=dict(inputs), outputs=outputs, process_data=told,
            metadata={**metadata_of(finished.usage), "agent_log": list(self.logs.values()), "agent": told},
        )  # fmt: skip


class MissingTool(Tool):
    """One that the app names and that is not here: the model is told so when it calls it, and so is whoever watches."""

    def __init__(self, ref: ToolRef, why: str) -> None:
        self.entity = ToolEntity(
            name=ref.alias or ref.name, provider=ref.provider, kind=ref.kind, description=ref.description or ref.name,
            schema={"type": "object", "properties": {}},
        )  # fmt: skip
        self._why = why

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        raise ToolNotFoundError(self._why)
        yield {}


class DatasetTool(Tool):
    """A dataset as a tool: its segments are the answer, their places the sources."""

    def __init__(self, datasets: Any, ref: ToolRef) -> None:
        self._datasets = datasets
        self._name = ref.provider or ref.name
        about = datasets.about(self._name) if hasattr(datasets, "about") else None
        title, told = about or (self._name, "")
        self.entity = ToolEntity(
            name=ref.alias or f"dataset_{self._name.replace('-', '_')}", provider=title, kind="dataset-retrieval",
            description=ref.description or told or f"useful for when you want to answer queries about the {title}",
            schema={
                "type": "object",
                "properties": {"query": {"type": "string", "description": "What to look for, in words of the texts."}},
                "required": ["query"],
            },
            is_repeatable=True,
        )  # fmt: skip

    async def invoke(self, parameters: Mapping[str, Any], context: ToolContext) -> AsyncGenerator[Message, None]:
        asked = _Retrieval(dataset_ids=[self._name], multiple_retrieval_config={"top_k": _RETRIEVED})
        found = await self._datasets.retrieve(str(parameters["query"]), asked, files=())
        text = "\n".join(str(one["content"]) for one in found)
        yield {"type": "text", "message": {"text": text or "Nothing was found."}}
        resources = [{**one["metadata"], "content": one["content"], "title": one["title"]} for one in found]
        yield resources_message(resources)


class _Retrieval(msgspec.Struct, kw_only=True):
    """What retrieval is told where no node says it."""

    dataset_ids: list[str] = []
    retrieval_mode: str = "multiple"
    multiple_retrieval_config: dict[str, Any] | None = None
    single_retrieval_config: dict[str, Any] | None = None
    metadata_filtering_mode: str = "disabled"
    metadata_model_config: dict[str, Any] | None = None
    metadata_filtering_conditions: Any = None


def _config(given: Any) -> ModelConfig:
    """The parameter `model` as the node of an LLM has it. Raises NodeError."""
    if not isinstance(given, Mapping):
        return ModelConfig()
    return ModelConfig(
        provider=str(given.get("provider") or ""), name=str(given.get("model") or given.get("name") or ""),
        mode=str(given.get("mode") or "chat"), completion_params=dict(given.get("completion_params") or {}),
    )  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _arguments(one: AgentCall) -> Any:
    try:
        return decode_body(one.arguments) if one.arguments else {}
    except BodyError:
        return one.arguments


def _by_name(values: Sequence[tuple[str, Any]]) -> str:
    return json.dumps(dict(values), ensure_ascii=False, default=str) if values else ""


# ---------------------------------------------------------------------------------------------- plugins' strategies


class _Plugin:
    """A strategy that a plugin has: its messages become outputs, its logs events."""

    def __init__(self, node: AgentNode, context: NodeContext, parameters: Mapping[str, Any]) -> None:
        self._node = node
        self._context = context
        self._parameters = parameters

    async def run(self) -> NodeResult:
        data: AgentData = self._node.data
        context, parameters = self._context, self._parameters
        strategy = {
            "provider": data.agent_strategy_provider_name,
            "name": data.agent_strategy_name,
            "plugin": data.plugin_unique_identifier,
            "key": context.idempotency_key,
        }
        gathered = Gathered(context)
        logs: list[dict[str, Any]] = []
        usage: Mapping[str, Any] = {}
        agents: Any = context.services.agents
        try:
            messages: Any = agents.run(strategy, parameters)
            async with aclosing(messages) as stream:
                async for message in stream:
                    if message.get("type") == "log":
                        logs.append(self._logged(message.get("message") or {}))
                        continue
                    inside = (message.get("message") or {}).get("json_object")
                    if message.get("type") == "json" and isinstance(inside, Mapping) and "execution_metadata" in inside:
                        usage = inside["execution_metadata"]
                        continue
                    await gathered.take(message)
        except ModelyardError as error:
            raise NodeError(str(error), kind="AgentInvocationError", inputs=dict(parameters)) from error
        outputs = gathered.outputs()
        outputs["json"] = [*logs, *outputs["json"]]
        outputs["usage"] = dict(usage)
        return NodeResult(inputs=dict(parameters), outputs=outputs, metadata={**usage, "agent_log": logs})

    def _logged(self, log: Mapping[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": str(log.get("id") or ""), "parent_id": log.get("parent_id"), "label": str(log.get("label") or ""),
            "status": str(log.get("status") or ""), "error": log.get("error"), "data": dict(log.get("data") or {}),
            "metadata": dict(log.get("metadata") or {}),
        }  # fmt: skip
        self._context.emit(NodeRunAgentLog(
            **self._node.about(self._context.execution_id), at=self._context.run.now(),
            message_id=entry["id"], **{name: entry[name] for name in entry if name != "id"},
        ))  # fmt: skip
        return entry


NODES = {"agent": AgentNode}
