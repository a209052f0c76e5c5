"""Which deployment (a model with one set of secrets) serves the next call, and which ones rest.

The choice is a pure function of what is known; what is known is kept here, for this process. A rest ends with one real
call as its probe: nobody pays for pings.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)
from modelyard.tenancy.kinds import Limit, Strategy

_LONGEST_REST = 25.0
"""So long a credential that keeps failing rests at most: that it works again is noticed by then."""
_LONGEST_LIMITED = 300.0
_FAILURES = 3
"""So many in a row of the provider's own failures, and the deployment rests."""
_EWMA = 0.2
_SLOW = 5.0
_SLOW_SAMPLES = 20
_LOOK_EVERY = 8
"""After so many answers it is looked whether one is much slower than the others."""
_PERCENTILE_SAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """One set of secrets. `repr` leaves the secrets out."""

    id: str
    name: str
    values: Mapping[str, Any] = field(repr=False, default_factory=dict[str, Any])
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    """Credentials that share a quota at the provider rest together."""
    quotas: tuple[tuple[str, Limit], ...] = ()
    """For a hosted credential: what each tenant may use of it, (id, limit) each."""
    owner: str = ""
    """The tenant whose row it is: the domain is a word among its own credentials. Empty for the settings'."""


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A model with one set of secrets."""

    id: str
    provider: str
    model: str
    credential: Credential | None
    weight: float = 1.0
    priority: int = 0
    price: float = 0.0
    """For comparing: what a thousand tokens in and out cost; unknown counts as dear."""
    name: str = field(init=False)
    places: tuple[str, ...] = field(init=False)
    """What may rest on its account: itself, its credential, the quota that it shares."""

    def __post_init__(self) -> None:
        credential = self.credential
        name = f"{self.provider}/{self.model}" + (f" with {credential.name}" if credential else "")
        object.__setattr__(self, "name", name)
        places = (self.id,) if credential is None else (self.id, credential.id)
        if credential is not None and credential.domain:
            places = (*places, f"quota of {credential.owner}/{credential.domain}")
        object.__setattr__(self, "places", places)


@dataclass(slots=True)
class _Rest:
    until: float
    failures: int
    is_soft: bool
    """Whether it is for failures of the provider's own, of which never more than half of a group rests."""
    is_probing: bool = False


