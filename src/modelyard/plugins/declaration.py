"""What a plugin offers: providers and their parts, read from its YAML files or from the
registration of a debugged plugin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError, PackageError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object
from modelyard.models.types import JSON
from modelyard.plugins.manifest import (
    MANIFEST,
    Manifest,
    load_yaml,
    localized_text,
    read_manifest,
)
from modelyard.providers.definition import (
    ProviderDefinition,
    definition_of,
    load_provider,
)

WIRE = "plugin"
"""Wire format of the models that plugins serve, as written in a provider definition."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Name, labels and icon of a provider or one of its parts."""

    name: str
    author: str = ""
    label: dict[str, str] = {}
    description: dict[str, str] = {}
    icon: str = ""
    tags: list[str] = []


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a credential or settings form."""

    name: str
    type: str = "text-input"
    required: bool = False
    default: Any = None
    options: list[Any] | None = None
    """Values, or objects with `value` and `label`. A debugged plugin sends null."""
    multiple: bool | None = None
    """Whether several options may be chosen."""
    scope: str | None = None
    """Limits a model, app or tool selector, as `llm` or `chat`."""

    @property
    def is_secret(self) -> bool:
        """True if the value must be stored encrypted and not be shown."""
        return self.type == "secret-input"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a tool, strategy, datasource or event."""

    name: str
    type: str = "string"
    form: str = "llm"
    """Who sets the value: `schema` and `form` a person, `llm` the model."""
    required: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    options: list[Any] = []
    label: dict[str, str] = {}
    human_description: dict[str, str] = {}
    llm_description: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A tool, strategy, datasource or event."""

    identity: Identity
    description: Any = None
    parameters: list[Parameter] = []
    output_schema: dict[str, Any] | None = None


class OAuth(msgspec.Struct, frozen=True, kw_only=True):
    """The forms that an OAuth sign-in needs."""

    client_schema: list[Field] = []
    credentials_schema: list[Field] = []


class ToolProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider of tools."""

    identity: Identity
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None
    tools: list[Part] = []


class AgentProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider of agent strategies."""

    identity: Identity
    strategies: list[Part] = []


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP endpoint that the plugin serves."""

    path: str
    method: str
    hidden: bool = False


class EndpointGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group of endpoints with common settings."""

    settings: list[Field] = []
    endpoints: list[Endpoint] = []


class DatasourceProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider of datasources."""

    identity: Identity
    provider_type: str
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None
    datasources: list[Part] = []


