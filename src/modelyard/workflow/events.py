"""What happens in a run, as values: they are shown, stored, and sent on as they are."""

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """`at` is seconds since 1970."""

    at: float = 0.0


# ---------------------------------------------------------------------------------------------- the run


class GraphRunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    inputs: dict[str, Any] = {}
    reason: str = "initial"
    """initial, or resumption."""


class GraphRunSucceeded(Event, frozen=True, kw_only=True, tag="run_succeeded"):
    outputs: dict[str, Any] = {}


class GraphRunPartialSucceeded(Event, frozen=True, kw_only=True, tag="run_partial_succeeded"):
    """Finished, with errors that nodes had and handled."""

    outputs: dict[str, Any] = {}
    exceptions_count: int = 0


class GraphRunFailed(Event, frozen=True, kw_only=True, tag="run_failed"):
    error: str
    error_type: str = ""
    exceptions_count: int = 0


class GraphRunAborted(Event, frozen=True, kw_only=True, tag="run_aborted"):
    reason: str = ""
    outputs: dict[str, Any] = {}


class GraphRunPaused(Event, frozen=True, kw_only=True, tag="run_paused"):
    reasons: list[dict[str, Any]] = []
    outputs: dict[str, Any] = {}


# ---------------------------------------------------------------------------------------------- nodes


class NodeEvent(Event, frozen=True, kw_only=True):
    id: str
    """Of this execution; the same when it is repeated after a crash."""
    node_id: str
    node_type: str
    title: str = ""
    in_iteration_id: str = ""
    in_loop_id: str = ""
    place: int | None = None
    """Which item or round of the container, from 0."""


class NodeRunStarted(NodeEvent, frozen=True, kw_only=True, tag="node_started"):
    predecessor_node_id: str = ""
    index: int = 0
    """Which of the run's nodes it is, from 1."""


class _NodeDone(NodeEvent, frozen=True, kw_only=True):
    inputs: dict[str, Any] = {}
    process_data: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    handle: str = ""
    started_at: float = 0.0
    index: int = 0
    predecessor_node_id: str = ""


class NodeRunSucceeded(_NodeDone, frozen=True, kw_only=True, tag="node_succeeded"):
    pass


class NodeRunFailed(_NodeDone, frozen=True, kw_only=True, tag="node_failed"):
    error: str
    error_type: str = ""


class NodeRunException(_NodeDone, frozen=True, kw_only=True, tag="node_exception"):
    """It failed, and says itself how the run goes on."""

    error: str
    error_type: str = ""


class NodeRunRetry(_NodeDone, frozen=True, kw_only=True, tag="node_retry"):
    error: str
    error_type: str = ""
    retry_index: int = 1


class NodeRunStreamChunk(NodeEvent, frozen=True, kw_only=True, tag="node_chunk"):
    """A piece of what the run says, in the order in which it is to be read."""

    selector: list[str]
    chunk: str
    is_final: bool = False


class NodeRunReasoningChunk(NodeEvent, frozen=True, kw_only=True, tag="node_reasoning"):
    chunk: str
    is_final: bool = False


class NodeRunRetrieverResource(NodeEvent, frozen=True, kw_only=True, tag="node_resources"):
    retriever_resources: list[dict[str, Any]] = []
    context: str = ""


class NodeRunVariableUpdated(NodeEvent, frozen=True, kw_only=True, tag="variable_updated"):
    selector: list[str]
    value: Any = None
    value_type: str = ""


class NodeRunPauseRequested(NodeEvent, frozen=True, kw_only=True, tag="node_paused"):
    reason: dict[str, Any] = {}


class NodeRunHumanInputFormFilled(NodeEvent, frozen=True, kw_only=True, tag="form_filled"):
    action_id: str = ""
    action_text: str = ""
    rendered_content: str = ""


class NodeRunHumanInputFormTimeout(NodeEvent, frozen=True, kw_only=True, tag="form_timeout"):
    expiration_time: float = 0.0


class NodeRunAgentLog(NodeEvent, frozen=True, kw_only=True, tag="agent_log"):
    message_id: str
    label: str = ""
    parent_id: str | None = None
    error: str | None = None
    status: str = ""
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class NodeRunAgentThought(NodeEvent, frozen=True, kw_only=True, tag="agent_thought"):
    """A turn of an agent: told once with what it wants done, once more with what came of it."""

    thought_id: str
    position: int = 1
    thought: str = ""
    tool: str = ""
    """Names, joined by `;`."""
    tool_labels: dict[str, dict[str, str]] = {}
    tool_input: str = ""
    """JSON: name → arguments."""
    observation: str = ""
    """JSON: name → what came of it."""
    files: list[dict[str, Any]] = []


# ---------------------------------------------------------------------------------------------- containers


class _ContainerStarted(NodeEvent, frozen=True, kw_only=True):
    inputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class _ContainerNext(NodeEvent, frozen=True, kw_only=True):
    round: int
    """From 0."""


class _ContainerDone(NodeEvent, frozen=True, kw_only=True):
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    steps: int = 0
    started_at: float = 0.0


class NodeRunIterationStarted(_ContainerStarted, frozen=True, kw_only=True, tag="iteration_started"):
    pass


class NodeRunIterationNext(_ContainerNext, frozen=True, kw_only=True, tag="iteration_next"):
    pass


class NodeRunIterationSucceeded(_ContainerDone, frozen=True, kw_only=True, tag="iteration_succeeded"):
    pass


class NodeRunIterationFailed(_ContainerDone, frozen=True, kw_only=True, tag="iteration_failed"):
    error: str = ""


class NodeRunLoopStarted(_ContainerStarted, frozen=True, kw_only=True, tag="loop_started"):
    pass


class NodeRunLoopNext(_ContainerNext, frozen=True, kw_only=True, tag="loop_next"):
    pass


class NodeRunLoopSucceeded(_ContainerDone, frozen=True, kw_only=True, tag="loop_succeeded"):
    pass


class NodeRunLoopFailed(_ContainerDone, frozen=True, kw_only=True, tag="loop_failed"):
    error: str = ""


class TextReplaced(Event, frozen=True, kw_only=True, tag="text_replaced"):
    """What was said before is taken back: a run went on after a crash, and this is what stands now."""

    text: str
    reason: str = "resumption"


GraphEvent = (
    GraphRunStarted | GraphRunSucceeded | GraphRunPartialSucceeded | GraphRunFailed | GraphRunAborted | GraphRunPaused
)
NodeRunEvent = (
    NodeRunStarted | NodeRunSucceeded | NodeRunFailed | NodeRunException | NodeRunRetry | NodeRunStreamChunk
    | NodeRunReasoningChunk | NodeRunRetrieverResource | NodeRunVariableUpdated | NodeRunPauseRequested
    | NodeRunHumanInputFormFilled | NodeRunHumanInputFormTimeout | NodeRunAgentLog | NodeRunAgentThought
    | NodeRunIterationStarted | NodeRunIterationNext | NodeRunIterationSucceeded | NodeRunIterationFailed
    | NodeRunLoopStarted | NodeRunLoopNext | NodeRunLoopSucceeded | NodeRunLoopFailed
)  # fmt: skip
AnyEvent = GraphEvent | NodeRunEvent | TextReplaced

_encoder = msgspec.json.Encoder()
_decoder: "msgspec.json.Decoder[AnyEvent]" = msgspec.json.Decoder(AnyEvent)


def dump_event(event: AnyEvent) -> bytes:
    return _encoder.encode(event)


def parse_event(data: bytes | str) -> AnyEvent:
    return _decoder.decode(data)
