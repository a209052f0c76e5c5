"""`manifest.yaml` of a plugin: its author, the permissions it requests, and the files
that declare what it offers."""

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from modelyard.base.errors import PackageError
from modelyard.base.json_types import EMPTY_OBJECT, is_object
from modelyard.base.number_bounds import FiniteLoader
from modelyard.models.types import JSON
from modelyard.plugins.identity import AUTHOR, NAME, VERSION, PluginIdentifier

MANIFEST = "manifest.yaml"
KINDS = ("tools", "models", "endpoints", "agent_strategies", "datasources", "triggers")
_EXCLUSIVE_KINDS = ("models", "agent_strategies", "datasources", "triggers")
"""Kinds that must be the only kind in a plugin."""
_KIB, _GIB = 1024, 1 << 30
Hosts = tuple[str, ...] | None
"""Hosts that a plugin may connect to, as names or patterns such as `*.example.com`;
None for any host."""
HostPattern = Annotated[
    str, msgspec.Meta(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
]


class Enabled(msgspec.Struct, frozen=True, kw_only=True):
    """A permission that is either granted or not."""

    enabled: bool = False


class ModelPermission(Enabled, frozen=True, kw_only=True):
    """The model types that a plugin may call."""

    llm: bool = False
    text_embedding: bool = False
    rerank: bool = False
    tts: bool = False
    speech2text: bool = False
    moderation: bool = False


class StoragePermission(Enabled, frozen=True, kw_only=True):
    """Permission to store data on the host."""

    size: Annotated[int, msgspec.Meta(ge=0, le=_GIB)] = 0
    """Maximum size in bytes."""


class NetworkPermission(Enabled, frozen=True, kw_only=True):
    """Permission to connect to hosts other than this server. Dify's manifests do not
    have it, so it is requested unless a manifest says otherwise."""

    enabled: bool = True
    hosts: Annotated[list[HostPattern], msgspec.Meta(max_length=100)] = []
    """The only hosts that the plugin connects to; any if the list is empty."""


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """The permissions a plugin requests; everything not mentioned is denied, apart from
    the network."""

    tool: Enabled = Enabled()
    model: ModelPermission = ModelPermission()
    node: Enabled = Enabled()
    endpoint: Enabled = Enabled()
    app: Enabled = Enabled()
    storage: StoragePermission = StoragePermission()
    network: NetworkPermission = NetworkPermission()

    @property
    def hosts(self) -> Hosts:
        """The hosts that the plugin may connect to; None for any, empty for none."""
        if not self.network.enabled:
            return ()
        # Sorted, so that manifests with the same hosts share a cell.
        return tuple(sorted(self.network.hosts)) or None

    def allowed_names(self) -> list[str]:
        """Return the names of the allowed permissions, such as `model.llm`."""
        plain = [
            name
            for name in ("tool", "node", "endpoint", "app", "storage")
            if getattr(self, name).enabled
        ]
        models = [
            f"model.{name}"
            for name in _MODEL_PERMISSIONS
            if self.model.enabled and getattr(self.model, name)
        ]
        return [*plain, *models]

    def allows(self, permission: str) -> bool:
        """Return whether the permission with that name is allowed."""
        return permission in self.allowed_names()

    def restricted_to(self, granted: list[str]) -> "Permissions":
        """Return the permissions that are requested here and granted.

        `granted` has names as `allowed_names` returns them, such as `storage` or
        `model.llm`; other names have no effect. The storage size stays as requested.
        """
        # Both are required: what the manifest requests and what the tenant granted.
        document = msgspec.to_builtins(self)
        for name in ("tool", "node", "endpoint", "app", "storage"):
            document[name]["enabled"] = document[name]["enabled"] and name in granted
        for name in _MODEL_PERMISSIONS:
            document["model"][name] = (
                document["model"][name] and f"model.{name}" in granted
            )
        return msgspec.convert(document, Permissions)

    def without_network(self) -> "Permissions":
        """Return the same permissions, but no connections to other hosts."""
        return msgspec.structs.replace(self, network=NetworkPermission(enabled=False))


_MODEL_PERMISSIONS = (
    "llm",
    "text_embedding",
    "rerank",
    "tts",
    "speech2text",
    "moderation",
)


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """The resources that a plugin requests."""

    memory: int = 0
    """Memory in bytes that the plugin says it needs."""
    permission: Permissions | None = None


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """How the plugin's program is started."""

    language: str = "python"
    version: str = "3.12"
    entrypoint: str = "main"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Format version, supported architectures and runner of the plugin."""

    version: str = "0.0.1"
    arch: list[str] = []
    runner: Runner = Runner()
    minimum_dify_version: str | None = None


class DeclarationFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files that declare what the plugin offers, by kind."""

    tools: list[str] = []
    models: list[str] = []
    endpoints: list[str] = []
    agent_strategies: list[str] = []
    datasources: list[str] = []
    triggers: list[str] = []

    def kinds(self) -> list[str]:
        """Return the kinds for which there are files."""
        return [kind for kind in KINDS if getattr(self, kind)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a plugin's or bundle's manifest."""

    version: str
    type: str = "plugin"
    author: str = ""
    name: str
    label: dict[str, str] = {}
    description: dict[str, str] = {}
    icon: str = ""
    icon_dark: str | None = None
    created_at: str = ""
    tags: list[str] = []
    resource: Resource = Resource()
    plugins: DeclarationFiles = DeclarationFiles()
    meta: Meta = Meta()
    privacy: str | None = None
    repo: str | None = None

    @property
    def id(self) -> str:
        """`author/name`, or just the name if there is no author."""
        return f"{self.author}/{self.name}" if self.author else self.name

    @property
    def permissions(self) -> Permissions:
        """The requested permissions; none if the manifest has no such section."""
        return self.resource.permission or Permissions()

    @property
    def category(self) -> str:
        """The plugin's main category, for listings."""
        kinds = self.plugins.kinds()
        # The order of the table decides for plugins with several kinds.
        for kind, category in _CATEGORIES.items():
            if kind in kinds:
                return category
        return "extension"

    def identifier(self, checksum: str) -> PluginIdentifier:
        """Return the identifier of a package with that checksum."""
        return PluginIdentifier(self.author, self.name, self.version, checksum)


_CATEGORIES = {
    "tools": "tool",
    "models": "model",
    "datasources": "datasource",
    "agent_strategies": "agent-strategy",
    "triggers": "trigger",
}


def read_yaml(text: bytes, source: str) -> JSON:
    """Parse the YAML mapping in a plugin's file.

    `source` is the file's name for error messages. Infinity and NaN are refused. Raises
    PackageError if it is not valid YAML, or not a mapping at its top level.
    """
    try:
        # A safe loader, which in addition refuses infinity and NaN.
        document = yaml.load(text, Loader=FiniteLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise PackageError(f"{source}: invalid YAML: {error}") from error
    if not is_object(document):
        raise PackageError(f"{source}: expected a mapping of names to values")
    return document


def load_yaml(folder: Path, name: str) -> JSON:
    """Read a YAML mapping from a file in a plugin's folder.

    `name` is relative to the folder. Raises PackageError if the path or a link leads
    out of the folder, the file does not exist, or it is not a valid YAML mapping.
    """
    # Resolved paths, so that neither `..` nor links lead out of the folder.
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PackageError(f"{name!r} is outside the plugin's folder")
    if not path.is_file():
        raise PackageError(f"File {name!r} does not exist")
    return read_yaml(path.read_bytes(), name)


def read_manifest(document: Mapping[str, Any], source: str = MANIFEST) -> Manifest:
    """Convert and validate the document of a manifest.

    `document` is the decoded YAML, or what a debugged plugin sent; empty values get
    their defaults and numeric versions become text. `source` begins error messages.
    Raises PackageError for the first missing, invalid or contradictory field.
    """
    values = _normalise(document, source)
    try:
        manifest = msgspec.convert(values, Manifest, strict=False)
    except msgspec.ValidationError as error:
        reason, _, field_path = str(error).partition(" - at `$.")
        raise PackageError(
            f"{source}: {field_path.rstrip('`') or 'document'}: {reason}"
        ) from error
    _check(manifest, source)
    return manifest


def _normalise(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a manifest's values without YAML's peculiarities. Raises PackageError if
    version or name is missing."""
    values = {name: value for name, value in document.items() if value is not None}
    created = values.get("created_at")
    # Empty YAML values mean that the default applies.
    if isinstance(created, datetime | date):
        # YAML reads timestamps as dates.
        values["created_at"] = created.isoformat()
    for field in ("label", "description"):
        if field in values:
            values[field] = localized_text(values[field])
    for field in ("version", "name"):
        if field not in values:
            raise PackageError(f"{source}: {field!r} is missing")
    # A version such as 1.0 is a number in YAML.
    values["version"] = str(values["version"])
    _replace_empty(values, "plugins", KINDS, list)
    _replace_empty(values, "resource", ("permission",), dict)
    _drop_empty_permissions(values)
    return values


def _drop_empty_permissions(values: dict[str, Any]) -> None:
    """Remove empty sections of `resource.permission`."""
    permission = (values.get("resource") or EMPTY_OBJECT).get("permission")
    if is_object(permission):
        values["resource"]["permission"] = {
            name: section for name, section in permission.items() if section is not None
        }


def _replace_empty(
    values: dict[str, Any], name: str, fields: tuple[str, ...], empty: type[Any]
) -> None:
    """Replace empty YAML values of these fields by empty containers."""
    part = values.get(name)
    if is_object(part):
        values[name] = {
            key: empty() if value is None and key in fields else value
            for key, value in part.items()
        }


def _check(manifest: Manifest, source: str) -> None:
    """Check type, name, author and version, and the further rules of a plugin.

    Raises PackageError with `source` and the first violation.
    """
    if manifest.type not in ("plugin", "bundle"):
        raise PackageError(
            f"{source}: type must be plugin or bundle, not {manifest.type!r}"
        )
    if not NAME.fullmatch(manifest.name):
        raise PackageError(
            f"{source}: name {manifest.name!r} may contain a-z, 0-9, _ and -, at most"
            " 128 characters"
        )
    if manifest.author and not AUTHOR.fullmatch(manifest.author):
        raise PackageError(
            f"{source}: author {manifest.author!r} may contain letters, 0-9, _ and -,"
            " at most 64 characters"
        )
    if not VERSION.fullmatch(manifest.version):
        raise PackageError(
            f"{source}: invalid version {manifest.version!r}; expected 1.2.3 or 1.2.3-beta"
        )
    if manifest.type != "bundle":
        _check_plugin(manifest, source)


def _check_plugin(manifest: Manifest, source: str) -> None:
    """Check what a plugin's manifest offers and requests.

    It must declare something, exclusive kinds must be alone, the language must be
    Python, and storage must have at least 1 KiB if it is requested. Raises PackageError
    with `source` and the first violation.
    """
    kinds = manifest.plugins.kinds()
    if not kinds:
        raise PackageError(
            f"{source}: plugins is empty; expected one of {', '.join(KINDS)}"
        )
    # Models, strategies, datasources and triggers exclude other kinds in Dify's format.
    alone = [kind for kind in kinds if kind in _EXCLUSIVE_KINDS]
    if alone and len(kinds) > 1:
        raise PackageError(
            f"{source}: {alone[0]} cannot be combined with other kinds: {', '.join(kinds)}"
        )
    if manifest.meta.runner.language != "python":
        raise PackageError(
            f"{source}: meta.runner.language must be python, not"
            f" {manifest.meta.runner.language!r}"
        )
    storage = manifest.permissions.storage
    if storage.enabled and storage.size < _KIB:
        raise PackageError(
            f"{source}: resource.permission.storage.size must be 1024 or more, not"
            f" {storage.size}"
        )


def localized_text(value: Any) -> dict[str, str]:
    """Return a label as language → text, from a text or a mapping. English is always
    present."""
    if not is_object(value):
        return {"en_US": "" if value is None else str(value)}
    translations = {
        str(name): str(text) for name, text in value.items() if text is not None
    }
    # Without English, the first language stands in.
    english = translations.get("en_US") or next(iter(translations.values()), "")
    return {
        "en_US": english,
        **{name: text for name, text in translations.items() if name != "en_US"},
    }
