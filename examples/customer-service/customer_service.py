"""A shop's customer service: workflow, knowledge, agent and model runtime together.

    python examples/customer-service/customer_service.py "Where is my order 1042?" --order 1042

Runs without a server and without a key, on the local models.
"""

import argparse
import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelyard import Modelyard, tool
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.events import NodeRunAgentThought, NodeRunRetrieverResource

HERE = Path(__file__).parent
ORDERS = {
    "1042": {"item": "desk lamp Lumo", "status": "on its way", "arrives": "Friday"},
    "1077": {
        "item": "floor lamp Alto",
        "status": "delivered",
        "arrives": "last Monday",
    },
}


@tool(is_repeatable=True)
def order_lookup(order_id: str) -> dict[str, str]:
    """Where an order is and what was ordered.

    order_id: the number of the order
    """
    return ORDERS.get(order_id) or {"error": f"there is no order {order_id}"}


@tool
def refund_process(order_id: str, reason: str = "") -> str:
    """Begin to pay an order back.

    order_id: the number of the order
    """
    if order_id not in ORDERS:
        return f"There is no order {order_id}."
    return f"Refund of order {order_id} has begun: the money is back within seven working days."


@tool
def technical_support(problem: str) -> str:
    """Open a ticket for something that is broken.

    problem: what is wrong, in the customer's words
    """
    return f"Ticket T-{sum(problem.encode()) % 9000 + 1000} is open; a technician writes within a day."  # noqa: E501


@dataclass
class Answer:
    text: str
    workflow: str
    sources: list[str] = field(default_factory=list[str])
    actions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    usage: dict[str, Any] = field(default_factory=dict[str, Any])


async def prepare(yard: Modelyard) -> None:
    """The tools, the two datasets from their folders, the app. Again, it brings them up to date."""
    for one in (order_lookup, refund_process, technical_support):
        yard.tools.functions.add(one)
    datasets = yard.knowledge.datasets
    for name in ("customer_faq", "product_manual"):
        dataset = await datasets.store.datasets.find_by_name(
            "default", name
        ) or await datasets.create("default", name)
        await datasets.sync_folder(dataset, HERE / name, batch=f"{name}-files")
        await datasets.wait(dataset, f"{name}-files")
    await yard.apps.add(
        "default",
        (HERE / "app.yml").read_text("utf-8"),
        mapping=AppMapping(models={"*": "default"}),
    )


async def handle_customer_query(
    yard: Modelyard, query: str, order_id: str = "", user: str = "customer"
) -> Answer:
    """The answer to a customer, with the workflow's name, its sources, what was done, and what it took."""  # noqa: E501
    found = yard.apps.get_by_id_or_name("default", "customer service")
    run, _ = await yard.services.workflows.chats.send(
        found,
        await yard.apps.published_app(found),
        query=query,
        inputs={"order_id": order_id},
        user=user,
    )
    ended = await yard.runs.wait_until_ended("default", run.id)
    answer = Answer(
        text=str(ended.outputs.get("answer") or ended.error), workflow=found.name
    )
    answer.usage = {
        "tokens": ended.total_tokens,
        "price": ended.total_price,
        "seconds": round(ended.elapsed, 2),
    }
    for _, event in await yard.runs.journal.events(run.id, 0, 100_000):
        if isinstance(event, NodeRunRetrieverResource):
            answer.sources += [
                f"{one['dataset_name']}/{one['document_name']}"
                for one in event.retriever_resources
            ]
        elif isinstance(event, NodeRunAgentThought) and event.observation:
            answer.actions.append(
                {
                    "tool": event.tool,
                    "input": event.tool_input,
                    "observation": event.observation,
                }
            )
    answer.sources = list(dict.fromkeys(answer.sources))
    return answer


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query")
    parser.add_argument("--order", default="")
    given = parser.parse_args()
    async with Modelyard() as yard:
        await prepare(yard)
        print(
            json.dumps(
                asdict(await handle_customer_query(yard, given.query, given.order)),
                indent=2,
                ensure_ascii=False,
            )
        )


if __name__ == "__main__":
    asyncio.run(main())
