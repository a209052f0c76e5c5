"""`modelyard.yaml` and `MODELYARD_…` variables become one frozen object. Read by `app` and `cli` alone.

Every field has a default that works on a laptop. Every mistake in a file is reported at once, with its line.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec
import yaml

from modelyard.base.errors import ConfigError, suggestion
from modelyard.base.numbers import FiniteLoader, Priority, Weight, check_numbers

_ENV = "MODELYARD_"
_UNKNOWN = re.compile(r"unknown field `(\w+)`")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?")
_REFERENCE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class CredentialSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    values: dict[str, str]
    """The provider's form fields, as `api_key: sk-…`."""
    name: str = ""
    """What the ledger calls this credential; its place in the list where empty."""
    weight: Weight = 1.0
    """How much of the load it takes, beside the others."""
    priority: Priority = 0
    """Lower goes first; the others serve when those before them cannot."""
    domain: str = ""
    """Credentials that share a quota at the provider: what exhausts it for one does for all."""
    quota: dict[str, Any] = {}
    """Makes it a hosted credential, which every tenant may use within this limit, as `{unit: credits, amount: 200}`."""


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider to switch on: from the catalogue by name, or from a folder or file by path."""

    name: str = ""
    path: str = ""
    """A provider file of ours, or a folder with a provider in Dify's shape."""
    base_url: str = ""
    wire: str = ""
    """The wire format of a provider whose own code we do not run; `openai` where nothing is said."""
    credentials: list[CredentialSettings] = []
    models: list[dict[str, Any]] = []
    """Models beyond the catalogue's, in the same words."""
    health_url: str = ""
    """Asked every `health_seconds`; while it does not answer with success, the provider's credentials rest."""
    health_seconds: float = 30.0
    proxy: str = ""
    """The proxy that this provider is reached by, as `network.proxy`; `none` for directly. What `network` and the
    variables say where it is empty."""


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The models on this machine."""

    enabled: bool = True
    weights: str = ""
    """A folder that already holds weight files; looked at before anything is fetched."""
    hub: str = "https://huggingface.co"
    """Where weights may be had when packages cannot; empty for never."""
    threads: int = 0
    """Threads a model may use; 0 for half the cores. More than there are free cores makes llama.cpp collapse."""
    context: int = 4096
    """Tokens of context for chat, for each request that runs at once."""
    parallel: int = 2
    """Chats answered at once by one loaded model; the rest wait."""
    queue: int = 32
    """Requests that may wait for a model before the next is refused."""
    idle_seconds: float = 900.0
    """A model unused for so long is unloaded."""


class TimeoutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds."""

    connect: float = 10.0
    first_byte: float = 120.0
    between_bytes: float = 60.0
    first_token: float = 180.0
    """Until the first chunk of a stream that says something: comments and pings do not count. 0 for no limit."""
    between_tokens: float = 60.0
    total: float = 600.0


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What callers may take before anybody knows who they are, in each process: time, sizes and connections."""

    head_seconds: float = 10.0
    """Until a request's head is complete, counted from the connection's beginning or the head's first byte."""
    body_seconds: float = 30.0
    """How long a body may come more slowly than `body_rate`, a pause included."""
    body_rate: int = 1024
    """Bytes a second."""
    idle_seconds: float = 75.0
    """A connection on which nothing was asked for so long is closed."""
    unread_seconds: float = 120.0
    """A caller who takes nothing of an answer for so long is cut off."""
    head_kb: int = 64
    """A request's head: its address and all of its headers."""
    headers: int = 128
    target_kb: int = 16
    """A request's address."""
    pipelined: int = 16
    """Requests sent before the answer to the first; after so many the connection is closed when they are answered."""
    bodies_mb: int = 256
    """What unfinished bodies may take in memory. One tenant alone gets three quarters. Callers without a key have a
    quarter of it beside that, of which one address alone gets half."""
    most: int = 0
    """Connections at once; beyond it those that are idle longest are closed. 0: what the limit of open files allows
    (`ulimit -n`, raised to its hard limit, 65,536 at most) less `reserved_files`."""
    reserved_files: int = 0
    """Open files that callers never take: for the database, plugins, providers. 0 for a quarter of what is allowed, 64
    at least."""
    idle_per_address: int = 0
    """Connections of one address, or one IPv6 network (/64), on which nothing is asked; beyond it those that are idle
    longest are closed. 0 for a quarter of `most`."""


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that may be given again."""

    seconds: float = 0.0
    """How long, for what chance plays no part in: temperature 0, embeddings, rerank, moderation. 0 for not at all,
    unless a caller asks for it with `x-modelyard-cache: on`."""
    store: Literal["memory", "database", "shared"] = "memory"
    """`shared` keeps them where `shared` points, on Valkey."""
    megabytes: int = 64
    """What they may take in memory."""
    semantic_model: str = ""
    """An embedding model: questions that mean the same as one that was answered get its answer. Empty for off."""
    semantic_threshold: float = 0.95
    """Cosine from which two questions mean the same."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls at once in each process; the rest wait in turn, tenant by tenant. One tenant alone gets seven eighths."""

    capacity: int = 4096
    waiting: int = 4096
    seconds: float = 10.0


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What others may see of calls."""

    endpoint: str = ""
    """Where traces go, in OpenTelemetry's protocol over HTTP (OTLP), as `http://127.0.0.1:4318`; empty for off."""
    sample: float = 0.1
    """The share of calls that are traced; those that fail always are."""
    content: bool = False
    """Prompts and answers too."""
    decisions: Literal["notable", "all", "none"] = "notable"
    """Which calls' decisions are kept for `modelyard explain`: those where anything but the first choice happened."""
    decision_days: float = 14.0
    record: bool = False
    """Keep what was asked and answered with the decisions, of every call, so that it can be looked at and asked again.
    It lies in the database as it was said."""
    usage_days: float = 0.0
    """How long the ledger keeps its rows; 0 for ever. Sums by day, which limits start from, stay."""


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plugins, and what they may take. Seconds and megabytes."""

    instances: int = 1
    """Processes of one plugin; the second is started while the first is busy."""
    start_seconds: float = 60.0
    idle_seconds: float = 600.0
    silence_seconds: float = 120.0
    """A plugin that says nothing for so long, not even a heartbeat, is ended."""
    memory_mb: int = 1024
    """Of a plugin's process and all that it started."""
    processes: int = 64
    disk_mb: int = 1024
    """That a plugin keeps on the disk for one tenant."""
    call_seconds: float = 1200.0
    """A call that takes longer is given up, and the plugin's process ended and replaced."""
    running: int = 64
    """Processes of plugins at once; the one that was not used for longest ends where another is to start."""
    unconfined: bool = False
    """Run plugins with all the rights of the server. For machines whose kernel cannot shut them in, and whose plugins
    are all trusted."""
    must_be_signed: bool = False
    public_keys: list[str] = []
    """Files with the keys of those whose signatures are trusted."""
    offline: bool = False
    """Install nothing that is not on this machine already."""
    wheelhouse: str = ""
    """A folder of wheels; where it is given, packages come from there alone."""
    index_url: str = ""
    """Where Python packages come from instead of the usual index."""
    markets: list[str] = []
    """Folders, or addresses, where packages are listed: docs/reference/market.md."""
    serverless: dict[str, str] = {}
    """Plugin (`author/name`) → the address that serves it."""
    debug_port: int = 5003
    """Where plugins that their authors run connect to; 0 for nowhere."""
    open_interface: bool = False
    """Whether the daemon's interface, `/plugin/…`, answers callers from other machines too."""


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How providers are reached, and what else the operator names; docs/how-to/proxies.md."""

    proxy: str = ""
    """`http://USER:PASSWORD@HOST:PORT`, or with `https://`; `none` for no proxy. Empty: as `HTTPS_PROXY`, `HTTP_PROXY`
    and `ALL_PROXY` say."""
    no_proxy: list[str] = []
    """What is reached directly all the same: names with all below them, addresses, networks as `10.0.0.0/8`, each with
    `:PORT` or without; `*` for everything. As `NO_PROXY` says where it is empty."""
    ca_file: str = ""
    """A file with certificates to trust, beside those of the system (or of `SSL_CERT_FILE` in their place). Read at
    the start."""


class EgressSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where workflows, tools and files that are named by address may go: the public network, and what is listed."""

    ports: list[int] = msgspec.field(default_factory=lambda: [80, 443])
    private: list[str] = []
    """`host:port` that may be reached although they are not public, written as requests write them."""
    seconds: float = 600.0
    """Of a whole request, its redirects included."""


class WorkflowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workflows, and what they may take."""

    steps: int = 500
    """Nodes that one run may run."""
    seconds: float = 1200.0
    """A run's longest time; what a person is waited for does not count."""
    depth: int = 5
    """Workflows that call workflows."""
    at_once: int = 1000
    """Runs in one process."""
    keep_days: float = 30.0
    """How long runs that ended are kept; 0 for ever."""
    catch_up_seconds: float = 3600.0
    """A schedule's last time that passed while no server was up is made up for where it is no older; 0 for never."""
    code: bool = True
    """Whether code nodes and templates that need it run at all; they run in the jail alone."""
    code_seconds: float = 30.0
    """Of one node."""
    code_memory_mb: int = 512
    code_at_once: int = 8
    """Programs in one process; the others wait in turn, tenant by tenant. One tenant alone gets three quarters."""
    preload: list[str] = []
    """Python modules that code may import and that take long to load, beyond the usual."""
    models: dict[str, str] = {}
    """`provider/model` as apps' files name it → a model here; `*` for all that is not named."""
    tools: dict[str, str] = {}
    """`provider/tool` as files name it → a tool here."""
    datasets: dict[str, str] = {}
    """A dataset's id as files name it → a dataset here, by id or name."""


class KnowledgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Datasets: where what is searched of them lies, and what indexing may take."""

    store: str = "memory"
    """`memory`: arrays in each process, kept up with the database. `pgvector`: in the PostgreSQL database itself.
    `qdrant`: a Qdrant server."""
    qdrant_url: str = ""
    """`http://HOST:6333`; a host of a private network must be listed under `egress.private`."""
    qdrant_api_key: str = ""
    memory_mb: int = 2048
    """What indexes in memory may take together; those not asked for longest are let go first."""
    graph_from: int = 20_000
    """Entries from which on vectors are compared by a graph; below, exactly."""
    at_once: int = 4
    """Documents, or groups of small ones, that are indexed at the same time."""
    most_mb: int = 256
    """The largest document."""
    document_seconds: float = 120.0
    document_memory_mb: int = 1024
    crawl_delay_seconds: float = 0.5
    """Between two requests of a crawl to a host; its robots.txt may ask for more."""
    crawl_own_sites: list[str] = []
    """Sites of one's own, as `docs.example.com` or `HOST:PORT`: crawls do not ask their robots.txt."""
    crawl_follows_nofollow: bool = False
    """Whether crawls follow links that their page marks with `nofollow`."""


class McpStdioSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server that is a program here. Tenants name it; they can never name a program of their own."""

    command: str
    args: list[str] = []
    env: dict[str, str] = {}


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tools that models may call."""

    mcp_stdio: dict[str, McpStdioSettings] = {}
    """A name → the program of an MCP server over stdio."""


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider where people sign in to the console (OpenID Connect)."""

    issuer: str = ""
    """Its address, as `https://id.example.com`; empty for off. `/console/api/oidc/callback` is where it sends people
    back to."""
    client_id: str = ""
    client_secret: str = ""
    label: str = ""
    """What the button says."""
    role: str = ""
    """What somebody becomes who comes the first time: viewer, developer or admin. Empty: only those who were invited
    or have an account may come."""
    domains: list[str] = []
    """Whose addresses may come; all where it is empty."""


class ContentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tenants wrote and browsers show: plugins' addresses (`/e/`, `/t/`), webhooks, files."""

    origin: str = ""
    """An origin of its own for it, as `https://usercontent.example`, which leads to this server too: there it is served
    alone, and nothing else is. Empty for the same as everything: then browsers' sandbox parts them."""
    pass_authorization: bool = False
    """Whether plugins' addresses and webhooks are told of the credentials that their callers send (`authorization`,
    `x-api-key`, `x-goog-api-key`), unless they are this server's. Cookies never are."""

    def __post_init__(self) -> None:
        if self.origin and not _ORIGIN.fullmatch(self.origin):
            raise ValueError(f"origin must be an origin, as https://usercontent.example, not {self.origin[:200]!r}")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    home: str = "~/.modelyard"
    """Where weights, the ledger and what `providers add` wrote lie."""
    host: str = "127.0.0.1"
    port: int = 8790
    api_keys: list[str] = []
    """What callers must show; none are needed while the server listens on loopback alone."""
    trusted_proxies: list[str] = []
    """Addresses and networks, as `10.0.0.0/8`, of proxies before this server: whom their `X-Forwarded-For` names is who
    calls. Without any, callers are who connects."""
    log_level: str = "info"
    log_format: str = "text"
    max_body_mb: int = 32
    providers: list[ProviderSettings] = []
    defaults: dict[str, str] = {}
    """Model type → `provider/model` that `default`, `default-tts` and so on stand for."""
    failover: dict[str, list[str]] = {}
    """`provider/model` → what to try, in order, when it cannot answer."""
    retries: int = 2
    """Repeats of a call that failed for a reason that may pass, within a budget of a fifth of all calls."""
    routes: dict[str, dict[str, Any]] = {}
    """A name that callers use as a model → `targets`, `strategy`, `failover` and more; docs/how-to/routes.md."""
    limits: dict[str, dict[str, Any]] = {}
    """A name → `unit`, `amount`, `window`, `per` and more; docs/how-to/limits.md."""
    database: str = ""
    """A path, or `postgresql://USER:PASSWORD@HOST/NAME`; `modelyard.db` in the home folder where empty."""
    database_wait_seconds: float = 60.0
    """How long a server that starts waits for a database server that is starting up itself, or recovering."""
    upgrade_database: bool = True
    """Whether the schema of an older Modelyard's database is brought up to date at the start; a SQLite database is
    copied to `backups` before. False refuses to start instead."""
    shared: str = ""
    """What processes share limits through: `database`, or `valkey://HOST:PORT`. Empty for the only server here."""
    workers: int = 1
    grace_seconds: float = 10.0
    """What calls that are running get to end when the server stops; then their callers are told that it does."""
    master_key: str = ""
    """`id:KEY` with 32 random bytes as base64; encrypts credentials. In `master.key` in the home folder where empty."""
    embedding_batch_ms: float = 3.0
    """Embedding calls that come within so long are joined to one; 0 for never."""
    cache: CacheSettings = CacheSettings()
    queue: QueueSettings = QueueSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    plugins: PluginSettings = PluginSettings()
    workflows: WorkflowSettings = WorkflowSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    tools: ToolSettings = ToolSettings()
    oidc: OidcSettings = OidcSettings()
    content: ContentSettings = ContentSettings()
    network: NetworkSettings = NetworkSettings()
    egress: EgressSettings = EgressSettings()
    local: LocalSettings = LocalSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    connections: ConnectionSettings = ConnectionSettings()

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser()

    @property
    def database_url(self) -> str:
        """A path or an address."""
        return self.database or str(self.home_path / "modelyard.db")


