"""Runs as tasks of A2A, in the shapes of revisions 1.0 and 0.3. Pure: it remembers what it has to of one run."""

import base64
import binascii
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.events import AnyEvent, GraphRunPaused, NodeRunStreamChunk, TextReplaced
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.single_run import FINAL, outcome_of

_STATES: Mapping[Status, str] = {
    Status.RUNNING: "WORKING", Status.PAUSED: "INPUT_REQUIRED", Status.SUCCEEDED: "COMPLETED",
    Status.PARTIAL: "COMPLETED", Status.FAILED: "FAILED", Status.STOPPED: "CANCELED",
}  # fmt: skip
ANSWER = "answer"
"""The one artifact of a task."""


class A2AError(Exception):
    """What a caller is told, by the numbers of JSON-RPC and of A2A."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


PARSE, INVALID, NO_METHOD, WRONG = -32700, -32600, -32601, -32602
NO_TASK, NOT_CANCELABLE, NO_PUSH, UNSUPPORTED = -32001, -32002, -32003, -32004


# ---------------------------------------------------------------------------------------------- what comes in


@dataclass
class Asked:
    """A message, in one form whatever its revision."""

    texts: list[str] = field(default_factory=list[str])
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(address, media type) of files that lie elsewhere."""
    blobs: list[tuple[str, bytes, str]] = field(default_factory=list[tuple[str, bytes, str]])
    """(name, content, media type) of files that came along."""
    task: str = ""
    context: str = ""
    user: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def read_message(params: Mapping[str, Any]) -> Asked:
    """Raises A2AError."""
    message = params.get("message")
    if not isinstance(message, Mapping):
        raise A2AError(WRONG, "params.message must be an object")
    parts = message.get("parts")
    if not isinstance(parts, list) or not parts:
        raise A2AError(WRONG, "params.message.parts must be a list with something in it")
    told: Any = {**_mapping(params.get("metadata")), **_mapping(message.get("metadata"))}
    asked = Asked(
        task=str(message.get("taskId") or ""), context=str(message.get("contextId") or ""),
        user=str(told.get("user") or ""),
    )  # fmt: skip
    for at, part in enumerate(parts):
        if not isinstance(part, Mapping):
            raise A2AError(WRONG, f"params.message.parts[{at}] must be an object")
        _read_part(part, asked, at)
    return asked


