"""Who hears of what trigger plugins report, beside the apps that begin with it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger("modelyard.app")

TriggerListener = Callable[[str, str, str, dict[str, Any]], Awaitable[None]]
"""(tenant, subscription, event, variables)."""


class TriggerListeners:
    """Programs that have registered, in order."""

    def __init__(self) -> None:
        self._listeners: list[TriggerListener] = []

    def add(self, listener: TriggerListener) -> None:
        """Call it at each event from now on."""
        self._listeners.append(listener)

    def listener(self) -> TriggerListener | None:
        """What tells all of them; None where there are none."""
        return self._tell if self._listeners else None

    async def _tell(self, tenant: str, subscription: str, event: str, variables: dict[str, Any]) -> None:
        fields = {"tenant": tenant, "subscription": subscription, "event": event}
        logger.info("a trigger fired", extra={"fields": fields})
        for listener in self._listeners:
            await listener(tenant, subscription, event, variables)
