"""Tests for the memory of long conversations: recent turns, and a summary of others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelyard.app import Modelyard
from modelyard.base.errors import InvokeServerUnavailableError
from modelyard.base.settings import Settings
from modelyard.models.messages import (
    AssistantPromptMessage,
    SystemPromptMessage,
    ToolPromptMessage,
)
from modelyard.testing.agents import ScriptedChatModel
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.workflow.dsl import App, AppMapping, loads
from modelyard.workflow.node import ConversationSummary, Turn
from tests.agents.test_runs import app_text, note, start_run, within
from tests.workflow.conftest import Bench, StubMemory

MODEL = {"provider": "openai", "name": "m", "mode": "chat"}
WORDS = " ".join(["lorem"] * 2500)


def chat(max_tokens: int = 20_000, **memory: Any) -> str:
    """Return a chat whose answer reserves most of the context window.

    Little is left for the history (of 32,768 tokens).
    """
    llm = {
        "type": "llm", "title": "llm", "model": {**MODEL, "completion_params": {"max_tokens": max_tokens}},
        "memory": {"window": {"enabled": False}, **memory}, "prompt_template": [{"role": "system", "text": "Be short."}],
    }  # fmt: skip
    graph = {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "s"}}, {"id": "llm", "data": llm},
            {"id": "answer", "data": {"type": "answer", "title": "a", "answer": "{{#llm.text#}}"}},
        ],
        "edges": [{"source": "start", "target": "llm"}, {"source": "llm", "target": "answer"}],
    }  # fmt: skip
    app = {"name": "long", "mode": "advanced-chat"}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "workflow": {"graph": graph}}
    )


def read(text: str) -> App:
    return loads(text, mapping=AppMapping(models={"*": "scripted/model"}))


def long_turns(count: int) -> list[Turn]:
    return [
        Turn(
            id=f"m{index}", query=f"question {index} {WORDS}", answer=f"answer {index}"
        )
        for index in range(count)
    ]


def ask(bench: Bench, memory: StubMemory, app: App) -> list[list[str]]:
    """Run the app; return the message texts of each model request."""
    bench.model.requests.clear()
    services = bench.services(app)
    services.memory = memory
    outcome, _ = bench.run(app, query="and now?", services=services)
    assert outcome.outputs["answer"] == "Answer to: and now?", outcome
    return [
        [message.text for message in request.messages]
        for request in bench.model.requests
    ]


def test_turns_that_fit_are_sent_unchanged(bench: Bench):
    memory = StubMemory(long_turns(3))
    (texts,) = ask(bench, memory, read(chat()))
    assert [text[:10] for text in texts] == ["Be short.", *["question 0", "answer 0", "question 1", "answer 1", "question 2", "answer 2"], "and now?"]  # fmt: skip
    assert memory.kept is None


def test_overflowing_turns_are_summarized_once(
    bench: Bench,
):
    bench.model.answers.append(
        ("What was said since", "Ada likes blue; order 7 is open.")
    )
    memory, app = StubMemory(long_turns(6)), read(chat())
    summary, texts = ask(bench, memory, app)
    assert summary[0].startswith("You keep the record")
    assert all(f"question {index} " in summary[1] for index in range(5))
    assert "answer 5" not in summary[1]
    assert memory.kept == ConversationSummary(
        text="Ada likes blue; order 7 is open.", until="m4"
    )
    assert texts[1].endswith("Ada likes blue; order 7 is open.")
    assert [text[:10] for text in texts[2:]] == ["question 5", "answer 5", "and now?"]
    # The next turns fit in addition to the summary, so no new summary is requested.
    memory._turns.extend(
        Turn(id=f"n{index}", query="short", answer="yes") for index in range(3)
    )
    (texts,) = ask(bench, memory, app)
    assert (len(texts), texts[1].endswith("order 7 is open.")) == (11, True)
    # Turns that overflow later are added to the summary.
    memory._turns.extend(long_turns(4))
    summary, _ = ask(bench, memory, app)
    assert "The record so far:\nAda likes blue; order 7 is open." in summary[1]
    assert (
        "question 3 "
        not in summary[1].partition("What was said since")[2].partition("question 4")[0]
    )


def test_tokens_of_summaries_are_counted(bench: Bench):
    memory, app = StubMemory(long_turns(6)), read(chat())
    services = bench.services(app)
    services.memory = memory

    async def work() -> int:
        token_counts: list[int] = []
        from modelyard.workflow.engine import GraphEngine
        from modelyard.workflow.node import RunContext
        from modelyard.workflow.single_run import pool_for, system_variables

        run = RunContext(run_id="r", services=services)
        pool = pool_for(app, "", {}, system_variables(app, run, query="and now?"))
        await GraphEngine(app.graph(), pool, run, lambda _: None).execute()
        token_counts.append(run.tokens)
        return token_counts[0]

    tokens = bench.do(work())
    summed = sum(
        len(message.text.split()) for message in bench.model.requests[0].messages
    )
    assert tokens > summed > 9000


@pytest.mark.parametrize(("window", "turn_count"), [(4, 3), (2, 2)])
def test_with_a_window_nothing_is_summarized(
    bench: Bench, window: int, turn_count: int
):
    memory = StubMemory(long_turns(8))
    (texts,) = ask(bench, memory, read(chat(window={"enabled": True, "size": window})))
    assert len(texts) == 2 + 2 * turn_count
    assert memory.kept is None


def test_without_a_summary_the_latest_turns_are_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    original_invoke = ScriptedModel.invoke

    def invoke(self: Any, model: str, credentials: Any, request: Any) -> Any:
        if request.messages[0].text.startswith("You keep the record"):
            raise InvokeServerUnavailableError("not now")
        return original_invoke(self, model, credentials, request)

    monkeypatch.setattr(ScriptedModel, "invoke", invoke)
    memory = StubMemory(long_turns(6))
    texts = ask(bench, memory, read(chat()))[-1]
    assert [text[:10] for text in texts[1:]][-3:] == [
        "question 5",
        "answer 5",
        "and now?",
    ]
    assert memory.kept is None


def test_a_huge_turn_is_truncated_for_the_summary(bench: Bench):
    bench.model.answers.append(("What was said since", "It was long."))
    huge = Turn(
        id="h", query=f"begin {' '.join(['word'] * 60_000)} finish", answer="ok"
    )
    memory = StubMemory([huge, *long_turns(2)])
    *summaries, texts = ask(bench, memory, read(chat()))
    assert len(summaries) == 2  # long text is summarized in parts
    assert "characters left out" in summaries[0][1]
    assert "begin" in summaries[0][1]
    assert "It was long." in texts[1]


def test_a_conversation_remembers_its_beginning(tmp_path: Path):
    """End to end: through the application's services and the database."""
    model = ScriptedModel(
        answers=[("What was said since", "Her name is Ada."), ("colour", "Blue.")]
    )

    async def go() -> list[str]:
        definition, builder = scripted_models(model)
        async with Modelyard(
            Settings(home=str(tmp_path)),
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            app_record, app, _ = await yard.apps.add(
                "default", chat(), mapping=AppMapping(models={"*": "scripted/model"})
            )
            conversation = ""
            for turn_index in range(7):
                run, conversation_record = await yard.services.workflows.chats.send(
                    app_record,
                    app,
                    query=f"{turn_index} {WORDS}",
                    inputs={},
                    user="ada",
                    conversation_id=conversation,
                )
                conversation = conversation_record.id
                await yard.runs.wait_until_ended("default", run.id)
        return [message.text for message in model.requests[-1].messages]

    texts = asyncio.run(go())
    assert texts[1].endswith("Her name is Ada.")
    assert texts[-1].startswith("6 lorem")


def test_an_agent_sees_its_earlier_tool_calls(tmp_path: Path):
    first = ScriptedChatModel(
        replies=[
            {"text": "Let me see.", "calls": [["note", {"text": "one"}]]},
            "Noted.",
            "As I noted.",
        ]
    )

    async def talk(yard: Modelyard) -> None:
        yard.tools.functions.add(note)
        run = await start_run(yard, query="note one")
        app_record = yard.apps.get_by_id_or_name("default", "agent")
        second_run, _ = await yard.services.workflows.chats.send(
            app_record, await yard.apps.published_app(app_record), query="what did you note?", inputs={}, user="ada",
            conversation_id=run.conversation,
        )  # fmt: skip
        await yard.runs.wait_until_ended("default", second_run.id)

    within(tmp_path, first, talk)
    messages = first.requests[-1].messages
    calls = [
        message
        for message in messages
        if isinstance(message, AssistantPromptMessage) and message.tool_calls
    ]
    assert [
        (message.text, message.tool_calls[0].function.arguments) for message in calls
    ] == [("Let me see.", '{"text": "one"}')]
    (result,) = [
        message for message in messages if isinstance(message, ToolPromptMessage)
    ]
    assert (result.text, result.tool_call_id) == ("noted", calls[0].tool_calls[0].id)
    assert [message.text for message in messages][-2:] == [
        "Noted.",
        "what did you note?",
    ]


def test_a_react_agent_sees_its_earlier_calls_as_text(tmp_path: Path):
    replies = ['Thought: x\nAction: {"action": "note", "action_input": {"text": "one"}}', "Final Answer: Noted.", "Final Answer: As I noted."]  # fmt: skip
    model = ScriptedChatModel(replies=list(replies))
    text = app_text().replace("function_calling", "ReAct")

    async def talk(yard: Modelyard) -> None:
        run = await start_run(yard, text, query="note one")
        app_record = yard.apps.get_by_id_or_name("default", "agent")
        second_run, _ = await yard.services.workflows.chats.send(
            app_record,
            await yard.apps.published_app(app_record),
            query="what?",
            inputs={},
            user="ada",
            conversation_id=run.conversation,
        )
        await yard.runs.wait_until_ended("default", second_run.id)

    within(tmp_path, model, talk)
    texts = [
        message.text
        for message in model.requests[-1].messages
        if not isinstance(message, SystemPromptMessage)
    ]
    assert any('[used note with {"text": "one"}: noted]' in text for text in texts), (
        texts
    )


def test_a_failing_end_listener_does_not_hide_the_end(tmp_path: Path):
    model = ScriptedModel()

    async def crash(*_: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    async def go() -> str:
        definition, builder = scripted_models(model)
        async with Modelyard(
            Settings(home=str(tmp_path)),
            definitions=[definition],
            builders={"scripted": builder},
            environ={},
        ) as yard:
            yard.runs.on_end(crash)
            app_record, app, _ = await yard.apps.add(
                "default", chat(), mapping=AppMapping(models={"*": "scripted/model"})
            )
            run, _ = await yard.services.workflows.chats.send(
                app_record, app, query="hello", inputs={}, user="ada"
            )
            ended = await asyncio.wait_for(
                yard.runs.wait_until_ended("default", run.id), 10
            )
        return ended.status.value

    assert asyncio.run(go()) == "succeeded"
