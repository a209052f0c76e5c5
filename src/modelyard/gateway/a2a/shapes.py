"""Runs as A2A tasks, in the JSON shapes of revisions 1.0 and 0.3. Performs no I/O."""

import base64
import binascii
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelyard.base.json_types import JsonValue, is_array, is_mapping
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphEvent,
    GraphRunPaused,
    NodeRunStreamChunk,
    TextReplaced,
)
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.single_run import FINAL_EVENTS, outcome_of

_STATES: Mapping[Status, str] = {
    Status.RUNNING: "WORKING",
    Status.PAUSED: "INPUT_REQUIRED",
    Status.SUCCEEDED: "COMPLETED",
    Status.PARTIAL: "COMPLETED",
    Status.FAILED: "FAILED",
    Status.STOPPED: "CANCELED",
}
ANSWER = "answer"
"""Id and name of the only artifact of a task."""


class A2AError(Exception):
    """Error for the caller, with a code of JSON-RPC or of A2A."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# Codes of JSON-RPC 2.0.
PARSE, INVALID, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
# Codes of the A2A specification, in the range that JSON-RPC leaves to servers.
NO_TASK, NOT_CANCELABLE, NO_PUSH, UNSUPPORTED = -32001, -32002, -32003, -32004


# ----------------------------------------------------------------------------------
# requests


@dataclass
class IncomingMessage:
    """A message of either revision in one normalised form."""

    texts: list[str] = field(default_factory=list[str])
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(URL, media type) of files that are referenced."""
    blobs: list[tuple[str, bytes, str]] = field(
        default_factory=list[tuple[str, bytes, str]]
    )
    """(name, content, media type) of files that are sent inline."""
    task: str = ""
    context: str = ""
    user: str = ""

    @property
    def text(self) -> str:
        """All text parts, joined by line breaks."""
        return "\n".join(self.texts)


def read_message(params: Mapping[str, Any]) -> IncomingMessage:
    """Parse the message of a request.

    Raises A2AError if it is malformed.
    """
    message = params.get("message")
    if not is_mapping(message):
        raise A2AError(INVALID_PARAMS, "params.message must be an object")
    parts = message.get("parts")
    if not is_array(parts) or not parts:
        raise A2AError(INVALID_PARAMS, "params.message.parts must be a non-empty list")
    # Clients send the user's name in the metadata of the request or of the message; the
    # message wins.
    metadata: Any = {
        **_mapping(params.get("metadata")),
        **_mapping(message.get("metadata")),
    }
    incoming = IncomingMessage(
        task=str(message.get("taskId") or ""),
        context=str(message.get("contextId") or ""),
        user=str(metadata.get("user") or ""),
    )
    for index, part in enumerate(parts):
        if not is_mapping(part):
            raise A2AError(
                INVALID_PARAMS, f"params.message.parts[{index}] must be an object"
            )
        _read_part(part, incoming, index)
    return incoming


def _read_part(part: Mapping[str, Any], incoming: IncomingMessage, index: int) -> None:
    """Add one message part to `incoming`.

    Raises A2AError, with `index` in the message, if the part is malformed.
    """
    file = part.get("file")
    # Revision 0.3 nests a file; bring it into the flat form of 1.0.
    if is_mapping(file):
        part = {
            "url": file.get("uri"),
            "raw": file.get("bytes"),
            "mediaType": file.get("mimeType"),
            "filename": file.get("name"),
        }
    if isinstance(part.get("text"), str):
        incoming.texts.append(part["text"])
    elif "data" in part:
        incoming.data |= _named_inputs(part["data"])
    elif part.get("url"):
        incoming.links.append((str(part["url"]), str(part.get("mediaType") or "")))
    elif isinstance(part.get("raw"), str):
        incoming.blobs.append(_inline_file(part, index))
    else:
        raise A2AError(
            INVALID_PARAMS,
            f"params.message.parts[{index}] must have text, data, url or raw",
        )


