"""Identification of the visitors of an app's page."""

import re
from dataclasses import dataclass, field

from modelyard.gateway.auth import Authenticator
from modelyard.gateway.http import Request
from modelyard.gateway.service.authentication import AppAuthenticator
from modelyard.gateway.service.calls import ServiceError
from modelyard.gateway.table import VISITOR, Answered, Row, call_handler
from modelyard.people.sign_in_limits import Attempts, client_network
from modelyard.workflow.apps import Apps

WRITES_A_MINUTE = 300
"""Number of requests per minute that visitors from one network may send to all pages;
reads are not counted."""
# The page creates it at random; a shorter one could be guessed.
_VISITOR_ID = re.compile(r"[A-Za-z0-9_-]{20,64}")


@dataclass(frozen=True, slots=True)
class Visitors:
    """Admits visitors between the router and the handlers."""

    apps: Apps
    keeper: Authenticator
    entrance: AppAuthenticator
    writes: Attempts = field(default_factory=lambda: Attempts(WRITES_A_MINUTE, 60.0))
    """Counts writes by client network, because a visitor id can be invented freely."""

    async def enter(self, request: Request, row: Row) -> Answered:
        """Call the handler on behalf of the visitor. The page and its files need no
        visitor.

        Raises ServiceError, TooManyTriesError, and the errors of the handler.
        """
        if row.auth != VISITOR:
            return await call_handler(request, row)
        app_record = self.apps.get_by_page_token(request.names["token"])
        if app_record is None:
            raise ServiceError(
                404,
                "not_found",
                "Page not found: it was unpublished, or the address is wrong",
            )
        number = request.header(b"x-visitor") or ""
        if not _VISITOR_ID.fullmatch(number):
            raise ServiceError(
                401, "unauthorized", "'x-visitor' must be 20 to 64 letters and digits"
            )
        # Only writes start runs and cost money.
        if row.method != "GET":
            self.writes.take(client_network(self.keeper.address_of(request.scope)))
        return await self.entrance.admit(request, row, app_record, f"web-{number}")
