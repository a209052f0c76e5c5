"""A tenant whose documents may be read by some people only, every way to their texts,
and a model of who may read what, which shares no code with the product.

Each document contains a code of its own. Whatever a way returns, and whatever a model
is sent because of it, is searched for codes.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.ids import new_uuid
from modelyard.base.settings import KnowledgeSettings, Settings
from modelyard.gateway.auth import SESSION_COOKIE
from modelyard.gateway.server import Gateway
from modelyard.knowledge.entities import Dataset, DatasetSettings, RetrievalSettings
from modelyard.tenancy.caller import Caller, Role
from modelyard.testing.knowledge import HashEmbedder
from modelyard.testing.workflows import ScriptedModel, scripted_models
from tools.show.tenancy import GatewayResponse, ask

TENANT, DATASET = "default", "vault"
QUERY = "sample"
_CODE = re.compile(r"code(\d{4})x")
_OPERATOR = Caller(tenant=TENANT)
_MODEL = {"provider": "scripted", "name": "model", "mode": "chat"}
_AGENT_TOP_K = 4
"""Segments that a dataset tool returns."""


# ------------------------------------------------------------------------- who may read


@dataclass
class Person:
    """A person, as the model knows it."""

    email: str
    directory_groups: set[str] = field(default_factory=set[str])
    """Set by an administrator."""
    claimed_groups: set[str] = field(default_factory=set[str])
    """Named by the identity provider."""
    passed_groups: set[str] = field(default_factory=set[str])
    """Named by a trusted caller, and only in its requests."""
    is_enabled: bool = True


@dataclass
class Rules:
    """Who may read what: plain sets and nothing of the product."""

    lists: dict[int, dict[str, Any] | None]
    """Document to its list {users, groups, everyone}; None for no list."""
    default: str = "everyone"
    off: set[int] = field(default_factory=set[int])
    """Documents that are disabled."""

    def readable(
        self, person: Person | None, *, groups: Iterable[str] = ()
    ) -> set[int]:
        """Return the documents that a person may read, by a request that names these
        groups; None stands for somebody who is not known."""
        if person is not None and not person.is_enabled:
            return set()
        names: set[str] = set() if person is None else {person.email}
        belongs: set[str] = set() if person is None else set(groups)
        if person is not None:
            belongs |= person.directory_groups | person.claimed_groups
        return {
            number
            for number, rule in self.lists.items()
            if number not in self.off and self._allows(rule, names, belongs)
        }

    def _allows(
        self, rule: dict[str, Any] | None, names: set[str], groups: set[str]
    ) -> bool:
        if rule is None:
            return self.default == "everyone"
        by_name = any(name in names for name in rule["users"])
        by_group = any(group in groups for group in rule["groups"])
        return bool(rule["everyone"]) or by_name or by_group


# ----------------------------------------------------------------------------- the world


def code(number: int) -> str:
    """Return the code of a document."""
    return f"code{number:04d}x"


def codes_in(value: Any) -> set[int]:
    """Return the numbers of the documents whose codes a value contains."""
    return {int(number) for number in _CODE.findall(str(value))}


def _app(nodes: Sequence[dict[str, Any]], mode: str) -> str:
    names = [node["id"] for node in nodes]
    edges = [{"source": source, "target": target} for source, target in pairwise(names)]
    graph = {"nodes": list(nodes), "edges": edges}
    app = {"name": mode, "mode": mode}
    workflow = {"graph": graph, "features": {}}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "workflow": workflow}
    )


def _retrieving(count: int) -> str:
    """Return a workflow whose output is what a knowledge node finds."""
    search = {
        "type": "knowledge-retrieval", "title": "k", "dataset_ids": [DATASET],
        "query_variable_selector": ["start", "query"], "retrieval_mode": "multiple",
        "multiple_retrieval_config": {"top_k": count},
    }  # fmt: skip
    query = {"variable": "query", "label": "q", "type": "text-input", "required": True}
    outputs = [{"variable": "found", "value_selector": ["search", "result"]}]
    return _app(
        [
            {"id": "start", "data": {"type": "start", "title": "s", "variables": [query]}},
            {"id": "search", "data": search},
            {"id": "end", "data": {"type": "end", "title": "e", "outputs": outputs}},
        ],
        "workflow",
    )  # fmt: skip


def _agent() -> str:
    """Return an agent whose only tool is the dataset."""
    tools = [{"dataset": {"enabled": True, "id": DATASET}}]
    config = {
        "model": _MODEL, "pre_prompt": "Look it up.", "user_input_form": [],
        "agent_mode": {"enabled": True, "strategy": "function_call", "tools": tools},
    }  # fmt: skip
    app = {"name": "agent", "mode": "agent-chat"}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "model_config": config}
    )


@dataclass
class World:
    """A server with the documents, its keys, and the model of who may read what."""

    yard: Modelyard
    gateway: Gateway
    model: ScriptedModel
    people: list[Person]
    rules: Rules
    random: random.Random
    ids: list[str] = field(default_factory=list[str])
    keys: dict[str, str] = field(default_factory=dict[str, str])
    user_rows: dict[str, str] = field(default_factory=dict[str, str])
    sessions: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def base(self) -> str:
        """The path of the dataset."""
        return f"/v1/datasets/{self.keys['dataset']}"

    async def dataset(self) -> Dataset:
        """Return the dataset as it is stored now."""
        return await self.yard.knowledge.datasets.get_by_id_or_name(TENANT, DATASET)

    async def call(
        self, method: str, path: str, key: str, body: Any = None, **headers: str
    ) -> GatewayResponse:
        """Send a request with a key, and with headers by their names with underscores."""
        lines = [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in headers.items()
        ]
        return await ask(self.gateway, method, path, key, body, lines)


def _speaking(person: Person | None, world: World) -> dict[str, str]:
    """Return the headers that name a person and the groups that a trusted caller knows."""
    if person is None:
        return {}
    groups = ",".join(quote(group) for group in sorted(person.passed_groups))
    names = {"x_modelyard_user": quote(person.email.upper())}
    return {**names, "x_modelyard_groups": groups} if groups else names


@asynccontextmanager
async def opened_world(
    home: Path,
    people_count: int,
    document_count: int,
    *,
    database: str = "",
    store: str = "",
) -> AsyncGenerator[World]:
    """Open a server with people, documents and keys."""
    model = ScriptedModel()
    definition, builder = scripted_models(model)
    settings = Settings(
        home=str(home), defaults={"llm": "scripted/model"}, database=database,
        knowledge=KnowledgeSettings(store=store or "memory"),
        # A server with a key is not open: every caller must show one.
        api_keys=["operator-key-of-the-settings"],
    )  # fmt: skip
    async with Modelyard(
        settings, definitions=[definition], builders={"scripted": builder}, environ={},
        embedder=HashEmbedder(),
    ) as yard:  # fmt: skip
        chance = random.Random(7)
        people = [
            Person(f"person{number}@example.com") for number in range(people_count)
        ]
        rules = Rules(dict.fromkeys(range(document_count)))
        gateway = gateway_for(yard.services)
        world = World(yard, gateway, model, people, rules, chance)
        await _add_documents(world, document_count)
        await _add_people(world)
        await _add_keys(world, document_count)
        yield world


async def _add_documents(world: World, count: int) -> None:
    """Add the documents; all of them match the query by words and by meaning."""
    datasets = world.yard.knowledge.datasets
    dataset = await datasets.create(
        TENANT, DATASET,
        settings=DatasetSettings(retrieval_model=RetrievalSettings(top_k=count)),
    )  # fmt: skip
    texts = [
        (
            f"report {code(number)}",
            f"A sample report on parcels: {code(number)} says so.",
        )
        for number in range(count)
    ]
    added = await datasets.add_texts(dataset, texts)
    await datasets.wait(dataset, added[0].batch, 120)
    world.ids = [document.id for document in added]
    world.keys["dataset"] = dataset.id


async def _add_people(world: World) -> None:
    """Add an entry in the directory, an API key and a signed-in account for each."""
    tenancy = world.yard.services.tenancy
    for number, person in enumerate(world.people):
        name = person.email
        fields: Any = {"email": name, "groups": []}
        row = await tenancy.administration.create(
            _OPERATOR, TENANT, "user", name, fields
        )
        world.user_rows[name] = row["id"]
        key = await tenancy.administration.create(
            _OPERATOR, TENANT, "key", f"key{number}", {"user": name}
        )
        world.keys[name] = key["key"]
        account = await tenancy.accounts.sign_in_external(name, name, Role.DEVELOPER)
        world.sessions[name], _ = await tenancy.accounts.sessions.open(account)


async def _add_keys(world: World, count: int) -> None:
    """Add the keys of trusted callers and of others, and the apps."""
    tenancy, apps = world.yard.services.tenancy, world.yard.apps
    world.keys["trusted"] = await tenancy.dataset_keys.create(
        TENANT, speaks_for_users=True
    )
    world.keys["plain"] = await tenancy.dataset_keys.create(TENANT)
    admin: Any = {"role": "admin", "speaks_for_users": True}
    api_key = await tenancy.administration.create(
        _OPERATOR, TENANT, "key", "trusted", admin
    )
    world.keys["api"] = api_key["key"]
    for name, file in (("workflow", _retrieving(count)), ("agent", _agent())):
        record, _, _ = await apps.add(TENANT, file, name=name)
        world.keys[name] = (await apps.make_key(record, speaks_for_users=True))[1]
        world.keys[f"{name} plain"] = (await apps.make_key(record))[1]


# ------------------------------------------------------------------------------- changes


async def set_lists(world: World, lists: dict[int, dict[str, Any] | None]) -> None:
    """Set access lists by the API, and in the model."""
    changes = [
        {"document_id": world.ids[number], "access": rule}
        for number, rule in lists.items()
    ]
    for start in range(0, len(changes), 500):
        body = {"documents": changes[start : start + 500]}
        reply = await world.call(
            "POST", f"{world.base}/documents/access", world.keys["plain"], body
        )
        assert reply.status == 200, reply.body
    world.rules.lists.update(lists)


async def set_default(world: World, default: str) -> None:
    """Set who may read documents without a list."""
    body = {"default_access": default}
    reply = await world.call("PATCH", world.base, world.keys["plain"], body)
    assert reply.status == 200, reply.body
    world.rules.default = default


async def set_person(world: World, person: Person) -> None:
    """Store a person's groups and state as an administrator and a sign-in do."""
    tenancy = world.yard.services.tenancy
    changes: Any = {
        "groups": sorted(person.directory_groups), "is_enabled": person.is_enabled,
    }  # fmt: skip
    row = world.user_rows[person.email]
    await tenancy.administration.change(_OPERATOR, TENANT, "user", row, changes)
    await tenancy.memberships.record_claims(
        TENANT, person.email, sorted(person.claimed_groups), 3600
    )


