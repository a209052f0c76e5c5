"""Runs' events in the words of the service API's streams. Pure: it remembers what it has to of one run."""

from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunAborted,
    GraphRunFailed,
    GraphRunPartialSucceeded,
    GraphRunPaused,
    GraphRunStarted,
    GraphRunSucceeded,
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
from modelyard.workflow.single_run import FINAL
from modelyard.workflow.variables import FILE_MARK

_SILENT = frozenset({"iteration", "loop", "iteration-start", "loop-start", "loop-end"})
"""Nodes whose starts and ends are not shown: containers have events of their own, the others are no nodes to people."""
_USAGE: Mapping[str, Any] = {
    "prompt_tokens": 0, "prompt_unit_price": "0", "prompt_price_unit": "0", "prompt_price": "0",
    "completion_tokens": 0, "completion_unit_price": "0", "completion_price_unit": "0", "completion_price": "0",
    "total_tokens": 0, "total_price": "0", "currency": "USD", "latency": 0.0,
}  # fmt: skip
"""What was used where nothing was, or nobody knows."""

_PROBLEMS: Mapping[str, tuple[int, str]] = {
    "InvokeRateLimitError": (429, "rate_limit_error"), "QuotaExceededError": (400, "provider_quota_exceeded"),
    "NotFoundError": (400, "model_currently_not_support"),
    "NoCredentialAvailableError": (400, "provider_not_initialize"),
    "InvokeAuthorizationError": (400, "provider_not_initialize"),
    "CredentialsValidateFailedError": (400, "provider_not_initialize"),
}  # fmt: skip


def files_in(value: Any) -> list[JSON]:
    """Files anywhere in outputs."""
    found: list[JSON] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if one.get("dify_model_identity") == FILE_MARK:
                found.append(one)
            else:
                todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


