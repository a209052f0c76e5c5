"""A single run without a journal: its variables, its events and its outcome."""

import asyncio
import logging
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
from modelyard.workflow.nodes.start import form_of, storable_inputs, validate_inputs
from modelyard.workflow.rag_variables import rag_values
from modelyard.workflow.storable import storable_text
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

logger = logging.getLogger("modelyard.workflow")

_MAX_VARIABLE_BYTES = 200 * 1024
"""Maximum bytes of an environment or conversation variable."""

# A run emits no event after one of these, except when it is resumed.
FINAL_EVENTS = (
    GraphRunSucceeded,
    GraphRunPartialSucceeded,
    GraphRunFailed,
    GraphRunAborted,
    GraphRunPaused,
)


def new_run_id() -> str:
    """Return a new random run id."""
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
    """Return the variables with which a run starts. Raises InputError or WorkflowError."""
    pool = VariablePool()
    node = app.graph(root).nodes[root or app.roots[0]]
    form_fields = form_of(node)
    parsed_inputs = {
        name: from_object(value) for name, value in storable_inputs(inputs).items()
    }
    # Other roots (triggers, datasources) validate their data themselves.
    pool.put_all(
        node.id,
        validate_inputs(form_fields, parsed_inputs)
        if node.type == "start"
        else parsed_inputs,
    )
    if app.kind == "rag_pipeline":
        # Values of a pipeline are grouped by the node that declares them.
        for owner, values in rag_values(app, node.id, parsed_inputs).items():
            pool.put(RAG, owner, values)
    for name, value in storable_inputs(system, SYSTEM).items():
        # A variable that is None counts as missing.
        if value is not None:
            pool.put(SYSTEM, name, from_object(value))
    _put_environment(pool, app, environment or {})
    _put_conversation(pool, app, conversation or {})
    return pool


def _put_environment(
    pool: VariablePool, app: App, environment: Mapping[str, Any]
) -> None:
    """Put the environment variables into the pool. Values of this run override the
    defaults in the DSL file."""
    for variable in app.environment:
        value = environment.get(variable.name, variable.value)
        _check_size(ENVIRONMENT, variable.name, value)
        # The mark lets the value be masked in what is recorded.
        is_secret = variable.value_type == "secret" and isinstance(value, str)
        pool.put(ENVIRONMENT, variable.name, Secret(value) if is_secret else value)


def _put_conversation(
    pool: VariablePool, app: App, conversation: Mapping[str, Any]
) -> None:
    """Put the conversation variables into the pool. They continue with the values of
    the previous turn."""
    for variable in app.conversation:
        value = conversation.get(variable.name, variable.value)
        _check_size(CONVERSATION, variable.name, value)
        pool.put(CONVERSATION, variable.name, from_object(value))
        # The declared type limits what an assigner may write later.
        pool.declare(CONVERSATION, variable.name, variable.value_type)


def _check_size(namespace: str, name: str, value: Any) -> None:
    """Raise WorkflowError if a variable is too large."""
    if size_of(value, _MAX_VARIABLE_BYTES) > _MAX_VARIABLE_BYTES:
        raise WorkflowError(
            f"Variable {namespace}.{name} is larger than {_MAX_VARIABLE_BYTES >> 10} KB"
        )


def final_event(outcome: Outcome, run: RunContext) -> AnyEvent:
    """Return the event with which the outcome is published."""
    timestamp, outputs = run.now(), to_object(outcome.outputs)
    match outcome.status:
        case Status.SUCCEEDED:
            return GraphRunSucceeded(at=timestamp, outputs=outputs)
        case Status.PARTIAL:
            return GraphRunPartialSucceeded(
                at=timestamp, outputs=outputs, exceptions_count=run.exceptions
            )
        case Status.STOPPED:
            return GraphRunAborted(at=timestamp, reason=outcome.error, outputs=outputs)
        case Status.PAUSED:
            return GraphRunPaused(
                at=timestamp, reasons=outcome.reasons, outputs=outputs
            )
        case _:
            return GraphRunFailed(
                at=timestamp,
                error=outcome.error,
                error_type=outcome.error_type,
                exceptions_count=run.exceptions,
            )


