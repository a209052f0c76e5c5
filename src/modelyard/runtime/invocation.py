"""One model call and everything that is known about it."""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from modelyard.base.ids import new_id
from modelyard.models.types import Credentials, ModelType

DEFAULT_TENANT = "default"


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
    user: str | None = None
    deadline: float | None = None
    """On the clock's monotonic time; the call ends then, whatever it is doing."""
    id: str = msgspec.field(default_factory=lambda: new_id("call"))
    attempts: Iterator[int] = msgspec.field(default_factory=lambda: count(1))
    """Numbers the attempts of one call, across failover, load balancing and retry."""
    metadata: Mapping[str, Any] = {}
