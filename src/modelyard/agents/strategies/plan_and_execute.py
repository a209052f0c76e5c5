"""A plan first; then its steps one after the other, each with tools; then the answer from what they brought.

Where a run stands follows from its turns alone: a turn without calls ends the step that it belongs to.
"""

import re

from modelyard.agents.prompting import SAFETY, PlainReader, question_of, request_of, system_of, tool_turns
from modelyard.agents.state import Reader, State, Turn, prompt_tools
from modelyard.base.bodies import BodyError, decode_body
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import AnyPromptMessage, UserPromptMessage

MOST_STEPS = 8
_PLAN = (
    "Make a plan for the user's request: a JSON list of short steps, each one thing to find out or to do, in order. "
    "Write the list and nothing else. A request that needs one step has a plan of one step."
)
_LINE = re.compile(r"^[^\S\n]*+(?:[-*•]|\d{1,9}[.)])[^\S\n]++(.+)$", re.MULTILINE)


class PlanAndExecute:
    name = "plan_and_execute"

    def ask(self, state: State) -> LLMRequest:
        task = state.task
        tools = prompt_tools(task.tools)
        if not state.turns:
            names = ", ".join(
                f"{one.name} ({one.description.splitlines()[0][:100]})" for one in tools if one.description
            )
            told = "\n\n".join(one for one in (task.instruction, _PLAN, names and f"Tools for it: {names}.") if one)
            return request_of(state, [*system_of(told), *task.history, question_of(state)])
        steps = steps_of(state)
        done, turns = _progress(state)
        told = "\n\n".join(one for one in (task.instruction, SAFETY if tools else "") if one.strip())
        messages: list[AnyPromptMessage] = [*system_of(told), *task.history]
        found = "\n".join(
            f"Step {at + 1}: {step}\nResult: {text}" for at, (step, text) in enumerate(zip(steps, done, strict=False))
        )
        if len(done) >= len(steps) or state.is_last:
            text = f"{task.query}\n\nThis was found out and done for it:\n{found}\n\nAnswer the request from this."
            return request_of(state, [*messages, question_of(state, text)])
        listed = "\n".join(f"{at + 1}. {step}" for at, step in enumerate(steps))
        told_step = f"The request: {task.query}\n\nThe plan:\n{listed}\n"
        told_step += f"\nDone so far:\n{found}\n" if found else ""
        told_step += f"\nDo step {len(done) + 1} now, and only this: {steps[len(done)]}\nSay in short what came of it."
        messages = [*messages, UserPromptMessage(content=told_step), *tool_turns(turns)]
        return request_of(state, messages, tools=tools)

    def reader(self, state: State) -> Reader:
        done = len(_progress(state)[0]) if state.turns else 0
        is_answer = bool(state.turns) and (done >= len(steps_of(state)) or state.is_last)
        return PlainReader(kind="text" if is_answer else "thought", takes_calls=bool(state.turns) and not is_answer)

    def is_done(self, state: State) -> bool:
        return bool(state.turns) and bool(state.turns[-1].reply.text) and not state.turns[-1].reply.calls

    def answer(self, state: State) -> str:
        return state.turns[-1].reply.text if state.turns else ""


def steps_of(state: State) -> list[str]:
    """The plan that the first turn made: a JSON list, a numbered list, or the request itself."""
    text = state.turns[0].reply.message.text
    begin, end = text.find("["), text.rfind("]")
    steps: list[str] = []
    if 0 <= begin < end:
        try:
            found = decode_body(text[begin : end + 1])
            steps = [
                str(one.get("step") or one.get("title") or one) if isinstance(one, dict) else str(one) for one in found
            ]
        except (BodyError, TypeError):
            steps = []
    steps = steps or [one.strip() for one in _LINE.findall(text)]
    return [one for one in steps if one.strip()][:MOST_STEPS] or [state.task.query]


def _progress(state: State) -> tuple[list[str], list[Turn]]:
    """(what steps brought that are over, the turns of the step that is not)."""
    done: list[str] = []
    current: list[Turn] = []
    for turn in state.turns[1:]:
        current.append(turn)
        if not turn.reply.calls:
            done.append(turn.reply.thought or turn.reply.message.text)
            current = []
    return done, current
