"""Which credential serves the next call, and which ones rest."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.clock import Clock


@dataclass(frozen=True, slots=True)
class Credential:
    """One set of secrets. `repr` leaves the secrets out."""

    id: str
    name: str
    values: dict[str, Any] = field(repr=False, default_factory=dict[str, Any])


def pick(credentials: Sequence[Credential], resting: Collection[str], turn: int) -> Credential | None:
    """The first credential from `turn` onwards, round the circle, that is not resting."""
    size = len(credentials)
    circle = (credentials[(turn + step) % size] for step in range(size))
    return next((one for one in circle if one.id not in resting), None)


class Cooldowns:
    """Until when a credential rests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def rest(self, credential: str, seconds: float) -> None:
        """Rest for `seconds`; a longer rest that is already running stays."""
        until = self._clock.monotonic() + seconds
        self._until[credential] = max(until, self._until.get(credential, 0.0))

    def resting(self) -> dict[str, float]:
        """Credential → seconds that it will still rest."""
        now = self._clock.monotonic()
        self._until = {one: until for one, until in self._until.items() if until > now}
        return {one: until - now for one, until in self._until.items()}


class LBModelManager:
    """Round robin over the credentials of one provider; those that refused rest a while."""

    def __init__(self, credentials: Sequence[Credential], cooldowns: Cooldowns) -> None:
        self._credentials = credentials
        self._cooldowns = cooldowns
        self._turn = 0

    @property
    def credentials(self) -> Sequence[Credential]:
        return self._credentials

    def fetch_next(self, *, without: Collection[str] = ()) -> Credential | None:
        """The next credential that neither rests nor is in `without`; None where all do."""
        resting = self._cooldowns.resting()
        chosen = pick(self._credentials, {*resting, *without}, self._turn)
        if chosen is not None:
            self._turn = (self._credentials.index(chosen) + 1) % len(self._credentials)
        return chosen

    def cooldown(self, credential: Credential, seconds: float) -> None:
        self._cooldowns.rest(credential.id, seconds)

    def soonest(self) -> float:
        """Seconds until one of them is rested."""
        resting = self._cooldowns.resting()
        return min((resting.get(one.id, 0.0) for one in self._credentials), default=0.0)
