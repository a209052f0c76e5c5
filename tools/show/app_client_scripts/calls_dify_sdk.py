"""Checks of the service API client; runs in an environment with only dify-sdk
installed, on Python 3.12.

The argument is a JSON object with the server's address and keys. Prints the checks as
one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

from dify import AdminClient, Dify
from dify.app.conversation.schemas import (
    ConversationListQueryPayloads,
    ConversationRenamePayloads,
    MessageFeedbackPayloads,
    MessageListQueryPayloads,
)
from dify.app.schemas import ChatPayloads, RunWorkflowPayloads

server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 120 characters."""
    results.append((name, bool(ok), str(detail)[:120]))


# The admin credentials are not used: each call below takes an app's key.
dify = Dify(
    AdminClient(server_info["base"].removesuffix("/v1"), "none", "none", "none")
)
app = dify.app


async def main() -> None:
    """Run all checks."""
    task = await chats()
    await workflows()
    await completions()
    conversation = await conversations()
    await ends(task, conversation)


async def chats() -> str:
    """A blocking and a streamed chat. Returns the task id of the streamed one."""
    answer = await app.chat_block(
        server_info["chat"],
        ChatPayloads(query="Hello", user="u3", response_mode="blocking"),
    )
    check("chat, blocking", answer.answer, answer.answer)
    events = [
        event
        async for event in app.chat(
            server_info["chat"], ChatPayloads(query="Hello", user="u3")
        )
    ]
    # Event types are enum members or strings, depending on the event.
    kinds = [str(getattr(event.event, "value", event.event)) for event in events]
    check(
        "chat, streaming",
        "message" in kinds and kinds[-1] in ("workflow_finished", "message_end"),
        kinds[-2:],
    )
    return events[0].task_id


async def workflows() -> None:
    """A streamed run of a workflow."""
    events = [
        event
        async for event in app.run(
            server_info["workflow"], RunWorkflowPayloads(inputs={"n": 2}, user="u3")
        )
    ]
    kinds = [str(getattr(event.event, "value", event.event)) for event in events]
    check(
        "workflow, streaming",
        kinds[0] == "workflow_started" and kinds[-1] == "workflow_finished",
        kinds[-1],
    )


async def completions() -> None:
    """A blocking and a streamed completion."""
    completion = await app.completion_block(
        server_info["completion"],
        RunWorkflowPayloads(
            inputs={"query": "Go"}, user="u3", response_mode="blocking"
        ),
    )
    check("completion, blocking", completion.answer, completion.answer)
    events = [
        event
        async for event in app.completion(
            server_info["completion"],
            RunWorkflowPayloads(inputs={"query": "Go"}, user="u3"),
        )
    ]
    check("completion, streaming", len(events) > 1, len(events))


async def conversations() -> str:
    """Read parameters, conversations and messages; rename and rate. Returns the id of
    the first conversation."""
    parameters = await app.get_parameters(server_info["chat"])
    check("parameters", parameters is not None)
    listed = await app.conversation.find_list(
        server_info["chat"], ConversationListQueryPayloads(user="u3")
    )
    check("conversations", len(listed.data) == 2, len(listed.data))
    first = listed.data[0].id
    messages = await app.conversation.get_messages(
        server_info["chat"], MessageListQueryPayloads(conversation_id=first, user="u3")
    )
    check("messages", messages.data and messages.data[0].query == "Hello")
    renamed = await app.conversation.rename(
        server_info["chat"], first, ConversationRenamePayloads(name="Mine", user="u3")
    )
    check("rename", renamed.name == "Mine")
    feedback = await app.conversation.submit_feedback(
        server_info["chat"],
        messages.data[0].id,
        MessageFeedbackPayloads(rating="like", user="u3", content="good"),
    )
    check("feedback", feedback.result == "success")
    return first


async def ends(task: str, conversation: str) -> None:
    """Stop a task and delete a conversation."""
    # Stopping a task that has already ended must succeed too.
    stopped = await app.stop_message(server_info["chat"], task, "u3")
    check("stop", stopped.result == "success")
    deletion = await app.conversation.delete(server_info["chat"], conversation, "u3")
    left = await app.conversation.find_list(
        server_info["chat"], ConversationListQueryPayloads(user="u3")
    )
    check(
        "delete",
        [remaining.id for remaining in left.data] != [conversation]
        and len(left.data) == 1,
        deletion,
    )


asyncio.run(main())
print(json.dumps(results))
