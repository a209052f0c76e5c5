"""300 times kill -9 of a worker in the middle of agents' runs. A server outside counts what their tools did to it.

Each agent calls five tools in three turns, two of them side by side. After each kill the journal is read: a tool whose
result stands there is finished, and must never be called again.
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
from modelyard.models.llm import LLMRequest, LLMResultChunk, LLMResultChunkDelta, LLMUsage
from modelyard.models.messages import AssistantPromptMessage, ToolCall, ToolCallFunction, ToolPromptMessage
from modelyard.models.types import Credentials
from modelyard.testing.workflows import scripted_models
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.engine import Status
from tools.show.proof import Proof
from tools.show.run_kill import Effects, forked

KILLS = int(os.environ.get("AGENT_KILLS", "300"))
TURNS: tuple[tuple[str, ...], ...] = (("a", "b"), ("c",), ("d", "e"))


@dataclass(frozen=True, slots=True)
class Planned(LargeLanguageModel):
    """Wants one turn of tools after the other, by how many results it has been shown; then it answers with them."""

    url: str

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        results = [one.text for one in request.messages if isinstance(one, ToolPromptMessage)]
        run = next(match[0] for one in request.messages if (match := re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", one.text)))
        place = next((at for at in range(len(TURNS)) if sum(map(len, TURNS[:at])) == len(results)), len(TURNS))
        if place < len(TURNS):
            asked = [
                json.dumps({"url": f"{self.url}/{run}", "method": "POST", "body": {"step": step}})
                for step in TURNS[place]
            ]
            calls = [
                ToolCall(
                    id=f"{run[:8]}-{place}-{at}", index=at,
                    function=ToolCallFunction(name="http_request", arguments=one),
                )
                for at, one in enumerate(asked)
            ]  # fmt: skip
            message = AssistantPromptMessage(tool_calls=calls)
        else:
            message = AssistantPromptMessage(content=" ".join(results))
        usage = LLMUsage.of(10, 5)
        yield LLMResultChunk(model=model, delta=LLMResultChunkDelta(message=message, finish_reason="stop", usage=usage))


def app_text() -> str:
    tools = [{"enabled": True, "provider_type": "builtin", "provider_id": "http", "tool_name": "http_request"}]
    agent = {
        "type": "agent", "title": "agent", "agent_strategy_name": "function_calling", "agent_parameters": {
            "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-4o"}},
            "tools": {"type": "constant", "value": tools},
            "query": {"type": "mixed", "value": "{{#sys.workflow_run_id#}}"},
        },
    }  # fmt: skip
    nodes = {
        "start": {"type": "start"}, "agent": agent,
        "end": {"type": "end", "outputs": [{"variable": "text", "value_selector": ["agent", "text"]}]},
    }  # fmt: skip
    graph = {
        "nodes": [{"id": name, "data": {"title": name, **data}} for name, data in nodes.items()],
        "edges": [{"source": "start", "target": "agent"}, {"source": "agent", "target": "end"}],
    }
    app = {"name": "agent", "mode": "workflow"}
    return yaml.dump({"kind": "app", "version": "0.6.0", "app": app, "workflow": {"graph": graph}})


def yard_at(home: str, url: str) -> Modelyard:
    definition, builder = scripted_models(Planned(url))  # type: ignore[arg-type]  any model will do
    settings = Settings(home=home, egress=EgressSettings(private=[url.removeprefix("http://")]))
    return Modelyard(settings, definitions=[definition], builders={"scripted": builder}, environ={})


async def work(home: str, url: str, told: int, *, until_done: bool) -> None:
    """Take up what was left, then have one agent after the other do its work."""
    async with yard_at(home, url) as yard:
        await yard.runs.recover()
        if until_done:
            while yard.runs.count:
                await asyncio.sleep(0.01)
            return
        found = yard.apps.find("default", "agent")
        app = await yard.apps.app(found)
        while True:
            while yard.runs.count:
                await asyncio.sleep(0.001)
            run = await yard.services.workflows.chats.run(found, app, inputs={}, user="u")
            os.write(told, f"{run.id}\n".encode())


def child(home: str, url: str, told: int, *, until_done: bool = False) -> int:
    return forked(lambda: work(home, url, told, until_done=until_done))


def finished(home: str) -> set[tuple[str, str]]:
    """(run, step) of tools whose results stand in the journal."""
    import sqlite3

    with sqlite3.connect(f"file:{home}/modelyard.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT run, key FROM run_steps WHERE body <> '' AND key LIKE 'agent#t%'").fetchall()
    found: set[tuple[str, str]] = set()
    for run, key in rows:
        turn, _, place = key.removeprefix("agent#t").partition(".")
        found.add((run, TURNS[int(turn) - 1][int(place)]))
    return found


def prove() -> Proof:
    proof = Proof()
    effects = Effects()
    known: dict[tuple[str, str], int] = {}
    """(run, step) → the life after which it was found finished."""
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(_install(home, effects.url))
        reading, told = os.pipe()
        began = time.monotonic()
        random.seed(11)
        ended_early = 0
        threading.Thread(target=effects.serve_forever, daemon=True).start()
        for life in range(KILLS):
            effects.life = life
            pid = child(home, effects.url, told)
            time.sleep(random.uniform(0.12, 0.5))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            ended_early += not os.WIFSIGNALED(status)
            for one in finished(home):
                known.setdefault(one, life)
        effects.life = KILLS
        pid = child(home, effects.url, told, until_done=True)
        os.waitpid(pid, 0)
        os.close(told)
        with os.fdopen(reading) as lines:
            started = lines.read().split()
        proof.figures |= {"kills": KILLS, "seconds": round(time.monotonic() - began, 1)}
        proof.line("workers killed", f"{KILLS}, {ended_early} had ended by themselves", ended_early == 0)
        asyncio.run(_judge(proof, home, effects, started, known))
    effects.shutdown()
    return proof


async def _install(home: str, url: str) -> None:
    async with yard_at(home, url) as yard:
        await yard.apps.add("default", app_text(), mapping=AppMapping(models={"*": "scripted/model"}))


async def _judge(
    proof: Proof, home: str, effects: Effects, started: list[str], known: dict[tuple[str, str], int]
) -> None:
    async with yard_at(home, effects.url) as yard:
        rows = await yard.services.storage.database.fetch("SELECT id, status FROM runs")
        status = {row["id"]: row["status"] for row in rows}
        lost = [one for one in started if status.get(one) != Status.SUCCEEDED.value]
        unfinished = [one for one, said in status.items() if said != Status.SUCCEEDED.value]
        proof.line("agents' runs", f"{len(status)} begun, {len(started)} told to their caller")
        proof.line("  lost, or not ended well", len(lost) + len(unfinished), not lost and not unfinished)
        lives: dict[tuple[str, str], list[int]] = defaultdict(list)
        keys: dict[tuple[str, str], set[str]] = defaultdict(set)
        for life, run, step, key in effects.done:
            lives[run, step].append(life)
            keys[run, step].add(key)
        again = sum(1 for one, life in known.items() for each in lives[one] if each > life)
        doubled = sum(len(each) - len(set(each)) for each in lives.values())
        repeated = sum(len(each) - 1 for each in lives.values())
        missing = [run for run in status if any((run, step) not in lives for turn in TURNS for step in turn)]
        other_keys = [one for one, each in keys.items() if len(each) != 1]
        proof.line("tools called", f"{len(effects.done)}, for {len(lives)} calls that agents wanted")
        proof.line("  finished, and called again", again, again == 0)
        proof.line("  called twice in one life", doubled, doubled == 0)
        proof.line("  repeated since their end was not known", f"{repeated}, at most two a kill", repeated <= 2 * KILLS)
        proof.line("  never called", len(missing), not missing)
        proof.line("  repeated under another key", len(other_keys), not other_keys)
        wrong = 0
        for run in status:
            record = await yard.runs.find("default", run)
            said = [one.partition("#")[0] for one in str(record.outputs.get("text")).split()]
            wrong += said != [step for turn in TURNS for step in turn]
        proof.line("  answers that lack a result, or have it in another place", wrong, wrong == 0)
        proof.figures |= {
            "runs": len(status), "lost": len(lost) + len(unfinished), "called_again": again, "repeated": repeated,
            "tools_called": len(effects.done),
        }  # fmt: skip
