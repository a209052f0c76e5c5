"""Passwords: Argon2id in 19 MiB, as OWASP asks for; two hashes at once at most, and one of the two for strangers."""

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
"""Twice the rounds of ASVS 5, appendix C (m=19 MiB, t=2, p=1). RFC 9106's 64 MiB would let two who sign in take 128 MiB
of a server that has 70; one lane, since two would not be quicker here."""
_PARAMETERS = f"$argon2id$v=19$m={_MEMORY},t={_ROUNDS},p={_LANES}$"
"""How a hash of them begins, in PHC's string format."""
_LEAST, _MOST = 10, 1024
_COMMON = frozenset({"password", "1234567890", "12345678901", "qwertyuiop", "modelyard", "administrator"})


def checked_password(password: str) -> str:
    """Raises InvokeBadRequestError, which says what would be right."""
    if not _LEAST <= len(password) <= _MOST:
        raise InvokeBadRequestError(f"a password has at least {_LEAST} characters", param="password")
    if password.lower() in _COMMON or len(set(password)) < 4:
        raise InvokeBadRequestError("this password is among the first that are tried: take another", param="password")
    return password


class BusyError(ModelyardError):
    """Too many wait for their passwords to be looked at: this one was not, and may be tried again."""

    code = "too_many_tries"
    retry_after = 2.0


class _Lane:
    """One thread that hashes, and a queue that ends: each hash takes 19 MiB and a core while it is made."""

    def __init__(self, name: str, most: int, most_each: int, *, begin: Callable[[], None] = lambda: None) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"passwords-{name}", initializer=begin)
        self._lock = Lock()
        self._most = most
        self._most_each = most_each
        self._waiting: Counter[str] = Counter()

    async def run(self, who: str, act: Callable[..., T], *given: Any) -> T:
        """Raises BusyError where too many wait, or too many of one."""
        with self._lock:
            if self._waiting.total() >= self._most or self._waiting[who] >= self._most_each:
                raise BusyError("too many people sign in at the moment: try again in two seconds")
            self._waiting[who] += 1
        work = self._thread.submit(act, *given)
        work.add_done_callback(lambda _: self._leave(who))
        return await asyncio.wrap_future(work)

    def _leave(self, who: str) -> None:
        with self._lock:
            self._waiting[who] -= 1
            if self._waiting[who] <= 0:
                del self._waiting[who]


@lru_cache(2)
def _lane(is_known: bool) -> _Lane:
    """Strangers have a lane of their own: however many come, whoever is known here waits for none of them."""
    return _Lane("known", 64, 64) if is_known else _Lane("strangers", 16, 8, begin=_yield_to_others)


def _yield_to_others() -> None:
    """This thread gets what the others leave of the processor; where systems know that of threads (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), 15)


async def hashed(password: str) -> str:
    """For somebody who may choose one. Raises BusyError."""
    return await _lane(True).run("", _hash, password)


async def fits(password: str, stored: str, *, is_known: bool = True, who: str = "") -> bool:
    """Whether it is the one; takes as long where nothing is stored. `who` is where a stranger calls from.

    Raises BusyError.
    """
    fitting = await _lane(is_known).run(who, _verify, password[:_MOST], stored)
    return fitting and bool(stored)


def is_dated(stored: str) -> bool:
    """Whether a password was hashed by other parameters than ours of today."""
    return not stored.startswith(_PARAMETERS)


@lru_cache(1)
def _nobodys() -> str:
    """What is tried where there is no account, so that both take as long: the form of a hash, and nobody's."""
    salt, made = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
    return f"{_PARAMETERS}{salt}${made}"


def _hash(password: str) -> str:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=os.urandom(16), length=32, iterations=_ROUNDS, lanes=_LANES, memory_cost=_MEMORY)
    return kdf.derive_phc_encoded(password.encode())


def _verify(password: str, stored: str) -> bool:
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        Argon2id.verify_phc_encoded(password.encode(), stored or _nobodys())
    except (InvalidKey, ValueError):
        return False
    return True
