"""Password hashing with Argon2id in 19 MiB, as OWASP recommends. At most two hashes run
at once, one of them for unknown clients."""

import asyncio
import base64
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from threading import Lock, get_native_id
from typing import Any, TypeVar

from modelyard.base.errors import InvokeBadRequestError, ModelyardError

T = TypeVar("T")

_ROUNDS, _LANES, _MEMORY = 4, 1, 19 * 1024
"""Twice the rounds of ASVS 5, appendix C (m=19 MiB, t=2, p=1). With the 64 MiB of RFC
9106, two people signing in would need 128 MiB on a server that uses 70. One lane,
because a second one is no faster here."""
_PARAMETERS = f"$argon2id$v=19$m={_MEMORY},t={_ROUNDS},p={_LANES}$"
"""The start of a hash with these parameters, in the PHC string format."""
# The upper bound limits the work of hashing.
_MIN_LENGTH, _MAX_LENGTH = 10, 1024
_COMMON = frozenset(
    {
        "password",
        "1234567890",
        "12345678901",
        "qwertyuiop",
        "modelyard",
        "administrator",
    }
)


def checked_password(password: str) -> str:
    """Return the password. Raises InvokeBadRequestError, with the rule, if it is not
    allowed."""
    if not _MIN_LENGTH <= len(password) <= _MAX_LENGTH:
        raise InvokeBadRequestError(
            f"Password must have {_MIN_LENGTH} to {_MAX_LENGTH} characters",
            param="password",
        )
    if password.lower() in _COMMON or len(set(password)) < 4:
        raise InvokeBadRequestError(
            "Password is too common; choose another",
            param="password",
        )
    return password


class BusyError(ModelyardError):
    """Too many passwords are waiting to be verified. This one was not verified and may
    be tried again."""

    code = "too_many_tries"
    retry_after = 2.0


class _Lane:
    """One hashing thread with a bounded queue. Each hash uses 19 MiB and a CPU core
    while it runs."""

    def __init__(
        self,
        name: str,
        max_waiting: int,
        max_waiting_each: int,
        *,
        initializer: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the lane. At most `max_waiting` jobs may wait, and `max_waiting_each`
        of one client."""
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix=f"passwords-{name}", initializer=initializer
        )
        self._lock = Lock()
        self._most = max_waiting
        self._most_each = max_waiting_each
        self._waiting: Counter[str] = Counter()

    async def run(self, who: str, act: Callable[..., T], *arguments: Any) -> T:
        """Run a job on the thread and return its result. Raises BusyError if too many
        jobs wait, in total or of one client."""
        with self._lock:
            if (
                self._waiting.total() >= self._most
                or self._waiting[who] >= self._most_each
            ):
                raise BusyError(
                    "Too many concurrent sign-ins; try again in two seconds"
                )
            self._waiting[who] += 1
        work = self._thread.submit(act, *arguments)
        # Counted down when the job ends, even if the request that waits for it was
        # cancelled.
        work.add_done_callback(lambda _: self._leave(who))
        return await asyncio.wrap_future(work)

    def _leave(self, who: str) -> None:
        """Remove a finished job from the client's count."""
        with self._lock:
            self._waiting[who] -= 1
            if self._waiting[who] <= 0:
                del self._waiting[who]


@lru_cache(2)
def _lane(is_known_client: bool) -> _Lane:
    """Return the lane of known or of unknown clients. However many unknown ones arrive,
    known ones do not wait for them."""
    return (
        _Lane("known", 64, 64)
        if is_known_client
        else _Lane("strangers", 16, 8, initializer=_yield_to_others)
    )


def _yield_to_others() -> None:
    """Lower the priority of this thread, on systems that allow it for a single thread
    (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), 15)


async def hashed(password: str) -> str:
    """Return the hash of a new password. Raises BusyError."""
    return await _lane(True).run("", _hash, password)


async def verify_password(
    password: str, stored_hash: str, *, is_known_client: bool = True, who: str = ""
) -> bool:
    """Return whether a password matches. Takes equally long if nothing is stored. `who`
    identifies an unknown client's network.

    Raises BusyError.
    """
    # Truncated, because hashing a very long input would take correspondingly long.
    matches = await _lane(is_known_client).run(
        who, _verify, password[:_MAX_LENGTH], stored_hash
    )
    return matches and bool(stored_hash)


def needs_rehash(stored_hash: str) -> bool:
    """Return whether a password was hashed with parameters other than the current ones."""
    return not stored_hash.startswith(_PARAMETERS)


@lru_cache(1)
def _dummy_hash() -> str:
    """Return a hash that no password matches. Verified if there is no account, so that
    both cases take equally long."""
    salt, digest = (
        base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32)
    )
    return f"{_PARAMETERS}{salt}${digest}"


def _hash(password: str) -> str:
    """Hash a password. Runs on a lane's thread."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(
        salt=os.urandom(16),
        length=32,
        iterations=_ROUNDS,
        lanes=_LANES,
        memory_cost=_MEMORY,
    )
    return kdf.derive_phc_encoded(password.encode())


def _verify(password: str, stored_hash: str) -> bool:
    """Verify a password; an empty hash never matches but takes as long. Runs on a
    lane's thread."""
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        Argon2id.verify_phc_encoded(password.encode(), stored_hash or _dummy_hash())
    # ValueError is raised for a damaged hash; it must not reveal itself by a different
    # answer.
    except (InvalidKey, ValueError):
        return False
    return True
