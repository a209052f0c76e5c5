"""Function calling strategy: the model uses its API's tool calls, several per turn if
it likes.

The last turn offers no tools, which forces an answer.
"""

from modelyard.agents.prompting import (
    SAFETY,
    PlainStreamParser,
    build_request,
    full_answer_text,
    plain_history,
    system_messages,
    tool_turns,
    user_message,
)
from modelyard.agents.state import ReplyParser, State, prompt_tools
from modelyard.models.llm import LLMRequest


class FunctionCalling:
    """Strategy for models that support tool calls."""

    name = "function_calling"

    def ask(self, state: State) -> LLMRequest:
        """Build the next request from the history, the query and the earlier tool
        results."""
        task = state.task
        system_prompt = "\n\n".join(
            section
            for section in (task.instruction, SAFETY if task.tools else "")
            if section.strip()
        )
        # Files in the history are sent on the first turn only; later turns name them to
        # save tokens.
        history = plain_history(task.history) if state.turns else list(task.history)
        messages = [
            *system_messages(system_prompt),
            *history,
            user_message(state),
            *tool_turns(state.turns),
        ]
        return build_request(
            state, messages, tools=() if state.is_last else prompt_tools(task.tools)
        )

    def reader(self, state: State) -> ReplyParser:
        """Return a parser for a plain reply with tool calls."""
        return PlainStreamParser()

    def is_done(self, state: State) -> bool:
        """Return whether the last turn requested no tool calls."""
        return bool(state.turns) and not state.turns[-1].reply.calls

    def answer(self, state: State) -> str:
        """Return the text of all turns."""
        return full_answer_text(state)
