"""A provider's declarations about a model: features, properties, parameter rules,
prices. The structure of Dify's model YAML."""

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from modelyard.base.number_bounds import Bound
from modelyard.models.types import ModelType


class I18nObject(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"en_us": "en_US", "zh_hans": "zh_Hans"},
):
    """A label in several languages. English is always present."""

    en_us: str
    zh_hans: str | None = None

    def in_language(self, language: str) -> str:
        """Return the label in a language, or in English if there is no translation."""
        return (
            self.zh_hans
            if language.lower().startswith("zh") and self.zh_hans
            else self.en_us
        )


class FetchFrom(StrEnum):
    """Origin of a model: listed by the provider, or named by the user."""

    PREDEFINED_MODEL = "predefined-model"
    CUSTOMIZABLE_MODEL = "customizable-model"


class ModelFeature(StrEnum):
    """Capabilities of a model."""

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
    """Keys of a model's properties."""

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
    """Value type of a parameter."""

    FLOAT = "float"
    INT = "int"
    STRING = "string"
    BOOLEAN = "boolean"
    TEXT = "text"


class DefaultParameterName(StrEnum):
    """Parameters common to many models; `use_template` refers to one of them."""

    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    TOP_K = "top_k"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    MAX_TOKENS = "max_tokens"
    RESPONSE_FORMAT = "response_format"
    JSON_SCHEMA = "json_schema"


class ParameterRule(msgspec.Struct, frozen=True, kw_only=True):
    """Definition of a model parameter: its type, bounds and default."""

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
    """The unit that a model is priced by, which `input` and `output` count."""

    TOKEN = "token"  # noqa: S105
    CHARACTER = "character"
    SECOND = "second"
    REQUEST = "request"
    SEARCH = "search"
    PAGE = "page"
    IMAGE = "image"


_MAX_PRICE = Decimal(10) ** 9
"""Upper bound of a price per unit, in any currency."""
_MAX_ITEM_PRICE = Decimal(10) ** 6
"""Upper bound of a price for one token, second or request."""
_MIN_EXPONENT = -30
"""Smallest permitted exponent of a price."""
# Rates that are charged per item and not per unit.
_PER_ITEM_RATES = ("request", "search")


def _check_price(
    name: str, price: Decimal | None, *, maximum: Decimal = _MAX_PRICE
) -> None:
    """Raise ValueError for a price that is not finite, negative, too large or too
    precise."""
    if price is None:
        return
    if not price.is_finite() or price.is_signed() or price > maximum:
        raise ValueError(
            f"{name!r} must be a finite number from 0 to {maximum:.0f}, not {str(price)[:20]}"
        )
    # A special value such as NaN has a string as exponent; it was rejected above.
    exponent = price.as_tuple().exponent
    if isinstance(exponent, int) and exponent < _MIN_EXPONENT:
        raise ValueError(f"{name!r} has more than {-_MIN_EXPONENT} decimal places")


def _check_prices(
    amounts: "PriceTier | _PriceList | PriceConfig",
    unit: Decimal = Decimal(0),
) -> None:
    """Raise ValueError naming the first invalid price."""
    _check_price("input", amounts.input)
    _check_price("output", amounts.output)
    for name, price in amounts.rates.items():
        _check_price(
            name,
            price,
            maximum=_MAX_ITEM_PRICE if name in _PER_ITEM_RATES else _MAX_PRICE,
        )
        if name not in _PER_ITEM_RATES:
            # Both the price and its product with the unit must be plausible.
            _check_price(name, price * unit, maximum=_MAX_ITEM_PRICE)
    for name, price in (("input", amounts.input), ("output", amounts.output)):
        _check_price(f"{name} × unit", (price or 0) * unit, maximum=_MAX_ITEM_PRICE)


class PriceTier(msgspec.Struct, frozen=True, kw_only=True):
    """Prices for requests with more than `above` prompt tokens. They apply to all
    tokens, not only to those beyond."""

    above: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    input: Decimal
    output: Decimal | None = None
    rates: dict[str, Decimal] = {}

    def __post_init__(self) -> None:
        _check_prices(self)


