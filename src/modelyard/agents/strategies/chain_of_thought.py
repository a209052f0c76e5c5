"""Chain-of-thought strategy: one turn, in which the model reasons step by step and then
answers. No tools."""

from collections.abc import Sequence

from modelyard.agents.prompting import (
    ReactStreamParser,
    build_request,
    system_messages,
    user_message,
)
from modelyard.agents.state import ModelTurn, ReplyParser, State
from modelyard.models.llm import LLMRequest, fold

_INSTRUCTIONS = (
    "Think step by step before you answer: write your steps down first, each on a line"
    " of its own. Then write 'Final Answer:' and behind it the answer alone, in the"
    " language of the question."
)


class ChainOfThought:
    """Strategy that makes the model reason before it answers."""

    name = "chain_of_thought"

    def ask(self, state: State) -> LLMRequest:
        """Build the only request: instruction, history and query."""
        system_prompt = "\n\n".join(
            section
            for section in (state.task.instruction, _INSTRUCTIONS)
            if section.strip()
        )
        return build_request(
            state,
            [*system_messages(system_prompt), *state.task.history, user_message(state)],
        )

    def reader(self, state: State) -> ReplyParser:
        """Return a parser that separates the reasoning from the final answer."""
        return _StreamParser()

    def is_done(self, state: State) -> bool:
        """Return True as soon as there is a turn."""
        return bool(state.turns)

    def answer(self, state: State) -> str:
        """Return the text of the last turn."""
        return state.turns[-1].reply.text if state.turns else ""


class _StreamParser(ReactStreamParser):
    def finish(self) -> tuple[Sequence[tuple[str, str]], ModelTurn]:
        """Return (remaining deltas, reply). Without a marked answer, the complete text
        is the answer."""
        final_deltas = self.rest()
        if not self.chunks:
            return final_deltas, ModelTurn()
        result = fold(self.chunks)
        # The parser separates the answer from the reasoning by the "Final Answer:"
        # label.
        text, thought = self.reader.answer, self.reader.thought
        if text is None:  # without the label, the complete text is the answer
            text, thought = result.text, ""
            final_deltas = [*final_deltas, ("text", text)] if text else final_deltas
        return final_deltas, ModelTurn(
            text=text,
            thought=thought,
            message=result.message,
            usage=result.usage,
            model=result.model,
            finish_reason=result.finish_reason or "",
        )
