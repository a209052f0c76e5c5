"""Events of a workflow run. They are streamed to clients, stored in the journal and
parsed back unchanged."""

from typing import Any

import msgspec


# Tags are stored in journals, so a class that is renamed keeps its tag.
class Event(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True
):
    """Base of all events. `at` is the time of the event in seconds since 1970."""

    at: float = 0.0


# ------------------------------------------------------------------------------ the run


class GraphRunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """The run started, or continues after a pause or a crash."""

    inputs: dict[str, Any] = {}
    reason: str = "initial"
    """`initial` or `resumption`."""


class GraphRunSucceeded(Event, frozen=True, kw_only=True, tag="run_succeeded"):
    """The run ended without errors."""

    outputs: dict[str, Any] = {}


class GraphRunPartialSucceeded(
    Event, frozen=True, kw_only=True, tag="run_partial_succeeded"
):
    """The run ended; some nodes failed, and their error strategies handled it."""

    outputs: dict[str, Any] = {}
    exceptions_count: int = 0


class GraphRunFailed(Event, frozen=True, kw_only=True, tag="run_failed"):
    """The run ended with an error that no error strategy handled."""

    error: str
    error_type: str = ""
    exceptions_count: int = 0


class GraphRunAborted(Event, frozen=True, kw_only=True, tag="run_aborted"):
    """The run was stopped by a command before its end."""

    reason: str = ""
    outputs: dict[str, Any] = {}


class GraphRunPaused(Event, frozen=True, kw_only=True, tag="run_paused"):
    """The run waits for input; `reasons` describes each node that paused it."""

    reasons: list[dict[str, Any]] = []
    outputs: dict[str, Any] = {}


# -------------------------------------------------------------------------------- nodes


class NodeEvent(Event, frozen=True, kw_only=True):
    """Base of all events of one node execution."""

    id: str
    """Id of this execution. It stays the same if the node is repeated after a crash."""
    node_id: str
    node_type: str
    title: str = ""
    in_iteration_id: str = ""
    in_loop_id: str = ""
    place: int | None = None
    """Index of the item (iteration) or round (loop) that contains the node, from 0;
    None outside a container."""


class NodeRunStarted(NodeEvent, frozen=True, kw_only=True, tag="node_started"):
    """A node started to execute."""

    predecessor_node_id: str = ""
    index: int = 0
    """Position of the node among the run's executed nodes, from 1."""


class _NodeFinished(NodeEvent, frozen=True, kw_only=True):
    """Base of the events that end an execution of a node."""

    inputs: dict[str, Any] = {}
    process_data: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    # The source handle of the branch that the node selected.
    handle: str = ""
    started_at: float = 0.0
    index: int = 0
    predecessor_node_id: str = ""


class NodeRunSucceeded(_NodeFinished, frozen=True, kw_only=True, tag="node_succeeded"):
    """A node ended without an error."""

    pass


class NodeRunFailed(_NodeFinished, frozen=True, kw_only=True, tag="node_failed"):
    """A node failed, and the run fails with it."""

    error: str
    error_type: str = ""


class NodeRunException(_NodeFinished, frozen=True, kw_only=True, tag="node_exception"):
    """A node failed; its error strategy (fail branch or default value) lets the run
    continue."""

    error: str
    error_type: str = ""


class NodeRunRetry(_NodeFinished, frozen=True, kw_only=True, tag="node_retry"):
    """A node failed and will be run again. `retry_index` counts from 1."""

    error: str
    error_type: str = ""
    retry_index: int = 1


class NodeRunStreamChunk(NodeEvent, frozen=True, kw_only=True, tag="node_chunk"):
    """A chunk of the run's response text, in reading order."""

    selector: list[str]
    chunk: str
    is_final: bool = False


class NodeRunReasoningChunk(NodeEvent, frozen=True, kw_only=True, tag="node_reasoning"):
    """A chunk of a model's reasoning text, which is not part of the answer."""

    chunk: str
    is_final: bool = False


class NodeRunRetrieverResource(
    NodeEvent, frozen=True, kw_only=True, tag="node_resources"
):
    """Segments that a node retrieved, shown to clients as the answer's sources."""

    retriever_resources: list[dict[str, Any]] = []
    context: str = ""


class NodeRunVariableUpdated(
    NodeEvent, frozen=True, kw_only=True, tag="variable_updated"
):
    """A node wrote a conversation variable or a loop variable."""

    selector: list[str]
    value: Any = None
    value_type: str = ""


class NodeRunPauseRequested(NodeEvent, frozen=True, kw_only=True, tag="node_paused"):
    """A node cannot continue without input and pauses the run."""

    reason: dict[str, Any] = {}


class NodeRunHumanInputFormFilled(
    NodeEvent, frozen=True, kw_only=True, tag="form_filled"
):
    """A human input form was submitted with one of its actions."""

    action_id: str = ""
    action_text: str = ""
    rendered_content: str = ""


class NodeRunHumanInputFormTimeout(
    NodeEvent, frozen=True, kw_only=True, tag="form_timeout"
):
    """A human input form expired at `expiration_time`, in seconds since 1970."""

    expiration_time: float = 0.0


