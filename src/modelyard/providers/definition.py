"""A provider as data: our short YAML, or a folder in Dify's shape, unchanged. Both become one ProviderDefinition."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelyard.base.errors import ConfigError
from modelyard.base.numbers import FiniteLoader, check_numbers
from modelyard.models.entities import AIModelEntity, ModelFeature, ModelPropertyKey, PriceConfig
from modelyard.models.parameters import filled
from modelyard.models.provider import CredentialFormSchema, ProviderEntity
from modelyard.models.types import ModelType

_MILLION = "0.000001"
_SHARED = ("currency", "price_source", "price_date")
"""What a provider file may say once for all its models."""
_KEY_FIELDS = ("api_key", "openai_api_key", "dashscope_api_key", "token", "access_token")
_URL_FIELDS = ("base_url", "endpoint_url", "openai_api_base", "api_base", "server_url", "custom_endpoint_url")


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format that a provider speaks, and where, if elsewhere than the rest."""

    name: str
    base_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDefinition:
    entity: ProviderEntity
    wire: str
    """How it speaks; the factory knows who builds what for it."""
    base_url: str = ""
    quirks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Named oddities of a server that speaks a known format almost."""
    wires: Mapping[ModelType, Sequence[Wire]] = field(default_factory=dict[ModelType, Sequence[Wire]])
    """Model types that are spoken to otherwise than in `wire`; the first is used unless a request came in another."""
    paths: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where calls of a type go, where that is not the format's own path; `list` is where models are listed."""
    auth: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How it is shown who calls; a bearer token where nothing is said."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """What every call carries; `{field}` is filled in from the credential."""
    model_quirks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    model_wires: Mapping[str, str] = field(default_factory=dict[str, str])
    source: str = ""
    """The file it was read from, for messages."""
    url_field: str | None = field(init=False)
    """The credential field that says where the server is, where there is one."""
    needs_credential: bool = field(init=False)

    def __post_init__(self) -> None:
        forms = self.entity.credential_forms
        names = {form.variable for form in forms}
        url = next((name for name in _URL_FIELDS if name in names), None)
        object.__setattr__(self, "url_field", url)
        object.__setattr__(self, "needs_credential", any(one.required and one.default is None for one in forms))

    @property
    def name(self) -> str:
        return self.entity.provider

    @property
    def key_field(self) -> str | None:
        """The credential field that carries the key: by its usual names, else the first secret one."""
        names = [form.variable for form in self.entity.credential_forms]
        usual = next((name for name in _KEY_FIELDS if name in names), None)
        secret = (form.variable for form in self.entity.credential_forms if form.type == "secret-input")
        return usual or next(secret, None)

    def wires_of(self, model_type: ModelType) -> Sequence[Wire]:
        return self.wires.get(model_type) or (Wire(self.wire),)


def load_definition(path: Path, *, wire: str = "", base_url: str = "") -> ProviderDefinition:
    """The provider in a YAML file of ours, or in a folder. Raises ConfigError that names file and field."""
    if path.is_dir():
        return _from_folder(path, wire=wire or "openai", base_url=base_url)
    if not path.is_file():
        raise ConfigError(f"provider {str(path)!r} does not exist; name a YAML file or a folder that holds one")
    document = read_yaml(path)
    if ("label" in document and isinstance(document.get("models"), dict)) or "supported_model_types" in document:
        return _from_folder(path.parent, wire=wire or "openai", base_url=base_url, file=path)
    return _from_short(document, path, wire=wire, base_url=base_url)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=FiniteLoader)  # noqa: S506  a safe one
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping of names to values")
    return document


# ------------------------------------------------------------------------------------------------ our short shape


def _from_short(document: dict[str, Any], path: Path, *, wire: str, base_url: str) -> ProviderDefinition:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: 'name' is missing: what the provider is called")
    listed: list[dict[str, Any]] = [
        one if isinstance(one, dict) else {"name": str(one)} for one in document.get("models") or ()
    ]
    shared = {"input_price": 0, "output_price": 0} if document.get("free") else {}
    shared |= {name: document[name] for name in _SHARED if name in document}
    rules = document.get("parameter_rules") or _RULES
    models = [short_model({**shared, **one}, str(path), rules=rules) for one in listed]
    types = document.get("model_types") or list(dict.fromkeys(model["model_type"] for model in models))
    forms = [_short_form(one) for one in document.get("credentials") or ()]
    methods = ["predefined-model"] if models else []
    if document.get("any_model"):
        methods.append("customizable-model")
    entity = {
        "provider": name,
        "label": i18n(document.get("label"), name),
        "description": i18n(document["description"]) if document.get("description") else None,
        "help": _short_help(document.get("help")),
        "supported_model_types": types,
        "configurate_methods": methods,
        "models": models,
        "provider_credential_schema": {"credential_form_schemas": forms},
    }
    return ProviderDefinition(
        entity=convert(entity, ProviderEntity, str(path)),
        wire=wire or document.get("wire") or "openai",
        base_url=base_url or document.get("base_url") or "",
        quirks=document.get("quirks") or {},
        wires=_short_wires(document.get("wires") or {}, str(path)),
        paths=document.get("paths") or {},
        auth=document.get("auth") or {},
        headers=document.get("headers") or {},
        model_quirks={one["name"]: one["quirks"] for one in listed if one.get("quirks")},
        model_wires={one["name"]: one["wire"] for one in listed if one.get("wire")},
        source=str(path),
    )


def _short_wires(given: Any, source: str) -> dict[ModelType, Sequence[Wire]]:
    """`{llm: [openai, {anthropic: https://…}]}`."""
    found: dict[ModelType, Sequence[Wire]] = {}
    for kind, names in given.items():
        many = names if isinstance(names, list) else [names]
        wires = [Wire(one) if isinstance(one, str) else Wire(*next(iter(one.items()))) for one in many]
        found[convert(kind, ModelType, f"{source}: wires")] = tuple(wires)
    return found


def _short_help(value: Any) -> dict[str, Any] | None:
    if not value:
        return None
    return {"title": i18n(value.get("title"), "Where to get a key"), "url": i18n(value.get("url"), "")}


def _short_form(one: Mapping[str, Any]) -> dict[str, Any]:
    name = one["name"]
    secret = "secret-input" if any(word in name for word in ("key", "secret", "token", "password")) else "text-input"
    form = {"type": secret, **one, "variable": name, "label": i18n(one.get("label"), name)}
    if one.get("placeholder"):
        form["placeholder"] = i18n(one["placeholder"])
    return form


_RULES: list[dict[str, Any]] = [
    {"name": "temperature", "use_template": "temperature", "max": 2.0, "precision": 4},
    {"name": "top_p", "use_template": "top_p", "precision": 4},
    {"name": "max_tokens", "use_template": "max_tokens", "max": 10_000_000},
]
"""What chat models take where neither the model nor its provider says otherwise."""


def _limited(rules: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """The rules, with the model's own bound on the length of an answer."""
    return [{**rule, **({"max": most} if rule["name"] == "max_tokens" and most else {})} for rule in rules]


