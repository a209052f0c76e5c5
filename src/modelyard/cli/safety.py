"""What of an installation's settings is unsafe: what is wrong, why it matters, and the setting to change.

Pure: whatever is not in the settings (files, tenants, the jail's level, who runs this) is in `Facts`."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

import msgspec

from modelyard.base.settings import Settings
from modelyard.gateway.auth import is_loopback


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings do not say."""

    settings_file: str = ""
    """Empty where there is none."""
    is_file_readable: bool = False
    """Whether others than its owner may read the settings' file."""
    text: str = ""
    """Of the settings' file: secrets that variables stand for are not in it."""
    is_root: bool = False
    tenants: tuple[str, ...] = ()
    """Beside the default one."""
    unlimited_tenants: tuple[str, ...] = ()
    jail: str = "landlock"
    """The level that holds; empty where none does."""
    has_master_key_file: bool = False


class Unsafe(msgspec.Struct, frozen=True):
    name: str
    """One of `UNSAFE`."""
    why: str
    remedy: str
    is_information: bool = False


_SHORTEST_KEY = 24
_FEWEST_CHARACTERS = 8
_GUESSABLE = re.compile(r"(?i)secret|password|changeme|example|test|admin|12345|modelyard|api[-_]?key")
_CONNECTION_LIMITS = (
    "head_seconds", "body_seconds", "body_rate", "idle_seconds", "unread_seconds", "head_kb", "headers", "target_kb",
    "pipelined", "bodies_mb",
)  # fmt: skip
_HUGE = 100
"""A limit of so many times its default limits nobody."""
_ENCRYPTED_MODES = ("require", "verify-ca", "verify-full")


