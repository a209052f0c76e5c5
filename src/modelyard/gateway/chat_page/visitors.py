"""Who visits an app's page."""

import re
from dataclasses import dataclass, field

from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.http import Request
from modelyard.gateway.service.calls import ServiceError
from modelyard.gateway.service.entrance import Entrance
from modelyard.gateway.table import VISITOR, Answered, Row, call_handler
from modelyard.people.attempts import Attempts, neighbourhood
from modelyard.workflow.apps import Apps

WRITES_A_MINUTE = 300
"""What visitors from one place may send to all pages; what they read is not counted."""
_NUMBER = re.compile(r"[A-Za-z0-9_-]{20,64}")


@dataclass(frozen=True, slots=True)
class Visitors:
    """Between the router and the handlers of what pages ask for."""

    apps: Apps
    keeper: Gatekeeper
    entrance: Entrance
    writes: Attempts = field(default_factory=lambda: Attempts(WRITES_A_MINUTE, 60.0))
    """Whoever invents visitors is counted by where they call from."""

    async def enter(self, request: Request, row: Row) -> Answered:
        """Answer a visitor, as the app's caller for themselves. The page and its files are for anybody.

        Raises ServiceError, TooManyTriesError, and what the handler raises.
        """
        if row.auth != VISITOR:
            return await call_handler(request, row)
        found = self.apps.by_page(request.names["token"])
        if found is None:
            raise ServiceError(404, "not_found", "this page is not here any more")
        number = request.header(b"x-visitor") or ""
        if not _NUMBER.fullmatch(number):
            raise ServiceError(401, "unauthorized", "x-visitor must be 20 to 64 letters and digits")
        if row.method != "GET":
            self.writes.take(neighbourhood(self.keeper.address_of(request.scope)))
        return await self.entrance.admit(request, row, found, f"web-{number}")