def read_model(one: Mapping[str, Any], provider: str) -> AIModelEntity:
    """A model in our few words. Raises ConfigError that names what is wrong with them."""
    source = f"provider {provider!r}"
    try:
        return convert(short_model(one, source), AIModelEntity, source)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        # A list where a mapping belongs, text where a number does: what is sent may have any shape.
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{source}: the model's definition cannot be read: {what}") from error


def short_model(one: Mapping[str, Any], source: str, *, rules: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A model in our few words, in the words of model YAML. Prices are for a million, in dollars, unless said."""
    name = one.get("name") or one.get("model")
    kind = one.get("model_type", "llm")
    if not isinstance(name, str):
        raise ConfigError(f"{source}: a model has no 'name'")
    properties = dict(one.get("properties") or one.get("model_properties") or {})
    if one.get("context_size"):
        properties.setdefault("context_size", one["context_size"])
    if kind == "llm":
        properties.setdefault("mode", "chat")
        if rules and "parameter_rules" not in one:
            # Lists take `context_size` for both at times: the larger is never too strict.
            most = (
                max(int(one.get("max_output") or 0), int(one.get("context_size") or 0)) if one.get("max_output") else 0
            )
            one = {**one, "parameter_rules": _limited(rules, most)}
    pricing = one.get("pricing")
    if one.get("input_price") is not None:
        pricing = _short_prices(one, kind, source)
    return _model(
        {**one, "model": name, "model_type": kind, "model_properties": properties, "pricing": pricing}, source
    )


_PER = {
    "llm": "token", "text-embedding": "token", "rerank": "token", "speech2text": "second", "tts": "character",
    "moderation": "request",
}  # fmt: skip


def _short_prices(one: Mapping[str, Any], kind: str, source: str) -> dict[str, Any]:
    """Prices as a list prints them: for a million tokens or characters, for one second, search or request."""
    per = str(one.get("price_per") or _PER.get(kind, "token"))
    unit = str(one.get("price_unit", _MILLION if per in ("token", "character") else "1"))
    prices = {
        **_amounts(one),
        "unit": unit,
        "currency": one.get("currency", "USD"),
        "per": per,
        "tiers": [{"above": tier["above"], **_amounts(tier)} for tier in one.get("tiers") or ()],
        "history": [
            {
                "until": period["until"],
                **_amounts(period),
                "tiers": [{"above": tier["above"], **_amounts(tier)} for tier in period.get("tiers") or ()],
            }
            for period in one.get("price_history") or ()
        ],
        "source": one.get("price_source") or "catalogue",
    }
    if one.get("price_date"):
        prices["as_of"] = one["price_date"]
    convert(prices, PriceConfig, f"{source}: price of {one.get('name')!r}")
    return prices


_RATES = {
    "cached_price": "cached", "cache_write_price": "cache_write", "cache_write_1h_price": "cache_write_1h",
    "audio_input_price": "audio_input", "audio_output_price": "audio_output", "image_input_price": "image_input",
    "image_output_price": "image_output", "reasoning_price": "reasoning", "request_price": "request",
    "search_price": "search",
}  # fmt: skip


def _amounts(one: Mapping[str, Any]) -> dict[str, Any]:
    output = one.get("output_price")
    rates = {name: str(one[field]) for field, name in _RATES.items() if one.get(field) is not None}
    return {"input": str(one["input_price"]), "output": None if output is None else str(output), "rates": rates}


# ------------------------------------------------------------------------------------------------ Dify's shape


def _from_folder(folder: Path, *, wire: str, base_url: str, file: Path | None = None) -> ProviderDefinition:
    file = file or _provider_file(folder)
    return definition_of(load_provider(folder, file), wire=wire, base_url=base_url, source=str(file))


def load_provider(folder: Path, file: Path) -> dict[str, Any]:
    """A provider's file of Dify's shape, its models in the place of their files' names. Raises ConfigError."""
    document = read_yaml(file)
    return {**document, "models": [_model(read_yaml(path), str(path)) for path in _model_files(folder, document)]}


def definition_of(
    document: Mapping[str, Any], *, wire: str, base_url: str = "", source: str = ""
) -> ProviderDefinition:
    """A provider of Dify's shape, its models in full. Raises ConfigError that names source and field."""
    forms = document.get("provider_credential_schema") or {}
    model_forms = document.get("model_credential_schema")
    entity = {
        **{key: value for key, value in document.items() if value is not None},
        "label": i18n(document.get("label"), str(document.get("provider"))),
        "models": [_model(one, source) for one in document.get("models") or ()],
        "provider_credential_schema": {"credential_form_schemas": _forms(forms)} if forms else None,
        "model_credential_schema": _model_forms(model_forms) if model_forms else None,
        "supported_model_types": document.get("supported_model_types") or [],
        "position": {},
    }
    for key in ("description", "icon_small", "icon_large", "icon_small_dark", "icon_large_dark"):
        entity[key] = i18n(document[key]) if document.get(key) else None
    entity["help"] = _short_help(document.get("help"))
    return ProviderDefinition(
        entity=convert(entity, ProviderEntity, source), wire=wire, base_url=base_url, source=source
    )


def _provider_file(folder: Path) -> Path:
    manifest = folder / "manifest.yaml"
    if manifest.is_file():
        named = (read_yaml(manifest).get("plugins") or {}).get("models") or []
        if named and (folder / str(named[0])).is_file():
            return folder / str(named[0])
    for path in (one for glob in ("provider/*.yaml", "*.yaml", "*.yml") for one in sorted(folder.glob(glob))):
        if path.name != "manifest.yaml" and isinstance(read_yaml(path).get("provider"), str):
            return path
    raise ConfigError(f"{folder} holds no provider file: a YAML file with 'provider' in it")


def _model_files(folder: Path, document: Mapping[str, Any]) -> Iterator[Path]:
    """The model files in their order: those that `_position.yaml` lists first, then the others by name."""
    declared = document.get("models")
    for kind in ModelType:
        key = kind.value.replace("-", "_")
        place = (declared or {}).get(key) or {} if isinstance(declared, dict) else {}
        globs = place.get("predefined") or [f"models/{key}/*.yaml", f"{key}/*.yaml"]
        found = sorted({path for pattern in globs for path in folder.glob(str(pattern))})
        found = [path for path in found if not path.name.startswith("_") and path.is_file()]
        position = folder / str(place["position"]) if place.get("position") else None
        if position is None and found:
            position = found[0].parent / "_position.yaml"
        order = _positions(position)
        yield from sorted(found, key=lambda path: (order.get(path.stem, len(order)), path.stem))


def _positions(path: Path | None) -> dict[str, int]:
    if path is None or not path.is_file():
        return {}
    names = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader) or []
    return {str(name): place for place, name in enumerate(names)}


