"""The agent loop: call the model, execute the tool calls it requests, feed back the
results, until an answer or a limit.

One task owns a run and yields events; closing the generator stops the model and the
tools at once. With a `Record` every reply and every result is stored as it arrives. A
run that resumes after a crash reads them back and does not repeat a tool call whose
result is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from modelyard.agents.events import (
    AgentCall,
    AgentFinished,
    AnyAgentEvent,
    ApprovalNeeded,
    RoundFinished,
    RoundStarted,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
)
from modelyard.agents.state import (
    MAX_ITERATIONS,
    AgentLimits,
    ModelTurn,
    Result,
    State,
    Strategy,
    Task,
    Turn,
)
from modelyard.base.errors import ModelyardError
from modelyard.base.json_repair import run_in_thread_if_large
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, UserPromptMessage
from modelyard.tools.entities import Tool, ToolContext, ToolEntity
from modelyard.tools.manager import Observation, ToolManager
from modelyard.tools.observation import ToolOutputCollector, truncate_middle


class Model(Protocol):
    """The part of a model that the loop needs. ModelInstance implements it."""

    def stream_llm(self, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]:
        """Stream the model's response to a request."""
        ...


class RecordedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored step of a run: a reply under `r1`, `r2`, …, a tool result under `t1.0`,
    `t1.1`, …"""

    key: str
    text: str = ""
    thought: str = ""
    calls: list[AgentCall] = []
    message: AssistantPromptMessage | None = None
    usage: LLMUsage | None = None
    model: str = ""
    finish_reason: str = ""
    error: str = ""
    observation: str = ""
    arguments: dict[str, Any] = {}
    files: list[dict[str, Any]] = []
    values: list[Any] = []
    sources: list[dict[str, Any]] = []
    seconds: float = 0.0
    is_cut: bool = False
    """True if the observation is a truncated part of the result."""


class StepStore(Protocol):
    """Durable storage of a run's steps."""

    def entries(self) -> Sequence[RecordedStep]:
        """Return the stored steps in order."""
        ...

    async def mark_started(self, key: str) -> None:
        """Announce a tool call. Returns when everything saved so far is durable."""
        ...

    def save(self, entry: RecordedStep) -> None:
        """Store a step. May return before it is durable."""
        ...


Approve = Callable[[Sequence[AgentCall]], Awaitable[Mapping[str, str] | None]]
"""Asks for approval of tool calls.

Returns call id → reason for refusal, empty if approved. None means undecided: the run
pauses.
"""
Store = Callable[[str, ToolOutputCollector], Awaitable[list[dict[str, Any]]]]
"""Stores the files of a tool result and returns their descriptions."""


class Results(Protocol):
    """Storage for results that are too long for a prompt, for the duration of a run."""

    @property
    def tool(self) -> Tool:
        """The tool with which the model reads stored results in parts."""
        ...

    async def save(self, key: str, text: str) -> str:
        """Store a result and return the id under which `tool` finds it."""
        ...


@dataclass(slots=True)
class _Run:
    state: State
    started_at: float
    usage: LLMUsage = field(default_factory=LLMUsage)
    calls: int = 0
    errors: int = 0
    files: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    repeat_counts: dict[tuple[str, str], tuple[str, int]] = field(
        default_factory=dict[tuple[str, str], tuple[str, int]]
    )
    recorded_steps: dict[str, RecordedStep] = field(
        default_factory=dict[str, RecordedStep]
    )
    looping: int = 0
    reason: str = ""
    needs_approval: bool = False
    """True if the run pauses until tool calls are approved."""


