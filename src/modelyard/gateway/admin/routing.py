"""/admin/v1/plan, /resting and /cache: where a call would go now, what rests, and answers that are given again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.fields import may, need, wrong
from modelyard.gateway.admin.requests import longest_rest, model_type, tenant_of
from modelyard.gateway.admin.shapes import (
    AppliedLimit,
    CacheCleared,
    Planned,
    PlannedDeployment,
    PlannedGroup,
)
from modelyard.gateway.admin.shapes import Resting as RestingShown
from modelyard.gateway.http import Reply, Request, json_reply
from modelyard.runtime.invocation import Invocation
from modelyard.runtime.limits import Applied, Estimate, Subject, charge
from modelyard.runtime.load_balancing import Deployment, Health, LBModelManager
from modelyard.runtime.model_manager import ALIASES, ModelManager
from modelyard.storage.answers import Answers
from modelyard.storage.counters import Counters
from modelyard.tenancy.caller import Caller

_LONGEST_NAME = 500


@dataclass(frozen=True, slots=True)
class Resting:
    """Which of a tenant's deployments and credentials rest, in this process, and how long."""

    health: Health

    async def listed(self, request: Request) -> Reply:
        """Raises NotFoundError for a tenant that is not the caller's."""
        tenant = tenant_of(request)
        mine = {
            place: round(seconds, 1)
            for place, seconds in self.health.resting().items()
            if place.startswith(f"{tenant}/")
        }
        return json_reply(RestingShown(data=mine))


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """Answers that may be given again."""

    answers: Answers

    async def clear(self, request: Request) -> Reply:
        """A tenant's are not given again. Raises NotFoundError for a tenant that is not the caller's."""
        await self.answers.clear(tenant_of(request))
        return json_reply(CacheCleared(cleared=True))


@dataclass(frozen=True, slots=True)
class Plans:
    """Where a call to `model` would go now, by `user` and `key` where they matter. Calls nothing."""

    models: ModelManager
    clock: Clock
    applying: Callable[[Subject], Sequence[Applied]]
    counters: Counters
    cache_seconds: Callable[[str, str], float]
    """(tenant, route) → how long answers may be given again."""

    async def make(self, request: Request) -> Reply:
        """Raises InvokeBadRequestError, NotFoundError."""
        body = await request.json()
        name, tenant = need(body, "model", str), tenant_of(request)
        if len(name) > _LONGEST_NAME:
            raise wrong("model", name, f"at most {_LONGEST_NAME} characters")
        kind = ALIASES.get(name) or model_type(may(body, "type", str) or "llm")
        found = self.models.find(Caller(tenant=tenant), name, kind)
        user, key = may(body, "user", str) or "", may(body, "key", str) or ""
        invocation = Invocation(
            tenant=tenant, provider=found.provider, model=found.model, model_type=kind, request=None, route=found.route
        )
        plan = self.models.providers.plan(invocation)
        first = "route" if found.route else "model"
        groups = [self._group(first if place == 0 else "failover", one) for place, one in enumerate(plan.groups)]
        subject, now = Subject(tenant, key, user, found.name), self.clock.time()
        applied = self.applying(subject)
        names = [charge(one, subject, Estimate(0, 0), now).name for one in applied]
        levels = await self.counters.levels(names)
        return json_reply(
            Planned(
                asked_for=name, model=found.name, type=kind, route=found.route, groups=groups,
                limits=[
                    AppliedLimit(
                        name=one.name, unit=one.limit.unit, amount=one.limit.amount, window=one.limit.window,
                        used=_used(levels.get(counter), one.limit.unit),
                    )
                    for one, counter in zip(applied, names, strict=True)
                ],
                cache_seconds=self.cache_seconds(tenant, found.route),
            )
        )  # fmt: skip

    def _group(self, why: Any, manager: LBModelManager) -> PlannedGroup:
        health = manager.health
        shares = _shares(manager)
        return PlannedGroup(
            why=why, strategy=manager.strategy,
            deployments=[
                PlannedDeployment(
                    model=f"{one.provider}/{one.model}", credential=one.credential.name if one.credential else "",
                    weight=one.weight, priority=one.priority, resting_seconds=longest_rest([health.wait(one)]),
                    in_flight=health.in_flight(one), latency=health.latency(one), share=shares.get(one.id, 0.0),
                )
                for one in manager.deployments
            ],
        )  # fmt: skip


def _used(level: float | None, unit: str) -> float | None:
    return None if level is None else level / 1e9 if unit == "cost" else level


def _shares(manager: LBModelManager) -> dict[str, float]:
    """What each would get of the calls that come now."""
    free: Sequence[Deployment] = [one for one in manager.deployments if manager.health.wait(one) <= 0]
    if not free:
        return {}
    first = min(one.priority for one in free)
    free = [one for one in free if one.priority == first]
    match manager.strategy:
        case "weighted":
            total = sum(one.weight for one in free) or 1.0
            return {one.id: one.weight / total for one in free}
        case "lowest_cost":
            best = min(one.price for one in free)
            free = [one for one in free if one.price == best]
        case "least_in_flight":
            fewest = min(manager.health.in_flight(one) for one in free)
            free = [one for one in free if manager.health.in_flight(one) == fewest]
        case _:
            pass
    return {one.id: 1 / len(free) for one in free}
