"""The public keys of an identity provider, kept for a while.

They change: a provider that signs with a new one has added it to its key set, and a token's `kid` names it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from joserfc.jwk import Key

from modelyard.base.clock import Clock
from modelyard.models.types import JSON
from modelyard.people.account import SignInError
from modelyard.people.identity_tokens import find_key, read_keys

_KEYS_SECONDS = 300.0
"""So long a key that the provider has withdrawn may still be believed."""
_SOONEST_SECONDS = 30.0
"""Between two askings for keys because a token names one that is not among them."""


class ProviderKeys:
    """A provider's public keys: asked for again when they are old, or when a token names one that is not among them."""

    def __init__(self, ask: Callable[[str], Awaitable[JSON]], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._turn = asyncio.Lock()
        self._keys: Sequence[Key] | None = None
        self._asked_at = float("-inf")
        self._failure: SignInError | None = None
        self._failed_at = float("-inf")

    async def find(self, address: str, token: str) -> Key:
        """The key that signed `token`; `address` is the key set's. Raises SignInError."""
        came_at = self._clock.monotonic()
        async with self._turn:
            if self._failure is not None and self._failed_at > came_at:
                raise SignInError(str(self._failure))  # the one before us was told so while we waited
            if self._keys is None or self._age() >= _KEYS_SECONDS:
                await self._refresh(address)
            key = find_key(self._keys or (), token)
            if key is None and self._age() >= _SOONEST_SECONDS:
                await self._refresh(address)
                key = find_key(self._keys or (), token)
        if key is None:
            raise SignInError("what the identity provider says is signed with none of its keys")
        return key

    def _age(self) -> float:
        return self._clock.monotonic() - self._asked_at

    async def _refresh(self, address: str) -> None:
        try:
            self._keys = read_keys(await self._ask(address))
        except SignInError as error:
            self._failure, self._failed_at = error, self._clock.monotonic()
            raise
        self._failure = None
        self._asked_at = self._clock.monotonic()
