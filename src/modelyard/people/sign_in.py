"""Who may sign in with a password, and how often it may be tried.

Whoever signs in from where they were signed in before, or with a browser that they signed in with before, is known:
what strangers try counts against strangers, and takes a queue of its own.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from modelyard.base.fields import whole_number
from modelyard.people import passwords
from modelyard.people.account import Account, AccountTables, Session, SignInError, account_from
from modelyard.people.attempts import Attempts, TooManyTriesError, neighbourhood
from modelyard.people.sessions import Sessions
from modelyard.storage.database import Row, StorageUnavailableError

logger = logging.getLogger("modelyard.accounts")

TRY_SECONDS = 60.0
TRIES_OF_ONE = 5
"""A minute, that are wrong, by one person on one account."""
_TRIES_OF_PLACE, _TRIES_ON_ACCOUNT = 30, 20
"""A minute, that are wrong: from one place on all of them; by all strangers on one."""
_DEVICE_SECONDS = 365 * 86_400

Sign = Callable[[bytes], str]
IsSigned = Callable[[bytes, str], bool]


class SignIn:
    def __init__(
        self,
        tables: AccountTables,
        sessions: Sessions,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        admits: Callable[[str, str], bool],
        sign: Sign,
        is_signed: IsSigned,
    ) -> None:
        """`admits`: whether neither a tenant nor a user of it is switched off. `sign` and `is_signed`: a keyed hash."""
        self._tables = tables
        self._sessions = sessions
        self._now = now
        self._admits = admits
        self._sign = sign
        self._is_signed = is_signed
        self._by_one = Attempts(TRIES_OF_ONE, TRY_SECONDS, monotonic)
        self._by_place = Attempts(_TRIES_OF_PLACE, TRY_SECONDS, monotonic)
        self._on_account = Attempts(_TRIES_ON_ACCOUNT, TRY_SECONDS, monotonic)

    async def __call__(
        self, email: str, password: str, agent: str = "", *, address: str = "", device: str = ""
    ) -> tuple[str, Session]:
        """(what the browser is to show, the session). `address`: where the call comes from; `device`: what `device_of`
        gave this browser before. Raises SignInError, TooManyTriesError, BusyError."""
        email, place = email.strip().lower()[:254], neighbourhood(address)
        known_device = self._is_device(device, email)
        one = f"device {device} {email}" if known_device else f"{place} {email}"
        if not known_device:
            self._by_place.take(place)
        try:
            self._by_one.take(one)
        except TooManyTriesError:
            self._by_place.give_back(place)
            raise
        try:
            account = await self._checked(email, password, address, place, is_known=known_device)
        except (TooManyTriesError, passwords.BusyError, StorageUnavailableError):
            self._by_one.give_back(one)  # nobody looked whether it is right
            raise
        except SignInError:
            # Not what was typed for an address: now and then that is a password.
            logger.warning("a sign-in failed", extra={"fields": {"address": address}})
            raise
        self._by_one.forget(one)
        self._by_place.give_back(place)
        return await self._sessions.open(account, agent, address)

    async def _checked(self, email: str, password: str, address: str, place: str, *, is_known: bool) -> Account:
        """Whose password it is. Raises SignInError, TooManyTriesError, BusyError."""
        rows = await self._tables.rows("by_email", email=email)
        if rows and not is_known:
            is_known = await self._came_from(rows[0]["id"], address)
        if not is_known:
            self._on_account.take(email)
        try:
            fitting = await passwords.fits(password, rows[0]["password"] if rows else "", is_known=is_known, who=place)
        except passwords.BusyError:
            if not is_known:
                self._on_account.give_back(email)
            raise
        if not fitting or not rows[0]["is_enabled"] or not self._admits(rows[0]["tenant"], email):
            raise SignInError("address or password is wrong")
        if not is_known:
            self._on_account.give_back(email)
        await self._hash_again(rows[0], password)
        return account_from(rows[0])

    async def _hash_again(self, row: Row, password: str) -> None:
        """Keep a password by the parameters of today; where many sign in now, another time."""
        if passwords.is_dated(row["password"]):
            with suppress(passwords.BusyError):
                await self._tables.do("rehash", await passwords.hashed(password), row["id"], row["password"])

    async def _came_from(self, account: str, address: str) -> bool:
        """Whether somebody is signed in to an account from an address."""
        return bool(address and await self._tables.rows("came_from", account=account, address=address, now=self._now()))

    def device_of(self, account: Account) -> str:
        """What a browser may keep that somebody signed in with: a sign of that, and of nothing else."""
        body = f"{int(self._now())}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(_device(body, account.email))}"

    def _is_device(self, text: str, email: str) -> bool:
        body, _, signature = text[:300].rpartition(".")
        made = whole_number(body.partition(".")[0])
        if made is None or made <= self._now() - _DEVICE_SECONDS:
            return False
        return self._is_signed(_device(body, email), signature)

    def count_stranger(self, address: str) -> None:
        """Count what anybody may try: invitations, and ways back from an identity provider. Raises
        TooManyTriesError."""
        self._by_place.take(neighbourhood(address))

    def welcome_stranger(self, address: str) -> None:
        """It was right: it does not count."""
        self._by_place.give_back(neighbourhood(address))


def _device(body: str, email: str) -> bytes:
    return f"device\n{body}\n{email}".encode()
