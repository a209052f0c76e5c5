"""Provider definitions as data: modelyard's compact YAML, or a folder in Dify's format.
Both become a ProviderDefinition."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelyard.base.errors import ConfigError
from modelyard.base.json_types import EMPTY_OBJECT, is_array, is_object
from modelyard.base.number_bounds import FiniteLoader, check_numbers
from modelyard.models.capabilities import DEFAULT_CAPABILITIES, Capabilities
from modelyard.models.entities import (
    AIModelEntity,
    ModelFeature,
    ModelPropertyKey,
    PriceConfig,
)
from modelyard.models.parameters import expand_template
from modelyard.models.provider import CredentialFormSchema, ProviderEntity
from modelyard.models.types import ModelType
from modelyard.providers.quirks import ModelQuirks, read_capabilities

# Prices are usually listed for a million tokens or characters.
_MILLION = "0.000001"
_SHARED_MODEL_FIELDS = ("currency", "price_source", "price_date")
"""Fields that a provider file may set once for all of its models."""
# Usual names of the credential fields for the key and for the base URL, best first.
_KEY_FIELDS = (
    "api_key",
    "openai_api_key",
    "dashscope_api_key",
    "token",
    "access_token",
)
_URL_FIELDS = (
    "base_url",
    "endpoint_url",
    "openai_api_base",
    "api_base",
    "server_url",
    "custom_endpoint_url",
)


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format that a provider uses for some model types, with its own base URL if
    that differs."""

    name: str
    base_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDefinition:
    """A provider as it was declared: its models and credentials, and how to call it."""

    entity: ProviderEntity
    wire: str
    """Name of the wire format; the provider factory maps it to a builder."""
    base_url: str = ""
    capabilities: Capabilities = DEFAULT_CAPABILITIES
    """What the server accepts, unless `model_capabilities` has the model."""
    wires: Mapping[ModelType, Sequence[Wire]] = field(
        default_factory=dict[ModelType, Sequence[Wire]]
    )
    """Wire formats of model types that do not use `wire`. The first is the default;
    another is used if the request came in it."""
    paths: Mapping[str, str] = field(default_factory=dict[str, str])
    """Paths by model type that differ from those of the wire format. `list` is the path
    of the model list."""
    auth: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How requests are authenticated; see `build_auth`. The default is a bearer token.
    """
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Headers of every request. `{field}` is replaced from the credential."""
    model_capabilities: Mapping[str, Capabilities] = field(
        default_factory=dict[str, Capabilities]
    )
    """Complete capabilities of the listed models with quirks of their own."""
    model_quirks: ModelQuirks | None = None
    """The quirks of the other models, by patterns of their names."""
    model_wires: Mapping[str, str] = field(default_factory=dict[str, str])
    source: str = ""
    """The file it was read from, for error messages."""
    url_field: str | None = field(init=False)
    """The credential field with the server's base URL, or None if there is none."""
    needs_credential: bool = field(init=False)
    _capabilities_by_name: dict[str, Capabilities] = field(
        default_factory=dict[str, Capabilities], compare=False, repr=False
    )

    def __post_init__(self) -> None:
        forms = self.entity.credential_forms
        names = {form_field.variable for form_field in forms}
        url = next((name for name in _URL_FIELDS if name in names), None)
        # The dataclass is frozen, so derived fields are set through `object`.
        object.__setattr__(self, "url_field", url)
        object.__setattr__(
            self,
            "needs_credential",
            any(
                form_field.required and form_field.default is None
                for form_field in forms
            ),
        )

    @property
    def name(self) -> str:
        """The provider's name, for example `openai`."""
        return self.entity.provider

    @property
    def key_field(self) -> str | None:
        """The credential field with the key: one of the usual names, otherwise the
        first secret field, otherwise None."""
        forms = self.entity.credential_forms
        names = [form_field.variable for form_field in forms]
        for name in _KEY_FIELDS:
            if name in names:
                return name
        secrets = (field for field in forms if field.type == "secret-input")
        return next((field.variable for field in secrets), None)

    def capabilities_of(self, model: str) -> Capabilities:
        """Return what the server accepts for a model."""
        if (listed := self.model_capabilities.get(model)) is not None:
            return listed
        if self.model_quirks is None or not self.model_quirks.families:
            return self.capabilities
        if (known := self._capabilities_by_name.get(model)) is not None:
            return known
        # The limit keeps memory bounded if clients invent model names.
        if len(self._capabilities_by_name) > 1000:
            self._capabilities_by_name.clear()
        capabilities = self.model_quirks.capabilities_of(model)
        self._capabilities_by_name[model] = capabilities
        return capabilities

    def wires_of(self, model_type: ModelType) -> Sequence[Wire]:
        """Return the wire formats for a model type, the default first."""
        return self.wires.get(model_type) or (Wire(self.wire),)


