"""ReAct strategy: thought, action and observation in plain text, for models without
tool calls.

Chat models get the earlier steps as messages, completion models as one text.
"""

import re
from collections.abc import Sequence

import msgspec

from modelyard.agents.events import AgentCall
from modelyard.agents.prompting import (
    SAFETY,
    ReactStreamParser,
    build_request,
    plain_history,
    system_messages,
    tool_descriptions,
    user_message,
)
from modelyard.agents.state import ModelTurn, ReplyParser, State, Turn, prompt_tools
from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.ids import new_id
from modelyard.models.llm import LLMRequest, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    AssistantPromptMessage,
    UserPromptMessage,
)

STOP = "Observation"
_TEMPLATE = """{{instruction}}

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

{{safety}}"""  # noqa: E501
_FINAL_TURN_INSTRUCTION = (
    'Do not use any more tools. Answer the question now, with the action "Final'
    ' Answer", by what you know.'
)
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


class React:
    """Strategy for models that write their tool calls as text."""

    def __init__(self, *, is_completion: bool = False) -> None:
        self.is_completion = is_completion
        self.name = "react_completion" if is_completion else "react"

    def ask(self, state: State) -> LLMRequest:
        """Build the next ReAct request of a run.

        Placeholders in the task's own prompt, or in the default one, are replaced;
        unknown ones stay. Earlier steps form the scratchpad. On the last turn the model
        is told to answer without tools.
        """
        task = state.task
        tools = prompt_tools(task.tools)
        listed, names = tool_descriptions(tools)
        pad = scratchpad(state.turns)
        values = {
            "instruction": task.instruction,
            "tools": listed,
            "tool_names": names or "none",
            "safety": SAFETY,
            "historic_messages": _history_text(task.history),
            "query": task.query,
            "agent_scratchpad": pad,
        }
        template = task.prompt or _TEMPLATE
        # Unknown placeholders stay as they are, because the user's prompt may contain
        # braces.
        system_prompt = _PLACEHOLDER.sub(
            lambda match: values.get(match[1], match[0]), template
        )
        if state.is_last:
            system_prompt += f"\n\n{_FINAL_TURN_INSTRUCTION}"
        if self.is_completion:
            text = system_prompt
            # A prompt that places the query itself also decides where history and
            # scratchpad go.
            if "{{query}}" not in template:
                history_text = (
                    f"{values['historic_messages']}\n" if task.history else ""
                )
                text = f"{system_prompt}\n\n{history_text}Question: {task.query}\n{pad}"
            return build_request(state, [UserPromptMessage(content=text)], stop=(STOP,))
        messages: list[AnyPromptMessage] = [
            *system_messages(system_prompt),
            *(plain_history(task.history) if state.turns else task.history),
            user_message(state),
        ]
        # Chat models continue after their own scratchpad; the user message makes them
        # resume.
        if pad:
            messages += [
                AssistantPromptMessage(content=pad),
                UserPromptMessage(content="continue"),
            ]
        return build_request(state, messages, stop=(STOP,))

    def reader(self, state: State) -> ReplyParser:
        """Return a parser for ReAct output that knows the names of the tools."""
        return _StreamParser([tool.name for tool in state.task.tools])

    def is_done(self, state: State) -> bool:
        """Return whether the last turn requested no action."""
        return bool(state.turns) and not state.turns[-1].reply.calls

    def answer(self, state: State) -> str:
        """Return the text of the last turn."""
        return state.turns[-1].reply.text if state.turns else ""


def scratchpad(turns: Sequence[Turn]) -> str:
    """Return the earlier thoughts, actions and observations in the format that the
    model itself writes."""
    lines: list[str] = []
    for turn in turns:
        reply = turn.reply
        if thought := reply.thought.strip():
            lines.append(f"Thought: {thought}")
        for result in turn.results:
            action = {
                "action": result.call.name,
                "action_input": _decode_arguments(result.call.arguments),
            }
            lines.append(f"Action:\n```\n{msgspec.json.encode(action).decode()}\n```")
            lines.append(f"Observation: {result.text}")
        if not turn.results and reply.text:
            lines.append(f"Final Answer: {reply.text}")
    return "\n".join(lines)


def _decode_arguments(arguments: str) -> object:
    """Return a call's arguments as a JSON value, or as their text if they are none."""
    try:
        return decode_body(arguments)
    except BodyError:
        return arguments


def _history_text(history: Sequence[AnyPromptMessage]) -> str:
    """Return the earlier messages as one text, for completion models.

    Each starts with `Human:` or `Assistant:`; messages of tools are left out.
    """
    names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    return "\n".join(
        f"{names[message.role.value]}{message.text}"
        for message in history
        if message.role.value in names
    )


class _StreamParser(ReactStreamParser):
    def finish(self) -> tuple[Sequence[tuple[str, str]], ModelTurn]:
        """Return (remaining deltas, reply). The reply has at most one tool call."""
        final_deltas = self.rest()
        if not self.chunks:
            return final_deltas, ModelTurn()
        result = fold(self.chunks)
        reader = self.reader
        calls: list[AgentCall] = []
        # An answer takes precedence over an action in the same reply.
        if reader.action is not None and reader.answer is None:
            calls = [
                AgentCall(
                    id=new_id("call"),
                    name=reader.action.name,
                    arguments=reader.action.arguments,
                )
            ]
        text, thought = reader.answer or "", reader.thought
        if not calls and reader.answer is None:
            # Neither an action nor an answer was found: treat the complete text as the
            # answer.
            text, thought = thought, ""
            if text:
                final_deltas = [*final_deltas, ("text", text)]
        return final_deltas, ModelTurn(
            text=text,
            thought=thought,
            calls=calls,
            message=AssistantPromptMessage(content=result.text),
            usage=result.usage,
            model=result.model,
            finish_reason=result.finish_reason or "",
        )
