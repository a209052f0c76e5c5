"""Chats: a message starts a run, the run's text is the answer, the conversation remembers both."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.workflow.apps import FoundApp
from modelyard.workflow.conversations import Conversation, Conversations, Message
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent, NodeRunAgentThought, NodeRunRetrieverResource, NodeRunSucceeded
from modelyard.workflow.features import Admitted, Features, Intercepted
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.start import Variable, form_of
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.single_run import new_run_id
from modelyard.workflow.variables import CONVERSATION, VariablePool, to_object

_NIL = "00000000-0000-0000-0000-000000000000"
NEW_NAME = "New conversation"


class Chats:
    def __init__(
        self,
        runs: Runs,
        conversations: Conversations,
        files: Callable[[str, str], TenantFiles],
        now: Callable[[], float] = time.time,
        features: Features | None = None,
    ) -> None:
        self._features = features
        self._naming: set[asyncio.Task[None]] = set()
        self._runs = runs
        self._conversations = conversations
        self._files = files
        self._now = now
        runs.on_end(self._ended)

    # workflows

    async def run(
        self, found: FoundApp, app: App, *, inputs: Mapping[str, Any], user: str, files: Sequence[Any] = (),
        root: str = "", depth: int = 0, created_from: str = "service-api", is_varied: bool = False, run_id: str = "",
    ) -> RunRecord:  # fmt: skip
        """Start a run that belongs to no conversation. Raises InputError, InvokeBadRequestError.

        `is_varied`: another answer to the same is wanted, so the model is left more chance. `run_id`: where what it is
        for names it; a run of that name is begun once.
        """
        run_id, now = run_id or new_run_id(), self._now()
        told = await self._before(found, app, str(inputs.get("query") or ""), inputs, user)
        if isinstance(told, Admitted):
            inputs = {**told.inputs, **({"query": told.query} if "query" in inputs else {})}
        attached = await self._given(found.tenant, user, files)
        system: dict[str, Any] = {
            "files": attached,
            "user_id": user,
            "app_id": found.id,
            "workflow_id": workflow_id(found),
            "workflow_run_id": run_id,
            "timestamp": int(now),
            **({"varied": True} if is_varied else {}),
        }
        message_id = ""
        if app.mode == "completion":
            message_id, query = str(uuid.uuid4()), str(inputs.get("query") or "")
            system["query"] = query
        record = RunRecord(
            tenant=found.tenant, id=run_id, app=found.id, digest=found.stored.digest, mode=app.mode, root=root,
            user=user, inputs=await self._inputs(app, root, inputs, found.tenant, user), system=system, depth=depth,
            message=message_id, created_at=now, created_from=created_from,
        )  # fmt: skip
        if not message_id:
            return await self._started(app, record, told)
        return await self._said(app, record, told, Message(
            tenant=found.tenant, id=message_id, app=found.id, user=user, conversation="", run=run_id,
            query=system["query"], inputs=dict(inputs), files=attached, status="running", created_at=now,
        ))  # fmt: skip

    async def _before(
        self, found: FoundApp, app: App, query: str, inputs: Mapping[str, Any], user: str
    ) -> "Intercepted | Admitted | None":
        if self._features is None:
            return None
        return await self._features.before(found, app, query=query, inputs=inputs, user=user)

    async def _started(self, app: App, record: RunRecord, told: "Intercepted | Admitted | None") -> RunRecord:
        """The run; one that only says something where the turn was answered before it began."""
        if not isinstance(told, Intercepted):
            return await self._runs.start(app, record)
        system = {**record.system, "intercepted": True, "annotation": told.annotation}
        return await self._runs.tell(msgspec.structs.replace(record, system=system), told.text)

    async def _said(
        self, app: App, record: RunRecord, told: "Intercepted | Admitted | None", message: Message
    ) -> RunRecord:
        """The run that answers a message; both are kept, or neither."""
        await self._conversations.say(message)
        try:
            return await self._started(app, record, told)
        except Exception as error:
            await self._conversations.answer(record.tenant, message.id, "", {}, status="error", error=str(error))
            raise

    # messages

    async def send(
        self, found: FoundApp, app: App, *, query: str, inputs: Mapping[str, Any], user: str,
        conversation_id: str = "", files: Sequence[Any] = (), created_from: str = "service-api", depth: int = 0,
        names: bool = False,
    ) -> tuple[RunRecord, Conversation]:  # fmt: skip
        """A question; its answer is the run's text. `names`: have the model name a new conversation.

        Raises NotFoundError, InputError, InvokeBadRequestError, WorkflowError.
        """
        now = self._now()
        conversation = await self._conversation(found, app, query, inputs, user, conversation_id)
        before = await self._conversations.thread(found.tenant, conversation.id, most=500)
        given = conversation.inputs or dict(inputs) if conversation_id else dict(inputs)
        told = await self._before(found, app, query, given, user)
        said = query
        if isinstance(told, Admitted):
            given, said = told.inputs, told.query
        run_id, message_id = new_run_id(), str(uuid.uuid4())
        attached = await self._given(found.tenant, user, files)
        system = {
            "query": said,
            "files": attached,
            "conversation_id": conversation.id,
            "dialogue_count": len(before) + 1,
            "user_id": user,
            "app_id": found.id,
            "workflow_id": workflow_id(found),
            "workflow_run_id": run_id,
        }
        record = RunRecord(
            tenant=found.tenant, id=run_id, app=found.id, digest=found.stored.digest, mode=app.mode, user=user,
            inputs=await self._inputs(app, "", given, found.tenant, user), system=system, conversation=conversation.id,
            message=message_id, variables={name: one.get("value") for name, one in conversation.variables.items()},
            created_at=now, created_from=created_from, depth=depth,
        )  # fmt: skip
        message = Message(
            tenant=found.tenant, id=message_id, app=found.id, user=user, conversation=conversation.id,
            parent=before[0].id if before else _NIL, run=run_id, query=query, inputs=dict(inputs), files=attached,
            status="running", created_at=now,
        )  # fmt: skip
        run = await self._said(app, record, told, message)
        if names and not before and query:
            self._name_later(conversation, query)
        return run, conversation

    def _name_later(self, conversation: Conversation, query: str) -> None:
        """A title by the model, while the answer is made: nobody waits for it."""

        async def work() -> None:
            if self._features is None:
                return
            name = await self._features.name_of(conversation.tenant, conversation.user, query)
            if name:
                with suppress(ModelyardError):
                    await self._conversations.rename(conversation, name)

        task = asyncio.ensure_future(work())
        self._naming.add(task)
        task.add_done_callback(self._naming.discard)

    async def aclose(self) -> None:
        for task in list(self._naming):
            task.cancel()
        await asyncio.gather(*self._naming, return_exceptions=True)

    async def _conversation(
        self, found: FoundApp, app: App, query: str, inputs: Mapping[str, Any], user: str, name: str
    ) -> Conversation:
        if name:
            try:
                known = await self._conversations.find(found.tenant, found.id, user, name)
            except NotFoundError:
                if app.mode != "advanced-chat":  # a chatflow begins anew, as its clients are used to
                    raise
            else:
                return msgspec.structs.replace(known, variables=self._with_new(app, known.variables))
        now = self._now()
        fresh = Conversation(
            tenant=found.tenant, id=str(uuid.uuid4()), app=found.id, user=user,
            name=_name_of(query) if query else NEW_NAME, inputs=dict(inputs), variables=self._with_new(app, {}),
            created_at=now, updated_at=now,
        )  # fmt: skip
        await self._conversations.start(fresh)
        return fresh

    def _with_new(self, app: App, known: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The conversation's variables; those that the app was given since then begin as they are declared."""
        variables = dict(known)
        for one in app.conversation:
            variables.setdefault(one.name, {
                "id": one.id or str(uuid.uuid4()), "value": one.value, "value_type": one.value_type,
                "description": one.description, "updated_at": self._now(),
            })  # fmt: skip
        return variables

    # files

    def files_of(self, tenant: str) -> TenantFiles:
        return self._files(tenant, "")

    async def _given(self, tenant: str, user: str, files: Sequence[Any]) -> list[dict[str, Any]]:
        keeper = self._files(tenant, user)
        return [(await keeper.given(one)).to_object() for one in files]

    async def _inputs(self, app: App, root: str, inputs: Mapping[str, Any], tenant: str, user: str) -> dict[str, Any]:
        """Inputs with files as files. What the form does not ask for is kept for triggers alone."""
        node = app.graph(root).nodes[root or app.roots[0]]
        forms: dict[str, Variable] = {one.variable: one for one in form_of(node)}
        keeper = self._files(tenant, user)
        found: dict[str, Any] = {}
        for name, value in inputs.items():
            kind = forms[name].type if name in forms else ""
            if kind == "file" and isinstance(value, Mapping):
                value = (await keeper.given(value)).to_object()
            elif kind == "file-list" and isinstance(value, list):
                value = [(await keeper.given(one)).to_object() for one in value]
            found[name] = value
        return found

    # ends

    async def _ended(self, run: RunRecord, pool: VariablePool, said: str, events: Sequence[AnyEvent]) -> None:
        if run.conversation:
            await self._remember(run, pool)
        if run.message and run.status is not Status.PAUSED:
            failed = run.status is Status.FAILED
            usage = {**_used(events), "total_tokens": run.total_tokens, "total_price": str(run.total_price)}
            metadata = {"usage": usage, **_seen(run, events)}
            status = {Status.FAILED: "error", Status.STOPPED: "stopped"}.get(run.status, "normal")
            await self._conversations.answer(
                run.tenant, run.message, said, metadata, status=status, error=run.error if failed else ""
            )

    async def _remember(self, run: RunRecord, pool: VariablePool) -> None:
        """The conversation's variables as they are now."""
        variables: dict[str, dict[str, Any]] = {}
        try:
            conversation = await self._conversations.find(run.tenant, run.app, run.user, run.conversation)
            variables = dict(conversation.variables)
        except NotFoundError:
            pass  # somebody deleted it meanwhile
        for name, value in pool.of(CONVERSATION).items():
            about = variables.get(name, {"id": str(uuid.uuid4()), "description": ""})
            kind = pool.declared.get((CONVERSATION, name), "string")
            if about.get("value") != to_object(value) or name not in variables:
                about = {**about, "value": to_object(value), "value_type": kind, "updated_at": self._now()}
            variables[name] = about
        await self._conversations.touch(run.tenant, run.conversation, variables)


