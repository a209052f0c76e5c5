"""A run always ends, whatever its nodes deliver and whatever cannot be written."""

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.base.errors import NotFoundError
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.testing.workflows import StubAgents
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunFailed,
    GraphRunStarted,
    NodeRunFailed,
    NodeRunStarted,
    NodeRunSucceeded,
    dump_event,
)
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.node import Limits, Services
from modelyard.workflow.run_events import RunProgress
from modelyard.workflow.runs import Runs
from modelyard.workflow.single_run import new_run_id
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench
from tests.workflow.test_runs import LingeringTools

pytestmark = pytest.mark.proof("workflow-cases")

LONE = "a\ud83d b"
MENDED = "a\N{REPLACEMENT CHARACTER} b"
START = {"start": {"type": "start", "variables": []}}
TOOL = {"type": "tool", "provider_id": "p", "tool_name": "t"}


def app_with(node: dict[str, Any], output: str) -> App:
    """Return a workflow of one node, whose output is the run's output `r`."""
    end = {
        "type": "end",
        "outputs": [{"variable": "r", "value_selector": ["x", output]}],
    }
    return app_of({**START, "x": node, "end": end}, ["start > x", "x > end"])


# ------------------------------------------------------------------ what nodes deliver


def _model_says(bench: Bench) -> None:
    bench.model.answers.append((".", LONE))


def _tool_says(bench: Bench) -> None:
    bench.tools.messages["t"] = [{"type": "text", "message": {"text": LONE}}]


def _tool_sets_variable(bench: Bench) -> None:
    message = {"variable_name": "v", "variable_value": {"k": [LONE]}}
    bench.tools.messages["t"] = [{"type": "variable", "message": message}]


def _agent_says(bench: Bench) -> None:
    bench.agents.messages.append({"type": "text", "message": {"text": LONE}})


def _segment_says(bench: Bench) -> None:
    bench.datasets.segments.append({"title": "t", "content": LONE, "metadata": {}})


def _nothing(bench: Bench) -> None:
    del bench


CODE = {
    "type": "code",
    "code_language": "python3",
    "variables": [],
    "code": "def main():\n    return {'r': 'a\\ud83d b'}\n",
    "outputs": {"r": {"type": "string"}},
}
TEXT_NODES = [
    pytest.param(CODE, "r", _nothing, id="code"),
    pytest.param(
        {**CODE, "code_language": "javascript", "code": 'function main() { return {r: "a\\ud83d b"} }'},
        "r", _nothing, id="javascript",
    ),
    pytest.param(
        {"type": "template-transform", "template": '{{ "a\\ud83d b" }}', "variables": []},
        "output", _nothing, id="template",
    ),
    pytest.param(
        {"type": "template-transform", "template": '{% set x = "a\\ud83d b" %}{{ [x]|pprint|length }}{{ x }}', "variables": []},
        "output", _nothing, id="template in the sandbox",
    ),
    pytest.param(
        {"type": "llm", "prompt_template": [{"role": "user", "text": "q"}]},
        "text", _model_says, id="llm",
    ),
    pytest.param(TOOL, "text", _tool_says, id="tool"),
    pytest.param(TOOL, "v", _tool_sets_variable, id="tool variable"),
    pytest.param(
        {"type": "knowledge-retrieval", "query_variable_selector": ["sys", "workflow_run_id"], "dataset_ids": ["d"]},
        "result", _segment_says, id="retrieval",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("node", "output", "prepare"), TEXT_NODES)
def test_lone_surrogates_become_replacement_characters(
    bench: Bench, node: dict[str, Any], output: str, prepare: Callable[[Bench], None]
):
    prepare(bench)
    outcome, events = bench.run(app_with(node, output))
    assert outcome.status is Status.SUCCEEDED, outcome.error
    assert MENDED in str(outcome.outputs["r"])
    for event in events:
        dump_event(event)


def test_streamed_text_is_mended_like_the_output(bench: Bench):
    _model_says(bench)
    llm = {"type": "llm", "prompt_template": [{"role": "user", "text": "q"}]}
    answer = {"type": "answer", "answer": "<{{#x.text#}}>"}
    app = app_of(
        {**START, "x": llm, "answer": answer},
        ["start > x", "x > answer"],
        mode="advanced-chat",
    )
    outcome, events = bench.run(app, query="q")
    assert outcome.outputs["answer"] == f"<{MENDED}>"
    assert b"".join(dump_event(event) for event in events)


def _variable_of(value: Any) -> dict[str, Any]:
    return {
        "type": "variable",
        "message": {"variable_name": "v", "variable_value": value},
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(math.nan, "which JSON cannot express", id="nan"),
        pytest.param([math.inf], "which JSON cannot express", id="infinity"),
        pytest.param(2**2000, "integer of more than", id="huge integer"),
        pytest.param(b"\xff", "has the type 'bytes'", id="bytes"),
        pytest.param("x" * (50 << 20), "larger than 16 MB", id="50 MB"),
    ],
)
def test_a_value_that_cannot_be_stored_fails_its_node(
    bench: Bench, value: Any, reason: str
):
    bench.tools.messages["t"] = [_variable_of(value)]
    outcome, events = bench.run(app_with(TOOL, "v"))
    assert outcome.status is Status.FAILED
    assert reason in outcome.error
    assert "v" in outcome.error
    [failed] = [event for event in events if isinstance(event, NodeRunFailed)]
    assert failed.node_id == "x"
    for event in events:
        dump_event(event)


