"""Runs: one from a file in a line, or many that are kept, watched, stopped, and taken up again where a process died."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.base.schemas import is_large
from modelyard.runtime.caller import Caller, current_api_key, set_current_caller
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Command, GraphEngine, Outcome, Recorder, Status, Step
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunAborted,
    GraphRunFailed,
    GraphRunPartialSucceeded,
    GraphRunPaused,
    GraphRunStarted,
    GraphRunSucceeded,
    NodeRunStreamChunk,
    TextReplaced,
)
from modelyard.workflow.journal import DatabaseJournal, History, Journal, RunRecord
from modelyard.workflow.node import Limits, RunContext, Services
from modelyard.workflow.nodes.start import InputError, checked_inputs, form_of
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

logger = logging.getLogger("modelyard.workflow")

_MOST_STORED = 200 * 1024
"""Bytes of an environment or conversation variable."""
_KEPT_EVENTS = 20_000
_POLL_SECONDS = 0.05
_RENEW_SECONDS = 4.0
_CHECK_EVERY = 300
"""Characters of an answer between two looks at it."""


class TooManyRunsError(WorkflowError):
    """This process has as many runs as it may have."""

    code = "too_many_requests"
    retry_after = 1.0


FINAL = (GraphRunSucceeded, GraphRunPartialSucceeded, GraphRunFailed, GraphRunAborted, GraphRunPaused)


def new_run_id() -> str:
    return str(uuid.uuid4())


# ---------------------------------------------------------------------------------------------- one run, by itself


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


# ---------------------------------------------------------------------------------------------- runs that are kept


class _Live:
    """A run that goes on in this process."""

    def __init__(self, record: RunRecord, journal: Journal, history: History) -> None:
        self.record = record
        self.engine: GraphEngine | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_leaving = False
        """The process ends: the run is to go on elsewhere."""
        self.events: list[tuple[int, AnyEvent]] = []
        self.last = history.events
        self.is_over = False
        self._journal = journal
        self._waiters: set[asyncio.Future[None]] = set()
        self._steps: list[tuple[int, Step]] = []
        self._unwritten: list[tuple[int, AnyEvent]] = []
        self._begun: list[str] = []
        self._turn = len(history.steps)
        self._has_work = asyncio.Event()
        self._written: list[asyncio.Future[None]] = []
        self._is_ending = False

    def push(self, event: AnyEvent) -> None:
        self.last += 1
        self.events.append((self.last, event))
        if len(self.events) > _KEPT_EVENTS:
            del self.events[: _KEPT_EVENTS // 4]
        self._unwritten.append((self.last, event))
        self._has_work.set()
        self.wake()

    @property
    def first(self) -> int:
        """The number of the first event that is here; those before it are in the journal."""
        return self.events[0][0] if self.events else self.last + 1

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for one in waiters:
            if not one.done():
                one.set_result(None)

    async def changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def record_step(self, step: Step) -> None:
        self._turn += 1
        self._steps.append((self._turn, step))
        self._has_work.set()

    async def safe(self, begun: str = "") -> None:
        """Done once all that there is was written."""
        if begun:
            self._begun.append(begun)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._written.append(done)
        self._has_work.set()
        await done

    async def write(self) -> None:
        """Writes what there is, for as long as the run goes on: one write at a time, with all that came meanwhile."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            steps, self._steps = self._steps, []
            events, self._unwritten = self._unwritten, []
            begun, self._begun = self._begun, []
            waiting, self._written = self._written, []
            try:
                if steps or events or begun:
                    await self._journal.append(self.record, steps, events, begun)
            except BaseException as error:
                for one in waiting:
                    if not one.done():
                        one.set_exception(WorkflowError(f"the run could not be kept: {error}"))
                raise
            for one in waiting:
                if not one.done():
                    one.set_result(None)
            if self._is_ending and not self._has_work.is_set():
                return

    def end_writing(self) -> None:
        self._is_ending = True
        self._has_work.set()


