"""Counters and cached answers on Valkey or Redis, for several machines. One script a step, so that each is atomic."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from modelyard.base.clock import Clock
from modelyard.base.errors import ConfigError
from modelyard.storage.counters import NOTHING, SKEW, Charge, Refusal, UnseededError
from modelyard.storage.engine import StorageUnavailableError

try:
    import valkey.asyncio
    from valkey.exceptions import ValkeyError
except ImportError as missing:
    raise ConfigError("valkey:// needs its driver: pip install 'modelyard[valkey]'") from missing

logger = logging.getLogger("modelyard.valkey")

_RESERVATION_SECONDS = 3 * 86_400
"""A day longer than anybody waits before what a call holds is given back."""

# KEYS: the calls that hold something, the reservation, the calls of this process, then a counter for each charge. ARGV:
# now, seconds that the reservation is kept, its name, then need, cap, refill, amount, seconds to live and unit for each
# charge. The same arithmetic as `admit`; a script, since nothing may come between.
_RESERVE = """
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
""".replace("SKEW", str(SKEW))

# KEYS: the calls that hold something, the reservation, the calls of the process that reserved. ARGV: its name, then
# unit and what was taken of it. Charges of a reservation that is not there were settled before, or Valkey lost it: then
# what was taken is in the ledger, which the counters are rebuilt from.
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
"""

# KEYS: counters. ARGV: now, then level and seconds to live of each.
_SEED = """
for i = 1, #KEYS do
  if redis.call('HSETNX', KEYS[i], 'used', ARGV[i * 2]) == 1 then
    redis.call('HSET', KEYS[i], 'stamp', ARGV[1])
    redis.call('EXPIRE', KEYS[i], ARGV[i * 2 + 1])
  end
end
"""


