"""The loop: ask, read, call what is wanted, look at what came of it, ask again, until there is an answer or a limit.

One task owns a run. What it does comes out as events while it happens; closing the generator stops model and tools at
once. With a `Record` each reply and each result is kept as it comes: a run that goes on after a crash reads them back,
and calls no tool a second time whose result it has.
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
from modelyard.agents.state import ABSOLUTE_MOST, AgentLimits, Reply, Result, State, Strategy, Task, Turn
from modelyard.base.errors import ModelyardError
from modelyard.base.mending import apart
from modelyard.models.llm import LLMRequest, LLMResult, LLMResultChunk, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, UserPromptMessage
from modelyard.tools.entities import Tool, ToolContext
from modelyard.tools.manager import Observation, ToolManager
from modelyard.tools.observation import Gathering, cut


class Model(Protocol):
    """What a loop needs of a model: a ModelInstance is one."""

    def stream_llm(self, request: LLMRequest) -> AsyncGenerator[LLMResultChunk, None]: ...


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a step: a reply under `r1`, `r2`, …, a result under `t1.0`, `t1.1`, …"""

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
    """The observation is a part of what came."""


class Record(Protocol):
    def entries(self) -> Sequence[Entry]:
        """What was kept, in order."""
        ...

    async def about_to(self, key: str) -> None:
        """A tool is called: done when all that was kept before is safe."""
        ...

    def keep(self, entry: Entry) -> None: ...


Approve = Callable[[Sequence[AgentCall]], Awaitable[Mapping[str, str] | None]]
"""Asks for agreement: call id → empty where it is granted, else why not. None: nobody has said yet, so it waits."""
Store = Callable[[str, Gathering], Awaitable[list[dict[str, Any]]]]
"""Keeps a result's files: they are described to whoever watches."""


class Results(Protocol):
    """Where results that are too long for a prompt are kept while the run lasts."""

    @property
    def tool(self) -> Tool:
        """Gives them to the model, a part at a time."""
        ...

    async def keep(self, key: str, text: str) -> str:
        """The name that the tool knows it by."""
        ...


@dataclass(slots=True)
class _Run:
    state: State
    began: float
    usage: LLMUsage = field(default_factory=LLMUsage)
    calls: int = 0
    errors: int = 0
    files: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seen: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict[tuple[str, str], tuple[str, int]])
    known: dict[str, Entry] = field(default_factory=dict[str, Entry])
    looping: int = 0
    reason: str = ""