def _model(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    model = {
        **{key: value for key, value in raw.items() if value is not None},
        "label": i18n(raw.get("label"), str(raw.get("model"))),
        "features": [feature for feature in raw.get("features") or () if str(feature) in _FEATURES],
        "model_properties": {k: v for k, v in (raw.get("model_properties") or {}).items() if k in _PROPERTIES},
        "parameter_rules": [_rule(rule) for rule in raw.get("parameter_rules") or ()],
        "description": i18n(raw["description"]) if raw.get("description") else None,
    }
    convert(model, AIModelEntity, source)
    return model


def _rule(raw: Mapping[str, Any]) -> dict[str, Any]:
    rule = filled(raw)
    if "options" in rule:
        rule["options"] = [str(option) for option in rule["options"]]
    if rule.get("help"):
        rule["help"] = i18n(rule["help"])
    return {**rule, "label": i18n(rule.get("label"), str(raw.get("name")))}


_FEATURES = frozenset(feature.value for feature in ModelFeature)
_PROPERTIES = frozenset(key.value for key in ModelPropertyKey)


def _forms(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_form(one) for one in schema.get("credential_form_schemas") or ()]


def _model_forms(schema: Mapping[str, Any]) -> dict[str, Any]:
    model = schema.get("model") or {}
    return {
        "model": {"label": i18n(model.get("label"), "Model name")},
        "credential_form_schemas": _forms(schema),
    }


def _form(one: Mapping[str, Any]) -> dict[str, Any]:
    form = {key: value for key, value in one.items() if value is not None}
    form["label"] = i18n(one.get("label"), str(one.get("variable")))
    if one.get("placeholder"):
        form["placeholder"] = i18n(one["placeholder"])
    if one.get("default") is not None:
        form["default"] = str(one["default"])
    form["options"] = [
        {**option, "value": str(option.get("value")), "label": i18n(option.get("label"), str(option.get("value")))}
        for option in one.get("options") or ()
    ]
    convert(form, CredentialFormSchema, str(one.get("variable")))
    return form


# ------------------------------------------------------------------------------------------------ both


def i18n(value: Any, fallback: str = "") -> dict[str, str]:
    """A label however it is written: a string, an object, or not at all."""
    if isinstance(value, dict):
        english = value.get("en_US") or next((str(one) for one in value.values() if one), fallback)
        chinese = value.get("zh_Hans")
        return {"en_US": str(english), **({"zh_Hans": str(chinese)} if chinese else {})}
    return {"en_US": str(value) if value else fallback}


def convert(value: Any, kind: Any, source: str) -> Any:
    try:
        converted = msgspec.convert(value, kind, strict=False)
        check_numbers(converted)
        return converted
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error
