"""Runs within an environment that holds dify-client-python alone."""

import io
import json
import sys
import threading
from typing import Any


def main() -> None:
    from dify_client import Client, models

    told = json.loads(sys.argv[1])
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    def client(key: str) -> Any:
        return Client(api_key=told[key], api_base=told["base"])

    whole, streamed = models.ResponseMode.BLOCKING, models.ResponseMode.STREAMING
    chat, completion, workflow = client("chat"), client("completion"), client("workflow")
    answer = chat.chat_messages(models.ChatRequest(query="Hello", response_mode=whole, user="u2"))
    check("chat, blocking", answer.answer and answer.metadata.usage.total_tokens > 0, answer.answer)
    events = list(chat.chat_messages(models.ChatRequest(query="Hello", response_mode=streamed, user="u2")))
    kinds = [str(one.event) for one in events]
    check("chat, streaming", "message" in kinds and "workflow_finished" in kinds, kinds[-2:])
    done = chat.feedback_messages(answer.message_id, models.FeedbackRequest(rating=models.Rating.LIKE, user="u2"))
    check("feedback", done.result == "success")
    asked = chat.suggest_messages(answer.message_id, models.ChatSuggestRequest(user="u2"))
    check("suggested questions", asked.result == "success", asked.data)
    file = ("a.txt", io.BytesIO(b"hello there"), "text/plain")
    uploaded = workflow.upload_files(file, models.UploadFileRequest(user="u2"))
    check("file upload", uploaded.size == 11 and uploaded.extension == "txt", uploaded.id)
    said = completion.completion_messages(
        models.CompletionRequest(inputs={"query": "Go"}, response_mode=whole, user="u2")
    )
    check("completion, blocking", said.answer, said.answer)
    pieces = list(
        completion.completion_messages(
            models.CompletionRequest(inputs={"query": "Go"}, response_mode=streamed, user="u2")
        )
    )
    check("completion, streaming", str(pieces[-1].event) == "message_end", len(pieces))
    document = {"type": "document", "transfer_method": "local_file", "upload_file_id": uploaded.id}
    run = workflow.run_workflows(models.WorkflowsRunRequest(
        inputs={"n": 3, "doc": document}, response_mode=whole, user="u2",
    ))  # fmt: skip
    check("workflow, blocking", run.data.outputs == {"r": "3:hello there"}, run.data.outputs)
    events = list(
        workflow.run_workflows(
            models.WorkflowsRunRequest(inputs={"n": 4, "doc": document}, response_mode=streamed, user="u2")
        )
    )
    kinds = [str(one.event) for one in events]
    order = [kind for kind in kinds if kind in ("workflow_started", "workflow_finished")]
    check(
        "workflow, streaming",
        order == ["workflow_started", "workflow_finished"] and kinds[0] == "workflow_started",
        kinds[:4],
    )
    data = [one.data for one in events if str(one.event) == "node_finished"]
    nodes = [one["node_id"] if isinstance(one, dict) else one.node_id for one in data]
    check("nodes in order", nodes == ["start", "read", "text", "end"], nodes)
    slow = client("slow")
    stream = slow.chat_messages(models.ChatRequest(query="Tell me a long story", response_mode=streamed, user="u2"))
    kinds, stopped = [], threading.Event()
    for event in stream:
        kinds.append(str(event.event))
        if str(event.event) == "message" and not stopped.is_set():
            stopped.set()
            said = slow.stop_chat_messages(event.task_id, models.StopRequest(user="u2"))
            check("stop", said.result == "success")
    check("a stopped chat ends well", kinds[-1] == "message_end" and kinds.count("message") < 50, kinds[-2:])
    print(json.dumps(seen))


main()