async def shuffle(world: World) -> None:
    """Change lists, groups, the default and the state of documents at random."""
    chance, groups = world.random, [f"group {number}" for number in range(8)]
    emails = [person.email for person in world.people]

    def rule() -> dict[str, Any] | None:
        """Return a list of some users and groups, of nobody, of everyone, or none."""
        kind = chance.random()
        if kind < 0.15:
            return None
        users = chance.sample(emails, chance.randint(0, 2)) if kind < 0.9 else []
        named = chance.sample(groups, chance.randint(0, 2)) if kind < 0.8 else []
        return {"users": users, "groups": named, "everyone": kind > 0.93}

    await set_lists(world, {number: rule() for number in world.rules.lists})
    await set_default(world, chance.choice(["everyone", "nobody"]))
    for person in world.people:
        person.directory_groups = set(chance.sample(groups, chance.randint(0, 2)))
        person.claimed_groups = set(chance.sample(groups, chance.randint(0, 1)))
        person.passed_groups = set(chance.sample(groups, chance.randint(0, 2)))
        # Disabled people cannot call at all; whoever speaks for them finds nothing.
        person.is_enabled = chance.random() > 0.1
        await set_person(world, person)
    dataset = await world.dataset()
    library = world.yard.knowledge.stored.library
    world.rules.off = set(chance.sample(sorted(world.rules.lists), 2))
    off = [world.ids[number] for number in sorted(world.rules.off)]
    on = sorted(set(world.ids) - set(off))
    await library.set_flags(TENANT, dataset.id, on, enabled=True)
    await library.set_flags(TENANT, dataset.id, off, enabled=False)


