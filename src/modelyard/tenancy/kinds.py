"""What is stored of a tenant: users, keys, credentials, limits, routes, models, plugins, apps."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from modelyard.base.numbers import Amount, Priority, Weight
from modelyard.tenancy.caller import Caller, Role


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