class _OutputGuard:
    """Looks at what is said while it is said; puts another text in its place where it must not be."""

    def __init__(self, live: _Live, check: "CheckOutput") -> None:
        self._live = live
        self._check = check
        self._said = ""
        self._seen = 0
        self._has_more = asyncio.Event()
        self._task = asyncio.ensure_future(self._watch())
        self.replaced: str | None = None

    def hear(self, event: AnyEvent) -> bool:
        """Whether the event may go on."""
        if self.replaced is not None:
            return not isinstance(event, NodeRunStreamChunk)
        if isinstance(event, NodeRunStreamChunk):
            self._said += event.chunk
        elif isinstance(event, TextReplaced):
            self._said, self._seen = event.text, 0
        if len(self._said) - self._seen >= _CHECK_EVERY:
            self._has_more.set()
        return True

    async def _watch(self) -> None:
        while self.replaced is None:
            await self._has_more.wait()
            self._has_more.clear()
            await self._look()

    async def _look(self) -> None:
        text = self._said
        if self._seen >= len(text) or self.replaced is not None:
            return
        self._seen = len(text)
        try:
            instead = await self._check(text)
        except ModelyardError as error:
            logger.warning("an answer could not be checked", extra={"fields": {"error": str(error)}})
            instead = None
        if instead is not None:
            self.replaced = instead
            self._live.push(TextReplaced(at=time.time(), text=instead, reason="output_moderation"))
            if self._live.engine is not None:
                self._live.engine.command(Command.STOP, "output moderation")

    async def finish(self) -> str | None:
        """The last look; what stands in the answer's place, if anything."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._look()
        return self.replaced


class JournalRecorder(Recorder):
    """The engine's view of what is kept."""

    def __init__(self, live: _Live, history: History, *, is_resumed: bool) -> None:
        self._live = live
        self._begun = set(history.begun)
        self._said = history.said if is_resumed else None
        self._by_path: dict[str, list[Step]] = {}
        for step in history.steps:
            self._by_path.setdefault(step.key[: len(step.key) - len(step.node_id)], []).append(step)

    def steps(self, path: str) -> Sequence[Step]:
        return self._by_path.get(path, ())

    def was_started(self, key: str) -> bool:
        return key in self._begun

    async def about_to(self, key: str) -> None:
        await self._live.safe(key)

    def record(self, step: Step) -> None:
        self._live.record_step(step)

    def said(self) -> str | None:
        return self._said


CheckOutput = Callable[[str], Awaitable[str | None]]
"""What stands in the place of a text; None where that may be said."""
CheckFor = Callable[[App, RunRecord], CheckOutput | None]
FindApp = Callable[[RunRecord], Awaitable[App]]
ServicesFor = Callable[[App, RunRecord], Services]
CallerOf = Callable[[RunRecord], Caller]
"""On whose behalf a run calls models. Raises WorkflowError if its API key may not call any more."""
OnEnd = Callable[[RunRecord, VariablePool, str, Sequence[AnyEvent]], Awaitable[None]]
"""Is told of a run that ended or paused: its record, what the pool held, the text that was shown, its events."""