class Valkey:
    """One pool of connections, for whoever shares something through it."""

    def __init__(self, url: str) -> None:
        address = "redis" + url[len("valkey") :] if url.startswith("valkey") else url
        # Callers wait for a free connection rather than to be refused.
        pool: Any = valkey.asyncio.BlockingConnectionPool.from_url(
            address,
            max_connections=32,
            timeout=5,
            socket_timeout=5,
            socket_connect_timeout=5,
            health_check_interval=30,
        )
        self._client: Any = valkey.asyncio.Valkey(connection_pool=pool)
        self._scripts = {text: self._client.register_script(text) for text in (_RESERVE, _SETTLE, _SEED)}

    async def run(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        try:
            return await self._scripts[script](keys=keys, args=values)
        except (ValkeyError, OSError, TimeoutError) as error:
            raise StorageUnavailableError(f"Valkey cannot be used: {error}") from error

    async def call(self, *words: Any) -> Any:
        try:
            return await self._client.execute_command(*words)
        except (ValkeyError, OSError, TimeoutError) as error:
            raise StorageUnavailableError(f"Valkey cannot be used: {error}") from error

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


class ValkeyCounters:
    """For all machines on one Valkey."""

    def __init__(self, valkey: Valkey, clock: Clock, *, prefix: str = "modelyard", owner: str = "") -> None:
        """`owner` is this process's name: whoever takes over what it left finds by it what it held."""
        self._valkey = valkey
        self._clock = clock
        self._owner = owner
        # The same hash tag in every key: a cluster keeps them together, as a script needs them.
        self._prefix = f"{{{prefix}}}"
        self._holding = f"{self._prefix}:holding"
        self._settling: set[asyncio.Task[None]] = set()

    def _key(self, name: str) -> str:
        return f"{self._prefix}:counter:{name}"

    def _call(self, name: str) -> str:
        return f"{self._prefix}:call:{name}"

    def _calls_of(self, owner: str) -> str:
        return f"{self._prefix}:calls-of:{owner}"

    async def reserve(self, name: str, charges: Sequence[Charge]) -> Refusal | None:
        values: list[Any] = [self._clock.time(), _RESERVATION_SECONDS, name]
        for one in charges:
            values += [one.need, one.cap, one.refill, one.amount, max(1, int(one.lasts)), one.unit]
        keys = [self._holding, self._call(name), self._calls_of(self._owner), *(self._key(one.name) for one in charges)]
        what, *rest = await self._valkey.run(_RESERVE, keys, values)
        if what == b"unseeded":
            raise UnseededError([charges[int(place)].name for place in rest[0]])
        return Refusal(charges[int(rest[0])], float(rest[1])) if what == b"refused" else None

    def settle(self, name: str, amounts: Mapping[str, float]) -> None:
        self._later(self._settle(name, dict(amounts)))

    async def held_by(self, owner: str) -> Sequence[str]:
        names = await self._valkey.call("SMEMBERS", self._calls_of(owner))
        return [name.decode() for name in names]

    async def settle_for(self, owner: str, name: str, amounts: Mapping[str, float]) -> None:
        await self._valkey.run(_SETTLE, *self._settlement(owner, name, amounts))

    def _settlement(self, owner: str, name: str, amounts: Mapping[str, float]) -> tuple[list[str], list[Any]]:
        keys = [self._holding, self._call(name), self._calls_of(owner)]
        return keys, [name, *(part for pair in amounts.items() for part in pair)]

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, name: str, amounts: Mapping[str, float]) -> None:
        keys, values = self._settlement(self._owner, name, amounts)
        for wait in (0.1, 1.0, 5.0, 0.0):
            try:
                await self._valkey.run(_SETTLE, keys, values)
                return
            except StorageUnavailableError as error:
                if not wait:
                    fields = {"call": name, "error": str(error)}
                    logger.error("a reservation could not be settled", extra={"fields": fields})
                await self._clock.sleep(wait)

    def release_older(self, before: float) -> None:
        self._later(self._release_older(before))

    async def _release_older(self, before: float) -> None:
        try:
            names = await self._valkey.call("ZRANGEBYSCORE", self._holding, "-inf", before)
        except StorageUnavailableError as error:
            logger.error("what nobody settles is not given back", extra={"fields": {"error": str(error)}})
            return
        for name in names:
            await self._settle(name.decode(), NOTHING)

    async def seed(self, levels: Mapping[str, float], charges: Sequence[Charge]) -> None:
        wanted = [one for one in charges if one.name in levels]
        values: list[Any] = [self._clock.time()]
        for one in wanted:
            values += [levels[one.name], max(1, int(one.lasts))]
        await self._valkey.run(_SEED, [self._key(one.name) for one in wanted], values)

    async def levels(self, names: Sequence[str]) -> Mapping[str, float]:
        found = {name: await self._valkey.call("HGET", self._key(name), "used") for name in names}
        return {name: float(used) for name, used in found.items() if used is not None}

    async def reset(self, names: Sequence[str]) -> None:
        if names:
            await self._valkey.call("DEL", *(self._key(name) for name in names))

    async def aclose(self) -> None:
        """Settle what is under way."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=5)


class ValkeyAnswers:
    """Cached answers that all machines share; each lies under its tenant's name."""

    def __init__(self, valkey: Valkey, *, prefix: str = "modelyard") -> None:
        self._valkey = valkey
        self._prefix = prefix

    def _key(self, tenant: str, name: str) -> str:
        return f"{self._prefix}:answer:{tenant}:{name}"

    async def get(self, tenant: str, name: str) -> bytes | None:
        return await self._valkey.call("GET", self._key(tenant, name))

    async def put(self, tenant: str, name: str, body: bytes, seconds: float) -> None:
        await self._valkey.call("SET", self._key(tenant, name), body, "PX", max(1, int(seconds * 1000)))

    async def clear(self, tenant: str) -> None:
        cursor: Any = 0
        while True:
            cursor, keys = await self._valkey.call("SCAN", cursor, "MATCH", f"{self._prefix}:answer:{tenant}:*")
            if keys:
                await self._valkey.call("DEL", *keys)
            if int(cursor) == 0:
                return