class ServiceEvents:
    """One run's events, as its caller reads them."""

    def __init__(self, run: RunRecord, *, end_user: str = "") -> None:
        self._run = run
        self._end_user = end_user
        self._is_chat = bool(run.conversation)
        self._shows_nodes = run.mode in ("workflow", "advanced-chat", "rag-pipeline") and not run.system.get(
            "intercepted"
        )
        self._is_agent = run.mode == "agent-chat"
        self._is_completion = run.mode == "completion"
        self._usage: dict[str, Any] = dict(_USAGE)
        self._resources: list[JSON] = []
        self._reasoning: list[str] = []
        self.answer: list[str] = []
        self.finished: JSON | None = None
        """The data of `workflow_finished`, once that has come."""
        self.error = ""
        self.error_type = ""
        self._index = 0
        self._steps = 0
        self._created = int(run.created_at)

    # what goes around

    @property
    def says_messages(self) -> bool:
        return self._is_chat or self._is_completion

    def _envelope(self, event: str, **more: Any) -> JSON:
        told: JSON = {"event": event}
        if self._is_chat:
            told["conversation_id"] = self._run.conversation
        if self.says_messages:
            told |= {"message_id": self._run.message or self._run.id, "created_at": self._created}
        told["task_id"] = self._run.id
        return {**told, **more}

    def _workflow(self, event: str, data: JSON) -> JSON:
        return self._envelope(event, workflow_run_id=self._run.id, data=data)

    # events

    def feed(self, event: AnyEvent) -> Iterator[JSON]:
        match event:
            case NodeRunStreamChunk():
                yield from self._chunk(event)
            case TextReplaced():
                self.answer = [event.text]
                yield self._replaced(event)
            case NodeRunReasoningChunk():
                self._reasoning.append(event.chunk)
                if self._shows_nodes:
                    yield self._workflow("reasoning_chunk", {
                        "message_id": self._run.message, "reasoning": event.chunk, "node_id": event.node_id,
                        "is_final": event.is_final,
                    })  # fmt: skip
            case NodeRunRetrieverResource():
                self._resources += [
                    {**one, "position": place}
                    for place, one in enumerate(event.retriever_resources, len(self._resources) + 1)
                ]
            case GraphRunStarted():
                if self._shows_nodes:
                    yield self._workflow("workflow_started", {
                        "id": self._run.id, "workflow_id": self._run.system.get("workflow_id"),
                        "inputs": {name: one for name, one in event.inputs.items() if name != "sys.conversation_id"},
                        "created_at": int(event.at), "reason": event.reason,
                    })  # fmt: skip
            case NodeRunAgentThought() if self._is_agent:
                yield from self._thought(event)
            case _ if isinstance(event, FINAL):
                yield from self._end(event)
            case _:
                if self._shows_nodes:
                    yield from self._node(event)
                else:
                    self._watch(event)

    def _chunk(self, event: NodeRunStreamChunk) -> Iterator[JSON]:
        if not event.chunk:
            return
        self.answer.append(event.chunk)
        if self.says_messages:
            kind = "agent_message" if self._is_agent else "message"
            yield self._envelope(
                kind, id=self._run.message or self._run.id, answer=event.chunk, from_variable_selector=event.selector,
            )  # fmt: skip
        else:
            yield self._workflow("text_chunk", {"text": event.chunk, "from_variable_selector": event.selector})

    def _thought(self, event: NodeRunAgentThought) -> Iterator[JSON]:
        files = [str(one.get("related_id") or one.get("remote_url") or place) for place, one in enumerate(event.files)]
        for name, one in zip(files, event.files, strict=True):
            yield self._envelope(
                "message_file", id=name, type=one.get("type") or "image", belongs_to="assistant",
                url=one.get("url") or one.get("remote_url") or "",
            )  # fmt: skip
        yield self._envelope(
            "agent_thought", id=event.thought_id, position=event.position, thought=event.thought,
            observation=event.observation, tool=event.tool, tool_labels=event.tool_labels, tool_input=event.tool_input,
            message_files=files,
        )  # fmt: skip

    def _replaced(self, event: TextReplaced) -> JSON:
        if self.says_messages:
            return self._envelope("message_replace", answer=event.text, reason=event.reason)
        return self._workflow("text_replace", {"text": event.text})

    def _watch(self, event: AnyEvent) -> None:
        """What the message's end says of nodes that are not shown."""
        if isinstance(event, NodeRunSucceeded):
            self._count(event.outputs)

    def _count(self, outputs: Mapping[str, Any]) -> None:
        usage = outputs.get("usage") or outputs.get("__usage")
        if not isinstance(usage, Mapping):
            return
        for name in _USAGE:
            value, before = usage.get(name), self._usage.get(name)
            if isinstance(value, int | float) and isinstance(before, int | float):
                self._usage[name] = before + value
            elif name.endswith("_price") and "unit" not in name and before is not None and value is not None:
                self._usage[name] = format(float(before) + float(value), "f")
            elif value is not None:
                self._usage[name] = value

    def _node(self, event: AnyEvent) -> Iterator[JSON]:  # noqa: C901  one case an event
        match event:
            case NodeRunStarted():
                if event.node_type not in _SILENT:
                    self._index += 1
                    yield self._workflow("node_started", {
                        **self._about(event), "index": self._index,
                        "predecessor_node_id": event.predecessor_node_id or None, "inputs": None,
                        "inputs_truncated": False, "created_at": int(event.at), "extras": {}, "agent_strategy": None,
                    })  # fmt: skip
            case NodeRunSucceeded() | NodeRunFailed() | NodeRunException():
                self._steps += 1
                self._count(event.outputs)
                if event.node_type not in _SILENT:
                    yield self._workflow("node_finished", self._finished(event))
            case NodeRunRetry():
                yield self._workflow("node_retry", {**self._finished(event), "retry_index": event.retry_index})
            case NodeRunIterationStarted() | NodeRunLoopStarted():
                yield self._workflow(f"{event.node_type}_started", {
                    **self._container(event), "created_at": int(event.at), "extras": {}, "metadata": event.metadata,
                    "inputs": event.inputs, "inputs_truncated": False,
                })  # fmt: skip
            case NodeRunIterationNext() | NodeRunLoopNext():
                yield self._workflow(f"{event.node_type}_next", {
                    **self._container(event), "index": event.round, "created_at": int(event.at), "extras": {},
                })  # fmt: skip
            case NodeRunIterationSucceeded() | NodeRunIterationFailed() | NodeRunLoopSucceeded() | NodeRunLoopFailed():
                yield self._workflow(f"{event.node_type}_completed", self._completed(event))
            case NodeRunAgentThought():
                pass  # the log says it
            case NodeRunAgentLog():
                yield self._workflow("agent_log", {
                    "node_execution_id": event.id, "id": event.message_id, "label": event.label,
                    "parent_id": event.parent_id, "error": event.error, "status": event.status, "data": event.data,
                    "metadata": event.metadata, "node_id": event.node_id,
                })  # fmt: skip
            case NodeRunPauseRequested():
                if event.reason.get("TYPE") == "human_input_required":
                    yield self._workflow("human_input_required", {**event.reason, "node_id": event.node_id})
            case NodeRunHumanInputFormFilled():
                yield self._workflow("human_input_form_filled", {
                    "node_id": event.node_id, "node_title": event.title, "rendered_content": event.rendered_content,
                    "action_id": event.action_id, "action_text": event.action_text,
                })  # fmt: skip
            case NodeRunHumanInputFormTimeout():
                yield self._workflow("human_input_form_timeout", {
                    "node_id": event.node_id, "node_title": event.title, "expiration_time": int(event.expiration_time),
                })  # fmt: skip
            case _:
                pass

    @staticmethod
    def _about(event: Any) -> JSON:
        return {
            "id": event.id, "node_id": event.node_id, "node_type": event.node_type, "title": event.title,
            "iteration_id": event.in_iteration_id or None, "loop_id": event.in_loop_id or None,
        }  # fmt: skip

    @staticmethod
    def _container(event: Any) -> JSON:
        return {"id": event.node_id, "node_id": event.node_id, "node_type": event.node_type, "title": event.title}

    def _finished(self, event: Any) -> JSON:
        status = {
            "NodeRunSucceeded": "succeeded", "NodeRunFailed": "failed", "NodeRunException": "exception",
            "NodeRunRetry": "retry",
        }[type(event).__name__]  # fmt: skip
        metadata = dict(event.metadata)
        for name, value in (("iteration_id", event.in_iteration_id), ("loop_id", event.in_loop_id)):
            if value:
                metadata |= {name: value, name.replace("_id", "_index"): event.place}
        return {
            **self._about(event), "index": self._index, "predecessor_node_id": event.predecessor_node_id or None,
            "inputs": event.inputs, "inputs_truncated": False, "process_data": event.process_data,
            "process_data_truncated": False, "outputs": event.outputs, "outputs_truncated": False, "status": status,
            "error": getattr(event, "error", None), "elapsed_time": round(event.at - event.started_at, 6),
            "execution_metadata": metadata, "created_at": int(event.started_at), "finished_at": int(event.at),
            "files": files_in(event.outputs),
        }  # fmt: skip

    def _completed(self, event: Any) -> JSON:
        error = getattr(event, "error", None)
        return {
            **self._container(event), "outputs": event.outputs, "outputs_truncated": False, "inputs": event.inputs,
            "inputs_truncated": False, "created_at": int(event.started_at), "extras": {},
            "status": "failed" if error is not None else "succeeded", "error": error,
            "elapsed_time": round(event.at - event.started_at, 6),
            "total_tokens": event.metadata.get("total_tokens", 0), "execution_metadata": event.metadata,
            "finished_at": int(event.at), "steps": event.steps,
        }  # fmt: skip

    # ends

    def _end(self, event: Any) -> Iterator[JSON]:
        status, error = _status(event)
        self.error, self.error_type = error, str(getattr(event, "error_type", ""))
        outputs: JSON = getattr(event, "outputs", {}) or {}
        self.finished = {
            "id": self._run.id, "workflow_id": self._run.system.get("workflow_id"), "status": status.value,
            "outputs": outputs, "error": error or None,
            "elapsed_time": round(max(0.0, event.at - self._run.created_at), 6),
            "total_tokens": int(self._usage.get("total_tokens") or 0), "total_steps": self._steps,
            "created_by": {"id": self._end_user, "user": self._run.user}, "created_at": self._created,
            "finished_at": int(event.at), "exceptions_count": getattr(event, "exceptions_count", 0),
            "files": files_in(outputs),
        }  # fmt: skip
        if isinstance(event, GraphRunPaused):
            if self._shows_nodes:
                yield self._workflow("workflow_paused", {
                    "workflow_run_id": self._run.id, "reasons": event.reasons, "status": "paused", "outputs": outputs,
                    "created_at": self._created, "elapsed_time": self.finished["elapsed_time"],
                    "paused_nodes": [one["node_id"] for one in event.reasons if one.get("node_id")],
                })  # fmt: skip
            return
        done = self._workflow("workflow_finished", self.finished)
        if not self.says_messages:
            yield done
            return
        if status is Status.FAILED:
            if self._shows_nodes:
                yield done
            yield self.error_event(*problem_of_run(self.error_type), error)
            return
        if status is Status.STOPPED and self._shows_nodes:
            yield done
            yield self.message_end(outputs)
            return
        yield self.message_end(outputs)
        if self._shows_nodes:
            yield done

    def metadata(self) -> JSON:
        told: JSON = {"usage": self._usage, "retriever_resources": self._resources}
        if annotation := self._run.system.get("annotation"):
            told["annotation_reply"] = annotation
        if self._reasoning:
            told["reasoning"] = {"text": "".join(self._reasoning)}
        return told

    def message_end(self, outputs: Mapping[str, Any]) -> JSON:
        return self._envelope(
            "message_end", id=self._run.message or self._run.id, metadata=self.metadata(),
            files=files_in(dict(outputs)) or None,
        )  # fmt: skip

    def error_event(self, status: int, code: str, message: str) -> JSON:
        return self._envelope("error", status=status, code=code, message=message)


def problem_of_run(error_type: str) -> tuple[int, str]:
    """(status, code) of an answer that failed, by the name of what went wrong."""
    return _PROBLEMS.get(error_type, (400, "completion_request_error"))


def _status(event: Any) -> tuple[Status, str]:
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