def _used(events: Sequence[AnyEvent]) -> dict[str, Any]:
    """Tokens in and out and the models' time, over all nodes."""
    found: dict[str, float] = {"prompt_tokens": 0, "completion_tokens": 0, "latency": 0.0}
    currency = "USD"
    for one in events:
        usage: Any = one.outputs.get("usage") if isinstance(one, NodeRunSucceeded) else None
        if isinstance(usage, Mapping):
            for name in found:
                value = usage.get(name)
                found[name] += value if isinstance(value, int | float) else 0
            currency = str(usage.get("currency") or currency)
    return {**found, "currency": currency}


def _seen(run: RunRecord, events: Sequence[AnyEvent]) -> dict[str, Any]:
    """What a message shows beside its text: sources, and an agent's thoughts."""
    resources: list[dict[str, Any]] = []
    thoughts: dict[str, dict[str, Any]] = {}
    for one in events:
        if isinstance(one, NodeRunRetrieverResource):
            resources += one.retriever_resources
        elif isinstance(one, NodeRunAgentThought):
            thoughts[one.thought_id] = {
                "id": one.thought_id, "chain_id": None, "message_id": run.message, "position": one.position,
                "thought": one.thought, "tool": one.tool, "tool_labels": one.tool_labels, "tool_input": one.tool_input,
                "observation": one.observation, "created_at": int(one.at),
                "files": [str(each.get("related_id") or each.get("remote_url") or "") for each in one.files],
            }  # fmt: skip
    found: dict[str, Any] = {}
    if resources:
        found["retriever_resources"] = [{**one, "position": at} for at, one in enumerate(resources, 1)]
    if thoughts:
        found["agent_thoughts"] = list(thoughts.values())
    return found


def workflow_id(found: FoundApp) -> str:
    """An id for a version of an app's file, in the form that clients expect."""
    return str(uuid.UUID(hex=found.stored.digest[:32].ljust(32, "0")))


def _name_of(query: str) -> str:
    line = " ".join(query.split())
    return line if len(line) <= 40 else f"{line[:39]}…"
