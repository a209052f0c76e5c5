"""Load balancing: which deployment (a model with one credential) serves the next call,
and which are in cooldown.

The choice is a pure function of the observed health, which is stored here for this
process only. A cooldown ends with one real call as its probe, so no call is made just
for probing.
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
    QuotaExhaustedError,
)
from modelyard.tenancy.resource_types import Limit, Strategy

_MAX_FAILURE_COOLDOWN = 25.0
"""The longest cooldown of a failing credential in seconds; a recovered one is used
again within this time."""
# Rate limits are counted by the minute; a longer wait in a response is likely a quota,
# or a mistake of the server.
_MAX_RATE_LIMIT_COOLDOWN = 300.0
# A quota may be raised at any time, so it is tried again each hour.
_MAX_QUOTA_COOLDOWN = 3600.0
# Powers of two beyond it would overflow when they are converted to a float.
_MAX_DOUBLINGS = 64
_FAILURES_BEFORE_COOLDOWN = 3
"""How many consecutive failures of the provider put a deployment in cooldown."""
# The weight of the newest sample in the moving average of the latency.
_EWMA_WEIGHT = 0.2
# A deployment is slow if its latency is this many times the median of its peers.
_SLOW_FACTOR = 5.0
# With fewer calls, one slow answer would make a deployment look slow.
_SLOW_SAMPLES = 20
_LATENCY_CHECK_INTERVAL = 8
"""After how many answers the latency of the next deployment is compared with those of
its peers."""
# Old calls say little about the deployment's present load.
_PERCENTILE_SAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """One credential of a provider. `repr` leaves the secret values out."""

    id: str
    name: str
    values: Mapping[str, Any] = field(repr=False, default_factory=dict[str, Any])
    weight: float = 1.0
    priority: int = 0
    domain: str = ""
    """The name of a quota that several credentials share at the provider; they are in
    cooldown together."""
    quotas: tuple[tuple[str, Limit], ...] = ()
    """For a hosted credential: the limits of its use for each tenant, as (id, limit).
    """
    owner: str = ""
    """The tenant that owns the credential; its `domain` is compared within that tenant
    only. Empty for credentials in the settings."""


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A model with one credential: the unit that calls are balanced over."""

    id: str
    provider: str
    model: str
    credential: Credential | None
    weight: float = 1.0
    priority: int = 0
    price: float = 0.0
    """The cost of 1,000 tokens in plus 1,000 out, for comparison. An unknown price
    counts as infinite."""
    name: str = field(init=False)
    cooldown_keys: tuple[str, ...] = field(init=False)
    """The keys under which this deployment can be in cooldown: its own, its
    credential's, and that of the shared quota."""

    def __post_init__(self) -> None:
        credential = self.credential
        name = f"{self.provider}/{self.model}" + (
            f" with {credential.name}" if credential else ""
        )
        # The class is frozen, so derived fields have to be set through `object`.
        object.__setattr__(self, "name", name)
        cooldown_keys = (self.id,) if credential is None else (self.id, credential.id)
        if credential is not None and credential.domain:
            cooldown_keys = (
                *cooldown_keys,
                f"quota of {credential.owner}/{credential.domain}",
            )
        object.__setattr__(self, "cooldown_keys", cooldown_keys)


@dataclass(slots=True)
class _Cooldown:
    """A cooldown of one key."""

    until: float
    failures: int
    is_soft: bool
    """Whether it is for failures of the provider itself. At most half of a group is in
    such a cooldown at a time."""
    is_probing: bool = False


def _credential_key(deployment: Deployment) -> str:
    """Return the cooldown key of the deployment's credential; its own key without a
    credential."""
    credential = deployment.credential
    return deployment.id if credential is None else credential.id


def _rate_limit_key(deployment: Deployment) -> str:
    """Return the cooldown key that a rate limit applies to.

    Providers limit each model separately, unless the credentials are configured to
    share a quota; its key is the last one.
    """
    credential = deployment.credential
    if credential is not None and credential.domain:
        return deployment.cooldown_keys[-1]
    return deployment.id


def _doubled(seconds: float, failures: int, max_seconds: float) -> float:
    """Return `seconds`, doubled with each failure after the first; at most
    `max_seconds`."""
    # A credential may be refused forever; a larger power would overflow the float.
    return min(max_seconds, seconds * 2 ** min(failures - 1, _MAX_DOUBLINGS))


