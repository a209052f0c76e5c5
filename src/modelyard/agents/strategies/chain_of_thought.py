"""One turn: the model thinks step by step, then answers. It calls nothing."""

from collections.abc import Sequence

from modelyard.agents.prompting import ReactReading, question_of, request_of, system_of
from modelyard.agents.state import Reader, Reply, State
from modelyard.models.llm import LLMRequest, fold

_FORM = (
    "Think step by step before you answer: write your steps down first, each on a line of its own. Then write "
    "'Final Answer:' and behind it the answer alone, in the language of the question."
)


class ChainOfThought:
    name = "chain_of_thought"

    def ask(self, state: State) -> LLMRequest:
        told = "\n\n".join(one for one in (state.task.instruction, _FORM) if one.strip())
        return request_of(state, [*system_of(told), *state.task.history, question_of(state)])

    def reader(self, state: State) -> Reader:
        return _Reading()

    def is_done(self, state: State) -> bool:
        return bool(state.turns)

    def answer(self, state: State) -> str:
        return state.turns[-1].reply.text if state.turns else ""


class _Reading(ReactReading):
    def finish(self) -> tuple[Sequence[tuple[str, str]], Reply]:
        rest = self.rest()
        if not self.chunks:
            return rest, Reply()
        whole = fold(self.chunks)
        text, thought = self.reader.answer, self.reader.thought
        if text is None:  # it did not mark its answer: all of it is one
            text, thought = whole.text, ""
            rest = [*rest, ("text", text)] if text else rest
        return rest, Reply(
            text=text, thought=thought, message=whole.message, usage=whole.usage, model=whole.model,
            finish_reason=whole.finish_reason or "",
        )  # fmt: skip