class _PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices that replace those of a model in some cases."""

    input: Decimal
    output: Decimal | None = None
    rates: dict[str, Decimal] = {}
    tiers: list[PriceTier] = []

    def __post_init__(self) -> None:
        _check_prices(self)


class PricePeriod(_PriceList, frozen=True, kw_only=True):
    """Earlier prices, valid before the day `until` (exclusive)."""

    until: date


class ServicePrices(_PriceList, frozen=True, kw_only=True):
    """Prices of a service tier, such as `flex` or `priority`."""


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of a model. Cost = count × price × unit: `input: 0.40, unit: 0.000001` is
    0.40 per million."""

    input: Decimal
    output: Decimal | None = None
    unit: Decimal
    currency: str
    per: PricePer = PricePer.TOKEN
    rates: dict[str, Decimal] = {}
    """Additional prices per unit: `cached`, `cache_write`, `cache_write_1h`,
    `audio_input`, `audio_output`, `image_input`, `image_output`, `reasoning`. Tokens
    without a rate of their own have the normal price. Prices per item: `request`,
    `search`."""
    tiers: list[PriceTier] = []
    history: list[PricePeriod] = []
    """Earlier prices, ordered by their end."""
    service_tiers: dict[str, ServicePrices] = {}
    """Today's prices of the service tiers that cost more or less, by the name that the
    provider reports. Other tiers have the normal prices."""
    source: str = ""
    """Source of the figures."""
    as_of: date | None = None
    """Date on which they were looked up."""

    def __post_init__(self) -> None:
        # All price lists are checked when the model is loaded, so that a call cannot
        # get an absurd cost.
        _check_price("unit", self.unit, maximum=_MAX_ITEM_PRICE)
        for amounts in (
            self,
            *self.tiers,
            *self.history,
            *(tier for period in self.history for tier in period.tiers),
            *self.service_tiers.values(),
            *(
                tier
                for service_tier in self.service_tiers.values()
                for tier in service_tier.tiers
            ),
        ):
            _check_prices(amounts, self.unit)


class PriceType(StrEnum):
    """Direction of a price."""

    INPUT = "input"
    OUTPUT = "output"


class PriceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an amount of input or output."""

    unit_price: Decimal
    unit: Decimal
    total_amount: Decimal
    currency: str


# Properties that must be whole numbers.
_COUNTS = frozenset(
    {
        ModelPropertyKey.CONTEXT_SIZE,
        ModelPropertyKey.MAX_CHUNKS,
        ModelPropertyKey.FILE_UPLOAD_LIMIT,
        ModelPropertyKey.MAX_CHARACTERS_PER_CHUNK,
        ModelPropertyKey.WORD_LIMIT,
        ModelPropertyKey.MAX_WORKERS,
    }
)


def _check_count(name: str, value: Any) -> None:
    """Raise ValueError for a value that is not a plausible count. None is accepted."""
    if value is None:
        return
    try:
        count = int(value)
    except (OverflowError, TypeError, ValueError):
        count = -1
    if not 0 <= count <= 10**12:
        raise ValueError(
            f"{name!r} must be a whole number from 0 to {10**12}, not {str(value)[:20]!r}"
        )


class ProviderModel(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a model that clients see."""

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
        """Return the context window in tokens, or None if it is not stated."""
        value = self.model_properties.get(ModelPropertyKey.CONTEXT_SIZE)
        return int(value) if value is not None else None


class AIModelEntity(ProviderModel, frozen=True, kw_only=True):
    """The complete definition of a model, with parameters and prices."""

    parameter_rules: list[ParameterRule] = []
    pricing: PriceConfig | None = None
    description: I18nObject | None = None
    """Short description of the model's strengths."""
    licence: str | None = None
    max_output: int | None = None
    """The most tokens that an answer may have; None if unknown."""