def findings(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    for check in _CHECKS:
        yield from check(settings, facts)


def _listening(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    if not is_loopback(settings.host) and not settings.trusted_proxies:
        why = f"the server listens on {settings.host} without a proxy: keys and prompts cross the network unencrypted"
        yield Unsafe("plain network", why, "put a proxy with TLS before it and name it in trusted_proxies")


def _proxies(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    for text in settings.trusted_proxies:
        if _is_everybody(text):
            why = f"{text} is everybody: each caller may say which address it calls from, and evade limits by address"
            yield Unsafe("everybody is a proxy", why, "list only your proxies' addresses in trusted_proxies")


def _is_everybody(text: str) -> bool:
    try:
        return ip_network(text, strict=False).prefixlen == 0
    except ValueError:  # whoever starts the server is told
        return False


def _keys(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    weak = sum(1 for key in settings.api_keys if _is_weak(key))
    if weak:
        why = f"{weak} of the settings' API keys can be guessed, and each is an owner's"
        yield Unsafe("weak API key", why, "take 32 random bytes for each of api_keys, or modelyard keys create")


def _is_weak(key: str) -> bool:
    return len(key) < _SHORTEST_KEY or len(set(key)) < _FEWEST_CHARACTERS or _GUESSABLE.search(key) is not None


def _readable(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    if not facts.is_file_readable:
        return
    held = [name for name, secrets in _secrets(settings) if any(one and one in facts.text for one in secrets)]
    if held:
        why = f"other users of this machine can read {facts.settings_file}, which holds {', '.join(held)}"
        yield Unsafe("readable secrets", why, f"chmod 600 {facts.settings_file}")


def _secrets(settings: Settings) -> Iterator[tuple[str, list[str]]]:
    yield "api_keys", settings.api_keys
    yield "master_key", [settings.master_key]
    yield "database", [_password(settings.database)]
    yield "shared", [_password(settings.shared)]
    yield "oidc.client_secret", [settings.oidc.client_secret]
    yield "knowledge.qdrant_api_key", [settings.knowledge.qdrant_api_key]
    credentials = [one for provider in settings.providers for one in provider.credentials]
    yield "providers", [value for one in credentials for value in one.values.values()]


def _password(url: str) -> str:
    return urlsplit(url).password or "" if "://" in url else ""


def _database(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    if not settings.database.startswith(("postgresql://", "postgres://")):
        return
    parts = urlsplit(settings.database)
    mode = parse_qs(parts.query).get("sslmode", [""])[0]
    if _is_elsewhere(parts.hostname) and mode not in _ENCRYPTED_MODES:
        why = f"the database on {parts.hostname} may be spoken to without TLS"
        yield Unsafe("database without TLS", why, "add ?sslmode=verify-full to database")


def _shared(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    if "://" not in settings.shared:
        return
    parts = urlsplit(settings.shared)
    if not _is_elsewhere(parts.hostname):
        return
    if not parts.password:
        why = f"Valkey on {parts.hostname} asks for no password: whoever reaches it changes everybody's limits"
        yield Unsafe("Valkey without a password", why, "set a password there, and name it in shared")
    if parts.scheme not in ("valkeys", "rediss"):
        why = f"Valkey on {parts.hostname} is spoken to without TLS"
        yield Unsafe("Valkey without TLS", why, "write valkeys://… in shared")


def _is_elsewhere(host: str | None) -> bool:
    return bool(host) and not is_loopback(host or "")


def _egress(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    if settings.egress.private:
        why = f"every tenant's workflows, tools and plugins may reach {', '.join(settings.egress.private)}"
        yield Unsafe("private addresses", why, "take what tenants do not need out of egress.private")
    odd = [port for port in settings.egress.ports if port not in (80, 443)]
    if odd:
        why = f"tenants may speak to port {', '.join(map(str, odd))} of any public host, whatever listens there"
        yield Unsafe("odd ports", why, "leave 80 and 443 in egress.ports")


def _content(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    if settings.telemetry.content:
        why = "prompts and answers are sent with the traces, to whoever reads those"
        yield Unsafe("prompts in traces", why, "set telemetry.content to false")
    if settings.telemetry.record:
        why = "prompts and answers of every call lie in the database as they were said"
        yield Unsafe("prompts are recorded", why, "set telemetry.record to false")
    if settings.content.pass_authorization:
        why = "plugins and webhooks are told of the credentials that their senders show"
        yield Unsafe("credentials passed on", why, "set content.pass_authorization to false")
    if facts.tenants and not settings.content.origin:
        why = "what several tenants show comes from the console's own origin: browsers' sandbox alone parts them"
        yield Unsafe("one origin", why, "set content.origin to an origin of its own")


def _plugins(settings: Settings, _: Facts) -> Iterator[Unsafe]:
    if not settings.plugins.must_be_signed:
        why = "plugins are installed whoever made them"
        yield Unsafe(
            "unsigned plugins", why, "set plugins.must_be_signed to true, and plugins.public_keys",
            is_information=is_loopback(settings.host),
        )  # fmt: skip
    if settings.plugins.debug_port and not is_loopback(settings.host):
        why = f"port {settings.plugins.debug_port}, where plugins are debugged, is open to the network, without TLS"
        yield Unsafe("plugin debug port", why, "set plugins.debug_port to 0")
    if settings.plugins.open_interface:
        why = "the plugin daemon's interface answers callers from other machines"
        yield Unsafe("plugin interface", why, "set plugins.open_interface to false")


def _machine(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    if facts.is_root:
        why = "this user is root: whatever escapes owns the machine"
        yield Unsafe("root", why, "run the server as a user of its own, who owns home")
    if settings.workflows.code and facts.jail != "landlock":
        why = f"the jail holds by {facts.jail} alone" if facts.jail else "no jail holds here: programs are refused"
        yield Unsafe("jail", why, "use a kernel with Landlock (5.13), or set workflows.code to false")


def _limits(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    usual = type(settings.connections)()
    for name in _CONNECTION_LIMITS:
        value = getattr(settings.connections, name)
        if value <= 0 or value >= getattr(usual, name) * _HUGE:
            why = f"connections.{name} is {value}: it keeps no stranger from holding the server up"
            yield Unsafe("no limit on connections", why, f"set connections.{name} to about {getattr(usual, name)}")
    if facts.unlimited_tenants:
        why = f"nothing limits what {', '.join(facts.unlimited_tenants)} may spend"
        yield Unsafe("tenants without limits", why, "set limits, or modelyard limits set --tenant")


def _upkeep(settings: Settings, facts: Facts) -> Iterator[Unsafe]:
    if not settings.upgrade_database:
        why = "a newer version with fixes does not start until its database is upgraded by hand"
        yield Unsafe("upgrades by hand", why, "set upgrade_database to true", is_information=True)
    if facts.has_master_key_file and not settings.master_key and "://" not in settings.database:
        why = "the master key lies beside the database: a copy of the folder holds the credentials and their key"
        yield Unsafe("master key", why, "set master_key by MODELYARD_MASTER_KEY, kept elsewhere", is_information=True)


_CHECKS: tuple[Callable[[Settings, Facts], Iterator[Unsafe]], ...] = (
    _listening, _proxies, _keys, _readable, _database, _shared, _egress, _content, _plugins, _machine, _limits, _upkeep,
)  # fmt: skip

UNSAFE = {
    "plain network": ("host", "trusted_proxies"),
    "everybody is a proxy": ("trusted_proxies",),
    "weak API key": ("api_keys",),
    "readable secrets": ("api_keys", "master_key", "database", "shared", "oidc.client_secret", "providers"),
    "database without TLS": ("database",),
    "Valkey without a password": ("shared",),
    "Valkey without TLS": ("shared",),
    "private addresses": ("egress.private",),
    "odd ports": ("egress.ports",),
    "prompts in traces": ("telemetry.content",),
    "prompts are recorded": ("telemetry.record",),
    "credentials passed on": ("content.pass_authorization",),
    "one origin": ("content.origin",),
    "unsigned plugins": ("plugins.must_be_signed", "plugins.public_keys"),
    "plugin debug port": ("plugins.debug_port",),
    "plugin interface": ("plugins.open_interface",),
    "root": ("home",),
    "jail": ("workflows.code",),
    "no limit on connections": tuple(f"connections.{name}" for name in _CONNECTION_LIMITS),
    "tenants without limits": ("limits",),
    "upgrades by hand": ("upgrade_database",),
    "master key": ("master_key",),
}
"""Each finding's name → the settings that it is about."""
