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
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
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
from modelyard.tools.entities import Tool, ToolContext
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
        """Run the task and yield its events; `AgentFinished` is the last.

        Raises the model's error if no answer is possible.
        """
        # Monotonic time for limits; `clock` is only for the timestamps of events.
        started_at = time.monotonic()
        run = _Run(State(task=task), started_at)
        if self._record is not None:
            # Steps of an earlier process: they are replayed instead of executed.
            run.recorded_steps = {entry.key: entry for entry in self._record.entries()}
        max_iterations = min(max(0, self._limits.iterations), MAX_ITERATIONS)
        while True:
            number = run.state.round
            # Limits are checked before each turn; the turn after a limit runs without
            # tools and must answer.
            run.reason = run.reason or self._limit_reached(run)
            run.state.is_last = bool(run.reason) or (number > max_iterations)
            if number > 1 and run.state.is_last and not run.reason:
                run.reason = "iterations"
            yield RoundStarted(round=number, at=self._now(), is_last=run.state.is_last)
            async with aclosing(self._call_model(run, number)) as events:
                async for event in events:
                    yield event
            turn = run.state.turns[-1]
            if self._strategy.is_done(run.state) or run.state.is_last:
                break
            if not turn.reply.calls:
                continue
            # Tools run only if the model has not finished.
            async with aclosing(self._execute_tool_calls(run, number, turn)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, ApprovalNeeded):
                        yield self._finished(run, "approval", "")
                        return
        answer = self._strategy.answer(run.state)
        value: Any = None
        if task.schema is not None:
            value, answer = await self._structured_answer(run, task, answer)
        # A last turn that still is not an answer is reported with the limit that ended
        # the run.
        is_complete = self._strategy.is_done(run.state)
        reason = "answer" if is_complete and not run.reason else run.reason or "answer"
        yield self._finished(run, reason, answer, value)

    def _finished(
        self, run: _Run, reason: str, text: str, value: Any = None
    ) -> AgentFinished:
        return AgentFinished(
            round=len(run.state.turns),
            at=self._now(),
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

    async def _call_model(
        self, run: _Run, number: int
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        # Resumed run: emit the stored reply instead of calling the model again.
        if (entry := run.recorded_steps.get(f"r{number}")) is not None:
            reply = _reply_from_step(entry)
            if reply.text:
                yield TextDelta(round=number, at=self._now(), text=reply.text)
            yield RoundFinished(
                round=number,
                at=self._now(),
                text=reply.text,
                thought=reply.thought,
                calls=self._with_call_ids(run, reply),
                usage=reply.usage,
                model=reply.model,
                is_known=True,
            )
        else:
            state = run.state
            request = self._strategy.ask(state)
            if self._context.user:
                request = msgspec.structs.replace(request, user=self._context.user)
            reader = self._strategy.reader(state)
            started = self._now()
            # The reader separates text for the user from reasoning and tool calls while
            # the response streams.
            async with aclosing(self._model.stream_llm(request)) as chunks:
                length = 0
                async for chunk in chunks:
                    text = chunk.delta.message.text
                    length += len(text)
                    # Parsing gets expensive only where JSON may end, so only those
                    # chunks go to a thread.
                    ends = any(
                        delimiter in text for delimiter in _JSON_END_CHARS
                    )  # of JSON: it is read, and mended where it nearly is some
                    for event in self._delta_events(
                        await run_in_thread_if_large(
                            length if ends else 0, reader.feed, chunk
                        ),
                        number,
                    ):
                        yield event
            final_deltas, reply = await run_in_thread_if_large(length, reader.finish)
            for event in self._delta_events(final_deltas, number):
                yield event
            if (
                state.is_last and reply.calls
            ):  # it was offered none, and asks all the same
                reply.calls = []
                reply.message = msgspec.structs.replace(reply.message, tool_calls=[])
            # Saved before the event is emitted: a client must not see a reply that a
            # crash could lose.
            if self._record is not None:
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
            yield RoundFinished(
                round=number,
                at=self._now(),
                text=reply.text,
                thought=reply.thought,
                calls=self._with_call_ids(run, reply),
                usage=reply.usage,
                model=reply.model,
                started_at=started,
            )
        run.usage = _add_usage(run.usage, reply.usage)
        run.state.turns.append(Turn(reply=reply))

    def _delta_events(
        self, deltas: Sequence[tuple[str, str]], number: int
    ) -> list[AnyAgentEvent]:
        return [
            (
                TextDelta(round=number, at=self._now(), text=text)
                if delta_type == "text"
                else ThoughtDelta(round=number, at=self._now(), text=text)
            )
            for delta_type, text in deltas
        ]

    @staticmethod
    def _with_call_ids(run: _Run, reply: ModelTurn) -> list[AgentCall]:
        # Add display data of the tools to the calls, for clients that show them.
        entities = {tool.name: tool.entity for tool in run.state.task.tools}
        reply.calls = [
            (
                msgspec.structs.replace(
                    call, label=entity.label, provider=entity.provider, kind=entity.kind
                )
                if (entity := entities.get(call.name)) is not None
                else call
            )
            for call in reply.calls
        ]
        return reply.calls

    # tools

    async def _execute_tool_calls(
        self, run: _Run, number: int, turn: Turn
    ) -> AsyncGenerator[AnyAgentEvent, None]:
        """Execute the tool calls of a turn in parallel. Results are stored in the order
        of the calls."""
        calls = turn.reply.calls
        byname = {tool.name: tool for tool in run.state.task.tools}
        results: dict[int, Result] = {}
        # Calls that need approval and were not executed by an earlier process.
        waiting = [
            call
            for index, call in enumerate(calls)
            if f"t{number}.{index}" not in run.recorded_steps
            and (tool := byname.get(call.name)) is not None
            and tool.entity.needs_approval
        ]
        refused = await self._get_refusals(waiting)
        if refused is None:
            yield ApprovalNeeded(round=number, at=self._now(), calls=waiting)
            return
        # Workers put events on one queue, so that events of parallel calls are emitted
        # as they occur.
        queue: asyncio.Queue[AnyAgentEvent | tuple[int, Result] | BaseException] = (
            asyncio.Queue()
        )
        room = asyncio.Semaphore(max(1, self._limits.at_once))

        async def work(index: int, call: AgentCall) -> None:
            """Execute one call and put its events and its result, or the error, on the
            queue."""
            try:
                async with room:
                    queue.put_nowait(
                        ToolStarted(round=number, at=self._now(), call=call)
                    )
                    event = await self._execute_call(
                        run,
                        number,
                        index,
                        call,
                        byname.get(call.name),
                        refused.get(call.id, ""),
                    )
                    queue.put_nowait(event)
                    queue.put_nowait(
                        (
                            index,
                            Result(
                                call=call,
                                text=event.observation,
                                is_error=bool(event.error),
                            ),
                        )
                    )
            except Exception as error:  # noqa: BLE001
                queue.put_nowait(error)

        tasks: list[asyncio.Task[None]] = []
        try:
            for index, call in enumerate(calls):
                # Resumed run: this call has a stored result and is not executed again.
                if (entry := run.recorded_steps.get(f"t{number}.{index}")) is not None:
                    results[index] = Result(
                        call=call, text=entry.observation, is_error=bool(entry.error)
                    )
                    if entry.is_cut:
                        self._offer_results(run)
                    run.files += entry.files
                    run.sources += entry.sources
                    yield ToolFinished(
                        round=number,
                        at=self._now(),
                        call=call,
                        observation=entry.observation,
                        error=entry.error,
                        arguments=entry.arguments,
                        files=entry.files,
                        values=entry.values,
                        sources=entry.sources,
                        seconds=entry.seconds,
                        is_known=True,
                    )
                else:
                    tasks.append(asyncio.ensure_future(work(index, call)))
            # Each task puts exactly one result or error on the queue last.
            left = len(tasks)
            while left:
                outcome = await queue.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                # A tuple is the result of a task, anything else an event.
                if isinstance(outcome, tuple):
                    results[outcome[0]] = outcome[1]
                    left -= 1
                else:
                    yield outcome
        # The generator may be closed at any `yield`: running tools must not outlive it.
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)
        turn.results = [results[index] for index in range(len(calls))]
        run.calls += len(calls)
        run.errors += sum(result.is_error for result in turn.results)
        self._detect_repetition(run, turn)

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
        self,
        run: _Run,
        number: int,
        index: int,
        call: AgentCall,
        tool: Tool | None,
        refused: str,
    ) -> ToolFinished:
        key = f"t{number}.{index}"
        if index >= self._limits.calls_a_round:
            observation = Observation(
                text=(
                    f"not called: at most {self._limits.calls_a_round} tools are called"
                    " in one turn"
                ),
                error="refused",
            )
        elif refused:
            observation = Observation(
                text=f"not called: permission was refused: {refused}", error="refused"
            )
        else:
            # The model can only call tools that were offered to it, whatever name it
            # uses.
            # A tool that must not run twice: make sure the earlier steps are durable
            # before it starts.
            if (
                self._record is not None
                and tool is not None
                and not tool.entity.is_repeatable
            ):
                await self._record.mark_started(key)
            # The key lets the tool recognise a repeated call after a crash.
            context = replace(
                self._context,
                key=f"{self._context.key}/{key}" if self._context.key else "",
            )
            observation = await self._observe(run, tool, call, context)
        files: list[dict[str, Any]] = []
        if self._store is not None and (
            observation.gathered.blobs
            or observation.gathered.links
            or observation.gathered.files
        ):
            files = await self._store(key, observation.gathered)
        text = observation.text
        # An observation limit of 0 means that nothing is truncated.
        is_cut = len(text) > self._limits.observation > 0
        if is_cut:
            result_id = (
                await self._results.save(key, text) if self._results is not None else ""
            )
            text = truncate_middle(text, self._limits.observation, result_id=result_id)
            self._offer_results(run)
        sources = observation.gathered.sources
        run.files += files
        run.sources += sources
        values = _truncate_values(observation.gathered.values)
        if self._record is not None:
            self._record.save(
                RecordedStep(
                    key=key,
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
            round=number,
            at=self._now(),
            call=call,
            observation=text,
            error=observation.error,
            arguments=observation.arguments,
            files=files,
            values=values,
            sources=sources,
            seconds=observation.seconds,
        )

    async def _observe(
        self, run: _Run, tool: Tool | None, call: AgentCall, context: ToolContext
    ) -> Observation:
        """Execute a tool call within the time that remains for the run."""
        left = (
            self._limits.seconds - (time.monotonic() - run.started_at)
            if self._limits.seconds
            else None
        )
        try:
            async with asyncio.timeout(left):
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
        once = {
            (result.call.name, result.call.arguments.strip()): result
            for result in turn.results
        }  # twice in a turn is once
        for key, result in once.items():
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
            # Ask with `response_format`; models without support for it still see the
            # schema in the text.
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
                model_parameters={
                    **task.parameters,
                    "response_format": response_format,
                },
                user=request.user,
            )
            async with aclosing(self._model.stream_llm(structured_request)) as chunks:
                result = await LLMResult.collect(chunks)
            run.usage = _add_usage(run.usage, result.usage)
            entry = RecordedStep(key="final", text=result.text, usage=result.usage)
            if self._record is not None:
                self._record.save(entry)
        value = await run_in_thread_if_large(
            len(entry.text), _parse_structured, entry.text, schema
        )
        if value is None:
            raise StructuredAnswerError(
                f"the answer does not fit its schema: {entry.text[:200]!r}"
            )
        return value, entry.text


class StructuredAnswerError(ModelyardError):
    """The model's answer does not satisfy the schema, even after a second request."""

    code = "invalid_answer"


_JSON_END_CHARS = ("}", "]", "`")


def _parse_structured(text: str, schema: Mapping[str, Any]) -> Any:
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
    return ModelTurn(
        text=entry.text,
        thought=entry.thought,
        calls=list(entry.calls),
        message=entry.message or AssistantPromptMessage(content=entry.text),
        usage=entry.usage or LLMUsage(),
        model=entry.model,
        finish_reason=entry.finish_reason,
    )


def _add_usage(left: LLMUsage, right: LLMUsage) -> LLMUsage:
    try:
        return left.plus(right)
    except ValueError:  # a failover between currencies: tokens add up, money does not
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
