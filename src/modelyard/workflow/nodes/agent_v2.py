"""Agent node of version 2: gives a task to an agent that a package of the file, or
another app, describes, and returns the outputs that the node declares.

An execution has these steps:

1. Find the agent: the package that the file's parser has bound to the node, or the one
   of an app by its id. Without one the node fails.
2. Write the instruction and the message. A message that would ask nothing is an error;
   no model is called for it.
3. Run the agent's loop with its tools, its knowledge and, if it has contacts, the tool
   that asks a person. The run pauses while a form is open, and repeats nothing that is
   recorded when it goes on.
4. Check the declared outputs, and run the loop again while their strategies say so. Each
   of these attempts has recorded steps and forms of its own.
5. Without declared outputs the results are `text`, `files` and `json`. An agent that
   returns neither a text nor a file has failed.

An app of mode `agent` is a graph with such a node: its message is the user's, and it
remembers the conversation.

Source: langgenius/dify, api/core/workflow/nodes/agent_v2 (behaviour),
api/models/agent_config_entities.py (defaults).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.agents.events import AgentCall, ApprovalNeeded
from modelyard.agents.loop import StructuredAnswerError
from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.json_types import EMPTY_OBJECT, is_mapping
from modelyard.tools.entities import Tool, model_safe_name
from modelyard.tools.manager import ToolRef
from modelyard.workflow.agent_execution import BuiltInStrategy, MissingTool
from modelyard.workflow.agent_messages import (
    MissingOutputError,
    TaskMessage,
    instruction_of,
    previous_nodes,
    task_message,
)
from modelyard.workflow.agent_packages import (
    AgentJobData,
    AgentPackage,
    contacts_of,
    describe_missing_agent,
    model_of,
    provider_tools,
    tool_definitions,
)
from modelyard.workflow.ask_human import (
    FORM_SECONDS,
    TOOL_NAME,
    AskHumanTool,
    form_of,
    subject_of,
)
from modelyard.workflow.dataset_tools import (
    KnowledgeSetTool,
    retrieval_of,
    text_of_segments,
)
from modelyard.workflow.declared_outputs import (
    OutputFailure,
    check_outputs,
    default_values,
    describe_failures,
    retries_of,
    schema_note,
    schema_of_outputs,
)
from modelyard.workflow.form_mail import FormMail, clean_subject
from modelyard.workflow.node import (
    Effect,
    Node,
    NodeContext,
    NodeError,
    NodePaused,
    NodeResult,
)
from modelyard.workflow.prompts import files_in
from modelyard.workflow.template import render, selectors_in
from modelyard.workflow.variables import File

_FENCE = "```"
_MAX_ITERATIONS = 50
"""Turns with tools. Dify's runtime (Pydantic AI) allows as many requests by default."""


