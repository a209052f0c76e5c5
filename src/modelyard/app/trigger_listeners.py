"""Listeners for the events of trigger plugins, in addition to the apps that an event
starts."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger("modelyard.app")

TriggerListener = Callable[[str, str, str, dict[str, Any]], Awaitable[None]]
"""Called with (tenant, subscription, event, variables)."""


class TriggerListeners:
    """The registered listeners, called in the order of registration."""

    def __init__(self) -> None:
        self._listeners: list[TriggerListener] = []

    def add(self, listener: TriggerListener) -> None:
        """Call `listener` for each event from now on."""
        self._listeners.append(listener)

    def listener(self) -> TriggerListener | None:
        """Return a function that calls all listeners, or None if none is registered."""
        # None lets the caller skip the preparation of events without a listener.
        return self._notify_all if self._listeners else None

    async def _notify_all(
        self, tenant: str, subscription: str, event: str, variables: dict[str, Any]
    ) -> None:
        """Log the event and call all listeners in order."""
        fields = {"tenant": tenant, "subscription": subscription, "event": event}
        logger.info("trigger fired", extra={"fields": fields})
        for listener in self._listeners:
            await listener(tenant, subscription, event, variables)
