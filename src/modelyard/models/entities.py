"""What a provider says of a model: features, properties, parameter rules, prices. The shapes of Dify's model YAML."""

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from modelyard.base.numbers import Bound
from modelyard.models.types import ModelType


class I18nObject(msgspec.Struct, frozen=True, kw_only=True, rename={"en_us": "en_US", "zh_hans": "zh_Hans"}):
    """A label in several languages. English is the one that is always there."""

    en_us: str
    zh_hans: str | None = None

    def in_language(self, language: str) -> str:
        return self.zh_hans if language.lower().startswith("zh") and self.zh_hans else self.en_us


class FetchFrom(StrEnum):
    PREDEFINED_MODEL = "predefined-model"
    CUSTOMIZABLE_MODEL = "customizable-model"


class ModelFeature(StrEnum):
    TOOL_CALL = "tool-call"
    MULTI_TOOL_CALL = "multi-tool-call"
    AGENT_THOUGHT = "agent-thought"
    VISION = "vision"
    STREAM_TOOL_CALL = "stream-tool-call"
    DOCUMENT = "document"
    VIDEO = "video"
    AUDIO = "audio"
    STRUCTURED_OUTPUT = "structured-output"
    POLLING = "polling"


class ModelPropertyKey(StrEnum):
    MODE = "mode"
    CONTEXT_SIZE = "context_size"
    MAX_CHUNKS = "max_chunks"
    FILE_UPLOAD_LIMIT = "file_upload_limit"
    SUPPORTED_FILE_EXTENSIONS = "supported_file_extensions"
    MAX_CHARACTERS_PER_CHUNK = "max_characters_per_chunk"
    DEFAULT_VOICE = "default_voice"
    VOICES = "voices"
    WORD_LIMIT = "word_limit"
    AUDIO_TYPE = "audio_type"
    MAX_WORKERS = "max_workers"


class ParameterType(StrEnum):
    FLOAT = "float"
    INT = "int"
    STRING = "string"
    BOOLEAN = "boolean"
    TEXT = "text"


class DefaultParameterName(StrEnum):
    """The parameters that many models share; `use_template` names one."""

    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    TOP_K = "top_k"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    MAX_TOKENS = "max_tokens"
    RESPONSE_FORMAT = "response_format"
    JSON_SCHEMA = "json_schema"