def _named_inputs(data: Any) -> Mapping[str, Any]:
    """Return the inputs of a data part: an object has named inputs; any other value
    becomes the input `data`."""
    value = _restore_integers(data)
    if is_mapping(value):
        return value
    return {} if value is None else {"data": value}


def _inline_file(part: Mapping[str, Any], index: int) -> tuple[str, bytes, str]:
    """Return (name, content, media type) of a file that is sent inline.

    Raises A2AError if its content is not base64.
    """
    try:
        data = base64.b64decode(part["raw"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise A2AError(
            INVALID_PARAMS, f"params.message.parts[{index}].raw: invalid base64"
        ) from error
    return str(part.get("filename") or "file"), data, str(part.get("mediaType") or "")


def _restore_integers(value: JsonValue) -> Any:
    """Return the value with whole floats as integers.

    Many clients build JSON with protobuf, which has only doubles.
    """
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _restore_integers(member) for name, member in value.items()}
        case list():
            return [_restore_integers(element) for element in value]
        case _:
            return value


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, otherwise an empty one."""
    return value if is_mapping(value) else {}


# ----------------------------------------------------------------------------------
# responses


class TaskEvents:
    """Translates a run's events into stream updates in the shapes of 1.0."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.text: list[str] = []
        self._has_started = False

    def initial_task(self) -> JSON:
        """Return the first update of a stream: the task itself."""
        return {"task": task_from_run(self.run, "")}

    def feed(self, event: AnyEvent) -> Iterator[JSON]:
        """Yield the updates for one event; most events have none."""
        match event:
            case NodeRunStreamChunk() if event.chunk:
                self.text.append(event.chunk)
                yield self._artifact(event.chunk, append=self._has_started)
                self._has_started = True
            # Moderation replaced the text: send the artifact again from the start.
            case TextReplaced():
                self.text = [event.text]
                yield self._artifact(event.text, append=False)
                self._has_started = True
            case _ if isinstance(event, FINAL_EVENTS):
                yield from self._end(event)
            case _:
                pass

    def _artifact(self, text: str, *, append: bool, is_last: bool = False) -> JSON:
        """Return an update with a part of the answer's text."""
        artifact = {"artifactId": ANSWER, "name": ANSWER, "parts": [{"text": text}]}
        return {
            "artifactUpdate": {
                **self._ids(),
                "artifact": artifact,
                "append": append,
                "lastChunk": is_last,
            }
        }

    def _ids(self) -> JSON:
        """Return the ids that every update carries."""
        return {"taskId": self.run.id, "contextId": context_id_of(self.run)}

    def _end(self, event: GraphEvent) -> Iterator[JSON]:
        """Yield the last updates of a run: its outputs if nothing was streamed, then
        its status."""
        outcome = outcome_of(event)
        # Workflows without a streamed answer send their outputs as one complete
        # artifact.
        if not self._has_started and outcome.outputs:
            artifact = {
                "artifactId": ANSWER,
                "name": ANSWER,
                "parts": output_parts(outcome.outputs),
            }
            yield {
                "artifactUpdate": {
                    **self._ids(),
                    "artifact": artifact,
                    "append": False,
                    "lastChunk": True,
                }
            }
        reasons = event.reasons if isinstance(event, GraphRunPaused) else ()
        status = _status(outcome.status, self.run, outcome.error, reasons, event.at)
        yield {"statusUpdate": {**self._ids(), "status": status}}


def context_id_of(run: RunRecord) -> str:
    """Return the A2A context id: the conversation, or the run itself if it has none."""
    return run.conversation or run.id


def output_parts(outputs: Mapping[str, Any]) -> list[JSON]:
    """Return outputs as message parts: a single text as text, anything else as one data
    part."""
    # Names with two leading underscores are internal.
    visible_outputs = {
        name: value for name, value in outputs.items() if not name.startswith("__")
    }
    if len(visible_outputs) == 1 and isinstance(
        text := next(iter(visible_outputs.values())), str
    ):
        return [{"text": text}]
    return [{"data": visible_outputs}] if visible_outputs else []


def task_from_run(run: RunRecord, text: str) -> JSON:
    """Return a run as a task in its current state. `text` is the answer text, if any."""
    parts: Sequence[JSON] = [{"text": text}] if text else output_parts(run.outputs)
    task: JSON = {
        "id": run.id,
        "contextId": context_id_of(run),
        "status": _status(
            run.status, run, run.error, run.reasons, run.finished_at or run.created_at
        ),
    }
    # A running task has no final artifact yet; its text arrives as updates.
    if parts and run.status is not Status.RUNNING:
        task["artifacts"] = [
            {"artifactId": ANSWER, "name": ANSWER, "parts": list(parts)}
        ]
    return task


def _status(
    status: Status,
    run: RunRecord,
    error: str,
    reasons: Sequence[Mapping[str, Any]],
    timestamp: float,
) -> JSON:
    """Return a task status. A paused task carries the form that it waits for, a failed
    one its error."""
    task_status: JSON = {
        "state": f"TASK_STATE_{_STATES[status]}",
        "timestamp": _time(timestamp),
    }
    if status is Status.PAUSED and reasons:
        form_request = reasons[0]
        form = {
            "inputs": [
                form_input.get("output_variable_name")
                for form_input in form_request.get("inputs") or ()
            ],
            "actions": [
                {"id": action.get("id"), "title": action.get("title")}
                for action in form_request.get("actions") or ()
            ],
        }
        # A2A has no form element: the text goes out as a text part, fields and actions
        # as a data part.
        task_status["message"] = _agent_message(
            run, [{"text": str(form_request.get("form_content") or "")}, {"data": form}]
        )
    elif error:
        task_status["message"] = _agent_message(run, [{"text": error}])
    return task_status


def _agent_message(run: RunRecord, parts: list[JSON]) -> JSON:
    """Return a message of the agent. Its id is derived from the content, so that
    repeated reads return the same id."""
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.id}/{len(run.reasons)}/{parts}"))
    return {
        "messageId": name,
        "role": "ROLE_AGENT",
        "parts": parts,
        "taskId": run.id,
        "contextId": context_id_of(run),
    }


