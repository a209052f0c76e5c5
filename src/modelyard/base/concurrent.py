"""Several awaitable calls at once, within a bound."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def bounded_map(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], *, limit: int
) -> list[Result]:
    """Call `function` for each item, at most `limit` calls at once, and return the
    results in the order of the items.

    If a call raises, the other calls are cancelled and awaited, and its exception is
    raised as it is, not in a group.
    """
    free = asyncio.Semaphore(limit)

    async def call(item: Item) -> Result:
        """Call the function when one of the places is free."""
        # Tasks are cheap; only the calls themselves are limited.
        async with free:
            return await function(item)

    tasks = [asyncio.ensure_future(call(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # Reached on cancellation too: no call may outlive the one that waits for it.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