class Runs:
    """All runs of this process, and the way to those of others."""

    def __init__(
        self,
        journal: DatabaseJournal,
        find_app: FindApp,
        services: ServicesFor,
        *,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
        most: int = 1000,
    ) -> None:
        self.journal = journal
        self._find_app = find_app
        self._services = services
        self._limits = limits or Limits()
        self._now = now
        self._most = most
        self._live: dict[str, _Live] = {}
        self._starting: dict[str, asyncio.Future[RunRecord]] = {}
        self._upkeep: list[asyncio.Task[None]] = []
        self._on_end: list[OnEnd] = []
        self._check_for: CheckFor | None = None
        self._caller_of: CallerOf = lambda run: Caller(tenant=run.tenant, key=f"app:{run.app}" if run.app else "")

    def identify_callers(self, caller_of: CallerOf) -> None:
        """How to find the caller of a run, for those that are resumed in another process too."""
        self._caller_of = caller_of

    def check_output(self, check_for: CheckFor) -> None:
        """Have what runs say looked at while they say it."""
        self._check_for = check_for

    def on_end(self, listener: OnEnd) -> None:
        self._on_end.append(listener)

    @property
    def count(self) -> int:
        return len(self._live)

    # starting and going on

    async def start(self, app: App, record: RunRecord) -> RunRecord:
        """A run, once for its id: one that has begun already, wherever, is found instead.

        Raises InputError, WorkflowError, StorageUnavailableError before anything has begun.
        """
        going = self._starting.get(record.id)
        if going is None:
            going = self._starting[record.id] = asyncio.ensure_future(self._start(app, record))
            going.add_done_callback(lambda _: self._starting.pop(record.id, None))
        return await asyncio.shield(going)  # whoever asked may leave: what is half written down would never go on

    async def _start(self, app: App, record: RunRecord) -> RunRecord:
        if len(self._live) >= self._most:
            raise TooManyRunsError(f"{self._most} runs go on at once already; try again later")
        if record.depth >= self._limits.depth:
            raise WorkflowError(f"workflows call each other {record.depth} deep; {self._limits.depth} is the most")
        pool = await self._pool_apart(app, record)
        record = msgspec.structs.replace(
            record, root=record.root or app.roots[0], api_key=current_api_key(record.tenant)
        )
        caller = self._caller_of(record)
        if not await self.journal.create(record):
            return await self._begun_already(record)
        self._begin(app, record, pool, History(), caller, is_resumed=False)
        return record

    async def _begun_already(self, record: RunRecord) -> RunRecord:
        """Whose answer the database owed us when it was begun, it goes on here."""
        found = await self.find(record.tenant, record.id)
        if found.status is Status.RUNNING and found.id not in self._live and await self.journal.is_mine(found.id):
            await self._go_on(found)
        return found

    async def tell(self, record: RunRecord, text: str) -> RunRecord:
        """A run that was over before it began: it says a text, and no node ran."""
        now = self._now()
        told = msgspec.structs.replace(
            record, status=Status.SUCCEEDED, outputs={"answer": text}, finished_at=now, root=record.root or "none"
        )
        events: list[tuple[int, AnyEvent]] = [
            (
                1,
                NodeRunStreamChunk(
                    id="", node_id="", node_type="answer", at=now, selector=["sys", "answer"], chunk=text
                ),
            ),
            (2, GraphRunSucceeded(at=now, outputs=told.outputs)),
        ]
        await self.journal.create(told)
        for listener in self._on_end:
            await listener(told, VariablePool(), text, [event for _, event in events])
        await self.journal.settle(told, events)
        return told

    async def resume(self, tenant: str, run_id: str) -> bool:
        """A paused run goes on; False where it does not wait."""
        record = await self.find(tenant, run_id)
        if record.status is not Status.PAUSED or not await self.journal.resume(record):
            return False
        await self._go_on(record)
        return True

    async def resume_soon(self, tenant: str, run_id: str) -> None:
        """A run goes on; where other branches of it still run, once they have paused."""
        for _ in range(100):
            if await self.resume(tenant, run_id) or (await self.find(tenant, run_id)).status.is_over:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _go_on(self, record: RunRecord) -> None:
        try:
            app = await self._find_app(record)
            history = await self.journal.history(record)
            pool = await self._pool_apart(app, record)
            caller = self._caller_of(record)
        except ModelyardError as error:
            fields = {"run": record.id, "error": str(error)}
            logger.error("a run cannot go on", extra={"fields": fields})
            failed = msgspec.structs.replace(
                record, status=Status.FAILED, error=f"the run cannot go on: {error}", finished_at=self._now()
            )
            history = await self.journal.history(record)
            await self.journal.settle(
                failed, [(history.events + 1, GraphRunFailed(at=self._now(), error=failed.error))]
            )
            return
        record = msgspec.structs.replace(record, status=Status.RUNNING, reasons=[])
        self._begin(app, record, pool, history, caller, is_resumed=True)

    async def _pool_apart(self, app: App, record: RunRecord) -> VariablePool:
        """Large inputs are held to their schemas off the loop."""
        if is_large(record.inputs):
            return await asyncio.to_thread(self._pool, app, record)
        return self._pool(app, record)

    def _pool(self, app: App, record: RunRecord) -> VariablePool:
        return pool_for(
            app, record.root, record.inputs, record.system, environment=record.environment,
            conversation=record.variables,
        )  # fmt: skip

    def _begin(
        self, app: App, record: RunRecord, pool: VariablePool, history: History, caller: Caller, *, is_resumed: bool
    ) -> None:
        live = _Live(record, self.journal, history)
        self._live[record.id] = live

        async def run() -> None:
            # The task inherits the caller of whoever started or resumed the run, who may be another one.
            set_current_caller(caller)
            await self._run(live, app, pool, history, is_resumed=is_resumed)

        live.task = asyncio.ensure_future(run())

    async def _run(self, live: _Live, app: App, pool: VariablePool, history: History, *, is_resumed: bool) -> None:
        record = live.record
        context = RunContext(
            run_id=record.id, services=self._services(app, record), limits=self._limits, tenant=record.tenant,
            user=record.user, app=record.app, depth=record.depth, now=self._now,
        )  # fmt: skip
        recorder = JournalRecorder(live, history, is_resumed=is_resumed)
        check = self._check_for(app, record) if self._check_for is not None else None
        guard = _OutputGuard(live, check) if check is not None else None

        def emit(event: AnyEvent) -> None:
            if guard is None or guard.hear(event):
                live.push(event)

        live.engine = GraphEngine(app.graph(record.root), pool, context, emit, recorder=recorder)
        writing = asyncio.ensure_future(live.write())
        writing.add_done_callback(lambda done: self._lost(live, done))
        began = time.monotonic()
        try:
            shown = {**record.inputs, **{f"sys.{name}": value for name, value in record.system.items()}}
            live.push(GraphRunStarted(
                at=self._now(), inputs=to_object(shown), reason="resumption" if is_resumed else "initial"
            ))  # fmt: skip
            outcome = await executed(live.engine, self._limits.seconds)
            if live.is_leaving:
                return
            if guard is not None and (instead := await guard.finish()) is not None:
                outcome = Outcome(status=Status.SUCCEEDED, outputs={"answer": instead})
            elapsed = record.elapsed + time.monotonic() - began
            await self._ended(live, writing, pool, context, outcome, elapsed)
        except ModelyardError as error:
            logger.error("a run is left for later", extra={"fields": {"run": record.id, "error": str(error)}})
        finally:
            if guard is not None:
                await guard.finish()
            live.end_writing()
            if live.is_leaving:
                with contextlib.suppress(BaseException):
                    await writing
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            live.is_over = True
            self._live.pop(record.id, None)
            live.wake()

    @staticmethod
    def _lost(live: _Live, writing: "asyncio.Future[None]") -> None:
        """What happens cannot be kept any more: the run must not go on."""
        if not writing.cancelled() and writing.exception() is not None and live.engine is not None:
            live.engine.command(Command.STOP, "the run could not be kept")

    async def _ended(
        self, live: _Live, writing: "asyncio.Future[None]", pool: VariablePool, context: RunContext,
        outcome: Outcome, elapsed: float,
    ) -> None:  # fmt: skip
        live.end_writing()
        await writing
        is_over = outcome.status.is_over
        live.record = record = msgspec.structs.replace(
            live.record,
            status=outcome.status,
            outputs=to_object(outcome.outputs),
            error=outcome.error,
            reasons=outcome.reasons,
            total_tokens=context.tokens,
            total_price=context.price,
            total_steps=context.steps,
            exceptions_count=context.exceptions,
            elapsed=elapsed,
            finished_at=self._now() if is_over else None,
        )
        events = await self._told(live)
        said = _said(events)
        for listener in self._on_end:
            try:
                await listener(record, pool, said, events)
            except ModelyardError:
                raise  # what it writes down is lost: the run is taken up again
            except Exception:  # a fault of ours: whoever waits for the run is told of its end all the same
                logger.exception("a run's end was not heard", extra={"fields": {"run": record.id}})
        # Whoever sees the end may ask at once what came of the run: it is written down first.
        last = final_event(outcome, context)
        await self.journal.settle(record, [(live.last + 1, last)])
        live.push(last)

    async def _told(self, live: _Live) -> list[AnyEvent]:
        """All of its events, those of the process before this one included."""
        if live.events and live.events[0][0] == 1:
            return [event for _, event in live.events]
        found: list[AnyEvent] = []
        last = 0
        while some := await self.journal.events(live.record.id, last, 5000):
            last = some[-1][0]
            found += [event for _, event in some]
        return found

    # watching

    async def find(self, tenant: str, run_id: str) -> RunRecord:
        """Raises NotFoundError where this tenant has no such run."""
        live = self._live.get(run_id)
        if live is not None and live.record.tenant == tenant:
            return live.record
        record = await self.journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"run {run_id[:80]!r} does not exist", code="not_found")
        return record

    async def watch(self, tenant: str, run_id: str, *, after: int = 0) -> AsyncGenerator[tuple[int, AnyEvent], None]:
        """(number, event) of all that happened after a number, and of all that happens until it ends or pauses."""
        record = await self.find(tenant, run_id)
        while True:
            live = self._live.get(run_id)
            if live is not None and after + 1 >= live.first:
                fresh = live.events[after + 1 - live.first :]
                for number, event in fresh:
                    after = number
                    yield number, event
                if fresh and isinstance(fresh[-1][1], FINAL):
                    return
                if not fresh and not live.is_over:
                    await live.changed()
                if fresh or not live.is_over:
                    continue
            found = await self.journal.events(run_id, after)
            for number, event in found:
                after = number
                yield number, event
            if found and isinstance(found[-1][1], FINAL) and not await self._goes_on(tenant, run_id):
                return
            if not found:
                record = await self.find(tenant, run_id)
                if record.status.is_over or record.status is Status.PAUSED:
                    return
                await asyncio.sleep(_POLL_SECONDS)

    async def _goes_on(self, tenant: str, run_id: str) -> bool:
        return (await self.find(tenant, run_id)).status is Status.RUNNING

    async def ended(self, tenant: str, run_id: str) -> RunRecord:
        """The run once it is over, or paused."""
        async with aclosing(self.watch(tenant, run_id)) as events:
            async for _ in events:
                pass
        record = await self.journal.find(tenant, run_id)
        if record is None:
            raise NotFoundError(f"run {run_id[:80]!r} does not exist", code="not_found")
        return record

    # commands

    async def stop(self, tenant: str, run_id: str, why: str = "User requested stop") -> bool:
        """Wherever it runs. False where it does not."""
        return await self._command(tenant, run_id, Command.STOP, why)

    async def pause(self, tenant: str, run_id: str) -> bool:
        return await self._command(tenant, run_id, Command.PAUSE, "paused on request")

    async def _command(self, tenant: str, run_id: str, command: Command, why: str) -> bool:
        live = self._live.get(run_id)
        if live is not None and live.record.tenant == tenant:
            if live.engine is not None:
                live.engine.command(command, why)
            return True
        record = await self.journal.find(tenant, run_id)
        if record is not None and record.status is Status.PAUSED and command is Command.STOP:
            return await self._stop_paused(record, why)
        return await self.journal.command(tenant, run_id, command.value)

    async def _stop_paused(self, record: RunRecord, why: str) -> bool:
        if not await self.journal.resume(record):
            return False
        history = await self.journal.history(record)
        stopped = msgspec.structs.replace(record, status=Status.STOPPED, error=why, finished_at=self._now())
        await self.journal.settle(stopped, [(history.events + 1, GraphRunAborted(at=self._now(), reason=why))])
        return True

    # upkeep

    def begin_upkeep(self) -> None:
        """Hear of commands, say that this process is there, take up what others left. On the running loop."""
        for seconds, act in (
            (_POLL_SECONDS, self._hear), (_RENEW_SECONDS, self._renew), (_RENEW_SECONDS, self.recover),
            (_RENEW_SECONDS, self._expire),
        ):  # fmt: skip
            self._upkeep.append(asyncio.ensure_future(_again(seconds, act)))

    async def _hear(self) -> None:
        if not self._live:
            return
        for run_id, command in await self.journal.commands():
            live = self._live.get(run_id)
            if live is not None and live.engine is not None:
                live.engine.command(Command(command), "User requested stop" if command == "stop" else "")

    async def _renew(self) -> None:
        if self._live:
            await self.journal.renew()

    async def recover(self) -> int:
        """Take up runs whose process is gone; how many."""
        orphans = await self.journal.orphans()
        for record in orphans:
            logger.info("a run goes on", extra={"fields": {"run": record.id}})
            await self._go_on(record)
        return len(orphans)

    async def _expire(self) -> None:
        for tenant, run_id in await self.journal.forms.expired():
            await self.resume(tenant, run_id)

    async def aclose(self) -> None:
        """Let go of all: they go on when a process starts again."""
        for task in self._upkeep:
            task.cancel()
        await asyncio.gather(*self._upkeep, return_exceptions=True)
        self._upkeep.clear()
        lives = list(self._live.values())
        for live in lives:
            live.is_leaving = True
            if live.engine is not None:
                live.engine.command(Command.STOP)
        await asyncio.gather(*(live.task for live in lives if live.task is not None), return_exceptions=True)


async def _again(seconds: float, act: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            await act()
        except ModelyardError as error:
            logger.warning("runs' upkeep failed", extra={"fields": {"error": str(error)}})
        await asyncio.sleep(seconds)


def _said(events: Sequence[AnyEvent]) -> str:
    said: list[str] = []
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            said.append(event.chunk)
        elif isinstance(event, TextReplaced):
            said = [event.text]
    return "".join(said)


__all__ = ["InputError", "JournalRecorder", "Runs", "pool_for", "run", "stream"]