def load_definition(
    path: Path, *, wire: str = "", base_url: str = ""
) -> ProviderDefinition:
    """Load a provider from compact YAML, or from Dify's format.

    `path` is a file in either format, or a folder in Dify's. `wire` and `base_url`,
    unless empty, override what is declared. Raises ConfigError that names the file and
    the field.
    """
    if path.is_dir():
        return _load_dify_folder(path, wire=wire or "openai", base_url=base_url)
    if not path.is_file():
        raise ConfigError(
            f"Provider file {str(path)!r} does not exist; expected a YAML file or"
            " a folder that contains one"
        )
    document = read_yaml(path)
    # Either of these marks a provider file in Dify's format that was named directly.
    if (
        "label" in document and isinstance(document.get("models"), dict)
    ) or "supported_model_types" in document:
        return _load_dify_folder(
            path.parent, wire=wire or "openai", base_url=base_url, file=path
        )
    return _parse_compact_yaml(document, path, wire=wire, base_url=base_url)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping. Raises ConfigError otherwise."""
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=FiniteLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: invalid YAML: {error}") from error
    if not is_object(document):
        raise ConfigError(f"{path}: expected a mapping of names to values")
    return document


# ---------------------------------------------------------------------- our short shape


def _parse_compact_yaml(
    document: dict[str, Any], path: Path, *, wire: str, base_url: str
) -> ProviderDefinition:
    """Return the provider that a compact YAML document describes.

    `wire` and `base_url`, unless empty, override the document's. Raises ConfigError
    that names the file and the field.
    """
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: 'name' of the provider is missing")
    # A model may be listed by name only.
    listed: list[dict[str, Any]] = [
        model if isinstance(model, dict) else {"name": str(model)}
        for model in document.get("models") or ()
    ]
    entity = _compact_entity(name, document, listed, str(path))
    capabilities, model_quirks, model_capabilities = read_capabilities(document, path)
    return ProviderDefinition(
        entity=convert(entity, ProviderEntity, str(path)),
        wire=wire or document.get("wire") or "openai",
        base_url=base_url or document.get("base_url") or "",
        capabilities=capabilities,
        wires=_parse_compact_wires(document.get("wires") or {}, str(path)),
        paths=document.get("paths") or {},
        auth=document.get("auth") or {},
        headers=document.get("headers") or {},
        model_capabilities=model_capabilities,
        model_quirks=model_quirks,
        model_wires={
            model["name"]: model["wire"] for model in listed if model.get("wire")
        },
        source=str(path),
    )


def _compact_entity(
    name: str, document: dict[str, Any], listed: list[dict[str, Any]], source: str
) -> dict[str, Any]:
    """Return the provider as Dify describes it, with its listed models expanded."""
    models = _expand_listed(document, listed, source)
    # Without a declaration the types of the listed models are supported, in order of
    # appearance.
    types = document.get("model_types") or list(
        dict.fromkeys(model["model_type"] for model in models)
    )
    forms = [
        _parse_compact_field(credential_field)
        for credential_field in document.get("credentials") or ()
    ]
    methods = ["predefined-model"] if models else []
    if document.get("any_model"):
        methods.append("customizable-model")
    description = document.get("description")
    return {
        "provider": name,
        "label": i18n(document.get("label"), name),
        "description": i18n(description) if description else None,
        "help": _parse_compact_help(document.get("help")),
        "supported_model_types": types,
        "configurate_methods": methods,
        "models": models,
        "provider_credential_schema": {"credential_form_schemas": forms},
    }


def _expand_listed(
    document: dict[str, Any], listed: list[dict[str, Any]], source: str
) -> list[dict[str, Any]]:
    """Expand the listed models. Fields of the provider apply to every model that does
    not set them itself."""
    shared = {"input_price": 0, "output_price": 0} if document.get("free") else {}
    shared |= {
        name: document[name] for name in _SHARED_MODEL_FIELDS if name in document
    }
    rules = document.get("parameter_rules") or _DEFAULT_PARAMETER_RULES
    # Written apart from the models, because most of them have none.
    service_tiers: dict[Any, Any] = document.get("service_tiers") or {}
    return [
        expand_model(
            {
                "service_tiers": service_tiers.get(model.get("name"), {}),
                **shared,
                **model,
            },
            source,
            rules=rules,
        )
        for model in listed
    ]


def _parse_compact_wires(
    declared_wires: Any, source: str
) -> dict[ModelType, Sequence[Wire]]:
    """Parse the wires of each model type, for example `{llm: [openai, {anthropic:
    https://…}]}`."""
    wires_by_type: dict[ModelType, Sequence[Wire]] = {}
    for type_name, names in declared_wires.items():
        wire_list: list[Any] = names if is_array(names) else [names]
        wires = [
            Wire(wire) if isinstance(wire, str) else Wire(*next(iter(wire.items())))
            for wire in wire_list
        ]
        wires_by_type[convert(type_name, ModelType, f"{source}: wires")] = tuple(wires)
    return wires_by_type


def _parse_compact_help(value: Any) -> dict[str, Any] | None:
    """Return a provider's help link with texts by language; None if absent."""
    if not value:
        return None
    return {
        "title": i18n(value.get("title"), "Where to get a key"),
        "url": i18n(value.get("url"), ""),
    }