class Constructor(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to create a trigger's subscription."""

    parameters: list[Parameter] = []
    credentials_schema: list[Field] = []
    oauth_schema: OAuth | None = None


class TriggerProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider of triggers."""

    identity: Identity
    subscription_schema: list[Field] = []
    subscription_constructor: Constructor | None = None
    events: list[Part] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """Everything that a plugin declares. Each provider is None if the plugin has none
    of that kind."""

    manifest: Manifest
    document: JSON
    """The complete declaration as JSON: the manifest's fields plus `model`, `tool`,
    `endpoint`, `agent_strategy`, `datasource` and `trigger`."""
    model: ProviderDefinition | None = None
    tool: ToolProvider | None = None
    agent_strategy: AgentProvider | None = None
    endpoint: EndpointGroup | None = None
    datasource: DatasourceProvider | None = None
    trigger: TriggerProvider | None = None

    @property
    def providers(self) -> list[str]:
        """Names of the providers that a call may address."""
        model_names = [self.model.name] if self.model else []
        part_providers = (self.tool, self.agent_strategy, self.datasource, self.trigger)
        return [
            *model_names,
            *(
                provider.identity.name
                for provider in part_providers
                if provider is not None
            ),
        ]

    @property
    def oauth(self) -> OAuth | None:
        """The plugin's OAuth forms; None if it has none."""
        constructor = self.trigger.subscription_constructor if self.trigger else None
        owners = (self.tool, self.datasource, constructor)
        return next(
            (
                owner.oauth_schema
                for owner in owners
                if owner is not None and owner.oauth_schema is not None
            ),
            None,
        )


def load_declaration(folder: Path) -> Declaration:
    """Read the declaration of the plugin in a folder. Raises PackageError naming file
    and field."""
    manifest = read_manifest(load_yaml(folder, MANIFEST))
    if manifest.type != "plugin":
        raise PackageError(f"{MANIFEST}: type is {manifest.type}, not plugin")
    # A plugin has at most one provider of each kind, although the manifest has lists.
    offered = manifest.plugins
    parts: dict[str, JSON] = {}
    if offered.models:
        parts["model"] = _model_document(folder, offered.models[0])
    for attribute, key, inner in _NESTED:
        if files := getattr(offered, attribute):
            parts[key] = _load_nested(folder, files[0], inner)
    return build_declaration(manifest, parts, folder=folder)


def _model_document(folder: Path, name: str) -> JSON:
    """Read the model provider's file with its models included."""
    # Called for its checks: load_provider would follow a path out of the folder.
    load_yaml(folder, name)
    try:
        return load_provider(folder, folder / name)
    except ConfigError as error:
        # Error messages show paths within the package.
        raise PackageError(str(error).replace(f"{folder}/", "")) from error


def _load_nested(folder: Path, name: str, inner: Sequence[str]) -> JSON:
    """Read a provider's file and replace the file names of its parts by their contents."""
    document = load_yaml(folder, name)
    for key in inner:
        if key not in document:
            continue
        # YAML reads a key without a value as None, which stands for an empty list.
        listed = document[key] or list[Any]()
        if not is_array(listed):
            raise PackageError(f"{name}: {key} must be a list of files")
        document[key] = [_load_part(folder, element) for element in listed]
    return document


def _load_part(folder: Path, element: Any) -> Any:
    """Return an element of a list of files, which may be a file name or the document
    itself."""
    return load_yaml(folder, element) if isinstance(element, str) else element


# (manifest attribute, key in the declaration, keys of nested file lists)
_NESTED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tools", "tool", ("tools",)),
    ("agent_strategies", "agent_strategy", ("strategies",)),
    ("endpoints", "endpoint", ("endpoints",)),
    ("datasources", "datasource", ("datasources",)),
    ("triggers", "trigger", ("events",)),
)


def build_declaration(
    manifest: Manifest, parts: Mapping[str, JSON], *, folder: Path | None = None
) -> Declaration:
    """Build a declaration from documents: kind → provider with its parts. Raises
    PackageError naming kind and field.

    With `folder`, the files that are referred to must exist in it.
    """
    # The stored document is shown to tenants, the original is only used for validation.
    public_parts = {
        name: _public_document(document) for name, document in parts.items()
    }
    document: JSON = {**msgspec.to_builtins(manifest), **public_parts}
    providers: dict[str, Any] = {}
    if (model := parts.get("model")) is not None:
        try:
            providers["model"] = definition_of(
                model, wire=WIRE, source=f"{manifest.id}: model provider"
            )
        except ConfigError as error:
            raise PackageError(str(error)) from error
    for key, struct_type, prepare in _PROVIDER_TYPES:
        if (part := parts.get(key)) is not None:
            providers[key] = _convert(
                prepare(part),
                struct_type,
                f"{manifest.id}: {key.replace('_', ' ')} provider",
            )
    # A debugged plugin keeps its files on its author's machine: none can be checked.
    if folder is not None:
        _check_files(folder, manifest, parts)
    return Declaration(manifest=manifest, document=document, **providers)


def _convert(document: JSON, struct_type: type[Any], source: str) -> Any:
    """Convert a normalised provider document to its struct.

    Scalars are converted leniently, such as `"1"` to a number. Raises PackageError with
    `source`, the path of the invalid field (`document` if there is none) and the
    reason.
    """
    try:
        return msgspec.convert(document, struct_type, strict=False)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        # msgspec reports the path of the wrong field in its message.
        raise PackageError(
            f"{source}: {where.strip('.`') or 'document'}: {reason}"
        ) from error


