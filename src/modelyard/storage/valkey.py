"""Counters and the response cache on Valkey or Redis, for several machines. Each
operation is one atomic Lua script."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from modelyard.base.clock import Clock
from modelyard.storage.counters import (
    CLOCK_SKEW_SECONDS,
    NO_USAGE,
    Charge,
    Refusal,
    UnseededError,
)
from modelyard.storage.engine import StorageUnavailableError
from modelyard.storage.valkey_client import Valkey

logger = logging.getLogger("modelyard.valkey")

_RESERVATION_SECONDS = 3 * 86_400
"""Lifetime of a reservation, a day longer than the time after which unsettled ones are
released."""

# KEYS: the set of open calls, the reservation, this process's calls, then one counter
# per charge. ARGV: current time, lifetime of the reservation, its name, then need, cap,
# refill, amount, lifetime and unit of each charge. Same arithmetic as `counters.admit`;
# a script, because it must be atomic.
# Numbers are written with 17 digits: Lua's own conversion keeps 14 of a double.
_RESERVE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return {'ok'} end  -- repeated, because the answer was lost
local now, unknown, left = tonumber(ARGV[1]), {}, {}
local function of(i, what) return ARGV[(i - 4) * 6 + 3 + what] end
for i = 4, #KEYS do
  local level = redis.call('HMGET', KEYS[i], 'used', 'stamp')
  if not level[1] then
    unknown[#unknown + 1] = i - 4
  else
    local stamp = tonumber(level[2])
    if stamp > now + SKEW then
      stamp = now  -- even where the call is refused: it would be so for as long as the clock's jump was, else
      redis.call('HSET', KEYS[i], 'stamp', string.format('%.17g', now))
    end
    local drained = tonumber(level[1]) - tonumber(of(i, 3)) * math.max(0, now - stamp)
    left[i] = {math.max(0, drained), math.max(now, stamp)}
  end
end
if #unknown > 0 then return {'unseeded', unknown} end
for i = 4, #KEYS do
  if left[i][1] + tonumber(of(i, 1)) > tonumber(of(i, 2)) then
    return {'refused', i - 4, string.format('%.17g', left[i][1])}
  end
end
for i = 4, #KEYS do
  local used = string.format('%.17g', left[i][1] + tonumber(of(i, 4)))
  redis.call('HSET', KEYS[i], 'used', used, 'stamp', string.format('%.17g', left[i][2]))
  redis.call('EXPIRE', KEYS[i], of(i, 5))
  redis.call('HSET', KEYS[2], KEYS[i], of(i, 6) .. ' ' .. of(i, 4))
end
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[2])
return {'ok'}
""".replace("SKEW", str(CLOCK_SKEW_SECONDS))  # noqa: E501

# KEYS: the set of open calls, the reservation, the calls of the reserving process.
# ARGV: its name, then pairs of unit and actual amount. A missing reservation was
# already settled, or Valkey lost it; then the usage is in the ledger, from which the
# counters are rebuilt.
_SETTLE = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
local reserved = redis.call('HGETALL', KEYS[2])
if #reserved == 0 then return 0 end
local taken = {}
for i = 2, #ARGV, 2 do taken[ARGV[i]] = tonumber(ARGV[i + 1]) end
for i = 1, #reserved, 2 do
  local unit, amount = string.match(reserved[i + 1], '^(%S+) (%S+)$')
  local used = redis.call('HGET', reserved[i], 'used')
  if used then
    local now = (taken[unit] or tonumber(amount)) - tonumber(amount)
    redis.call('HSET', reserved[i], 'used', string.format('%.17g', math.max(0, tonumber(used) + now)))
  end
end
redis.call('DEL', KEYS[2])
return 1
"""  # noqa: E501

# KEYS: counters. ARGV: current time, then level and lifetime of each.
_SEED = """
for i = 1, #KEYS do
  if redis.call('HSETNX', KEYS[i], 'used', ARGV[i * 2]) == 1 then
    redis.call('HSET', KEYS[i], 'stamp', ARGV[1])
    redis.call('EXPIRE', KEYS[i], ARGV[i * 2 + 1])
  end
