"""Translation of a run's events to the service API's stream. It has no side effects; it
holds the state of one run."""

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.base.json_types import is_array, is_mapping, is_object
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphEvent,
    GraphRunAborted,
    GraphRunFailed,
    GraphRunPartialSucceeded,
    GraphRunPaused,
    GraphRunStarted,
    GraphRunSucceeded,
    NodeEvent,
    NodeRunAgentLog,
    NodeRunAgentThought,
    NodeRunException,
    NodeRunFailed,
    NodeRunHumanInputFormFilled,
    NodeRunHumanInputFormTimeout,
    NodeRunIterationFailed,
    NodeRunIterationNext,
    NodeRunIterationStarted,
    NodeRunIterationSucceeded,
    NodeRunLoopFailed,
    NodeRunLoopNext,
    NodeRunLoopStarted,
    NodeRunLoopSucceeded,
    NodeRunPauseRequested,
    NodeRunReasoningChunk,
    NodeRunRetrieverResource,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    TextReplaced,
)
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.prompts import MODEL_NOT_FOUND
from modelyard.workflow.single_run import FINAL_EVENTS
from modelyard.workflow.variables import FILE_MARK

_HIDDEN_NODE_TYPES = frozenset(
    {"iteration", "loop", "iteration-start", "loop-start", "loop-end"}
)
"""Node types whose start and end are not sent: containers have their own events, the
others are internal."""
_USAGE: Mapping[str, Any] = {
    "prompt_tokens": 0,
    "prompt_unit_price": "0",
    "prompt_price_unit": "0",
    "prompt_price": "0",
    "completion_tokens": 0,
    "completion_unit_price": "0",
    "completion_price_unit": "0",
    "completion_price": "0",
    "total_tokens": 0,
    "total_price": "0",
    "currency": "USD",
    "latency": 0.0,
}
"""Usage of a run without model calls, or whose models report none."""

# Error types of a failed run → status and code as the API's clients know them.
_ERROR_CODES: Mapping[str, tuple[int, str]] = {
    "InvokeRateLimitError": (429, "rate_limit_error"),
    "QuotaExceededError": (400, "provider_quota_exceeded"),
    "NotFoundError": (400, "model_currently_not_support"),
    MODEL_NOT_FOUND: (400, "model_currently_not_support"),
    "NoCredentialAvailableError": (400, "provider_not_initialize"),
    "InvokeAuthorizationError": (400, "provider_not_initialize"),
    "CredentialsValidateFailedError": (400, "provider_not_initialize"),
}


def files_in(value: Any) -> list[JSON]:
    """Return all file objects anywhere inside outputs."""
    files: list[JSON] = []
    # Iterative, so that deeply nested outputs cannot exhaust the stack.
    todo = [value]
    while todo:
        node = todo.pop()
        if is_object(node):
            if node.get("dify_model_identity") == FILE_MARK:
                files.append(node)
            else:
                todo += node.values()
        elif is_array(node):
            todo += node
    return files


