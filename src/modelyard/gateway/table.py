"""Building blocks of route tables: each row is a method and a path with its
authorisation, request and response.

Routing, 405 with `Allow`, HEAD and OPTIONS, role checks, the OpenAPI description, the
console's types and the generic route tests are all derived from the rows.
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
"""Supported methods, in the order in which `Allow` lists them."""

Answered = Reply | StreamReply
CallT = TypeVar("CallT")


class Admission(StrEnum):
    """What a caller must present."""

    NOTHING = "nothing"
    """Nothing; pages of other sites may call too. The response must not contain
    anybody's data."""
    SAME_SITE = "same site"
    """Nothing; but while the server runs without keys, pages of other sites are
    refused."""
    API_KEY = "API key"
    """A gateway API key, or the session of a user who is signed in to the console, with
    at least a given role."""
    APP_KEY = "app key"
    DATASET_KEY = "dataset key"
    """A key for a tenant's datasets, or an API key with the developer role."""
    VISITOR = "visitor"
    """The secret address of an app's page, and the random number that the visitor's
    browser generated."""
    SESSION = "session"
    """The console's cookie, or what leads to one: a password or an invitation."""
    SIGNED_ADDRESS = "signed address"
    """A signature in the address, with an expiry time."""
    OWN_SECRET = "own secret"  # noqa: S105
    """A secret in the address or a header that belongs to a single resource: a webhook
    or a plugin's endpoint."""


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may call a route. There is no default, so every row must state it."""

    shows: Admission
    role: Role | None = None
    """Minimum role of the API key; None for routes without API keys."""

    def __post_init__(self) -> None:
        # A mistake here would silently open a route, so it fails at import.
        if (self.role is None) == (self.shows is Admission.API_KEY):
            raise ValueError(
                f"Only an API key can have a role; {self.shows} has {self.role}"
            )

    @property
    def checks_origin(self) -> bool:
        """Whether pages of other sites are refused while the server runs without keys.

        Without a key, nothing else would distinguish such a page from the user.
        """
        return self.shows in (Admission.SAME_SITE, Admission.SESSION)


NO_AUTH = Auth(Admission.NOTHING)
SAME_SITE = Auth(Admission.SAME_SITE)
APP_KEY = Auth(Admission.APP_KEY)
DATASET_KEY = Auth(Admission.DATASET_KEY)
VISITOR = Auth(Admission.VISITOR)
SESSION = Auth(Admission.SESSION)
SIGNED_ADDRESS = Auth(Admission.SIGNED_ADDRESS)
OWN_SECRET = Auth(Admission.OWN_SECRET)
# The rows of the admin and model APIs name the minimum role directly.
VIEWER, DEVELOPER, EDITOR, ADMIN, OWNER = (
    Auth(Admission.API_KEY, role)
    for role in (Role.VIEWER, Role.DEVELOPER, Role.EDITOR, Role.ADMIN, Role.OWNER)
)


@dataclass(frozen=True, slots=True)
class Content:
    """A body that is not JSON."""

    type: str
    """Media type, for example `text/event-stream`."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A JSON list body: `{"data": [shape, …], …}`."""

    shape: Any
    more: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Additional required fields → their JSON schemas."""
    optional: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Additional optional fields → their JSON schemas."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A body described by a JSON schema."""

    schema: JSON


@dataclass(frozen=True, slots=True)
class OneOf:
    """A body of one of several kinds, for example a complete answer or a stream,
    depending on the request."""

    bodies: "tuple[Body, ...]"


EVENTS = Content("text/event-stream")


Body = type[Any] | Content | Listed | Schema | OneOf
"""A msgspec struct or one of the body classes above."""


def json_or_events(schema: JSON) -> OneOf:
    """Return the body of a route that answers completely, or with server-sent events if
    the request asks for a stream."""
    return OneOf((Schema(schema), EVENTS))


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query string."""

    name: str
    about: str = ""
    type: str = "string"
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One route: a method and a path with its authorisation, request and response."""

    method: str
    path: str
    """Path with parameters in braces. `{name:path}` also matches slashes and must be
    last or before a `:verb`."""
    auth: Auth
    handler: Callable[[Any], Awaitable[Answered]]
    """Receives the request, or whatever the API's `enter` passes on."""
    summary: str
    takes: Body | None = None
    """The request body; None if there is none."""
    needs_body: bool = True
    answer: Body | None = None
    """The response body; None if there is none, as for 204."""
    status: int = 200
    """Status of a successful response."""
    other_statuses: tuple[int, ...] = ()
    """Further statuses of successful responses."""
    errors: tuple[int, ...] = ()
    """Error statuses in addition to those that every route of the API may return."""
    query: tuple[Query, ...] = ()
    calls_model: bool = False
    """Each request is a model call. While the server is overloaded, such requests are
    refused as soon as their caller is known."""
    starts_run: bool = False
    """Each request runs an app. Like refused model calls, refused ones are recorded."""
    changes_nothing: bool = False
    """For a POST that only reads: it is not written to the audit log."""
    is_of_several_vendors: bool = False
    """Several vendors have this path. The client's headers decide on the format, that
    of errors too."""
    takes_any_method: bool = False
    """Every method reaches this row; tenants' code interprets the method."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the path parameters, in order."""
        parts = (fragment.partition("}")[0] for fragment in self.path.split("{")[1:])
        # Drop the converter: `{name:path}` is the parameter `name`.
        return tuple(part.partition(":")[0] for part in parts)


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """The format in which an API reports errors."""

    reply: Callable[[ModelyardError, str], Reply]
    """(error, request id) → reply."""
    schema: JSON
    """JSON schema of the error body."""


async def call_handler(request: Request, row: Row) -> Answered:
    """Call the row's handler with the unchanged request."""
    return await row.handler(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A set of routes for one kind of client, with a common error format."""

    name: str
    """Lower-case name, used in file names and URLs."""
    title: str
    about: str
    prefixes: tuple[str, ...]
    """Path prefixes of the API. Unknown paths below them get this API's error format.
    """
    errors: ErrorShape
    rows: tuple[Row, ...]
    enter: Callable[[Request, Row], Awaitable[Answered]] = call_handler
    """Runs between the router and a row's handler, for example to authenticate the
    caller and read the body."""


class NoSuchPathError(NotFoundError):
    """No route exists at this path, for any method."""

    def __init__(self, path: str, nearest: str | None, vendor: str = "") -> None:
        """`vendor`: whose client asks for the path, if that is known."""
        # Paths are cut: they come from the client and may be long.
        hint = f"; did you mean {nearest}?" if nearest else ""
        if vendor:
            hint = f"; this server does not provide this endpoint of {vendor}'s API"
        super().__init__(f"Not found: {path[:200]}{hint}", code="unknown_url")


class MethodNotAllowedError(ModelyardError):
    """The path exists but does not support the method. `Allow` lists those that it
    does."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{path[:200]} takes {', '.join(allowed)}, not {method}")
        self.headers = {"allow": ", ".join(allowed)}


class UnknownMethodError(ModelyardError):
    """A method that no path supports."""

    code = "unknown_method"
    status = 501

    def __init__(self, method: str) -> None:
        super().__init__(
            f"The method {method[:20]!r} is unknown; expected one of {', '.join(METHODS)}"
        )