def _read_part(part: Mapping[str, Any], asked: Asked, at: int) -> None:
    file = part.get("file")
    if isinstance(file, Mapping):  # as 0.3 has it
        part = {
            "url": file.get("uri"), "raw": file.get("bytes"), "mediaType": file.get("mimeType"),
            "filename": file.get("name"),
        }  # fmt: skip
    if isinstance(part.get("text"), str):
        asked.texts.append(part["text"])
    elif "data" in part:
        value = _whole(part["data"])
        asked.data |= value if isinstance(value, Mapping) else {"data": value} if value is not None else {}
    elif part.get("url"):
        asked.links.append((str(part["url"]), str(part.get("mediaType") or "")))
    elif isinstance(part.get("raw"), str):
        try:
            data = base64.b64decode(part["raw"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise A2AError(WRONG, f"params.message.parts[{at}].raw is no base64") from error
        asked.blobs.append((str(part.get("filename") or "file"), data, str(part.get("mediaType") or "")))
    else:
        raise A2AError(WRONG, f"params.message.parts[{at}] holds neither text, data, url nor raw")


def _whole(value: Any) -> Any:
    """With whole numbers as such: protobuf's JSON, which many callers send, knows none."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole(one) for name, one in value.items()}
        case list():
            return [_whole(one) for one in value]
        case _:
            return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# ---------------------------------------------------------------------------------------------- what goes out


class TaskEvents:
    """A run's events as a stream's pieces, in the shapes of 1.0."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.text: list[str] = []
        self._has_begun = False

    def begin(self) -> JSON:
        return {"task": task_of(self.run, "")}

    def feed(self, event: AnyEvent) -> Iterator[JSON]:
        match event:
            case NodeRunStreamChunk() if event.chunk:
                self.text.append(event.chunk)
                yield self._artifact(event.chunk, append=self._has_begun)
                self._has_begun = True
            case TextReplaced():
                self.text = [event.text]
                yield self._artifact(event.text, append=False)
                self._has_begun = True
            case _ if isinstance(event, FINAL):
                yield from self._end(event)
            case _:
                pass

    def _artifact(self, text: str, *, append: bool, is_last: bool = False) -> JSON:
        artifact = {"artifactId": ANSWER, "name": ANSWER, "parts": [{"text": text}]}
        return {"artifactUpdate": {**self._ids(), "artifact": artifact, "append": append, "lastChunk": is_last}}

    def _ids(self) -> JSON:
        return {"taskId": self.run.id, "contextId": context_of(self.run)}

    def _end(self, event: Any) -> Iterator[JSON]:
        outcome = outcome_of(event)
        if not self._has_begun and outcome.outputs:
            artifact = {"artifactId": ANSWER, "name": ANSWER, "parts": parts_of(outcome.outputs)}
            yield {"artifactUpdate": {**self._ids(), "artifact": artifact, "append": False, "lastChunk": True}}
        reasons = event.reasons if isinstance(event, GraphRunPaused) else ()
        status = _status(outcome.status, self.run, outcome.error, reasons, event.at)
        yield {"statusUpdate": {**self._ids(), "status": status}}


def context_of(run: RunRecord) -> str:
    """A conversation is a context; what belongs to none is one by itself."""
    return run.conversation or run.id


def parts_of(outputs: Mapping[str, Any]) -> list[JSON]:
    shown = {name: value for name, value in outputs.items() if not name.startswith("__")}
    if len(shown) == 1 and isinstance(only := next(iter(shown.values())), str):
        return [{"text": only}]
    return [{"data": shown}] if shown else []


def task_of(run: RunRecord, text: str) -> JSON:
    """A run as it is. `text`: what it said."""
    parts: Sequence[JSON] = [{"text": text}] if text else parts_of(run.outputs)
    told: JSON = {
        "id": run.id, "contextId": context_of(run),
        "status": _status(run.status, run, run.error, run.reasons, run.finished_at or run.created_at),
    }  # fmt: skip
    if parts and run.status is not Status.RUNNING:
        told["artifacts"] = [{"artifactId": ANSWER, "name": ANSWER, "parts": list(parts)}]
    return told


def _status(status: Status, run: RunRecord, error: str, reasons: Sequence[Mapping[str, Any]], at: float) -> JSON:
    told: JSON = {"state": f"TASK_STATE_{_STATES[status]}", "timestamp": _time(at)}
    if status is Status.PAUSED and reasons:
        asked = reasons[0]
        wanted = {
            "inputs": [one.get("output_variable_name") for one in asked.get("inputs") or ()],
            "actions": [{"id": one.get("id"), "title": one.get("title")} for one in asked.get("actions") or ()],
        }  # fmt: skip
        told["message"] = _said(run, [{"text": str(asked.get("form_content") or "")}, {"data": wanted}])
    elif error:
        told["message"] = _said(run, [{"text": error}])
    return told


def _said(run: RunRecord, parts: list[JSON]) -> JSON:
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.id}/{len(run.reasons)}/{parts}"))
    return {
        "messageId": name, "role": "ROLE_AGENT", "parts": parts, "taskId": run.id, "contextId": context_of(run),
    }  # fmt: skip


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------------------------------------- 0.3


def as_0_3(piece: JSON) -> JSON:
    """A piece of 1.0, a result or an event of a stream, as revision 0.3 has it."""
    if "task" in piece:
        return _task_0_3(piece["task"])
    if "artifactUpdate" in piece:
        one = piece["artifactUpdate"]
        return {**one, "kind": "artifact-update", "artifact": _artifact_0_3(one["artifact"])}
    one = piece["statusUpdate"]
    state = one["status"]["state"]
    return {
        **one, "kind": "status-update", "status": _status_0_3(one["status"]), "final": not state.endswith("WORKING"),
    }  # fmt: skip


def _task_0_3(task: JSON) -> JSON:
    told = {**task, "kind": "task", "status": _status_0_3(task["status"])}
    if "artifacts" in task:
        told["artifacts"] = [_artifact_0_3(one) for one in task["artifacts"]]
    return told


def _status_0_3(status: JSON) -> JSON:
    state = status["state"].removeprefix("TASK_STATE_").lower().replace("_", "-")
    told = {**status, "state": state}
    if (message := status.get("message")) is not None:
        told["message"] = {**message, "kind": "message", "role": "agent", "parts": _parts_0_3(message["parts"])}
    return told


def _artifact_0_3(one: JSON) -> JSON:
    return {**one, "parts": _parts_0_3(one["parts"])}


def _parts_0_3(parts: Sequence[JSON]) -> list[JSON]:
    return [{"kind": "text" if "text" in one else "data", **one} for one in parts]