def test_a_value_that_cannot_be_stored_can_have_a_default(bench: Bench):
    bench.tools.messages["t"] = [_variable_of(math.nan)]
    node = {
        **TOOL,
        "error_strategy": "default-value",
        "default_value": [{"key": "v", "type": "number", "value": 7}],
    }
    outcome, _ = bench.run(app_with(node, "v"))
    assert (outcome.status, outcome.outputs) == (Status.PARTIAL, {"r": 7})


def test_an_error_message_is_text_too(bench: Bench):
    code = {**CODE, "code": "def main():\n    raise ValueError('a\\ud83d b')\n"}
    outcome, events = bench.run(app_with(code, "r"))
    assert outcome.status is Status.FAILED
    for event in events:
        dump_event(event)


class OddAgents(StubAgents):
    """A strategy that reports totals which are no numbers."""

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        del strategy, parameters
        usage = {"total_tokens": "many", "total_price": "dear", "currency": 1}
        yield {"type": "text", "message": {"text": "done"}}
        log = {"id": "l", "label": "usage", "status": "success", "data": {}}
        yield {"type": "log", "message": {**log, "metadata": usage}}
        yield {
            "type": "json",
            "message": {"json_object": {"execution_metadata": usage}},
        }


def test_totals_of_a_plugin_that_are_no_numbers_count_as_zero(bench: Bench):
    bench.agents = OddAgents()
    node = {"type": "agent", "agent_strategy_provider_name": "a/b/c", "agent_strategy_name": "odd", "agent_parameters": {}}  # fmt: skip
    outcome, events = bench.run(app_with(node, "text"))
    assert (outcome.status, outcome.outputs) == (Status.SUCCEEDED, {"r": "done"})
    for event in events:
        dump_event(event)


# ------------------------------------------------------------------ what cannot be written


