"""The trace of a run: one span for the run, one for each node, and one for each model
call and tool call of an agent, with the attributes that trace services read. No I/O.

Attributes have the names of OpenTelemetry's GenAI conventions, of OpenInference, and the
few that Langfuse and LangSmith have of their own: each service finds what it knows, and
none counts twice. Ids follow from the run's, so that a trace that is sent again replaces
itself.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from modelyard.runtime import trace_attributes as names
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunAgentLog,
    NodeRunException,
    NodeRunFailed,
    NodeRunStarted,
    NodeRunSucceeded,
)
from modelyard.workflow.run_record import RunRecord

_MAX_SPANS = 2_000
"""Longer loops are cut; the run's span says how many nodes are missing."""
# Trace services truncate or refuse longer values.
_MAX_CONTENT = 32_000
_KINDS: Mapping[str, tuple[str, str]] = {
    "llm": ("LLM", "llm"),
    "question-classifier": ("LLM", "llm"),
    "parameter-extractor": ("LLM", "llm"),
    "knowledge-retrieval": ("RETRIEVER", "retriever"),
    "agent": ("AGENT", "chain"),
    "tool": ("TOOL", "tool"),
    "code": ("TOOL", "tool"),
    "http-request": ("TOOL", "tool"),
}
"""Node type → (kind of OpenInference, kind of LangSmith); others are chains."""
_CHAIN = ("CHAIN", "chain")
_FAILED = (Status.FAILED, Status.STOPPED)
_MODEL_CALL, _TOOL_CALL = " Thought", "CALL "
"""End and start of the labels with which agents log calls of models and of tools."""

Attributes = dict[str, str | int | float]


