"""Runs within an environment that holds a2a-sdk alone."""

import asyncio
import json
import sys
from typing import Any


async def main() -> None:
    import httpx
    from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
    from a2a.types import a2a_pb2 as shapes

    told = json.loads(sys.argv[1])
    seen: list[tuple[str, bool, str]] = []

    def check(name: str, ok: Any, what: Any = "") -> None:
        seen.append((name, bool(ok), str(what)[:160].replace("\n", " ")))

    def message(text: str = "", *, context: str = "", task: str = "", data: Any = None) -> Any:
        one = shapes.Message(message_id=f"m{len(seen)}", role=shapes.ROLE_USER, context_id=context, task_id=task)
        if text:
            one.parts.add(text=text)
        if data is not None:
            one.parts.add().data.struct_value.update(data)
        return shapes.SendMessageRequest(message=one)

    async def client_of(app: str, *, streaming: bool) -> tuple[Any, Any]:
        http = httpx.AsyncClient(headers={"authorization": f"Bearer {told[app]}"}, timeout=60)
        card = await A2ACardResolver(http, f"{told['origin']}/a2a/{told[f'{app}.id']}").get_agent_card()
        return card, ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card)

    card, client = await client_of("chat", streaming=True)
    check("the card", card.name == "chat" and card.capabilities.streaming, card.supported_interfaces[0].url)
    pieces = [one async for one in client.send_message(message("hello"))]
    kinds = [one.WhichOneof("payload") for one in pieces]
    check("a stream begins with its task", kinds[0] == "task", kinds)
    text = "".join(one.artifact_update.artifact.parts[0].text for one in pieces if one.HasField("artifact_update"))
    check("its text", text == "Answer to: hello", text)
    last = pieces[-1].status_update
    check("its end", last.status.state == shapes.TASK_STATE_COMPLETED, last.status.state)
    context = pieces[0].task.context_id
    again = [one async for one in client.send_message(message("and now", context=context))]
    check("a second message of the same context", again[0].task.context_id == context, context)
    got = await client.get_task(shapes.GetTaskRequest(id=pieces[0].task.id))
    check("the task afterwards", got.artifacts[0].parts[0].text == text, got.status.state)
    every = await client.list_tasks(shapes.ListTasksRequest(page_size=1))
    check("tasks listed", len(every.tasks) == 1 and every.total_size >= 2, every.total_size)
    _, whole = await client_of("chat", streaming=False)
    answers = [one async for one in whole.send_message(message("all at once"))]
    check("a whole answer", answers[-1].task.artifacts[0].parts[0].text == "Answer to: all at once", len(answers))
    _, flow = await client_of("workflow", streaming=True)
    ran = [one async for one in flow.send_message(message(data={"n": 3}))]
    parts = [one.artifact_update.artifact.parts[0] for one in ran if one.HasField("artifact_update")]
    check("a workflow with data", "".join(one.text for one in parts) == "3:[]", parts)
    _, slow = await client_of("slow", streaming=True)
    stream = slow.send_message(message("a long story"))
    first = await anext(stream)
    stopped = await slow.cancel_task(shapes.CancelTaskRequest(id=first.task.id))
    check("a task cancelled", stopped.status.state == shapes.TASK_STATE_CANCELED, stopped.status.state)
    await stream.aclose()
    _, form = await client_of("form", streaming=True)
    asked = [one async for one in form.send_message(message("begin"))]
    wants = asked[-1].status_update.status
    check("a task that waits", wants.state == shapes.TASK_STATE_INPUT_REQUIRED, wants.message.parts[0].text)
    task = asked[0].task.id
    done = [
        one async for one in form.send_message(message(task=task, data={"action": "yes", "inputs": {"note": "ok"}}))
    ]
    check("goes on once it was told", done[-1].status_update.status.state == shapes.TASK_STATE_COMPLETED, len(done))
    later = [one async for one in client.subscribe(shapes.SubscribeToTaskRequest(id=pieces[0].task.id))]
    check("a task watched again", later[-1].HasField("status_update"), len(later))
    try:
        await client.get_task(shapes.GetTaskRequest(id="nothing"))
        check("a task that there is not", ok=False)
    except Exception as error:
        check("a task that there is not", "nothing" in str(error), error)
    print(json.dumps(seen))


asyncio.run(main())
