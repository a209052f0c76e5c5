"""The resources that are stored for a tenant: users, keys, credentials, limits, routes,
models, plugins and apps.

Their fields are the stored JSON format.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from modelyard.base.number_bounds import Amount, Priority, Weight
from modelyard.tenancy.caller import Caller, Role
from modelyard.tenancy.reader import ANYBODY, Reader


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant."""

    kind: ClassVar[str] = "tenant"
    label: str = ""
    is_enabled: bool = True
    preferred: dict[str, Literal["custom", "system"]] = {}
    """Provider to whose credentials come first; `custom` by default, if the tenant has
    any."""
    code_network: Literal["", "off", "apps", "on"] = ""
    """Whether code nodes may use the network: none, those of apps that turn it on, or
    all of apps that do not turn it off; empty for what the settings say."""


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user of a tenant."""

    kind: ClassVar[str] = "user"
    role: Role = Role.DEVELOPER
    email: str = ""
    groups: list[str] = []
    """Groups of the user in access lists of documents."""
    is_enabled: bool = True


class GroupClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The groups that the identity provider has named for a person at the last sign-in;
    the resource's name is the person's email address."""

    kind: ClassVar[str] = "group_claims"
    groups: list[str]
    valid_until: float
    """Seconds since 1970."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key. Only its digest is stored."""

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
    unpriced: Literal["", "refuse", "count"] = ""
    """Whether calls whose price is unknown are refused or counted at the stated price,
    where a limit of money applies; empty for what the settings say."""
    speaks_for_users: bool = False
    """Whether its caller may name the user on whose behalf it reads documents."""

    def caller(self, tenant: str, id: str) -> Caller:
        """Return the caller that presents this key. The key must have been verified."""
        reader = Reader(users=(self.user,)) if self.user else ANYBODY
        return Caller(tenant=tenant, key=id, user=self.user, role=self.role,
                      models=tuple(self.models), priority=self.priority,
                      expires_at=self.expires_at, unpriced=self.unpriced,
                      reader=reader, speaks_for_users=self.speaks_for_users)  # fmt: skip


COMPLETED_FIELDS = "__completed"
"""Name in a credential's secret of the fields that are in no form: a plugin has added
them when it tried the credential, and expects them in each call."""