def _parse_compact_field(credential_field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a credential field of compact YAML as Dify's form field.

    Unless a type is declared, a field whose name suggests a secret is masked. Raises
    KeyError if it has no name.
    """
    name = credential_field["name"]
    # A field whose name indicates a secret is masked unless its type is declared.
    secret = (
        "secret-input"
        if any(marker in name for marker in ("key", "secret", "token", "password"))
        else "text-input"
    )
    form_field = {
        "type": secret,
        **credential_field,
        "variable": name,
        "label": i18n(credential_field.get("label"), name),
    }
    if credential_field.get("placeholder"):
        form_field["placeholder"] = i18n(credential_field["placeholder"])
    return form_field


_DEFAULT_PARAMETER_RULES: list[dict[str, Any]] = [
    {"name": "temperature", "use_template": "temperature", "max": 2.0, "precision": 4},
    {"name": "top_p", "use_template": "top_p", "precision": 4},
    {"name": "max_tokens", "use_template": "max_tokens", "max": 10_000_000},
]
"""Parameter rules of chat models if neither the model nor its provider declares any."""


def _output_limit(model_definition: Mapping[str, Any]) -> int:
    """Return the most tokens that an answer of the model may have; 0 if unknown."""
    max_output = int(model_definition.get("max_output") or 0)
    if not max_output:
        return 0
    # Some price lists give one number for both limits; the larger one is never too
    # strict.
    return max(max_output, int(model_definition.get("context_size") or 0))


def _with_output_limit(
    rules: Sequence[Mapping[str, Any]], max_tokens: int
) -> list[dict[str, Any]]:
    """Return the rules with the model's own limit of output tokens."""
    return [
        {
            **rule,
            **(
                {"max": max_tokens}
                if rule["name"] == "max_tokens" and max_tokens
                else {}
            ),
        }
        for rule in rules
    ]


def read_model(model_definition: Mapping[str, Any], provider: str) -> AIModelEntity:
    """Parse one model in compact form. Raises ConfigError that names what is wrong."""
    source = f"Provider {provider!r}"
    try:
        return convert(expand_model(model_definition, source), AIModelEntity, source)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        # The value was sent by a client and may have any structure: a list instead of a
        # mapping, or text instead of a number.
        description = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{source}: invalid model definition: {description}"
        ) from error