class RunSpan(msgspec.Struct, frozen=True, kw_only=True):
    """One span. Times in seconds since 1970."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes = b""
    name: str
    started_at: float
    ended_at: float
    attributes: Attributes
    error: str = ""
    """Message of the failure; empty if it succeeded."""
    is_model_call: bool = False


def spans_of(
    run: RunRecord,
    app_name: str,
    events: Iterable[AnyEvent],
    *,
    has_content: bool,
    mask: Callable[[str], str] = str,
) -> list[RunSpan]:
    """Return the spans of a run that has ended, the run's own first.

    Without `has_content`, inputs and outputs are left out. `mask` returns a text without
    secrets; it is applied before long texts are cut.
    """
    trace_id = hashlib.sha256(run.id.encode()).digest()[:16]
    builder = _Builder(run, trace_id, mask, has_content=has_content)
    for event in events:
        builder.add(event)
    # Nodes that never ended, as in a run that was stopped, have no span.
    # The root comes last, because only then is it known how many spans were dropped.
    root = _root_span(run, app_name, trace_id, builder)
    return [root, *builder.spans]


def probe_span(destination: str, now: float) -> RunSpan:
    """Return the span that tests a destination, by its id, at a Unix time. It says what
    it is, since people see it among their traces."""
    # Tests of one destination at different times are different traces.
    digest = hashlib.sha256(f"{destination}/{now}".encode()).digest()
    return RunSpan(
        trace_id=digest[:16],
        span_id=digest[16:24],
        name="Test by Modelyard",
        started_at=now,
        ended_at=now,
        attributes={names.KIND: "CHAIN", "langsmith.span.kind": "chain"},
    )


class _Builder:
    """Collects the spans of nodes from a run's events."""

    def __init__(
        self,
        run: RunRecord,
        trace_id: bytes,
        mask: Callable[[str], str],
        *,
        has_content: bool,
    ) -> None:
        self.mask = mask
        self.spans: list[RunSpan] = []
        self.dropped = 0
        self.has_content = has_content
        self.common = _common(run)
        self._run = run
        self._trace_id = trace_id
        # Container node id → its newest execution, which later nodes belong to.
        self._executions: dict[str, str] = {}
        # The newest state of each entry of an agent's log, by execution and entry.
        self._logs: dict[str, dict[str, NodeRunAgentLog]] = {}

    def add(self, event: AnyEvent) -> None:
        """Take up an event; only the ends of nodes become spans."""
        match event:
            case NodeRunStarted():
                self._executions[event.node_id] = event.id
            case NodeRunAgentLog():
                self._logs.setdefault(event.id, {})[event.message_id] = event
            case NodeRunSucceeded():
                self._add_span(event, "")
            case NodeRunFailed() | NodeRunException():
                self._add_span(event, event.error)
            case _:
                pass

    def _add_span(
        self, event: NodeRunSucceeded | NodeRunFailed | NodeRunException, error: str
    ) -> None:
        """Add the span of a node's execution, and those of its agent's log."""
        # An iteration may be inside of a loop; the event names the innermost of both.
        container = event.in_iteration_id or event.in_loop_id
        parent = self._executions.get(container, "")
        self._append(
            RunSpan(
                trace_id=self._trace_id,
                span_id=_span_id(self._run, event.id),
                parent_id=_span_id(self._run, parent),
                name=event.title or event.node_type,
                started_at=event.started_at or event.at,
                ended_at=event.at,
                attributes={**self.common, **self._attributes(event)},
                error=self.mask(error),
                is_model_call="model_name" in event.process_data,
            )
        )
        for entry in self._logs.pop(event.id, {}).values():
            self._append(self._log_span(entry))

    def _append(self, span: RunSpan) -> None:
        """Add a span, unless the trace is too long."""
        if len(self.spans) < _MAX_SPANS:
            self.spans.append(span)
        else:
            self.dropped += 1

    def _log_span(self, entry: NodeRunAgentLog) -> RunSpan:
        """Return the span of an entry of an agent's log: a round, or the model call or a
        tool call in it."""
        seconds = float(entry.metadata.get("elapsed_time") or 0.0)
        parent = f"{entry.id}/{entry.parent_id}" if entry.parent_id else entry.id
        attributes = {**self.common, **_log_attributes(entry)}
        if self.has_content:
            data = entry.data
            attributes |= _content(data.get("input"), data.get("output"), self.mask)
        return RunSpan(
            trace_id=self._trace_id,
            span_id=_span_id(self._run, f"{entry.id}/{entry.message_id}"),
            parent_id=_span_id(self._run, parent),
            name=entry.label,
            started_at=entry.at - seconds,
            ended_at=entry.at,
            attributes=attributes,
            error=self.mask(entry.error or ""),
            is_model_call=entry.label.endswith(_MODEL_CALL),
        )

    def _attributes(
        self, event: NodeRunSucceeded | NodeRunFailed | NodeRunException
    ) -> Attributes:
        """Return what is particular to a node."""
        kind, langsmith_kind = _KINDS.get(event.node_type, _CHAIN)
        attributes: Attributes = {
            names.KIND: kind,
            "langsmith.span.kind": langsmith_kind,
            "modelyard.node.id": event.node_id,
            "modelyard.node.type": event.node_type,
        }
        process = event.process_data
        # Every node that calls a model records which one, whatever its type is.
        if "model_name" in process:
            attributes |= _model_attributes(process, event.metadata)
        if self.has_content:
            given = process.get("prompts") or event.inputs
            attributes |= _content(given, event.outputs, self.mask)
        return attributes


def _root_span(
    run: RunRecord, app_name: str, trace_id: bytes, builder: _Builder
) -> RunSpan:
    """Return the span of the run itself."""
    attributes: Attributes = {
        **builder.common,
        # Each trace service has its own name for the type of a span.
        names.KIND: "CHAIN",
        "langsmith.span.kind": "chain",
        "langfuse.trace.name": app_name,
        "modelyard.run.status": run.status.value,
    }
    if builder.dropped:
        attributes["modelyard.spans_dropped"] = builder.dropped
    if builder.has_content:
        given = {**run.system, **run.inputs}
        attributes |= _content(given, run.outputs, builder.mask)
    return RunSpan(
        trace_id=trace_id,
        span_id=_span_id(run, ""),
        name=app_name,
        started_at=run.created_at,
        ended_at=run.finished_at or run.created_at,
        attributes=attributes,
        error=builder.mask(run.error) if run.status in _FAILED else "",
    )


