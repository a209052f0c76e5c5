"""Settings from `modelyard.yaml` and `MODELYARD_…` variables as one frozen object. Read
by `app` and `cli` only.

Every field has a default suitable for a laptop. All mistakes in a file are reported
together, each with its line.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.json_types import is_array, is_object
from modelyard.base.number_bounds import FiniteLoader, Priority, Weight, check_numbers
from modelyard.base.yaml_lines import line_of_mistake, yaml_lines

_ENV_PREFIX = "MODELYARD_"
# A path would be ignored by browsers, which compare origins alone.
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?")
# As in shells: `${NAME}`, or `${NAME:-default}`.
_REFERENCE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


# Every section forbids unknown fields: a misspelt name would otherwise mean the
# default.
class CredentialSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """One credential of a provider."""

    values: dict[str, str]
    """The provider's form fields, for example `api_key: sk-…`."""
    name: str = ""
    """Name of this credential in the ledger; its position in the list if empty."""
    weight: Weight = 1.0
    """Share of the load relative to the other credentials."""
    priority: Priority = 0
    """Lower values are used first; the others take over when those cannot serve."""
    domain: str = ""
    """Credentials that share a quota at the provider: if one exhausts it, all are put
    in cooldown."""
    quota: dict[str, Any] = {}
    """Makes this a hosted credential that every tenant may use within a limit, for
    example `{unit: credits, amount: 200}`."""


class ProviderSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A provider to enable: from the catalogue by name, or from a folder or file by
    path."""

    name: str = ""
    path: str = ""
    """A provider definition file, or a folder with a provider in Dify's layout."""
    base_url: str = ""
    wire: str = ""
    """Wire format for a provider whose own code is not executed; `openai` if empty."""
    credentials: list[CredentialSettings] = []
    models: list[dict[str, Any]] = []
    """Models in addition to the catalogue's, in the catalogue's format; `quirks` too."""
    health_url: str = ""
    """Probed every `health_seconds`. While it does not return success, the provider's
    credentials are in cooldown."""
    health_seconds: float = 30.0
    proxy: str = ""
    """Proxy for this provider, as in `network.proxy`; `none` for a direct connection.
    If empty, `network` and the environment decide."""


class LocalSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Models that run on this machine."""

    enabled: bool = True
    weights: str = ""
    """Folder with existing weight files; searched before anything is downloaded."""
    hub: str = "https://huggingface.co"
    """Source of weights that are not available as packages; empty to disable downloads.
    """
    threads: int = 0
    """Threads per model; 0 for half the cores. llama.cpp becomes extremely slow with
    more threads than free cores."""
    context: int = 0
    """Context window in tokens for chat, per concurrent request. 0 for 32,768 with the
    chat model of the set `large` and 4,096 with others, or less where the machine's
    memory does not suffice."""
    parallel: int = 2
    """Chats that one loaded model answers concurrently; further ones wait."""
    queue: int = 32
    """Requests that may wait for a model before further ones are refused."""
    idle_seconds: float = 900.0
    """A model that was unused for this long is unloaded."""


class TimeoutSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Timeouts of provider calls and of streams to callers, in seconds."""

    connect: float = 10.0
    first_byte: float = 120.0
    between_bytes: float = 60.0
    first_token: float = 180.0
    """Until the first content chunk of a stream; comments and pings do not count. 0 for
    no limit."""
    between_tokens: float = 60.0
    total: float = 600.0
    keep_alive: float = 10.0
    """Silence after which a stream to a caller sends its status and headers with a
    comment, ping or blank line that clients skip; again after each further period. 0
    for never."""


class ConnectionSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Per-process limits for callers before authentication: time, sizes and
    connections."""

    head_seconds: float = 10.0
    """Time until a request head is complete, from the start of the connection or the
    first byte of the head."""
    body_seconds: float = 30.0
    """Time for which a body may arrive more slowly than `body_rate`, including pauses.
    """
    body_rate: int = 1024
    """Bytes per second."""
    idle_seconds: float = 75.0
    """A connection without requests for this long is closed."""
    unread_seconds: float = 120.0
    """A caller that reads nothing of a response for this long is disconnected."""
    head_kb: int = 64
    """Maximum size of a request head: the request target and all headers."""
    headers: int = 128
    target_kb: int = 16
    """Maximum size of a request target."""
    pipelined: int = 16
    """Requests that may be sent before the first response. After that many, the
    connection is closed once they are answered."""
    bodies_mb: int = 256
    """Memory for incomplete bodies. A single tenant may use three quarters. Callers
    without a key share a separate quarter, of which a single address may use half."""
    most: int = 0
    """Maximum concurrent connections; beyond it, those idle for longest are closed. 0:
    derived from the limit of open files (`ulimit -n`, raised to its hard limit, at most
    65,536), less `reserved_files`."""
    reserved_files: int = 0
    """File descriptors reserved for the database, plugins and providers. 0 for a
    quarter of the limit, at least 64."""
    idle_per_address: int = 0
    """Idle connections of one address or one IPv6 /64 network; beyond it, those idle
    for longest are closed. 0 for a quarter of `most`."""


class CacheSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The response cache."""

    seconds: float = 0.0
    """Time to live of deterministic results: temperature 0, embeddings, rerank,
    moderation. 0 disables the cache, unless a caller requests it with
    `x-modelyard-cache: on`."""
    store: Literal["memory", "database", "shared"] = "memory"
    """`shared` stores responses on the Valkey server named by the setting `shared`."""
    megabytes: int = 64
    """Maximum size of the cache in memory."""
    semantic_model: str = ""
    """Embedding model for the semantic cache, which answers questions that mean the
    same as an earlier one. Empty to disable."""
    semantic_threshold: float = 0.95
    """Cosine similarity from which two questions are considered equal."""


class QueueSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Limits on concurrent calls per process.

    `capacity` calls run at once and `waiting` more may wait up to `seconds`, with fair
    queueing among tenants. A single tenant may use seven eighths.
    """

    capacity: int = 4096
    waiting: int = 4096
    seconds: float = 10.0
    target_ms: float = 0.0
    """Acceptable work ahead of a call in a busy process, in processor time. While it is
    exceeded, calls are refused with 503, first those of the tenants that call most. 0,
    the default, refuses none."""


class UnpricedSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Calls of models whose price is unknown, where a limit is an amount of money."""

    calls: Literal["refuse", "count"] = "refuse"
    """`refuse` them while a limit of money applies, or `count` them at the prices below.
    An API key may say otherwise with its `unpriced`."""
    input_price: float = 0.0
    """US dollars for a million input tokens."""
    output_price: float = 0.0
    """US dollars for a million output tokens."""
    call_price: float = 0.0
    """US dollars for each call, in addition; the only price of a call without tokens,
    such as speech."""

    # Raises ValueError, which msgspec reports like any other mistake, with its path.
    def __post_init__(self) -> None:
        prices = {
            "input_price": self.input_price,
            "output_price": self.output_price,
            "call_price": self.call_price,
        }
        for name, price in prices.items():
            if not 0 <= price <= _MAX_STATED_PRICE:
                raise ValueError(
                    f"'unpriced.{name}' must be from 0 to {_MAX_STATED_PRICE:g}"
                )
        if self.calls == "count" and not any(prices.values()):
            raise ValueError(
                "'unpriced.calls: count' needs 'unpriced.input_price',"
                " 'unpriced.output_price' or 'unpriced.call_price'"
            )


# A higher price is a mistake in its unit: prices are per million tokens.
_MAX_STATED_PRICE = 1e6


class TelemetrySettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What is recorded and exported about calls."""

    endpoint: str = ""
    """OTLP/HTTP endpoint for traces, for example `http://127.0.0.1:4318`; empty to
    disable."""
    sample: float = 0.1
    """Fraction of calls that are traced. Failed calls are always traced."""
    content: bool = False
    """Include prompts and answers."""
    decisions: Literal["notable", "all", "none"] = "notable"
    """Calls whose decisions are stored for `modelyard explain`. `notable`: those that
    did not simply use the first choice."""
    decision_days: float = 14.0
    record: bool = False
    """Store request and answer with the decisions of every call, for inspection and
    replay. They are stored in the database unencrypted."""
    usage_days: float = 0.0
    """Days for which ledger rows are retained; 0 for ever. Daily totals, from which
    limits start, are never deleted."""


class PluginSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Plugins and their resource limits, in seconds and megabytes."""

    instances: int = 1
    """Processes per plugin; a second one is started while the first is busy."""
    start_seconds: float = 60.0
    """Time that a plugin may need until it is ready. Time in which it waits for a
    processor of a busy machine does not count, up to ten times as much."""
    idle_seconds: float = 60.0
    """A plugin without calls for this long is stopped; the next call starts it again.
    """
    silence_seconds: float = 120.0
    """A plugin that sends nothing for this long, not even a heartbeat, is terminated.
    """
    memory_mb: int = 1024
    """Memory of a plugin's process and its child processes."""
    processes: int = 64
    disk_mb: int = 1024
    """Disk space that a plugin may use for one tenant."""
    call_seconds: float = 1200.0
    """A longer call is aborted, and the plugin's process is terminated and replaced."""
    running: int = 64
    """Concurrent plugin processes. If another must start, the one unused for longest is
    stopped."""
    unconfined: bool = False
    """Run plugins with all rights of the server. Only for machines whose kernel cannot
    sandbox them, with trusted plugins."""
    must_be_signed: bool = False
    public_keys: list[str] = []
    """Files with the public keys of trusted signers."""
    offline: bool = False
    """Install only packages that are already on this machine."""
    wheelhouse: str = ""
    """Folder of wheels; if set, packages are installed from there only."""
    index_url: str = ""
    """Python package index to use instead of the default one."""
    substitutes: dict[str, str] = {}
    """Package that plugins take from a repository or a URL → the requirement to install
    from the index in its place, such as `monday-sdk: monday-sdk==1.3.1`."""
    download_python: bool = True
    """Whether uv may install Python 3.12 to 3.14 for a plugin that requires a version
    that this machine does not have."""
    tiktoken_cache: str = ""
    """Folder with the vocabularies of tiktoken, which plugins read in place of
    downloading them; `plugins/tiktoken` in the home folder, or `TIKTOKEN_CACHE_DIR`, if
    empty."""
    markets: list[str] = []
    """Folders or URLs that list packages: docs/reference/market.md."""
    serverless: dict[str, str] = {}
    """Plugin (`author/name`) → the URL that serves it."""
    debug_port: int = 5003
    """Port for plugins that their authors run in debug mode; 0 to disable."""
    debug_host: str = "127.0.0.1"
    """Address of that port. Authors on other machines need an address that they reach;
    the connection has no TLS, and the key that it shows may serve a tenant's calls.
    """
    open_interface: bool = False
    """Whether the plugin daemon's interface, `/plugin/…`, accepts callers from other
    machines."""


class FileSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Where uploads, outputs of runs and plugin packages are stored;
    docs/how-to/several-machines.md."""

    storage: Literal["", "local", "database", "s3"] = ""
    """`local`: a folder. `database`: rows of the database. `s3`: a bucket of S3 or of a
    server that speaks its protocol. Empty: `database` with PostgreSQL, `local`
    otherwise."""
    folder: str = ""
    """Folder for `local`; `files` in the home folder if empty."""
    shared: bool = False
    """Whether all servers mount this folder. With PostgreSQL a local folder is refused
    otherwise."""
    bucket: str = ""
    endpoint: str = ""
    """URL of the S3 server, for example `http://minio:9000`; empty for AWS."""
    region: str = "us-east-1"
    prefix: str = ""
    """Beginning of all keys in the bucket, for example `modelyard/prod`."""
    access_key: str = ""
    secret_key: str = ""
    """For example `${S3_SECRET_KEY}`."""
    session_token: str = ""
    path_style: bool = True
    """Whether the bucket is part of the path (`http://minio:9000/bucket`) instead of the
    host name."""

    def __post_init__(self) -> None:
        if self.endpoint and not _ORIGIN.fullmatch(self.endpoint):
            raise ValueError(
                "'files.endpoint' must be a URL origin such as http://minio:9000, not"
                f" {self.endpoint[:200]!r}"
            )

    @property
    def problem(self) -> str:
        """Return why files cannot be stored in S3; empty if they can be, or need not."""
        required = ("bucket", "access_key", "secret_key")
        missing = [f"files.{name}" for name in required if not getattr(self, name)]
        if self.storage != "s3" or not missing:
            return ""
        return f"files.storage is s3, which needs {', '.join(missing)}"


class NetworkSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Outgoing connections to providers and other addresses set by the operator;
    docs/how-to/proxies.md."""

    proxy: str = ""
    """`http://USER:PASSWORD@HOST:PORT`, or with `https://`; `none` for no proxy. If
    empty, `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` apply."""
    no_proxy: list[str] = []
    """Destinations that bypass the proxy: host names including subdomains, addresses,
    and networks such as `10.0.0.0/8`, each with or without `:PORT`; `*` for all. If
    empty, `NO_PROXY` applies."""
    ca_file: str = ""
    """File with CA certificates to trust in addition to the system's (or those of
    `SSL_CERT_FILE`). Read at startup."""


class EgressSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Destinations that workflows, tools and file URLs may reach: the public network,
    and those listed here."""

    ports: list[int] = msgspec.field(default_factory=lambda: [80, 443])
    private: list[str] = []
    """`host:port` of private destinations that may be reached, written as in requests.
    """
    seconds: float = 600.0
    """Timeout of a complete request, including redirects."""


class CodeOutputSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Limits of what code nodes return. The defaults are Dify's."""

    characters: int = 400_000
    """Maximum characters of a text."""
    texts: int = 30
    """Maximum elements of a list of texts."""
    objects: int = 30
    """Maximum elements of a list of objects."""
    numbers: int = 1000
    """Maximum elements of a list of numbers or booleans."""
    depth: int = 5
    """Maximum nesting of objects."""
    decimals: int = 20
    """Maximum digits of a number after the point."""


class TemporalSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The Temporal server that carries runs, if `workflows.carrier` is `temporal`."""

    address: str = "127.0.0.1:7233"
    """`HOST:PORT` of the server's gRPC interface."""
    namespace: str = "default"
    """It has to exist."""
    task_queue: str = "modelyard"
    """Servers and workers with the same database use the same one, and no others."""
    api_key: str = ""
    """For a server that asks for one, for example `${TEMPORAL_API_KEY}`."""
    tls: bool = False
    """Whether the connection is encrypted."""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise ValueError(
                "'address' must be HOST:PORT such as 127.0.0.1:7233, not"
                f" {self.address[:200]!r}"
            )
        # An API key in plain text could be read by anybody on the way.
        if self.api_key and not self.tls:
            raise ValueError("'api_key' needs an encrypted connection: set 'tls'")


class DbosSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """DBOS, if `workflows.carrier` is `dbos`."""

    database: str = ""
    """`postgresql://USER:PASSWORD@HOST/NAME`, in which DBOS creates a schema `dbos`. If
    empty, the server's own database."""
    tenant_runs: int = 0
    """Maximum number of runs of one tenant that all processes execute at once; further
    ones wait. 0 for no limit."""

    def __post_init__(self) -> None:
        if self.database and not self.database.startswith("postgres"):
            raise ValueError(
                "'database' must be postgresql://USER:PASSWORD@HOST/NAME, because DBOS"
                " is used with PostgreSQL only"
            )


class WorkflowSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Workflows and their limits."""

    steps: int = 500
    """Maximum number of nodes that one run executes."""
    seconds: float = 1200.0
    """Maximum duration of a run, without the time spent waiting for a person."""
    depth: int = 5
    """Maximum nesting of workflows that call workflows."""
    at_once: int = 1000
    """Concurrent runs per process. With an engine as carrier, further ones wait;
    otherwise they are refused with 429."""
    carrier: Literal["embedded", "dbos", "temporal"] = "embedded"
    """What decides which process executes a run, and when. `embedded`: the process that
    accepts it, by leases in the database. `dbos`, `temporal`: a queue of that engine;
    docs/how-to/carriers.md."""
    execute: bool = True
    """Whether servers execute runs themselves. If false, only `modelyard worker` does;
    for engines as carriers."""
    dbos: DbosSettings = DbosSettings()
    temporal: TemporalSettings = TemporalSettings()
    keep_days: float = 30.0
    """Days for which finished runs are retained; 0 for ever."""
    summary_tokens: int = 500
    """Maximum length of the summary that a model writes of a conversation that is too
    long for its context; 0 leaves older turns out instead."""
    catch_up_seconds: float = 3600.0
    """Maximum age of a missed schedule time that is made up for after a downtime; 0 for
    never."""
    code: bool = True
    """Whether code nodes, and templates that need code, may run. They always run in the
    sandbox."""
    code_seconds: float = 30.0
    """Maximum duration of one code node."""
    code_memory_mb: int = 512
    code_at_once: int = 8
    """Concurrent sandboxed programs per process; further ones wait, with fair queueing
    among tenants. A single tenant may use three quarters."""
    code_network: Literal["off", "apps", "on"] = "apps"
    """Whether code nodes may use the network, as far as `egress` allows it. `off`: none.
    `apps`: those of apps for which an administrator turns it on. `on`: all, except those
    of apps for which it is turned off. A tenant may have a value of its own."""
    code_output: CodeOutputSettings = CodeOutputSettings()
    template_characters: int = 400_000
    """Maximum characters that a template node renders."""
    preload: list[str] = []
    """Additional slow-loading Python modules that code may import and that are loaded
    in advance."""
    models: dict[str, str] = {}
    """`provider/model` in imported app files → a local model; `*` for all that are not
    listed."""
    tools: dict[str, str] = {}
    """`provider/tool` in imported app files → a local tool."""
    datasets: dict[str, str] = {}
    """Dataset id in imported app files → a local dataset, by id or name."""


class KnowledgeSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Datasets: the location of their search indexes, and the limits of indexing."""

    store: str = "memory"
    """`memory`: arrays in each process, kept in sync with the database. `pgvector`: the
    PostgreSQL database itself. `qdrant`: a Qdrant server."""
    qdrant_url: str = ""
    """`http://HOST:6333`. A host in a private network must be listed under
    `egress.private`."""
    qdrant_api_key: str = ""
    memory_mb: int = 2048
    """Memory for all indexes together; those unused for longest are evicted first."""
    graph_from: int = 20_000
    """Number of entries from which vectors are searched with a graph (HNSW); below it
    the search is exact."""
    at_once: int = 4
    """Documents, or groups of small ones, that are indexed concurrently."""
    most_mb: int = 256
    """Maximum size of a document."""
    document_seconds: float = 120.0
    document_memory_mb: int = 1024
    crawl_delay_seconds: float = 0.5
    """Delay between two requests of a crawl to one host; its robots.txt may require
    more."""
    crawl_own_sites: list[str] = []
    """The operator's own sites, as `docs.example.com` or `HOST:PORT`; their robots.txt
    is ignored."""
    crawl_follows_nofollow: bool = False
    """Whether crawls follow links marked `nofollow`."""


class McpStdioSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """An MCP server that runs as a local program. Tenants may refer to it by name but
    cannot specify a program."""

    command: str
    args: list[str] = []
    env: dict[str, str] = {}


class ToolSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Tools that models may call."""

    mcp_stdio: dict[str, McpStdioSettings] = {}
    """Name → program of an MCP server over stdio."""


class OidcSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Identity provider for signing in to the console (OpenID Connect)."""

    issuer: str = ""
    """Issuer URL, for example `https://id.example.com`; empty to disable. The redirect
    path is `/console/api/oidc/callback`."""
    client_id: str = ""
    client_secret: str = ""
    label: str = ""
    """Text of the sign-in button."""
    role: str = ""
    """Role of a user who signs in for the first time: viewer, developer, editor or
    admin. Empty: only invited users and existing accounts may sign in."""
    domains: list[str] = []
    """Email domains that may sign in; all if empty."""
    groups_claim: str = "groups"
    """Claim with the groups of a person, which access lists of documents may name."""
    group_hours: float = 24.0
    """How long these groups count after a sign-in. After that the person has none of
    them until the next sign-in."""


class ContentSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Tenant-written content that browsers display: plugin endpoints (`/e/`, `/t/`),
    webhooks, files."""

    origin: str = ""
    """Separate origin for this content, for example `https://usercontent.example`,
    which must lead to this server. It then serves nothing else. If empty, the content
    is served from the main origin and isolated by the browser's sandbox."""
    pass_authorization: bool = False
    """Whether plugin endpoints and webhooks receive the caller's credential headers
    (`authorization`, `x-api-key`, `x-goog-api-key`), unless those belong to this
    server. Cookies are never forwarded."""

    def __post_init__(self) -> None:
        if self.origin and not _ORIGIN.fullmatch(self.origin):
            raise ValueError(
                "'origin' must be a URL origin such as https://usercontent.example, not"
                f" {self.origin[:200]!r}"
            )


class MailSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The mail server for the forms of apps. Nothing is sent before `host`, `sender` and
    `base_url` are set."""

    host: str = ""
    """Host name of the SMTP server; empty to disable."""
    port: int = 587
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """`starttls` (port 587), `implicit` (port 465), or `none` for a server on a trusted
    network. The certificate is always checked; `network.ca_file` adds authorities."""
    user: str = ""
    """Name for signing in; empty for a server that needs none."""
    password: str = ""
    """Password for signing in, for example `${SMTP_PASSWORD}`. With `tls: none` nothing
    is sent."""
    sender: str = ""
    """Address in the `From` header, for example `forms@example.com`."""
    base_url: str = ""
    """URL at which the recipients reach this server, for example
    `https://ai.example.com`; mails contain links below it."""
    seconds: float = 30.0
    """Timeout of each step of sending a mail."""

    def __post_init__(self) -> None:
        if self.base_url and not _ORIGIN.fullmatch(self.base_url.rstrip("/")):
            raise ValueError(
                "'base_url' must be a URL origin such as https://ai.example.com, not"
                f" {self.base_url[:200]!r}"
            )

    @property
    def problem(self) -> str:
        """Return why no mail can be sent; empty if it can be."""
        names = ("host", "sender", "base_url")
        missing = [f"mail.{name}" for name in names if not getattr(self, name)]
        if missing:
            return f"Mail is not set up: set {', '.join(missing)}"
        # A password in plain text could be read by anybody on the way.
        if self.password and self.tls == "none":
            return "mail.password needs an encrypted connection: change mail.tls"
        return ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server."""

    home: str = "~/.modelyard"
    """Folder for weights, the ledger and the configuration written by `providers add`.
    """
    host: str = "127.0.0.1"
    port: int = 8790
    api_keys: list[str] = []
    """Keys that callers must present; none are needed while the server listens on
    loopback only."""
    trusted_proxies: list[str] = []
    """Addresses and networks, such as `10.0.0.0/8`, of proxies in front of this server.
    Their `X-Forwarded-For` header determines the client address. If empty, the
    connecting address is the client."""
    log_level: str = "info"
    log_format: str = "text"
    max_body_mb: int = 32
    providers: list[ProviderSettings] = []
    defaults: dict[str, str] = {}
    """Model type → the `provider/model` used for `default`, `default-tts` and so on."""
    failover: dict[str, list[str]] = {}
    """`provider/model` → the models to try, in order, if it cannot answer."""
    retries: int = 2
    """Retries of a call after a transient failure, within a budget of a fifth of all
    calls."""
    routes: dict[str, dict[str, Any]] = {}
    """Route name that callers use as a model → `targets`, `strategy`, `failover` and
    more; docs/how-to/routes.md."""
    limits: dict[str, dict[str, Any]] = {}
    """Limit name → `unit`, `amount`, `window`, `per` and more; docs/how-to/limits.md.
    """
    database: str = ""
    """A path, or `postgresql://USER:PASSWORD@HOST/NAME`; if empty, `modelyard.db` in
    the home folder."""
    database_wait_seconds: float = 60.0
    """How long startup waits for a database server that is itself starting or
    recovering."""
    upgrade_database: bool = True
    """Whether the schema of an older database is upgraded at startup. A SQLite database
    is first copied to `backups`. If false, startup is refused instead."""
    shared: str = ""
    """Where processes share limits: `database`, `valkey://HOST:PORT`, or
    `valkey+cluster://HOST:PORT,HOST:PORT` with some servers of a cluster. Empty for a
    single server."""
    settings_source: Literal["", "database", "file"] = ""
    """Where the settings come from that the API and the console change. `database`:
    from there, for all servers. `file`: from the settings file alone, and changes by
    the API are refused. Empty: `database` with PostgreSQL; otherwise the settings file,
    which the API may write. docs/how-to/several-machines.md."""
    workers: int = 1
    grace_seconds: float = 10.0
    """Time for running calls to finish at shutdown; after it their callers receive an
    error that the server is stopping."""
    master_key: str = ""
    """`id:KEY` with 32 random bytes as base64; encrypts credentials. If empty,
    `master.key` in the home folder is used."""
    embedding_batch_ms: float = 3.0
    """Embedding calls that arrive within this time are merged into one; 0 to disable.
    """
    cache: CacheSettings = CacheSettings()
    queue: QueueSettings = QueueSettings()
    unpriced: UnpricedSettings = UnpricedSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    files: FileSettings = FileSettings()
    plugins: PluginSettings = PluginSettings()
    workflows: WorkflowSettings = WorkflowSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    tools: ToolSettings = ToolSettings()
    oidc: OidcSettings = OidcSettings()
    content: ContentSettings = ContentSettings()
    mail: MailSettings = MailSettings()
    network: NetworkSettings = NetworkSettings()
    egress: EgressSettings = EgressSettings()
    local: LocalSettings = LocalSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    connections: ConnectionSettings = ConnectionSettings()

    @property
    def home_path(self) -> Path:
        """Return the home folder with `~` expanded."""
        return Path(self.home).expanduser()

    @property
    def database_url(self) -> str:
        """Return the database's path or URL."""
        return self.database or str(self.home_path / "modelyard.db")

    @property
    def are_stored(self) -> bool:
        """Return whether the settings that the API changes lie in the database."""
        default = "database" if self.is_shared else "file"
        return (self.settings_source or default) == "database"

    @property
    def is_shared(self) -> bool:
        """Return whether the database is a server, which others may use too."""
        return "://" in self.database


def load_settings(environ: Mapping[str, str], *, config: str | None = None) -> Settings:
    """Load the settings from a file and from variables, which take precedence.

    The file is `config`, else `$MODELYARD_CONFIG`, else `modelyard.yaml` in the home
    folder. Raises ConfigError that lists all mistakes.
    """
    home = environ.get("MODELYARD_HOME") or "~/.modelyard"
    explicit_path = config or environ.get("MODELYARD_CONFIG")
    path = settings_path(environ, config=config)
    # The default file may be missing, one that was named explicitly may not.
    if explicit_path and not path.is_file():
        raise ConfigError(f"Settings file {str(path)!r} does not exist")
    document, lines = _read(path) if path.is_file() else ({}, {})
    return Settings(**_values(document, lines, str(path), {"home": home}, environ))


