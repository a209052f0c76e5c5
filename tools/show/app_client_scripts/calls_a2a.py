"""Checks of the A2A client; runs in an environment with only a2a-sdk installed.

The argument is a JSON object with the server's address, keys and app ids. Prints the
checks as one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as shapes

server_info = json.loads(sys.argv[1])
results: list[tuple[str, bool, str]] = []


def check(name: str, ok: Any, detail: Any = "") -> None:
    """Record a check; the detail is cut to 160 characters."""
    results.append((name, bool(ok), str(detail)[:160].replace("\n", " ")))


def message(
    text: str = "", *, context: str = "", task: str = "", data: Any = None
) -> Any:
    """Return a request with a text or a data part, in a new task or in an existing
    context or task."""
    # Message ids have to be unique; the number of recorded checks grows between
    # requests.
    outgoing = shapes.Message(
        message_id=f"m{len(results)}",
        role=shapes.ROLE_USER,
        context_id=context,
        task_id=task,
    )
    if text:
        outgoing.parts.add(text=text)
    if data is not None:
        outgoing.parts.add().data.struct_value.update(data)
    return shapes.SendMessageRequest(message=outgoing)


async def client_of(app: str, *, streaming: bool) -> tuple[Any, Any]:
    """Return the agent card and a client of the app."""
    http = httpx.AsyncClient(
        headers={"authorization": f"Bearer {server_info[app]}"}, timeout=60
    )
    card = await A2ACardResolver(
        http, f"{server_info['origin']}/a2a/{server_info[f'{app}.id']}"
    ).get_agent_card()
    return card, ClientFactory(
        ClientConfig(httpx_client=http, streaming=streaming)
    ).create(card)


async def main() -> None:
    """Run all checks."""
    _, client = await client_of("chat", streaming=True)
    task, text = await streamed_answers()
    await later_requests(client, task, text)
    await complete_answers()
    await workflow_inputs()
    await cancellation()
    await pauses()
    await subscriptions(client, task)
    await unknown_tasks(client)


async def streamed_answers() -> tuple[Any, str]:
    """A streamed answer is a task, its text in artifact updates, and a final status.
    Returns the task and the text."""
    card, client = await client_of("chat", streaming=True)
    check(
        "the agent card",
        card.name == "chat" and card.capabilities.streaming,
        card.supported_interfaces[0].url,
    )
    events = [event async for event in client.send_message(message("hello"))]
    kinds = [event.WhichOneof("payload") for event in events]
    check("a stream starts with its task", kinds[0] == "task", kinds)
    text = "".join(
        event.artifact_update.artifact.parts[0].text
        for event in events
        if event.HasField("artifact_update")
    )
    check("its text", text == "Answer to: hello", text)
    last = events[-1].status_update
    check(
        "its final status",
        last.status.state == shapes.TASK_STATE_COMPLETED,
        last.status.state,
    )
    return events[0].task, text


async def later_requests(client: Any, task: Any, text: str) -> None:
    """After its end, a task can be fetched and listed, and its context continued."""
    # A second message in the same context continues the conversation.
    context = task.context_id
    followup_events = [
        event
        async for event in client.send_message(message("and now", context=context))
    ]
    check(
        "a second message of the same context",
        followup_events[0].task.context_id == context,
        context,
    )
    fetched_task = await client.get_task(shapes.GetTaskRequest(id=task.id))
    check(
        "the task afterwards",
        fetched_task.artifacts[0].parts[0].text == text,
        fetched_task.status.state,
    )
    task_list = await client.list_tasks(shapes.ListTasksRequest(page_size=1))
    check(
        "tasks listed",
        len(task_list.tasks) == 1 and task_list.total_size >= 2,
        task_list.total_size,
    )


async def complete_answers() -> None:
    """Without streaming the answer is a single, complete task."""
    _, blocking_client = await client_of("chat", streaming=False)
    answers = [
        event async for event in blocking_client.send_message(message("all at once"))
    ]
    check(
        "a complete answer",
        answers[-1].task.artifacts[0].parts[0].text == "Answer to: all at once",
        len(answers),
    )


async def workflow_inputs() -> None:
    """Workflows take their inputs as a data part."""
    _, flow = await client_of("workflow", streaming=True)
    events = [event async for event in flow.send_message(message(data={"n": 3}))]
    updates = [event for event in events if event.HasField("artifact_update")]
    parts = [update.artifact_update.artifact.parts[0] for update in updates]
    check("a workflow with data", "".join(part.text for part in parts) == "3:[]", parts)


async def cancellation() -> None:
    """A task can be cancelled while its answer is being streamed."""
    _, slow = await client_of("slow", streaming=True)
    stream = slow.send_message(message("a long story"))
    first = await anext(stream)
    stopped = await slow.cancel_task(shapes.CancelTaskRequest(id=first.task.id))
    check(
        "a task cancelled",
        stopped.status.state == shapes.TASK_STATE_CANCELED,
        stopped.status.state,
    )
    await stream.aclose()


async def pauses() -> None:
    """A form pauses the task until the client sends the inputs and the chosen action."""
    _, form_client = await client_of("form", streaming=True)
    paused_events = [
        event async for event in form_client.send_message(message("begin"))
    ]
    status = paused_events[-1].status_update.status
    check(
        "a paused task",
        status.state == shapes.TASK_STATE_INPUT_REQUIRED,
        status.message.parts[0].text,
    )
    task = paused_events[0].task.id
    resumed_events = [
        event
        async for event in form_client.send_message(
            message(task=task, data={"action": "yes", "inputs": {"note": "ok"}})
        )
    ]
    check(
        "continues after the inputs",
        resumed_events[-1].status_update.status.state == shapes.TASK_STATE_COMPLETED,
        len(resumed_events),
    )


async def subscriptions(client: Any, task: Any) -> None:
    """Subscribing to a finished task returns its final state."""
    later = [
        event
        async for event in client.subscribe(shapes.SubscribeToTaskRequest(id=task.id))
    ]
    check(
        "a finished task, subscribed", later[-1].HasField("status_update"), len(later)
    )


async def unknown_tasks(client: Any) -> None:
    """A request for an unknown task names it in the error."""
    try:
        await client.get_task(shapes.GetTaskRequest(id="nothing"))
        check("an unknown task", ok=False)
    except Exception as error:
        check("an unknown task", "nothing" in str(error), error)


asyncio.run(main())
print(json.dumps(results))
