"""Passwords: Argon2id, as strong as RFC 9106 asks for where memory is short, and no two hashes at once."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from modelyard.base.errors import InvokeBadRequestError

_ROUNDS, _LANES, _MEMORY = 3, 1, 64 * 1024
"""RFC 9106, section 4, the second recommended choice: t=3, 64 MiB; one lane, since two would not be quicker here."""
_LEAST, _MOST = 10, 1024
_COMMON = frozenset({"password", "1234567890", "12345678901", "qwertyuiop", "modelyard", "administrator"})


def checked_password(password: str) -> str:
    """Raises InvokeBadRequestError, which says what would be right."""
    if not _LEAST <= len(password) <= _MOST:
        raise InvokeBadRequestError(f"a password has at least {_LEAST} characters", param="password")
    if password.lower() in _COMMON or len(set(password)) < 4:
        raise InvokeBadRequestError("this password is among the first that are tried: take another", param="password")
    return password


async def hashed(password: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(_workers(), _hash, password)


async def fits(password: str, stored: str) -> bool:
    """Whether it is the one; takes as long where nothing is stored."""
    loop = asyncio.get_running_loop()
    against = stored or await loop.run_in_executor(_workers(), _nobodys)
    fitting = await loop.run_in_executor(_workers(), _verify, password[:_MOST], against)
    return fitting and bool(stored)


@lru_cache(1)
def _workers() -> ThreadPoolExecutor:
    """Each takes 64 MiB and a core while it works."""
    return ThreadPoolExecutor(2, thread_name_prefix="passwords")


@lru_cache(1)
def _nobodys() -> str:
    """What is tried where there is no account, so that both take as long."""
    return _hash(os.urandom(16).hex())


def _hash(password: str) -> str:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=os.urandom(16), length=32, iterations=_ROUNDS, lanes=_LANES, memory_cost=_MEMORY)
    return kdf.derive_phc_encoded(password.encode())


def _verify(password: str, stored: str) -> bool:
    from cryptography.exceptions import InvalidKey
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        Argon2id.verify_phc_encoded(password.encode(), stored)
    except (InvalidKey, ValueError):
        return False
    return True