# ---------------------------------------------------------------------------- the ways in


@dataclass(frozen=True)
class Outcome:
    """What a way has shown, and what it must show."""

    codes: set[int]
    allowed: set[int]
    max_count: int = 1_000_000
    """How many documents the way shows at most."""

    @property
    def leaks(self) -> set[int]:
        """The documents that should not have been shown."""
        return self.codes - self.allowed

    @property
    def missing(self) -> int:
        """How many of the readable documents were not shown."""
        return max(0, min(self.max_count, len(self.allowed)) - len(self.codes))


Route = Callable[[World, Person | None], Awaitable[Outcome | None]]
"""Returns None where a way is not open to a person."""


def _search(method: str) -> Route:
    async def route(world: World, person: Person | None) -> Outcome:
        """Search by a dataset key that speaks for the person."""
        settings = {"search_method": method, "top_k": len(world.ids)}
        reply = await world.call(
            "POST", f"{world.base}/retrieve", world.keys["trusted"],
            {"query": QUERY, "retrieval_model": settings}, **_speaking(person, world),
        )  # fmt: skip
        assert reply.status == 200, reply.body
        return Outcome(codes_in(reply.body), _by_headers(world, person))

    return route


def _by_headers(world: World, person: Person | None) -> set[int]:
    passed = person.passed_groups if person is not None else ()
    return world.rules.readable(person, groups=passed)