def _common(run: RunRecord) -> Attributes:
    """Return the attributes of every span: services group by session and user only if
    each span has them."""
    attributes: Attributes = {
        names.TENANT: run.tenant,
        "modelyard.app": run.app,
        "modelyard.run": run.id,
    }
    # A workflow has no conversation, and an empty session would group all its runs.
    if run.conversation:
        attributes |= {
            "session.id": run.conversation,
            "gen_ai.conversation.id": run.conversation,
            "langsmith.metadata.session_id": run.conversation,
        }
    if run.user:
        attributes |= {names.USER: run.user, "langsmith.metadata.user_id": run.user}
    return attributes


def _model_attributes(
    process: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Attributes:
    """Return the attributes of a model call."""
    provider, model = str(process.get("model_provider")), str(process["model_name"])
    usage: Mapping[str, Any] = process.get("usage") or {}
    prompt, completion = (
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )
    attributes: Attributes = {
        names.OPERATION: "chat",
        names.PROVIDER: provider,
        names.LLM_PROVIDER: provider,
        names.REQUEST_MODEL: model,
        names.RESPONSE_MODEL: model,
        names.MODEL_NAME: model,
        names.INPUT_TOKENS: prompt,
        names.OUTPUT_TOKENS: completion,
        names.PROMPT_TOKENS: prompt,
        names.COMPLETION_TOKENS: completion,
        names.TOTAL_TOKENS: prompt + completion,
    }
    # Without a price nothing is said: services would show a cost of zero as free.
    price = metadata.get("total_price") or usage.get("total_price")
    if price:
        attributes |= {
            "gen_ai.usage.cost": float(price),
            names.CURRENCY: str(metadata.get("currency") or usage.get("currency")),
        }
    return attributes


def _log_attributes(entry: NodeRunAgentLog) -> Attributes:
    """Return what is particular to an entry of an agent's log."""
    if entry.label.startswith(_TOOL_CALL):
        tool = entry.label.removeprefix(_TOOL_CALL)
        return {
            names.KIND: "TOOL",
            "langsmith.span.kind": "tool",
            names.OPERATION: "execute_tool",
            "gen_ai.tool.name": tool,
            "tool.name": tool,
        }
    if not entry.label.endswith(_MODEL_CALL):
        return {names.KIND: "CHAIN", "langsmith.span.kind": "chain"}
    model = entry.label.removesuffix(_MODEL_CALL)
    # The log of an agent has only the sum of a round's tokens.
    tokens = int(entry.metadata.get("total_tokens") or 0)
    return {
        names.KIND: "LLM",
        "langsmith.span.kind": "llm",
        names.OPERATION: "chat",
        names.REQUEST_MODEL: model,
        names.RESPONSE_MODEL: model,
        names.MODEL_NAME: model,
        names.TOTAL_TOKENS: tokens,
    }


def _content(given: Any, outputs: Any, mask: Callable[[str], str]) -> Attributes:
    """Return inputs and outputs as JSON without secrets, cut to a bounded length."""
    return {
        names.INPUT_VALUE: _json(given, mask),
        "input.mime_type": "application/json",
        names.OUTPUT_VALUE: _json(outputs, mask),
        "output.mime_type": "application/json",
    }


def _json(value: Any, mask: Callable[[str], str]) -> str:
    """Return a value as JSON without secrets, cut to a bounded length."""
    # Masked first: a secret that is cut in two is not recognised any more.
    return mask(msgspec.json.encode(value).decode())[:_MAX_CONTENT]


def _span_id(run: RunRecord, execution: str) -> bytes:
    """Return the id of an execution's span; of the run's for an empty one."""
    return hashlib.sha256(f"{run.id}/{execution}".encode()).digest()[:8]
