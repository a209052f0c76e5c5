"""Kill a worker 300 times with SIGKILL in the middle of agent runs, while an external
server counts the effects of their tools.

Each agent calls five tools in three turns, two of them in parallel. After each kill the
journal is read: a tool whose result is recorded there has finished and must never be
called again.
"""

import asyncio
import json
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import yaml

from modelyard.app import Modelyard
from modelyard.base.settings import EgressSettings, Settings
from modelyard.models.base import LargeLanguageModel
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
)
from modelyard.models.types import Credentials
from modelyard.testing.workflows import scripted_models
from modelyard.workflow.dsl import AppMapping
from tools.show.proof import Proof
from tools.show.run_kill import Effects, report_runs, run_forked

KILLS = int(os.environ.get("AGENT_KILLS", "300"))
TURNS: tuple[tuple[str, ...], ...] = (("a", "b"), ("c",), ("d", "e"))
ALL_STEPS = [step for turn in TURNS for step in turn]


@dataclass(frozen=True, slots=True)
class PlannedModel(LargeLanguageModel):
    """A scripted model that requests one turn of tools after the other and then answers
    with their results.

    The number of tool results in the request tells which turn is next.
    """

    url: str

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Yield the tool calls of the next turn, or the answer."""
        results = [
            prompt_message.text
            for prompt_message in request.messages
            if isinstance(prompt_message, ToolPromptMessage)
        ]
        # The query contains the run's id, which the tools send to the server.
        run = next(
            match[0]
            for prompt_message in request.messages
            if (match := re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", prompt_message.text))
        )
        # The turn whose preceding turns have as many calls as there are results.
        turn_index = next(
            (
                index
                for index in range(len(TURNS))
                if sum(map(len, TURNS[:index])) == len(results)
            ),
            len(TURNS),
        )
        if turn_index < len(TURNS):
            tool_arguments = [
                json.dumps(
                    {
                        "url": f"{self.url}/{run}",
                        "method": "POST",
                        "body": {"step": step},
                    }
                )
                for step in TURNS[turn_index]
            ]
            calls = [
                ToolCall(
                    id=f"{run[:8]}-{turn_index}-{call_index}",
                    index=call_index,
                    function=ToolCallFunction(name="http_request", arguments=arguments),
                )
                for call_index, arguments in enumerate(tool_arguments)
            ]
            message = AssistantPromptMessage(tool_calls=calls)
        else:
            message = AssistantPromptMessage(content=" ".join(results))
        usage = LLMUsage.of(10, 5)
        yield LLMResultChunk(
            model=model,
            delta=LLMResultChunkDelta(
                message=message, finish_reason="stop", usage=usage
            ),
        )


def app_text() -> str:
    """Return the YAML of a workflow with one agent node."""
    tools = [
        {
            "enabled": True,
            "provider_type": "builtin",
            "provider_id": "http",
            "tool_name": "http_request",
        }
    ]
    agent = {
        "type": "agent",
        "title": "agent",
        "agent_strategy_name": "function_calling",
        "agent_parameters": {
            "model": {
                "type": "constant",
                "value": {"provider": "openai", "model": "gpt-4o"},
            },
            "tools": {"type": "constant", "value": tools},
            "query": {"type": "mixed", "value": "{{#sys.workflow_run_id#}}"},
        },
    }
    nodes = {
        "start": {"type": "start"},
        "agent": agent,
        "end": {
            "type": "end",
            "outputs": [{"variable": "text", "value_selector": ["agent", "text"]}],
        },
    }
    graph = {
        "nodes": [
            {"id": name, "data": {"title": name, **data}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": "start", "target": "agent"},
            {"source": "agent", "target": "end"},
        ],
    }
    app = {"name": "agent", "mode": "workflow"}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "workflow": {"graph": graph}}
    )


def yard_at(home: str, url: str) -> Modelyard:
    """Create a Modelyard in the home folder whose model is the scripted one."""
    definition, builder = scripted_models(PlannedModel(url))  # type: ignore[arg-type]  any model will do
    # The tools call a server on loopback, which the egress filter refuses by default.
    settings = Settings(
        home=home, egress=EgressSettings(private=[url.removeprefix("http://")])
    )
    return Modelyard(
        settings, definitions=[definition], builders={"scripted": builder}, environ={}
    )


async def work(home: str, url: str, output_fd: int, *, until_done: bool) -> None:
    """Recover interrupted runs, then start one run after the other and write their ids
    to `output_fd`.

    With `until_done`, only wait until all recovered runs have ended.
    """
    async with yard_at(home, url) as yard:
        await yard.runs.recover()
        if until_done:
            while yard.runs.count:
                await asyncio.sleep(0.01)
            return
        app_record = yard.apps.get_by_id_or_name("default", "agent")
        app = await yard.apps.published_app(app_record)
        while True:
            while yard.runs.count:
                await asyncio.sleep(0.001)
            run = await yard.services.workflows.chats.run(
                app_record, app, inputs={}, user="u"
            )
            # The id is written after the run has been accepted: such a run must not be
            # lost.
            os.write(output_fd, f"{run.id}\n".encode())


def fork_worker(
    home: str, url: str, output_fd: int, *, until_done: bool = False
) -> int:
    """Fork a worker process and return its pid."""
    return run_forked(lambda: work(home, url, output_fd, until_done=until_done))


def finished(home: str) -> set[tuple[str, str]]:
    """Return (run, step) of the tools whose results are recorded in the journal."""
    import sqlite3

    # Read-only, because the database belongs to the killed worker.
    with sqlite3.connect(f"file:{home}/modelyard.db?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT run, key FROM run_steps WHERE body <> '' AND key LIKE 'agent#t%'"
        ).fetchall()
    finished_calls: set[tuple[str, str]] = set()
    for run, key in rows:
        turn, _, call_index = key.removeprefix("agent#t").partition(".")
        finished_calls.add((run, TURNS[int(turn) - 1][int(call_index)]))
    return finished_calls


def prove() -> Proof:
    """Run the kills and report lost runs and repeated tool calls."""
    proof = Proof()
    effects = Effects()
    finished_life: dict[tuple[str, str], int] = {}
    """(run, step) → number of the worker's life after which it was found finished."""
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_add_app(home, effects.url))
        reading, write_fd = os.pipe()
        started_at = time.monotonic()
        random.seed(11)
        ended_early = 0
        threading.Thread(target=effects.serve_forever, daemon=True).start()
        for life in range(KILLS):
            effects.life = life
            pid = fork_worker(home, effects.url, write_fd)
            # A random delay lets the kill hit every phase of a run.
            time.sleep(random.uniform(0.12, 0.5))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            ended_early += not os.WIFSIGNALED(status)
            for tool_call in finished(home):
                finished_life.setdefault(tool_call, life)
        effects.life = KILLS
        # A last worker, which is not killed, completes the runs that are left.
        pid = fork_worker(home, effects.url, write_fd, until_done=True)
        os.waitpid(pid, 0)
        # Close this process's end of the pipe, otherwise reading would never end.
        os.close(write_fd)
        with os.fdopen(reading) as lines:
            started = lines.read().split()
        proof.figures |= {
            "kills": KILLS,
            "seconds": round(time.monotonic() - started_at, 1),
        }
        proof.line(
            "workers killed",
            f"{KILLS}, {ended_early} had exited before the kill",
            ended_early == 0,
        )
        asyncio.run(_report_results(proof, home, effects, started, finished_life))
    effects.shutdown()
    effects.server_close()
    return proof