def _price(value: Any) -> float:
    """Return a price of a node's output `usage`; 0 for what is not one, because a
    code node may have an output of this name."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0


class ServiceEvents:
    """Translates the events of one run to the service API's events, and collects what
    its final answer needs."""

    def __init__(self, run: RunRecord, *, end_user: str = "") -> None:
        self._run = run
        self._end_user = end_user
        self._is_chat = bool(run.conversation)
        # Only workflow-like apps show their nodes, and not if a feature (an annotation,
        # moderation) answered instead.
        self._shows_nodes = run.mode in (
            "workflow",
            "advanced-chat",
            "rag-pipeline",
        ) and not run.system.get("intercepted")
        self._shows_thoughts = run.mode in ("agent-chat", "agent")
        # The newer agent apps of Dify answer with ordinary messages.
        self._message_event = "agent_message" if run.mode == "agent-chat" else "message"
        self._is_completion = run.mode == "completion"
        self._usage: dict[str, Any] = dict(_USAGE)
        self._resources: list[JSON] = []
        self._reasoning: list[str] = []
        self.answer: list[str] = []
        self.finished: JSON | None = None
        """The `data` of `workflow_finished`; None until the run has ended."""
        self.error = ""
        self.error_type = ""
        self._index = 0
        self._steps = 0
        # Every event carries the start of the run, in whole seconds, as its creation
        # time.
        self._created = int(run.created_at)

    # Envelopes.

    @property
    def says_messages(self) -> bool:
        """Whether the app answers with messages (chat and completion apps) rather than
        a workflow's outputs."""
        return self._is_chat or self._is_completion

    def _envelope(self, event: str, **fields: Any) -> JSON:
        """Return an event with the ids that every event of this kind of app carries."""
        envelope: JSON = {"event": event}
        if self._is_chat:
            envelope["conversation_id"] = self._run.conversation
        if self.says_messages:
            envelope |= {
                "message_id": self._run.message or self._run.id,
                "created_at": self._created,
            }
        envelope["task_id"] = self._run.id
        return {**envelope, **fields}

    def _workflow(self, event: str, data: JSON) -> JSON:
        """Return an event about the workflow run."""
        return self._envelope(event, workflow_run_id=self._run.id, data=data)

    # Events.

    def feed(self, event: AnyEvent) -> Iterator[JSON]:
        """Yield the API's events for one run event. Feed the events in order."""
        match event:
            case NodeRunStreamChunk():
                yield from self._chunk(event)
            case TextReplaced():
                # Chunks that were sent so far are void: the replacement is the complete
                # text.
                self.answer = [event.text]
                yield self._replaced(event)
            case NodeRunReasoningChunk():
                yield from self._reasoning_chunk(event)
            case NodeRunRetrieverResource():
                # Positions are numbered over all nodes of the run, from 1.
                self._resources += [
                    {**resource, "position": position}
                    for position, resource in enumerate(
                        event.retriever_resources, len(self._resources) + 1
                    )
                ]
            case GraphRunStarted() if self._shows_nodes:
                yield self._run_started(event)
            case NodeRunAgentThought() if self._shows_thoughts:
                yield from self._thought(event)
            # Also apps that do not show their nodes wait for people: agents ask them.
            case NodeRunPauseRequested():
                yield from self._pause_requested(event)
            case _ if isinstance(event, FINAL_EVENTS):
                yield from self._end(event)
            case _ if self._shows_nodes:
                if (node_event := self._node(event)) is not None:
                    yield node_event
            # Usage is counted even if the nodes are not shown.
            case NodeRunSucceeded():
                self._add_usage(event.outputs)
            case _:
                pass

    def _reasoning_chunk(self, event: NodeRunReasoningChunk) -> Iterator[JSON]:
        """Collect a part of a model's reasoning; yield its event if the app shows
        nodes."""
        self._reasoning.append(event.chunk)
        if self._shows_nodes:
            yield self._workflow(
                "reasoning_chunk",
                {
                    "message_id": self._run.message,
                    "reasoning": event.chunk,
                    "node_id": event.node_id,
                    "is_final": event.is_final,
                },
            )

    def _run_started(self, event: GraphRunStarted) -> JSON:
        """Return the event of the run's start."""
        return self._workflow(
            "workflow_started",
            {
                "id": self._run.id,
                "workflow_id": self._run.system.get("workflow_id"),
                # Clients did not set this input; the run adds it.
                "inputs": {
                    name: input_value
                    for name, input_value in event.inputs.items()
                    if name != "sys.conversation_id"
                },
                "created_at": int(event.at),
                "reason": event.reason,
            },
        )

    def _chunk(self, event: NodeRunStreamChunk) -> Iterator[JSON]:
        """Yield an output chunk in the form of the app's kind."""
        if not event.chunk:
            return
        self.answer.append(event.chunk)
        if self.says_messages:
            yield self._envelope(
                self._message_event,
                id=self._run.message or self._run.id,
                answer=event.chunk,
                from_variable_selector=event.selector,
            )
        else:
            yield self._workflow(
                "text_chunk",
                {"text": event.chunk, "from_variable_selector": event.selector},
            )

    def _thought(self, event: NodeRunAgentThought) -> Iterator[JSON]:
        """Yield an agent's thought, after the files that it produced."""
        # Files without an id or URL are named by their index, so that the thought can
        # refer to them.
        files = [
            str(file.get("related_id") or file.get("remote_url") or index)
            for index, file in enumerate(event.files)
        ]
        for name, file in zip(files, event.files, strict=True):
            yield self._envelope(
                "message_file",
                id=name,
                type=file.get("type") or "image",
                belongs_to="assistant",
                url=file.get("url") or file.get("remote_url") or "",
            )
        yield self._envelope(
            "agent_thought",
            id=event.thought_id,
            position=event.position,
            thought=event.thought,
            observation=event.observation,
            tool=event.tool,
            tool_labels=event.tool_labels,
            tool_input=event.tool_input,
            message_files=files,
        )

    def _replaced(self, event: TextReplaced) -> JSON:
        """Yield the replacement of the text that was sent so far."""
        if self.says_messages:
            return self._envelope(
                "message_replace", answer=event.text, reason=event.reason
            )
        return self._workflow("text_replace", {"text": event.text})

    def _add_usage(self, outputs: Mapping[str, Any]) -> None:
        """Add a node's usage to the run's total."""
        usage = outputs.get("usage") or outputs.get("__usage")
        if not is_mapping(usage):
            return
        for name in _USAGE:
            value, total = usage.get(name), self._usage.get(name)
            if isinstance(value, int | float) and isinstance(total, int | float):
                self._usage[name] = total + value
            # Prices are decimal text; unit prices and currency are replaced, not added.
            elif (
                name.endswith("_price")
                and "unit" not in name
                and total is not None
                and value is not None
            ):
                self._usage[name] = format(float(total) + _price(value), "f")
            elif value is not None:
                self._usage[name] = value

    def _node(self, event: AnyEvent) -> JSON | None:
        """Return the API's event for a node event, or None if it has none."""
        match event:
            case NodeRunStarted():
                return self._node_started(event)
            case NodeRunSucceeded() | NodeRunFailed() | NodeRunException():
                return self._node_finished(event)
            case NodeRunRetry():
                retry = {**self._finished(event), "retry_index": event.retry_index}
                return self._workflow("node_retry", retry)
            case NodeRunIterationStarted() | NodeRunLoopStarted():
                data = _container_started_data(event)
                return self._workflow(f"{event.node_type}_started", data)
            case NodeRunIterationNext() | NodeRunLoopNext():
                data = _container_next_data(event)
                return self._workflow(f"{event.node_type}_next", data)
            case (
                NodeRunIterationSucceeded()
                | NodeRunIterationFailed()
                | NodeRunLoopSucceeded()
                | NodeRunLoopFailed()
            ):
                return self._workflow(
                    f"{event.node_type}_completed", self._completed(event)
                )
            # NodeRunAgentThought has no event here: the agent's log contains it.
            case NodeRunAgentLog():
                return self._workflow("agent_log", _agent_log_data(event))
            case NodeRunHumanInputFormFilled():
                data = _form_filled_data(event)
                return self._workflow("human_input_form_filled", data)
            case NodeRunHumanInputFormTimeout():
                data = _form_timeout_data(event)
                return self._workflow("human_input_form_timeout", data)
            case _:
                return None

    def _node_started(self, event: NodeRunStarted) -> JSON | None:
        """Return the event of a node's start, or None for an internal node."""
        if event.node_type in _HIDDEN_NODE_TYPES:
            return None
        self._index += 1
        return self._workflow(
            "node_started",
            {
                **_node_fields(event),
                "index": self._index,
                "predecessor_node_id": event.predecessor_node_id or None,
                "inputs": None,
                "inputs_truncated": False,
                "created_at": int(event.at),
                "extras": {},
                "agent_strategy": None,
            },
        )

    def _node_finished(
        self, event: NodeRunSucceeded | NodeRunFailed | NodeRunException
    ) -> JSON | None:
        """Return the event of a node's end, or None for an internal node."""
        # Internal nodes count as steps although they are not sent.
        self._steps += 1
        self._add_usage(event.outputs)
        if event.node_type in _HIDDEN_NODE_TYPES:
            return None
        return self._workflow("node_finished", self._finished(event))

    def _pause_requested(self, event: NodeRunPauseRequested) -> Iterator[JSON]:
        """Yield the event of a form to fill in. Other pause reasons have no event of
        their own."""
        if event.reason.get("TYPE") == "human_input_required":
            yield self._workflow(
                "human_input_required", {**event.reason, "node_id": event.node_id}
            )

    def _finished(
        self, event: NodeRunSucceeded | NodeRunFailed | NodeRunException | NodeRunRetry
    ) -> JSON:
        """Return the data of a node's end."""
        status = {
            "NodeRunSucceeded": "succeeded",
            "NodeRunFailed": "failed",
            "NodeRunException": "exception",
            "NodeRunRetry": "retry",
        }[type(event).__name__]
        metadata = dict(event.metadata)
        # Nodes inside a container report which round they belong to.
        for name, value in (
            ("iteration_id", event.in_iteration_id),
            ("loop_id", event.in_loop_id),
        ):
            if value:
                metadata |= {name: value, name.replace("_id", "_index"): event.place}
        return {
            **_node_fields(event),
            "index": self._index,
            "predecessor_node_id": event.predecessor_node_id or None,
            "inputs": event.inputs,
            "inputs_truncated": False,
            "process_data": event.process_data,
            "process_data_truncated": False,
            "outputs": event.outputs,
            "outputs_truncated": False,
            "status": status,
            "error": getattr(event, "error", None),
            "elapsed_time": round(event.at - event.started_at, 6),
            "execution_metadata": metadata,
            "created_at": int(event.started_at),
            "finished_at": int(event.at),
            "files": files_in(event.outputs),
        }

    def _completed(
        self,
        event: NodeRunIterationSucceeded
        | NodeRunIterationFailed
        | NodeRunLoopSucceeded
        | NodeRunLoopFailed,
    ) -> JSON:
        """Return the data of a container's end."""
        error = getattr(event, "error", None)
        return {
            **_container_fields(event),
            "outputs": event.outputs,
            "outputs_truncated": False,
            "inputs": event.inputs,
            "inputs_truncated": False,
            "created_at": int(event.started_at),
            "extras": {},
            "status": "failed" if error is not None else "succeeded",
            "error": error,
            "elapsed_time": round(event.at - event.started_at, 6),
            "total_tokens": event.metadata.get("total_tokens", 0),
            "execution_metadata": event.metadata,
            "finished_at": int(event.at),
            "steps": event.steps,
        }

    # Ends.

    def _end(self, event: GraphEvent) -> Iterator[JSON]:
        """Record the result of the run and yield its final events."""
        status, error = _status(event)
        self.error, self.error_type = error, str(getattr(event, "error_type", ""))
        self.finished = self._finished_run(event, status, error)
        outputs: JSON = self.finished["outputs"]
        # A paused run is not finished: it sends no `workflow_finished`.
        if isinstance(event, GraphRunPaused):
            if self._shows_nodes:
                yield self._paused(event, self.finished)
            return
        finished_event = self._workflow("workflow_finished", self.finished)
        if not self.says_messages:
            yield finished_event
            return
        # A failed message ends with an error event instead of `message_end`.
        if status is Status.FAILED:
            ending = self.error_event(*status_and_code_of_run(self.error_type), error)
        else:
            ending = self.message_end(outputs)
        if not self._shows_nodes:
            yield ending
            return
        # For a failed or stopped run `workflow_finished` precedes the message's end;
        # otherwise it follows.
        if status in (Status.FAILED, Status.STOPPED):
            yield finished_event
            yield ending
            return
        yield ending
        yield finished_event

    def _finished_run(self, event: GraphEvent, status: Status, error: str) -> JSON:
        """Return the data of the run's end."""
        outputs: JSON = getattr(event, "outputs", {}) or {}
        return {
            "id": self._run.id,
            "workflow_id": self._run.system.get("workflow_id"),
            "status": status.value,
            "outputs": outputs,
            "error": error or None,
            "elapsed_time": round(max(0.0, event.at - self._run.created_at), 6),
            "total_tokens": int(self._usage.get("total_tokens") or 0),
            "total_steps": self._steps,
            "created_by": {"id": self._end_user, "user": self._run.user},
            "created_at": self._created,
            "finished_at": int(event.at),
            "exceptions_count": getattr(event, "exceptions_count", 0),
            "files": files_in(outputs),
        }

    def _paused(self, event: GraphRunPaused, finished: JSON) -> JSON:
        """Return the event of a pause. `finished` is the data of the run so far."""
        return self._workflow(
            "workflow_paused",
            {
                "workflow_run_id": self._run.id,
                "reasons": event.reasons,
                "status": "paused",
                "outputs": finished["outputs"],
                "created_at": self._created,
                "elapsed_time": finished["elapsed_time"],
                "paused_nodes": [
                    reason["node_id"]
                    for reason in event.reasons
                    if reason.get("node_id")
                ],
            },
        )

    def metadata(self) -> JSON:
        """Return the metadata of an answer: usage, retrieved segments, and the
        annotation or reasoning if there is one."""
        # An app may use what it retrieves without showing it.
        resources = [] if self._run.hides_sources else self._resources
        metadata: JSON = {"usage": self._usage, "retriever_resources": resources}
        if annotation := self._run.system.get("annotation"):
            metadata["annotation_reply"] = annotation
        if self._reasoning:
            metadata["reasoning"] = {"text": "".join(self._reasoning)}
        return metadata

    def message_end(self, outputs: Mapping[str, Any]) -> JSON:
        """Return the event that ends a message."""
        return self._envelope(
            "message_end",
            id=self._run.message or self._run.id,
            metadata=self.metadata(),
            files=files_in(dict(outputs)) or None,
        )

    def error_event(self, status: int, code: str, message: str) -> JSON:
        """Return an error event."""
        return self._envelope(
            "error",
            status=status,
            code=code,
            message=message,
        )