end
"""


class ValkeyCounters:
    """Counters shared by all machines on one Valkey server, or on a cluster.

    A script may only use keys that lie on one server of a cluster, which the same hash
    tag in braces ensures: there, each tenant has a tag of its own, so that its limits
    are counted together and tenants are spread over the servers. A single server has
    one tag for all.
    """

    def __init__(
        self,
        valkey: Valkey,
        clock: Clock,
        *,
        prefix: str = "modelyard",
        owner: str = "",
    ) -> None:
        """`owner` identifies this process, so that another one can find its
        reservations after a crash."""
        self._valkey = valkey
        self._clock = clock
        self._owner = owner
        self._prefix = prefix
        self._tags_key = f"{{{prefix}}}:tags"
        self._known_tags: set[str] = set()
        """Tags that are stored in the set of all tags."""
        self._tag_by_call: dict[str, str] = {}
        """The tags of calls that are not settled; settling names only the call."""
        self._settling: set[asyncio.Task[None]] = set()

    def _tag(self, counter: str) -> str:
        """Return the hash tag of a counter, from its name: `LIMIT|TENANT|…`."""
        fields = counter.split("|")
        if not self._valkey.is_cluster or len(fields) < 2:
            return self._prefix
        return f"{self._prefix}:{fields[1]}"

    def _counter_key(self, name: str) -> str:
        """Return the key of a counter."""
        return f"{{{self._tag(name)}}}:counter:{name}"

    def _call_keys(self, owner: str, name: str) -> list[str]:
        """Return the keys of a call: of all open calls, of its reservation, and of the
        calls of the process that reserved."""
        tag = self._tag_by_call.get(name, self._prefix)
        return [
            f"{{{tag}}}:holding",
            f"{{{tag}}}:call:{name}",
            f"{{{tag}}}:calls-of:{owner}",
        ]

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        """Reserve all charges under a call's name, or return the refusal. Raises
        UnseededError for missing counters, and ValueError for those of two tenants."""
        tag = await self._common_tag(charges)
        values: list[Any] = [self._clock.time(), _RESERVATION_SECONDS, name]
        for charge in charges:
            values += [
                charge.need,
                charge.cap,
                charge.refill,
                charge.amount,
                max(1, int(charge.lasts)),
                charge.unit,
            ]
        self._tag_by_call[name] = tag
        keys = [
            *self._call_keys(self._owner, name),
            *(self._counter_key(charge.name) for charge in charges),
        ]
        # One script for all charges: between two commands, another process could take
        # the same amount, or this one could be killed.
        outcome, details = None, []
        try:
            outcome, *details = await self._valkey.run(_RESERVE, keys, values)
        finally:
            # A call that is not admitted is never settled.
            if outcome != b"ok":
                del self._tag_by_call[name]
        if outcome == b"ok":
            return None
        if outcome == b"unseeded":
            raise UnseededError([charges[int(index)].name for index in details[0]])
        return Refusal(charges[int(details[0])], float(details[1]))

    async def _common_tag(self, charges: Sequence[Charge]) -> str:
        """Return the tag of a call's counters, and ensure that it is stored: others
        look for reservations under all tags."""
        tags = {self._tag(charge.name) for charge in charges} or {self._prefix}
        if len(tags) > 1:
            raise ValueError("The limits of a call belong to one tenant")
        (tag,) = tags
        if self._valkey.is_cluster and tag not in self._known_tags:
            await self._valkey.call("SADD", self._tags_key, tag)
            self._known_tags.add(tag)
        return tag

    async def _tags(self) -> Sequence[str]:
        """Return all tags under which reservations may lie. Raises
        StorageUnavailableError."""
        if not self._valkey.is_cluster:
            return [self._prefix]
        tags = await self._valkey.call("SMEMBERS", self._tags_key)
        return [tag.decode() for tag in tags]

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Settle a call in the background, with retries."""
        self._run_in_background(self._settle(name, dict(amounts)))

    async def reservations_of(self, owner: str) -> Sequence[str]:
        """Return the calls for which a process holds unsettled reservations."""
        names: list[str] = []
        for tag in await self._tags():
            key = f"{{{tag}}}:calls-of:{owner}"
            for name in await self._valkey.call("SMEMBERS", key):
                names.append(name.decode())
                self._tag_by_call[names[-1]] = tag
        return names

    async def settle_for(
        self, owner: str, name: str, amounts: Mapping[str, float]
    ) -> None:
        """Settle a call of an exited process; returns once it is stored."""
        await self._valkey.run(_SETTLE, *self._settlement(owner, name, amounts))
        self._tag_by_call.pop(name, None)

    def _settlement(
        self, owner: str, name: str, amounts: Mapping[str, float]
    ) -> tuple[list[str], list[Any]]:
        """Return the keys and arguments of the Lua script that settles a call.

        `owner` is the process that reserved; `amounts` maps units to actual usage.
        """
        values = [name, *(part for pair in amounts.items() for part in pair)]
        return self._call_keys(owner, name), values

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task, which `aclose` waits for."""
        task = asyncio.ensure_future(work)
        # The loop holds only weak references to tasks, so they are stored until they
        # finish.
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, name: str, amounts: Mapping[str, float]) -> None:
        """Settle a call, trying four times within about six seconds.

        If the server stays unavailable, the failure is logged and the reservation
        remains.
        """
        keys, values = self._settlement(self._owner, name, amounts)
        self._tag_by_call.pop(name, None)
        # Delays before each retry; 0 marks the last attempt.
        for wait in (0.1, 1.0, 5.0, 0.0):
            try:
                await self._valkey.run(_SETTLE, keys, values)
                return
            except StorageUnavailableError as error:
                if not wait:
                    fields = {"call": name, "error": str(error)}
                    logger.error("reservation not settled", extra={"fields": fields})
                await self._clock.sleep(wait)

    def release_older(self, cutoff: float) -> None:
        """Release the reservations of calls admitted before `cutoff`, in the
        background."""
        self._run_in_background(self._release_older(cutoff))

    async def _release_older(self, cutoff: float) -> None:
        """Settle all calls that were admitted before `cutoff` as unused, one by one.

        If they cannot be listed, that is logged and nothing happens.
        """
        try:
            for tag in await self._tags():
                open_calls = f"{{{tag}}}:holding"
                names = await self._valkey.call(
                    "ZRANGEBYSCORE", open_calls, "-inf", cutoff
                )
                for name in names:
                    self._tag_by_call[name.decode()] = tag
                    await self._settle(name.decode(), NO_USAGE)
        except StorageUnavailableError as error:
            logger.error(
                "stale reservations not released",
                extra={"fields": {"error": str(error)}},
            )

    async def seed(
        self, levels: Mapping[str, float], charges: Sequence[Charge]
    ) -> None:
        """Create missing counters with these levels; existing ones are unchanged."""
        seeded_charges = [charge for charge in charges if charge.name in levels]
        values: list[Any] = [self._clock.time()]
        for charge in seeded_charges:
            # EXPIRE takes whole seconds, and deletes a key at 0.
            values += [levels[charge.name], max(1, int(charge.lasts))]
        keys = [self._counter_key(charge.name) for charge in seeded_charges]
        await self._valkey.run(_SEED, keys, values)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        """Return the stored levels of existing counters."""
        raw_levels = {
            name: await self._valkey.call("HGET", self._counter_key(name), "used")
            for name in names
        }
        return {
            name: float(used) for name, used in raw_levels.items() if used is not None
        }

    async def reset(self, names: Sequence[str]) -> None:
        """Delete counters, so that they are rebuilt from the ledger."""
        await self._valkey.delete([self._counter_key(name) for name in names])

    async def aclose(self) -> None:
        """Wait up to five seconds for pending settlements."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=5)


class ValkeyResponseCache:
    """The response cache shared by all machines; entries are prefixed with their
    tenant."""

    def __init__(self, valkey: Valkey, *, prefix: str = "modelyard") -> None:
        self._valkey = valkey
        self._prefix = prefix

    def _key(self, tenant: str, name: str) -> str:
        """Return the key of a cached answer."""
        return f"{self._prefix}:answer:{tenant}:{name}"

    async def get(self, tenant: str, name: str) -> bytes | None:
        """Return a cached body, or None if it is missing or expired."""
        return await self._valkey.call("GET", self._key(tenant, name))

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        """Store a body for a number of seconds."""
        # The server refuses a lifetime of 0.
        await self._valkey.call(
            "SET", self._key(tenant, name), body, "PX", max(1, int(seconds * 1000))
        )

    async def clear(self, tenant: str) -> None:
        """Delete all entries of a tenant."""
        async for keys in self._valkey.find(f"{self._prefix}:answer:{tenant}:*"):
            await self._valkey.delete(keys)