async def _add_app(home: str, url: str) -> None:
    """Add the app to the database before the first worker starts."""
    async with yard_at(home, url) as yard:
        await yard.apps.add(
            "default", app_text(), mapping=AppMapping(models={"*": "scripted/model"})
        )


async def _report_results(
    proof: Proof,
    home: str,
    effects: Effects,
    started: list[str],
    finished_life: dict[tuple[str, str], int],
) -> None:
    """Compare the journal with the server's record of tool calls and report the
    differences. `finished_life` has the worker life in which each call finished."""
    async with yard_at(home, effects.url) as yard:
        run_ids = await report_runs(proof, yard, "agent runs", started)
        _report_tool_calls(proof, effects, run_ids, finished_life)
        await _report_answers(proof, yard, run_ids)


def _report_tool_calls(
    proof: Proof,
    effects: Effects,
    run_ids: list[str],
    finished_life: dict[tuple[str, str], int],
) -> None:
    """Report tool calls that are missing or that were repeated."""
    lives: dict[tuple[str, str], list[int]] = defaultdict(list)
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for life, run, step, key in effects.done:
        lives[run, step].append(life)
        keys[run, step].add(key)
    proof.line(
        "tool calls received",
        f"{len(effects.done)}, for {len(lives)} calls that agents requested",
    )
    _report_repetitions(proof, lives, finished_life)
    missing = [
        run for run in run_ids if any((run, step) not in lives for step in ALL_STEPS)
    ]
    proof.line("  runs without one of their calls", len(missing), not missing)
    # The idempotency key must be the same in each repetition, so that the server can
    # detect it.
    changed_keys = [
        tool_call for tool_call, call_keys in keys.items() if len(call_keys) != 1
    ]
    proof.line(
        "  repeated with another idempotency key", len(changed_keys), not changed_keys
    )
    proof.figures["tools_called"] = len(effects.done)


def _report_repetitions(
    proof: Proof,
    lives: dict[tuple[str, str], list[int]],
    finished_life: dict[tuple[str, str], int],
) -> None:
    """Report how often calls were repeated. `lives` has the worker lives in which each
    call was received."""
    # A call in a life after the one in which the tool had finished is a repetition.
    repeated_finished = sum(
        call_life > life
        for tool_call, life in finished_life.items()
        for call_life in lives.get(tool_call, ())
    )
    doubled = sum(
        len(call_lives) - len(set(call_lives)) for call_lives in lives.values()
    )
    # A tool may run twice if the kill hit it before its result was recorded.
    repeated = sum(len(call_lives) - 1 for call_lives in lives.values())
    proof.line(
        "  repeated after they had finished", repeated_finished, repeated_finished == 0
    )
    proof.line("  repeated in the same worker life", doubled, doubled == 0)
    proof.line(
        "  repeated because their result was not recorded",
        f"{repeated}, at most two per kill",
        repeated <= 2 * KILLS,
    )
    proof.figures |= {"called_again": repeated_finished, "repeated": repeated}


async def _report_answers(proof: Proof, yard: Modelyard, run_ids: list[str]) -> None:
    """Report answers that do not list all tool results in the order of their calls."""
    wrong_answers = 0
    for run in run_ids:
        record = await yard.runs.find("default", run)
        results = str(record.outputs.get("text")).split()
        steps = [result_text.partition("#")[0] for result_text in results]
        wrong_answers += steps != ALL_STEPS
    proof.line(
        "  answers with a missing or misplaced result",
        wrong_answers,
        wrong_answers == 0,
    )
