"""One run of an app file by the product, with what it asked outside and what its nodes
returned."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.app import Modelyard
from modelyard.testing.workflows import MemoryFiles
from modelyard.workflow.dsl import App
from modelyard.workflow.engine import GraphEngine
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunException,
    NodeRunFailed,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    TextReplaced,
)
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.node import RunContext, Services
from modelyard.workflow.single_run import (
    execute_with_timeout,
    final_event,
    new_run_id,
    outcome_of,
    pool_for,
    system_variables,
)
from modelyard.workflow.variables import VariablePool, to_object
from tools.show.app_files.inputs import contents_of
from tools.show.app_files.reading import ReadApp
from tools.show.app_files.walk import Observed
from tools.show.app_files.world import (
    Call,
    History,
    People,
    Script,
    Turn,
    WorldAgents,
    WorldDatasets,
    WorldHttp,
    WorldModel,
    WorldTools,
    request_of,
)
from tools.show.event_order import disorder_of_nodes


@dataclass(slots=True)
class Shown:
    """What a run has shown."""

    status: str
    outputs: dict[str, Any]
    error: str
    calls: list[Call]
    ran: list[str]
    observed: Observed
    said: str = ""
    """The text that the client of a chat has seen at the end."""
    conversation: dict[str, Any] = field(default_factory=dict[str, Any])
    """The conversation variables at the end."""
    disorder: list[str] = field(default_factory=list[str])
    """What is wrong with the order of the events."""


class World:
    """The doubles of one run."""

    def __init__(self, script: Script) -> None:
        self.http, self.tools = WorldHttp(), WorldTools()
        self.http.script = self.tools.script = script
        self.datasets, self.agents = WorldDatasets(), WorldAgents()

    def serve(self, services: Services, *, has_plugins: bool) -> None:
        """Put the doubles into the services of a run."""
        services.http, services.datasets = self.http, self.datasets  # type: ignore[assignment]
        if has_plugins:
            services.tools, services.agents = self.tools, self.agents  # type: ignore[assignment]

    def calls(self) -> list[Call]:
        """Return the recorded calls in a comparable form."""
        return [
            *(Call("http", request_of(*request)) for request in self.http.seen),
            *self.datasets.calls,
            *(Call("tool", [tool, asked]) for _, tool, asked in self.tools.seen),
            *(
                Call(
                    "agent",
                    {name: asked.get(name) for name in ("query", "instruction")},
                )
                for _, asked in self.agents.seen
            ),
        ]


@dataclass(frozen=True, slots=True)
class Start:
    """With what a run starts."""

    read: ReadApp
    script: Script
    inputs: Mapping[str, Any]
    turn: Turn


async def run_app(yard: Modelyard, model: WorldModel, app: App, start: Start) -> Shown:
    """Run an app and return what it has shown."""
    model_calls = model.begin(start.script)
    world = World(start.script)
    services = services_of(yard, app, world, start)
    run = RunContext(run_id=new_run_id(), services=services, now=time.time)
    events: list[AnyEvent] = []
    pool = _pool(app, run, start)
    engine = GraphEngine(app.graph(start.script.root), pool, run, events.append)
    outcome = await execute_with_timeout(engine, run.limits.seconds)
    # The outcome as callers get it, by the run's last event.
    outcome = outcome_of(final_event(outcome, run))
    return Shown(
        status=outcome.status.value,
        outputs=to_object(outcome.outputs),
        error=outcome.error,
        calls=[*model_calls, *world.calls()],
        ran=[event.node_id for event in events if isinstance(event, NodeRunStarted)],
        observed=_observed(events),
        said=_said(events),
        conversation=to_object(dict(pool.node_variables("conversation"))),
        disorder=disorder_of_nodes(events),
    )


def services_of(
    yard: Modelyard,
    app: App,
    world: World,
    start: Start,
    record: RunRecord | None = None,
) -> Services:
    """Return the services of a run, which is stored if it has a record: the product's,
    with the doubles of the world."""
    services = yard.services.workflows.services(app, record)
    files = {"files": list(start.turn.files)}
    services.files = MemoryFiles(contents_of({**start.inputs, **files}))  # type: ignore[assignment]
    nodes = start.read.nodes.values()
    forms = {node.id: node.data for node in nodes if node.type == "human-input"}
    services.forms = People(forms, start.script)  # type: ignore[assignment]
    services.memory = History(start.turn) if start.turn.history else None  # type: ignore[assignment]
    world.serve(services, has_plugins=start.script.plugins)
    return services


def _pool(app: App, run: RunContext, start: Start) -> VariablePool:
    """Return the variables with which a run starts."""
    turn, read = start.turn, start.read
    query = turn.query if read.is_chat or read.mode == "completion" else ""
    system = system_variables(app, run, query=query, files=turn.files)
    if read.is_chat:
        system["dialogue_count"] = turn.number
    root = start.script.root
    return pool_for(app, root, start.inputs, system, conversation=turn.conversation)


def _said(events: Sequence[AnyEvent]) -> str:
    """Return the streamed text as it stands at the end."""
    text = ""
    for event in events:
        if isinstance(event, NodeRunStreamChunk):
            text += event.chunk
        elif isinstance(event, TextReplaced):
            text = event.text
    return text


def _observed(events: Sequence[AnyEvent]) -> Observed:
    """Return the outputs and errors of the nodes by their ids."""
    observed = Observed()
    for event in events:
        if isinstance(event, NodeRunSucceeded):
            outputs = json.loads(json.dumps(to_object(event.outputs)))
            observed.outputs.setdefault(event.node_id, []).append(outputs)
        elif isinstance(event, NodeRunFailed | NodeRunException):
            error = (event.error, event.error_type)
            observed.errors.setdefault(event.node_id, []).append(error)
    return observed
