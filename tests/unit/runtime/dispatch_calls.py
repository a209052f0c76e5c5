"""Deployments, scripted calls and their outcomes, for the tests of load balancing and
dispatch."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from modelyard.base.errors import InvokeError
from modelyard.models.llm import LLMRequest
from modelyard.models.messages import UserPromptMessage
from modelyard.models.types import Chunks, ModelType
from modelyard.runtime.call_trace import CallTrace, Decision
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.load_balancing import (
    Credential,
    Deployment,
    DeploymentHealth,
    LBModelManager,
    Plan,
)
from modelyard.runtime.pipeline import Call, compose
from modelyard.runtime.policies.dispatch import Dispatch
from modelyard.runtime.retry_budget import RetryBudget
from modelyard.tenancy.resource_types import Limit
from modelyard.testing import FakeClock, scripted

QUOTAS = (("q", Limit(unit="credits", amount=5, window="total")),)


def new_invocation(**fields: Any) -> Invocation:
    """Return a call of tenant `t` to `p/big` with a trace of its own."""
    invocation = Invocation(
        tenant="t",
        provider="p",
        model="big",
        model_type=ModelType.LLM,
        request=LLMRequest(messages=[UserPromptMessage(content="hello")]),
        record=CallTrace(),
    )
    return replace(invocation, **fields)


def deployment(
    name: str, *, model: str = "big", domain: str = "", owner: str = "", **options: Any
) -> Deployment:
    """Return a deployment `NAME/MODEL` of provider `p` with a credential `NAME`."""
    credential = Credential(name, name, {"api_key": name}, domain=domain, owner=owner)
    return Deployment(f"{name}/{model}", "p", model, credential, **options)


def hosted_deployment(name: str) -> Deployment:
    """Return a deployment whose credential has quotas."""
    credential = Credential(name, name, {"api_key": name}, quotas=QUOTAS)
    return Deployment(f"{name}/big", "p", "big", credential)


def group(
    health: DeploymentHealth, *names: str, model: str = "big", **options: Any
) -> LBModelManager:
    """Return a manager of one deployment for each name."""
    return LBModelManager(
        [deployment(name, model=model) for name in names], health, **options
    )


def dispatch(
    clock: FakeClock,
    *groups: LBModelManager,
    budget: RetryBudget | None = None,
    retries: int = 2,
    quotas: Any = None,
    random_fraction: float = 1.0,
    **plan: Any,
) -> Dispatch:
    """Return the policy for a plan of these groups. Pauses have their full length unless
    `random_fraction` is smaller."""
    fixed_plan = Plan(groups, **plan)
    return Dispatch(
        lambda invocation: fixed_plan,
        clock,
        budget or RetryBudget(clock),
        retries,
        quotas,
        lambda: random_fraction,
    )


class RecordedCalls:
    """The end of a pipeline that plays a script and records its invocations."""

    def __init__(
        self, script: Mapping[str, Sequence[Any]], *, by: str = "credential"
    ) -> None:
        self._call, self.names = scripted(script, by=by)
        self.invocations: list[Invocation] = []

    def __call__(self, invocation: Invocation) -> Chunks:
        self.invocations.append(invocation)
        return self._call(invocation)


@dataclass
class Outcome:
    """The chunks that a caller received, the error at their end, and the trace."""

    chunks: list[Any] = field(default_factory=list[Any])
    error: InvokeError | None = None
    trace: CallTrace = field(default_factory=CallTrace)

    @property
    def decisions(self) -> list[Decision]:
        """The decisions, in order."""
        return self.trace.notes

    @property
    def texts(self) -> list[str]:
        """The texts of the chunks."""
        return [chunk.text for chunk in self.chunks]

    @property
    def actions(self) -> list[str]:
        """The kinds of the decisions, in order."""
        return [decision.action for decision in self.decisions]

    def details(self, action: str) -> list[dict[str, Any]]:
        """The details of the decisions of one kind."""
        return [
            decision.details for decision in self.decisions if decision.action == action
        ]


async def collect(
    policy: Dispatch, call: Call, invocation: Invocation | None = None
) -> Outcome:
    """Make a call through the policy and return what came of it."""
    invocation = invocation or new_invocation()
    outcome = Outcome(trace=invocation.record)
    try:
        async with aclosing(compose([policy], call)(invocation)) as chunks:
            async for chunk in chunks:
                outcome.chunks.append(chunk)
    except InvokeError as error:
        outcome.error = error
    return outcome


def run_call(
    policy: Dispatch, call: Call, invocation: Invocation | None = None
) -> Outcome:
    """Make a call through the policy in an event loop of its own."""
    return asyncio.run(collect(policy, call, invocation))
