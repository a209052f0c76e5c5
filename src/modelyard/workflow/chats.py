"""Chats: a message starts a run, the run's text is the answer, and the conversation
stores both."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.json_types import is_mapping
from modelyard.workflow.apps import AppRecord
from modelyard.workflow.conversation_variables import RunValues, merge_run
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunAgentThought,
    NodeRunRetrieverResource,
    NodeRunSucceeded,
)
from modelyard.workflow.features import AdmittedTurn, Features, InterceptedTurn
from modelyard.workflow.file_rules import rules_of_features
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.start import FormField, form_of, storable_inputs
from modelyard.workflow.run_record import HIDES_SOURCES
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles, form_value
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.storable import storable_text
from modelyard.workflow.variables import CONVERSATION, VariablePool, to_object

# Dify's parent of a conversation's first message.
_NO_PARENT_ID = "00000000-0000-0000-0000-000000000000"
DEFAULT_CONVERSATION_NAME = "New conversation"


class Chats:
    """Starts runs for messages and stores conversations."""

    def __init__(
        self,
        runs: Runs,
        conversations: Conversations,
        files: Callable[[str, str], TenantFiles],
        clock: Callable[[], float] = time.time,
        features: Features | None = None,
    ) -> None:
        self._features = features
        self._naming_tasks: set[asyncio.Task[None]] = set()
        self._runs = runs
        self._conversations = conversations
        self._files = files
        self._clock = clock
        runs.on_end(self._run_ended)

    # Workflows

    async def run(
        self,
        app_record: AppRecord,
        app: App,
        *,
        inputs: Mapping[str, Any],
        user: str,
        files: Sequence[Any] = (),
        root: str = "",
        depth: int = 0,
        created_from: str = "service-api",
        is_varied: bool = False,
        run_id: str = "",
    ) -> RunRecord:
        """Start a run outside of any conversation. Raises InputError and
        InvokeBadRequestError.

        `is_varied` asks for a different answer to the same input, with a higher model
        temperature. `run_id` makes the call idempotent: a run with this id is started
        only once.
        """
        run_id, current_time = run_id or new_run_id(), self._clock()
        inputs = storable_inputs(inputs)
        admission = await self._apply_features(
            app_record, app, str(inputs.get("query") or ""), inputs, user
        )
        if isinstance(admission, AdmittedTurn):
            inputs = _moderated_inputs(inputs, admission)
        attached = await self._attach_files(app_record.tenant, app, user, files)
        system: dict[str, Any] = {
            "files": attached,
            **_identifiers(app_record, user, run_id),
            "timestamp": int(current_time),
        }
        if is_varied:
            system["varied"] = True
        if _hides_sources(app):
            system[HIDES_SOURCES] = True
        # Completion apps answer with a message, although they have no conversation.
        has_message = app.mode == "completion"
        if has_message:
            system["query"] = str(inputs.get("query") or "")
        record = RunRecord(
            tenant=app_record.tenant,
            id=run_id,
            app=app_record.id,
            digest=app_record.stored.digest,
            mode=app.mode,
            root=root,
            user=user,
            inputs=await self._resolve_inputs(
                app, root, inputs, app_record.tenant, user
            ),
            system=system,
            depth=depth,
            message=str(uuid.uuid4()) if has_message else "",
            created_at=current_time,
            created_from=created_from,
        )
        if not has_message:
            return await self._start_run(app, record, admission)
        message = _running_message(record, system["query"], inputs, attached)
        return await self._record_message(app, record, admission, message)

    async def _apply_features(
        self,
        app_record: AppRecord,
        app: App,
        query: str,
        inputs: Mapping[str, Any],
        user: str,
    ) -> "InterceptedTurn | AdmittedTurn | None":
        """Apply the features that act before a run, for example moderation. None if the
        app has no features."""
        if self._features is None:
            return None
        return await self._features.apply_before_run(
            app_record,
            app,
            query=query,
            inputs=inputs,
            user=user,
        )

    async def _start_run(
        self,
        app: App,
        record: RunRecord,
        admission: "InterceptedTurn | AdmittedTurn | None",
    ) -> RunRecord:
        """Start the run. If a feature has already answered, the run only emits that
        text."""
        if not isinstance(admission, InterceptedTurn):
            return await self._runs.start(app, record)
        system = {
            **record.system,
            "intercepted": True,
            "annotation": admission.annotation,
        }
        return await self._runs.record_answer(
            msgspec.structs.replace(record, system=system), admission.text
        )

    async def _record_message(
        self,
        app: App,
        record: RunRecord,
        admission: "InterceptedTurn | AdmittedTurn | None",
        message: Message,
    ) -> RunRecord:
        """Store a message and start the run that answers it. If the start fails, the
        message is marked as failed."""
        await self._conversations.add_message(message)
        try:
            return await self._start_run(app, record, admission)
        # Whatever the error is: a message without an end would look like one that is
        # still being answered.
        except Exception as error:
            await self._conversations.set_answer(
                record.tenant,
                message.id,
                "",
                {},
                status="error",
                error=str(error),
            )
            raise

    # Messages

    async def send(
        self,
        app_record: AppRecord,
        app: App,
        *,
        query: str,
        inputs: Mapping[str, Any],
        user: str,
        conversation_id: str = "",
        files: Sequence[Any] = (),
        created_from: str = "service-api",
        depth: int = 0,
        names: bool = False,
    ) -> tuple[RunRecord, Conversation]:
        """Send a message to an app; the answer is the text of the returned run. With
        `names` a model names a new conversation.

        Raises NotFoundError, InputError, InvokeBadRequestError, WorkflowError.
        """
        current_time = self._clock()
        query, inputs = storable_text(query), storable_inputs(inputs)
        conversation = await self._conversation(
            app_record, app, query, inputs, user, conversation_id
        )
        previous_messages = await self._conversations.list_messages(
            app_record.tenant, conversation.id, limit=500
        )
        run_inputs = dict(inputs)
        # A conversation keeps the inputs with which it started.
        if conversation_id and conversation.inputs:
            run_inputs = conversation.inputs
        admission = await self._apply_features(app_record, app, query, run_inputs, user)
        # The message stores the original question; the run gets the moderated one.
        run_query = query
        if isinstance(admission, AdmittedTurn):
            run_inputs, run_query = admission.inputs, admission.query
        run_id = new_run_id()
        attached = await self._attach_files(app_record.tenant, app, user, files)
        system = {
            "query": run_query,
            "files": attached,
            "conversation_id": conversation.id,
            "dialogue_count": len(previous_messages) + 1,
            **_identifiers(app_record, user, run_id),
            **({HIDES_SOURCES: True} if _hides_sources(app) else {}),
        }
        record = RunRecord(
            tenant=app_record.tenant,
            id=run_id,
            app=app_record.id,
            digest=app_record.stored.digest,
            mode=app.mode,
            user=user,
            inputs=await self._resolve_inputs(
                app, "", run_inputs, app_record.tenant, user
            ),
            system=system,
            conversation=conversation.id,
            message=str(uuid.uuid4()),
            variables={
                name: variable.get("value")
                for name, variable in conversation.variables.items()
            },
            created_at=current_time,
            created_from=created_from,
            depth=depth,
        )
        # Messages are listed newest first.
        parent = previous_messages[0].id if previous_messages else _NO_PARENT_ID
        message = _running_message(record, query, inputs, attached, parent)
        run = await self._record_message(app, record, admission, message)
        # Only the first message names a conversation.
        if names and not previous_messages and query:
            self._schedule_naming(conversation, query)
        return run, conversation

    def _schedule_naming(self, conversation: Conversation, query: str) -> None:
        """Have a model name the conversation, in parallel with the answer."""

        task = asyncio.ensure_future(self._name(conversation, query))
        # The event loop holds only weak references to tasks, so the set keeps them
        # alive.
        self._naming_tasks.add(task)
        task.add_done_callback(self._naming_tasks.discard)

    async def _name(self, conversation: Conversation, query: str) -> None:
        """Ask a model for the conversation's name and store it. A failure leaves the
        default name."""
        if self._features is None:
            return
        tenant, user = conversation.tenant, conversation.user
        title = await self._features.conversation_title(tenant, user, query)
        if title:
            with suppress(ModelyardError):
                await self._conversations.rename(conversation, title)

    async def aclose(self) -> None:
        """Cancel naming tasks that are still running."""
        for task in list(self._naming_tasks):
            task.cancel()
        await asyncio.gather(*self._naming_tasks, return_exceptions=True)

    async def _conversation(
        self,
        app_record: AppRecord,
        app: App,
        query: str,
        inputs: Mapping[str, Any],
        user: str,
        name: str,
    ) -> Conversation:
        """Return the named conversation or start a new one. Raises NotFoundError."""
        if name:
            try:
                existing_conversation = await self._conversations.find(
                    app_record.tenant, app_record.id, user, name
                )
            except NotFoundError:
                # A chatflow starts a new conversation instead: Dify's clients rely on
                # it.
                if app.mode != "advanced-chat":
                    raise
            else:
                return msgspec.structs.replace(
                    existing_conversation,
                    variables=self._merge_variables(
                        app, existing_conversation.variables
                    ),
                )
        current_time = self._clock()
        new_conversation = Conversation(
            tenant=app_record.tenant,
            # Clients of Dify's API expect a UUID here.
            id=str(uuid.uuid4()),
            app=app_record.id,
            user=user,
            name=_default_name(query) if query else DEFAULT_CONVERSATION_NAME,
            inputs=dict(inputs),
            variables=self._merge_variables(app, {}),
            created_at=current_time,
            updated_at=current_time,
        )
        await self._conversations.start(new_conversation)
        return new_conversation

    def _merge_variables(
        self, app: App, existing_variables: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return the conversation's variables. Those added to the app since then start
        with their declared value."""
        variables = dict(existing_variables)
        for declared_variable in app.conversation:
            variables.setdefault(
                declared_variable.name,
                {
                    "id": declared_variable.id or str(uuid.uuid4()),
                    "value": declared_variable.value,
                    "value_type": declared_variable.value_type,
                    "description": declared_variable.description,
                    "updated_at": self._clock(),
                },
            )
        return variables

    # Files

    def files_of(self, tenant: str, user: str = "") -> TenantFiles:
        """Return the file service of a tenant; without `user`, not bound to any."""
        return self._files(tenant, user)

    async def _attach_files(
        self, tenant: str, app: App, user: str, files: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return the files of a request as objects for a run, checked for this user and
        by the app's restrictions. Raises InputError or InvokeBadRequestError."""
        rules = rules_of_features(app.features)
        parsed = await self._files(tenant, user).parse_files(files, rules)
        return [file.to_object() for file in parsed]

    async def _resolve_inputs(
        self, app: App, root: str, inputs: Mapping[str, Any], tenant: str, user: str
    ) -> dict[str, Any]:
        """Return the inputs with file inputs resolved. Inputs that the form does not
        declare are passed on for triggers."""
        node = app.graph(root).nodes[root or app.roots[0]]
        forms: dict[str, FormField] = {
            variable.variable: variable for variable in form_of(node)
        }
        keeper = self._files(tenant, user)
        run_inputs: dict[str, Any] = {}
        for name, value in inputs.items():
            form_field = forms.get(name)
            if form_field is not None:
                value = await form_value(keeper, form_field, value)
            run_inputs[name] = value
        return run_inputs

    # Ends of runs

    async def _run_ended(
        self,
        run: RunRecord,
        pool: VariablePool,
        response_text: str,
        events: Sequence[AnyEvent],
    ) -> None:
        """Store the results of a run: the conversation's variables and the answer."""
        if run.conversation:
            await self._save_variables(run, pool)
        # A paused run has not answered yet.
        if run.message and run.status is not Status.PAUSED:
            failed = run.status is Status.FAILED
            usage = {
                **_total_usage(events),
                "total_tokens": run.total_tokens,
                "total_price": str(run.total_price),
            }
            metadata = {"usage": usage, **_message_metadata(run, events)}
            status = {Status.FAILED: "error", Status.STOPPED: "stopped"}.get(
                run.status, "normal"
            )
            await self._conversations.set_answer(
                run.tenant,
                run.message,
                response_text,
                metadata,
                status=status,
                error=run.error if failed else "",
            )

    async def _save_variables(self, run: RunRecord, pool: VariablePool) -> None:
        """Merge what the run has changed into the conversation's variables."""
        values = pool.node_variables(CONVERSATION)
        left = RunValues(
            run=run.id,
            is_paused=run.status is Status.PAUSED,
            start=run.variables,
            values={name: to_object(value) for name, value in values.items()},
            types={
                name: pool.declared.get((CONVERSATION, name), "string")
                for name in values
            },
        )
        await self._conversations.change_variables(
            run.tenant,
            run.conversation,
            lambda stored: merge_run(stored, left, self._clock()),
        )


def _moderated_inputs(
    inputs: Mapping[str, Any], admission: AdmittedTurn
) -> dict[str, Any]:
    """Return the inputs after input moderation, which may have rewritten them."""
    moderated_inputs = dict(admission.inputs)
    if "query" in inputs:
        moderated_inputs["query"] = admission.query
    return moderated_inputs


def _hides_sources(app: App) -> bool:
    """Return whether the app's file switches off that answers show their sources."""
    feature = app.features.get("retriever_resource")
    return is_mapping(feature) and feature.get("enabled") is False


def _identifiers(app_record: AppRecord, user: str, run_id: str) -> dict[str, Any]:
    """Return the `sys.*` variables that identify the user, the app and the run."""
    return {
        "user_id": user,
        "app_id": app_record.id,
        "workflow_id": workflow_id(app_record),
        "workflow_run_id": run_id,
    }


def _running_message(
    run: RunRecord,
    query: str,
    inputs: Mapping[str, Any],
    files: list[dict[str, Any]],
    parent: str = "",
) -> Message:
    """Return the message that a run answers, without its answer. `parent` is the id of
    the previous message in the conversation."""
    return Message(
        tenant=run.tenant,
        id=run.message,
        app=run.app,
        user=run.user,
        conversation=run.conversation,
        parent=parent,
        run=run.id,
        query=query,
        inputs=dict(inputs),
        files=files,
        status="running",
        created_at=run.created_at,
        source=run.created_from,
    )


def _total_usage(events: Sequence[AnyEvent]) -> dict[str, Any]:
    """Return the token usage and latency of all nodes together."""
    totals: dict[str, float] = {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "latency": 0.0,
    }
    currency = "USD"
    for event in events:
        if not isinstance(event, NodeRunSucceeded):
            continue
        usage: Any = event.outputs.get("usage")
        if not is_mapping(usage):
            continue
        for name in totals:
            value = usage.get(name)
            totals[name] += value if isinstance(value, int | float) else 0
        currency = str(usage.get("currency") or currency)
    return {**totals, "currency": currency}


def _message_metadata(run: RunRecord, events: Sequence[AnyEvent]) -> dict[str, Any]:
    """Return the metadata of a message: cited sources and an agent's thoughts."""
    resources: list[dict[str, Any]] = []
    thoughts: dict[str, dict[str, Any]] = {}
    # The service API shows the thoughts, which have one call for each tool's name.
    rounds: dict[str, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, NodeRunRetrieverResource):
            resources += event.retriever_resources
        elif isinstance(event, NodeRunAgentThought):
            # Later events of the same thought replace earlier ones.
            rounds[event.thought_id] = {
                "text": event.text,
                "calls": msgspec.to_builtins(event.calls),
            }
            thoughts[event.thought_id] = {
                "id": event.thought_id,
                "chain_id": None,
                "message_id": run.message,
                "position": event.position,
                "thought": event.thought,
                "tool": event.tool,
                "tool_labels": event.tool_labels,
                "tool_input": event.tool_input,
                "observation": event.observation,
                "created_at": int(event.at),
                "files": [
                    str(file.get("related_id") or file.get("remote_url") or "")
                    for file in event.files
                ],
            }
    metadata: dict[str, Any] = {}
    if sources := _numbered_sources(run, resources):
        metadata["retriever_resources"] = sources
    if thoughts:
        metadata["agent_thoughts"] = list(thoughts.values())
        metadata["agent_rounds"] = list(rounds.values())
    return metadata


def _numbered_sources(
    run: RunRecord, resources: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what an answer cites, numbered from 1; nothing if the app hides it."""
    # The stored message is shown too, so it must not have them either.
    if run.hides_sources:
        return []
    return [
        {**resource, "position": position}
        for position, resource in enumerate(resources, 1)
    ]


def workflow_id(app_record: AppRecord) -> str:
    """Return a UUID for a version of an app's file, since clients expect this format."""
    return str(uuid.UUID(hex=app_record.stored.digest[:32].ljust(32, "0")))


def _default_name(query: str) -> str:
    """Return the name of a conversation until a model has chosen one."""
    line = " ".join(query.split())
    return line if len(line) <= 40 else f"{line[:39]}…"
