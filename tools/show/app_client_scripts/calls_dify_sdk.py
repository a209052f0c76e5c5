"""Runs within an environment that holds dify-sdk alone, on Python 3.12."""

import asyncio
import json
import sys
from typing import Any


async def calls(told: dict[str, str]) -> list[tuple[str, bool, str]]:
    from dify import AdminClient, Dify
    from dify.app.conversation.schemas import (
        ConversationListQueryPayloads,
        ConversationRenamePayloads,
        MessageFeedbackPayloads,
        MessageListQueryPayloads,
    )
    from dify.app.schemas import ChatPayloads, RunWorkflowPayloads

    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:120]))

    dify = Dify(AdminClient(told["base"].removesuffix("/v1"), "none", "none", "none"))
    app = dify.app
    answer = await app.chat_block(told["chat"], ChatPayloads(query="Hello", user="u3", response_mode="blocking"))
    check("chat, blocking", answer.answer, answer.answer)
    events = [one async for one in app.chat(told["chat"], ChatPayloads(query="Hello", user="u3"))]
    kinds = [str(getattr(one.event, "value", one.event)) for one in events]
    task = events[0].task_id
    check("chat, streaming", "message" in kinds and kinds[-1] in ("workflow_finished", "message_end"), kinds[-2:])
    events = [one async for one in app.run(told["workflow"], RunWorkflowPayloads(inputs={"n": 2}, user="u3"))]
    kinds = [str(getattr(one.event, "value", one.event)) for one in events]
    check("workflow, streaming", kinds[0] == "workflow_started" and kinds[-1] == "workflow_finished", kinds[-1])
    said = await app.completion_block(
        told["completion"], RunWorkflowPayloads(inputs={"query": "Go"}, user="u3", response_mode="blocking")
    )
    check("completion, blocking", said.answer, said.answer)
    events = [
        one async for one in app.completion(told["completion"], RunWorkflowPayloads(inputs={"query": "Go"}, user="u3"))
    ]
    check("completion, streaming", len(events) > 1, len(events))
    parameters = await app.get_parameters(told["chat"])
    check("parameters", parameters is not None)
    listed = await app.conversation.find_list(told["chat"], ConversationListQueryPayloads(user="u3"))
    check("conversations", len(listed.data) == 2, len(listed.data))
    first = listed.data[0].id
    found = await app.conversation.get_messages(
        told["chat"], MessageListQueryPayloads(conversation_id=first, user="u3")
    )
    check("messages", found.data and found.data[0].query == "Hello")
    renamed = await app.conversation.rename(told["chat"], first, ConversationRenamePayloads(name="Mine", user="u3"))
    check("rename", renamed.name == "Mine")
    done = await app.conversation.submit_feedback(
        told["chat"], found.data[0].id, MessageFeedbackPayloads(rating="like", user="u3", content="good")
    )
    check("feedback", done.result == "success")
    stopped = await app.stop_message(told["chat"], task, "u3")
    check("stop", stopped.result == "success")
    gone = await app.conversation.delete(told["chat"], first, "u3")
    left = await app.conversation.find_list(told["chat"], ConversationListQueryPayloads(user="u3"))
    check("delete", [one.id for one in left.data] != [first] and len(left.data) == 1, gone)
    return seen


print(json.dumps(asyncio.run(calls(json.loads(sys.argv[1])))))
