"""Checks of the A2A client; runs in an environment with only a2a-sdk installed.

The argument is a JSON object with the server's address, keys and app ids. Prints the
checks as one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any


async def main() -> None:
    """Run all checks and print [[name, ok, detail], ...]."""
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

    # A streamed answer: the task, its text in artifact updates, and a final status.
    card, client = await client_of("chat", streaming=True)
    check(
        "the card",
        card.name == "chat" and card.capabilities.streaming,
        card.supported_interfaces[0].url,
    )
    events = [event async for event in client.send_message(message("hello"))]
    kinds = [event.WhichOneof("payload") for event in events]
    check("a stream begins with its task", kinds[0] == "task", kinds)
    text = "".join(
        event.artifact_update.artifact.parts[0].text
        for event in events
        if event.HasField("artifact_update")
    )
    check("its text", text == "Answer to: hello", text)
    last = events[-1].status_update
    check(
        "its end", last.status.state == shapes.TASK_STATE_COMPLETED, last.status.state
    )
    # A second message in the same context continues the conversation.
    context = events[0].task.context_id
    followup_events = [
        event
        async for event in client.send_message(message("and now", context=context))
    ]
    check(
        "a second message of the same context",
        followup_events[0].task.context_id == context,
        context,
    )
    fetched_task = await client.get_task(shapes.GetTaskRequest(id=events[0].task.id))
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
    # Without streaming the answer is a single, complete task.
    _, blocking_client = await client_of("chat", streaming=False)
    answers = [
        event async for event in blocking_client.send_message(message("all at once"))
    ]
    check(
        "a whole answer",
        answers[-1].task.artifacts[0].parts[0].text == "Answer to: all at once",
        len(answers),
    )
    # Workflows take their inputs as a data part.
    _, flow = await client_of("workflow", streaming=True)
    ran = [event async for event in flow.send_message(message(data={"n": 3}))]
    parts = [
        event.artifact_update.artifact.parts[0]
        for event in ran
        if event.HasField("artifact_update")
    ]
    check("a workflow with data", "".join(part.text for part in parts) == "3:[]", parts)
    # Cancel a task while its answer is being streamed.
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
    # A form pauses the task until the client sends the inputs and the chosen action.
    _, form_client = await client_of("form", streaming=True)
    paused_events = [
        event async for event in form_client.send_message(message("begin"))
    ]
    wants = paused_events[-1].status_update.status
    check(
        "a task that waits",
        wants.state == shapes.TASK_STATE_INPUT_REQUIRED,
        wants.message.parts[0].text,
    )
    task = paused_events[0].task.id
    resumed_events = [
        event
        async for event in form_client.send_message(
            message(task=task, data={"action": "yes", "inputs": {"note": "ok"}})
        )
    ]
    check(
        "goes on once it was told",
        resumed_events[-1].status_update.status.state == shapes.TASK_STATE_COMPLETED,
        len(resumed_events),
    )
    # Subscribing to a finished task returns its final state.
    later = [
        event
        async for event in client.subscribe(
            shapes.SubscribeToTaskRequest(id=events[0].task.id)
        )
    ]
    check("a task watched again", later[-1].HasField("status_update"), len(later))
    try:
        await client.get_task(shapes.GetTaskRequest(id="nothing"))
        check("a task that there is not", ok=False)
    except Exception as error:
        check("a task that there is not", "nothing" in str(error), error)
    print(json.dumps(results))


asyncio.run(main())