def _container_started_data(
    event: NodeRunIterationStarted | NodeRunLoopStarted,
) -> JSON:
    """Return the data of the event of a container's start."""
    return {
        **_container_fields(event),
        "created_at": int(event.at),
        "extras": {},
        "metadata": event.metadata,
        "inputs": event.inputs,
        "inputs_truncated": False,
    }


def _container_next_data(event: NodeRunIterationNext | NodeRunLoopNext) -> JSON:
    """Return the data of the event of a container's next round."""
    return {
        **_container_fields(event),
        "index": event.round,
        "created_at": int(event.at),
        "extras": {},
    }


def _agent_log_data(event: NodeRunAgentLog) -> JSON:
    """Return the data of the event of an agent's log entry."""
    return {
        "node_execution_id": event.id,
        "id": event.message_id,
        "label": event.label,
        "parent_id": event.parent_id,
        "error": event.error,
        "status": event.status,
        "data": event.data,
        "metadata": event.metadata,
        "node_id": event.node_id,
    }


def _form_filled_data(event: NodeRunHumanInputFormFilled) -> JSON:
    """Return the data of the event of a form that was filled in."""
    return {
        "node_id": event.node_id,
        "node_title": event.title,
        "rendered_content": event.rendered_content,
        "action_id": event.action_id,
        "action_text": event.action_text,
    }


