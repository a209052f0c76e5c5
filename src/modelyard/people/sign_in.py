"""Sign-in with a password, and the limits on how often it may be tried.

A client is known if it signs in from an address or with a browser that the person has
signed in from before. Tries of unknown clients are counted separately and wait in a
separate queue, so they cannot lock a known person out.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from modelyard.base.fields import whole_number
from modelyard.people import passwords
from modelyard.people.account import (
    Account,
    AccountTables,
    Session,
    SignInError,
    account_from,
)
from modelyard.people.sessions import Sessions
from modelyard.people.sign_in_limits import Attempts, TooManyTriesError, client_network
from modelyard.storage.database import Row, StorageUnavailableError

logger = logging.getLogger("modelyard.accounts")

TRY_SECONDS = 60.0
TRIES_OF_ONE = 5
"""Failed tries per minute of one client on one account."""
_TRIES_PER_NETWORK, _TRIES_ON_ACCOUNT = 30, 20
"""Failed tries per minute: of one network on all accounts, and of all unknown clients
on one account."""
_DEVICE_SECONDS = 365 * 86_400

Sign = Callable[[bytes], str]
IsSigned = Callable[[bytes, str], bool]


class SignIn:
    """Signs people in with their passwords."""

    def __init__(
        self,
        tables: AccountTables,
        sessions: Sessions,
        get_time: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        admits: Callable[[str, str], bool],
        create_signature: Sign,
        is_signed: IsSigned,
    ) -> None:
        """Create the service.

        `admits`: returns False if a tenant or its user is disabled. `create_signature`
        and `is_signed`: create and verify a keyed hash.
        """
        self._tables = tables
        self._sessions = sessions
        self._now = get_time
        self._admits = admits
        self._create_signature = create_signature
        self._is_signed = is_signed
        self._tries_by_client = Attempts(TRIES_OF_ONE, TRY_SECONDS, monotonic)
        self._tries_by_network = Attempts(_TRIES_PER_NETWORK, TRY_SECONDS, monotonic)
        self._tries_by_account = Attempts(_TRIES_ON_ACCOUNT, TRY_SECONDS, monotonic)

    async def __call__(
        self,
        email: str,
        password: str,
        agent: str = "",
        *,
        address: str = "",
        device: str = "",
    ) -> tuple[str, Session]:
        """Sign in and return (token, session). `address` is the client's; `device` is
        what `device_token` returned to this browser earlier.

        Raises SignInError, TooManyTriesError or BusyError.
        """
        email, network = email.strip().lower()[:254], client_network(address)
        is_known_device = self._is_known_device(device, email)
        # A known browser has its own counter, so that others in its network cannot lock
        # it out.
        try_name = (
            f"device {device} {email}" if is_known_device else f"{network} {email}"
        )
        if not is_known_device:
            self._tries_by_network.take(network)
        try:
            self._tries_by_client.take(try_name)
        except TooManyTriesError:
            # The try was refused before it was made, so it must not count against the
            # network.
            self._tries_by_network.give_back(network)
            raise
        try:
            account = await self._authenticate(
                email, password, address, network, is_known_client=is_known_device
            )
        except (TooManyTriesError, passwords.BusyError, StorageUnavailableError):
            # The password was not verified, so the try does not count.
            self._tries_by_client.give_back(try_name)
            raise
        except SignInError:
            # The address that was typed is not logged: people sometimes type their
            # password there.
            logger.warning("sign-in failed", extra={"fields": {"address": address}})
            raise
        # Successful sign-ins reset the counter and cost the network nothing.
        self._tries_by_client.forget(try_name)
        self._tries_by_network.give_back(network)
        return await self._sessions.open(account, agent, address)

    async def _authenticate(
        self,
        email: str,
        password: str,
        address: str,
        label: str,
        *,
        is_known_client: bool,
    ) -> Account:
        """Verify the password and return the account. `label` is the client's network.
        Raises SignInError, TooManyTriesError or BusyError."""
        rows = await self._tables.rows("by_email", email=email)
        if rows and not is_known_client:
            is_known_client = await self._came_from(rows[0]["id"], address)
        if not is_known_client:
            # Counted before the password is verified, so that concurrent tries cannot
            # exceed the limit.
            self._tries_by_account.take(email)
        try:
            # Also verified without an account, so that the time reveals nothing.
            matches = await passwords.verify_password(
                password,
                rows[0]["password"] if rows else "",
                is_known_client=is_known_client,
                who=label,
            )
        except passwords.BusyError:
            if not is_known_client:
                self._tries_by_account.give_back(email)
            raise
        # One message for every reason, so that the answer does not tell which addresses
        # have accounts.
        if (
            not matches
            or not rows[0]["is_enabled"]
            or not self._admits(rows[0]["tenant"], email)
        ):
            raise SignInError("Invalid email or password")
        if not is_known_client:
            self._tries_by_account.give_back(email)
        await self._hash_again(rows[0], password)
        return account_from(rows[0])

    async def _hash_again(self, row: Row, password: str) -> None:
        """Hash the password again with the current parameters. Skipped if the server is
        busy; the next sign-in tries again."""
        if not passwords.needs_rehash(row["password"]):
            return
        # Signing in must not fail because of it.
        with suppress(passwords.BusyError):
            new_hash = await passwords.hashed(password)
            # The old hash is compared, so that a password changed meanwhile stays.
            await self._tables.run("rehash", new_hash, row["id"], row["password"])

    async def _came_from(self, account: str, address: str) -> bool:
        """Return whether an account has an open session from an address."""
        return bool(
            address
            and await self._tables.rows(
                "came_from", account=account, address=address, now=self._now()
            )
        )

    def device_token(self, account: Account) -> str:
        """Return a signed text that marks a browser as known to an account. It proves
        nothing else."""
        body = f"{int(self._now())}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._create_signature(_device_text(body, account.email))}"

    def _is_known_device(self, text: str, email: str) -> bool:
        """Return whether a device text is valid for this address and not older than a
        year."""
        body, _, signature = text[:300].rpartition(".")
        created_at = whole_number(body.partition(".")[0])
        if created_at is None or created_at <= self._now() - _DEVICE_SECONDS:
            return False
        return self._is_signed(_device_text(body, email), signature)

    def count_anonymous_try(self, address: str) -> None:
        """Count a try of an unauthenticated client, at an invitation or a return from
        an identity provider.

        Raises TooManyTriesError.
        """
        self._tries_by_network.take(client_network(address))

    def return_anonymous_try(self, address: str) -> None:
        """Return a try that succeeded, so that it does not count."""
        self._tries_by_network.give_back(client_network(address))


def _device_text(body: str, email: str) -> bytes:
    """Return the text that is signed for a device."""
    return f"device\n{body}\n{email}".encode()
