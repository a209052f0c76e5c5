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
        async with Modelyard(settings, environ={}) as yard, Modelyard(settings, environ={}) as other:
            here, there = Accounts(yard.services.storage.database), Accounts(other.services.storage.database)
            racing = [
                one.set_up(f"p{at}@example.org", "x", PASSWORD) for at, one in enumerate([here, there] * 8)
            ]  # fmt: skip
            ended = await asyncio.gather(*racing, return_exceptions=True)
            owners = [one for one in ended if not isinstance(one, BaseException)]
            assert (len(owners), sum(isinstance(one, SetUpError) for one in ended)) == (1, 15)
            assert [one.email for one in await there.of("default")] == [owners[0].email]
            token, session = await here.sign_in(owners[0].email, PASSWORD, "a browser")
            found = await there.sessions.of_token(token)
            assert found is not None
            assert found.account.role is Role.OWNER
            await here.sessions.revoke(owners[0], session.id)
            until = time.monotonic() + 5
            while await there.sessions.of_token(token) is not None:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
            invited = await here.invite(owners[0].caller, "bob@example.org", Role.VIEWER)
            accepting = [one.accept(invited, "Bob", PASSWORD) for one in (here, there)]
            both = await asyncio.gather(*accepting, return_exceptions=True)
            assert sorted(isinstance(one, ModelyardError) for one in both) == [False, True]
            log = [one.what for one in await there.audit.noted("default")]
            assert log.count("account.set_up") == log.count("account.accept") == 1

    asyncio.run(go())
