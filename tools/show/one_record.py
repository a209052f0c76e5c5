"""2,000 calls of every outcome against a server process: each has one record. The sums
by every grouping are what the callers counted, every refused call is found by the id
that its caller got, and nobody sees a call of another tenant."""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from modelyard.runtime.usage_table import GROUPINGS
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    error_answer,
    stream_answer,
)
from tools.show.proof import Proof, free_port, running, serve_command
from tools.show.servers import Postgres
from tools.show.truth_log import home_with

CALLS = 2_000
FLOOD = 600
"""Calls without a key that are sent in addition, more than get rows of their own."""
_AT_ONCE = 8
_OVERLOAD = 60
"""Slow calls at once that are more than the server lets wait."""
_BOSS = "sk-the-operators-key"
_TENANTS = ("alpha", "beta")
_STRANGERS = ""
_MODEL = "openai/gpt-5-mini"
_SLOW, _BROKEN, _LATE = "gpt-5-nano", "gpt-5", "gpt-4.1"
"""Models that stream slowly, fail, and answer after a second."""
_OUTCOMES = ("failed", "cancelled", "refused")
_SETTLE_SECONDS = 30.0
_APP = """app: {mode: completion, name: Short}
kind: app
version: 0.7.0
model_config:
  model: {provider: openai, name: gpt-5-mini, mode: chat, completion_params: {}}
  pre_prompt: "Say {{query}}"
  user_input_form: [{paragraph: {label: Query, variable: query, required: true}}]
"""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of call."""

    weight: int
    """How many of 100 calls are of this kind."""
    key: str = "full"
    """Which key is sent: a name of `_Tenant.keys`, or a text that is nobody's key."""
    path: str = "/v1/chat/completions"
    model: str = _MODEL
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    content: bytes | None = None
    """The body, if it is not a chat request."""
    status: int = 200
    is_strangers: bool = False
    outcome: str = ""
    """How it ends, if the status does not tell."""


