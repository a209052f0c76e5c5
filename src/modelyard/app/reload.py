"""Going on with other settings while calls run."""

from modelyard.app.calls import check_settings
from modelyard.app.live_settings import LiveSettings
from modelyard.app.providers import ProviderParts
from modelyard.base.clock import Clock
from modelyard.base.log import redaction
from modelyard.base.settings import Settings


class Reload:
    """Takes up providers, credentials, routes, limits, defaults and timeouts.

    Address, database, workers and what processes share are those of the start.
    """

    def __init__(self, live: LiveSettings, clock: Clock, providers: ProviderParts) -> None:
        self._live = live
        self._clock = clock
        self._providers = providers

    def take_up(self, settings: Settings) -> None:
        """Raises ConfigError where they are wrong, and then everything goes on as before."""
        prepared = self._providers.prepare(settings, self._clock)
        check_settings(settings)
        # From here on nothing can be wrong.
        redaction.add(settings.api_keys)
        self._providers.use(prepared)
        self._live.replace(settings)