def parse_settings(
    text: str, source: str, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings of a text and of variables, which take precedence, by name.
    What neither sets is left out.

    `source` names the text in errors. Raises ConfigError that lists all mistakes.
    """
    document, lines = _parse(text, source)
    return _values(document, lines, source, {}, environ)


def _values(
    document: dict[str, Any],
    lines: Mapping[str, int],
    source: str,
    values: dict[str, Any],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """Return `values` with those of a document and of variables. Raises ConfigError."""
    # References are checked before they are expanded, while the document still matches
    # the recorded lines.
    mistakes = list(_unresolved(document, lines, environ))
    document = _expanded(document, environ)
    mistakes += _check(document, lines, values)
    problems = [f"{source}:{line}: {text}" for line, text in sorted(mistakes)]
    # Variables come last: they override the file.
    overrides = _from_environ(environ)
    problems += [
        f"{_ENV_PREFIX}{key.upper()}: {text}"
        for key, text in _override(values, overrides)
    ]
    if problems:
        raise ConfigError("Invalid settings:\n  " + "\n  ".join(problems))
    return values


def settings_path(environ: Mapping[str, str], *, config: str | None = None) -> Path:
    """Return the path of the settings file, whether it exists or not.

    It is `config`, else `$MODELYARD_CONFIG`, else `modelyard.yaml` in the folder
    `$MODELYARD_HOME` or `~/.modelyard`; a leading `~` is expanded.
    """
    home = environ.get("MODELYARD_HOME") or "~/.modelyard"
    return Path(
        config or environ.get("MODELYARD_CONFIG") or Path(home) / "modelyard.yaml"
    ).expanduser()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a settings file as (values, line numbers).

    The lines map a path such as `$.local.threads` to the line, counted from 1, on which
    it starts. An empty file gives two empty mappings. Raises ConfigError if the file is
    not YAML or not a mapping.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Settings file {str(path)!r} is not YAML: {error}"
        ) from error
    return _parse(text, f"Settings file {str(path)!r}")


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Parse a settings text like `_read`. `source` names it in errors."""
    try:
        # Parsed twice: once for the lines, once for the values.
        lines = yaml_lines(text)
        value = yaml.load(text, Loader=FiniteLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if value is None:
        return {}, {}
    if not is_object(value):
        raise ConfigError(f"{source} must be a mapping of names to values")
    return value, lines


def _walk(value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """Yield (path, text) for every string in a document, as `$.providers[0].name`."""
    if isinstance(value, str):
        yield path, value
    elif is_object(value):
        for key, inner in value.items():
            yield from _walk(inner, f"{path}.{key}")
    elif is_array(value):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")


def _unresolved(
    document: Any, lines: Mapping[str, int], environ: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Yield (line, message) for each reference to a variable that is not set.

    References have the form of a dollar sign and `{NAME}` or `{NAME:-fallback}`; one
    with a non-empty fallback is always resolved.
    """
    for path, text in _walk(document):
        for name, fallback in _REFERENCE.findall(text):
            # `${NAME:-}` without a fallback text counts as unset, like `${NAME}`.
            if name not in environ and not fallback:
                yield (
                    lines.get(path, 1),
                    f"{path[2:]} refers to ${{{name}}}, which is not set",
                )


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    """Return a copy of a document with references replaced by the variables' values.

    An unset variable is replaced by the reference's fallback, or by an empty text. Keys
    of mappings are not expanded.
    """
    if isinstance(value, str):
        return _REFERENCE.sub(
            lambda match: environ.get(match[1], match[2] or ""), value
        )
    if is_object(value):
        return {key: _expanded(inner, environ) for key, inner in value.items()}
    if is_array(value):
        return [_expanded(inner, environ) for inner in value]
    return value


def _check(
    document: dict[str, Any], lines: Mapping[str, int], into: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """Convert the document field by field into `into`, yielding (line, message) for
    each mistake.

    A mistake in one field does not hide those in the next.
    """
    # With extras, since the bounds of numbers are annotations.
    hints = get_type_hints(Settings, include_extras=True)
    for key, raw in document.items():
        path = f"$.{key}"
        if key not in hints:
            similar = suggestion(str(key), hints, label="available:")
            yield lines.get(path, 1), f"Unknown setting {key!r}; {similar}"
            continue
        into[key], mistakes = _convert_setting(key, raw, hints[key], lines)
        yield from mistakes


def _convert_setting(
    key: str, raw: Any, field_type: Any, lines: Mapping[str, int]
) -> tuple[Any, list[tuple[int, str]]]:
    """Return (converted value, mistakes) of a top-level setting; the value is None if
    it is invalid."""
    path = f"$.{key}"
    if not _is_provider_list(key, raw):
        value, mistake = _try_convert(raw, field_type, path, lines)
        return value, [] if mistake is None else [mistake]
    # Providers are converted one by one, so that each of them can report a mistake.
    results = [
        _try_convert(provider, ProviderSettings, f"{path}[{index}]", lines)
        for index, provider in enumerate(raw)
    ]
    valid_providers = [value for value, mistake in results if mistake is None]
    return valid_providers, [mistake for _, mistake in results if mistake is not None]


def _try_convert(
    value: Any, field_type: Any, path: str, lines: Mapping[str, int]
) -> tuple[Any, tuple[int, str] | None]:
    """Return (converted value, None), or (None, (line, message)) for an invalid one."""
    try:
        return _convert(value, field_type), None
    except msgspec.ValidationError as error:
        # msgspec appends the path to its message: "reason - at `$.path`".
        reason, _, inner = str(error).partition(" - at `$")
        full_path = path + inner.rstrip("`")
        line = line_of_mistake(lines, full_path, reason)
        return None, (line, f"{full_path[2:]}: {reason}")


def _is_provider_list(key: str, raw: Any) -> bool:
    """Return whether a field has providers, at least one."""
    return key == "providers" and is_array(raw) and bool(raw)


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the `MODELYARD_` variables that set a setting, by lower-case name.

    The name is without the prefix; a section and its field are separated by two
    underscores. Reserved variables, and those that name no top-level setting, are left
    out.
    """
    # Variables with this prefix that are not settings.
    reserved = {"config", "home", "cli_complete"}
    variables = {
        name[len(_ENV_PREFIX) :].lower(): value
        for name, value in environ.items()
        if name.startswith(_ENV_PREFIX)
    }
    hints = get_type_hints(Settings)
    return {
        key: value
        for key, value in variables.items()
        if key not in reserved and key.split("__")[0] in hints
    }


def _override(
    values: dict[str, Any], overrides: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Apply variables to the values, yielding (key, message) for each mistake.

    `MODELYARD_PORT` sets a top-level field, `MODELYARD_LOCAL__THREADS` a field of a
    section.
    """
    for key, text in overrides.items():
        # A mistake in one variable does not hide those in the next.
        try:
            _apply_variable(values, key, text)
        except ValueError as error:
            yield key, str(error)


def _apply_variable(values: dict[str, Any], key: str, text: str) -> None:
    """Set the field that a variable names. Raises ValueError if there is no such field,
    or the text is no value of it."""
    head, separator, name = key.partition("__")
    field_type = get_type_hints(Settings)[head]
    if not _is_section(field_type):
        if separator:
            # Lists of objects get their own message: no variable sets them.
            _check_has_text_form(field_type)
            raise ValueError(
                f"{head!r} is a single setting without fields; set"
                f" {_ENV_PREFIX}{head.upper()}"
            )
        values[head] = _value_of(text, field_type)
        return
    field_types = get_type_hints(field_type, include_extras=True)
    # `MODELYARD_LOCAL` alone, or with nothing behind the underscores.
    if not name:
        raise ValueError(
            f"{head!r} is a section; set one of its fields, for example"
            f" {_ENV_PREFIX}{head.upper()}__{next(iter(field_types)).upper()}"
        )
    if name not in field_types:
        raise ValueError(
            f"{head!r} has no field {name!r};"
            f" {suggestion(name, field_types, label='available:')}"
        )
    # A section that the file does not set starts from its defaults.
    section = values.get(head) or field_type()
    value = _value_of(text, field_types[name])
    values[head] = msgspec.structs.replace(section, **{name: value})


def _is_section(field_type: Any) -> bool:
    """Return whether a field has fields of its own."""
    return isinstance(field_type, type) and issubclass(field_type, msgspec.Struct)


def _value_of(text: str, target_type: Any) -> Any:
    """Convert a variable's text. Raises ValueError if it is no value of this type, or
    the type cannot be written as a text."""
    _check_has_text_form(target_type)
    parsed: Any = text
    if get_origin(target_type) is list:
        # Lists are written comma-separated in variables; an empty text is an empty
        # list.
        parsed = [item.strip() for item in text.split(",") if item.strip()]
    try:
        return _convert(parsed, target_type, strict=False)
    except msgspec.ValidationError as error:
        # msgspec appends the path to its message: "reason - at `$`".
        reason = str(error).partition(" - at `$")[0]
        raise ValueError(f"Invalid value {text!r}: {reason}") from None


def _check_has_text_form(target_type: Any) -> None:
    """Raise ValueError if a setting of this type cannot be written as a text."""
    container, members = get_origin(target_type), get_args(target_type)
    is_simple_list = container is list and members[0] in (str, int)
    if container in (list, dict) and not is_simple_list:
        raise ValueError("Lists of objects and mappings are set in the settings file")


def _convert(value: Any, target_type: Any, *, strict: bool = True) -> Any:
    """Convert a value to the field's type. Raises msgspec.ValidationError, also for
    numbers out of bounds."""
    converted = msgspec.convert(value, target_type, strict=strict)
    check_numbers(converted)
    return converted