async def execute_with_timeout(
    engine: GraphEngine, seconds: float, used_seconds: float = 0.0
) -> Outcome:
    """Run an engine with a time limit in seconds; errors become a failed outcome.

    `used_seconds` is the part of the limit that the run used before it was resumed.
    """
    reason = f"Maximum execution time exceeded: {seconds:g} s"
    # The engine is stopped by a command so that running nodes can end cleanly.
    timer = asyncio.get_running_loop().call_later(
        max(0.0, seconds - used_seconds), engine.command, Command.STOP, reason
    )
    try:
        return await engine.execute()
    except WorkflowError as error:
        # Errors of the graph itself are an outcome, not an exception for the caller.
        return Outcome(
            status=Status.FAILED,
            error=storable_text(str(error)),
            error_type=type(error).__name__,
        )
    # A fault of the engine must not leave the run without an end.
    except Exception as error:
        logger.exception("run failed", extra={"fields": {"run": engine.run.run_id}})
        error_type = type(error).__name__
        return Outcome(
            status=Status.FAILED,
            error=storable_text(f"{error_type}: {error}"),
            error_type=error_type,
        )
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
    """Execute a run without storing it and yield its events. Closing the generator
    stops the run.

    `yard` is a Modelyard, whose models, tools, files and sandbox the nodes use; tests
    pass `services` instead. Raises InputError if the inputs do not match the form.
    """
    run = RunContext(
        run_id=new_run_id(),
        services=services
        or (yard.services.workflows.services(app) if yard is not None else Services()),
        limits=limits
        or (yard.services.workflows.limits if yard is not None else Limits()),
        now=time.time,
    )
    # Inputs are validated before the first event.
    pool = pool_for(
        app, root, inputs or {}, system_variables(app, run, query=query, files=files)
    )
    # The engine emits synchronously; the queue decouples it from the consumer.
    queue: asyncio.Queue[AnyEvent | None] = asyncio.Queue()
    engine = GraphEngine(app.graph(root), pool, run, queue.put_nowait)

    async def work() -> None:
        """Execute the run and put its final event into the queue."""
        try:
            outcome = await execute_with_timeout(engine, run.limits.seconds)
            queue.put_nowait(final_event(outcome, run))
        finally:
            # Ends the loop below, also after an unexpected error.
            queue.put_nowait(None)

    yield GraphRunStarted(at=run.now(), inputs=to_object(dict(inputs or {})))
    # Nothing has run if the consumer stops at the first event.
    task = asyncio.ensure_future(work())
    try:
        while (event := await queue.get()) is not None:
            yield event
        # This raises the error that kept the run from a final event.
        await task
    finally:
        # The consumer closed the generator before the end of the run.
        if not task.done():
            engine.command(Command.STOP)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def run(app: App, yard: Any = None, **options: Any) -> Outcome:
    """Execute a run like `stream` and return its outcome."""
    # Only the last event matters for the outcome.
    last: AnyEvent | None = None
    async with aclosing(stream(app, yard, **options)) as events:
        async for event in events:
            last = event
    return outcome_of(last)


def outcome_of(event: AnyEvent | None) -> Outcome:
    """Return the outcome of a final event."""
    match event:
        case GraphRunSucceeded():
            return Outcome(status=Status.SUCCEEDED, outputs=event.outputs)
        case GraphRunPartialSucceeded():
            return Outcome(status=Status.PARTIAL, outputs=event.outputs)
        case GraphRunAborted():
            return Outcome(
                status=Status.STOPPED, outputs=event.outputs, error=event.reason
            )
        case GraphRunPaused():
            return Outcome(
                status=Status.PAUSED, outputs=event.outputs, reasons=event.reasons
            )
        case GraphRunFailed():
            return Outcome(
                status=Status.FAILED, error=event.error, error_type=event.error_type
            )
        case _:
            return Outcome(
                status=Status.FAILED, error="Run ended without a final event"
            )


def system_variables(
    app: App, run: RunContext, *, query: str = "", files: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the `sys.*` variables of a run that is not stored."""
    values: dict[str, Any] = {
        "files": [
            file if isinstance(file, File) else from_object(file) for file in files
        ],
        "user_id": run.user,
        "app_id": run.app,
        "workflow_id": run.app,
        "workflow_run_id": run.run_id,
    }
    # Chat apps have a conversation, other apps a timestamp.
    if app.is_chat:
        values |= {"query": query, "conversation_id": run.run_id, "dialogue_count": 1}
    else:
        values["timestamp"] = int(run.now())
        if app.mode == "completion":
            values["query"] = query
    return values