class AgentLoop:
    """`context` says for whom; each call has its own key, derived from the context's."""

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        tools: ToolManager,
        *,
        limits: AgentLimits | None = None,
        context: ToolContext | None = None,
        record: Record | None = None,
        approve: Approve | None = None,
        store: Store | None = None,
        results: Results | None = None,
        now: Callable[[], float] = time.time,
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
        self._now = now

    async def run(self, task: Task) -> AsyncGenerator[AnyAgentEvent, None]:
        """Events, `AgentFinished` last. Raises what the model raises where nothing can be answered."""
        began = time.monotonic()
        run = _Run(State(task=task), began)
        if self._record is not None:
            run.known = {one.key: one for one in self._record.entries()}
        most = min(max(0, self._limits.iterations), ABSOLUTE_MOST)
        while True:
            number = run.state.round
            run.reason = run.reason or self._over(run)
            run.state.is_last = bool(run.reason) or (number > most)
            if number > 1 and run.state.is_last and not run.reason:
                run.reason = "iterations"
            yield RoundStarted(round=number, at=self._now(), is_last=run.state.is_last)
            async with aclosing(self._ask(run, number)) as events:
                async for event in events:
                    yield event
            turn = run.state.turns[-1]
            if self._strategy.is_done(run.state) or run.state.is_last:
                break
            if not turn.reply.calls:
                continue
            async with aclosing(self._act(run, number, turn)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, ApprovalNeeded):
                        yield self._finished(run, "approval", "")
                        return
        answer = self._strategy.answer(run.state)
        value: Any = None
        if task.schema is not None:
            value, answer = await self._structured(run, task, answer)
        is_whole = self._strategy.is_done(run.state)
        reason = "answer" if is_whole and not run.reason else run.reason or "answer"
        yield self._finished(run, reason, answer, value)

    def _finished(self, run: _Run, reason: str, text: str, value: Any = None) -> AgentFinished:
        return AgentFinished(
            round=len(run.state.turns), at=self._now(), text=text, reason=reason, usage=run.usage,
            rounds=len(run.state.turns), tool_calls=run.calls, tool_errors=run.errors, value=value, files=run.files,
            sources=run.sources, seconds=time.monotonic() - run.began,
        )  # fmt: skip

    def _over(self, run: _Run) -> str:
        """Which limit is reached; empty for none."""
        limits = self._limits
        if limits.seconds and time.monotonic() - run.began > limits.seconds:
            return "time"
        if limits.tokens and run.usage.total_tokens >= limits.tokens:
            return "tokens"
        if limits.cost and (run.usage.total_price or Decimal(0)) >= Decimal(str(limits.cost)):
            return "cost"
        if limits.tool_calls and run.calls >= limits.tool_calls:
            return "tool_calls"
        if run.looping >= 2:
            return "loop"
        return ""

    # the model

    async def _ask(self, run: _Run, number: int) -> AsyncGenerator[AnyAgentEvent, None]:
        if (known := run.known.get(f"r{number}")) is not None:
            reply = _reply_of(known)
            if reply.text:
                yield TextDelta(round=number, at=self._now(), text=reply.text)
            yield RoundFinished(
                round=number, at=self._now(), text=reply.text, thought=reply.thought, calls=self._labelled(run, reply),
                usage=reply.usage, model=reply.model, is_known=True,
            )  # fmt: skip
        else:
            state = run.state
            request = self._strategy.ask(state)
            if self._context.user:
                request = msgspec.structs.replace(request, user=self._context.user)
            reader = self._strategy.reader(state)
            started = self._now()
            async with aclosing(self._model.stream_llm(request)) as chunks:
                length = 0
                async for chunk in chunks:
                    text = chunk.delta.message.text
                    length += len(text)
                    ends = any(
                        sign in text for sign in _ENDS
                    )  # of JSON: it is read, and mended where it nearly is some
                    for event in self._pieces(await apart(length if ends else 0, reader.feed, chunk), number):
                        yield event
            rest, reply = await apart(length, reader.finish)
            for event in self._pieces(rest, number):
                yield event
            if state.is_last and reply.calls:  # it was offered none, and asks all the same
                reply.calls = []
                reply.message = msgspec.structs.replace(reply.message, tool_calls=[])
            if self._record is not None:
                self._record.keep(Entry(
                    key=f"r{number}", text=reply.text, thought=reply.thought, calls=reply.calls, message=reply.message,
                    usage=reply.usage, model=reply.model, finish_reason=reply.finish_reason,
                ))  # fmt: skip
            yield RoundFinished(
                round=number, at=self._now(), text=reply.text, thought=reply.thought, calls=self._labelled(run, reply),
                usage=reply.usage, model=reply.model, started_at=started,
            )  # fmt: skip
        run.usage = _plus(run.usage, reply.usage)
        run.state.turns.append(Turn(reply=reply))

    def _pieces(self, pieces: Sequence[tuple[str, str]], number: int) -> list[AnyAgentEvent]:
        return [
            TextDelta(round=number, at=self._now(), text=text)
            if kind == "text"
            else ThoughtDelta(round=number, at=self._now(), text=text)
            for kind, text in pieces
        ]

    @staticmethod
    def _labelled(run: _Run, reply: Reply) -> list[AgentCall]:
        known = {one.name: one.entity for one in run.state.task.tools}
        reply.calls = [
            msgspec.structs.replace(one, label=entity.label, provider=entity.provider, kind=entity.kind)
            if (entity := known.get(one.name)) is not None
            else one
            for one in reply.calls
        ]
        return reply.calls

    # tools

    async def _act(self, run: _Run, number: int, turn: Turn) -> AsyncGenerator[AnyAgentEvent, None]:
        """All calls of a turn, side by side; their results in the calls' order."""
        calls = turn.reply.calls
        byname = {one.name: one for one in run.state.task.tools}
        results: dict[int, Result] = {}
        waiting = [
            call for at, call in enumerate(calls)
            if f"t{number}.{at}" not in run.known
            and (tool := byname.get(call.name)) is not None and tool.entity.needs_approval
        ]  # fmt: skip
        refused = await self._refused(waiting)
        if refused is None:
            yield ApprovalNeeded(round=number, at=self._now(), calls=waiting)
            return
        queue: asyncio.Queue[AnyAgentEvent | tuple[int, Result] | BaseException] = asyncio.Queue()
        room = asyncio.Semaphore(max(1, self._limits.at_once))

        async def work(at: int, call: AgentCall) -> None:
            try:
                async with room:
                    queue.put_nowait(ToolStarted(round=number, at=self._now(), call=call))
                    found = await self._call(run, number, at, call, byname.get(call.name), refused.get(call.id, ""))
                    queue.put_nowait(found)
                    queue.put_nowait((at, Result(
                        call=call, text=found.observation, is_error=bool(found.error)
                    )))  # fmt: skip
            except Exception as error:  # noqa: BLE001  handed to whoever runs the loop
                queue.put_nowait(error)

        tasks: list[asyncio.Task[None]] = []
        try:
            for at, call in enumerate(calls):
                if (known := run.known.get(f"t{number}.{at}")) is not None:
                    results[at] = Result(call=call, text=known.observation, is_error=bool(known.error))
                    if known.is_cut:
                        self._offer_results(run)
                    run.files += known.files
                    run.sources += known.sources
                    yield ToolFinished(
                        round=number, at=self._now(), call=call, observation=known.observation, error=known.error,
                        arguments=known.arguments, files=known.files, values=known.values, sources=known.sources,
                        seconds=known.seconds, is_known=True,
                    )  # fmt: skip
                else:
                    tasks.append(asyncio.ensure_future(work(at, call)))
            left = len(tasks)
            while left:
                one = await queue.get()
                if isinstance(one, BaseException):
                    raise one
                if isinstance(one, tuple):
                    results[one[0]] = one[1]
                    left -= 1
                else:
                    yield one
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.gather(*tasks, return_exceptions=True)
        turn.results = [results[at] for at in range(len(calls))]
        run.calls += len(calls)
        run.errors += sum(one.is_error for one in turn.results)
        self._watch_loops(run, turn)

    async def _refused(self, waiting: Sequence[AgentCall]) -> Mapping[str, str] | None:
        """Call id → why it must not be made; None where nobody has said yet."""
        if not waiting:
            return {}
        if self._approve is None:
            return {one.id: "nobody is there who could agree" for one in waiting}
        answer = await self._approve(waiting)
        return answer if answer is None else {name: why for name, why in answer.items() if why}

    async def _call(
        self, run: _Run, number: int, at: int, call: AgentCall, tool: Tool | None, refused: str
    ) -> ToolFinished:
        key = f"t{number}.{at}"
        if at >= self._limits.calls_a_round:
            found = Observation(
                text=f"not called: at most {self._limits.calls_a_round} tools are called in one turn", error="refused"
            )
        elif refused:
            found = Observation(text=f"not called: permission was refused: {refused}", error="refused")
        else:
            # Whatever a model calls a tool by, it is called only if it is among those that were given.
            if self._record is not None and tool is not None and not tool.entity.is_repeatable:
                await self._record.about_to(key)
            context = replace(self._context, key=f"{self._context.key}/{key}" if self._context.key else "")
            found = await self._observed(run, tool, call, context)
        files: list[dict[str, Any]] = []
        if self._store is not None and (found.gathered.blobs or found.gathered.links or found.gathered.files):
            files = await self._store(key, found.gathered)
        text = found.text
        is_cut = len(text) > self._limits.observation > 0
        if is_cut:
            kept = await self._results.keep(key, text) if self._results is not None else ""
            text = cut(text, self._limits.observation, kept_as=kept)
            self._offer_results(run)
        sources = found.gathered.sources
        run.files += files
        run.sources += sources
        values = _small(found.gathered.values)
        if self._record is not None:
            self._record.keep(Entry(
                key=key, observation=text, error=found.error, arguments=found.arguments, files=files, values=values,
                sources=sources, seconds=found.seconds, is_cut=is_cut,
            ))  # fmt: skip
        return ToolFinished(
            round=number, at=self._now(), call=call, observation=text, error=found.error, arguments=found.arguments,
            files=files, values=values, sources=sources, seconds=found.seconds,
        )  # fmt: skip

    async def _observed(self, run: _Run, tool: Tool | None, call: AgentCall, context: ToolContext) -> Observation:
        """The time of the whole run holds for tools too."""
        left = self._limits.seconds - (time.monotonic() - run.began) if self._limits.seconds else None
        try:
            async with asyncio.timeout(left):
                return await self._tools.observe(tool, call.name, call.arguments, context)
        except TimeoutError:
            return Observation(text="not finished: the time of this run is over", error="time")

    def _offer_results(self, run: _Run) -> None:
        """From now on the model may look at what was cut."""
        task = run.state.task
        if self._results is not None and self._results.tool.name not in {one.name for one in task.tools}:
            task.tools = [*task.tools, self._results.tool]

    def _watch_loops(self, run: _Run, turn: Turn) -> None:
        """The same call with the same result, again and again: the model is told, then the run ends."""
        repeated = False
        once = {(one.call.name, one.call.arguments.strip()): one for one in turn.results}  # twice in a turn is once
        for key, one in once.items():
            before, count = run.seen.get(key, ("", 0))
            count = count + 1 if before == one.text else 1
            run.seen[key] = (one.text, count)
            if self._limits.repeats and count >= self._limits.repeats:
                repeated = True
                one.text += (
                    f"\n[This very call was made {count} times with the same result. Do not make it again: answer, or "
                    "do something else.]"
                )
        run.looping = run.looping + 1 if repeated else 0

    # answers by schema

    async def _structured(self, run: _Run, task: Task, answer: str) -> tuple[Any, str]:
        """The answer as JSON that satisfies the schema; asked for once more where it is not."""
        schema = dict(task.schema or {})
        found = await apart(len(answer), _fits, answer, schema)
        if found is not None:
            return found, answer
        known = run.known.get("final")
        if known is None:
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            request = self._strategy.ask(run.state)
            messages = [*request.messages, AssistantPromptMessage(content=answer or "…"), UserPromptMessage(
                content="Give your answer as JSON that fits this schema, and nothing else:\n"
                + msgspec.json.encode(schema).decode()
            )]  # fmt: skip
            asked = LLMRequest(
                messages=messages, model_parameters={**task.parameters, "response_format": form}, user=request.user
            )
            async with aclosing(self._model.stream_llm(asked)) as chunks:
                whole = await LLMResult.collect(chunks)
            run.usage = _plus(run.usage, whole.usage)
            known = Entry(key="final", text=whole.text, usage=whole.usage)
            if self._record is not None:
                self._record.keep(known)
        found = await apart(len(known.text), _fits, known.text, schema)
        if found is None:
            raise StructuredAnswerError(f"the answer does not fit its schema: {known.text[:200]!r}")
        return found, known.text


