"""The model calls tools by its own means, several in one turn; the last turn has none, so that it answers."""

from modelyard.agents.prompting import (
    SAFETY,
    PlainReader,
    joined,
    plain_history,
    question_of,
    request_of,
    system_of,
    tool_turns,
)
from modelyard.agents.state import Reader, State, prompt_tools
from modelyard.models.llm import LLMRequest


class FunctionCalling:
    name = "function_calling"

    def ask(self, state: State) -> LLMRequest:
        task = state.task
        told = "\n\n".join(one for one in (task.instruction, SAFETY if task.tools else "") if one.strip())
        history = plain_history(task.history) if state.turns else list(task.history)
        messages = [*system_of(told), *history, question_of(state), *tool_turns(state.turns)]
        return request_of(state, messages, tools=() if state.is_last else prompt_tools(task.tools))

    def reader(self, state: State) -> Reader:
        return PlainReader()

    def is_done(self, state: State) -> bool:
        return bool(state.turns) and not state.turns[-1].reply.calls

    def answer(self, state: State) -> str:
        return joined(state)