class ParameterRule(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    label: I18nObject
    type: ParameterType
    use_template: str | None = None
    help: I18nObject | None = None
    required: bool = False
    default: Any = None
    min: Bound | None = None
    max: Bound | None = None
    precision: int | None = None
    options: list[str] = []


class PricePer(StrEnum):
    """What a price is for: what `input` and `output` count."""

    TOKEN = "token"  # noqa: S105  a unit
    CHARACTER = "character"
    SECOND = "second"
    REQUEST = "request"
    SEARCH = "search"
    PAGE = "page"
    IMAGE = "image"


_MOST_PRICE = Decimal(10) ** 9
"""For a unit, in whatever currency."""
_MOST_FOR_ONE = Decimal(10) ** 6
"""For one token, second or request."""
_FINEST = -30
"""The smallest power of ten that a price is given in."""
_APART = ("request", "search")


def _check_price(name: str, price: Decimal | None, *, most: Decimal = _MOST_PRICE) -> None:
    """Raises ValueError for what is no price: not finite, below zero, or absurdly large or fine."""
    if price is None:
        return
    if not price.is_finite() or price.is_signed() or price > most:
        raise ValueError(f"{name!r} must be a finite number from 0 to {most:.0f}, not {str(price)[:20]}")
    exponent = price.as_tuple().exponent
    if isinstance(exponent, int) and exponent < _FINEST:
        raise ValueError(f"{name!r} has more than {-_FINEST} decimal places")


def _check_prices(amounts: "PriceTier | PricePeriod | PriceConfig", unit: Decimal = Decimal(0)) -> None:
    """Raises ValueError that names the price which cannot be."""
    _check_price("input", amounts.input)
    _check_price("output", amounts.output)
    for name, price in amounts.rates.items():
        _check_price(name, price, most=_MOST_FOR_ONE if name in _APART else _MOST_PRICE)
        if name not in _APART:
            _check_price(name, price * unit, most=_MOST_FOR_ONE)
    for name, price in (("input", amounts.input), ("output", amounts.output)):
        _check_price(f"{name} × unit", (price or 0) * unit, most=_MOST_FOR_ONE)


class PriceTier(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of a request whose prompt has more than `above` tokens: of all of it, not of what is beyond."""

    above: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    input: Decimal
    output: Decimal | None = None
    rates: dict[str, Decimal] = {}

    def __post_init__(self) -> None:
        _check_prices(self)


class PricePeriod(msgspec.Struct, frozen=True, kw_only=True):
    """What held before: up to, and without, the day `until`."""

    until: date
    input: Decimal
    output: Decimal | None = None
    rates: dict[str, Decimal] = {}
    tiers: list[PriceTier] = []

    def __post_init__(self) -> None:
        _check_prices(self)


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Cost = count × price × unit: `input: 0.40, unit: 0.000001` is 0.40 for a million."""

    input: Decimal
    output: Decimal | None = None
    unit: Decimal
    currency: str
    per: PricePer = PricePer.TOKEN
    rates: dict[str, Decimal] = {}
    """Other prices for the same unit: `cached`, `cache_write`, `cache_write_1h`, `audio_input`, `audio_output`,
    `image_input`, `image_output`, `reasoning`. Tokens of a kind without a rate cost what the others do.
    Prices for one, not for a unit: `request`, `search`."""
    tiers: list[PriceTier] = []
    history: list[PricePeriod] = []
    """Earlier prices, in the order of their ends."""
    source: str = ""
    """Whose figures these are."""
    as_of: date | None = None
    """When they were looked up."""

    def __post_init__(self) -> None:
        _check_price("unit", self.unit, most=_MOST_FOR_ONE)
        for amounts in (self, *self.tiers, *self.history, *(tier for one in self.history for tier in one.tiers)):
            _check_prices(amounts, self.unit)


class PriceType(StrEnum):
    INPUT = "input"
    OUTPUT = "output"


class PriceInfo(msgspec.Struct, frozen=True, kw_only=True):
    unit_price: Decimal
    unit: Decimal
    total_amount: Decimal
    currency: str


_COUNTS = frozenset({
    ModelPropertyKey.CONTEXT_SIZE, ModelPropertyKey.MAX_CHUNKS, ModelPropertyKey.FILE_UPLOAD_LIMIT,
    ModelPropertyKey.MAX_CHARACTERS_PER_CHUNK, ModelPropertyKey.WORD_LIMIT, ModelPropertyKey.MAX_WORKERS,
})  # fmt: skip


def _check_count(name: str, value: Any) -> None:
    """Raises ValueError for what is no count."""
    if value is None:
        return
    try:
        count = int(value)
    except (OverflowError, TypeError, ValueError):
        count = -1
    if not 0 <= count <= 10**12:
        raise ValueError(f"{name!r} must be a whole number from 0 to {10**12}, not {str(value)[:20]!r}")


class ProviderModel(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    label: I18nObject
    model_type: ModelType
    features: list[ModelFeature] = []
    fetch_from: FetchFrom = FetchFrom.PREDEFINED_MODEL
    model_properties: dict[ModelPropertyKey, Any] = {}
    deprecated: bool = False

    def __post_init__(self) -> None:
        for key in _COUNTS & self.model_properties.keys():
            _check_count(key.value, self.model_properties[key])

    @property
    def context_size(self) -> int | None:
        value = self.model_properties.get(ModelPropertyKey.CONTEXT_SIZE)
        return int(value) if value is not None else None


class AIModelEntity(ProviderModel, frozen=True, kw_only=True):
    parameter_rules: list[ParameterRule] = []
    pricing: PriceConfig | None = None
    description: I18nObject | None = None
    """What the model is good for, plainly."""
    licence: str | None = None