async def _own_key(world: World, person: Person | None) -> Outcome | None:
    """Search by the person's API key; without a person by a key that names nobody."""
    key = world.keys["plain"] if person is None else world.keys[person.email]
    reply = await world.call("POST", f"{world.base}/hit-testing", key, {"query": QUERY})
    if person is not None and not person.is_enabled:
        assert reply.status == 401, reply.body
        return Outcome(codes_in(reply.body), set())
    assert reply.status == 200, reply.body
    return Outcome(codes_in(reply.body), world.rules.readable(person))


async def _session(world: World, person: Person | None) -> Outcome | None:
    """Search as a person who is signed in to the console."""
    if person is None:
        return None
    cookie = f"{SESSION_COOKIE}={world.sessions[person.email]}"
    reply = await world.call(
        "POST", f"{world.base}/retrieve", "", {"query": QUERY},
        cookie=cookie, sec_fetch_site="same-origin",
    )  # fmt: skip
    assert reply.status == (200 if person.is_enabled else 401), reply.body
    return Outcome(codes_in(reply.body), world.rules.readable(person))


async def _external(world: World, person: Person | None) -> Outcome:
    """Search as another product does, by an API key that speaks for the person."""
    body = {
        "knowledge_id": world.keys["dataset"], "query": QUERY,
        "retrieval_setting": {"top_k": len(world.ids), "score_threshold": 0},
    }  # fmt: skip
    speaking = _speaking(person, world)
    reply = await world.call("POST", "/retrieval", world.keys["api"], body, **speaking)
    assert reply.status == 200, reply.body
    return Outcome(codes_in(reply.body), _by_headers(world, person))


async def _answer(world: World, person: Person | None) -> Outcome:
    """Ask for an answer: its sources, its citations, and what the model is sent."""
    world.model.requests.clear()
    reply = await world.call(
        "POST", f"{world.base}/ask", world.keys["trusted"],
        {"query": QUERY, "stream": True, "retrieval_model": {"top_k": len(world.ids)}},
        **_speaking(person, world),
    )  # fmt: skip
    assert reply.status == 200, reply.body
    prompts = [
        message.text for request in world.model.requests for message in request.messages
    ]
    allowed = _by_headers(world, person)
    # The context has room for some sources only.
    max_count = min(len(allowed), 10)
    return Outcome(codes_in(reply.body) | codes_in(prompts), allowed, max_count)


async def _workflow(world: World, person: Person | None) -> Outcome:
    """Run a workflow with a knowledge node; the request's user is who asks."""
    key = world.keys["workflow plain" if person is None else "workflow"]
    user = "nobody in particular" if person is None else person.email
    body = {"inputs": {"query": QUERY}, "user": user, "response_mode": "blocking"}
    reply = await world.call("POST", "/v1/workflows/run", key, body)
    assert reply.status == 200, reply.body
    assert b"succeeded" in reply.body, reply.body
    return Outcome(codes_in(reply.body), world.rules.readable(person))


async def _spoofed_workflow(world: World, person: Person | None) -> Outcome | None:
    """Name a person as the request's user by a key that may not speak for users."""
    if person is None:
        return None
    body = {
        "inputs": {"query": QUERY},
        "user": person.email,
        "response_mode": "blocking",
    }
    reply = await world.call(
        "POST", "/v1/workflows/run", world.keys["workflow plain"], body
    )
    assert reply.status == 200, reply.body
    assert b"succeeded" in reply.body, reply.body
    return Outcome(codes_in(reply.body), world.rules.readable(None))


