"""Applies changed settings while calls run."""

from modelyard.app.calls import check_settings
from modelyard.app.live_settings import LiveSettings
from modelyard.app.providers import PreparedProviders, ProviderServices
from modelyard.base.clock import Clock
from modelyard.base.log import redaction
from modelyard.base.settings import Settings


class Reload:
    """Applies providers, credentials, routes, limits, defaults and timeouts.

    Address, database, workers and everything that processes share need a restart.
    """

    def __init__(
        self, live_settings: LiveSettings, clock: Clock, providers: ProviderServices
    ) -> None:
        self._live = live_settings
        self._clock = clock
        self._providers = providers

    def apply(self, settings: Settings) -> None:
        """Apply changed settings. Raises ConfigError if they are invalid; then nothing
        changes."""
        prepared = self.check(settings)
        # All checks have passed: nothing below may fail.
        redaction.add(settings.api_keys)
        self._providers.use(prepared)
        self._live.replace(settings)

    def check(self, settings: Settings) -> PreparedProviders:
        """Validate changed settings without applying them, and return their providers.
        Raises ConfigError."""
        prepared = self._providers.prepare(settings, self._clock)
        check_settings(settings)
        return prepared
