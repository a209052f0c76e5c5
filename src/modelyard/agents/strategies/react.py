"""Thought, action, observation, in plain text: for models that cannot call tools.

Chat models have the past as messages, completion models as one text."""

import re
from collections.abc import Sequence

import msgspec

from modelyard.agents.events import AgentCall
from modelyard.agents.prompting import (
    SAFETY,
    ReactReading,
    described,
    plain_history,
    question_of,
    request_of,
    system_of,
)
from modelyard.agents.state import Reader, Reply, State, Turn, prompt_tools
from modelyard.base.bodies import BodyError, decode_body
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMRequest, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    UserPromptMessage,
)

STOP = "Observation"
_FORM = """{{instruction}}

You can use these tools:
{{tools}}

To use one, write a JSON object in a fence with two keys: "action" (one of {{tool_names}}) and "action_input" (what \
the tool is given, as its parameters say). One action at a time:

Thought: what to do next, and why
Action:
```
{"action": TOOL, "action_input": INPUT}
```

After that you are given an Observation. Go on with a Thought and an Action as often as needed. As soon as you can \
answer, write:

Thought: I can answer now
Action:
```
{"action": "Final Answer", "action_input": "the answer, in the language of the question"}
```

{{safety}}"""
_LAST = 'Do not use any more tools. Answer the question now, with the action "Final Answer", by what you know.'
_PLACE = re.compile(r"\{\{(\w+)\}\}")


class React:
    def __init__(self, *, is_completion: bool = False) -> None:
        self.is_completion = is_completion
        self.name = "react_completion" if is_completion else "react"

    def ask(self, state: State) -> LLMRequest:
        task = state.task
        tools = prompt_tools(task.tools)
        listed, names = described(tools)
        pad = scratchpad(state.turns)
        values = {
            "instruction": task.instruction, "tools": listed, "tool_names": names or "none", "safety": SAFETY,
            "historic_messages": _told(task.history), "query": task.query, "agent_scratchpad": pad,
        }  # fmt: skip
        form = task.prompt or _FORM
        told = _PLACE.sub(lambda match: values.get(match[1], match[0]), form)
        if state.is_last:
            told += f"\n\n{_LAST}"
        if self.is_completion:
            text = told
            if "{{query}}" not in form:
                before = f"{values['historic_messages']}\n" if task.history else ""
                text = f"{told}\n\n{before}Question: {task.query}\n{pad}"
            return request_of(state, [UserPromptMessage(content=text)], stop=(STOP,))
        messages: list[AnyPromptMessage] = [
            *system_of(told), *(plain_history(task.history) if state.turns else task.history), question_of(state)
        ]  # fmt: skip
        if pad:
            messages += [AssistantPromptMessage(content=pad), UserPromptMessage(content="continue")]
        return request_of(state, messages, stop=(STOP,))

    def reader(self, state: State) -> Reader:
        return _Reading([one.name for one in state.task.tools])

    def is_done(self, state: State) -> bool:
        return bool(state.turns) and not state.turns[-1].reply.calls

    def answer(self, state: State) -> str:
        return state.turns[-1].reply.text if state.turns else ""


def scratchpad(turns: Sequence[Turn]) -> str:
    """What was thought, done and seen, as the model would have written it."""
    lines: list[str] = []
    for turn in turns:
        reply = turn.reply
        if thought := reply.thought.strip():
            lines.append(f"Thought: {thought}")
        for one in turn.results:
            action = {"action": one.call.name, "action_input": _input(one.call.arguments)}
            lines.append(f"Action:\n```\n{msgspec.json.encode(action).decode()}\n```")
            lines.append(f"Observation: {one.text}")
        if not turn.results and reply.text:
            lines.append(f"Final Answer: {reply.text}")
    return "\n".join(lines)


def _input(arguments: str) -> object:
    try:
        return decode_body(arguments)
    except BodyError:
        return arguments


def _told(history: Sequence[AnyPromptMessage]) -> str:
    names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    return "\n".join(f"{names[one.role.value]}{one.text}" for one in history if one.role.value in names)


class _Reading(ReactReading):
    def finish(self) -> tuple[Sequence[tuple[str, str]], Reply]:
        rest = self.rest()
        if not self.chunks:
            return rest, Reply()
        whole = fold(self.chunks)
        reader = self.reader
        calls: list[AgentCall] = []
        if reader.action is not None and reader.answer is None:
            calls = [AgentCall(id=new_id("call"), name=reader.action.name, arguments=reader.action.arguments)]
        text, thought = reader.answer or "", reader.thought
        if not calls and reader.answer is None:
            # Neither an action nor an answer: what it thought aloud is the answer.
            text, thought = thought, ""
            if text:
                rest = [*rest, ("text", text)]
        return rest, Reply(
            text=text, thought=thought, calls=calls, message=AssistantPromptMessage(content=whole.text),
            usage=whole.usage, model=whole.model, finish_reason=whole.finish_reason or "",
        )  # fmt: skip
