"""Checks for unsafe settings: what is wrong, why it matters, and which setting to
change.

The checks have no side effects. Everything that is not in the settings (files, tenants,
sandbox level, user) is passed as `Facts`.
"""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

import msgspec

from modelyard.base.settings import Settings
from modelyard.gateway.auth import is_loopback


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the installation that the settings do not contain."""

    settings_file: str = ""
    """Path of the settings file; empty if there is none."""
    is_file_readable: bool = False
    """Whether users other than the owner can read the settings file."""
    text: str = ""
    """Content of the settings file. Secrets that come from environment variables are
    not in it."""
    is_root: bool = False
    tenants: tuple[str, ...] = ()
    """Ids of the tenants, without the default tenant."""
    unlimited_tenants: tuple[str, ...] = ()
    sandbox: str = "landlock"
    """Sandbox level that works here; empty if there is none."""
    has_master_key_file: bool = False


class UnsafeSetting(msgspec.Struct, frozen=True):
    """One unsafe setting."""

    name: str
    """A key of `UNSAFE`."""
    why: str
    """The risk."""
    remedy: str
    is_information: bool = False


# Shorter keys, or keys with fewer distinct characters, can be guessed.
_MIN_KEY_LENGTH = 24
# Fewer are typical of a word repeated, or of a placeholder.
_MIN_DISTINCT_CHARACTERS = 8
# Substrings of example values that people forget to replace.
_GUESSABLE = re.compile(
    r"(?i)secret|password|changeme|example|test|admin|12345|modelyard|api[-_]?key"
)
_CONNECTION_LIMITS = (
    "head_seconds",
    "body_seconds",
    "body_rate",
    "idle_seconds",
    "unread_seconds",
    "head_kb",
    "headers",
    "target_kb",
    "pipelined",
    "bodies_mb",
)
_USELESS_FACTOR = 100
"""A limit of at least this multiple of its default does not limit anything."""
# The other modes of libpq fall back to plain text silently.
_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


def findings(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield all unsafe settings, in the order of the checks."""
    for check in _CHECKS:
        yield from check(settings, facts)