class AgentJobNode(Node):
    """Runs an agent of a package with a task."""

    type = "agent"
    Data = AgentJobData

    @property
    def effect(self) -> Effect:
        """Tools may act outside, so a repetition may have effects."""
        return Effect.REPEATABLE

    async def run(self, context: NodeContext) -> NodeResult:
        """Run the agent, again if its outputs do not fit and their strategy says so.
        Raises NodeError, or NodePaused while the agent waits for a person."""
        parameters = await self._parameters(context)
        # Ends, because the retries of an output are bounded.
        attempt = 0
        while True:
            execution = _JobExecution(self, context, parameters, attempt)
            result, failures = await execution.run_checked()
            if not failures:
                return result
            retries, pause = retries_of(failures)
            # The last attempt decides what follows.
            if attempt >= retries:
                return _after_failures(result, failures)
            attempt += 1
            await context.run.sleep(pause)

    async def _parameters(self, context: NodeContext) -> dict[str, Any]:
        """Return the settings of the agent's loop. Raises NodeError."""
        package = await self._package(context)
        message = self._message(context)
        instruction = instruction_of(package, context.pool)
        knowledge = await _knowledge_of_author(package, context)
        # The task may name files that the user's message has as well.
        files = _distinct([*message.files, *files_in(context.value(["sys", "files"]))])
        _check_message(message, instruction, files)
        # Without a schema the answer is free text, which can be streamed.
        outputs = self.data.agent_job.declared_outputs
        schema = schema_of_outputs(outputs) if outputs else None
        notes = [instruction, knowledge, schema_note(schema) if schema else ""]
        return {
            "package": package,
            "model": model_of(package.soul),
            "tools": tool_definitions(package.soul),
            "instruction": "\n\n".join(note for note in notes if note),
            "query": message.text,
            "files": [file.to_object() for file in files],
            "schema": schema,
            "maximum_iterations": _MAX_ITERATIONS,
        }

    async def _package(self, context: NodeContext) -> AgentPackage:
        """Return the agent: a package of the file, or another app's. Raises NodeError."""
        data: AgentJobData = self.data
        # A package of the file is found by the parser.
        if data.package is not None:
            return data.package
        binding, agents = data.agent_binding, context.services.agent_apps
        if binding is not None and binding.agent_id and agents is not None:
            package = await agents.package(binding.agent_id)
            if package is not None:
                return package
        raise NodeError(
            describe_missing_agent(binding), error_type="AgentNotFoundError"
        )

    def _message(self, context: NodeContext) -> TaskMessage:
        """Return the message to the agent. Raises NodeError."""
        data: AgentJobData = self.data
        # The agent of an app gets what the user has written, and nothing else.
        if data.query:
            return TaskMessage(text=render(data.query, context.pool))
        try:
            return task_message(data.agent_job, context.pool)
        except MissingOutputError as error:
            raise NodeError(
                f"The task refers to {str(error)!r}, which no earlier step has returned",
                error_type="AgentTaskInputMissing",
            ) from error

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selectors that the task and the message read."""
        data: AgentJobData = self.data
        return [*selectors_in(data.query), *previous_nodes(data.agent_job)]


def _distinct(files: Sequence[File]) -> list[File]:
    """Return the files in order, each once."""
    return list(dict.fromkeys(files))


def _check_message(
    message: TaskMessage, instruction: str, files: Sequence[File]
) -> None:
    """Raise NodeError if a model would be asked nothing."""
    if message.is_general and not (instruction or files):
        problem = (
            "The agent has neither a prompt nor a task, so there is nothing to ask it"
        )
        raise NodeError(problem, error_type="AgentPromptMissing")
    if not message.text.strip() and not files:
        raise NodeError("The message is empty", error_type="AgentMessageEmpty")


async def _knowledge_of_author(package: AgentPackage, context: NodeContext) -> str:
    """Return what the knowledge sets hold for whose query the author wrote."""
    datasets = context.services.datasets
    texts: list[str] = []
    for knowledge_set in package.soul.knowledge.sets:
        query = knowledge_set.query
        # Sets with a query of the model are tools instead.
        if query.mode != "user_query" or not query.value or datasets is None:
            continue
        segments = await datasets.retrieve(
            render(query.value, context.pool),
            retrieval_of(knowledge_set),
            files=(),
        )
        if segments:
            texts.append(f"From {knowledge_set.name}:\n{text_of_segments(segments)}")
    return "\n\n".join(texts)


def _after_failures(
    result: NodeResult, failures: Sequence[OutputFailure]
) -> NodeResult:
    """Return the result with default values in place of the outputs that do not fit.
    Raises NodeError unless all of them have one."""
    defaults = default_values(failures)
    if defaults is None:
        raise NodeError(
            f"The agent's outputs do not fit: {describe_failures(failures)}",
            error_type="AgentOutputError",
            inputs=result.inputs,
            process_data=result.process_data,
        )
    result.outputs |= defaults
    return result


class _JobExecution(BuiltInStrategy):
    """One attempt at a task."""

    def __init__(
        self,
        node: AgentJobNode,
        context: NodeContext,
        parameters: Mapping[str, Any],
        attempt: int,
    ) -> None:
        # The parameters are shown with the node; the package is no parameter.
        loop_parameters = {
            name: value for name, value in parameters.items() if name != "package"
        }
        super().__init__(node, context, loop_parameters, "function_calling", attempt)
        self._package: AgentPackage = parameters["package"]
        self._contacts = contacts_of(self._package.soul, node.data.agent_job)
        self._answers: dict[str, Mapping[str, Any]] = {}

    async def run_checked(self) -> tuple[NodeResult, list[OutputFailure]]:
        """Run the agent; return its result and the outputs that do not fit. Raises
        NodeError, or NodePaused while the agent waits for a person."""
        declared = self.node.data.agent_job.declared_outputs
        try:
            result = await self.run()
        except NodeError as error:
            if not self._has_unfit_answer(error):
                raise
            # What fits in the first answer counts; the rest is missing.
            value = _object_in("".join(self.text_chunks))
            outputs, failures = check_outputs(declared, value, [])
            if not failures:
                raise
            return NodeResult(outputs=outputs, inputs=error.inputs), failures
        if not declared:
            return self._free_result(result), []
        files = [file for file in result.outputs["files"] if isinstance(file, File)]
        value = result.outputs.get("structured_output")
        outputs, failures = check_outputs(declared, value, files)
        # A declared output of this name replaces the usage.
        result.outputs = {"usage": result.outputs["usage"], **outputs}
        return result, failures

    def _has_unfit_answer(self, error: NodeError) -> bool:
        """Return whether the agent has answered, but not as its outputs require, even
        after it was asked for that once more."""
        last_turn = self._round.finished
        has_answered = last_turn is not None and not last_turn.calls
        # A runtime that checks answers against schemas itself has its own error.
        return has_answered and isinstance(
            error.__cause__, StructuredAnswerError | InvokeServerUnavailableError
        )

    def _free_result(self, result: NodeResult) -> NodeResult:
        """Return the result of a node without declared outputs: text, files and json.
        Raises NodeError if the agent has answered nothing."""
        text, files = result.outputs["text"], result.outputs["files"]
        if not text.strip() and not files:
            raise NodeError(
                "The agent gave no answer (it ended by"
                f" {result.process_data.get('ended_by')!r})",
                error_type="AgentAnswerMissing",
                inputs=result.inputs,
                process_data=result.process_data,
            )
        result.outputs = {**result.outputs, "json": _object_in(text)}
        return result

    # Tools

    async def _tools(self) -> list[Tool]:
        """Return the agent's tools: its own, those of whole providers, its knowledge
        and the question to a person; of several with one name only the first."""
        tools = [
            *await super()._tools(),
            *await self._tools_of_providers(),
            *self._knowledge_tools(),
        ]
        if self._contacts:
            people = [contact.title for contact in self._contacts]
            tools.append(AskHumanTool(people, self._answers))
        # Two tools of one name would confuse the model, and most APIs refuse them.
        by_name: dict[str, Tool] = {}
        for tool in tools:
            by_name.setdefault(tool.name, tool)
        return list(by_name.values())

    async def _tools_of_providers(self) -> list[Tool]:
        """Return the tools of the providers that the agent has as a whole."""
        services = self.context.services.tools
        tools: list[Tool] = []
        for entry in provider_tools(self._package.soul):
            kind, provider = entry.provider_type, entry.provider_path
            # The tools may have changed since the file was exported.
            refs: Sequence[ToolRef] = (
                await services.of_provider(kind, provider) if services else ()
            )
            tools += [await self._bind_tool(ref) for ref in refs]
            if not refs:
                name = model_safe_name(provider.rpartition("/")[2])
                missing = ToolRef(kind=kind, provider=provider, name=name)
                tools.append(MissingTool(missing, f"No tools of {provider!r} exist"))
        return tools

    def _knowledge_tools(self) -> list[Tool]:
        """Return a tool for each knowledge set whose query the model writes."""
        datasets = self.context.services.datasets
        if datasets is None:
            return []
        # Sets with the user's query are searched before the model is called.
        knowledge_sets = self._package.soul.knowledge.sets
        own_query = [item for item in knowledge_sets if item.query.mode != "user_query"]
        return [KnowledgeSetTool(datasets, item) for item in own_query]

    # People

    async def _approve(self, calls: Sequence[AgentCall]) -> Mapping[str, str] | None:
        """Return each call's refusal reason, empty if it may run; None while a form is
        open. Questions are never refused: their tool returns what was answered."""
        questions = [call for call in calls if call.name == TOOL_NAME]
        others = [call for call in calls if call.name != TOOL_NAME]
        refusals: Mapping[str, str] | None = (
            await super()._approve(others) if others else EMPTY_OBJECT
        )
        # All answers are read, also if another form is still open.
        for call in questions:
            await self._read_answer(call)
        # Without forms the tool tells the model that nobody can be asked.
        waits = self.context.services.forms is not None and any(
            call.id not in self._answers for call in questions
        )
        return None if waits else refusals

    async def _read_answer(self, call: AgentCall) -> None:
        """Read the answer to a question, for its tool; nothing while the form is open."""
        forms = self.context.services.forms
        # An earlier turn may have had a call of the same id.
        self._answers.pop(call.id, None)
        answer = await forms.answer(self._form_key(call)) if forms is not None else None
        if answer is not None:
            self._answers[call.id] = answer

    async def _pause_for_approval(self, event: ApprovalNeeded) -> None:
        """Publish the forms of all calls that wait for a person. Raises NodePaused."""
        questions = [call for call in event.calls if call.name == TOOL_NAME]
        others = [call for call in event.calls if call.name != TOOL_NAME]
        # A pause may have several forms, of several calls in one turn.
        reasons: list[dict[str, Any]] = []
        if others and await super()._approve(others) is None:
            reasons.append(await self._publish_approval(others))
        reasons += [
            await self._publish_question(call)
            for call in questions
            if call.id not in self._answers
        ]
        raise NodePaused(*reasons)

    async def _publish_question(self, call: AgentCall) -> dict[str, Any]:
        """Publish the form of a question; return the reason of the pause."""
        # Invalid arguments give an empty question, which a person can still answer.
        arguments = _object_in(call.arguments)
        return await self._publish_form(
            self._form_key(call),
            form_of(arguments),
            FORM_SECONDS,
            self._question_mails(arguments),
        )

    def _question_mails(self, arguments: Mapping[str, Any]) -> list[FormMail]:
        """Return the mail about a question to the contacts with an address."""
        # A person may be a contact of the package and of the task.
        addresses = list(
            dict.fromkeys(contact.mail_address for contact in self._contacts)
        )
        addresses = [address for address in addresses if address]
        if not addresses:
            return []
        # A model's text is data: it has no references and no links of its own.
        question = str(arguments.get("question") or "")
        return [
            FormMail(
                subject=clean_subject(subject_of(arguments)),
                body=[f"{question}\n\n", None],
                addresses=addresses,
            )
        ]


def _object_in(text: str) -> dict[str, Any]:
    """Return the JSON object that a text consists of, possibly in a code fence; empty
    for any other text."""
    content = text.strip()
    if content.startswith(_FENCE):
        content = content.removeprefix(_FENCE).removesuffix(_FENCE)
        content = content.removeprefix("json").strip()
    if not content.startswith("{"):
        return {}
    try:
        value = decode_body(content)
    except BodyError:
        return {}
    return dict(value) if is_mapping(value) else {}


NODES = {"agent@2": AgentJobNode}