KINDS = {
    "served": _Kind(20),
    "streamed": _Kind(15, fields={"stream": True}),
    "cancelled": _Kind(
        8, model=f"openai/{_SLOW}", fields={"stream": True}, outcome="cancelled"
    ),
    "failed": _Kind(7, model=f"openai/{_BROKEN}", status=503, outcome="failed"),
    "no key": _Kind(3, key="", status=401, is_strangers=True),
    "wrong key": _Kind(2, key="sk-nobodys-key", status=401, is_strangers=True),
    "wrong app key": _Kind(
        2,
        key="app-wrong",
        path="/v1/completion-messages",
        status=401,
        is_strangers=True,
    ),
    "role": _Kind(4, key="viewer", status=403),
    "model not allowed": _Kind(4, key="narrow", status=403),
    "unknown model": _Kind(4, model="nobody/never-heard-of", status=404),
    "unknown path": _Kind(4, path="/v1/chat/completion", status=404),
    "invalid field": _Kind(4, fields={"messages": "none"}, status=400),
    "not JSON": _Kind(3, content=b"{", status=400),
    "too large": _Kind(3, content=b"x" * ((1 << 20) + 1), status=413),
    "budget spent": _Kind(6, key="spent", status=429),
    "no credential": _Kind(5, model="anthropic/claude-sonnet-4-5", status=503),
    "app's input": _Kind(
        6, key="app", path="/v1/completion-messages", content=b"{}", status=400
    ),
}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A call that was made, as its caller saw it."""

    kind: str
    tenant: str
    id: str
    status: int
    outcome: str


def _outcome(status: int) -> str:
    """Return the outcome that a caller concludes from a status."""
    if status == 200:
        return "served"
    return "refused" if status < 500 or status == 503 else "failed"


def _answer(request: UpstreamRequest) -> Answer:
    """Answer as the provider."""
    model = request.json["model"]
    if model == _BROKEN:
        return error_answer(500)
    if model == _LATE:
        return replace(chat_answer("late"), delay=1.0)
    if not request.json.get("stream"):
        return chat_answer("fine")
    if model == _SLOW:
        return replace(stream_answer(chat_events(["x"] * 200)), gap=0.05)
    return stream_answer(chat_events(["fi", "ne"]))


class _World:
    """A server with tenants, their keys, a spent budget and an app each."""

    def __init__(self, port: int, upstream_url: str) -> None:
        self._upstream_url = upstream_url
        headers = {"authorization": f"Bearer {_BOSS}"}
        self.origin = f"http://127.0.0.1:{port}"
        self.admin = httpx.Client(base_url=self.origin, headers=headers, timeout=60)
        self.keys = {tenant: self._tenant_keys(tenant) for tenant in _TENANTS}

    def _post(self, path: str, tenant: str, body: Any) -> Any:
        """Create something for a tenant, and return it."""
        response = self.admin.post(path, json=body, params={"tenant": tenant})
        if response.status_code >= 300:
            raise RuntimeError(f"{path}: {response.text}")
        return response.json() if response.content else {}

    def _tenant_keys(self, tenant: str) -> dict[str, str]:
        """Create a tenant and return its keys."""
        self.admin.post("/admin/v1/tenants", json={"name": tenant}).raise_for_status()
        values = {"api_key": f"sk-{tenant}", "base_url": self._upstream_url}
        credential = {"name": "main", "provider": "openai", "values": values}
        self._post("/admin/v1/credentials", tenant, credential)
        requests = {
            "owner": {"role": "owner"},
            "full": {"role": "developer"},
            "viewer": {"role": "viewer"},
            "narrow": {"role": "developer", "models": ["anthropic/*"]},
            "spent": {"role": "developer"},
        }
        created = {
            name: self._post("/admin/v1/keys", tenant, {"name": name, **fields})
            for name, fields in requests.items()
        }
        keys = {name: key["key"] for name, key in created.items()}
        limit = {"name": "budget", "unit": "cost", "amount": 1e-9, "window": "day"}
        limit["key"] = created["spent"]["id"]
        self._post("/admin/v1/limits", tenant, limit)
        return {**keys, "app": self._app_key(tenant)}

    def _app_key(self, tenant: str) -> str:
        """Create an app, which is published, and return a key for it."""
        app = self._post("/admin/v1/apps", tenant, {"file": _APP})["id"]
        return self._post(f"/admin/v1/apps/{app}/keys", tenant, {})["key"]


class _Callers:
    """Make the calls and note what came of them."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self.sent: list[_Sent] = []
        self.unexpected: list[str] = []

    async def run(self, calls: int) -> None:
        """Make the calls in a random order, then more at once than may wait."""
        names = [
            name
            for name, kind in KINDS.items()
            for _ in range(max(1, calls * kind.weight // 100))
        ]
        # The same order each time, so that a failure can be repeated.
        random.Random(7).shuffle(names)
        limits = httpx.Limits(max_connections=_OVERLOAD)
        async with httpx.AsyncClient(
            base_url=self._world.origin, timeout=60, limits=limits
        ) as client:
            # The first call of such a key spends its budget.
            for tenant in _TENANTS:
                await self._send(client, "spends", _Kind(0, key="spent"), tenant)
            await asyncio.gather(
                *(
                    self._call(client, name, _TENANTS[index % len(_TENANTS)])
                    for index, name in enumerate(names)
                )
            )
            late = _Kind(0, model=f"openai/{_LATE}")
            await asyncio.gather(
                *(
                    self._send(client, "overload", late, _TENANTS[0])
                    for _ in range(_OVERLOAD)
                )
            )

    async def _call(self, client: httpx.AsyncClient, name: str, tenant: str) -> None:
        """Make one call when it is its turn."""
        async with self._at_once:
            await self._send(client, name, KINDS[name], tenant)

    async def _send(
        self, client: httpx.AsyncClient, name: str, kind: _Kind, tenant: str
    ) -> None:
        """Send a request, and note its id, status and outcome."""
        keys = self._world.keys[tenant]
        key = keys.get(kind.key, kind.key)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers["content-type"] = "application/json"
        content = _body(kind) if kind.content is None else kind.content
        async with client.stream(
            "POST", kind.path, headers=headers, content=content
        ) as got:
            if kind.outcome == "cancelled" and got.status_code == 200:
                await anext(got.aiter_bytes())
                await got.aclose()
            else:
                await got.aread()
        outcome = kind.outcome or _outcome(got.status_code)
        owner = _STRANGERS if kind.is_strangers else tenant
        request_id = got.headers.get("x-request-id", "")
        self.sent.append(_Sent(name, owner, request_id, got.status_code, outcome))
        if got.status_code != kind.status and name != "overload":
            self.unexpected.append(f"{name}: {got.status_code}")

    def counts(self, tenant: str) -> dict[str, int]:
        """Return how many calls of a tenant there were, in all and by outcome."""
        outcomes = Counter(call.outcome for call in self.sent if call.tenant == tenant)
        return {
            "calls": outcomes.total(),
            **{name: outcomes[name] for name in _OUTCOMES},
        }


def _body(kind: _Kind) -> bytes:
    """Return a chat request."""
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": kind.model, "messages": messages, "user": "ada", **kind.fields}
    return json.dumps(body).encode()


class _Auditor:
    """Compares the records of a server with what its callers noted."""

    def __init__(self, world: _World, callers: _Callers) -> None:
        self._world = world
        self._callers = callers

    def wait(self) -> None:
        """Wait until the calls have been written: rows follow their responses, and
        calls that were cut off are settled later."""
        until = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < until and any(
            self._lacks_calls(tenant) for tenant in _TENANTS
        ):
            time.sleep(0.2)

    def _lacks_calls(self, tenant: str) -> bool:
        """Return whether the server counts fewer calls of a tenant than were made."""
        total, expected = self._total(tenant), self._callers.counts(tenant)
        return any(total[name] < expected[name] for name in expected)

    def _total(self, tenant: str) -> dict[str, int]:
        """Return the counts of a tenant's calls, as the server states them."""
        return self._usage(tenant, "model")["total"]

    def _usage(self, tenant: str, by: str) -> Any:
        """Return the sums of a tenant by a grouping."""
        headers = {"authorization": f"Bearer {self._world.keys[tenant]['owner']}"}
        response = self._world.admin.get(
            "/admin/v1/usage", params={"by": by}, headers=headers
        )
        return response.raise_for_status().json()

    def wrong_sums(self) -> Iterator[str]:
        """Yield the groupings whose sums are not what the callers counted."""
        groupings = (*GROUPINGS, "provider,model", "key,status", "day,user")
        for tenant, by in product(_TENANTS, groupings):
            expected = self._callers.counts(tenant)
            report = self._usage(tenant, by)
            sums = _sums(report["data"], expected)
            stated = {name: report["total"][name] for name in expected}
            if sums != expected or stated != expected:
                yield f"{tenant} by {by}: {sums}, not {expected}"

    def wrong_strangers(self, flood: int) -> Iterator[str]:
        """Yield what is wrong with the count of unauthenticated calls."""
        expected = self._callers.counts(_STRANGERS)["calls"] + flood
        query = {"unauthenticated": "true", "limit": "1"}
        page = self._list(query)
        until = time.monotonic() + _SETTLE_SECONDS
        # Rows are written a moment after the response.
        while page["calls"] < expected and time.monotonic() < until:
            page = self._list(query)
        if page["calls"] != expected:
            yield f"{page['calls']}, not {expected}"
        # More than get rows of their own within a minute.
        if flood >= FLOOD and page["total"] >= expected:
            yield f"{page['total']} rows"

    def _list(self, query: dict[str, str], key: str = _BOSS) -> Any:
        """Return a page of records."""
        response = self._world.admin.get(
            "/admin/v1/requests",
            params=query,
            headers={"authorization": f"Bearer {key}"},
        )
        return response.raise_for_status().json()

    def missing(self) -> Iterator[str]:
        """Yield the refused calls that are not found by their id, or say something
        else than what their caller got."""
        for call in self._callers.sent:
            if call.outcome not in ("refused", "cancelled"):
                continue
            query = {"id": call.id, "unauthenticated": "true"}
            key = _BOSS
            if call.tenant:
                query, key = {"id": call.id}, self._world.keys[call.tenant]["owner"]
            rows: list[Any] = self._list(query, key)["data"] if call.id else []
            found = [
                (row["outcome"], row["http_status"] or call.status) for row in rows
            ]
            if found != [(call.outcome, call.status)]:
                yield f"{call.kind} ({call.status}): {found}"

    def visible_to_others(self) -> Iterator[str]:
        """Yield the calls that a tenant sees although they are another's."""
        for tenant in _TENANTS:
            own = {call.id for call in self._callers.sent if call.tenant == tenant}
            yield from self._listed_ids(tenant) - own
            others = [call for call in self._callers.sent if call.tenant != tenant]
            yield from (
                call.id for call in others[:100] if self._explains(tenant, call)
            )

    def _listed_ids(self, tenant: str) -> set[str]:
        """Return the ids of all calls that a tenant's list contains."""
        key = self._world.keys[tenant]["owner"]
        offsets = range(0, len(self._callers.sent), 1_000)
        pages = [
            self._list({"limit": "1000", "offset": str(offset)}, key)["data"]
            for offset in offsets
        ]
        return {row["id"] for page in pages for row in page}

    def _explains(self, tenant: str, call: _Sent) -> bool:
        """Return whether a tenant gets an explanation of a call."""
        headers = {"authorization": f"Bearer {self._world.keys[tenant]['owner']}"}
        path = f"/admin/v1/calls/{call.id}"
        return self._world.admin.get(path, headers=headers).status_code != 404


def _sums(rows: Sequence[Any], names: Iterable[str]) -> dict[str, int]:
    """Return the sums of some counts over all groups."""
    return {name: sum(row.get(name, 0) for row in rows) for name in names}


def _flood(origin: str, calls: int) -> None:
    """Send calls without a key, one after the other."""
    with httpx.Client(base_url=origin, timeout=60) as client:
        for _ in range(calls):
            client.post("/v1/chat/completions", json={})


def check(folder: Path, calls: int, flood: int, **settings: Any) -> Proof:
    """Make the calls against a server with these settings; return what was found."""
    proof = Proof()
    with Upstream(_answer) as upstream:
        environ = home_with(
            folder,
            upstream.url,
            api_keys=[_BOSS],
            max_body_mb=1,
            queue={"capacity": 24, "waiting": 12},
            **settings,
        )
        port = free_port()
        with running(serve_command(), port, environ=environ):
            world = _World(port, upstream.url)
            callers = _Callers(world)
            asyncio.run(callers.run(calls))
            auditor = _Auditor(world, callers)
            auditor.wait()
            _add_lines(proof, callers, auditor)
            _flood(world.origin, flood)
            _add(
                proof,
                "a flood without a key is counted",
                auditor.wrong_strangers(flood),
            )
            world.admin.close()
    return proof


def _add_lines(proof: Proof, callers: _Callers, auditor: _Auditor) -> None:
    """Add what was found about the calls."""
    outcomes = Counter(call.outcome for call in callers.sent)
    proof.line("calls", dict(outcomes))
    overloaded = [call for call in callers.sent if call.kind == "overload"]
    refused = sum(call.outcome == "refused" for call in overloaded)
    proof.line("refused because too many wait", refused, 0 < refused < len(overloaded))
    _add(proof, "statuses that callers got", callers.unexpected)
    _add(proof, "sums by every grouping", auditor.wrong_sums())
    _add(proof, "calls without a valid key", auditor.wrong_strangers(0))
    _add(proof, "refused and cancelled calls by id", auditor.missing())
    _add(proof, "no call of another tenant", auditor.visible_to_others())


def _add(proof: Proof, label: str, wrong: Any) -> None:
    """Add a line that is right if nothing is wrong."""
    found = list(wrong)
    proof.line(
        label, f"{len(found)} wrong {found[:3]}" if found else "right", not found
    )


def prove() -> Proof:
    """Make the calls on SQLite and on PostgreSQL."""
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as name:
        folder = Path(name)
        with Postgres(folder / "pg") as postgres:
            for database, settings in (
                ("SQLite", {}),
                ("PostgreSQL", {"database": postgres.url}),
            ):
                part = check(folder / database, CALLS, FLOOD, **settings)
                for label, observed, ok in part.lines:
                    proof.line(f"{database}: {label}", observed, ok)
    return proof
