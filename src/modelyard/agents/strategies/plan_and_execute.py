"""Plan-and-execute strategy: first a plan, then its steps one by one with tools, then
the answer from their results.

The state follows from the turns alone: a turn without tool calls ends the step that it
belongs to.
"""

import re

from modelyard.agents.prompting import (
    SAFETY,
    PlainStreamParser,
    build_request,
    system_messages,
    tool_turns,
    user_message,
)
from modelyard.agents.state import ReplyParser, State, Turn, prompt_tools
from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.json_types import is_object
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import AnyPromptMessage, UserPromptMessage

# Every step is a call of the model at least; longer plans repeat themselves.
MAX_STEPS = 8
_PLAN = (
    "Make a plan for the user's request: a JSON list of short steps, each one thing to"
    " find out or to do, in order. Write the list and nothing else. A request that"
    " needs one step has a plan of one step."
)
# A line of a bulleted or numbered list. Possessive quantifiers prevent quadratic
# backtracking.
_LIST_ITEM = re.compile(r"^[^\S\n]*+(?:[-*•]|\d{1,9}[.)])[^\S\n]++(.+)$", re.MULTILINE)


class PlanAndExecute:
    """Strategy that plans first and works through the steps."""

    name = "plan_and_execute"

    def ask(self, state: State) -> LLMRequest:
        """Build the request for the plan, for the current step, or for the answer."""
        if not state.turns:
            return _plan_request(state)
        task = state.task
        tools = prompt_tools(task.tools)
        steps = parse_steps(state)
        step_results, turns = _completed_steps(state)
        system_prompt = "\n\n".join(
            section
            for section in (task.instruction, SAFETY if tools else "")
            if section.strip()
        )
        messages: list[AnyPromptMessage] = [
            *system_messages(system_prompt),
            *task.history,
        ]
        findings = _findings(steps, step_results)
        # All steps are done, or a limit was reached: answer from what there is.
        if len(step_results) >= len(steps) or state.is_last:
            text = (
                f"{task.query}\n\nThis was found out and done for"
                f" it:\n{findings}\n\nAnswer the request from this."
            )
            return build_request(state, [*messages, user_message(state, text)])
        # Only the turns of this step are included; earlier steps are represented by
        # their results.
        messages = [
            *messages,
            UserPromptMessage(content=_step_prompt(state, steps, step_results)),
            *tool_turns(turns),
        ]
        return build_request(state, messages, tools=tools)

    def reader(self, state: State) -> ReplyParser:
        """Return a parser: only the answer is text for the user; the plan and the steps
        are thoughts."""
        is_answer = bool(state.turns) and self._all_steps_done(state)
        return PlainStreamParser(
            delta_type="text" if is_answer else "thought",
            takes_calls=bool(state.turns) and not is_answer,
        )

    def _all_steps_done(self, state: State) -> bool:
        """Return whether only the answer remains to be written."""
        # The last turn must answer, even if steps of the plan are left.
        if state.is_last:
            return True
        return len(_completed_steps(state)[0]) >= len(parse_steps(state))

    def is_done(self, state: State) -> bool:
        """Return whether the last turn produced text for the user and no tool calls."""
        return (
            bool(state.turns)
            and bool(state.turns[-1].reply.text)
            and not state.turns[-1].reply.calls
        )

    def answer(self, state: State) -> str:
        """Return the text of the last turn."""
        return state.turns[-1].reply.text if state.turns else ""


def parse_steps(state: State) -> list[str]:
    """Return the steps of the plan from the first turn: a JSON list, a bulleted or
    numbered list, or else the query itself."""
    text = state.turns[0].reply.message.text
    start, end = text.find("["), text.rfind("]")
    steps: list[str] = []
    # Ignore text around the list, such as a code fence.
    if 0 <= start < end:
        try:
            decoded = decode_body(text[start : end + 1])
            steps = [
                (
                    str(raw_step.get("step") or raw_step.get("title") or raw_step)
                    if is_object(raw_step)
                    else str(raw_step)
                )
                for raw_step in decoded
            ]
        except (BodyError, TypeError):
            steps = []
    steps = steps or [line.strip() for line in _LIST_ITEM.findall(text)]
    return [step for step in steps if step.strip()][:MAX_STEPS] or [state.task.query]


def _plan_request(state: State) -> LLMRequest:
    """Ask for the plan. The model sees what tools exist but cannot call them."""
    task = state.task
    names = ", ".join(
        f"{tool.name} ({tool.description.splitlines()[0][:100]})"
        for tool in prompt_tools(task.tools)
        if tool.description
    )
    tool_names = names and f"Tools for it: {names}."
    system_prompt = "\n\n".join(
        section for section in (task.instruction, _PLAN, tool_names) if section
    )
    return build_request(
        state,
        [
            *system_messages(system_prompt),
            *task.history,
            user_message(state),
        ],
    )


def _step_prompt(state: State, steps: list[str], step_results: list[str]) -> str:
    """Return the prompt for the first step without a result."""
    listed = "\n".join(f"{index + 1}. {step}" for index, step in enumerate(steps))
    findings = _findings(steps, step_results)
    prompt = f"The request: {state.task.query}\n\nThe plan:\n{listed}\n"
    prompt += f"\nDone so far:\n{findings}\n" if findings else ""
    prompt += (
        f"\nDo step {len(step_results) + 1} now, and only this:"
        f" {steps[len(step_results)]}\nSay in short what came of it."
    )
    return prompt


def _findings(steps: list[str], step_results: list[str]) -> str:
    """Return the completed steps with their results, for a prompt."""
    # Fewer results than steps while the plan is in progress, hence not strict.
    return "\n".join(
        f"Step {index + 1}: {step}\nResult: {text}"
        for index, (step, text) in enumerate(zip(steps, step_results, strict=False))
    )


def _completed_steps(state: State) -> tuple[list[str], list[Turn]]:
    """Return (results of the completed steps, turns of the current step)."""
    step_results: list[str] = []
    current: list[Turn] = []
    # The first turn is the plan itself.
    for turn in state.turns[1:]:
        current.append(turn)
        if not turn.reply.calls:
            step_results.append(turn.reply.thought or turn.reply.message.text)
            current = []
    return step_results, current
