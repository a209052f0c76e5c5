"""Contract tests: runs behave the same, whatever carries them.

The embedded carrier, DBOS on a real PostgreSQL and a real Temporal server, in a whole
Modelyard.
"""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from tools.show.servers import Temporal

from modelyard.app import Modelyard
from modelyard.base.settings import (
    EgressSettings,
    LocalSettings,
    Settings,
    TemporalSettings,
    WorkflowSettings,
)
from modelyard.testing import Answer, Upstream
from modelyard.workflow.engine import Status
from modelyard.workflow.form_answers import FormAnswers
from modelyard.workflow.run_record import RunRecord
from tests.contract.conftest import new_database
from tests.workflow.building import document

pytestmark = pytest.mark.proof("carriers")

SECRET = "secret-of-the-run-7c1f"
MANY = 100
"""Runs that wait at once; a thousand of them are tried by the proof."""
AT_ONCE = 8


class Effects:
    """A server that counts requests by path. `/slow` waits until `go_on` is set."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.reached = threading.Event()
        self.server = Upstream(self.answer)

    def answer(self, request: Any) -> Answer:
        self.counts[request.path] += 1
        if "/slow" in request.path:
            self.reached.set()
            return Answer(body=b"done", delay=0.7)
        return Answer(body=b"done")

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


class Installation:
    """A Modelyard on the event loop of a thread."""

    def __init__(self, settings: Settings, effects: Effects) -> None:
        self.effects = effects
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.yard = self.do(self._opened(settings))

    async def _opened(self, settings: Settings) -> Modelyard:
        yard = Modelyard(settings, environ={})
        await yard.open()
        yard.services.upkeep.start()
        return yard

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)

    def close(self) -> None:
        self.do(self.yard.services.upkeep.stop())
        self.do(self.yard.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def start(self, text: str, **inputs: Any) -> RunRecord:
        """Import an app and start a run of it."""
        app_record, app, _ = await self.yard.apps.add("default", text)
        chats = self.yard.services.workflows.chats
        return await chats.run(app_record, app, inputs=inputs, user="u")

    async def ended(self, run: RunRecord) -> RunRecord:
        """Wait until a run has ended or paused."""
        async with asyncio.timeout(60):
            return await self.yard.runs.wait_until_ended("default", run.id)

    async def over(self, run: RunRecord) -> RunRecord:
        """Wait until a run has ended, which may have paused before."""
        async with asyncio.timeout(60):
            while not (record := await self.ended(run)).status.is_over:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return record

    async def answer(self, paused: RunRecord, note: str) -> None:
        """Fill in the form of a paused run."""
        workflows = self.yard.services.workflows
        forms = FormAnswers(self.yard.runs, workflows.files, _now)
        row = await forms.find("default", paused.reasons[0]["form_token"])
        await forms.submit(
            forms.opened(row), action="yes", inputs={"note": note}, user="p"
        )


def _now() -> float:
    return 0.0


@pytest.fixture(scope="module")
def effects() -> Iterator[Effects]:
    served = Effects()
    with served.server:
        yield served


@pytest.fixture(scope="module", params=["embedded", "dbos", "temporal"])
def carrier(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    effects: Effects,
) -> Iterator[Installation]:
    # The server is the same for all carriers.
    effects.counts.clear()
    effects.reached.clear()
    home = tmp_path_factory.mktemp(request.param)
    database, temporal = "", TemporalSettings()
    if request.param != "embedded":
        database = new_database(request.getfixturevalue("postgres_url"))
    if request.param == "temporal":
        server: Temporal = request.getfixturevalue("temporal_server")
        # Tests that share a server must not be given each other's runs.
        temporal = TemporalSettings(
            address=server.address, task_queue=uuid.uuid4().hex[:12]
        )
    workflows = WorkflowSettings(
        carrier=request.param,
        temporal=temporal,
        at_once=1000 if request.param == "embedded" else AT_ONCE,
    )
    settings = Settings(
        home=str(home),
        database=database,
        workflows=workflows,
        local=LocalSettings(enabled=False),
        egress=EgressSettings(private=[f"127.0.0.1:{effects.server.port}"]),
    )
    installation = Installation(settings, effects)
    yield installation
    installation.close()


def app_text(name: str, nodes: dict[str, Any], edges: list[str], **fields: Any) -> str:
    """Return an app file."""
    app = document(nodes, edges, **fields)
    app["app"]["name"] = name
    return yaml.safe_dump(app)


def acting(effects: Effects, name: str, *paths: str) -> str:
    """Return an app whose nodes call paths of the server in turn."""
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    for path in paths:
        url = f"{effects.origin}/{name}/{path}"
        nodes[path] = {"type": "http-request", "method": "post", "url": url}
    outputs = [{"variable": "it", "value_selector": [paths[-1], "body"]}]
    nodes["end"] = {"type": "end", "outputs": outputs}
    names = list(nodes)
    edges = [f"{names[index]} > {names[index + 1]}" for index in range(len(names) - 1)]
    return app_text(name, nodes, edges)


def asking(name: str, hours: float = 1) -> str:
    """Return an app with a form."""
    form = {
        "type": "human-input",
        "form_content": "Go on?",
        "timeout": hours,
        "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
        "user_actions": [{"id": "yes", "title": "Yes"}],
    }
    variables = [{"variable": "word", "type": "text-input", "required": False}]
    outputs = [
        {"variable": "note", "value_selector": ["ask", "note"]},
        {"variable": "word", "value_selector": ["start", "word"]},
    ]
    nodes = {
        "start": {"type": "start", "variables": variables},
        "ask": form,
        "good": {"type": "end", "outputs": outputs},
        "late": {"type": "end", "outputs": outputs[1:]},
    }
    return app_text(
        name, nodes, ["start > ask", "ask:yes > good", "ask:__timeout > late"]
    )


# --------------------------------------------------------------------------- the contract


def test_a_run_is_executed_once_and_streamed(carrier: Installation):
    async def work() -> None:
        run = await carrier.start(acting(carrier.effects, "plain", "a", "b"))
        numbers, names = [], []
        async with aclosing(carrier.yard.runs.watch("default", run.id)) as events:
            async for number, event in events:
                numbers.append(number)
                names.append(type(event).__name__)
        assert numbers == list(range(1, len(numbers) + 1))
        assert (names[0], names[-1]) == ("GraphRunStarted", "GraphRunSucceeded")
        assert (await carrier.ended(run)).outputs == {"it": "done"}
        assert [carrier.effects.counts[f"/plain/{name}"] for name in "ab"] == [1, 1]
        # Who repeats the start gets the same run.
        again = await carrier.yard.runs.start(await _app_of(carrier, run), run)
        assert again.id == run.id
        assert carrier.effects.counts["/plain/a"] == 1

    carrier.do(work())


async def _app_of(carrier: Installation, run: RunRecord) -> Any:
    return await carrier.yard.apps.load_version(run.tenant, run.digest, None)


async def _at_slow(carrier: Installation) -> None:
    """Wait until a slow node is at work."""
    assert await asyncio.to_thread(carrier.effects.reached.wait, 60)
    carrier.effects.reached.clear()


def test_a_run_at_work_is_stopped(carrier: Installation):
    async def work() -> None:
        run = await carrier.start(acting(carrier.effects, "stopped", "slow", "b"))
        await _at_slow(carrier)
        # Of another tenant it does not exist.
        assert not await carrier.yard.runs.stop("other", run.id)
        assert await carrier.yard.runs.stop("default", run.id)
        assert (await carrier.ended(run)).status is Status.STOPPED
        assert carrier.effects.counts["/stopped/b"] == 0

    carrier.do(work())


def test_a_paused_run_goes_on_with_the_version_it_started_with(carrier: Installation):
    async def work() -> None:
        run = await carrier.start(acting(carrier.effects, "paused", "slow", "b"))
        await _at_slow(carrier)
        assert await carrier.yard.runs.pause("default", run.id)
        assert (await carrier.ended(run)).status is Status.PAUSED
        # The app changes in the meantime.
        await carrier.yard.apps.add("default", acting(carrier.effects, "paused", "c"))
        await carrier.yard.runs.resume("default", run.id)
        ended = await carrier.over(run)
        assert (ended.status, ended.outputs) == (Status.SUCCEEDED, {"it": "done"})
        counts = carrier.effects.counts
        assert [counts[f"/paused/{name}"] for name in ("slow", "b", "c")] == [1, 1, 0]

    carrier.do(work())


def test_a_paused_run_is_stopped(carrier: Installation):
    async def work() -> None:
        run = await carrier.start(asking("stopped form"))
        assert (await carrier.ended(run)).status is Status.PAUSED
        assert await carrier.yard.runs.stop("default", run.id)
        assert (await carrier.ended(run)).status is Status.STOPPED
        assert not await carrier.yard.runs.resume("default", run.id)

    carrier.do(work())


def test_a_form_that_expires_lets_its_run_go_on(carrier: Installation):
    async def work() -> None:
        run = await carrier.start(asking("late", hours=1 / 3600), word="w")
        ended = await carrier.over(run)
        assert (ended.status, ended.outputs) == (Status.SUCCEEDED, {"word": "w"})

    carrier.do(work())


def test_an_app_calls_an_app(carrier: Installation):
    async def work() -> None:
        inner = acting(carrier.effects, "inner", "a")
        await carrier.yard.apps.add("default", inner)
        record = carrier.yard.apps.get_by_id_or_name("default", "inner")
        call = {
            "type": "tool",
            "provider_id": record.id,
            "provider_type": "workflow",
            "provider_name": "inner",
            "tool_name": "inner",
            "tool_parameters": {},
            "tool_configurations": {},
        }
        outputs = [{"variable": "text", "value_selector": ["call", "text"]}]
        nodes = {
            "start": {"type": "start"},
            "call": call,
            "end": {"type": "end", "outputs": outputs},
        }
        text = app_text("outer", nodes, ["start > call", "call > end"])
        # More of them than there are places: none must wait for a place of its child.
        runs = [await carrier.start(text) for _ in range(2 * AT_ONCE)]
        ended = [await carrier.over(run) for run in runs]
        assert {run.status for run in ended} == {Status.SUCCEEDED}, ended[0].error
        assert "done" in str(ended[0].outputs)
        assert carrier.effects.counts["/inner/a"] == 2 * AT_ONCE

    carrier.do(work())


def test_many_runs_wait_for_people_and_go_on(carrier: Installation):
    async def work() -> None:
        app_record, app, _ = await carrier.yard.apps.add("default", asking("many"))
        chats = carrier.yard.services.workflows.chats
        runs = await asyncio.gather(
            *(
                chats.run(app_record, app, inputs={"word": str(index)}, user="u")
                for index in range(MANY)
            )
        )
        paused = [await carrier.ended(run) for run in runs]
        assert {run.status for run in paused} == {Status.PAUSED}
        # Nothing is held for a run that waits.
        assert carrier.yard.runs.count == 0
        await asyncio.gather(
            *(carrier.answer(run, f"note {run.inputs['word']}") for run in paused)
        )
        ended = [await carrier.over(run) for run in runs]
        expected = [{"note": f"note {index}", "word": str(index)} for index in range(MANY)]  # fmt: skip
        assert [run.outputs for run in ended] == expected

    carrier.do(work())


def test_no_engine_learns_what_a_run_is_about(
    carrier: Installation, request: pytest.FixtureRequest
):
    name = carrier.yard.settings.workflows.carrier

    async def work() -> None:
        text = asking("told").replace("Go on?", SECRET)
        run = await carrier.start(text, word=SECRET)
        await carrier.answer(await carrier.ended(run), SECRET)
        assert (await carrier.over(run)).outputs["word"] == SECRET
        # A failed run says why, to those who may read it.
        failing = acting(carrier.effects, "failing", "a").replace("http://", "ftp://")
        failed = await carrier.over(await carrier.start(failing))
        assert failed.status is Status.FAILED

    carrier.do(work())
    if name == "temporal":
        server: Temporal = request.getfixturevalue("temporal_server")
        files = [server.database, Path(f"{server.database}-wal")]
        history = b"".join(file.read_bytes() for file in files if file.exists())
        assert b"modelyard-run-" in history
        assert SECRET.encode() not in history
        assert b"ftp" not in history
    elif name == "dbos":
        rows = _dbos_rows(carrier.yard.settings.database)
        assert "modelyard.run" in rows
        assert SECRET not in rows
        assert "ftp" not in rows


def _dbos_rows(url: str) -> str:
    """Return all that DBOS has stored."""
    rows: list[Any] = []
    with psycopg.connect(url) as connection:
        for table in ("workflow_status", "operation_outputs", "notifications"):
            query = f'SELECT * FROM "dbos"."{table}"'
            rows += connection.execute(query).fetchall()  # type: ignore[arg-type]
    return repr(rows)
