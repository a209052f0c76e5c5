"""One execution of an agent by a node: its loop, tools, memory and approvals, and what
clients see of it.

Model replies and tool results are recorded as steps below the node's own. A run that
resumes after a crash repeats no model call and no tool call that has a recorded result.

The key of a recorded step is `NODE#r1` for the first reply and `NODE#t1.0` for the first
tool call in it. Later attempts of one node have the keys `NODE#1.r1` and so on. A form
that a call waits for has the key `NODE#ATTEMPT.TURN.CALL`.

Both kinds of agent nodes use this: those that name a strategy, and those that run an
agent's package.
"""

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.agents.agent import select_strategy
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
from modelyard.agents.loop import AgentLoop, RecordedStep
from modelyard.agents.state import AgentLimits, Task
from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_mapping
from modelyard.models.messages import (
    AnyPromptMessage,
    PromptMessageContent,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.tools.entities import (
    Message,
    Tool,
    ToolContext,
    ToolEntity,
    ToolNotFoundError,
)
from modelyard.tools.manager import ToolManager, ToolRef
from modelyard.tools.observation import ToolOutputCollector
from modelyard.workflow.agent_tools import dataset_ref, parse_tool_list
from modelyard.workflow.dataset_tools import DatasetTool
from modelyard.workflow.engine import Step
from modelyard.workflow.events import (
    AgentToolCall,
    NodeRunAgentLog,
    NodeRunAgentThought,
    NodeRunRetrieverResource,
)
from modelyard.workflow.form_mail import FormMail
from modelyard.workflow.memory import Calls, load_history, memory_messages
from modelyard.workflow.node import (
    Node,
    NodeContext,
    NodeError,
    NodePaused,
    NodeResult,
)
from modelyard.workflow.prompts import (
    MODEL_NOT_FOUND,
    ModelConfig,
    content_of,
    dump_usage,
    files_in,
    find_model,
    metadata_of,
    parameters_of,
    supported,
)
from modelyard.workflow.storable import loggable
from modelyard.workflow.variables import File, from_object, to_object

# As long as the form of a human input node waits if its author sets no time.
_APPROVAL_TIMEOUT_SECONDS = 36 * 3600.0
_RESERVED_ANSWER_TOKENS = 1024


class AgentStepStore:
    """The agent loop's step store, on the recorder of the run."""

    def __init__(self, context: NodeContext, attempt: int = 0) -> None:
        """`attempt` counts the loops of one node; each has steps of its own."""
        # Without an engine (a single node run) nothing is recorded.
        self._recorder: Any = (
            context.engine.recorder if context.engine is not None else None
        )
        self._path = f"{context.key}#{attempt}." if attempt else f"{context.key}#"
        # Steps of the loop have the node's key with `#` as prefix.
        recorded_steps = (
            self._recorder.steps(self._path) if self._recorder is not None else ()
        )
        self._entries = [
            msgspec.convert(step.outputs, RecordedStep) for step in recorded_steps
        ]

    def entries(self) -> Sequence[RecordedStep]:
        """Return the entries that an earlier process recorded."""
        return self._entries

    async def mark_started(self, key: str) -> None:
        """Record that a call is about to start, before its effects can happen."""
        if self._recorder is not None:
            await self._recorder.mark_started(f"{self._path}{key}")

    def save(self, entry: RecordedStep) -> None:
        """Record a finished entry."""
        if self._recorder is None:
            return
        # Observations come from tools, and must be readable after a resumption.
        outputs = loggable(msgspec.to_builtins(entry))
        key = f"{self._path}{entry.key}"
        self._recorder.record(Step(key=key, node_id=entry.key, outputs=outputs))


@dataclass(slots=True)
class _Round:
    """State of the current round, for its log entries and its thought event."""

    id: str = ""
    began: float = 0.0
    finished: RoundFinished | None = None
    results: dict[str, ToolFinished] = field(default_factory=dict[str, ToolFinished])


class BuiltInStrategy:
    """One execution of a built-in strategy.

    `node.data` needs `memory` and `output_schema`; everything else is in `parameters`.
    """

    def __init__(
        self,
        node: Node,
        context: NodeContext,
        parameters: Mapping[str, Any],
        strategy: str,
        attempt: int = 0,
    ) -> None:
        self.node = node
        self.attempt = attempt
        self.context = context
        self.parameters = parameters
        self.strategy = strategy
        self.logs: dict[str, dict[str, Any]] = {}
        self.text_chunks: list[str] = []
        self._text_round = 0
        self._round_number = 0
        self._round = _Round()
        self._values: list[Any] = []

    async def run(self) -> NodeResult:
        """Run the agent loop and translate its events. Raises NodeError, or NodePaused
        while tool calls await approval."""
        context = self.context
        inputs = {
            name: value for name, value in self.parameters.items() if name != "tools"
        }
        # A missing model service is reported with the inputs, like other errors.
        if context.services.models is None:
            raise NodeError(
                "No models are available",
                error_type=MODEL_NOT_FOUND,
                inputs=inputs,
            )
        config = _config(self.parameters.get("model"))
        try:
            model = find_model(context, config)
            loop, task = await self._loop(model, config)
            finished: AgentFinished | None = None
            # If this block ends with an error, closing the generator cancels running
            # calls.
            async with aclosing(loop.run(task)) as events:
                async for event in events:
                    match event:
                        case AgentFinished():
                            finished = event
                        case ApprovalNeeded():
                            await self._pause_for_approval(event)
                        case _:
                            self._show(event)
        except NodeError as error:
            # The inputs are shown with the failed node; the error's own inputs have
            # priority.
            error.inputs = error.inputs or inputs
            raise
        except ModelyardError as error:
            raise NodeError(
                str(error), error_type="AgentInvocationError", inputs=inputs
            ) from error
        if finished is None:
            raise NodeError(
                "Agent ended without a final event",
                error_type="AgentInvocationError",
                inputs=inputs,
            )
        return self._result(finished, inputs)

    async def _loop(self, model: Any, config: ModelConfig) -> tuple[AgentLoop, Task]:
        """Return the agent loop and its task, with tools, files and memory."""
        context, parameters_by_name = self.context, self.parameters
        strategy = select_strategy(
            self.strategy, model, is_completion=config.mode == "completion"
        )
        parameters, stop = parameters_of(config, context)
        task = Task(
            query=_text(parameters_by_name.get("query")),
            instruction=_text(parameters_by_name.get("instruction")),
            tools=await self._available_tools(),
            parameters=parameters,
            stop=stop,
            prompt=_text(parameters_by_name.get("prompt")),
            schema=parameters_by_name.get("schema")
            or self.node.data.output_schema
            or None,
        )
        # Files that the model cannot process are omitted.
        task.files = await self._files(model)
        # Only function calling models accept tool call messages in the history.
        sends_calls = strategy.name == "function_calling" and bool(task.tools)
        await self._load_history(task, model, "messages" if sends_calls else "text")
        run = context.run
        system = context.pool.node_variables("sys")
        tool_context = ToolContext(
            tenant=run.tenant,
            user=run.user,
            app=run.app,
            conversation=str(system.get("conversation_id") or ""),
            key=context.execution_id,
            depth=run.depth,
        )
        # Without tool services the loop gets an empty manager.
        tools = context.services.tools
        loop = AgentLoop(
            model,
            strategy,
            tools.manager if tools is not None else ToolManager(),
            limits=self._limits(),
            context=tool_context,
            record=AgentStepStore(context, self.attempt),
            approve=self._approve,
            store=self._store,
            results=tools.results(context.key) if tools is not None else None,
            clock=run.now,
        )
        return loop, task

    async def _load_history(self, task: Task, model: Any, call_style: Calls) -> None:
        """Add the conversation to the task, if the node has a memory. `call_style` is
        the form of earlier tool calls."""
        config = self.node.data.memory
        if config is None:
            return
        # The history gets the part of the context that these messages do not use.
        prompt_messages: list[AnyPromptMessage] = [
            SystemPromptMessage(content=task.instruction),
            UserPromptMessage(content=task.query),
        ]
        history = await load_history(
            config,
            self.context,
            model,
            prompt_messages,
            _RESERVED_ANSWER_TOKENS,
            calls=call_style,
            sums_up=True,
        )
        task.history = await memory_messages(
            history, self.context, "low", calls=call_style
        )

    def _limits(self) -> AgentLimits:
        """Return the limits of the loop; unknown limits are ignored. Raises NodeError."""
        parameters = self.parameters
        # The editor stores an empty text if the field was cleared.
        max_iterations = parameters.get("maximum_iterations")
        try:
            iterations = int(max_iterations) if max_iterations not in (None, "") else 10
        except (TypeError, ValueError) as error:
            raise NodeError(
                "maximum_iterations must be a number, not"
                f" {str(max_iterations)[:40]!r}",
                error_type="AgentInputTypeError",
            ) from error
        # Modelyard's own extension of the parameters: `limits` overrides single limits.
        configured_limits = parameters.get("limits")
        # Limits with unknown names are ignored.
        known_limits: dict[str, Any] = (
            {
                name: value
                for name, value in configured_limits.items()
                if name in AgentLimits.__dataclass_fields__
            }
            if is_mapping(configured_limits)
            else {}
        )
        return AgentLimits(**{"iterations": iterations, **known_limits})

    async def _tools(self) -> list[Tool]:
        """Return the configured tools and datasets; of several tools with one name only
        the first."""
        refs = parse_tool_list(self.parameters.get("tools"))
        datasets = self.parameters.get("datasets")
        # Datasets come last, so that of two equal names the tool is taken.
        refs += (
            [dataset_ref(str(dataset_id)) for dataset_id in datasets or ()]
            if is_array(datasets)
            else []
        )
        tools_by_name: dict[str, Tool] = {}
        for ref in refs:
            # A tool that is not available must not fail the whole agent.
            tool = await self._bind_tool(ref)
            if tool.name not in tools_by_name:
                tools_by_name[tool.name] = tool
        return list(tools_by_name.values())

    async def _available_tools(self) -> list[Tool]:
        """Return the agent's tools. Raises NodeError if it has tools and none of them is
        available: its answer would be made up."""
        tools = await self._tools()
        missing = [tool for tool in tools if isinstance(tool, MissingTool)]
        # With a part of its tools an agent can still be of use.
        if not tools or len(missing) < len(tools):
            return tools
        reasons = "; ".join(f"{tool.name} ({tool.reason})" for tool in missing)
        problem = f"None of the agent's tools is available: {reasons}"
        raise NodeError(problem, error_type="AgentToolsUnavailable")

    async def _bind_tool(self, ref: ToolRef) -> Tool:
        """Return the tool of a reference; one that only reports an error if it is not
        available."""
        services = self.context.services
        if ref.kind == "dataset-retrieval" and services.datasets is not None:
            return DatasetTool(services.datasets, ref)
        if services.tools is None:
            return MissingTool(ref, "No tools are available")
        try:
            return await services.tools.bind(ref)
        except (ToolNotFoundError, NotFoundError) as error:
            return MissingTool(ref, str(error))

    async def _files(self, model: Any) -> list[PromptMessageContent]:
        """Return the user's files as message content, without those that the model does
        not support."""
        # Without own files the agent gets the files of the user's message.
        own_files = from_object(self.parameters.get("files") or None)
        file_values = own_files or self.context.value(["sys", "files"])
        files = files_in(file_values)
        contents = [await content_of(file, self.context) for file in files]
        return supported(contents, model)

    # Approval and files

    async def _approve(self, calls: Sequence[AgentCall]) -> Mapping[str, str] | None:
        """Return each call's refusal reason, empty if approved; None while the approval
        form is open."""
        forms = self.context.services.forms
        if forms is None:
            return {
                call.id: "approval is not possible: the run is not stored"
                for call in calls
            }
        # The form is stored under the first call of the round.
        answer = await forms.answer(self._form_key(calls[0]))
        if answer is None:
            return None
        # The deadline has passed without an answer: all calls are refused.
        if "expired" in answer:
            return {call.id: "approval timed out" for call in calls}
        agreed = answer.get("action") == "approve"
        # The model reads the reason, so it gets a text even if the person wrote none.
        refusal = str(
            (answer.get("inputs") or EMPTY_OBJECT).get("reason") or "the user said no"
        )
        return {call.id: "" if agreed else refusal for call in calls}

    def _form_key(self, call: AgentCall) -> str:
        """Return the key of the form of a tool call.

        Some models number their calls anew in each turn, so the key has the turn: an
        answer must not count for a later call.
        """
        turn = f"{self.attempt}.{self._round_number}"
        return f"{self.context.key}#{turn}.{call.id}"

    async def _pause_for_approval(self, event: ApprovalNeeded) -> None:
        """Publish the approval form and raise NodePaused."""
        raise NodePaused(await self._publish_approval(event.calls))

    async def _publish_approval(self, calls: Sequence[AgentCall]) -> dict[str, Any]:
        """Publish the form that approves tool calls; return the reason of the pause."""
        # Arguments can be whole documents; their start is enough to decide.
        listed = "\n".join(
            f"- **{call.name}** `{call.arguments[:2000]}`" for call in calls
        )
        form_definition: dict[str, Any] = {
            "form_content": f"The agent wants to call:\n\n{listed}",
            "inputs": [
                {
                    "type": "paragraph",
                    "output_variable_name": "reason",
                    "default": None,
                    "option_source": None,
                }
            ],
            "actions": [
                {"id": "approve", "title": "Approve", "button_style": "primary"},
                {"id": "refuse", "title": "Refuse", "button_style": "default"},
            ],
            "resolved_default_values": {},
        }
        # `_approve` looks the answer up by the same key when the run resumes.
        return await self._publish_form(
            self._form_key(calls[0]),
            form_definition,
            _APPROVAL_TIMEOUT_SECONDS,
        )

    async def _publish_form(
        self,
        key: str,
        form_definition: Mapping[str, Any],
        seconds: float,
        mails: Sequence[FormMail] = (),
    ) -> dict[str, Any]:
        """Publish a form that expires after `seconds`; return the reason of the pause.

        The reason has the form's token and URL, so that clients can show it.
        """
        # Without forms no call waits for a person, so this method is not called.
        forms: Any = self.context.services.forms
        form_access = await forms.publish(
            key,
            form_definition,
            self.context.run.now() + seconds,
            mails,
        )
        return {
            "TYPE": "human_input_required",
            "node_id": self.node.id,
            "node_title": self.node.title,
            **form_definition,
            **form_access,
        }

    async def _store(
        self, key: str, gathered: ToolOutputCollector
    ) -> list[dict[str, Any]]:
        """Store the files that a tool returned; return their references."""
        files = self.context.services.files
        stored_files: list[dict[str, Any]] = []
        for blob_index, blob in enumerate(gathered.blobs):
            if files is not None:
                # A stored file needs a name; the extension follows from the MIME type.
                # In types such as image/svg+xml the suffix is no part of the extension.
                name = (
                    blob.name
                    or f"{key.replace('.', '-')}-{blob_index}.{blob.mime_type.partition('/')[2].partition('+')[0]}"  # noqa: E501
                )
                file = await files.save(name, blob.data, blob.mime_type)
                stored_files.append(file.to_object())
        # Links stay links: the file is not downloaded. An unknown type is treated as an
        # image.
        for url, mime_type in gathered.links:
            is_image = mime_type.startswith("image") or not mime_type
            name = url.partition("?")[0].rpartition("/")[2]
            file = File(
                type="image" if is_image else "document",
                transfer_method="remote_url",
                remote_url=url,
                mime_type=mime_type,
                filename=name,
            )
            stored_files.append(file.to_object())
        stored_files += [
            file_value if isinstance(file_value, dict) else to_object(file_value)
            for file_value in gathered.files
        ]
        return stored_files

    # Events

    def _show(self, event: Any) -> None:
        """Publish an event of the agent loop as text, log entries and thoughts."""
        match event:
            case RoundStarted():
                # Keys of forms have this number, so it is set before a call can wait.
                self._round_number = event.round
                self._round = _Round(id=self._id(f"round{event.round}"), began=event.at)
            case TextDelta():
                # Texts of different rounds are separated by a line break.
                if self._text_round not in (0, event.round) and self.text_chunks:
                    self._say("\n")
                self._text_round = event.round
                self._say(event.text)
            case ThoughtDelta():
                self.context.reason(event.text, False)
            case RoundFinished():
                self._round.finished = event
                # Replayed rounds were logged before the crash and are not logged again.
                if not event.is_known:
                    self._log_round(event)
                    self._think()
            case ToolStarted():
                self._log_call(event)
            case ToolFinished():
                # Replayed results count too: a round ends when all calls have one.
                self._round.results[event.call.id] = event
                # Values of tools that return structured data are part of the node's
                # `json` output.
                self._values += event.values
                if event.is_known:
                    return
                self._log_result(event)
                finished = self._round.finished
                # The thought is complete when the round's last tool call has finished.
                if finished is not None and len(self._round.results) == len(
                    finished.calls
                ):
                    self._think()
            case _:
                pass

    def _say(self, text: str) -> None:
        """Append to the answer and stream it."""
        self.text_chunks.append(text)
        self.context.stream("text", text, False)

    def _id(self, entry_name: str) -> str:
        """Return a stable id of a log entry, the same after a crash."""
        # Without its number, a later attempt would overwrite the entries of an earlier.
        name = f"{self.attempt}.{entry_name}" if self.attempt else entry_name
        return str(uuid.uuid5(uuid.UUID(self.context.execution_id), name))

    def _think(self) -> None:
        """Emit the current round as an agent thought, in the format of Dify's chat API."""
        finished_round, results = self._round.finished, self._round.results
        if finished_round is None:
            return
        # Labels default to the tool's name.
        self.context.emit(
            NodeRunAgentThought(
                **self.node.event_fields(self.context.execution_id),
                at=self.context.run.now(),
                thought_id=self._round.id,
                position=finished_round.round,
                thought=finished_round.thought or finished_round.text,
                tool=";".join(call.name for call in finished_round.calls),
                tool_labels={
                    call.name: call.label or {"en_US": call.name, "zh_Hans": call.name}
                    for call in finished_round.calls
                },
                tool_input=_by_name(
                    [(call.name, _arguments(call)) for call in finished_round.calls]
                ),
                observation=(
                    _by_name(
                        [
                            (call.name, results[call.id].observation)
                            for call in finished_round.calls
                            if call.id in results
                        ]
                    )
                    if results
                    else ""
                ),
                files=[
                    file
                    for call in finished_round.calls
                    if call.id in results
                    for file in results[call.id].files
                ],
                text=finished_round.text,
                calls=[
                    AgentToolCall(
                        name=call.name,
                        arguments=call.arguments,
                        observation=(
                            results[call.id].observation if call.id in results else None
                        ),
                    )
                    for call in finished_round.calls
                ],
            )
        )
        # Sources of all tool calls in this round are shown together.
        sources = [source for result in results.values() for source in result.sources]
        if sources:
            self.context.emit(
                NodeRunRetrieverResource(
                    **self.node.event_fields(self.context.execution_id),
                    at=self.context.run.now(),
                    retriever_resources=sources,
                    context="",
                )
            )

    def _log(self, name: str, **changes: Any) -> None:
        """Create or update a log entry and emit it."""
        # The first call with a name creates the entry; later calls update it.
        entry = self.logs.setdefault(
            name,
            {
                "id": self._id(name),
                "parent_id": None,
                "label": "",
                "status": "start",
                "error": None,
                "data": {},
                "metadata": {},
            },
        )
        entry.update(changes)
        self.context.emit(
            NodeRunAgentLog(
                **self.node.event_fields(self.context.execution_id),
                at=self.context.run.now(),
                message_id=entry["id"],
                **{key: entry[key] for key in entry if key != "id"},
            )
        )

    def _log_round(self, event: RoundFinished) -> None:
        """Log a round and its thought. A round without tool calls is finished with it."""
        number = event.round
        usage = metadata_of(event.usage)
        times = {
            "started_at": event.started_at,
            "finished_at": event.at,
            "elapsed_time": event.at - event.started_at,
        }
        parent = self._id(f"round{number}")
        self._log(
            f"round{number}",
            label=f"ROUND {number}",
            metadata={"started_at": event.started_at},
        )
        self._log(
            f"thought{number}",
            parent_id=parent,
            label=f"{event.model} Thought",
            status="success",
            data={
                "output": event.text or event.thought,
                "tool_calls": [
                    {"id": call.id, "name": call.name, "args": _arguments(call)}
                    for call in event.calls
                ],
            },
            metadata={**times, **usage},
        )
        # A round without tool calls ends the loop, so its entry is complete.
        if not event.calls:
            self._log(
                f"round{number}",
                status="success",
                data={"output": {"llm_response": event.text}},
                metadata={**times, **usage},
            )

    def _log_call(self, event: ToolStarted) -> None:
        """Log that a tool call started."""
        call = event.call
        self._log(
            f"call{event.round}.{call.id}",
            parent_id=self._id(f"round{event.round}"),
            label=f"CALL {call.name}",
            data={"input": _arguments(call)},
            metadata={"started_at": event.at, "provider": call.provider},
        )

    def _log_result(self, event: ToolFinished) -> None:
        """Log a tool's result; the last one of the round finishes the round's entry."""
        name = f"call{event.round}.{event.call.id}"
        # The start time was recorded with the call.
        start_metadata = self.logs.get(name, {}).get("metadata", {})
        metadata = {
            **start_metadata,
            "finished_at": event.at,
            "elapsed_time": event.seconds,
        }
        self._log(
            name,
            status="error" if event.error else "success",
            error=event.observation if event.error else None,
            data={
                "input": event.arguments or _arguments(event.call),
                "output": event.observation,
            },
            metadata=metadata,
        )
        finished = self._round.finished
        if finished is not None and len(self._round.results) == len(finished.calls):
            outputs = {
                result.call.name: result.observation
                for result in self._round.results.values()
            }
            self._log(f"round{event.round}", status="success", data={"output": outputs})

    def _result(self, finished: AgentFinished, inputs: Mapping[str, Any]) -> NodeResult:
        """Return the node result of a finished loop."""
        text = "".join(self.text_chunks)
        # Some strategies give their text only at the end, without deltas.
        if not text and finished.text:
            self._say(finished.text)
            text = finished.text
        # The text stream ends even if it was empty.
        self.context.stream("text", "", True)
        usage = dump_usage(finished.usage)
        files = [from_object(file) for file in finished.files]
        outputs: dict[str, Any] = {
            "text": text,
            "files": files,
            "json": [*self.logs.values(), *self._values],
            "usage": usage,
        }
        # Present only if the loop returned a structured value.
        if finished.value is not None:
            outputs["structured_output"] = finished.value
        summary = {
            "strategy": self.strategy,
            "rounds": finished.rounds,
            "tool_calls": finished.tool_calls,
            "tool_errors": finished.tool_errors,
            "ended_by": finished.reason,
        }
        return NodeResult(
            inputs=dict(inputs),
            outputs=outputs,
            process_data=summary,
            metadata={
                **metadata_of(finished.usage),
                "agent_log": list(self.logs.values()),
                "agent": summary,
            },
        )


class MissingTool(Tool):
    """Placeholder of a tool that the app names but that is not available; each call
    reports the reason to the model."""

    def __init__(self, ref: ToolRef, reason: str) -> None:
        self.entity = ToolEntity(
            name=ref.alias or ref.name,
            provider=ref.provider,
            kind=ref.kind,
            description=ref.description or ref.name,
            schema={"type": "object", "properties": {}},
        )
        self.reason = reason

    async def invoke(
        self, parameters: Mapping[str, Any], context: ToolContext
    ) -> AsyncGenerator[Message, None]:
        """Raise ToolNotFoundError with the reason."""
        raise ToolNotFoundError(self.reason)
        # Unreachable; the `yield` makes this function a generator as the interface
        # requires.
        yield {}


def _config(model_value: Any) -> ModelConfig:
    """Return the parameter `model` as a model configuration. Raises NodeError."""
    if not is_mapping(model_value):
        return ModelConfig()
    return ModelConfig(
        provider=str(model_value.get("provider") or ""),
        name=str(model_value.get("model") or model_value.get("name") or ""),
        mode=str(model_value.get("mode") or "chat"),
        completion_params=dict(model_value.get("completion_params") or {}),
    )


def _text(value: Any) -> str:
    """Return the value as text; empty for None."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def _arguments(call: AgentCall) -> Any:
    """Return the call's arguments as parsed JSON, or as the model's raw text if they
    are invalid."""
    try:
        return decode_body(call.arguments) if call.arguments else {}
    except BodyError:
        return call.arguments


def _by_name(values: Sequence[tuple[str, Any]]) -> str:
    """Return a JSON object of the pairs; an empty text if there are none."""
    # This text is only shown, so a value that JSON lacks must not fail the run.
    return json.dumps(dict(values), ensure_ascii=False, default=str) if values else ""
