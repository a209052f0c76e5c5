"""A cache of an identity provider's public keys.

Providers rotate keys: a new key is added to the key set before it signs, and a token's
`kid` names the key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from joserfc.jwk import Key

from modelyard.base.clock import Clock
from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.people.identity_tokens import find_key, read_keys

_KEYS_SECONDS = 300.0
"""How long a key that the provider has withdrawn may still be accepted."""
_MIN_REFRESH_INTERVAL = 30.0
"""The minimum time between two requests for keys that are caused by an unknown `kid`.
"""


class ProviderKeys:
    """A provider's public keys. They are fetched again when they are old or when a
    token names an unknown key."""

    def __init__(self, ask: Callable[[str], Awaitable[JSON]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._refresh_lock = asyncio.Lock()
        self._keys: Sequence[Key] | None = None
        self._asked_at = float("-inf")
        self._failure: SignInError | None = None
        self._failed_at = float("-inf")

    async def find(self, address: str, token: str) -> Key:
        """Return the key that signed `token`. `address` is that of the key set. Raises
        SignInError."""
        came_at = self._clock.monotonic()
        # One request at a time; all waiting callers use its result.
        async with self._refresh_lock:
            if self._failure is not None and self._failed_at > came_at:
                # The request that was running while this one waited has failed;
                # repeating it would only add load.
                raise SignInError(str(self._failure))
            if self._keys is None or self._age() >= _KEYS_SECONDS:
                await self._refresh(address)
            key = find_key(self._keys or (), token)
            # Anybody can send a token with an invented `kid`, so the refresh is limited
            # in rate.
            if key is None and self._age() >= _MIN_REFRESH_INTERVAL:
                await self._refresh(address)
                key = find_key(self._keys or (), token)
        if key is None:
            raise SignInError(
                "Identity token signature does not match any key of the identity provider"
            )
        return key

    def _age(self) -> float:
        """Return the seconds since the keys were fetched."""
        return self._clock.monotonic() - self._asked_at

    async def _refresh(self, address: str) -> None:
        """Fetch the keys. Raises SignInError and remembers it for the requests that
        wait."""
        try:
            self._keys = read_keys(await self._ask(address))
        except SignInError as error:
            self._failure, self._failed_at = error, self._clock.monotonic()
            raise
        self._failure = None
        self._asked_at = self._clock.monotonic()