def _public_document(document: JSON) -> JSON:
    """Return a provider without `extra`, which names internal files."""
    return {name: value for name, value in document.items() if name != "extra"}


def form_fields(raw_fields: Any) -> list[JSON]:
    """Return a form's fields as a list. It may be written as a list or as a mapping by
    name."""
    if is_object(raw_fields):
        return [
            # The key comes last, so that it outweighs a name among the attributes.
            {**(attributes or {}), "name": name}
            for name, attributes in raw_fields.items()
        ]
    return [
        field_document
        for field_document in raw_fields or ()
        if is_object(field_document)
    ]


def _normalise_identity(document: JSON) -> JSON:
    """Return the `identity` section of a provider or part.

    `label` and `description` become mappings from language to text, `tags` a list.
    Empty values are left out, so that the struct's defaults apply.
    """
    identity = dict(document.get("identity") or {})
    for name in ("label", "description"):
        if name in identity:
            identity[name] = localized_text(identity[name])
    identity["tags"] = identity.get("tags") or []
    # YAML's empty values are None, which the structs do not accept; defaults apply
    # instead.
    return {name: value for name, value in identity.items() if value is not None}


def _normalise_parameter(raw_parameter: JSON) -> JSON:
    """Return a parameter without empty values.

    `label` and `human_description` become mappings from language to text.
    """
    parameter = {
        name: value for name, value in raw_parameter.items() if value is not None
    }
    for name in ("label", "human_description"):
        if name in parameter:
            parameter[name] = localized_text(parameter[name])
    return parameter


def _normalise_part(raw_part: JSON) -> JSON:
    """Return a tool, strategy, datasource or event in the form of `Part`.

    Other keys of the document are dropped, and an empty `output_schema` becomes None.
    """
    return {
        "identity": _normalise_identity(raw_part),
        "description": raw_part.get("description"),
        "parameters": [
            _normalise_parameter(raw_parameter)
            for raw_parameter in raw_part.get("parameters") or ()
        ],
        "output_schema": raw_part.get("output_schema") or None,
    }


def _normalise_oauth(raw_oauth: Any) -> JSON | None:
    """Return the two forms of an `oauth_schema` as lists of fields.

    Returns None if the value is not a mapping.
    """
    if not is_object(raw_oauth):
        return None
    return {
        name: form_fields(raw_oauth.get(name))
        for name in ("client_schema", "credentials_schema")
    }


def _normalise_tool_provider(document: JSON) -> JSON:
    """Return a tool provider's document in the form of `ToolProvider`.

    The credential form is `credentials_for_provider`, or else `credentials_schema`;
    either may be a list or a mapping by field name.
    """
    # Plugins use either name for the same form.
    credential_schema = document.get("credentials_for_provider") or document.get(
        "credentials_schema"
    )
    return {
        "identity": _normalise_identity(document),
        "credentials_schema": form_fields(credential_schema),
        "oauth_schema": _normalise_oauth(document.get("oauth_schema")),
        "tools": [
            _normalise_part(raw_tool) for raw_tool in document.get("tools") or ()
        ],
    }


def _normalise_agent_provider(document: JSON) -> JSON:
    """Return an agent strategy provider in the form of `AgentProvider`."""
    return {
        "identity": _normalise_identity(document),
        "strategies": [
            _normalise_part(raw_strategy)
            for raw_strategy in document.get("strategies") or ()
        ],
    }


def _normalise_endpoint_group(document: JSON) -> JSON:
    """Return an endpoint provider's document in the form of `EndpointGroup`.

    `settings` may be a list or a mapping by field name; the endpoints are taken over
    unchanged.
    """
    return {
        "settings": form_fields(document.get("settings")),
        "endpoints": document.get("endpoints") or [],
    }


def _normalise_datasource_provider(document: JSON) -> JSON:
    """Return a datasource provider in the form of `DatasourceProvider`.

    A missing `provider_type` is None here, which the conversion to the struct rejects.
    """
    return {
        "identity": _normalise_identity(document),
        "provider_type": document.get("provider_type"),
        "credentials_schema": form_fields(document.get("credentials_schema")),
        "oauth_schema": _normalise_oauth(document.get("oauth_schema")),
        "datasources": [
            _normalise_part(raw_datasource)
            for raw_datasource in document.get("datasources") or ()
        ],
    }


