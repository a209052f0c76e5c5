"""Moderation of a run's output while it is streamed."""

import asyncio
from typing import Any

from modelyard.workflow.engine import Command
from modelyard.workflow.events import NodeRunStreamChunk, TextReplaced
from modelyard.workflow.output_guard import OutputGuard


class Run:
    """A mock run that records the guard's events and commands."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.commands: list[Command] = []

    def push(self, event: Any) -> None:
        self.events.append(event)

    def command(self, command: Command, reason: str) -> None:
        assert reason
        self.commands.append(command)


def chunk(text: str) -> NodeRunStreamChunk:
    return NodeRunStreamChunk(
        at=0.0, id="1", node_id="a", node_type="llm", selector=["a", "text"], chunk=text
    )


def test_an_interrupted_check_is_repeated_at_the_end():
    """The end of a run cancels a running check; the text is checked again."""
    checked: list[str] = []
    is_checking = asyncio.Event()

    async def check(text: str) -> str | None:
        checked.append(text)
        is_checking.set()
        if len(checked) == 1:
            await asyncio.Event().wait()  # the moderation service hangs
        return "[removed]"

    async def work() -> tuple[str | None, Run]:
        run = Run()
        guard = OutputGuard(run, check)  # pyright: ignore[reportArgumentType]
        assert guard.should_publish(chunk("b" * 400))
        await is_checking.wait()
        return await guard.finish(), run

    replaced, run = asyncio.run(work())
    assert checked == ["b" * 400] * 2
    assert replaced == "[removed]"
    (event,) = run.events
    assert isinstance(event, TextReplaced)
    assert run.commands == [Command.STOP]


def test_checked_text_is_not_checked_again_at_the_end():
    checked: list[str] = []
    is_checking = asyncio.Event()

    async def check(text: str) -> str | None:
        checked.append(text)
        is_checking.set()
        return None

    async def work() -> str | None:
        guard = OutputGuard(Run(), check)  # pyright: ignore[reportArgumentType]
        guard.should_publish(chunk("b" * 400))
        await is_checking.wait()
        await asyncio.sleep(0)
        return await guard.finish()

    assert asyncio.run(work()) is None
    assert checked == ["b" * 400]


def test_a_retry_does_not_show_text_again_that_was_replaced():
    async def check(text: str) -> str | None:
        return "[removed]" if text else None

    async def work() -> list[bool]:
        guard = OutputGuard(Run(), check)  # pyright: ignore[reportArgumentType]
        assert guard.should_publish(chunk("bad"))
        assert await guard.finish() == "[removed]"
        later = [chunk("more"), TextReplaced(text="bad", reason="retry")]
        return [guard.should_publish(event) for event in later]

    assert asyncio.run(work()) == [False, False]
