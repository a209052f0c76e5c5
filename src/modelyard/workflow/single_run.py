"""One run by itself, kept nowhere: what it begins with, its events as they come, and how it ended."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, GraphEngine, Outcome, Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunAborted,
    GraphRunFailed,
    GraphRunPartialSucceeded,
    GraphRunPaused,
    GraphRunStarted,
    GraphRunSucceeded,
)
from modelyard.workflow.node import Limits, RunContext, Services
from modelyard.workflow.nodes.start import checked_inputs, form_of
from modelyard.workflow.rag_variables import rag_values
from modelyard.workflow.variables import (
    CONVERSATION,
    ENVIRONMENT,
    RAG,
    SYSTEM,
    File,
    Secret,
    VariablePool,
    WorkflowError,
    from_object,
    size_of,
    to_object,
)

_MOST_STORED = 200 * 1024
"""Bytes of an environment or conversation variable."""

FINAL = (GraphRunSucceeded, GraphRunPartialSucceeded, GraphRunFailed, GraphRunAborted, GraphRunPaused)


def new_run_id() -> str:
    return str(uuid.uuid4())


def pool_for(
    app: App,
    root: str,
    inputs: Mapping[str, Any],
    system: Mapping[str, Any],
    *,
    environment: Mapping[str, Any] | None = None,
    conversation: Mapping[str, Any] | None = None,
) -> VariablePool:
    """Everything that a run begins with. Raises InputError, WorkflowError."""
    pool = VariablePool()
    node = app.graph(root).nodes[root or app.roots[0]]
    form = form_of(node)
    given = {name: from_object(value) for name, value in inputs.items()}
    pool.put_all(node.id, checked_inputs(form, given) if node.type == "start" else given)
    if app.kind == "rag_pipeline":
        for owner, values in rag_values(app, node.id, given).items():
            pool.put(RAG, owner, values)
    for name, value in system.items():
        if value is not None:
            pool.put(SYSTEM, name, from_object(value))
    for one in app.environment:
        value = (environment or {}).get(one.name, one.value)
        _check_size(ENVIRONMENT, one.name, value)
        is_secret = one.value_type == "secret" and isinstance(value, str)
        pool.put(ENVIRONMENT, one.name, Secret(value) if is_secret else value)
    for one in app.conversation:
        value = (conversation or {}).get(one.name, one.value)
        _check_size(CONVERSATION, one.name, value)
        pool.put(CONVERSATION, one.name, from_object(value))
        pool.declare(CONVERSATION, one.name, one.value_type)
    return pool


def _check_size(kind: str, name: str, value: Any) -> None:
    if size_of(value, _MOST_STORED) > _MOST_STORED:
        raise WorkflowError(f"variable {kind}.{name} is larger than {_MOST_STORED >> 10} KB")


def final_event(outcome: Outcome, run: RunContext) -> AnyEvent:
    at, outputs = run.now(), to_object(outcome.outputs)
    match outcome.status:
        case Status.SUCCEEDED:
            return GraphRunSucceeded(at=at, outputs=outputs)
        case Status.PARTIAL:
            return GraphRunPartialSucceeded(at=at, outputs=outputs, exceptions_count=run.exceptions)
        case Status.STOPPED:
            return GraphRunAborted(at=at, reason=outcome.error, outputs=outputs)
        case Status.PAUSED:
            return GraphRunPaused(at=at, reasons=outcome.reasons, outputs=outputs)
        case _:
            return GraphRunFailed(
                at=at, error=outcome.error, error_type=outcome.error_type, exceptions_count=run.exceptions
            )


async def executed(engine: GraphEngine, seconds: float) -> Outcome:
    """Run an engine within a time."""
    reason = f"Maximum execution time exceeded: {seconds:g} s"
    timer = asyncio.get_running_loop().call_later(seconds, engine.command, Command.STOP, reason)
    try:
        return await engine.execute()
    except WorkflowError as error:
        return Outcome(status=Status.FAILED, error=str(error), error_type=type(error).__name__)
    finally:
        timer.cancel()


async def stream(
    app: App,
    yard: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    query: str = "",
    files: Sequence[Any] = (),
    root: str = "",
    services: Services | None = None,
    limits: Limits | None = None,
) -> AsyncGenerator[AnyEvent, None]:
    """A run's events as they happen. It is kept nowhere; closing the generator stops it.

    `yard` is a Modelyard, whose models, tools, files and jail the nodes use; `services` take its place in tests.
    Raises InputError where the inputs do not fit the form.
    """
    run = RunContext(
        run_id=new_run_id(),
        services=services or (yard.services.workflows.services(app) if yard is not None else Services()),
        limits=limits or Limits(),
        now=time.time,
    )
    pool = pool_for(app, root, inputs or {}, system_variables(app, run, query=query, files=files))
    queue: asyncio.Queue[AnyEvent | None] = asyncio.Queue()
    engine = GraphEngine(app.graph(root), pool, run, queue.put_nowait)

    async def work() -> None:
        try:
            outcome = await executed(engine, run.limits.seconds)
            queue.put_nowait(final_event(outcome, run))
        finally:
            queue.put_nowait(None)

    yield GraphRunStarted(at=run.now(), inputs=to_object(dict(inputs or {})))
    task = asyncio.ensure_future(work())
    try:
        while (event := await queue.get()) is not None:
            yield event
        await task
    finally:
        if not task.done():
            engine.command(Command.STOP)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def run(app: App, yard: Any = None, **how: Any) -> Outcome:
    """The whole of `stream`: how it ended, and what came of it."""
    last: AnyEvent | None = None
    async with aclosing(stream(app, yard, **how)) as events:
        async for event in events:
            last = event
    return outcome_of(last)


def outcome_of(event: AnyEvent | None) -> Outcome:
    match event:
        case GraphRunSucceeded():
            return Outcome(status=Status.SUCCEEDED, outputs=event.outputs)
        case GraphRunPartialSucceeded():
            return Outcome(status=Status.PARTIAL, outputs=event.outputs)
        case GraphRunAborted():
            return Outcome(status=Status.STOPPED, outputs=event.outputs, error=event.reason)
        case GraphRunPaused():
            return Outcome(status=Status.PAUSED, outputs=event.outputs, reasons=event.reasons)
        case GraphRunFailed():
            return Outcome(status=Status.FAILED, error=event.error, error_type=event.error_type)
        case _:
            return Outcome(status=Status.FAILED, error="the run ended without a word")


def system_variables(app: App, run: RunContext, *, query: str = "", files: Sequence[Any] = ()) -> dict[str, Any]:
    """`sys.*` of a run that nobody keeps."""
    found: dict[str, Any] = {
        "files": [one if isinstance(one, File) else from_object(one) for one in files],
        "user_id": run.user,
        "app_id": run.app,
        "workflow_id": run.app,
        "workflow_run_id": run.run_id,
    }
    if app.is_chat:
        found |= {"query": query, "conversation_id": run.run_id, "dialogue_count": 1}
    else:
        found["timestamp"] = int(run.now())
        if app.mode == "completion":
            found["query"] = query
    return found
