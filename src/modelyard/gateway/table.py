"""One table per API: each row is a method and a path with who may call it, what it takes and what it answers.

Everything else follows from the rows: which handler a request reaches, 405 with `Allow`, HEAD and OPTIONS, the check of
roles, the OpenAPI description, the console's types, and what the tests try on every route.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from modelyard.base.errors import ModelyardError, NotFoundError
from modelyard.gateway.http import Reply, Request, StreamReply
from modelyard.models.types import JSON
from modelyard.tenancy.caller import Role

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""In the order in which `Allow` names them."""

Answered = Reply | StreamReply
CallT = TypeVar("CallT")


class Admission(StrEnum):
    """What a caller has to show."""

    NOTHING = "nothing"
    """Anybody may call, from any site's page too: the answer says nothing about anybody."""
    SAME_SITE = "same site"
    """Anybody who reaches the server; while it takes no key, no page of another site."""
    API_KEY = "API key"
    """A key of the gateway, or the session of somebody who is signed in to the console, with at least a role."""
    APP_KEY = "app key"
    DATASET_KEY = "dataset key"
    """A key of a tenant's datasets, or an API key of a developer."""
    VISITOR = "visitor"
    """The secret address of an app's page, and the number that a visitor's browser made for itself."""
    SESSION = "session"
    """The console's cookie, or what leads to one: a password, an invitation."""
    SIGNED_ADDRESS = "signed address"
    """A signature in the address, with the time when it ends."""
    OWN_SECRET = "own secret"  # noqa: S105  what is shown, not a secret
    """A secret in the address or a header that belongs to this one thing: a webhook, a plugin's endpoint."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may call a route. There is no default: a row without one cannot be written."""

    shows: Admission
    role: Role | None = None
    """The least role of an API key; None where none is shown."""

    def __post_init__(self) -> None:
        if (self.role is None) == (self.shows is Admission.API_KEY):
            raise ValueError(f"a role belongs to an API key, and to nothing else; {self.shows} has {self.role}")

    @property
    def checks_origin(self) -> bool:
        """Whether pages of other sites are kept out while the server takes no key: what decides who may call is then
        nothing that such a page would have to know."""
        return self.shows in (Admission.SAME_SITE, Admission.SESSION)


NOBODY_IN_PARTICULAR = Auth(Admission.NOTHING)
SAME_SITE = Auth(Admission.SAME_SITE)
APP_KEY = Auth(Admission.APP_KEY)
DATASET_KEY = Auth(Admission.DATASET_KEY)
VISITOR = Auth(Admission.VISITOR)
SESSION = Auth(Admission.SESSION)
SIGNED_ADDRESS = Auth(Admission.SIGNED_ADDRESS)
OWN_SECRET = Auth(Admission.OWN_SECRET)
VIEWER, DEVELOPER, ADMIN, OWNER = (
    Auth(Admission.API_KEY, role) for role in (Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.OWNER)
)


@dataclass(frozen=True, slots=True)
class Content:
    """A body that is no JSON."""

    type: str
    """As `text/event-stream`."""


@dataclass(frozen=True, slots=True)
class Listed:
    """`{"data": [shape, …], …}`."""

    shape: Any
    more: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Fields beside `data` → their JSON schemas; all of them are there."""
    optional: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Fields that may be missing."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A body by its JSON schema."""

    schema: JSON


@dataclass(frozen=True, slots=True)
class OneOf:
    """A body of one of several kinds: a whole answer or a stream, by what was asked."""

    bodies: "tuple[Body, ...]"


EVENTS = Content("text/event-stream")


Body = type[Any] | Content | Listed | Schema | OneOf
"""A msgspec struct, or one of the above."""


def whole_or_events(schema: JSON) -> OneOf:
    """An answer that comes whole, or as server-sent events where the request asks for a stream."""
    return OneOf((Schema(schema), EVENTS))


@dataclass(frozen=True, slots=True)
class Query:
    """A value that may stand in the address's query."""

    name: str
    about: str = ""
    type: str = "string"
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method at one path."""

    method: str
    path: str
    """With named parts in braces; `{name:path}` takes slashes too, and stands at the end or before a `:verb`."""
    auth: Auth
    handler: Callable[[Any], Awaitable[Answered]]
    """Given the request, or what the API's `enter` makes of it."""
    summary: str
    takes: Body | None = None
    """The request's body; None where there is none."""
    needs_body: bool = True
    answer: Body | None = None
    """None where the answer has no content, as of 204."""
    status: int = 200
    """Of an answer that is no error."""
    other_statuses: tuple[int, ...] = ()
    """Others that are no errors."""
    errors: tuple[int, ...] = ()
    """Statuses of errors beyond those that every route of the API may answer."""
    query: tuple[Query, ...] = ()
    changes_nothing: bool = False
    """A POST that asks a question: it is not written into the log of changes."""
    takes_any_method: bool = False
    """All methods reach this row: what they mean is for tenants' code to say."""

    @property
    def names(self) -> tuple[str, ...]:
        """The path's named parts, in order."""
        parts = (piece.partition("}")[0] for piece in self.path.split("{")[1:])
        return tuple(part.partition(":")[0] for part in parts)


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How an API's clients read errors."""

    reply: Callable[[ModelyardError, str], Reply]
    """(error, the request's id) → the answer."""
    schema: JSON
    """Of its body."""


async def call_handler(request: Request, row: Row) -> Answered:
    """Hand the request to the row's handler as it is."""
    return await row.handler(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Routes that speak one language to one kind of client."""

    name: str
    """In lower case, as files and addresses name it."""
    title: str
    about: str
    prefixes: tuple[str, ...]
    """Where it lies. What is below them and in no table is refused in its words."""
    errors: ErrorShape
    rows: tuple[Row, ...]
    enter: Callable[[Request, Row], Awaitable[Answered]] = call_handler
    """What happens between the router and a row's handler: who calls is found out, and the body read."""


class NoSuchPathError(NotFoundError):
    """There is nothing at this path, for any method."""

    def __init__(self, path: str, nearest: str | None) -> None:
        hint = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"Not found: {path[:200]}{hint}", code="unknown_url")


class MethodNotAllowedError(ModelyardError):
    """The path is right, the method is not."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{path[:200]} takes {', '.join(allowed)}, not {method}")
        self.headers = {"allow": ", ".join(allowed)}


class UnknownMethodError(ModelyardError):
    """No path takes this method."""

    code = "unknown_method"
    status = 501

    def __init__(self, method: str) -> None:
        super().__init__(f"the method {method[:20]!r} is not known here; there are {', '.join(METHODS)}")
