"""Tenants and what belongs to them, as each process knows it: users, keys, credentials, limits, routes, models."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from modelyard.base.numbers import Amount, Priority, Weight
from modelyard.runtime.caller import DEFAULT_TENANT, Caller, Role
from modelyard.storage.resources import Resource

logger = logging.getLogger("modelyard.tenancy")


# ---------------------------------------------------------------------------------------------- what is stored


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: ClassVar[str] = "tenant"
    label: str = ""
    is_enabled: bool = True
    preferred: dict[str, Literal["custom", "system"]] = {}
    """Provider → whose credentials go first; custom where nothing is said and there are some."""


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: ClassVar[str] = "user"
    role: Role = Role.DEVELOPER
    email: str = ""
    is_enabled: bool = True


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: ClassVar[str] = "key"
    digest: str = ""
    hint: str = ""
    role: Role = Role.DEVELOPER
    user: str | None = None
    models: list[str] = []
    priority: Priority = 0
    expires_at: float | None = None
    """Seconds since 1970."""
    revoked_at: float | None = None

    def caller(self, tenant: str, id: str) -> Caller:  # noqa: A002
        """Whoever shows this key, once it was found to be valid."""
        return Caller(
            tenant=tenant, key=id, user=self.user, role=self.role, models=tuple(self.models), priority=self.priority,
            expires_at=self.expires_at,
        )  # fmt: skip


class StoredCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: ClassVar[str] = "credential"
    provider: str
    secret: str = ""
    """The form's values as JSON, encrypted."""
    model: str = ""
    """For one model alone; empty for all of the provider's."""
    model_type: str = ""
    weight: Weight = 1.0
    priority: Priority = 0
    """Lower goes first; the others serve when those before them cannot."""
    domain: str = ""
    """Credentials that share a quota at the provider: what exhausts it for one does for all."""
    is_enabled: bool = True


Unit = Literal["requests", "tokens", "cost", "concurrency", "credits", "times"]
Window = Literal["minute", "hour", "day", "month", "total"]


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So much of a unit, within a window, for each of what `per` names; -1 is unlimited."""

    kind: ClassVar[str] = "limit"
    unit: Unit
    amount: Amount
    window: Window = "minute"
    per: Literal["tenant", "key", "user", "model"] = "tenant"
    """A counter for each: `key` means that every key has so much."""
    key: str = ""
    """For this key alone, by id."""
    user: str = ""
    model: str = ""
    """For models that fit this pattern alone, as `openai/*`."""
    credits: dict[str, float] = {}
    """For the unit credits: model pattern → what one call takes; 1 where none fits."""
    currency: str = "USD"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that a route may choose."""

    model: str
    """`provider/model`."""
    weight: Weight = 1.0
    priority: Priority = 0


Strategy = Literal["round_robin", "weighted", "least_in_flight", "lowest_latency", "lowest_cost", "random"]


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name that callers use as a model, and where such a call may go."""

    kind: ClassVar[str] = "route"
    targets: list[Target]
    strategy: Strategy = "round_robin"
    sticky: Literal["", "user", "prompt"] = ""
    """Keep a user, or a prompt's beginning, with one credential, so that the provider's prompt cache is hit."""
    failover: list[str] = []
    """What to try, in order, when no target can answer."""
    hedge_after: float | None = None
    """A percentile of this model's times to the first chunk: after so long a second one is asked, the first wins."""
    continue_streams: bool = False
    """Have another model go on with a text that broke off."""
    when_resting: Literal["wait", "fail"] = "wait"
    cache_seconds: float = 0.0
    """Answers may be given again for so long, whatever the temperature; 0 for deterministic requests alone."""


class CustomModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model beyond the catalogue's, in the catalogue's words."""

    kind: ClassVar[str] = "model"
    provider: str
    definition: dict[str, Any]


class DefaultModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant's `default` stands for; its name is the model type."""

    kind: ClassVar[str] = "default"
    model: str
    """`provider/model`."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that a tenant has; its name is the plugin's, as `author/name`."""

    kind: ClassVar[str] = "plugin"
    plugin: str
    """`author/name:version@checksum`."""
    source: str = "package"
    """`package`, `marketplace`, `github` or `bundle`."""
    meta: dict[str, Any] = {}
    granted: list[str] | None = None
    """What it may ask its host for, of what its manifest asks; all of that where nothing is said."""
    provider: str = ""
    """What its model provider is called here, where it has one."""


class PluginEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's own addresses, served under `/e/ID/`."""

    kind: ClassVar[str] = "endpoint"
    plugin: str
    """`author/name`."""
    secret: str = ""
    """Its settings as JSON, encrypted."""
    user: str = ""
    is_enabled: bool = True


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trigger plugin's provider sends what happens, served under `/t/ID`."""

    kind: ClassVar[str] = "subscription"
    plugin: str
    provider: str
    secret: str = ""
    """The subscription and its credentials as JSON, encrypted."""
    user: str = ""


class ToolCredential(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool or datasource provider is called with."""

    kind: ClassVar[str] = "tool_credential"
    provider: str
    """`author/plugin/provider`."""
    secret: str = ""
    type: str = "api-key"
    """`api-key`, `oauth2` or `unauthorized`."""
    expires_at: float = -1.0
    """When an OAuth credential has to be made anew; -1 for never."""
    user: str = ""
    """Whose it is; empty for all of the tenant's users."""


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider knows this server by, where people let it act for them."""

    kind: ClassVar[str] = "oauth_client"
    provider: str
    """`author/plugin/provider`."""
    secret: str = ""


class PluginTask(msgspec.Struct, frozen=True, kw_only=True):
    """An installation that runs, or ran."""

    kind: ClassVar[str] = "plugin_task"
    status: str
    """`running`, `success` or `failed`."""
    plugins: list[dict[str, Any]] = []


class AppVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was published once."""

    digest: str
    at: float
    name: str = ""
    note: str = ""


class ChatPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The page on which people use a published app."""

    token: str = ""
    """Names the page in its address; empty where there never was one."""
    is_on: bool = False
    origins: list[str] = []
    """Whose pages may show it in a frame: `https://shop.example`, or `*` for all; empty for none."""


class AppTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of a published app that begins runs of it without a caller."""

    node: str
    """Its id."""
    title: str
    type: str
    """`webhook`, `schedule` or `plugin`."""
    cron: str = ""
    timezone: str = ""
    provider: str = ""
    """`author/plugin/provider`, or the end of that."""
    event: str = ""
    subscription: str = ""
    """Its id; empty for all of the provider."""
    parameters: dict[str, Any] = {}


class StoredApp(msgspec.Struct, frozen=True, kw_only=True):
    """An app that was imported; its file is kept by what it says."""

    kind: ClassVar[str] = "app"
    mode: str
    digest: str
    """Of the version that is published; empty before there is one."""
    draft: str = ""
    """Of a version that waits to be published; empty where none does."""
    versions: list[AppVersion] = []
    """All that were published, the newest last."""
    page: ChatPage = ChatPage()
    triggers: list[AppTrigger] = []
    """Of the version that is published."""
    webhooks: dict[str, str] = {}
    """Webhook node → what names it in its address; of what is published, and of the draft."""
    description: str = ""
    icon: str = ""
    mapping: dict[str, dict[str, str]] = {}
    """models, tools, datasets: what stands in for what the file names."""
    is_enabled: bool = True


class AppKey(msgspec.Struct, frozen=True, kw_only=True):
    """What callers of one app show."""

    kind: ClassVar[str] = "app_key"
    app: str
    """Its id."""
    digest: str = ""
    hint: str = ""


class DatasetKey(msgspec.Struct, frozen=True, kw_only=True):
    """What callers of a tenant's datasets show."""

    kind: ClassVar[str] = "dataset_key"
    digest: str = ""
    hint: str = ""


class ToolProvider(msgspec.Struct, frozen=True, kw_only=True):
    """Tools that a tenant added: an HTTP API, or an MCP server. What it offers is kept beside."""

    kind: ClassVar[str] = "tool_provider"
    type: str
    """`api` or `mcp`."""
    url: str = ""
    server: str = ""
    """Where an API's calls go, where that was chosen by hand; empty for where its description says."""
    stdio: str = ""
    """Under which name an administrator registered its program."""
    title: str = ""
    count: int = 0
    secret: str = ""
    """What is shown to it, encrypted."""


Stored = (
    Tenant | User | ApiKey | StoredCredential | Limit | Route | CustomModel | DefaultModel
    | Installation | PluginEndpoint | Subscription | ToolCredential | OAuthClient | PluginTask | StoredApp | AppKey
    | DatasetKey | ToolProvider
)  # fmt: skip
KINDS: Mapping[str, type[Any]] = {
    one.kind: one
    for one in (
        Tenant, User, ApiKey, StoredCredential, Limit, Route, CustomModel, DefaultModel, Installation, PluginEndpoint,
        Subscription,
        ToolCredential, OAuthClient, PluginTask, StoredApp, AppKey, DatasetKey, ToolProvider,
    )
}  # fmt: skip
StoredT = TypeVar("StoredT")


class Known(msgspec.Struct, frozen=True):
    """A resource with its words read."""

    id: str
    name: str
    value: Any
    set_by: str = ""
    """`operator` or `settings`; empty where the tenant itself set it."""


OPERATOR, SETTINGS = "operator", "settings"
"""Who set a row, where it was not the tenant itself: the one mark, for every kind of row and every tenant, the default
one included. A credential's mark says whether its addresses are the operator's word (`runtime/operators.py`)."""
KEPT_BY_OPERATOR = frozenset({Limit.kind, Route.kind, CustomModel.kind, DefaultModel.kind, StoredCredential.kind})
"""Kinds of rows that a tenant may neither change nor take away nor replace where the operator set them: what it may
use, how fast, at what price, and with whose credential. Others that the operator makes for it (its keys, users, apps,
plugins) are its own from then on."""
TAKEN_BY_OPERATOR = frozenset({Limit.kind, CustomModel.kind})
"""Of these, those that are the operator's from the moment on at which it changes one of the tenant's own."""


# ---------------------------------------------------------------------------------------------- the view

_FROM_SETTINGS = "file:"


class Changes(Protocol):
    """Where the view comes from."""

    async def since(self, revision: int) -> Sequence[Resource]: ...


class Directory:
    """Everything that tenants have set up, in memory; `refresh` brings in what other processes changed.

    The data path looks things up here and nowhere else: a call waits for no database.
    """

    def __init__(self, source: Changes) -> None:
        self._source = source
        self.is_read = False
        """Whether it was ever filled: before that it knows of nobody, and nobody may be admitted by it."""
        self._revision = 0
        self._all: dict[tuple[str, str], dict[str, Known]] = defaultdict(dict)
        self._owner_of_key: dict[str, str] = {}
        self._gone: set[str] = set()
        """Tenants that were removed: what was theirs serves nobody."""
        self._listeners: list[Callable[[set[tuple[str, str]]], None]] = []
        self.changes = 0
        """Grows with every change: what was derived from the view before is stale."""

    def on_change(self, listener: Callable[[set[tuple[str, str]]], None]) -> None:
        """Have it told which (tenant, kind) changed."""
        self._listeners.append(listener)

    def configure(self, tenant: str, given: Mapping[str, Mapping[str, Any]]) -> None:
        """Resources from the settings, kind → name → value, in the place of those that came from there before."""
        for kind, values in given.items():
            here = self._all[tenant, kind]
            for row in [one for one in here if one.startswith(_FROM_SETTINGS)]:
                del here[row]
            for name, value in values.items():
                here[f"{_FROM_SETTINGS}{name}"] = Known(f"{_FROM_SETTINGS}{name}", name, value, SETTINGS)
        self._tell({(tenant, kind) for kind in given})

    def _tell(self, touched: set[tuple[str, str]]) -> None:
        if touched:
            self.changes += 1
            for listener in self._listeners:
                listener(touched)

    async def refresh(self) -> None:
        """Bring in what changed since the last time. Raises StorageUnavailableError."""
        self.take(await self._source.since(self._revision))
        self.is_read = True

    def take(self, changed: Sequence[Resource]) -> None:
        """Bring in these, oldest first. What another refresh brought in meanwhile stays: it may be newer."""
        known = self._revision
        touched: set[tuple[str, str]] = set()
        for one in changed:
            if one.revision <= known:
                continue
            self._revision = max(self._revision, one.revision)
            self._apply(one)
            touched.add((one.tenant, one.kind))
        self._tell(touched)

    def _apply(self, one: Resource) -> None:
        here = self._all[one.tenant, one.kind]
        here.pop(one.id, None)
        if one.kind == Tenant.kind:
            (self._gone.add if one.is_deleted else self._gone.discard)(one.tenant)
        if one.is_deleted:
            if one.kind == ApiKey.kind:
                self._owner_of_key.pop(one.id, None)
            return
        try:
            value = msgspec.json.decode(one.body, type=KINDS[one.kind])
            here[one.id] = Known(one.id, one.name, value, one.set_by)
        except (msgspec.MsgspecError, KeyError) as error:  # written by a newer version: left out, and said
            fields = {"tenant": one.tenant, "kind": one.kind, "id": one.id, "error": str(error)}
            logger.error("a stored resource cannot be read", extra={"fields": fields})
            return
        if one.kind == ApiKey.kind:
            self._owner_of_key[one.id] = one.tenant

    @property
    def revision(self) -> int:
        return self._revision

    def of(self, tenant: str, kind: type[StoredT]) -> list[tuple[Known, StoredT]]:
        """A tenant's resources of a kind."""
        known: Any = kind
        return [(one, one.value) for one in self._all.get((tenant, known.kind), {}).values()]

    def one(self, tenant: str, kind: type[StoredT], id: str) -> StoredT | None:  # noqa: A002
        known: Any = kind
        found = self._all.get((tenant, known.kind), {}).get(id)
        return found.value if found else None

    def named(self, tenant: str, kind: type[StoredT], name: str) -> StoredT | None:
        return next((value for one, value in self.of(tenant, kind) if one.name == name), None)

    def key(self, id: str) -> tuple[str, ApiKey] | None:  # noqa: A002
        """(tenant, key): whose it is follows from the key, never from what the caller says."""
        tenant = self._owner_of_key.get(id)
        found = self.one(tenant, ApiKey, id) if tenant is not None else None
        return (tenant, found) if tenant is not None and found is not None else None

    def caller_of_key(self, id: str, now: float) -> Caller | None:  # noqa: A002
        """What a key of this id may do now; None if it was revoked, has expired, or its tenant or user is disabled."""
        found = self.key(id)
        if found is None:
            return None
        tenant, key = found
        is_expired = key.expires_at is not None and key.expires_at <= now
        if key.revoked_at is not None or is_expired or not self.admits(tenant, key.user):
            return None
        return key.caller(tenant, id)

    @property
    def has_keys(self) -> bool:
        return bool(self._owner_of_key)

    def wherever(self, kind: type[StoredT], id: str) -> tuple[str, StoredT] | None:  # noqa: A002
        """(tenant, resource) by an id that is a secret of its own, as the one in a webhook's address."""
        known: Any = kind
        for (tenant, name), here in self._all.items():
            if name == known.kind and (found := here.get(id)) is not None:
                return tenant, found.value
        return None

    def anybody(self, kind: type[StoredT], fits: Callable[[StoredT], bool]) -> bool:
        """Whether any tenant has one of a kind that fits."""
        known: Any = kind
        here = [values for (_, name), values in self._all.items() if name == known.kind]
        return any(fits(one.value) for values in here for one in values.values())

    def everywhere(self, kind: type[StoredT]) -> Iterator[tuple[str, Known, StoredT]]:
        """(tenant, what is known of it, resource): for what is found by a secret that only its owner gave away."""
        known: Any = kind
        for (tenant, name), here in list(self._all.items()):
            if name == known.kind:
                yield from ((tenant, one, one.value) for one in here.values())

    def tenants(self) -> Iterator[tuple[str, Tenant]]:
        for (tenant, kind), here in list(self._all.items()):
            if kind == Tenant.kind:
                yield from ((tenant, one.value) for one in here.values())

    def is_enabled(self, tenant: str) -> bool:
        found = self.one(tenant, Tenant, tenant)
        return tenant == DEFAULT_TENANT if found is None else found.is_enabled

    def admits(self, tenant: str, user: str | None = None) -> bool:
        """Whether neither the tenant nor the user is switched off: asked on every way in, on every call."""
        return self.is_enabled(tenant) and not self.shuts_out(tenant, user)

    def shuts_out(self, tenant: str, user: str | None = None) -> bool:
        """Whether the tenant was removed or switched off, or the user was.

        Neither can be where it is no row: programs of the operator's may name tenants of their own, callers users.
        """
        found = self.one(tenant, Tenant, tenant)
        if tenant in self._gone if found is None else not found.is_enabled:
            return True
        row = self.named(tenant, User, user) if user else None
        return row is not None and not row.is_enabled