@dataclass(frozen=True, slots=True)
class _CallStep:
    """A tool call of the current turn as a step of the run."""

    number: int
    """Number of the turn."""
    index: int
    """Position of the call in the turn."""
    call: AgentCall
    tool: Tool | None
    """The tool of that name; None if no such tool was offered, whatever name the model
    uses."""
    entry: RecordedStep | None
    """The result that an earlier process stored."""

    @property
    def key(self) -> str:
        """Key of the recorded step."""
        return f"t{self.number}.{self.index}"

    @property
    def needs_approval(self) -> bool:
        """True if the tool needs approval and no earlier process executed the call."""
        tool = self.tool
        return self.entry is None and tool is not None and tool.entity.needs_approval

    @property
    def must_not_repeat(self) -> bool:
        """True if executing the call twice could do harm."""
        return self.tool is not None and not self.tool.entity.is_repeatable


class _CallBatch:
    """Tool calls of one turn that run in parallel.

    The tasks put their events on one queue, so that events of parallel calls are
    emitted as they occur.
    """

    def __init__(
        self, refusals: Mapping[str, str], free_slots: asyncio.Semaphore
    ) -> None:
        self.refusals = refusals
        """Call id → reason for refusal."""
        self.free_slots = free_slots
        self.queue: asyncio.Queue[
            AnyAgentEvent | tuple[int, Result] | BaseException
        ] = asyncio.Queue()
        self.results: dict[int, Result] = {}
        """The results by the index of the call."""
        self._tasks: list[asyncio.Task[None]] = []
        self._running_count = 0

    def start(self, execution: Coroutine[Any, Any, None]) -> None:
        """Start to execute a call. The coroutine must put exactly one result or error
        on the queue last."""
        self._tasks.append(asyncio.ensure_future(execution))
        self._running_count += 1

    async def next_event(self) -> AnyAgentEvent | None:
        """Wait for the next event. Returns None as soon as all started calls have a
        result. Raises a call's error."""
        while self._running_count:
            outcome = await self.queue.get()
            if isinstance(outcome, BaseException):
                raise outcome
            # A tuple is the result of a task, anything else an event.
            if not isinstance(outcome, tuple):
                return outcome
            self.results[outcome[0]] = outcome[1]
            self._running_count -= 1
        return None

    async def cancel(self) -> None:
        """Cancel the calls that still run, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class AgentLoop:
    """Runs one agent task. `context` identifies the caller; each tool call derives its
    idempotency key from the context's."""

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        tools: ToolManager,
        *,
        limits: AgentLimits | None = None,
        context: ToolContext | None = None,
        record: StepStore | None = None,
        approve: Approve | None = None,
        store: Store | None = None,
        results: Results | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._strategy = strategy
        self._tools = tools
        self._limits = limits or AgentLimits()
        self._context = context or ToolContext()
        self._record = record
        self._approve = approve
        self._store = store
        self._results = results
        self._now = clock

    async def run(self, task: Task) -> AsyncGenerator[AnyAgentEvent, None]:
        """Run the task and yield its events; AgentFinished is the last.

        With a record, the steps of an earlier process are replayed first. If a tool
        call awaits approval, the run ends with the reason `approval`. Raises the
        model's error if no answer is possible, StructuredAnswerError if the answer does
        not match the task's schema.
        """
        run = self._start_run(task)
        while True:
            number = run.state.round
            yield self._start_round(run, number)
            async with aclosing(self._turn_events(run, number)) as events:
                async for event in events:
                    yield event
            if self._strategy.is_done(run.state) or run.state.is_last:
                break
            turn = run.state.turns[-1]
            # Tools run only if the model has not finished.
            async with aclosing(self._execute_tool_calls(run, number, turn)) as events:
                async for event in events:
                    yield event
            if run.needs_approval:
                yield _finished(run, self._now(), "approval", "")
                return
        yield await self._answer_event(run)

    def _start_run(self, task: Task) -> _Run:
        """Return the state of a new run, with any recorded steps."""
        # Monotonic time for limits; `clock` is only for the timestamps of events.
        run = _Run(State(task=task), started_at=time.monotonic())
        if self._record is not None:
            # Steps of an earlier process: they are replayed instead of executed.
            run.recorded_steps = {entry.key: entry for entry in self._record.entries()}
        return run

    def _start_round(self, run: _Run, number: int) -> RoundStarted:
        """Check the limits before a turn. The turn after a limit runs without tools and
        must answer."""
        max_iterations = min(max(0, self._limits.iterations), MAX_ITERATIONS)
        run.reason = run.reason or self._limit_reached(run)
        run.state.is_last = bool(run.reason) or (number > max_iterations)
        if number > 1 and run.state.is_last and not run.reason:
            run.reason = "iterations"
        return RoundStarted(round=number, at=self._now(), is_last=run.state.is_last)

    async def _answer_event(self, run: _Run) -> AgentFinished:
        """Return the last event of a run, with the answer in the form that the task
        requires."""
        task = run.state.task
        answer = self._strategy.answer(run.state)
        value: Any = None
        if task.schema is not None:
            value, answer = await self._structured_answer(run, task, answer)
        # A last turn that still is not an answer is reported with the limit that ended
        # the run.
        is_complete = self._strategy.is_done(run.state)
        reason = "answer" if is_complete and not run.reason else run.reason or "answer"
        return _finished(run, self._now(), reason, answer, value)

    def _limit_reached(self, run: _Run) -> str:
        """Return the name of the limit that has been reached; "" if none."""
        limits = self._limits
        if limits.seconds and time.monotonic() - run.started_at > limits.seconds:
            return "time"
        if limits.tokens and run.usage.total_tokens >= limits.tokens:
            return "tokens"
        if limits.cost and (run.usage.total_price or Decimal(0)) >= Decimal(
            str(limits.cost)
        ):
            return "cost"
        if limits.tool_calls and run.calls >= limits.tool_calls:
            return "tool_calls"
        if run.looping >= 2:
            return "loop"
        return ""

    # the model

    def _turn_events(
        self, run: _Run, number: int
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Return the events of the model's next turn, which is appended to the state."""
        entry = run.recorded_steps.get(f"r{number}")
        if entry is not None:
            return self._replay_reply(run, number, entry)
        return self._call_model(run, number)

    async def _replay_reply(
        self, run: _Run, number: int, entry: RecordedStep
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Resumed run: emit the stored reply instead of calling the model again."""
        reply = _reply_from_step(entry)
        if reply.text:
            yield TextDelta(round=number, at=self._now(), text=reply.text)
        yield self._round_finished(run, number, reply, is_known=True)
        _append_turn(run, reply)

    async def _call_model(
        self, run: _Run, number: int
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Call the model for one turn and yield its deltas, then the finished turn.

        The reply is recorded before its last event is emitted, and appended to the
        state. Tool calls in a turn that must answer are dropped. Raises the model's
        error.
        """
        state = run.state
        request = self._strategy.ask(state)
        if self._context.user:
            request = msgspec.structs.replace(request, user=self._context.user)
        reader = self._strategy.reader(state)
        started_at = self._now()
        length = 0
        # The reader separates text for the user from reasoning and tool calls while
        # the response streams.
        async with aclosing(self._model.stream_llm(request)) as chunks:
            async for chunk in chunks:
                text = chunk.delta.message.text
                length += len(text)
                # Parsing (and repairing) JSON gets expensive only where JSON may end,
                # so only those chunks go to a thread.
                may_end_json = any(delimiter in text for delimiter in _JSON_END_CHARS)
                deltas = await run_in_thread_if_large(
                    length if may_end_json else 0, reader.feed, chunk
                )
                for event in self._delta_events(deltas, number):
                    yield event
        final_deltas, reply = await run_in_thread_if_large(length, reader.finish)
        for event in self._delta_events(final_deltas, number):
            yield event
        if state.is_last and reply.calls:
            # No tools were offered in the last turn, so its calls are dropped.
            reply.calls = []
            reply.message = msgspec.structs.replace(reply.message, tool_calls=[])
        # Saved before the event is emitted: a client must not see a reply that a
        # crash could lose.
        self._save_reply(number, reply)
        yield self._round_finished(run, number, reply, started_at=started_at)
        _append_turn(run, reply)

    def _save_reply(self, number: int, reply: ModelTurn) -> None:
        """Record a turn's reply under its number, as `r1`; nothing without a record."""
        if self._record is None:
            return
        self._record.save(
            RecordedStep(
                key=f"r{number}",
                text=reply.text,
                thought=reply.thought,
                calls=reply.calls,
                message=reply.message,
                usage=reply.usage,
                model=reply.model,
                finish_reason=reply.finish_reason,
            )
        )

    def _round_finished(
        self,
        run: _Run,
        number: int,
        reply: ModelTurn,
        *,
        started_at: float = 0.0,
        is_known: bool = False,
    ) -> RoundFinished:
        """Return the event for a finished turn.

        `started_at` is 0, and `is_known` is set, for a reply that was replayed from the
        record of an earlier process.
        """
        return RoundFinished(
            round=number,
            at=self._now(),
            text=reply.text,
            thought=reply.thought,
            calls=_with_call_ids(run, reply),
            usage=reply.usage,
            model=reply.model,
            started_at=started_at,
            is_known=is_known,
        )

    def _delta_events(
        self, deltas: Sequence[tuple[str, str]], number: int
    ) -> list[AnyAgentEvent]:
        """Return the events for a parser's deltas; all but `text` are thoughts."""
        return [
            (
                TextDelta(round=number, at=self._now(), text=text)
                if delta_type == "text"
                else ThoughtDelta(round=number, at=self._now(), text=text)
            )
            for delta_type, text in deltas
        ]

    # tools

    async def _execute_tool_calls(
        self, run: _Run, number: int, turn: Turn
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Execute the tool calls of a turn in parallel. Results are stored in the order
        of the calls."""
        if not turn.reply.calls:
            return
        pending = _pending_calls(run, number, turn)
        waiting = [step.call for step in pending if step.needs_approval]
        refusals = await self._get_refusals(waiting)
        if refusals is None:
            run.needs_approval = True
            yield ApprovalNeeded(round=number, at=self._now(), calls=waiting)
            return
        batch = _CallBatch(refusals, asyncio.Semaphore(max(1, self._limits.at_once)))
        try:
            for step in pending:
                if step.entry is None:
                    batch.start(self._execute_in_batch(run, step, batch))
                    continue
                # Resumed run: this call has a stored result and is not executed again.
                yield self._replay_call(run, step, step.entry, batch)
            while (event := await batch.next_event()) is not None:
                yield event
        finally:
            # The generator may be closed at any `yield`: running tools must not outlive
            # it.
            await batch.cancel()
        turn.results = [batch.results[index] for index in range(len(pending))]
        run.calls += len(pending)
        run.errors += sum(result.is_error for result in turn.results)
        self._detect_repetition(run, turn)

    def _replay_call(
        self, run: _Run, step: _CallStep, entry: RecordedStep, batch: _CallBatch
    ) -> ToolFinished:
        """Apply the stored result of a tool call and return its event."""
        batch.results[step.index] = Result(
            call=step.call, text=entry.observation, is_error=bool(entry.error)
        )
        if entry.is_cut:
            self._offer_results(run)
        run.files += entry.files
        run.sources += entry.sources
        # The tool is not called again: it may have written something.
        return ToolFinished(
            round=step.number,
            at=self._now(),
            call=step.call,
            observation=entry.observation,
            error=entry.error,
            arguments=entry.arguments,
            files=entry.files,
            values=entry.values,
            sources=entry.sources,
            seconds=entry.seconds,
            is_known=True,
        )

    async def _execute_in_batch(
        self, run: _Run, step: _CallStep, batch: _CallBatch
    ) -> None:
        """Execute one call and put its events and its result, or the error, on the
        batch's queue."""
        call = step.call
        try:
            async with batch.free_slots:
                batch.queue.put_nowait(
                    ToolStarted(round=step.number, at=self._now(), call=call)
                )
                refusal = batch.refusals.get(call.id, "")
                event = await self._execute_call(run, step, refusal)
                result = Result(
                    call=call, text=event.observation, is_error=bool(event.error)
                )
                batch.queue.put_nowait(event)
                batch.queue.put_nowait((step.index, result))
        except Exception as error:  # noqa: BLE001
            batch.queue.put_nowait(error)

    async def _get_refusals(
        self, waiting: Sequence[AgentCall]
    ) -> Mapping[str, str] | None:
        """Return call id → reason for refusal. None if the approval is still undecided."""
        if not waiting:
            return {}
        if self._approve is None:
            return {call.id: "nobody is there who could agree" for call in waiting}
        answer = await self._approve(waiting)
        return (
            answer
            if answer is None
            else {name: reason for name, reason in answer.items() if reason}
        )

    async def _execute_call(
        self, run: _Run, step: _CallStep, refusal: str
    ) -> ToolFinished:
        """Execute one tool call, record its result, and return its event.

        A call that is refused, fails or names an unknown tool gives an event with an
        error; the text for the model may be shortened. Files and sources are also added
        to the run's.
        """
        observation = await self._observe_call(run, step, refusal)
        files = await self._store_files(step, observation.gathered)
        text, is_cut = await self._shortened(run, step, observation.text)
        sources = observation.gathered.sources
        run.files += files
        run.sources += sources
        values = _truncate_values(observation.gathered.values)
        # Stored before anybody sees the event: a call whose result was shown is not
        # made again after a crash.
        if self._record is not None:
            self._record.save(
                RecordedStep(
                    key=step.key,
                    observation=text,
                    error=observation.error,
                    arguments=observation.arguments,
                    files=files,
                    values=values,
                    sources=sources,
                    seconds=observation.seconds,
                    is_cut=is_cut,
                )
            )
        return ToolFinished(
            round=step.number,
            at=self._now(),
            call=step.call,
            observation=text,
            error=observation.error,
            arguments=observation.arguments,
            files=files,
            values=values,
            sources=sources,
            seconds=observation.seconds,
        )

    async def _observe_call(
        self, run: _Run, step: _CallStep, refusal: str
    ) -> Observation:
        """Execute a tool call, or return why it is not executed."""
        if step.index >= self._limits.calls_a_round:
            return Observation(
                text=(
                    f"not called: at most {self._limits.calls_a_round} tools are called"
                    " in one turn"
                ),
                error="refused",
            )
        if refusal:
            return Observation(
                text=f"not called: permission was refused: {refusal}", error="refused"
            )
        # A tool that must not run twice: make sure the earlier steps are durable
        # before it starts.
        if self._record is not None and step.must_not_repeat:
            await self._record.mark_started(step.key)
        # The key lets the tool recognise a repeated call after a crash.
        context = replace(
            self._context,
            key=f"{self._context.key}/{step.key}" if self._context.key else "",
            call_id=step.call.id,
        )
        return await self._observe(run, step.tool, step.call, context)

    async def _store_files(
        self, step: _CallStep, output: ToolOutputCollector
    ) -> list[dict[str, Any]]:
        """Store a tool's files and return their descriptions.

        Empty if the tool returned none, or if there is nowhere to store them.
        """
        if self._store is None or not (output.blobs or output.links or output.files):
            return []
        return await self._store(step.key, output)

    async def _shortened(
        self, run: _Run, step: _CallStep, text: str
    ) -> tuple[str, bool]:
        """Return (text for the prompt, whether it was truncated). The complete text of
        a truncated result is saved, and can be read with a tool."""
        # An observation limit of 0 means that nothing is truncated.
        if not len(text) > self._limits.observation > 0:
            return text, False
        result_id = ""
        if self._results is not None:
            result_id = await self._results.save(step.key, text)
        text = truncate_middle(text, self._limits.observation, result_id=result_id)
        self._offer_results(run)
        return text, True

    async def _observe(
        self, run: _Run, tool: Tool | None, call: AgentCall, context: ToolContext
    ) -> Observation:
        """Execute a tool call within the time that remains for the run."""
        remaining_seconds = (
            self._limits.seconds - (time.monotonic() - run.started_at)
            if self._limits.seconds
            else None
        )
        try:
            async with asyncio.timeout(remaining_seconds):
                return await self._tools.observe(
                    tool, call.name, call.arguments, context
                )
        except TimeoutError:
            return Observation(
                text="not finished: the time of this run is over", error="time"
            )

    def _offer_results(self, run: _Run) -> None:
        """Offer the `read_result` tool from the next turn on, because a result was
        truncated."""
        task = run.state.task
        if self._results is not None and self._results.tool.name not in {
            tool.name for tool in task.tools
        }:
            task.tools = [*task.tools, self._results.tool]

    def _detect_repetition(self, run: _Run, turn: Turn) -> None:
        """Detect identical calls with identical results: warn the model first, end the
        run if it continues."""
        repeated = False
        # Identical calls within one turn count as one.
        distinct_results = {
            (result.call.name, result.call.arguments.strip()): result
            for result in turn.results
        }
        for key, result in distinct_results.items():
            previous_text, count = run.repeat_counts.get(key, ("", 0))
            count = count + 1 if previous_text == result.text else 1
            run.repeat_counts[key] = (result.text, count)
            if self._limits.repeats and count >= self._limits.repeats:
                repeated = True
                result.text += (
                    f"\n[This very call was made {count} times with the same result. Do"
                    " not make it again: answer, or do something else.]"
                )
        run.looping = run.looping + 1 if repeated else 0

    # answers by schema

    async def _structured_answer(
        self, run: _Run, task: Task, answer: str
    ) -> tuple[Any, str]:
        """Return (value, text) of the answer as JSON that satisfies the schema.

        If the answer does not, the model is asked once more. Raises
        StructuredAnswerError.
        """
        schema = dict(task.schema or {})
        # Parsing a long answer may take long, so it runs in a thread.
        value = await run_in_thread_if_large(
            len(answer), _parse_structured, answer, schema
        )
        if value is not None:
            return value, answer
        entry = run.recorded_steps.get("final")
        if entry is None:
            entry = await self._ask_for_json(run, task, answer, schema)
        value = await run_in_thread_if_large(
            len(entry.text), _parse_structured, entry.text, schema
        )
        if value is None:
            raise StructuredAnswerError(
                f"The answer does not match its JSON schema: {entry.text[:200]!r}"
            )
        return value, entry.text

    async def _ask_for_json(
        self, run: _Run, task: Task, answer: str, schema: dict[str, Any]
    ) -> RecordedStep:
        """Ask the model for its answer as JSON, and save the reply.

        The request has a `response_format`; models without support for it still see the
        schema in the text.
        """
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
        request = self._strategy.ask(run.state)
        messages = [
            *request.messages,
            AssistantPromptMessage(content=answer or "…"),
            UserPromptMessage(
                content=(
                    "Give your answer as JSON that fits this schema, and nothing"
                    " else:\n"
                )
                + msgspec.json.encode(schema).decode()
            ),
        ]
        structured_request = LLMRequest(
            messages=messages,
            model_parameters={**task.parameters, "response_format": response_format},
            user=request.user,
        )
        async with aclosing(self._model.stream_llm(structured_request)) as chunks:
            result = await LLMResult.collect(chunks)
        run.usage = _add_usage(run.usage, result.usage)
        entry = RecordedStep(key="final", text=result.text, usage=result.usage)
        if self._record is not None:
            self._record.save(entry)
        return entry


class StructuredAnswerError(ModelyardError):
    """The model's answer does not match the schema, even after a second request."""

    code = "invalid_answer"


# Only after one of these can a text have become complete JSON; trying to parse it after
# each chunk would cost quadratic time.
_JSON_END_CHARS = ("}", "]", "`")


def _parse_structured(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the JSON object in a text, coerced to a schema; None if impossible.

    Text around the object, such as a code fence, is ignored. Damaged JSON is repaired.
    """
    from modelyard.tools.entities import ToolError
    from modelyard.tools.values import coerce_arguments, read_arguments

    if "{" not in text:
        return None
    # Ignore text around the object, such as a code fence.
    start = text.find("{")
    try:
        arguments = read_arguments(
            text[start : text.rfind("}") + 1] or text[start:], {}
        )
        return coerce_arguments(arguments, schema)
    except ToolError:
        return None


def _reply_from_step(entry: RecordedStep) -> ModelTurn:
    """Return the model's turn that a recorded step holds."""
    return ModelTurn(
        text=entry.text,
        thought=entry.thought,
        calls=list(entry.calls),
        message=entry.message or AssistantPromptMessage(content=entry.text),
        usage=entry.usage or LLMUsage(),
        model=entry.model,
        finish_reason=entry.finish_reason,
    )


def _append_turn(run: _Run, reply: ModelTurn) -> None:
    """Add a reply of the model, and what it has used, to the run."""
    run.usage = _add_usage(run.usage, reply.usage)
    run.state.turns.append(Turn(reply=reply))


def _pending_calls(run: _Run, number: int, turn: Turn) -> list[_CallStep]:
    """Return the tool calls of a turn with their tools and their recorded results."""
    tools = {tool.name: tool for tool in run.state.task.tools}
    return [
        _CallStep(
            number=number,
            index=index,
            call=call,
            tool=tools.get(call.name),
            entry=run.recorded_steps.get(f"t{number}.{index}"),
        )
        for index, call in enumerate(turn.reply.calls)
    ]


def _add_usage(left: LLMUsage, right: LLMUsage) -> LLMUsage:
    """Return the sum of two usages.

    If their currencies differ, tokens are added up and the total price is unknown.
    """
    try:
        return left.plus(right)
    # The currency changed after a failover: tokens can be added up, prices cannot.
    except ValueError:
        return msgspec.structs.replace(
            right,
            prompt_tokens=left.prompt_tokens + right.prompt_tokens,
            completion_tokens=left.completion_tokens + right.completion_tokens,
            total_tokens=left.total_tokens + right.total_tokens,
            total_price=None,
        )


def _truncate_values(values: Sequence[Any]) -> list[Any]:
    """Return the values for the event, or an empty list if they are too large to
    display."""
    try:
        return list(values) if len(msgspec.json.encode(list(values))) < 100_000 else []
    except (TypeError, ValueError):
        return []


def _finished(
    run: _Run, now: float, reason: str, text: str, value: Any = None
) -> AgentFinished:
    """Return the last event of a run, with its totals.

    `now` is in Unix seconds. `reason` says why it ended: `answer`, `approval`, or the
    name of a limit. `value` is the answer as data if the task asked for a schema.
    """
    return AgentFinished(
        round=len(run.state.turns),
        at=now,
        text=text,
        reason=reason,
        usage=run.usage,
        rounds=len(run.state.turns),
        tool_calls=run.calls,
        tool_errors=run.errors,
        value=value,
        files=run.files,
        sources=run.sources,
        seconds=time.monotonic() - run.started_at,
    )


def _with_call_ids(run: _Run, reply: ModelTurn) -> list[AgentCall]:
    """Add the tools' label, provider and kind to a reply's calls, and return them.

    The reply is changed in place. A call of an unknown tool stays as it is.
    """
    # Clients that show the calls need these display data.
    entities = {tool.name: tool.entity for tool in run.state.task.tools}
    reply.calls = [_with_display_data(call, entities) for call in reply.calls]
    return reply.calls


def _with_display_data(
    call: AgentCall, entities: Mapping[str, ToolEntity]
) -> AgentCall:
    """Return a call with the label and the provider of its tool; unchanged for a tool
    that does not exist."""
    entity = entities.get(call.name)
    if entity is None:
        return call
    return msgspec.structs.replace(
        call, label=entity.label, provider=entity.provider, kind=entity.kind
    )