class StoredCredential(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A provider credential that a tenant has stored."""

    kind: ClassVar[str] = "credential"
    provider: str
    secret: str = ""
    """The form values as JSON, encrypted."""
    model: str = ""
    """For one model only; empty for all models of the provider."""
    model_type: str = ""
    weight: Weight = 1.0
    priority: Priority = 0
    """Lower numbers are used first; higher ones only if those cannot serve."""
    domain: str = ""
    """Credentials that share a quota at the provider: if it is exhausted for one, it is
    for all."""
    is_enabled: bool = True


Unit = Literal["requests", "tokens", "cost", "concurrency", "credits", "times"]
Window = Literal["minute", "hour", "day", "month", "total"]


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An amount of a unit within a window, for each value of `per`; -1 means unlimited."""

    kind: ClassVar[str] = "limit"
    unit: Unit
    amount: Amount
    window: Window = "minute"
    per: Literal["tenant", "key", "user", "model"] = "tenant"
    """What is counted separately: `key` gives every key its own amount."""
    key: str = ""
    """Applies to this key only, by id; empty for all keys."""
    user: str = ""
    model: str = ""
    """Applies only to models that match this pattern, such as `openai/*`."""
    credits: dict[str, float] = {}
    """For the unit `credits`: model pattern to the credits of one call; 1 if none
    matches."""
    currency: str = "USD"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that a route may choose."""

    model: str
    """`provider/model`."""
    weight: Weight = 1.0
    priority: Priority = 0


Strategy = Literal[
    "round_robin",
    "weighted",
    "least_in_flight",
    "lowest_latency",
    "lowest_cost",
    "random",
]


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name that callers use like a model, with the models that may serve such a call."""

    kind: ClassVar[str] = "route"
    targets: list[Target]
    strategy: Strategy = "round_robin"
    sticky: Literal["", "user", "prompt"] = ""
    """Session affinity: keep a user, or the start of a prompt, on one credential, so
    that the provider's prompt cache is hit."""
    failover: list[str] = []
    """The models to try, in order, if no target can answer."""
    hedge_after: float | None = None
    """A percentile of the time to the first chunk. After that time a second attempt
    starts, and the first to answer wins."""
    continue_streams: bool = False
    """Let another model continue a text whose stream broke off."""
    when_resting: Literal["wait", "fail"] = "wait"
    cache_seconds: float = 0.0
    """How many seconds answers may be reused, whatever the temperature; 0 to reuse only
    those of deterministic requests."""


class CustomModel(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A model that the catalogue does not list, in the catalogue's format."""

    kind: ClassVar[str] = "model"
    provider: str
    definition: dict[str, Any]


class DefaultModel(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The model that a tenant's `default` stands for; the resource's name is the model
    type."""

    kind: ClassVar[str] = "default"
    model: str
    """`provider/model`."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that a tenant has installed; the resource's name is the plugin's
    `author/name`."""

    kind: ClassVar[str] = "plugin"
    plugin: str
    """`author/name:version@checksum`."""
    source: str = "package"
    """`package`, `marketplace`, `github` or `bundle`."""
    meta: dict[str, Any] = {}
    granted: list[str] | None = None
    """The permissions granted, out of those its manifest requests; None for all of
    them."""
    has_network: bool = True
    """Whether it may connect to the hosts that its manifest asks for."""
    provider: str = ""
    """The name of its model provider in this tenant, if it has one."""


class PluginEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's own HTTP endpoint, served under `/e/ID/`."""

    kind: ClassVar[str] = "endpoint"
    plugin: str
    """`author/name`."""
    secret: str = ""
    """Its settings as JSON, encrypted."""
    user: str = ""
    is_enabled: bool = True


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """The address to which a trigger plugin's provider sends events, served under
    `/t/ID`."""

    kind: ClassVar[str] = "subscription"
    plugin: str
    provider: str
    secret: str = ""
    """The subscription and its credentials as JSON, encrypted."""
    user: str = ""
    is_manual: bool = False
    """Whether a person entered the address at the provider, not the plugin."""


class ToolCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A credential for a tool provider or a datasource provider."""

    kind: ClassVar[str] = "tool_credential"
    provider: str
    """`author/plugin/provider`."""
    secret: str = ""
    type: str = "api-key"
    """`api-key`, `oauth2` or `unauthorized`."""
    expires_at: float = -1.0
    """When an OAuth credential has to be refreshed, in seconds since 1970; -1 for
    never."""
    user: str = ""
    """The user it belongs to; empty for all users of the tenant."""
    label: str = ""
    """Its name among the credentials of the provider; empty in older rows, which have
    it as their name."""


class OAuthClient(msgspec.Struct, frozen=True, kw_only=True):
    """The OAuth client registration of this server at a provider."""

    kind: ClassVar[str] = "oauth_client"
    provider: str
    """`author/plugin/provider`."""
    secret: str = ""


class PluginTask(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin installation that is running or has ended."""

    kind: ClassVar[str] = "plugin_task"
    status: str
    """`running`, `success` or `failed`."""
    plugins: list[dict[str, Any]] = []


# An app's row holds up to 200 of them, so fields with default values are left out.
class AppVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One published version of an app."""

    digest: str
    at: float
    name: str = ""
    note: str = ""


class ChatPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The web page on which people use a published app."""

    token: str = ""
    """The name of the page in its address; empty if there has never been one."""
    is_on: bool = False
    origins: list[str] = []
    """Origins whose pages may embed it in a frame: `https://shop.example`, or `*` for
    all; empty for none."""


class AppTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of a published app that starts runs without a caller."""

    node: str
    """The node's id."""
    title: str
    type: str
    """`webhook`, `schedule` or `plugin`."""
    cron: str = ""
    timezone: str = ""
    provider: str = ""
    """`author/plugin/provider`, or the end of it."""
    event: str = ""
    subscription: str = ""
    """The subscription's id; empty for all subscriptions of the provider."""
    parameters: dict[str, Any] = {}


class StoredApp(msgspec.Struct, frozen=True, kw_only=True):
    """An imported app. Its file is stored under the digest of its content."""

    kind: ClassVar[str] = "app"
    mode: str
    digest: str
    """The digest of the published version; empty before the first one."""
    draft: str = ""
    """The digest of a draft that is not published yet; empty if there is none."""
    versions: list[AppVersion] = []
    """All published versions, the newest last."""
    page: ChatPage = ChatPage()
    triggers: list[AppTrigger] = []
    """The triggers of the published version."""
    webhooks: dict[str, str] = {}
    """Webhook node to the name in its address, for the published version and the draft.
    """
    description: str = ""
    icon: str = ""
    icon_type: str = ""
    """`emoji`, `image` or `link`; empty for what the file says."""
    icon_background: str = ""
    tags: list[str] = []
    """The ids of its tags."""
    mapping: dict[str, dict[str, str]] = {}
    """What replaces the models, tools and datasets that the file names."""
    is_enabled: bool = True
    code_network: bool | None = None
    """Whether its code nodes may use the network; None for what the tenant says."""


class AppTag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag by which a tenant sorts its apps; the resource's name is the tag's name."""

    kind: ClassVar[str] = "app_tag"


class AppKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of one app."""

    kind: ClassVar[str] = "app_key"
    app: str
    """The app's id."""
    digest: str = ""
    hint: str = ""
    speaks_for_users: bool = False
    """Whether its caller may name the user on whose behalf it reads documents."""


class DatasetKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of a tenant's datasets."""

    kind: ClassVar[str] = "dataset_key"
    digest: str = ""
    hint: str = ""
    speaks_for_users: bool = False
    """Whether its caller may name the user on whose behalf it reads documents."""


class ToolProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A tool provider that a tenant added: an HTTP API or an MCP server. Its tool list
    is stored separately."""

    kind: ClassVar[str] = "tool_provider"
    type: str
    """`api` or `mcp`."""
    url: str = ""
    server: str = ""
    """The base address of an API's calls if it was chosen by hand; empty to use the one
    in its description."""
    stdio: str = ""
    """The name under which an administrator registered its program."""
    title: str = ""
    count: int = 0
    secret: str = ""
    """The authentication values sent to it, encrypted."""


class TraceDestination(msgspec.Struct, frozen=True, kw_only=True):
    """Where the traces of an app's runs are sent. Its row is named `APP/NAME`."""

    kind: ClassVar[str] = "trace_destination"
    app: str
    """The app's id."""
    service: str
    url: str
    """The full URL to which spans are posted."""
    project: str = ""
    content: bool = True
    """Whether spans have inputs and outputs."""
    is_enabled: bool = True
    secret: str = ""
    """The request headers as JSON, encrypted."""


Stored = (
    Tenant
    | User
    | GroupClaims
    | ApiKey
    | StoredCredential
    | Limit
    | Route
    | CustomModel
    | DefaultModel
    | Installation
    | PluginEndpoint
    | Subscription
    | ToolCredential
    | OAuthClient
    | PluginTask
    | StoredApp
    | AppTag
    | AppKey
    | DatasetKey
    | ToolProvider
    | TraceDestination
)
# Every stored type must be listed here, or its rows cannot be decoded.
KINDS: Mapping[str, type[Any]] = {
    stored_class.kind: stored_class
    for stored_class in (
        Tenant,
        User,
        GroupClaims,
        ApiKey,
        StoredCredential,
        Limit,
        Route,
        CustomModel,
        DefaultModel,
        Installation,
        PluginEndpoint,
        Subscription,
        ToolCredential,
        OAuthClient,
        PluginTask,
        StoredApp,
        AppTag,
        AppKey,
        DatasetKey,
        ToolProvider,
        TraceDestination,
    )
}
