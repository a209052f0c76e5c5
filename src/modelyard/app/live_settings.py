"""The settings as they are now: a file that changes is taken up while calls run."""

from collections.abc import Callable

from modelyard.base.settings import Settings

Listener = Callable[[Settings], None]


class LiveSettings:
    """The settings of the moment, and who wants to hear of others."""

    def __init__(self, settings: Settings) -> None:
        self._current = settings
        self._listeners: list[Listener] = []

    @property
    def current(self) -> Settings:
        """Ask each time: a copy that is kept grows old."""
        return self._current

    def on_change(self, listener: Listener) -> None:
        """Call the listener with the new settings, each time that they change; in the order of registration."""
        self._listeners.append(listener)

    def follow(self, listener: Listener) -> None:
        """Call the listener now, and each time that the settings change."""
        listener(self._current)
        self.on_change(listener)

    def replace(self, settings: Settings) -> None:
        """Go on with other settings. They have been checked: listeners do not refuse them."""
        self._current = settings
        for listener in self._listeners:
            listener(settings)


class Addresses:
    """Where this server is reached."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings

    def server(self) -> str:
        """From this machine, as `http://127.0.0.1:8790`."""
        settings = self._settings.current
        return f"http://{settings.host}:{settings.port}"

    def content(self) -> str:
        """Where tenants' content is reached: plugins' addresses, webhooks, files."""
        return self.own_content() or self.server()

    def own_content(self) -> str:
        """The same where it has an origin to itself; else empty."""
        return self._settings.current.content.origin.rstrip("/")
