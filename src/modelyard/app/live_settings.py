"""The current settings: changes of the settings file are applied while the server runs."""

from collections.abc import Callable

from modelyard.base.settings import Settings

Listener = Callable[[Settings], None]


class LiveSettings:
    """The current settings and the listeners for their changes."""

    def __init__(self, settings: Settings) -> None:
        self._current = settings
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Settings:
        """The settings as of now. Read it each time; a stored copy becomes outdated."""
        return self._current

    def on_change(self, listener: Listener) -> None:
        """Call the listener with the new settings after each change, in the order of
        registration."""
        self._listeners.append(listener)

    def follow(self, listener: Listener) -> None:
        """Call the listener now and after each change."""
        listener(self._current)
        self.on_change(listener)

    def replace(self, settings: Settings) -> None:
        """Replace the settings. They have been validated: listeners must not reject
        them."""
        # Set first, so that listeners that read `current` see the new settings.
        self._current = settings
        for listener in self._listeners:
            listener(settings)


class Addresses:
    """The URLs of this server."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings

    def server(self) -> str:
        """Return the URL on this machine, such as `http://127.0.0.1:8790`."""
        settings = self._settings.current
        return f"http://{settings.host}:{settings.port}"

    def content(self) -> str:
        """Return the URL of tenants' content: plugin endpoints, webhooks, files."""
        return self.own_content() or self.server()

    def own_content(self) -> str:
        """Return the separate origin of tenants' content; empty if it has none."""
        return self._settings.current.content.origin.rstrip("/")
