"""One model call and everything that is known about it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.models.tokens import rough_tokens
from modelyard.models.types import Credentials, ModelType
from modelyard.runtime.record import Record
from modelyard.tenancy.caller import DEFAULT_TENANT, Caller

ANYBODY = Caller(tenant=DEFAULT_TENANT)


class Context(msgspec.Struct, kw_only=True):
    """What came with a request beside what was asked."""

    id: str = ""
    cache: str = ""

    def take_id(self) -> str:
        """The request's own name for its first call, so that whoever saw it can ask about it."""
        name, self.id = self.id, ""
        return name or new_id("call")


class Invocation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Read by every policy; `msgspec.structs.replace` makes the next attempt."""

    tenant: str
    provider: str
    model: str
    model_type: ModelType
    request: Any
    credentials: Credentials = {}
    credential: str = ""
    """The credential's name, for the ledger and the log."""
    credential_id: str = ""
    caller: Caller = ANYBODY
    user: str | None = None
    deadline: float | None = None
    """On the clock's monotonic time; the call ends then, whatever it is doing."""
    id: str = msgspec.field(default_factory=lambda: new_id("call"))
    record: Record = msgspec.field(default_factory=Record)
    """Shared by all attempts of the call, across failover, load balancing and retry."""
    route: str = ""
    """The route that the caller named in the place of a model."""
    cache: str = ""
    """`off` to neither read nor write answers that may be given again, `refresh` to write alone, `on` to do both
    whatever the temperature; the rules where nothing is said."""
    metadata: Mapping[str, Any] = {}

    @property
    def api_key(self) -> str:
        """The id of the key that the caller showed."""
        return self.caller.key

    @property
    def app(self) -> str:
        """`app:ID` of the app that runs on behalf of that key; empty where none does."""
        return self.caller.app

    def rough_tokens(self) -> int:
        """About how many tokens go in; counted once a call."""
        record = self.record
        if record.prompt_tokens < 0:
            record.prompt_tokens = rough_tokens(self.request)
        return record.prompt_tokens