def _listening(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield a finding if the server is reachable over the network without TLS."""
    if not is_loopback(settings.host) and not settings.trusted_proxies:
        reason = (
            f"the server listens on {settings.host} without a TLS proxy: keys and"
            " prompts cross the network unencrypted"
        )
        yield UnsafeSetting(
            "plain network",
            reason,
            "put a proxy with TLS in front of it and list it in trusted_proxies",
        )


def _proxies(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings for trusted proxies that match every address."""
    for text in settings.trusted_proxies:
        # A trusted proxy may state the client's address, by which limits apply.
        if _contains_all_addresses(text):
            reason = (
                f"{text} contains every address: each caller can claim any client"
                " address and evade limits by address"
            )
            yield UnsafeSetting(
                "every address is a trusted proxy",
                reason,
                "list only your proxies' addresses in trusted_proxies",
            )


def _contains_all_addresses(text: str) -> bool:
    """Tell whether a network contains every address. Invalid networks are reported when
    the server starts."""
    try:
        return ip_network(text, strict=False).prefixlen == 0
    except ValueError:
        return False


def _keys(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield a finding if API keys in the settings are easy to guess."""
    weak = sum(1 for key in settings.api_keys if _is_weak(key))
    if weak:
        reason = (
            f"{weak} API keys in the settings can be guessed; each has the role owner"
        )
        yield UnsafeSetting(
            "weak API key",
            reason,
            "use 32 random bytes for each of api_keys, or run modelyard keys create",
        )


def _is_weak(key: str) -> bool:
    """Tell whether a key is short, repetitive or looks like an example."""
    return (
        len(key) < _MIN_KEY_LENGTH
        or len(set(key)) < _MIN_DISTINCT_CHARACTERS
        or _GUESSABLE.search(key) is not None
    )


def _readable(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield a finding if other users can read secrets in the settings file."""
    if not facts.is_file_readable:
        return
    # A secret from an environment variable is in the settings but not in the file's
    # text.
    exposed_settings = [
        name
        for name, secrets in _secrets(settings)
        if any(secret and secret in facts.text for secret in secrets)
    ]
    if exposed_settings:
        reason = (
            f"other users of this machine can read {facts.settings_file}, which contains"
            f" {', '.join(exposed_settings)}"
        )
        yield UnsafeSetting(
            "readable secrets", reason, f"chmod 600 {facts.settings_file}"
        )


def _secrets(settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """Yield (setting, its secrets) for all settings that contain secrets."""
    yield "api_keys", settings.api_keys
    yield "master_key", [settings.master_key]
    yield "database", [_password(settings.database)]
    yield "shared", [_password(settings.shared)]
    yield "oidc.client_secret", [settings.oidc.client_secret]
    yield "mail.password", [settings.mail.password]
    yield "knowledge.qdrant_api_key", [settings.knowledge.qdrant_api_key]
    credentials = [
        credential
        for provider in settings.providers
        for credential in provider.credentials
    ]
    yield (
        "providers",
        [value for credential in credentials for value in credential.values.values()],
    )


def _password(url: str) -> str:
    """Return the password in a URL, or an empty string."""
    return urlsplit(url).password or "" if "://" in url else ""


def _database(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield a finding if a remote PostgreSQL may be used without TLS."""
    if not settings.database.startswith(("postgresql://", "postgres://")):
        return
    parts = urlsplit(settings.database)
    mode = parse_qs(parts.query).get("sslmode", [""])[0]
    # Other modes of libpq, such as `prefer`, fall back to plain text.
    if _is_remote(parts.hostname) and mode not in _ENCRYPTED_MODES:
        reason = f"connections to the database on {parts.hostname} may not use TLS"
        yield UnsafeSetting(
            "database without TLS", reason, "add ?sslmode=verify-full to database"
        )


def _shared(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about a remote Valkey without password or TLS."""
    if "://" not in settings.shared:
        return
    parts = urlsplit(settings.shared)
    # On the same machine the traffic does not leave it.
    if not _is_remote(parts.hostname):
        return
    if not parts.password:
        reason = (
            f"Valkey on {parts.hostname} requires no password: anyone who can reach it"
            " can change all limits"
        )
        yield UnsafeSetting(
            "Valkey without a password",
            reason,
            "set a password there, and add it to the URL in shared",
        )
    if parts.scheme.removesuffix("+cluster") not in ("valkeys", "rediss"):
        reason = f"connections to Valkey on {parts.hostname} do not use TLS"
        yield UnsafeSetting("Valkey without TLS", reason, "use valkeys://… in shared")


def _is_remote(host: str | None) -> bool:
    """Tell whether a host is another machine."""
    return bool(host) and not is_loopback(host or "")


def _mail(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield a finding if mails with links to forms cross a network unencrypted."""
    mail = settings.mail
    if mail.host and mail.tls == "none" and _is_remote(mail.host):
        reason = (
            f"mails to {mail.host} are not encrypted: who reads a link can answer its"
            " form"
        )
        yield UnsafeSetting(
            "mail without TLS", reason, "set mail.tls to starttls or implicit"
        )


def _egress(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about what tenants' code may connect to."""
    # Private addresses include this machine's own services and cloud metadata.
    if settings.egress.private:
        reason = (
            "the workflows, tools and plugins of every tenant can reach"
            f" {', '.join(settings.egress.private)}"
        )
        yield UnsafeSetting(
            "private addresses",
            reason,
            "remove addresses that tenants do not need from egress.private",
        )
    other_ports = [port for port in settings.egress.ports if port not in (80, 443)]
    if other_ports:
        reason = (
            f"tenants can connect to port {', '.join(map(str, other_ports))} of any"
            " public host"
        )
        yield UnsafeSetting(
            "unusual ports", reason, "list only 80 and 443 in egress.ports"
        )


def _content(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about where prompts, answers and credentials are exposed."""
    if settings.telemetry.content:
        reason = "traces contain prompts and answers, readable by anyone with access"
        yield UnsafeSetting(
            "prompts in traces", reason, "set telemetry.content to false"
        )
    if settings.telemetry.record:
        reason = "prompts and answers of every call are readable in the database"
        yield UnsafeSetting(
            "prompts are recorded", reason, "set telemetry.record to false"
        )
    if settings.content.pass_authorization:
        reason = "plugins and webhooks receive the credentials that their callers send"
        yield UnsafeSetting(
            "credentials passed on", reason, "set content.pass_authorization to false"
        )
    if facts.tenants and not settings.content.origin:
        reason = (
            "content of several tenants is served from the console's origin: only the"
            " browsers' iframe sandbox separates them"
        )
        yield UnsafeSetting(
            "shared origin", reason, "set content.origin to a separate origin"
        )


def _plugins(settings: Settings, _: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about plugins."""
    if not settings.plugins.must_be_signed:
        reason = "plugins are installed without a trusted signature"
        yield UnsafeSetting(
            "unsigned plugins",
            reason,
            "set plugins.must_be_signed to true, and plugins.public_keys",
            # On a machine that only its owner reaches, unsigned plugins are the owner's
            # own choice.
            is_information=is_loopback(settings.host),
        )
    if settings.plugins.debug_port and not is_loopback(settings.plugins.debug_host):
        reason = (
            f"plugin debugging port {settings.plugins.debug_port} is open to the"
            " network, without TLS"
        )
        yield UnsafeSetting(
            "plugin debug port", reason, "set plugins.debug_host to 127.0.0.1"
        )
    if settings.plugins.open_interface:
        reason = "the plugin daemon API accepts requests from other machines"
        yield UnsafeSetting(
            "plugin interface", reason, "set plugins.open_interface to false"
        )


def _machine(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about the user and the kernel that the server runs with."""
    if facts.is_root:
        reason = "the server runs as root: an escape gives full access to the machine"
        yield UnsafeSetting(
            "root", reason, "run the server as a separate user that owns home"
        )
    if settings.workflows.code and facts.sandbox != "landlock":
        reason = (
            f"the sandbox relies on {facts.sandbox} only"
            if facts.sandbox
            else "no sandbox works on this machine: code is refused"
        )
        yield UnsafeSetting(
            "sandbox",
            reason,
            "use a kernel with Landlock (5.13), or set workflows.code to false",
        )


def _limits(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about missing limits for connections and tenants."""
    usual = type(settings.connections)()
    for name in _CONNECTION_LIMITS:
        value = getattr(settings.connections, name)
        if value <= 0 or value >= getattr(usual, name) * _USELESS_FACTOR:
            reason = (
                f"connections.{name} is {value}: it does not protect the server from"
                " clients that block it"
            )
            yield UnsafeSetting(
                "no limit on connections",
                reason,
                f"set connections.{name} to about {getattr(usual, name)}",
            )
    if facts.unlimited_tenants:
        reason = f"no limits are set for {', '.join(facts.unlimited_tenants)}"
        yield UnsafeSetting(
            "tenants without limits",
            reason,
            "set limits in the settings, or run modelyard limits set --tenant",
        )


def _upkeep(settings: Settings, facts: Facts) -> Iterator[UnsafeSetting]:
    """Yield findings about maintenance: upgrades and the master key."""
    if not settings.upgrade_database:
        reason = (
            "after an update the server does not start until the database is upgraded"
            " manually"
        )
        yield UnsafeSetting(
            "manual upgrades",
            reason,
            "set upgrade_database to true",
            is_information=True,
        )
    # With an external database the key and the data are apart already.
    if (
        facts.has_master_key_file
        and not settings.master_key
        and "://" not in settings.database
    ):
        reason = (
            "the master key is stored next to the database: a copy of the folder"
            " contains both the credentials and their key"
        )
        yield UnsafeSetting(
            "master key",
            reason,
            "set the environment variable MODELYARD_MASTER_KEY, stored elsewhere",
            is_information=True,
        )


# Order of the report.
_CHECKS: tuple[Callable[[Settings, Facts], Iterator[UnsafeSetting]], ...] = (
    _listening,
    _proxies,
    _keys,
    _readable,
    _database,
    _shared,
    _mail,
    _egress,
    _content,
    _plugins,
    _machine,
    _limits,
    _upkeep,
)

UNSAFE = {
    "plain network": ("host", "trusted_proxies"),
    "every address is a trusted proxy": ("trusted_proxies",),
    "weak API key": ("api_keys",),
    "readable secrets": (
        "api_keys",
        "master_key",
        "database",
        "shared",
        "oidc.client_secret",
        "mail.password",
        "providers",
    ),
    "mail without TLS": ("mail.tls",),
    "database without TLS": ("database",),
    "Valkey without a password": ("shared",),
    "Valkey without TLS": ("shared",),
    "private addresses": ("egress.private",),
    "unusual ports": ("egress.ports",),
    "prompts in traces": ("telemetry.content",),
    "prompts are recorded": ("telemetry.record",),
    "credentials passed on": ("content.pass_authorization",),
    "shared origin": ("content.origin",),
    "unsigned plugins": ("plugins.must_be_signed", "plugins.public_keys"),
    "plugin debug port": ("plugins.debug_host", "plugins.debug_port"),
    "plugin interface": ("plugins.open_interface",),
    "root": ("home",),
    "sandbox": ("workflows.code",),
    "no limit on connections": tuple(
        f"connections.{name}" for name in _CONNECTION_LIMITS
    ),
    "tenants without limits": ("limits",),
    "manual upgrades": ("upgrade_database",),
    "master key": ("master_key",),
}
"""Name of a finding → the settings that it concerns."""
