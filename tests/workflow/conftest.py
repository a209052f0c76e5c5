"""A runtime with a scripted model and a sandbox, shared by all tests of this folder."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from modelyard.app import Modelyard
from modelyard.base.settings import Settings
from modelyard.testing.workflows import (
    MemoryFiles,
    ScriptedModel,
    StubAgents,
    StubDatasets,
    StubForms,
    StubHttp,
    StubTools,
    scripted_models,
)
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import Outcome
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.node import ConversationSummary, Services, Turn
from modelyard.workflow.single_run import outcome_of, stream

T = TypeVar("T")


class StubMemory:
    def __init__(self, turns: list[Turn]) -> None:
        self._turns = turns

        self.kept: ConversationSummary | None = None

    async def turns(self, limit: int) -> list[Turn]:
        return self._turns[-limit:]

    async def recap(self) -> ConversationSummary | None:
        return self.kept

    async def save_recap(self, recap: ConversationSummary) -> None:
        self.kept = recap


class Bench:
    """Runs apps; `model`, `http` and the other test doubles are reset for each test."""

    def __init__(
        self, yard: Modelyard, runner: asyncio.Runner, model: ScriptedModel
    ) -> None:
        self.yard = yard
        self.runner = runner
        self.model = model
        self.reset()

    def reset(self) -> None:
        self.model.answers.clear()
        self.model.requests.clear()
        self.model.delay = 0.0
        self.http = StubHttp()
        self.tools = StubTools()
        self.datasets = StubDatasets()
        self.agents = StubAgents()
        self.forms = StubForms()
        self.files = MemoryFiles()
        self.turns: list[Turn] = []

    def services(self, app: App) -> Services:
        services = self.yard.services.workflows.services(app)
        services.http, services.tools, services.datasets = (
            self.http,
            self.tools,
            self.datasets,
        )
        services.agents, services.files, services.forms = (
            self.agents,
            self.files,
            self.forms,
        )
        services.memory = StubMemory(self.turns) if self.turns else None
        return services

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def run(self, app: App, **stream_options: Any) -> tuple[Outcome, list[AnyEvent]]:
        async def work() -> list[AnyEvent]:
            stream_options.setdefault("services", self.services(app))
            async with aclosing(stream(app, **stream_options)) as events:
                return [event async for event in events]

        events = self.do(work())
        return outcome_of(events[-1]), events


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    model = ScriptedModel()
    definition, builder = scripted_models(model)
    home = tmp_path_factory.mktemp("home")
    with asyncio.Runner() as runner:

        async def start() -> Modelyard:
            yard = Modelyard(
                Settings(home=str(home), database=":memory:"), definitions=[definition],
                builders={"scripted": builder}, environ={},
            )  # fmt: skip
            await yard.open()
            return yard

        yard = runner.run(start())
        yield Bench(yard, runner, model)
        runner.run(yard.aclose())


@pytest.fixture
def bench(_shared: Bench) -> Bench:
    _shared.reset()
    return _shared


Make = Callable[..., AsyncGenerator[Any, None]]
Home = Path