def _form_timeout_data(event: NodeRunHumanInputFormTimeout) -> JSON:
    """Return the data of the event of a form that expired."""
    return {
        "node_id": event.node_id,
        "node_title": event.title,
        "expiration_time": int(event.expiration_time),
    }


def _node_fields(event: NodeEvent) -> JSON:
    """Return the fields that identify a node."""
    return {
        "id": event.id,
        "node_id": event.node_id,
        "node_type": event.node_type,
        "title": event.title,
        "iteration_id": event.in_iteration_id or None,
        "loop_id": event.in_loop_id or None,
    }


def _container_fields(event: NodeEvent) -> JSON:
    """Return the fields that identify a container (iteration or loop). Its id is
    the node's."""
    return {
        "id": event.node_id,
        "node_id": event.node_id,
        "node_type": event.node_type,
        "title": event.title,
    }


def status_and_code_of_run(error_type: str) -> tuple[int, str]:
    """Return (status, code) for a failed run by the class name of its error."""
    return _ERROR_CODES.get(error_type, (400, "completion_request_error"))


def _status(event: GraphEvent) -> tuple[Status, str]:
    """Return the run's final status and error text."""
    match event:
        case GraphRunSucceeded():
            return Status.SUCCEEDED, ""
        case GraphRunPartialSucceeded():
            return Status.PARTIAL, ""
        case GraphRunFailed():
            return Status.FAILED, event.error
        case GraphRunAborted():
            return Status.STOPPED, event.reason
        case _:
            return Status.PAUSED, ""
