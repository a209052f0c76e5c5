"""The price at which calls of models without a known price are counted."""

from decimal import Decimal

from modelyard.app.live_settings import LiveSettings
from modelyard.base.settings import Settings, UnpricedSettings
from modelyard.models.entities import PriceConfig, PricePer
from modelyard.models.types import ModelType

SOURCE = "stated for unpriced calls"
"""The price source in the ledger of a call that is counted at the stated price."""
# Other types are priced by characters, seconds or calls.
_PER_TOKEN = frozenset((ModelType.LLM, ModelType.TEXT_EMBEDDING, ModelType.RERANK))


class UnpricedCalls:
    """Follows the settings, which state whether such calls are counted and at what
    price."""

    def __init__(self, settings: LiveSettings) -> None:
        self._is_counted = False
        self._token_price: PriceConfig | None = None
        self._call_price: PriceConfig | None = None
        settings.follow(self._apply)

    def price(self, model_type: ModelType, choice: str = "") -> PriceConfig | None:
        """Return the stated price for a type of model, or None if its calls are not
        counted.

        `choice` is that of the API key, `count` or `refuse`; empty for the server's.
        """
        is_counted = choice == "count" if choice else self._is_counted
        if not is_counted:
            return None
        return self._token_price if model_type in _PER_TOKEN else self._call_price

    def _apply(self, settings: Settings) -> None:
        """Take over the settings."""
        unpriced = settings.unpriced
        self._is_counted = unpriced.calls == "count"
        self._token_price = _token_price(unpriced)
        self._call_price = _call_price(unpriced)


def _token_price(unpriced: UnpricedSettings) -> PriceConfig | None:
    """Return the price of tokens and of the call they belong to; None if the settings
    state none."""
    if not (unpriced.input_price or unpriced.output_price or unpriced.call_price):
        return None
    return PriceConfig(
        input=Decimal(str(unpriced.input_price)),
        output=Decimal(str(unpriced.output_price)),
        unit=Decimal("0.000001"),
        currency="USD",
        rates={"request": Decimal(str(unpriced.call_price))},
        source=SOURCE,
    )


def _call_price(unpriced: UnpricedSettings) -> PriceConfig | None:
    """Return the price of a call that has no tokens, such as speech; None if the
    settings state none."""
    if not unpriced.call_price:
        return None
    return PriceConfig(
        input=Decimal(str(unpriced.call_price)),
        unit=Decimal(1),
        currency="USD",
        per=PricePer.REQUEST,
        source=SOURCE,
    )
