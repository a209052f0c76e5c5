"""`manifest.yaml`: who made a plugin, what it may do, and which files declare what it offers."""

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from modelyard.base.errors import PackageError
from modelyard.base.numbers import FiniteLoader
from modelyard.models.types import JSON
from modelyard.plugins.identity import AUTHOR, NAME, VERSION, PluginIdentifier

MANIFEST = "manifest.yaml"
KINDS = ("tools", "models", "endpoints", "agent_strategies", "datasources", "triggers")
_ALONE = ("models", "agent_strategies", "datasources", "triggers")
"""Kinds that share a plugin with no other."""
_KIB, _GIB = 1024, 1 << 30


class Enabled(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False


class ModelPermission(Enabled, frozen=True, kw_only=True):
    """Which model types a plugin may call."""

    llm: bool = False
    text_embedding: bool = False
    rerank: bool = False
    tts: bool = False
    speech2text: bool = False
    moderation: bool = False


class StoragePermission(Enabled, frozen=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(ge=0, le=_GIB)] = 0
    """Bytes."""


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin may ask of its host; nothing that is not said."""

    tool: Enabled = Enabled()
    model: ModelPermission = ModelPermission()
    node: Enabled = Enabled()
    endpoint: Enabled = Enabled()
    app: Enabled = Enabled()
    storage: StoragePermission = StoragePermission()

    def words(self) -> list[str]:
        """What is allowed, one word each, as `model.llm`."""
        plain = [name for name in ("tool", "node", "endpoint", "app", "storage") if getattr(self, name).enabled]
        models = [f"model.{name}" for name in _MODEL_WORDS if self.model.enabled and getattr(self.model, name)]
        return [*plain, *models]

    def allows(self, word: str) -> bool:
        return word in self.words()

    def within(self, words: list[str]) -> "Permissions":
        """What is left where only these words are granted."""
        document = msgspec.to_builtins(self)
        for name in ("tool", "node", "endpoint", "app", "storage"):
            document[name]["enabled"] = document[name]["enabled"] and name in words
        for name in _MODEL_WORDS:
            document["model"][name] = document["model"][name] and f"model.{name}" in words
        return msgspec.convert(document, Permissions)


_MODEL_WORDS = ("llm", "text_embedding", "rerank", "tts", "speech2text", "moderation")


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    memory: int = 0
    """Bytes that it says it needs."""
    permission: Permissions | None = None


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    language: str = "python"
    version: str = "3.12"
    entrypoint: str = "main"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    version: str = "0.0.1"
    arch: list[str] = []
    runner: Runner = Runner()
    minimum_dify_version: str | None = None


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """The files that declare what the plugin offers, by kind."""

    tools: list[str] = []
    models: list[str] = []
    endpoints: list[str] = []
    agent_strategies: list[str] = []
    datasources: list[str] = []
    triggers: list[str] = []

    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if getattr(self, kind)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
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
    plugins: Offered = Offered()
    meta: Meta = Meta()
    privacy: str | None = None
    repo: str | None = None

    @property
    def id(self) -> str:
        return f"{self.author}/{self.name}" if self.author else self.name

    @property
    def permissions(self) -> Permissions:
        return self.resource.permission or Permissions()

    @property
    def category(self) -> str:
        """What it is counted as where one word has to do."""
        kinds = self.plugins.kinds()
        for kind, word in _CATEGORIES.items():
            if kind in kinds:
                return word
        return "extension"

    def identifier(self, checksum: str) -> PluginIdentifier:
        return PluginIdentifier(self.author, self.name, self.version, checksum)


_CATEGORIES = {
    "tools": "tool", "models": "model", "datasources": "datasource", "agent_strategies": "agent-strategy",
    "triggers": "trigger",
}  # fmt: skip


def read_yaml(text: bytes, source: str) -> JSON:
    """A YAML mapping. Raises PackageError that names the file."""
    try:
        document = yaml.load(text, Loader=FiniteLoader)  # noqa: S506  a safe one
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise PackageError(f"{source} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise PackageError(f"{source} must be a mapping of names to values")
    return document


def load_yaml(folder: Path, name: str) -> JSON:
    """A YAML file of a plugin's folder. Raises PackageError where it is missing or lies outside."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise PackageError(f"{name!r} lies outside the plugin's folder")
    if not path.is_file():
        raise PackageError(f"{name!r} is named and not there")
    return read_yaml(path.read_bytes(), name)


def read_manifest(document: Mapping[str, Any], source: str = MANIFEST) -> Manifest:
    """Raises PackageError that names the field that is wrong."""
    known = {name: value for name, value in document.items() if value is not None}
    created = known.get("created_at")
    if isinstance(created, datetime | date):
        known["created_at"] = created.isoformat()
    for field in ("label", "description"):
        if field in known:
            known[field] = texts(known[field])
    for field in ("version", "name"):
        if field not in known:
            raise PackageError(f"{source}: {field!r} is missing")
    known["version"] = str(known["version"])
    _fill(known, "plugins", KINDS, list)
    _fill(known, "resource", ("permission",), dict)
    permission = (known.get("resource") or {}).get("permission")
    if isinstance(permission, dict):
        known["resource"]["permission"] = {name: one for name, one in permission.items() if one is not None}
    try:
        manifest = msgspec.convert(known, Manifest, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        raise PackageError(f"{source}: {where.rstrip('`') or 'the whole'}: {reason}") from error
    _check(manifest, source)
    return manifest


def _fill(known: dict[str, Any], name: str, fields: tuple[str, ...], empty: type[Any]) -> None:
    """What is written as nothing is empty."""
    part = known.get(name)
    if isinstance(part, dict):
        known[name] = {key: empty() if value is None and key in fields else value for key, value in part.items()}


def _check(manifest: Manifest, source: str) -> None:
    if manifest.type not in ("plugin", "bundle"):
        raise PackageError(f"{source}: type is {manifest.type!r}; it must be plugin, or bundle")
    if not NAME.fullmatch(manifest.name):
        raise PackageError(f"{source}: name {manifest.name!r} must be made of a-z, 0-9, _ and -, at most 128 of them")
    if manifest.author and not AUTHOR.fullmatch(manifest.author):
        raise PackageError(f"{source}: author {manifest.author!r} must be made of letters, 0-9, _ and -, at most 64")
    if not VERSION.fullmatch(manifest.version):
        raise PackageError(f"{source}: version {manifest.version!r} must read as 1.2.3 or 1.2.3-beta")
    if manifest.type == "bundle":
        return
    kinds = manifest.plugins.kinds()
    if not kinds:
        raise PackageError(f"{source}: plugins names no file; it needs one of {', '.join(KINDS)}")
    alone = [kind for kind in kinds if kind in _ALONE]
    if alone and len(kinds) > 1:
        raise PackageError(f"{source}: {alone[0]} must be the only kind; there are {', '.join(kinds)}")
    if manifest.meta.runner.language != "python":
        raise PackageError(f"{source}: meta.runner.language is {manifest.meta.runner.language!r}; only python is run")
    storage = manifest.permissions.storage
    if storage.enabled and storage.size < _KIB:
        raise PackageError(f"{source}: resource.permission.storage.size is {storage.size}; it must be 1024 or more")


def texts(value: Any) -> dict[str, str]:
    """A label in several languages, however it is written; English is always there."""
    if not isinstance(value, dict):
        return {"en_US": "" if value is None else str(value)}
    known = {str(name): str(text) for name, text in value.items() if text is not None}
    english = known.get("en_US") or next(iter(known.values()), "")
    return {"en_US": english, **{name: text for name, text in known.items() if name != "en_US"}}