def expand_model(
    model_definition: Mapping[str, Any],
    source: str,
    *,
    rules: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Expand a model in compact form to a model in Dify's format.

    Prices are in US dollars for a million units unless `price_unit` and `currency` say
    otherwise. `rules` are the parameter rules of a chat model that declares none.
    Raises ConfigError that names `source`.
    """
    name = model_definition.get("name") or model_definition.get("model")
    model_type = model_definition.get("model_type", "llm")
    if not isinstance(name, str):
        raise ConfigError(f"{source}: a model has no 'name'")
    properties = dict(
        model_definition.get("properties")
        or model_definition.get("model_properties")
        or {}
    )
    if model_definition.get("context_size"):
        # Properties that are spelled out take precedence over the short fields.
        properties.setdefault("context_size", model_definition["context_size"])
    if model_type == "llm":
        properties.setdefault("mode", "chat")
        if rules and "parameter_rules" not in model_definition:
            parameter_rules = _with_output_limit(rules, _output_limit(model_definition))
            model_definition = {**model_definition, "parameter_rules": parameter_rules}
    pricing = model_definition.get("pricing")
    if model_definition.get("input_price") is not None:
        pricing = _expand_prices(model_definition, model_type, source)
    return _normalise_model(
        {
            **model_definition,
            "model": name,
            "model_type": model_type,
            "model_properties": properties,
            "pricing": pricing,
        },
        source,
    )


# What a price is for, by model type.
_PRICE_UNIT_BY_TYPE = {
    "llm": "token",
    "text-embedding": "token",
    "rerank": "token",
    "speech2text": "second",
    "tts": "character",
    "moderation": "request",
}


def _expand_prices(
    model_definition: Mapping[str, Any], model_type: str, source: str
) -> dict[str, Any]:
    """Expand prices as a price list states them: per million tokens or characters,
    otherwise per second, search or request."""
    per = str(
        model_definition.get("price_per")
        or _PRICE_UNIT_BY_TYPE.get(model_type, "token")
    )
    unit = str(
        model_definition.get(
            "price_unit", _MILLION if per in ("token", "character") else "1"
        )
    )
    service_tiers: dict[str, Any] = model_definition.get("service_tiers") or {}
    prices: dict[str, Any] = {
        # Amounts become text, so that Decimal reads them without rounding.
        **_amounts(model_definition),
        "unit": unit,
        "currency": model_definition.get("currency", "USD"),
        "per": per,
        "tiers": _price_tiers(model_definition),
        "history": [
            {
                "until": period["until"],
                **_amounts(period),
                "tiers": _price_tiers(period),
            }
            for period in model_definition.get("price_history") or ()
        ],
        "service_tiers": {
            name: {**_amounts(amounts), "tiers": _price_tiers(amounts)}
            for name, amounts in service_tiers.items()
        },
        "source": model_definition.get("price_source") or "catalogue",
    }
    if model_definition.get("price_date"):
        prices["as_of"] = model_definition["price_date"]
    # Checked here, because the error can name the model.
    convert(prices, PriceConfig, f"{source}: price of {model_definition.get('name')!r}")
    return prices


def _price_tiers(price_fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the prices for long prompts. Raises KeyError for one without `above` or an
    input price."""
    return [
        {"above": tier["above"], **_amounts(tier)}
        for tier in price_fields.get("tiers") or ()
    ]


# Optional prices: field in the file -> name of the rate.
_RATES = {
    "cached_price": "cached",
    "cache_write_price": "cache_write",
    "cache_write_1h_price": "cache_write_1h",
    "audio_input_price": "audio_input",
    "audio_output_price": "audio_output",
    "image_input_price": "image_input",
    "image_output_price": "image_output",
    "reasoning_price": "reasoning",
    "request_price": "request",
    "search_price": "search",
}


def _amounts(price_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prices of a model, tier or period as texts: input, output and rates.

    The output price is None if not stated. Raises KeyError without an input price.
    """
    output = price_fields.get("output_price")
    rates = {
        name: str(price_fields[field])
        for field, name in _RATES.items()
        if price_fields.get(field) is not None
    }
    return {
        "input": str(price_fields["input_price"]),
        "output": None if output is None else str(output),
        "rates": rates,
    }


# ------------------------------------------------------------------------- Dify's shape


def _load_dify_folder(
    folder: Path, *, wire: str, base_url: str, file: Path | None = None
) -> ProviderDefinition:
    """Load a provider from a folder in Dify's format.

    `file` is the provider file if it is known. Raises ConfigError.
    """
    file = file or _provider_file(folder)
    return definition_of(
        load_provider(folder, file), wire=wire, base_url=base_url, source=str(file)
    )


def load_provider(folder: Path, file: Path) -> dict[str, Any]:
    """Read a provider file in Dify's format, with the models in place of their file
    names. Raises ConfigError."""
    document = read_yaml(file)
    models = [
        _normalise_model(read_yaml(path), str(path))
        for path in _model_files(folder, document)
    ]
    return {**document, "models": models}


def definition_of(
    document: Mapping[str, Any], *, wire: str, base_url: str = "", source: str = ""
) -> ProviderDefinition:
    """Build a provider from a document in Dify's format with its models. Raises
    ConfigError that names source and field."""
    forms: dict[str, Any] = document.get("provider_credential_schema") or {}
    model_forms = document.get("model_credential_schema")
    entity = {
        # Dify writes null for fields that are not set.
        **{key: value for key, value in document.items() if value is not None},
        "label": i18n(document.get("label"), str(document.get("provider"))),
        "models": [
            _normalise_model(model, source) for model in document.get("models") or ()
        ],
        "provider_credential_schema": {
            "credential_form_schemas": _normalise_fields(forms)
        }
        if forms
        else None,
        "model_credential_schema": _normalise_model_schema(model_forms)
        if model_forms
        else None,
        "supported_model_types": document.get("supported_model_types") or [],
        # The models are already sorted, so the position lists are not needed.
        "position": {},
    }
    for key in (
        "description",
        "icon_small",
        "icon_large",
        "icon_small_dark",
        "icon_large_dark",
    ):
        entity[key] = i18n(document[key]) if document.get(key) else None
    entity["help"] = _parse_compact_help(document.get("help"))
    return ProviderDefinition(
        entity=convert(entity, ProviderEntity, source),
        wire=wire,
        base_url=base_url,
        source=source,
    )


def _provider_file(folder: Path) -> Path:
    """Return the provider file of a folder in Dify's format.

    The plugin's manifest may name it; otherwise the first YAML file with a field
    `provider` is used. Raises ConfigError if there is none.
    """
    # The manifest of a plugin names its provider file; otherwise the usual folders are
    # searched.
    manifest = folder / "manifest.yaml"
    if manifest.is_file():
        plugin_files: dict[str, Any] = read_yaml(manifest).get("plugins") or {}
        provider_files: list[Any] = plugin_files.get("models") or []
        if provider_files and (folder / str(provider_files[0])).is_file():
            return folder / str(provider_files[0])
    for path in (
        yaml_path
        for glob in ("provider/*.yaml", "*.yaml", "*.yml")
        for yaml_path in sorted(folder.glob(glob))
    ):
        if path.name != "manifest.yaml" and isinstance(
            read_yaml(path).get("provider"), str
        ):
            return path
    raise ConfigError(
        f"{folder} contains no provider file, which is a YAML file with a"
        " 'provider' field"
    )


def _model_files(folder: Path, document: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the model files in order: first those in `_position.yaml`, then the others
    by name."""
    declared = document.get("models")
    for model_type in ModelType:
        # Dify's folder names have underscores where model types have hyphens.
        key = model_type.value.replace("-", "_")
        section: dict[str, Any] = (
            declared.get(key) if is_object(declared) else None
        ) or {}
        default_globs = [f"models/{key}/*.yaml", f"{key}/*.yaml"]
        model_paths = _matching_files(
            folder, section.get("predefined") or default_globs
        )
        position: Path | None = None
        if section.get("position"):
            position = folder / str(section["position"])
        elif model_paths:
            position = model_paths[0].parent / "_position.yaml"
        order = _positions(position)
        # Unlisted files sort after the listed ones.
        yield from sorted(
            model_paths, key=lambda path: (order.get(path.stem, len(order)), path.stem)
        )


def _matching_files(folder: Path, globs: Iterable[Any]) -> list[Path]:
    """Return the files that match, sorted. Files with a leading underscore are position
    lists and left out."""
    paths = sorted({path for pattern in globs for path in folder.glob(str(pattern))})
    return [path for path in paths if not path.name.startswith("_") and path.is_file()]


def _positions(path: Path | None) -> dict[str, int]:
    """Return the position of each name in a `_position.yaml`, if it exists."""
    if path is None or not path.is_file():
        return {}
    names: list[Any] = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader) or []
    return {str(name): position for position, name in enumerate(names)}


def _normalise_model(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a model of Dify's format with its labels, rules and features normalised.

    Features and properties that are not known here are left out. Raises ConfigError
    that names `source` if the model is invalid.
    """
    model: dict[str, Any] = {
        **{key: value for key, value in raw.items() if value is not None},
        "label": i18n(raw.get("label"), str(raw.get("model"))),
        # Features and properties of newer Dify versions are ignored.
        "features": [
            feature
            for feature in raw.get("features") or ()
            if str(feature) in _FEATURES
        ],
        "model_properties": {
            k: v
            for k, v in (raw.get("model_properties") or EMPTY_OBJECT).items()
            if k in _PROPERTIES
        },
        "parameter_rules": [
            _normalise_rule(rule) for rule in raw.get("parameter_rules") or ()
        ],
        "description": i18n(raw["description"]) if raw.get("description") else None,
    }
    # Validated one by one, so that the error names the model's own file.
    convert(model, AIModelEntity, source)
    return model


def _normalise_rule(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter rule merged over its template, with labels by language.

    Options become texts, as YAML may have read them as numbers or booleans.
    """
    rule = expand_template(raw)
    if "options" in rule:
        # YAML reads options such as 1 or true as numbers and booleans.
        rule["options"] = [str(option) for option in rule["options"]]
    if rule.get("help"):
        rule["help"] = i18n(rule["help"])
    return {**rule, "label": i18n(rule.get("label"), str(raw.get("name")))}


_FEATURES = frozenset(feature.value for feature in ModelFeature)
_PROPERTIES = frozenset(key.value for key in ModelPropertyKey)


def _normalise_fields(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the form fields of a credential schema in Dify's format; may be empty."""
    return [
        _normalise_field(form_field)
        for form_field in schema.get("credential_form_schemas") or ()
    ]


def _normalise_model_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the credential schema for models that a user adds by name."""
    model: dict[str, Any] = schema.get("model") or {}
    return {
        "model": {"label": i18n(model.get("label"), "Model name")},
        "credential_form_schemas": _normalise_fields(schema),
    }


def _normalise_field(raw_field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a form field of Dify's format with its labels and options normalised.

    Defaults and option values become texts. Raises ConfigError that names the field.
    """
    form_field = {key: value for key, value in raw_field.items() if value is not None}
    form_field["label"] = i18n(raw_field.get("label"), str(raw_field.get("variable")))
    if raw_field.get("placeholder"):
        form_field["placeholder"] = i18n(raw_field["placeholder"])
    if raw_field.get("default") is not None:
        form_field["default"] = str(raw_field["default"])
    form_field["options"] = [
        {
            **option,
            "value": str(option.get("value")),
            "label": i18n(option.get("label"), str(option.get("value"))),
        }
        for option in raw_field.get("options") or ()
    ]
    # Validated one by one, so that the error names the field.
    convert(form_field, CredentialFormSchema, str(raw_field.get("variable")))
    return form_field


# --------------------------------------------------------------------------------- both


def i18n(value: Any, fallback: str = "") -> dict[str, str]:
    """Return a label as a mapping of languages, from a string, from such a mapping, or
    from the fallback."""
    if not is_object(value):
        return {"en_US": str(value) if value else fallback}
    translations = (str(text) for text in value.values() if text)
    # English is what every client can show.
    english = value.get("en_US") or next(translations, fallback)
    chinese = value.get("zh_Hans")
    return {"en_US": str(english), **({"zh_Hans": str(chinese)} if chinese else {})}


def convert(value: Any, target_type: Any, source: str) -> Any:
    """Convert a value to a type and check its numbers. Raises ConfigError that names
    the source."""
    try:
        converted = msgspec.convert(value, target_type, strict=False)
        check_numbers(converted)
        return converted
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error