class StructuredAnswerError(ModelyardError):
    """The model gave no answer that its schema allows, though it was asked twice."""

    code = "invalid_answer"


_ENDS = ("}", "]", "`")


def _fits(text: str, schema: Mapping[str, Any]) -> Any:
    from modelyard.tools.entities import ToolError
    from modelyard.tools.values import fitted, read_arguments

    if "{" not in text:
        return None
    begin = text.find("{")
    try:
        found = read_arguments(text[begin : text.rfind("}") + 1] or text[begin:], {})
        return fitted(found, schema)
    except ToolError:
        return None


def _reply_of(entry: Entry) -> Reply:
    return Reply(
        text=entry.text, thought=entry.thought, calls=list(entry.calls),
        message=entry.message or AssistantPromptMessage(content=entry.text), usage=entry.usage or LLMUsage(),
        model=entry.model, finish_reason=entry.finish_reason,
    )  # fmt: skip


def _plus(one: LLMUsage, other: LLMUsage) -> LLMUsage:
    try:
        return one.plus(other)
    except ValueError:  # a failover between currencies: tokens add up, money does not
        return msgspec.structs.replace(
            other, prompt_tokens=one.prompt_tokens + other.prompt_tokens,
            completion_tokens=one.completion_tokens + other.completion_tokens,
            total_tokens=one.total_tokens + other.total_tokens, total_price=None,
        )  # fmt: skip


def _small(values: Sequence[Any]) -> list[Any]:
    """Values as they are shown beside: none that is larger than a prompt would take."""
    try:
        return list(values) if len(msgspec.json.encode(list(values))) < 100_000 else []
    except (TypeError, ValueError):
        return []
