"""Runs within an environment that holds dify-client alone: its calls, and what came of each, as JSON lines."""

import io
import json
import sys
from typing import Any


def main() -> None:
    from dify_client import ChatClient, CompletionClient, DifyClient

    told = json.loads(sys.argv[1])
    base = told["base"]
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    def client(kind: Any, key: str) -> Any:
        one = kind(told[key])
        one.base_url = base
        return one

    chat, completion, plain = (
        client(ChatClient, "chat"),
        client(CompletionClient, "completion"),
        client(DifyClient, "chat"),
    )
    answer = chat.create_chat_message({}, "My name is Ada", "u1", response_mode="blocking")
    body = answer.json()
    check("chat, blocking", answer.status_code == 200 and body["answer"], body.get("answer"))
    conversation = body["conversation_id"]
    answer = chat.create_chat_message({}, "Again", "u1", response_mode="streaming", conversation_id=conversation)
    events = [
        json.loads(line[6:]) for line in answer.iter_lines(decode_unicode=True) if line and line.startswith("data: ")
    ]
    kinds = [one["event"] for one in events]
    text = "".join(one["answer"] for one in events if one["event"] == "message")
    check("chat, streaming", kinds[-2:] == ["message_end", "workflow_finished"] and text, text)
    check("same conversation", {one["conversation_id"] for one in events} == {conversation})
    found = chat.get_conversation_messages("u1", conversation).json()
    check("messages", [one["query"] for one in found["data"]] == ["My name is Ada", "Again"], len(found["data"]))
    listed = chat.get_conversations("u1").json()
    check("conversations", listed["data"][0]["id"] == conversation)
    renamed = chat.rename_conversation(conversation, "Ada", "u1").json()
    check("rename", renamed["name"] == "Ada")
    check("feedback", chat.message_feedback(body["message_id"], "like", "u1").json() == {"result": "success"})
    parameters = plain.get_application_parameters("u1").json()
    check("parameters", "user_input_form" in parameters and "system_parameters" in parameters)
    uploaded = plain.file_upload("u1", {"file": ("a.txt", io.BytesIO(b"hello"), "text/plain")})
    check("file upload", uploaded.status_code == 201 and uploaded.json()["size"] == 5, uploaded.json().get("id"))
    whole = completion.create_completion_message({"query": "Say it", "tone": "dry"}, "blocking", "u1").json()
    check("completion, blocking", whole["answer"] and whole["mode"] == "completion", whole.get("answer"))
    stream = completion.create_completion_message({"query": "Say it", "tone": "dry"}, "streaming", "u1")
    kinds = [
        json.loads(line[6:])["event"]
        for line in stream.iter_lines(decode_unicode=True)
        if line and line.startswith("data: ")
    ]
    check("completion, streaming", set(kinds) == {"message", "message_end"}, kinds[-1:])
    refused = client(ChatClient, "completion").create_chat_message({}, "x", "u1")
    check(
        "another kind of app is refused",
        refused.status_code == 400 and refused.json()["code"] == "not_chat_app",
        refused.text,
    )
    nobody = chat.create_chat_message({}, "x", "")
    check("a user is asked for", nobody.json()["message"] == "Arg user must be provided.", nobody.text)
    wrong = ChatClient("app-nope")
    wrong.base_url = base
    check("a wrong key is refused", wrong.create_chat_message({}, "x", "u").status_code == 401)
    print(json.dumps(seen))


main()