def load_settings(environ: Mapping[str, str], *, config: str | None = None) -> Settings:
    """The settings from `config` (else `$MODELYARD_CONFIG`, else `modelyard.yaml` in the home folder) and variables.

    Raises ConfigError that lists every mistake.
    """
    home = environ.get("MODELYARD_HOME") or "~/.modelyard"
    named = config or environ.get("MODELYARD_CONFIG")
    path = settings_path(environ, config=config)
    if named and not path.is_file():
        raise ConfigError(f"settings file {str(path)!r} does not exist")
    document, lines = _read(path) if path.is_file() else ({}, {})
    wrong = list(_unresolved(document, lines, environ))
    document = _expanded(document, environ)
    values: dict[str, Any] = {"home": home}
    wrong += _check(document, lines, values)
    problems = [f"{path}:{line}: {text}" for line, text in sorted(wrong)]
    overrides = _from_environ(environ)
    problems += [f"{_ENV}{key.upper()}: {text}" for key, text in _override(values, overrides)]
    if problems:
        raise ConfigError("the settings are wrong:\n  " + "\n  ".join(problems))
    return Settings(**values)


def settings_path(environ: Mapping[str, str], *, config: str | None = None) -> Path:
    """The file that the settings are in."""
    home = environ.get("MODELYARD_HOME") or "~/.modelyard"
    return Path(config or environ.get("MODELYARD_CONFIG") or Path(home) / "modelyard.yaml").expanduser()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
        value = yaml.load(path.read_text("utf-8"), Loader=FiniteLoader)  # noqa: S506  a safe one
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {str(path)!r} is not YAML: {error}") from error
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"settings file {str(path)!r} must be a mapping of names to values")
    return value, dict(_lines(node, "$"))


