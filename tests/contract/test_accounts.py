"""Accounts on each database: one owner whoever races, sessions that all processes see, invitations used once."""

import asyncio
import time
from typing import Any

from modelyard.app import Modelyard
from modelyard.base.errors import ModelyardError
from modelyard.base.settings import Settings
from modelyard.people.accounts import Accounts, SetUpError
from modelyard.tenancy.caller import Role

PASSWORD = "a long enough word"


def test_several_processes_agree_on_who_there_is(database_url: str, tmp_path: Any):
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
            racing = [
                accounts.set_up(f"p{index}@example.org", "x", PASSWORD) for index, accounts in enumerate([first_accounts, second_accounts] * 8)
            ]  # fmt: skip
            ended = await asyncio.gather(*racing, return_exceptions=True)
            owners = [
                outcome for outcome in ended if not isinstance(outcome, BaseException)
            ]
            assert (
                len(owners),
                sum(isinstance(outcome, SetUpError) for outcome in ended),
            ) == (1, 15)
            assert [
                account.email
                for account in await second_accounts.list_accounts("default")
            ] == [owners[0].email]
            token, session = await first_accounts.sign_in(
                owners[0].email, PASSWORD, "a browser"
            )
            found_session = await second_accounts.sessions.of_token(token)
            assert found_session is not None
            assert found_session.account.role is Role.OWNER
            await first_accounts.sessions.revoke(owners[0], session.id)
            until = time.monotonic() + 5
            while await second_accounts.sessions.of_token(token) is not None:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
            invited = await first_accounts.invite(
                owners[0].caller, "bob@example.org", Role.VIEWER
            )
            accepting = [
                accounts.accept(invited, "Bob", PASSWORD)
                for accounts in (first_accounts, second_accounts)
            ]
            outcomes = await asyncio.gather(*accepting, return_exceptions=True)
            assert sorted(
                isinstance(outcome, ModelyardError) for outcome in outcomes
            ) == [False, True]
            log = [
                audit_entry.what
                for audit_entry in await second_accounts.audit.audit_log("default")
            ]
            assert log.count("account.set_up") == log.count("account.accept") == 1

    asyncio.run(go())
