"""A run's events as AG-UI 1.0 has them, for front ends that speak it. Pure.

Texts, thoughts, steps and an agent's calls keep the order in which they happen; what is open at the end is closed.
"""

import json
from collections.abc import Iterator
from typing import Any

from modelyard.models.types import JSON
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunAborted,
    GraphRunFailed,
    GraphRunPaused,
    GraphRunStarted,
    NodeRunAgentThought,
    NodeRunException,
    NodeRunFailed,
    NodeRunHumanInputFormFilled,
    NodeRunPauseRequested,
    NodeRunReasoningChunk,
    NodeRunRetrieverResource,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    TextReplaced,
)
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.single_run import FINAL

VERSION = "1.0"
_SILENT = ("iteration-start", "loop-start", "loop-end")


class AgUiEvents:
    def __init__(self, run: RunRecord, *, run_id: str = "") -> None:
        self._run = run
        self._thread = run.conversation or run.id
        self._run_id = run_id or run.id
        self._text = ""
        self._thought = ""
        self._count = 0
        self._calls: dict[str, list[str]] = {}
        """Thought → the ids of its calls that wait for results."""
        self.is_over = False

    def feed(self, event: AnyEvent) -> Iterator[JSON]:  # noqa: C901  one case an event
        if self.is_over:
            return
        match event:
            case GraphRunStarted():
                yield self._event(
                    "RUN_STARTED", event, threadId=self._thread, runId=self._run_id, protocolVersion=VERSION
                )
            case NodeRunStreamChunk():
                if event.chunk:
                    yield from self._end_thought(event)
                    yield from self._say(event, event.chunk)
            case TextReplaced():
                yield from self._end_text(event)
                yield from self._say(event, event.text)
            case NodeRunReasoningChunk():
                yield from self._think(event)
            case NodeRunAgentThought():
                yield from self._called(event)
            case NodeRunStarted() if event.node_type not in _SILENT:
                yield self._event("STEP_STARTED", event, stepName=event.title or event.node_id)
            case NodeRunSucceeded() | NodeRunFailed() | NodeRunException() if event.node_type not in _SILENT:
                yield self._event("STEP_FINISHED", event, stepName=event.title or event.node_id)
            case NodeRunRetrieverResource():
                yield self._event("CUSTOM", event, name="sources", value=event.retriever_resources)
            case NodeRunPauseRequested():
                yield self._event("CUSTOM", event, name="input_required", value=event.reason)
            case NodeRunHumanInputFormFilled():
                yield self._event("CUSTOM", event, name="input_given", value={"action": event.action_id})
            case _ if isinstance(event, FINAL):
                yield from self._end(event)
            case _:
                pass

    def _event(self, kind: str, event: Any, **more: Any) -> JSON:
        return {"type": kind, "timestamp": int(event.at * 1000), **more}

    def _say(self, event: Any, text: str) -> Iterator[JSON]:
        if not text:
            return
        if not self._text:
            self._count += 1
            self._text = f"{self._run.message or self._run.id}-{self._count}"
            yield self._event("TEXT_MESSAGE_START", event, messageId=self._text, role="assistant")
        yield self._event("TEXT_MESSAGE_CONTENT", event, messageId=self._text, delta=text)

    def _end_text(self, event: Any) -> Iterator[JSON]:
        if self._text:
            yield self._event("TEXT_MESSAGE_END", event, messageId=self._text)
            self._text = ""

    def _think(self, event: NodeRunReasoningChunk) -> Iterator[JSON]:
        if event.chunk:
            if not self._thought:
                self._count += 1
                self._thought = f"thought-{self._run.id}-{self._count}"
                yield self._event("REASONING_START", event, messageId=self._thought)
                yield self._event("REASONING_MESSAGE_START", event, messageId=self._thought, role="reasoning")
            yield self._event("REASONING_MESSAGE_CONTENT", event, messageId=self._thought, delta=event.chunk)
        if event.is_final:
            yield from self._end_thought(event)

    def _end_thought(self, event: Any) -> Iterator[JSON]:
        if self._thought:
            yield self._event("REASONING_MESSAGE_END", event, messageId=self._thought)
            yield self._event("REASONING_END", event, messageId=self._thought)
            self._thought = ""

    def _called(self, event: NodeRunAgentThought) -> Iterator[JSON]:
        """Told first with what is wanted, then with what came of it."""
        yield from self._end_thought(event)
        names = [one for one in event.tool.split(";") if one]
        if not names:
            return
        if not event.observation:
            yield from self._end_text(event)
            inputs = _object(event.tool_input)
            ids = [f"{event.thought_id}-{at}" for at in range(len(names))]
            self._calls[event.thought_id] = ids
            for name, call in zip(names, ids, strict=True):
                yield self._event("TOOL_CALL_START", event, toolCallId=call, toolCallName=name)
                yield self._event("TOOL_CALL_ARGS", event, toolCallId=call, delta=_text(inputs.get(name, {})))
                yield self._event("TOOL_CALL_END", event, toolCallId=call)
            return
        results = _object(event.observation)
        for name, call in zip(names, self._calls.pop(event.thought_id, []), strict=False):
            yield self._event(
                "TOOL_CALL_RESULT", event, messageId=f"{call}-result", toolCallId=call, role="tool",
                content=_text(results.get(name, "")),
            )  # fmt: skip

    def _end(self, event: Any) -> Iterator[JSON]:
        yield from self._end_thought(event)
        yield from self._end_text(event)
        self.is_over = True
        if isinstance(event, GraphRunFailed):
            yield self._event(
                "RUN_ERROR", event, message=event.error or "the run failed", code=event.error_type or None
            )
            return
        outputs = getattr(event, "outputs", {}) or {}
        result: JSON = {"outputs": outputs}
        if isinstance(event, GraphRunAborted):
            result |= {"status": "stopped", "reason": event.reason}
        elif isinstance(event, GraphRunPaused):
            result |= {"status": "paused", "reasons": event.reasons}
        yield self._event("RUN_FINISHED", event, threadId=self._thread, runId=self._run_id, result=result)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