def _lines(node: Any, path: str) -> Iterator[tuple[str, int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from ((inner, line) for inner, line in _lines(value, f"{path}.{key.value}"))
            yield f"{path}.{key.value}", key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, f"{path}[{index}]")


def _walk(value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")


def _unresolved(document: Any, lines: Mapping[str, int], environ: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    for path, text in _walk(document):
        for name, fallback in _REFERENCE.findall(text):
            if name not in environ and not fallback:
                yield lines.get(path, 1), f"{path[2:]} refers to ${{{name}}}, which is not set"


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: environ.get(match[1], match[2] or ""), value)
    if isinstance(value, dict):
        return {key: _expanded(inner, environ) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, environ) for inner in value]
    return value


def _check(document: dict[str, Any], lines: Mapping[str, int], into: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Convert field by field, so that one mistake does not hide the next."""
    hints = get_type_hints(Settings, include_extras=True)
    for key, raw in document.items():
        at = f"$.{key}"
        if key not in hints:
            yield lines.get(at, 1), f"{key!r} is no setting; {suggestion(str(key), hints, label='there are')}"
            continue
        items = [(f"{at}[{i}]", one, ProviderSettings) for i, one in enumerate(raw)] if _many(key, raw) else []
        found: list[Any] = []
        for path, value, kind in items or [(at, raw, hints[key])]:
            try:
                found.append(_fitting(value, kind))
            except msgspec.ValidationError as error:
                reason, _, inner = str(error).partition(" - at `$")
                full = path + inner.rstrip("`")
                yield _line_of(lines, full, reason), f"{full[2:]}: {reason}"
        into[key] = found if items else found[0] if found else None


def _line_of(lines: Mapping[str, int], path: str, reason: str) -> int:
    """The line of a mistake: of the field itself where it is known, else of what holds it."""
    path = path.replace("[...]", "")
    if unknown := _UNKNOWN.search(reason):
        path += f".{unknown[1]}"
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)


def _many(key: str, raw: Any) -> bool:
    return key == "providers" and isinstance(raw, list) and bool(raw)


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    reserved = {"config", "home", "cli_complete"}
    found = {name[len(_ENV) :].lower(): value for name, value in environ.items() if name.startswith(_ENV)}
    hints = get_type_hints(Settings)
    return {key: value for key, value in found.items() if key not in reserved and key.split("__")[0] in hints}


def _override(values: dict[str, Any], overrides: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Lay variables over the file: `MODELYARD_PORT`, and `MODELYARD_LOCAL__THREADS` for a field of a part."""
    hints = get_type_hints(Settings)
    for key, text in overrides.items():
        head, _, tail = key.partition("__")
        kind = hints[head]
        try:
            if tail:
                part = values.get(head) or kind()
                inner = get_type_hints(kind, include_extras=True).get(tail)
                if inner is None:
                    yield key, f"{head!r} has no field {tail!r}"
                    continue
                values[head] = msgspec.structs.replace(part, **{tail: _scalar(text, inner)})
            else:
                values[head] = _scalar(text, kind)
        except (ValueError, AttributeError, TypeError) as error:
            yield key, f"{text!r} does not fit: {error}"


def _scalar(text: str, kind: Any) -> Any:
    parsed = text.split(",") if kind == list[str] else text
    return _fitting(parsed, kind, strict=False)


def _fitting(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """The value as its type. Raises msgspec.ValidationError, for numbers out of bounds too."""
    converted = msgspec.convert(value, kind, strict=strict)
    check_numbers(converted)
    return converted