class Health:
    """What this process has seen of deployments."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rests: dict[str, _Rest] = {}
        self._failures: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._latency: dict[str, float] = {}
        self._samples: dict[str, int] = {}

    # what is known

    def wait(self, deployment: Deployment) -> float:
        """Seconds until it may be tried; 0 for at once, infinity while its probe is under way."""
        rests = self._rests
        if not rests:
            return 0.0
        now, longest = self._clock.monotonic(), 0.0
        for place in deployment.places:
            if (rest := rests.get(place)) is not None:
                longest = max(longest, rest.until - now, float("inf") if rest.is_probing else 0.0)
        return longest

    @property
    def is_anything_resting(self) -> bool:
        return bool(self._rests)

    def in_flight(self, deployment: Deployment) -> int:
        return self._in_flight.get(deployment.id, 0)

    def latency(self, deployment: Deployment) -> float:
        """Seconds to the first chunk, of late; 0 where nobody knows, so that it is found out."""
        return self._latency.get(deployment.id, 0.0)

    def clear(self) -> None:
        """Forget every rest: somebody knows that all is well again."""
        self._rests.clear()
        self._failures.clear()

    def resting(self) -> dict[str, float]:
        """What rests → seconds that it will still."""
        now = self._clock.monotonic()
        return {place: rest.until - now for place, rest in self._rests.items() if rest.until > now}

    # what happens

    def begin(self, deployment: Deployment) -> None:
        self._in_flight[deployment.id] = self._in_flight.get(deployment.id, 0) + 1
        if self._rests:
            for place in deployment.places:
                if (rest := self._rests.get(place)) is not None:
                    rest.is_probing = True

    def end(self, deployment: Deployment) -> None:
        left = self._in_flight[deployment.id] - 1
        if left:
            self._in_flight[deployment.id] = left
        else:
            del self._in_flight[deployment.id]
        if self._rests:
            for place in deployment.places:
                if (rest := self._rests.get(place)) is not None:
                    rest.is_probing = False

    def served(self, deployment: Deployment, seconds: float) -> None:
        """Its first chunk came after so long."""
        known = self._latency.get(deployment.id)
        self._latency[deployment.id] = seconds if known is None else known + _EWMA * (seconds - known)
        self._samples[deployment.id] = self._samples.get(deployment.id, 0) + 1
        if self._failures or self._rests:
            now = self._clock.monotonic()
            for place in deployment.places:
                self._failures.pop(place, None)
                # An answer to a call from before the rest began is no reason to end it.
                if (rest := self._rests.get(place)) is not None and rest.until <= now:
                    del self._rests[place]

    def rest(self, place: str, seconds: float, *, is_soft: bool = False, failures: int = 1) -> None:
        """Rest for `seconds`; a longer rest that is already running stays."""
        until = self._clock.monotonic() + seconds
        before = self._rests.get(place)
        if before is not None and before.until > until:
            return
        self._rests[place] = _Rest(until, failures, is_soft)

    def failed(self, deployment: Deployment, error: InvokeError, group: Sequence[Deployment]) -> float:
        """Let rest what is to blame. Seconds, 0 where nothing is or nothing may."""
        own, *above = deployment.places
        credential = above[0] if above else own
        if isinstance(error, InvokeRateLimitError) and error.cooldown:
            # Providers limit each model for itself, unless several credentials were said to share a quota.
            is_shared = deployment.credential is not None and bool(deployment.credential.domain)
            return self._limited(above[-1] if is_shared else own, error, group)
        if isinstance(error, InvokeAuthorizationError | InvokeConnectionError):
            place = credential if isinstance(error, InvokeAuthorizationError) else own
            return self._grown(place, error.rest or error.cooldown, error.retry_after, group)
        if not isinstance(error, InvokeServerUnavailableError):
            return 0.0
        failures = self._failures[own] = self._failures.get(own, 0) + 1
        if failures < _FAILURES and error.retry_after is None:
            return 0.0
        return self._soft(deployment, error.retry_after or 10.0, group)

    def _limited(self, place: str, error: InvokeError, group: Sequence[Deployment]) -> float:
        before = self._rests.get(place)
        failures = before.failures + 1 if before else 1
        asked = error.retry_after
        if asked is None:
            if len(group) <= 1:
                return 0.0  # a rest that nobody asked for would only hide the real error
            asked = min(_LONGEST_LIMITED, error.cooldown * 2 ** (failures - 1))
        self.rest(place, asked, failures=failures)
        return asked

    def _grown(self, place: str, base: float, asked: float | None, group: Sequence[Deployment]) -> float:
        if len(group) <= 1 and asked is None:
            return 0.0
        before = self._rests.get(place)
        failures = before.failures + 1 if before else 1
        seconds = asked if asked is not None else min(_LONGEST_REST, base * 2 ** (failures - 1))
        self.rest(place, seconds, failures=failures)
        return seconds

    def _soft(self, deployment: Deployment, base: float, group: Sequence[Deployment]) -> float:
        """For failures of the provider's own: all of a group may have them, and somebody must be asked."""
        others = sum(1 for one in group if one is not deployment and self._is_soft(one))
        before = self._rests.get(deployment.id)
        if before is None and (others + 1) * 2 > len(group):
            return 0.0
        failures = before.failures + 1 if before else 1
        seconds = min(_LONGEST_REST, base * 2 ** (failures - 1))
        self.rest(deployment.id, seconds, is_soft=True, failures=failures)
        return seconds

    def _is_soft(self, deployment: Deployment) -> bool:
        rest = self._rests.get(deployment.id)
        return rest is not None and rest.is_soft and rest.until > self._clock.monotonic()

    def watch_latency(self, deployment: Deployment, group: Sequence[Deployment]) -> float:
        """Let one rest that takes many times as long as the others; seconds."""
        if self._samples.get(deployment.id, 0) < _SLOW_SAMPLES or len(group) < 3:
            return 0.0
        others = sorted(self.latency(one) for one in group if one is not deployment and self.latency(one))
        if not others or self.latency(deployment) < _SLOW * others[len(others) // 2] or self._is_soft(deployment):
            return 0.0
        self._samples[deployment.id] = 0
        self._latency.pop(deployment.id, None)
        return self._soft(deployment, 10.0, group)


# ------------------------------------------------------------------------------------------------ strategies


def pick(deployments: Sequence[Deployment], turn: int) -> Deployment:
    """Round the circle."""
    return deployments[turn % len(deployments)]


def weighted(deployments: Sequence[Deployment], share: float) -> Deployment:
    """`share`, from 0 to 1, of all the weight."""
    left = share * sum(max(0.0, one.weight) for one in deployments)
    for one in deployments:
        left -= max(0.0, one.weight)
        if left < 0:
            return one
    return deployments[-1]


def stuck(deployments: Sequence[Deployment], key: str) -> Deployment:
    """The same for the same key, while it is there; with another gone or come, most keys stay where they are."""
    return max(deployments, key=lambda one: hashlib.blake2b(f"{key}\0{one.id}".encode(), digest_size=8).digest())


class LBModelManager:
    """The deployments that may serve a call to one model or route, and which is next."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        health: Health,
        *,
        strategy: Strategy = "round_robin",
        patience: float = 2.0,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.deployments = deployments
        self.health = health
        self.strategy: Strategy = strategy
        self.patience = patience
        """Seconds to wait for one to be rested rather than to refuse the call."""
        self._rng = rng
        self._turn = 0
        self._first = min((one.priority for one in deployments), default=0)
        self._has_priorities = any(one.priority != self._first for one in deployments)
        self._times: deque[float] = deque(maxlen=_PERCENTILE_SAMPLES)

    def fetch_next(self, *, without: Collection[str] = (), sticky: str = "") -> Deployment | None:
        """The next that neither rests nor is in `without`; None where all do."""
        health = self.health
        if without or health.is_anything_resting:
            free = [one for one in self.deployments if one.id not in without and not health.wait(one) > 0]
        else:
            free = self.deployments
        if not free:
            return None
        if self._has_priorities:
            first = min(one.priority for one in free)
            free = [one for one in free if one.priority == first]
        if len(free) == 1:
            return free[0]
        return stuck(free, sticky) if sticky else self._chosen(free)

    def _chosen(self, free: Sequence[Deployment]) -> Deployment:
        self._turn += 1
        match self.strategy:
            case "round_robin":
                return pick(free, self._turn - 1) if len(free) == len(self.deployments) else self._next_of(free)
            case "weighted":
                return weighted(free, self._rng())
            case "random":
                return free[int(self._rng() * len(free))]
            case "least_in_flight":
                return min(self._around(free), key=self.health.in_flight)
            case "lowest_cost":
                return min(self._around(free), key=lambda one: one.price)
            case "lowest_latency":
                # The better of two picked at random: the best of all would be overrun.
                one, other = (free[int(self._rng() * len(free))] for _ in range(2))
                return min(one, other, key=self._slowness)

    def _slowness(self, deployment: Deployment) -> float:
        return self.health.latency(deployment) * (1 + self.health.in_flight(deployment))

    def _around(self, free: Sequence[Deployment]) -> Sequence[Deployment]:
        """From the next one on, so that equals take turns."""
        start = self._turn % len(free)
        return [*free[start:], *free[:start]]

    def _next_of(self, free: Sequence[Deployment]) -> Deployment:
        """The next that is free, round the whole circle: a rest must not shift the turns of the others."""
        size = len(self.deployments)
        here = {one.id for one in free}
        for step in range(size):
            one = self.deployments[(self._turn - 1 + step) % size]
            if one.id in here:
                self._turn += step
                return one
        return free[0]

    def cooldown(self, deployment: Deployment, error: InvokeError) -> float:
        """Let what is to blame for an error rest. Seconds."""
        return self.health.failed(deployment, error, self.deployments)

    def soonest(self) -> float:
        """Seconds until one of them is rested; infinity where each is being tried."""
        return min((self.health.wait(one) for one in self.deployments), default=0.0)

    def skipped(self) -> dict[str, float]:
        """Those that rest → seconds."""
        waits = ((one.name, self.health.wait(one)) for one in self.deployments)
        return {name: round(min(wait, 1e6), 3) for name, wait in waits if wait > 0}

    def served(self, deployment: Deployment, seconds: float) -> None:
        """Its first chunk came after so long."""
        self.health.served(deployment, seconds)
        self._times.append(seconds)
        if len(self.deployments) > 2 and self._turn % _LOOK_EVERY == 0:
            self.health.watch_latency(deployment, self.deployments)

    def percentile(self, share: float) -> float | None:
        """Seconds within which so many of the last calls had their first chunk; None while too few are known."""
        if len(self._times) < 20:
            return None
        ordered = sorted(self._times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a call may go."""

    groups: Sequence[LBModelManager]
    """The model's own deployments, then those of each model to fail over to."""
    sticky: str = ""
    """`user`, `prompt` or nothing."""
    hedge_after: float | None = None
    """A percentile of the times to the first chunk."""
    continue_streams: bool = False
