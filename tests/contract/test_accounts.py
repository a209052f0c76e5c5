"""Tests for accounts on each database.

One owner in a race, sessions that all processes see, invitations used once.
"""

import asyncio
import time
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.people.account import Account
from modelyard.people.accounts import Accounts, SetUpError
from modelyard.tenancy.caller import Role

PASSWORD = "a long enough word"


def test_several_processes_agree_on_accounts(database_url: str, tmp_path: Any):
    async def go() -> None:
        settings = Settings(home=str(tmp_path), database=database_url)
        async with (
            Modelyard(settings, environ={}) as yard,
            Modelyard(settings, environ={}) as second_yard,
        ):
            first_accounts, second_accounts = (
                Accounts(yard.services.storage.database),
                Accounts(second_yard.services.storage.database),
            )
            owner = await _set_up_concurrently(first_accounts, second_accounts)
            await _check_revocation(first_accounts, second_accounts, owner)
            await _accept_concurrently(first_accounts, second_accounts, owner)
            log = [
                audit_entry.what
                for audit_entry in await second_accounts.audit.audit_log("default")
            ]
            assert log.count("account.set_up") == log.count("account.accept") == 1

    asyncio.run(go())


async def _set_up_concurrently(first: Accounts, second: Accounts) -> Account:
    """Of 16 concurrent set-ups exactly one succeeds; return its owner."""
    racing = [
        accounts.set_up(f"p{index}@example.org", "x", PASSWORD)
        for index, accounts in enumerate([first, second] * 8)
    ]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    owners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    refused_count = sum(isinstance(outcome, SetUpError) for outcome in outcomes)
    assert (len(owners), refused_count) == (1, 15)
    accounts = await second.list_accounts("default")
    assert [account.email for account in accounts] == [owners[0].email]
    return owners[0]


async def _check_revocation(first: Accounts, second: Accounts, owner: Account) -> None:
    """A session is valid, and later revoked, in the other process too."""
    token, session = await first.sign_in(owner.email, PASSWORD, "a browser")
    found_session = await second.sessions.of_token(token)
    assert found_session is not None
    assert found_session.account.role is Role.OWNER
    await first.sessions.revoke(owner, session.id)
    until = time.monotonic() + 5
    while await second.sessions.of_token(token) is not None:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


async def _accept_concurrently(
    first: Accounts, second: Accounts, owner: Account
) -> None:
    """Of two processes that accept an invitation at once, exactly one succeeds."""
    invited = await first.invite(owner.caller, "bob@example.org", Role.VIEWER)
    accepting = [
        accounts.accept(invited, "Bob", PASSWORD) for accounts in (first, second)
    ]
    outcomes = await asyncio.gather(*accepting, return_exceptions=True)
    has_failed = [isinstance(outcome, ModelyardError) for outcome in outcomes]
    assert sorted(has_failed) == [False, True]