class RunBench:
    """Runs on a journal of their own."""

    def __init__(self, folder: Path, app: App, **options: Any) -> None:
        self.database = Database(folder / "runs.db")
        self.journal = options.pop("journal", DatabaseJournal)(self.database, time.time)
        self.app = app
        services = options.pop("services", Services())
        self.runs = Runs(
            self.journal, self.find_app, lambda app, record: services, **options
        )
        self.record = RunRecord(
            tenant="default",
            id=new_run_id(),
            app="a",
            created_at=time.time(),
            system={"query": "q", "files": []},
        )

    async def find_app(self, record: RunRecord) -> App:
        del record
        return self.app

    async def ended(self) -> RunRecord:
        """Wait for the end of the run."""
        async with asyncio.timeout(30):
            return await self.runs.wait_until_ended("default", self.record.id)

    async def leave_interrupted(self, events: Sequence[AnyEvent]) -> None:
        """Record the run as a process of this machine leaves it that was killed."""
        owner = self.journal.owner
        host, boot, namespace, *_ = owner.split(":")
        self.journal.owner = f"{host}:{boot}:{namespace}:{2**22}:1:token"
        await self.journal.create(self.record)
        await self.journal.append(self.record, [], list(enumerate(events, 1)))
        self.journal.owner = owner

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def all_of_it() -> None:
            try:
                await work
            finally:
                await self.runs.aclose()

        try:
            asyncio.run(all_of_it())
        finally:
            self.database.close()


ANSWER = app_of(
    {**START, "answer": {"type": "answer", "answer": "hello"}},
    ["start > answer"],
    mode="advanced-chat",
)


class RefusingJournal(DatabaseJournal):
    """A journal that cannot write one kind of event, as an encoder would."""

    async def append(
        self, run: Any, steps: Any, events: Any, keys: Any = (), **options: Any
    ) -> None:
        if any(isinstance(event, NodeRunSucceeded) for _, event in events):
            raise TypeError("cannot be encoded")
        await super().append(run, steps, events, keys, **options)


def test_a_run_whose_events_cannot_be_written_fails(tmp_path: Path):
    bench = RunBench(tmp_path, ANSWER, journal=RefusingJournal)

    async def work() -> None:
        await bench.runs.start(bench.app, bench.record)
        record = await bench.ended()
        assert (record.status, record.error) == (
            Status.FAILED,
            "The run could not be stored: cannot be encoded",
        )
        events = await bench.journal.events(record.id, 0)
        assert isinstance(events[-1][1], GraphRunFailed)
        assert await bench.runs.recover() == 0

    bench.run(work())


@pytest.mark.parametrize("error", [NotFoundError("gone"), KeyError("bug")])
def test_a_listener_that_fails_does_not_keep_the_run_from_ending(
    tmp_path: Path, error: Exception
):
    bench = RunBench(tmp_path, ANSWER)

    async def refuse(*arguments: Any) -> None:
        del arguments
        raise error

    bench.runs.on_end(refuse)

    async def work() -> None:
        await bench.runs.start(bench.app, bench.record)
        record = await bench.ended()
        assert record.status.is_over

    bench.run(work())


def test_a_run_that_could_not_be_recorded_is_tried_again_by_its_process(
    tmp_path: Path,
):
    bench = RunBench(tmp_path, ANSWER)
    calls: list[Status] = []

    async def refuse_once(record: RunRecord, *arguments: Any) -> None:
        del arguments
        calls.append(record.status)
        if len(calls) == 1:
            raise StorageUnavailableError("disk full")

    bench.runs.on_end(refuse_once)

    async def work() -> None:
        await bench.runs.start(bench.app, bench.record)
        live_run = bench.runs._live.find(bench.record.id)  # pyright: ignore[reportPrivateUsage]
        assert live_run is not None
        assert live_run.task is not None
        await live_run.task
        record = await bench.runs.find("default", bench.record.id)
        assert record.status is Status.RUNNING
        await bench.runs.recover()
        assert (await bench.ended()).status is Status.SUCCEEDED
        assert calls == [Status.SUCCEEDED] * 2

    bench.run(work())


def test_services_that_cannot_be_built_fail_the_run(tmp_path: Path):
    bench = RunBench(tmp_path, ANSWER)

    def refuse(app: App, record: RunRecord) -> Services:
        raise LookupError("no such service")

    bench.runs = Runs(bench.journal, bench.find_app, refuse)

    async def work() -> None:
        await bench.runs.start(bench.app, bench.record)
        record = await bench.ended()
        assert (record.status, bench.runs.count) == (Status.FAILED, 0)
        assert "no such service" in record.error

    bench.run(work())


