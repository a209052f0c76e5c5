"""Checks of the service API client; runs in an environment with only dify-client-python
installed.

The argument is a JSON object with the server's address and keys. Prints the checks as
one line of JSON.
"""

import io
import json
import sys
import threading
from typing import Any

from dify_client import Client, models

server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 120 characters."""
    results.append((name, bool(ok), str(detail)[:120]))


def client(key: str) -> Any:
    """Return a client with the named key."""
    return Client(api_key=server_info[key], api_base=server_info["base"])


BLOCKING, STREAMED = models.ResponseMode.BLOCKING, models.ResponseMode.STREAMING
chat, completion, workflow = client("chat"), client("completion"), client("workflow")


def main() -> None:
    """Run all checks."""
    chats()
    file = uploaded_file()
    completions()
    workflows(file)
    stopped_chat()


def chats() -> None:
    """Blocking and streamed chats, feedback and suggested questions."""
    answer = chat.chat_messages(
        models.ChatRequest(query="Hello", response_mode=BLOCKING, user="u2")
    )
    check(
        "chat, blocking",
        answer.answer and answer.metadata.usage.total_tokens > 0,
        answer.answer,
    )
    events = list(
        chat.chat_messages(
            models.ChatRequest(query="Hello", response_mode=STREAMED, user="u2")
        )
    )
    kinds = [str(event.event) for event in events]
    check(
        "chat, streaming",
        "message" in kinds and "workflow_finished" in kinds,
        kinds[-2:],
    )
    feedback = chat.feedback_messages(
        answer.message_id, models.FeedbackRequest(rating=models.Rating.LIKE, user="u2")
    )
    check("feedback", feedback.result == "success")
    suggestions = chat.suggest_messages(
        answer.message_id, models.ChatSuggestRequest(user="u2")
    )
    check("suggested questions", suggestions.result == "success", suggestions.data)


def uploaded_file() -> str:
    """Upload a file. Returns its id."""
    file = ("a.txt", io.BytesIO(b"hello there"), "text/plain")
    uploaded = workflow.upload_files(file, models.UploadFileRequest(user="u2"))
    check(
        "file upload", uploaded.size == 11 and uploaded.extension == "txt", uploaded.id
    )
    return uploaded.id


def completions() -> None:
    """A blocking and a streamed completion."""
    reply = completion.completion_messages(
        models.CompletionRequest(
            inputs={"query": "Go"}, response_mode=BLOCKING, user="u2"
        )
    )
    check("completion, blocking", reply.answer, reply.answer)
    completion_events = list(
        completion.completion_messages(
            models.CompletionRequest(
                inputs={"query": "Go"}, response_mode=STREAMED, user="u2"
            )
        )
    )
    check(
        "completion, streaming",
        str(completion_events[-1].event) == "message_end",
        len(completion_events),
    )


def workflows(file: str) -> None:
    """Blocking and streamed runs of a workflow, whose input is the uploaded file."""
    document = {
        "type": "document",
        "transfer_method": "local_file",
        "upload_file_id": file,
    }
    run = workflow.run_workflows(
        models.WorkflowsRunRequest(
            inputs={"n": 3, "doc": document},
            response_mode=BLOCKING,
            user="u2",
        )
    )
    check(
        "workflow, blocking",
        run.data.outputs == {"r": "3:hello there"},
        run.data.outputs,
    )
    events = list(
        workflow.run_workflows(
            models.WorkflowsRunRequest(
                inputs={"n": 4, "doc": document}, response_mode=STREAMED, user="u2"
            )
        )
    )
    kinds = [str(event.event) for event in events]
    order = [
        event_type
        for event_type in kinds
        if event_type in ("workflow_started", "workflow_finished")
    ]
    check(
        "workflow, streaming",
        order == ["workflow_started", "workflow_finished"]
        and kinds[0] == "workflow_started",
        kinds[:4],
    )
    # The client parses some event types into objects and leaves others as dictionaries.
    data = [event.data for event in events if str(event.event) == "node_finished"]
    nodes = [
        node_data["node_id"] if isinstance(node_data, dict) else node_data.node_id
        for node_data in data
    ]
    check("nodes in order", nodes == ["start", "read", "text", "end"], nodes)


def stopped_chat() -> None:
    """Stop a slow answer after its first chunk; the stream must still end with
    `message_end`."""
    slow = client("slow")
    stream = slow.chat_messages(
        models.ChatRequest(
            query="Tell me a long story", response_mode=STREAMED, user="u2"
        )
    )
    kinds, stopped = [], threading.Event()
    for event in stream:
        kinds.append(str(event.event))
        if str(event.event) == "message" and not stopped.is_set():
            stopped.set()
            reply = slow.stop_chat_messages(
                event.task_id, models.StopRequest(user="u2")
            )
            check("stop", reply.result == "success")
    check(
        "a stopped chat ends regularly",
        kinds[-1] == "message_end" and kinds.count("message") < 50,
        kinds[-2:],
    )


main()
print(json.dumps(results))
