"""Translation of a run's events to AG-UI 1.0. It has no side effects.

Texts, reasoning, steps and tool calls keep their order. Everything still open when the
run ends is closed.
"""

import json
from collections.abc import Iterator
from typing import Any

from modelyard.base.json_types import is_object
from modelyard.models.types import JSON
from modelyard.workflow.events import (
    AgentToolCall,
    AnyEvent,
    Event,
    GraphEvent,
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
from modelyard.workflow.single_run import FINAL_EVENTS

VERSION = "1.0"
# Internal nodes of containers; a front end does not show them as steps.
_HIDDEN_NODE_TYPES = ("iteration-start", "loop-start", "loop-end")


class AgUiEvents:
    """Translates the events of one run to AG-UI events. Feed it the events in order."""

    def __init__(self, run: RunRecord, *, run_id: str = "") -> None:
        self._run = run
        self._thread = run.conversation or run.id
        self._run_id = run_id or run.id
        self._text = ""
        self._thought = ""
        self._count = 0
        self._calls: dict[str, list[str]] = {}
        """Thought id → ids of its tool calls that have no results yet."""
        self.is_over = False

    def feed(self, event: AnyEvent) -> Iterator[JSON]:  # noqa: C901
        """Yield the AG-UI events for one run event. Yields nothing after the run has
        ended."""
        if self.is_over:
            return
        match event:
            case GraphRunStarted():
                yield self._event(
                    "RUN_STARTED",
                    event,
                    threadId=self._thread,
                    runId=self._run_id,
                    protocolVersion=VERSION,
                )
            case NodeRunStreamChunk():
                if event.chunk:
                    # End the reasoning before text starts, so that the two are never
                    # interleaved.
                    yield from self._end_thought(event)
                    yield from self._emit_text(event, event.chunk)
            case TextReplaced():
                # Text that was sent cannot be taken back: the replacement is a new
                # message.
                yield from self._end_text(event)
                if event.text:
                    yield from self._emit_text(event, event.text)
            case NodeRunReasoningChunk():
                yield from self._emit_reasoning(event)
            case NodeRunAgentThought():
                yield from self._tool_calls(event)
            case NodeRunStarted() if event.node_type not in _HIDDEN_NODE_TYPES:
                yield self._event(
                    "STEP_STARTED", event, stepName=event.title or event.node_id
                )
            case NodeRunSucceeded() | NodeRunFailed() | NodeRunException() if (
                event.node_type not in _HIDDEN_NODE_TYPES
            ):
                yield self._event(
                    "STEP_FINISHED", event, stepName=event.title or event.node_id
                )
            case NodeRunRetrieverResource() if not self._run.hides_sources:
                yield self._event(
                    "CUSTOM", event, name="sources", value=event.retriever_resources
                )
            case NodeRunPauseRequested():
                yield self._event(
                    "CUSTOM", event, name="input_required", value=event.reason
                )
            case NodeRunHumanInputFormFilled():
                yield self._event(
                    "CUSTOM",
                    event,
                    name="input_given",
                    value={"action": event.action_id},
                )
            case _ if isinstance(event, FINAL_EVENTS):
                yield from self._end(event)
            case _:
                pass

    def _event(self, event_type: str, event: Event, **fields: Any) -> JSON:
        """Return an AG-UI event; timestamps are in milliseconds."""
        return {
            "type": event_type,
            "timestamp": int(event.at * 1000),
            **fields,
        }

    def _emit_text(self, event: Event, text: str) -> Iterator[JSON]:
        """Yield a text chunk, preceded by the start of a message if none is open."""
        if not text:
            return
        if not self._text:
            # A run may send several messages, so ids are numbered.
            self._count += 1
            self._text = f"{self._run.message or self._run.id}-{self._count}"
            yield self._event(
                "TEXT_MESSAGE_START", event, messageId=self._text, role="assistant"
            )
        yield self._event(
            "TEXT_MESSAGE_CONTENT", event, messageId=self._text, delta=text
        )

    def _end_text(self, event: Event) -> Iterator[JSON]:
        """End the open text message, if there is one."""
        if self._text:
            yield self._event("TEXT_MESSAGE_END", event, messageId=self._text)
            self._text = ""

    def _emit_reasoning(self, event: NodeRunReasoningChunk) -> Iterator[JSON]:
        """Yield a reasoning chunk, preceded by the start of a reasoning message if none
        is open."""
        if event.chunk:
            if not self._thought:
                self._count += 1
                self._thought = f"thought-{self._run.id}-{self._count}"
                yield self._event("REASONING_START", event, messageId=self._thought)
                yield self._event(
                    "REASONING_MESSAGE_START",
                    event,
                    messageId=self._thought,
                    role="reasoning",
                )
            yield self._event(
                "REASONING_MESSAGE_CONTENT",
                event,
                messageId=self._thought,
                delta=event.chunk,
            )
        if event.is_final:
            yield from self._end_thought(event)

    def _end_thought(self, event: Event) -> Iterator[JSON]:
        """End the open reasoning message, if there is one."""
        if self._thought:
            yield self._event("REASONING_MESSAGE_END", event, messageId=self._thought)
            yield self._event("REASONING_END", event, messageId=self._thought)
            self._thought = ""

    def _tool_calls(self, event: NodeRunAgentThought) -> Iterator[JSON]:
        """Yield an agent's tool calls, then their results. The event arrives twice:
        without and with an observation."""
        yield from self._end_thought(event)
        calls = _calls_of(event)
        if not calls:
            return
        if not event.observation:
            yield from self._end_text(event)
            ids = [f"{event.thought_id}-{index}" for index in range(len(calls))]
            # Retained until the second event of this thought brings the results.
            self._calls[event.thought_id] = ids
            for call, call_id in zip(calls, ids, strict=True):
                yield self._event(
                    "TOOL_CALL_START", event, toolCallId=call_id, toolCallName=call.name
                )
                yield self._event(
                    "TOOL_CALL_ARGS", event, toolCallId=call_id, delta=call.arguments
                )
                yield self._event("TOOL_CALL_END", event, toolCallId=call_id)
            return
        # strict=False: without a preceding call event there are no ids, and no results
        # are sent.
        for call, call_id in zip(
            calls, self._calls.pop(event.thought_id, []), strict=False
        ):
            yield self._event(
                "TOOL_CALL_RESULT",
                event,
                messageId=f"{call_id}-result",
                toolCallId=call_id,
                role="tool",
                content=call.observation or "",
            )

    def _end(self, event: GraphEvent) -> Iterator[JSON]:
        """Close what is open and yield the final event of the run."""
        yield from self._end_thought(event)
        yield from self._end_text(event)
        self.is_over = True
        if isinstance(event, GraphRunFailed):
            yield self._event(
                "RUN_ERROR",
                event,
                message=event.error or "The run failed",
                code=event.error_type or None,
            )
            return
        # Aborted and paused runs finish normally for AG-UI; the result says what
        # happened.
        outputs = getattr(event, "outputs", {}) or {}
        result: JSON = {"outputs": outputs}
        if isinstance(event, GraphRunAborted):
            result |= {"status": "stopped", "reason": event.reason}
        elif isinstance(event, GraphRunPaused):
            result |= {"status": "paused", "reasons": event.reasons}
        yield self._event(
            "RUN_FINISHED",
            event,
            threadId=self._thread,
            runId=self._run_id,
            result=result,
        )


def _calls_of(event: NodeRunAgentThought) -> list[AgentToolCall]:
    """Return the tool calls of a round."""
    if event.calls:
        return event.calls
    # Runs of earlier versions have only one entry for each tool's name.
    inputs, results = _object(event.tool_input), _object(event.observation)
    return [
        AgentToolCall(
            name=name,
            arguments=_text(inputs.get(name, {})),
            observation=_text(results.get(name, "")),
        )
        for name in event.tool.split(";")
        if name
    ]


def _object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Returns an empty one for any other text."""
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return {}
    return document if is_object(document) else {}


def _text(value: Any) -> str:
    """Return a string as it is and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