# --------------------------------------------------------------------- resumed runs


def test_the_time_limit_counts_what_a_run_used_before_it_was_resumed(tmp_path: Path):
    app = app_of({**START, "x": TOOL}, ["start > x"])
    tools = LingeringTools()
    bench = RunBench(
        tmp_path, app, services=Services(tools=tools), limits=Limits(seconds=60.0)
    )

    async def work() -> None:
        # Two parts of 40 and 30 seconds; the time between them does not count.
        await bench.leave_interrupted(
            [
                GraphRunStarted(at=1000.0),
                NodeRunStarted(id="a", node_id="x", node_type="tool", at=1040.0),
                GraphRunStarted(at=9000.0, reason="resumption"),
                NodeRunStarted(id="a", node_id="x", node_type="tool", at=9030.0),
            ]
        )
        assert await bench.runs.recover() == 1
        record = await bench.ended()
        assert (record.status, record.error) == (
            Status.STOPPED,
            "Maximum execution time exceeded: 60 s",
        )
        assert record.elapsed >= 70.0

    bench.run(work())


def test_only_active_time_counts():
    progress = RunProgress()
    events = [
        GraphRunStarted(at=10.0),
        NodeRunSucceeded(id="a", node_id="n", node_type="code", at=13.0),
        GraphRunStarted(at=500.0, reason="resumption"),
        GraphRunStarted(at=900.0, reason="resumption"),
        NodeRunStarted(id="b", node_id="n", node_type="code", at=902.5),
    ]
    for number, event in enumerate(events, 1):
        progress.add(number, event)
    assert (progress.seconds, progress.fruitless_starts) == (5.5, 2)


@pytest.mark.parametrize(("starts", "status"), [(19, "succeeded"), (20, "failed")])
def test_a_run_that_is_interrupted_each_time_is_given_up(
    tmp_path: Path, starts: int, status: str
):
    bench = RunBench(tmp_path, ANSWER)

    async def work() -> None:
        events = [GraphRunStarted(at=float(number)) for number in range(starts)]
        await bench.leave_interrupted(events)
        assert await bench.runs.recover() == 1
        record = await bench.ended()
        assert record.status.value == status
        if status == "failed":
            assert "interrupted each time" in record.error
            assert await bench.runs.recover() == 0

    bench.run(work())


def test_a_run_whose_history_cannot_be_read_fails_and_holds_up_no_other(tmp_path: Path):
    bench = RunBench(tmp_path, ANSWER)
    damaged = bench.record

    async def work() -> None:
        await bench.leave_interrupted([GraphRunStarted(at=1.0)])
        await bench.database.transact(
            lambda connection: connection.execute(
                "INSERT INTO run_steps (run, key, seq, body) VALUES (?, ?, ?, ?)",
                (damaged.id, "x", 1, "{damaged"),
            )
        )
        bench.record = msgspec.structs.replace(damaged, id=new_run_id())
        await bench.leave_interrupted([GraphRunStarted(at=1.0)])
        assert await bench.runs.recover() == 2
        assert (await bench.ended()).status is Status.SUCCEEDED
        failed = await bench.runs.wait_until_ended("default", damaged.id)
        assert failed.status is Status.FAILED
        assert "cannot be resumed" in failed.error

    bench.run(work())


def test_a_resumption_waits_for_the_storage(tmp_path: Path):
    bench = RunBench(tmp_path, ANSWER)
    find_app = bench.find_app
    calls = 0

    async def find_later(record: RunRecord) -> App:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageUnavailableError("down")
        return await find_app(record)

    bench.runs = Runs(bench.journal, find_later, lambda app, record: Services())

    async def work() -> None:
        await bench.leave_interrupted([GraphRunStarted(at=1.0)])
        await bench.runs.recover()
        assert bench.runs.count == 0
        await bench.runs.recover()
        assert (await bench.ended()).status is Status.SUCCEEDED

    bench.run(work())