async def _agent_answer(world: World, person: Person | None) -> Outcome:
    """Ask an agent whose tool is the dataset: its events, and what its model is sent."""
    world.model.requests.clear()
    body = {"inputs": {}, "query": QUERY, "user": "u", "response_mode": "streaming"}
    reply = await world.call(
        "POST",
        "/v1/chat-messages",
        world.keys["agent"],
        body,
        **_speaking(person, world),
    )
    assert reply.status == 200, reply.body
    assert b"message_end" in reply.body, reply.body
    sent = [
        message.text for request in world.model.requests for message in request.messages
    ]
    allowed = _by_headers(world, person)
    return Outcome(codes_in(reply.body) | codes_in(sent), allowed, _AGENT_TOP_K)


async def _mcp_tool(world: World, person: Person | None) -> Outcome:
    """Call the dataset's tool over MCP."""
    params = {"name": f"dataset_{DATASET}", "arguments": {"query": QUERY}}
    reply = await _mcp(world, person, "tools/call", params)
    return Outcome(codes_in(reply.body), _by_headers(world, person), _AGENT_TOP_K)


async def _mcp_resource(world: World, person: Person | None) -> Outcome:
    """Read the dataset as a resource over MCP: the names of its documents."""
    params = {"uri": f"modelyard://datasets/{world.keys['dataset']}"}
    reply = await _mcp(world, person, "resources/read", params)
    allowed = _by_headers(world, person)
    (content,) = json.loads(reply.body)["result"]["contents"]
    assert json.loads(content["text"])["total"] == len(allowed), "the count tells more"
    return Outcome(codes_in(reply.body), allowed)


async def _mcp(
    world: World, person: Person | None, method: str, params: dict[str, Any]
) -> GatewayResponse:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    reply = await world.call(
        "POST", f"/mcp?tools=dataset:{DATASET}", world.keys["api"], message,
        mcp_protocol_version="2025-11-25", **_speaking(person, world),
    )  # fmt: skip
    assert reply.status == 200, reply.body
    assert b'"error"' not in reply.body, reply.body
    return reply


async def _documents(world: World, person: Person | None) -> Outcome | None:
    """Read each document and its segments by their ids; unknown ids answer the same."""
    if person is None or not person.is_enabled:
        return None
    codes: set[int] = set()
    key = world.keys[person.email]
    unknown = new_uuid()
    absent = await world.call("GET", f"{world.base}/documents/{unknown}", key)
    for number, document in enumerate(world.ids):
        path = f"{world.base}/documents/{document}"
        for end in ("", "/segments"):
            reply = await world.call("GET", f"{path}{end}", key)
            codes |= codes_in(reply.body)
            text = reply.body.replace(document.encode(), unknown.encode())
            hidden = number not in world.rules.readable(person)
            assert not hidden or (reply.status, text) == (absent.status, absent.body)
    return Outcome(codes, world.rules.readable(person))


async def _management(world: World, person: Person | None) -> Outcome | None:
    """Ask for lists, counts, queries and evaluations: refused, or without a code."""
    if person is None or not person.is_enabled:
        return None
    key, codes = world.keys[person.email], set[int]()
    is_protected = world.rules.default == "nobody" or any(world.rules.lists.values())
    for path in (
        f"{world.base}/documents", f"{world.base}/queries", f"{world.base}/metadata",
        f"/admin/v1/evaluations/{DATASET}",
    ):  # fmt: skip
        reply = await world.call("GET", path, key)
        codes |= codes_in(reply.body)
        assert not is_protected or reply.status == 403, (path, reply.body)
    reply = await world.call("GET", world.base, key)
    counted = json.loads(reply.body)["document_count"]
    assert counted == (0 if is_protected else len(world.ids)), reply.body
    return Outcome(
        codes, world.rules.readable(person) if not is_protected else set(), 0
    )


ROUTES: dict[str, Route] = {
    "full text": _search("full_text_search"),
    "vectors": _search("semantic_search"),
    "hybrid": _search("hybrid_search"),
    "the person's key": _own_key,
    "signed in": _session,
    "another product": _external,
    "answers and citations": _answer,
    "workflow node": _workflow,
    "a user that is only stated": _spoofed_workflow,
    "agent": _agent_answer,
    "MCP tool": _mcp_tool,
    "MCP resource": _mcp_resource,
    "single documents": _documents,
    "lists, counts, evaluations": _management,
}


async def wait_until(check: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Wait until a check holds; return whether it did in time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not await check():
        if loop.time() > until:
            return False
        await asyncio.sleep(0.02)
    return True