class NodeRunAgentLog(NodeEvent, frozen=True, kw_only=True, tag="agent_log"):
    """An entry of an agent's log: new, or an update of the entry with the same
    `message_id`."""

    message_id: str
    label: str = ""
    parent_id: str | None = None
    error: str | None = None
    status: str = ""
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class AgentToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of a round, as the model made it."""

    name: str
    arguments: str = ""
    """JSON, as the model wrote it."""
    observation: str | None = None
    """The result for the model; None until the call has ended."""


class NodeRunAgentThought(NodeEvent, frozen=True, kw_only=True, tag="agent_thought"):
    """One round of an agent. It is emitted when the round's tool calls are known and
    again with their results."""

    thought_id: str
    position: int = 1
    thought: str = ""
    tool: str = ""
    """Tool names, joined by `;`."""
    tool_labels: dict[str, dict[str, str]] = {}
    tool_input: str = ""
    """JSON: tool name → arguments."""
    observation: str = ""
    """JSON: tool name → observation."""
    files: list[dict[str, Any]] = []
    text: str = ""
    """What the model said in the round, without its reasoning."""
    calls: list[AgentToolCall] = []
    """Each call of the round. The texts above have one entry for each tool name."""


# --------------------------------------------------------------------------- containers


class _ContainerStarted(NodeEvent, frozen=True, kw_only=True):
    """Base of the events that start an iteration or a loop."""

    inputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class _ContainerNext(NodeEvent, frozen=True, kw_only=True):
    """Base of the events that start an item of an iteration or a round of a loop."""

    round: int
    """Index of the item or round, from 0."""


class _ContainerFinished(NodeEvent, frozen=True, kw_only=True):
    """Base of the events that end an iteration or a loop."""

    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    steps: int = 0
    started_at: float = 0.0


class NodeRunIterationStarted(
    _ContainerStarted, frozen=True, kw_only=True, tag="iteration_started"
):
    """An iteration node started."""

    pass


class NodeRunIterationNext(
    _ContainerNext, frozen=True, kw_only=True, tag="iteration_next"
):
    """An iteration moves on to its next item."""

    pass


class NodeRunIterationSucceeded(
    _ContainerFinished, frozen=True, kw_only=True, tag="iteration_succeeded"
):
    """An iteration processed all its items."""

    pass


class NodeRunIterationFailed(
    _ContainerFinished, frozen=True, kw_only=True, tag="iteration_failed"
):
    """An iteration failed on one of its items."""

    error: str = ""


class NodeRunLoopStarted(
    _ContainerStarted, frozen=True, kw_only=True, tag="loop_started"
):
    """A loop node started."""

    pass


class NodeRunLoopNext(_ContainerNext, frozen=True, kw_only=True, tag="loop_next"):
    """A loop starts its next round."""

    pass


class NodeRunLoopSucceeded(
    _ContainerFinished, frozen=True, kw_only=True, tag="loop_succeeded"
):
    """A loop ended by its break condition or its maximum number of rounds."""

    pass


class NodeRunLoopFailed(
    _ContainerFinished, frozen=True, kw_only=True, tag="loop_failed"
):
    """A loop failed in one of its rounds."""

    error: str = ""


class TextReplaced(Event, frozen=True, kw_only=True, tag="text_replaced"):
    """Replaces all response text sent so far by `text`: a resumed run may produce
    another text, and a node that is run again or fails voids what it streamed."""

    text: str
    reason: str = "resumption"
    """`resumption`, `retry` or `output_moderation`."""


# The unions below are the types that the decoder accepts; a new event class must be
# added here.
GraphEvent = (
    GraphRunStarted
    | GraphRunSucceeded
    | GraphRunPartialSucceeded
    | GraphRunFailed
    | GraphRunAborted
    | GraphRunPaused
)
NodeRunEvent = (
    NodeRunStarted
    | NodeRunSucceeded
    | NodeRunFailed
    | NodeRunException
    | NodeRunRetry
    | NodeRunStreamChunk
    | NodeRunReasoningChunk
    | NodeRunRetrieverResource
    | NodeRunVariableUpdated
    | NodeRunPauseRequested
    | NodeRunHumanInputFormFilled
    | NodeRunHumanInputFormTimeout
    | NodeRunAgentLog
    | NodeRunAgentThought
    | NodeRunIterationStarted
    | NodeRunIterationNext
    | NodeRunIterationSucceeded
    | NodeRunIterationFailed
    | NodeRunLoopStarted
    | NodeRunLoopNext
    | NodeRunLoopSucceeded
    | NodeRunLoopFailed
)
AnyEvent = GraphEvent | NodeRunEvent | TextReplaced

# Building an encoder or decoder is expensive in msgspec, so one of each is shared.
_encoder = msgspec.json.Encoder()
_decoder: "msgspec.json.Decoder[AnyEvent]" = msgspec.json.Decoder(AnyEvent)


def dump_event(event: AnyEvent) -> bytes:
    """Return the event as JSON, with its tag in the field `event`."""
    return _encoder.encode(event)


def parse_event(data: bytes | str) -> AnyEvent:
    """Return the event of a JSON text. Raises msgspec.ValidationError if the tag is
    unknown or a field is invalid."""
    return _decoder.decode(data)
