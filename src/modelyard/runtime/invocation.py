"""The description of one model call that every policy receives."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.models.tokens import rough_tokens
from modelyard.models.types import Credentials, ModelType
from modelyard.runtime.attribution import Attribution
from modelyard.runtime.call_trace import CallTrace
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller

ANONYMOUS_CALLER = Caller(tenant=DEFAULT_TENANT)
"""The caller of calls that come from inside the server and have no API key."""


class Context(msgspec.Struct, kw_only=True):
    """What a client sent along with a request, in headers, besides the request itself."""

    id: str = ""
    cache: str = ""
    attribution: Attribution = Attribution()
    endpoint: str = ""
    """Method and path of the API's endpoint, with names in place of values."""

    def take_id(self) -> str:
        """Return the call id that the client chose, or a new one.

        Only the first call gets the client's id; later calls of the same request get
        ids of their own.
        """
        name, self.id = self.id, ""
        return name or new_id("call")


class Invocation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One model call. Immutable: a policy makes a changed copy with
    `msgspec.structs.replace` for the next attempt."""

    tenant: str
    provider: str
    model: str
    model_type: ModelType
    request: Any
    credentials: Credentials = {}
    credential: str = ""
    """The credential's display name, for the ledger and the log."""
    credential_id: str = ""
    caller: Caller = ANONYMOUS_CALLER
    user: str | None = None
    deadline: float | None = None
    """The end of the call in the clock's monotonic seconds. The call is cancelled then;
    None for no deadline."""
    id: str = msgspec.field(default_factory=lambda: new_id("call"))
    record: CallTrace = msgspec.field(default_factory=CallTrace)
    """Shared by all attempts of the call, across failover, load balancing and retry."""
    route: str = ""
    """The name of the route if the caller named a route instead of a model; empty
    otherwise."""
    cache: str = ""
    """The caller's cache mode: `off` neither reads nor writes, `refresh` only writes,
    `on` reads and writes whatever the temperature is. Empty to use the configured
    rules."""
    metadata: Mapping[str, Any] = {}
    attribution: Attribution = Attribution()
    endpoint: str = ""
    """The endpoint that the client called, if the call comes from one."""

    @property
    def api_key(self) -> str:
        """The id of the API key that the caller presented; empty if there is none."""
        return self.caller.key

    @property
    def app(self) -> str:
        """`app:ID` of the app that runs on behalf of that key; empty if there is none."""
        return self.caller.app

    def rough_tokens(self) -> int:
        """Return the approximate number of prompt tokens. Computed once for each call."""
        # The record is shared by all attempts of the call, so a retry does not count
        # the prompt again; -1 means not counted yet.
        record = self.record
        if record.prompt_tokens < 0:
            record.prompt_tokens = rough_tokens(self.request)
        return record.prompt_tokens
