"""What a plugin offers, read from its YAML files or from what a plugin in debug sends: providers and their parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError, PackageError
from modelyard.models.types import JSON
from modelyard.plugins.manifest import MANIFEST, Manifest, load_yaml, read_manifest, texts
from modelyard.providers.definition import ProviderDefinition, definition_of, load_provider

WIRE = "plugin"
"""How plugins' models are spoken to, as a provider's definition says."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    author: str = ""
    label: dict[str, str] = {}
    description: dict[str, str] = {}
    icon: str = ""
    tags: list[str] = []


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a form of credentials or settings."""

    name: str
    type: str = "text-input"
    required: bool = False
    default: Any = None

    @property
    def is_secret(self) -> bool:
        return self.type == "secret-input"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool, a strategy, a datasource or an event takes."""

    name: str
    type: str = "string"
    form: str = "llm"
    """Who fills it in: `schema` and `form` a person, `llm` the model."""
    required: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    options: list[Any] = []
    label: dict[str, str] = {}
    human_description: dict[str, str] = {}
    llm_description: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A tool, a strategy, a datasource or an event."""

    identity: Identity
    description: Any = None
    parameters: list[Parameter] = []
    output_schema: dict[str, Any] | None = None


class OAuth(msgspec.Struct, frozen=True, kw_only=True):
    client_schema: list[Field] = []
    credentials_schema: list[Field] = []


class ToolProvider(msgspec.Struct, frozen=True, kw_only=True):
    identity: Identity
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None
    tools: list[Part] = []


class AgentProvider(msgspec.Struct, frozen=True, kw_only=True):
    identity: Identity
    strategies: list[Part] = []


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    method: str
    hidden: bool = False


class EndpointGroup(msgspec.Struct, frozen=True, kw_only=True):
    settings: list[Field] = []
    endpoints: list[Endpoint] = []


class DatasourceProvider(msgspec.Struct, frozen=True, kw_only=True):
    identity: Identity
    provider_type: str
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None
    datasources: list[Part] = []


class Constructor(msgspec.Struct, frozen=True, kw_only=True):
    parameters: list[Parameter] = []
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None


class TriggerProvider(msgspec.Struct, frozen=True, kw_only=True):
    identity: Identity
    subscription_schema: list[Field] = []
    subscription_constructor: Constructor | None = None
    events: list[Part] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    manifest: Manifest
    document: JSON
    """All of it as JSON: the manifest's fields, and `model`, `tool`, `endpoint`, `agent_strategy`, `datasource` or
    `trigger` beside them."""
    model: ProviderDefinition | None = None
    tool: ToolProvider | None = None
    agent_strategy: AgentProvider | None = None
    endpoint: EndpointGroup | None = None
    datasource: DatasourceProvider | None = None
    trigger: TriggerProvider | None = None

    @property
    def providers(self) -> list[str]:
        """The names that calls may be for."""
        named = [self.model.name] if self.model else []
        others = (self.tool, self.agent_strategy, self.datasource, self.trigger)
        return [*named, *(one.identity.name for one in others if one is not None)]

    @property
    def oauth(self) -> OAuth | None:
        constructor = self.trigger.subscription_constructor if self.trigger else None
        owners = (self.tool, self.datasource, constructor)
        return next((one.oauth_schema for one in owners if one is not None and one.oauth_schema is not None), None)


def load_declaration(folder: Path) -> Declaration:
    """What the plugin in a folder offers. Raises PackageError that names file and field."""
    manifest = read_manifest(load_yaml(folder, MANIFEST))
    if manifest.type != "plugin":
        raise PackageError(f"{MANIFEST}: this is a {manifest.type}, not a plugin")
    offered = manifest.plugins
    parts: dict[str, JSON] = {}
    if offered.models:
        parts["model"] = _model_document(folder, offered.models[0])
    for kind, key, inner in _NESTED:
        if files := getattr(offered, kind):
            parts[key] = _expanded(folder, files[0], inner)
    return declared(manifest, parts, folder=folder)


def _model_document(folder: Path, name: str) -> JSON:
    """The provider's file with its models in the place of their files' names."""
    load_yaml(folder, name)
    try:
        return load_provider(folder, folder / name)
    except ConfigError as error:
        raise PackageError(str(error).replace(f"{folder}/", "")) from error


def _expanded(folder: Path, name: str, inner: Sequence[str]) -> JSON:
    """A provider's file with its parts' files read in."""
    document = load_yaml(folder, name)
    for key in inner:
        if key in document:
            listed = document[key] or []
            if not isinstance(listed, list):
                raise PackageError(f"{name}: {key} must be a list of files")
            document[key] = [load_yaml(folder, one) if isinstance(one, str) else one for one in listed]
    return document


_NESTED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tools", "tool", ("tools",)),
    ("agent_strategies", "agent_strategy", ("strategies",)),
    ("endpoints", "endpoint", ("endpoints",)),
    ("datasources", "datasource", ("datasources",)),
    ("triggers", "trigger", ("events",)),
)


def declared(manifest: Manifest, parts: Mapping[str, JSON], *, folder: Path | None = None) -> Declaration:
    """From documents, kind → provider with its parts. Raises PackageError that names kind and field."""
    shown = {name: _shown(document) for name, document in parts.items()}
    document: JSON = {**msgspec.to_builtins(manifest), **shown}
    found: dict[str, Any] = {}
    if (model := parts.get("model")) is not None:
        try:
            found["model"] = definition_of(model, wire=WIRE, source=f"{manifest.id}: model provider")
        except ConfigError as error:
            raise PackageError(str(error)) from error
    for key, kind, prepare in _SHAPES:
        if (part := parts.get(key)) is not None:
            found[key] = _read(prepare(part), kind, f"{manifest.id}: {key.replace('_', ' ')} provider")
    if folder is not None:
        _check_files(folder, manifest, parts)
    return Declaration(manifest=manifest, document=document, **found)


def _read(document: JSON, kind: type[Any], source: str) -> Any:
    try:
        return msgspec.convert(document, kind, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        raise PackageError(f"{source}: {where.strip('.`') or 'the whole'}: {reason}") from error


def _shown(document: JSON) -> JSON:
    """Without the files' names, which are nobody else's concern."""
    return {name: value for name, value in document.items() if name != "extra"}


def _fields(given: Any) -> list[JSON]:
    """A form, written as a list or as a mapping by name."""
    if isinstance(given, dict):
        return [{**(one or {}), "name": name} for name, one in given.items()]
    return [one for one in given or () if isinstance(one, dict)]


def _identity(document: JSON) -> JSON:
    identity = dict(document.get("identity") or {})
    for name in ("label", "description"):
        if name in identity:
            identity[name] = texts(identity[name])
    identity["tags"] = identity.get("tags") or []
    return {name: value for name, value in identity.items() if value is not None}


def _parameter(one: JSON) -> JSON:
    found = {name: value for name, value in one.items() if value is not None}
    for name in ("label", "human_description"):
        if name in found:
            found[name] = texts(found[name])
    return found


def _part(one: JSON) -> JSON:
    return {
        "identity": _identity(one),
        "description": one.get("description"),
        "parameters": [_parameter(each) for each in one.get("parameters") or ()],
        "output_schema": one.get("output_schema") or None,
    }


def _oauth(given: Any) -> JSON | None:
    if not isinstance(given, dict):
        return None
    return {name: _fields(given.get(name)) for name in ("client_schema", "credentials_schema")}


def _tool(document: JSON) -> JSON:
    form = document.get("credentials_for_provider") or document.get("credentials_schema")
    return {
        "identity": _identity(document),
        "credentials_schema": _fields(form),
        "oauth_schema": _oauth(document.get("oauth_schema")),
        "tools": [_part(one) for one in document.get("tools") or ()],
    }


def _agent(document: JSON) -> JSON:
    return {"identity": _identity(document), "strategies": [_part(one) for one in document.get("strategies") or ()]}


def _endpoint(document: JSON) -> JSON:
    return {"settings": _fields(document.get("settings")), "endpoints": document.get("endpoints") or []}


def _datasource(document: JSON) -> JSON:
    return {
        "identity": _identity(document),
        "provider_type": document.get("provider_type"),
        "credentials_schema": _fields(document.get("credentials_schema")),
        "oauth_schema": _oauth(document.get("oauth_schema")),
        "datasources": [_part(one) for one in document.get("datasources") or ()],
    }


def _trigger(document: JSON) -> JSON:
    constructor = document.get("subscription_constructor")
    return {
        "identity": _identity(document),
        "subscription_schema": _fields(document.get("subscription_schema")),
        "subscription_constructor": {
            "parameters": [_parameter(one) for one in constructor.get("parameters") or ()],
            "credentials_schema": _fields(constructor.get("credentials_schema")),
            "oauth_schema": _oauth(constructor.get("oauth_schema")),
        }
        if isinstance(constructor, dict)
        else None,
        "events": [_part(one) for one in document.get("events") or ()],
    }


_SHAPES: tuple[tuple[str, type[Any], Callable[[JSON], JSON]], ...] = (
    ("tool", ToolProvider, _tool),
    ("agent_strategy", AgentProvider, _agent),
    ("endpoint", EndpointGroup, _endpoint),
    ("datasource", DatasourceProvider, _datasource),
    ("trigger", TriggerProvider, _trigger),
)


def _check_files(folder: Path, manifest: Manifest, parts: Mapping[str, JSON]) -> None:
    """What is named must be there: icons, the program, the sources. Raises PackageError."""
    icons = [manifest.icon, manifest.icon_dark or ""]
    for part in parts.values():
        icons.append(str((part.get("identity") or {}).get("icon") or ""))
        for name in ("icon_small", "icon_large", "icon_small_dark", "icon_large_dark"):
            icons += texts(part.get(name)).values() if part.get(name) else []
    for icon in icons:
        if icon and not icon.startswith(("http://", "https://")) and not (folder / "_assets" / icon).is_file():
            raise PackageError(f"icon {icon!r} is named and not in _assets")
    if not (folder / f"{manifest.meta.runner.entrypoint.replace('.', '/')}.py").is_file():
        raise PackageError(f"the program {manifest.meta.runner.entrypoint + '.py'!r} is not there")
    for part in parts.values():
        for source in _sources(part):
            if not (folder / source).is_file():
                raise PackageError(f"{source!r} is named and not there")


def _sources(document: Any) -> list[str]:
    """The Python files that a declaration names, at any depth."""
    if isinstance(document, list):
        return [source for one in document for source in _sources(one)]
    if not isinstance(document, dict):
        return []
    python = (document.get("extra") or {}).get("python") if isinstance(document.get("extra"), dict) else None
    found: list[str] = []
    for value in (python or {}).values():
        found += [str(one) for one in value] if isinstance(value, list) else [str(value)]
    inner = [value for name, value in document.items() if name != "extra"]
    return [*found, *_sources(inner)]