def _time(timestamp: float) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds."""
    return (
        datetime.fromtimestamp(timestamp, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


# ----------------------------------------------------------------------------------
# revision 0.3


def to_revision_0_3(result: JSON) -> JSON:
    """Convert a result or stream event from the shape of 1.0 to that of revision 0.3."""
    if "task" in result:
        return _task_0_3(result["task"])
    if "artifactUpdate" in result:
        update = result["artifactUpdate"]
        return {
            **update,
            "kind": "artifact-update",
            "artifact": _artifact_0_3(update["artifact"]),
        }
    # Neither a task nor an artifact: it is a status update.
    update = result["statusUpdate"]
    state = update["status"]["state"]
    return {
        **update,
        "kind": "status-update",
        "status": _status_0_3(update["status"]),
        "final": not state.endswith("WORKING"),
    }


def _task_0_3(task: JSON) -> JSON:
    """Convert a task to revision 0.3."""
    converted = {**task, "kind": "task", "status": _status_0_3(task["status"])}
    if "artifacts" in task:
        converted["artifacts"] = [
            _artifact_0_3(artifact) for artifact in task["artifacts"]
        ]
    return converted


def _status_0_3(status: JSON) -> JSON:
    """Convert a status to revision 0.3."""
    # TASK_STATE_INPUT_REQUIRED → input-required.
    state = status["state"].removeprefix("TASK_STATE_").lower().replace("_", "-")
    converted = {**status, "state": state}
    if (message := status.get("message")) is not None:
        converted["message"] = {
            **message,
            "kind": "message",
            "role": "agent",
            "parts": _parts_0_3(message["parts"]),
        }
    return converted


def _artifact_0_3(artifact: JSON) -> JSON:
    """Convert an artifact to revision 0.3."""
    return {**artifact, "parts": _parts_0_3(artifact["parts"])}


def _parts_0_3(parts: Sequence[JSON]) -> list[JSON]:
    """Convert message parts to revision 0.3, in which each part names its kind."""
    return [{"kind": "text" if "text" in part else "data", **part} for part in parts]