def _normalise_trigger_provider(document: JSON) -> JSON:
    """Return a trigger provider's document in the form of `TriggerProvider`.

    `subscription_constructor` becomes None unless it is a mapping; forms may be lists
    or mappings by field name.
    """
    constructor = document.get("subscription_constructor")
    return {
        "identity": _normalise_identity(document),
        "subscription_schema": form_fields(document.get("subscription_schema")),
        "subscription_constructor": {
            "parameters": [
                _normalise_parameter(raw_parameter)
                for raw_parameter in constructor.get("parameters") or ()
            ],
            "credentials_schema": form_fields(constructor.get("credentials_schema")),
            "oauth_schema": _normalise_oauth(constructor.get("oauth_schema")),
        }
        if is_object(constructor)
        else None,
        "events": [
            _normalise_part(raw_event) for raw_event in document.get("events") or ()
        ],
    }


# Model providers are missing here, because `definition_of` reads them.
_PROVIDER_TYPES: tuple[tuple[str, type[Any], Callable[[JSON], JSON]], ...] = (
    ("tool", ToolProvider, _normalise_tool_provider),
    ("agent_strategy", AgentProvider, _normalise_agent_provider),
    ("endpoint", EndpointGroup, _normalise_endpoint_group),
    ("datasource", DatasourceProvider, _normalise_datasource_provider),
    ("trigger", TriggerProvider, _normalise_trigger_provider),
)


def _check_files(folder: Path, manifest: Manifest, parts: Mapping[str, JSON]) -> None:
    """Raise PackageError if an icon, the entry point or a source file that is referred
    to does not exist."""
    for icon in _icons(manifest, parts):
        # Remote icons could be checked only by a request, so they are trusted.
        is_remote = icon.startswith(("http://", "https://"))
        if not is_remote and not (folder / "_assets" / icon).is_file():
            raise PackageError(f"Icon {icon!r} does not exist in _assets")
    # The entry point is a module path such as `main` or `app.main`.
    entry_point = manifest.meta.runner.entrypoint
    if not (folder / f"{entry_point.replace('.', '/')}.py").is_file():
        raise PackageError(f"Entry point {entry_point + '.py'!r} does not exist")
    for part in parts.values():
        for source in _source_files(part):
            if not (folder / source).is_file():
                raise PackageError(f"Source file {source!r} does not exist")


def _icons(manifest: Manifest, parts: Mapping[str, JSON]) -> list[str]:
    """Return the icons of the manifest and of each provider, with the sizes and themes
    of model providers; empty names are left out."""
    icons = [manifest.icon, manifest.icon_dark or ""]
    for part in parts.values():
        icons.append(str((part.get("identity") or EMPTY_OBJECT).get("icon") or ""))
        for name in ("icon_small", "icon_large", "icon_small_dark", "icon_large_dark"):
            icons += localized_text(part.get(name)).values() if part.get(name) else []
    return [icon for icon in icons if icon]


def _source_files(document: Any) -> list[str]:
    """Return the Python files that a declaration refers to, at any depth."""
    if is_array(document):
        return [source for element in document for source in _source_files(element)]
    if not is_object(document):
        return []
    # `extra` is read separately, because only some of its keys name files.
    inner = [value for name, value in document.items() if name != "extra"]
    return [*_python_files(document.get("extra")), *_source_files(inner)]


def _python_files(extra: Any) -> list[str]:
    """Return the files in `extra.python`: one file or a list under each key that names
    a source. Other keys, such as `class`, say more about them."""
    python = extra.get("python") if is_object(extra) else None
    files: list[str] = []
    for name, value in (python or EMPTY_OBJECT).items():
        # `source`, `provider_source` and `model_sources`.
        if name.endswith(("source", "sources")):
            files += map(str, value if is_array(value) else [value])
    return files