class DeploymentHealth:
    """What this process has observed of the deployments: cooldowns, failures, calls in
    flight and latencies."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.cooldowns: dict[str, _Cooldown] = {}
        self._failures: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._latency: dict[str, float] = {}
        self._samples: dict[str, int] = {}

    # observations

    def wait(self, deployment: Deployment) -> float:
        """Return the seconds until the deployment may be called: 0 for now, infinity
        while its probe is running."""
        # The usual case is no cooldown at all; it must cost nothing, since every call
        # asks this for every deployment.
        cooldowns = self.cooldowns
        if not cooldowns:
            return 0.0
        current_time, longest = self._clock.monotonic(), 0.0
        for cooldown_key in deployment.cooldown_keys:
            if (cooldown := cooldowns.get(cooldown_key)) is not None:
                longest = max(
                    longest,
                    cooldown.until - current_time,
                    float("inf") if cooldown.is_probing else 0.0,
                )
        return longest

    @property
    def has_cooldowns(self) -> bool:
        """Whether any key is in cooldown."""
        return bool(self.cooldowns)

    def in_flight(self, deployment: Deployment) -> int:
        """Return the number of calls that the deployment is serving."""
        return self._in_flight.get(deployment.id, 0)

    def latency(self, deployment: Deployment) -> float:
        """Return the average seconds to the first chunk, recent calls weighted most.

        0 if there is no sample, so that the deployment is tried and measured.
        """
        return self._latency.get(deployment.id, 0.0)

    def clear(self) -> None:
        """End every cooldown, for example after an operator has fixed the cause."""
        self.cooldowns.clear()
        self._failures.clear()

    def in_cooldown(self) -> dict[str, float]:
        """Return the remaining seconds of each cooldown, by key."""
        current_time = self._clock.monotonic()
        return {
            cooldown_key: cooldown.until - current_time
            for cooldown_key, cooldown in self.cooldowns.items()
            if cooldown.until > current_time
        }

    # events

    def begin(self, deployment: Deployment) -> None:
        """Count a call as in flight. If a cooldown of the deployment has run out, this
        call is its probe."""
        self._in_flight[deployment.id] = self._in_flight.get(deployment.id, 0) + 1
        if self.cooldowns:
            for cooldown_key in deployment.cooldown_keys:
                if (cooldown := self.cooldowns.get(cooldown_key)) is not None:
                    # Other calls must wait for the result of the probe.
                    cooldown.is_probing = True

    def end(self, deployment: Deployment) -> None:
        """Count a call as finished. Must be called once for each `begin`."""
        remaining = self._in_flight[deployment.id] - 1
        if remaining:
            self._in_flight[deployment.id] = remaining
        else:
            # Deployments come and go with tenants' credentials; zeros would pile up.
            del self._in_flight[deployment.id]
        if self.cooldowns:
            for cooldown_key in deployment.cooldown_keys:
                if (cooldown := self.cooldowns.get(cooldown_key)) is not None:
                    cooldown.is_probing = False

    def served(self, deployment: Deployment, seconds: float) -> None:
        """Record a success: the first chunk came after `seconds`. Ends the cooldowns
        that have run out."""
        name, latencies = deployment.id, self._latency
        if name in latencies:
            previous = latencies[name]
            latencies[name] = previous + _EWMA_WEIGHT * (seconds - previous)
        else:
            latencies[name] = seconds
        self._samples[name] = self._samples.get(name, 0) + 1
        if self._failures or self.cooldowns:
            current_time = self._clock.monotonic()
            for cooldown_key in deployment.cooldown_keys:
                self._failures.pop(cooldown_key, None)
                # A call that started before the cooldown proves nothing about the
                # present, so it does not end the cooldown.
                if (
                    cooldown := self.cooldowns.get(cooldown_key)
                ) is not None and cooldown.until <= current_time:
                    del self.cooldowns[cooldown_key]

    def cool_down(
        self,
        cooldown_key: str,
        seconds: float,
        *,
        is_soft: bool = False,
        failures: int = 1,
    ) -> None:
        """Put a key in cooldown for `seconds`. A cooldown that ends later stays as it
        is."""
        until = self._clock.monotonic() + seconds
        previous = self.cooldowns.get(cooldown_key)
        if previous is not None and previous.until > until:
            return
        self.cooldowns[cooldown_key] = _Cooldown(until, failures, is_soft)

    def failed(
        self, deployment: Deployment, error: InvokeError, group: Sequence[Deployment]
    ) -> float:
        """Put what caused the error in cooldown. Returns the seconds; 0 if nothing is
        to blame or nothing may be put in cooldown.

        A rate limit affects the model with this credential, or the shared quota; a
        refused credential, or one without credit, affects all its models; a failing
        server affects the deployment.
        """
        # From the narrowest class to the widest: a quota that is used up is also a rate
        # limit.
        if isinstance(error, QuotaExhaustedError):
            return self._next_cooldown(
                _credential_key(deployment), error, group, _MAX_QUOTA_COOLDOWN
            )
        if isinstance(error, InvokeRateLimitError) and error.cooldown:
            return self._next_cooldown(
                _rate_limit_key(deployment), error, group, _MAX_RATE_LIMIT_COOLDOWN
            )
        if isinstance(error, InvokeAuthorizationError):
            return self._next_cooldown(
                _credential_key(deployment), error, group, _MAX_FAILURE_COOLDOWN
            )
        if isinstance(error, InvokeConnectionError):
            return self._next_cooldown(
                deployment.id, error, group, _MAX_FAILURE_COOLDOWN
            )
        if isinstance(error, InvokeServerUnavailableError):
            return self._count_server_failure(deployment, error, group)
        return 0.0

    def _count_server_failure(
        self, deployment: Deployment, error: InvokeError, group: Sequence[Deployment]
    ) -> float:
        """Count a failure of the provider's server. Returns the seconds of the
        cooldown, else 0."""
        failures = self._failures.get(deployment.id, 0) + 1
        self._failures[deployment.id] = failures
        # A single failure of the server may be chance; a cooldown starts after several
        # in a row, or if the server asks for one.
        if failures < _FAILURES_BEFORE_COOLDOWN and error.retry_after is None:
            return 0.0
        return self._limit_cooldown_share(deployment, error.retry_after or 10.0, group)

    def _next_cooldown(
        self,
        cooldown_key: str,
        error: InvokeError,
        group: Sequence[Deployment],
        max_seconds: float,
    ) -> float:
        """Put a key in cooldown: as long as the provider asked for, else doubling with
        each failure up to `max_seconds`. Returns the seconds, 0 for none."""
        previous = self.cooldowns.get(cooldown_key)
        failures = previous.failures + 1 if previous else 1
        seconds = error.retry_after
        if seconds is None:
            # Without alternatives, a cooldown that the provider did not ask for would
            # only replace the provider's error with our own.
            if len(group) <= 1:
                return 0.0
            seconds = _doubled(error.cooldown, failures, max_seconds)
        self.cool_down(cooldown_key, seconds, failures=failures)
        return seconds

    def _limit_cooldown_share(
        self, deployment: Deployment, base: float, group: Sequence[Deployment]
    ) -> float:
        """Put a deployment in cooldown for failures of the provider itself.

        Returns 0 without a cooldown if more than half of the group would be affected:
        every deployment may fail in an outage, and some must stay available.
        """
        peers_cooling_down = sum(
            1 for peer in group if peer is not deployment and self._is_soft(peer)
        )
        previous = self.cooldowns.get(deployment.id)
        # This rule is for new cooldowns only; a deployment that failed its probe goes
        # back in cooldown.
        if previous is None and (peers_cooling_down + 1) * 2 > len(group):
            return 0.0
        failures = previous.failures + 1 if previous else 1
        seconds = _doubled(base, failures, _MAX_FAILURE_COOLDOWN)
        self.cool_down(deployment.id, seconds, is_soft=True, failures=failures)
        return seconds

    def _is_soft(self, deployment: Deployment) -> bool:
        """Return whether the deployment is in cooldown for failures of the provider."""
        cooldown = self.cooldowns.get(deployment.id)
        return (
            cooldown is not None
            and cooldown.is_soft
            and cooldown.until > self._clock.monotonic()
        )

    def watch_latency(
        self, deployment: Deployment, group: Sequence[Deployment]
    ) -> float:
        """Put a deployment in cooldown that is much slower than the median of its
        peers. Returns the seconds, else 0."""
        # The median of the peers means something only with at least two of them.
        if self._samples.get(deployment.id, 0) < _SLOW_SAMPLES or len(group) < 3:
            return 0.0
        peer_latencies = sorted(
            self.latency(peer)
            for peer in group
            if peer is not deployment and self.latency(peer)
        )
        if (
            not peer_latencies
            or self.latency(deployment)
            < _SLOW_FACTOR * peer_latencies[len(peer_latencies) // 2]
            or self._is_soft(deployment)
        ):
            return 0.0
        # Forget the samples, so that the deployment is measured from scratch after the
        # cooldown.
        self._samples[deployment.id] = 0
        self._latency.pop(deployment.id, None)
        return self._limit_cooldown_share(deployment, 10.0, group)


# --------------------------------------------------------------------------- strategies


def round_robin(deployments: Sequence[Deployment], turn_index: int) -> Deployment:
    """Return the next deployment in round-robin order."""
    return deployments[turn_index % len(deployments)]


def weighted_pick(deployments: Sequence[Deployment], fraction: float) -> Deployment:
    """Return a deployment by weighted choice. `fraction`, from 0 to 1, is the position
    in the sum of the weights."""
    remaining = fraction * sum(
        max(0.0, deployment.weight) for deployment in deployments
    )
    for deployment in deployments:
        remaining -= max(0.0, deployment.weight)
        if remaining < 0:
            return deployment
    # Rounding, or weights that are all 0, can leave the loop without a result.
    return deployments[-1]


def rendezvous_pick(deployments: Sequence[Deployment], key: str) -> Deployment:
    """Return the same deployment for the same key while it is available (rendezvous
    hashing).

    If a deployment is added or removed, only the keys that it wins or had won move.
    """
    return max(
        deployments,
        # Python's own hash differs from process to process, and all of them must agree.
        key=lambda deployment: hashlib.blake2b(
            f"{key}\0{deployment.id}".encode(), digest_size=8
        ).digest(),
    )


def _first_in_priority(deployments: Sequence[Deployment]) -> Sequence[Deployment]:
    """Return the deployments with the lowest priority number, which has precedence."""
    first = min(deployment.priority for deployment in deployments)
    return [deployment for deployment in deployments if deployment.priority == first]


class LBModelManager:
    """Chooses among the deployments that may serve calls to one model or route."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        health: DeploymentHealth,
        *,
        strategy: Strategy = "round_robin",
        patience: float = 2.0,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.deployments = deployments
        self.health = health
        self.strategy: Strategy = strategy
        self.patience = patience
        """Seconds to wait for a cooldown to end before the call is refused."""
        self._rng = rng
        self._turn = 0
        # Priorities cost nothing if all are equal.
        self._has_priorities = (
            len({deployment.priority for deployment in deployments}) > 1
        )
        self._answers = 0
        self._times: deque[float] = deque(maxlen=_PERCENTILE_SAMPLES)

    def fetch_next(
        self, *, excluded_ids: Collection[str] = (), sticky: str = ""
    ) -> Deployment | None:
        """Return the next deployment that is neither in cooldown nor in `excluded_ids`;
        None if there is none.

        With `sticky`, the same value gets the same deployment while it is available.
        """
        free = self.deployments
        if excluded_ids or self.health.cooldowns:
            free = self._available(excluded_ids)
        if not free:
            return None
        if self._has_priorities:
            free = _first_in_priority(free)
        if len(free) == 1:
            return free[0]
        # The usual strategy while all deployments are available.
        if free is self.deployments and self.strategy == "round_robin" and not sticky:
            self._turn += 1
            return free[(self._turn - 1) % len(free)]
        return rendezvous_pick(free, sticky) if sticky else self._choose(free)

    def _available(self, excluded_ids: Collection[str]) -> Sequence[Deployment]:
        """Return the deployments that are neither in cooldown nor excluded."""
        health = self.health
        return [
            deployment
            for deployment in self.deployments
            if deployment.id not in excluded_ids and not health.wait(deployment) > 0
        ]

    def _choose(self, free: Sequence[Deployment]) -> Deployment:
        """Choose by the configured strategy."""
        self._turn += 1
        match self.strategy:
            case "round_robin":
                return self._next_free(free)
            case "weighted":
                return weighted_pick(free, self._rng())
            case "random":
                return free[int(self._rng() * len(free))]
            case "least_in_flight":
                return min(self._rotate(free), key=self.health.in_flight)
            case "lowest_cost":
                return min(self._rotate(free), key=lambda deployment: deployment.price)
            case "lowest_latency":
                # Power of two choices: the better of two random ones. If all took the
                # best one, it would be overloaded at once.
                first_pick, second_pick = (
                    free[int(self._rng() * len(free))] for _ in range(2)
                )
                return min(first_pick, second_pick, key=self._latency_score)

    def _latency_score(self, deployment: Deployment) -> float:
        """Return a score, the latency scaled by the calls in flight; lower is better."""
        return self.health.latency(deployment) * (1 + self.health.in_flight(deployment))

    def _rotate(self, free: Sequence[Deployment]) -> Sequence[Deployment]:
        """Rotate the deployments so that equal ones are chosen in turn: `min` returns
        the first of equals."""
        start = self._turn % len(free)
        return [*free[start:], *free[:start]]

    def _next_free(self, free: Sequence[Deployment]) -> Deployment:
        """Return the next free deployment in the order of all deployments, so that a
        cooldown does not shift the turns of the others."""
        free_ids = {deployment.id for deployment in free}
        while True:
            deployment = round_robin(self.deployments, self._turn - 1)
            if deployment.id in free_ids:
                return deployment
            self._turn += 1

    def cooldown(self, deployment: Deployment, error: InvokeError) -> float:
        """Put what caused the error in cooldown. Returns the seconds, 0 for none."""
        return self.health.failed(deployment, error, self.deployments)

    def next_available_in(self) -> float:
        """Return the seconds until the first deployment is available; infinity if all
        are being probed."""
        return min(
            (self.health.wait(deployment) for deployment in self.deployments),
            default=0.0,
        )

    def skipped_deployments(self) -> dict[str, float]:
        """Return the deployments in cooldown with the remaining seconds, for the log."""
        waits = (
            (deployment.name, self.health.wait(deployment))
            for deployment in self.deployments
        )
        # Infinity is not valid JSON, so it is capped.
        return {name: round(min(wait, 1e6), 3) for name, wait in waits if wait > 0}

    def served(self, deployment: Deployment, seconds: float) -> None:
        """Record that the first chunk came after `seconds`."""
        self.health.served(deployment, seconds)
        self._times.append(seconds)
        self._answers += 1
        # The deployments are checked in turn. If the one that has just answered were,
        # a fixed order of calls could leave some of them unchecked forever.
        check_index, remainder = divmod(self._answers, _LATENCY_CHECK_INTERVAL)
        if remainder == 0:
            self.health.watch_latency(
                round_robin(self.deployments, check_index), self.deployments
            )

    def percentile(self, percent: float) -> float | None:
        """Return the seconds within which that percentage of the recent calls had their
        first chunk; None with fewer than 20 samples."""
        if len(self._times) < 20:
            return None
        ordered = sorted(self._times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True, slots=True)
class Plan:
    """The deployments that may serve a call, and how to use them."""

    groups: Sequence[LBModelManager]
    """First the model's own deployments, then those of each failover model."""
    sticky: str = ""
    """What the session affinity is based on: `user` or `prompt`; empty for no affinity.
    """
    hedge_after: float | None = None
    """The percentile of the time to the first chunk after which a second attempt
    starts; None for no hedging."""
    continue_streams: bool = False

    is_plain: bool = field(init=False)
    """Whether a call needs neither a second attempt at the same time, nor its messages,
    nor a quota that has to be awaited."""

    def __post_init__(self) -> None:
        has_quotas = any(
            deployment.credential is not None and deployment.credential.quotas
            for group in self.groups
            for deployment in group.deployments
        )
        is_plain = (
            self.hedge_after is None
            and not self.continue_streams
            and self.sticky != "prompt"
            and not has_quotas
        )
        # The class is frozen, so a derived field has to be set through `object`.
        object.__setattr__(self, "is_plain", is_plain)
