"""Checks of the service API client; runs in an environment with only dify-client
installed.

The argument is a JSON object with the server's address and keys. Prints the checks as
one line of JSON.
"""

import io
import json
import sys
from typing import Any

from dify_client import ChatClient, CompletionClient, DifyClient

server_info = json.loads(sys.argv[1])
base = server_info["base"]
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 120 characters."""
    results.append((name, bool(ok), str(detail)[:120]))


def client(client_class: Any, key: str) -> Any:
    """Return a client with the named key that calls the server under test."""
    configured_client = client_class(server_info[key])
    configured_client.base_url = base
    return configured_client


chat = client(ChatClient, "chat")
completion = client(CompletionClient, "completion")
plain = client(DifyClient, "chat")


def main() -> None:
    """Run all checks."""
    conversation, message = conversations()
    conversation_details(conversation, message)
    app_details()
    completions()
    errors()


def conversations() -> tuple[str, str]:
    """A conversation with one blocking and one streamed message. Returns its id and that
    of the first message."""
    answer = chat.create_chat_message(
        {}, "My name is Ada", "u1", response_mode="blocking"
    )
    body = answer.json()
    check(
        "chat, blocking",
        answer.status_code == 200 and body["answer"],
        body.get("answer"),
    )
    conversation = body["conversation_id"]
    answer = chat.create_chat_message(
        {}, "Again", "u1", response_mode="streaming", conversation_id=conversation
    )
    events = [
        json.loads(line[6:])
        for line in answer.iter_lines(decode_unicode=True)
        if line and line.startswith("data: ")
    ]
    kinds = [event["event"] for event in events]
    text = "".join(event["answer"] for event in events if event["event"] == "message")
    check(
        "chat, streaming",
        kinds[-2:] == ["message_end", "workflow_finished"] and text,
        text,
    )
    check(
        "same conversation",
        {event["conversation_id"] for event in events} == {conversation},
    )
    return conversation, body["message_id"]


def conversation_details(conversation: str, message: str) -> None:
    """List messages and conversations, rename a conversation, and send feedback."""
    # Messages are listed in the order in which they were sent.
    messages = chat.get_conversation_messages("u1", conversation).json()
    check(
        "messages",
        [listed_message["query"] for listed_message in messages["data"]]
        == ["My name is Ada", "Again"],
        len(messages["data"]),
    )
    listed = chat.get_conversations("u1").json()
    check("conversations", listed["data"][0]["id"] == conversation)
    renamed = chat.rename_conversation(conversation, "Ada", "u1").json()
    check("rename", renamed["name"] == "Ada")
    check(
        "feedback",
        chat.message_feedback(message, "like", "u1").json() == {"result": "success"},
    )


def app_details() -> None:
    """Read the app's parameters and upload a file."""
    parameters = plain.get_application_parameters("u1").json()
    check(
        "parameters",
        "user_input_form" in parameters and "system_parameters" in parameters,
    )
    uploaded = plain.file_upload(
        "u1", {"file": ("a.txt", io.BytesIO(b"hello"), "text/plain")}
    )
    check(
        "file upload",
        uploaded.status_code == 201 and uploaded.json()["size"] == 5,
        uploaded.json().get("id"),
    )


def completions() -> None:
    """A blocking and a streamed completion."""
    completion_answer = completion.create_completion_message(
        {"query": "Say it", "tone": "dry"}, "blocking", "u1"
    ).json()
    check(
        "completion, blocking",
        completion_answer["answer"] and completion_answer["mode"] == "completion",
        completion_answer.get("answer"),
    )
    stream = completion.create_completion_message(
        {"query": "Say it", "tone": "dry"}, "streaming", "u1"
    )
    kinds = [
        json.loads(line[6:])["event"]
        for line in stream.iter_lines(decode_unicode=True)
        if line and line.startswith("data: ")
    ]
    check("completion, streaming", set(kinds) == {"message", "message_end"}, kinds[-1:])


def errors() -> None:
    """The errors have Dify's statuses, codes and messages."""
    refused = client(ChatClient, "completion").create_chat_message({}, "x", "u1")
    check(
        "a key of another app type is refused",
        refused.status_code == 400 and refused.json()["code"] == "not_chat_app",
        refused.text,
    )
    nobody = chat.create_chat_message({}, "x", "")
    check(
        "a request without a user is refused",
        nobody.json()["message"] == "Arg user must be provided.",
        nobody.text,
    )
    unauthorised_client = ChatClient("app-nope")
    unauthorised_client.base_url = base
    check(
        "an invalid key is refused",
        unauthorised_client.create_chat_message({}, "x", "u").status_code == 401,
    )


main()
print(json.dumps(results))
