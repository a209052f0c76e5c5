"""Refusals of an overloaded server that are decided by a request's first bytes.

A refusal that costs as much as a call would help nobody. So the first refused request
of a caller is answered like every other one, and its answer is stored. While the server
refuses calls, the caller's next requests are recognised by their head and answered with
it, before they are parsed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from modelyard.base.fields import whole_number
from modelyard.base.ids import id_from, id_start
from modelyard.gateway.auth import ACTING_HEADERS
from modelyard.gateway.http import Reply, Scope, finish_headers
from modelyard.gateway.tenant_content import CREDENTIALS, Headers
from modelyard.runtime.overload import LoadController
from modelyard.runtime.unserved_calls import UnservedCall
from modelyard.tenancy.caller import Caller

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")

# Keys that nobody has are unlimited in number.
_MAX_STORED = 4096
_CYCLES = 200
"""Cycles of the controller for which an answer is used, about a second: after that the
caller is authenticated again."""
_EXCLUDING_HEADERS = frozenset(
    (b"connection", b"expect", b"transfer-encoding", b"upgrade", *ACTING_HEADERS)
)
"""Headers that need more than a look at the head. Their requests are parsed."""


@dataclass(frozen=True, slots=True)
class _StoredRefusal:
    """The answer to the refused calls of one caller at one path."""

    tenant: str
    priority: int
    fragments: tuple[bytes, ...]
    """The response, cut where the id of the request is inserted."""
    last_cycle: int
    call: UnservedCall | None
    """The record of the first refused call; None if calls are not recorded."""


class EarlyRefusals:
    """Stored refusals. Of requests only hashes are stored, which the interpreter salts:
    they contain credentials."""

    def __init__(
        self,
        load: LoadController,
        record: Callable[[UnservedCall, str], None] = lambda call, request_id: None,
    ) -> None:
        """`record` is called for each refusal with the record of the first one and the
        id of this request."""
        self.load = load
        self._record = record
        # The hash of the request line and the credential → the answer.
        self._refusals: dict[int, _StoredRefusal] = {}
        # The hash of a head → its stored refusal and the length of the body.
        self._heads: dict[int, tuple[_StoredRefusal, int]] = {}
        # The start of the ids of a cycle's refusals, and that cycle.
        self._id_start, self._id_cycle = b"", -1

    @property
    def is_active(self) -> bool:
        """Whether calls are refused at the moment."""
        return self.load.is_refusing

    def store(
        self,
        scope: Scope,
        caller: Caller,
        reply: Reply,
        request_id: str,
        call: UnservedCall | None = None,
    ) -> None:
        """Store the reply to a refused request, for further requests of its caller."""
        credential = _only_credential(scope["headers"])
        if credential is None or scope.get("http_version") != "1.1":
            return
        if len(self._refusals) >= _MAX_STORED:
            self._refusals.clear()
        self._refusals[hash((_request_line(scope), credential))] = _StoredRefusal(
            caller.tenant,
            caller.priority,
            tuple(_response_bytes(reply, request_id).split(request_id.encode())),
            self.load.cycle + _CYCLES,
            call,
        )

    def response(self, data: bytes) -> bytes | None:
        """Return the response to the request that starts in `data`, or None if it must
        be parsed: it is admitted, unknown, or not complete."""
        head_size = data.find(b"\r\n\r\n")
        if head_size < 0:
            return None
        head = data[:head_size]
        # Clients repeat their heads, so most are recognised by their hash.
        recognised = self._heads.get(hash(head)) or self._recognise(head)
        if recognised is None:
            return None
        refusal, body_size = recognised
        if refusal.last_cycle < self.load.cycle:
            self._heads.pop(hash(head), None)
            return None
        # Exactly one request: a pipelined one behind it would be lost.
        if len(data) != head_size + 4 + body_size:
            return None
        if self.load.pre_check(refusal.tenant, refusal.priority):
            return None
        self.load.count_refusal()
        request_id = self._request_id()
        if refusal.call is not None:
            self._record(refusal.call, request_id.decode())
        return request_id.join(refusal.fragments)

    def _request_id(self) -> bytes:
        """Return a new id. The time in it is that of the cycle's first refusal: a clock
        that is read for each would be a tenth of its cost."""
        if self._id_cycle != self.load.cycle:
            self._id_start, self._id_cycle = id_start("req"), self.load.cycle
        return id_from(self._id_start)

    def _recognise(self, head: bytes) -> tuple[_StoredRefusal, int] | None:
        """Return the stored refusal for a head and the length of its body, or None."""
        request_line, *lines = head.split(b"\r\n")
        headers: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, _, value = line.partition(b":")
            headers.append((name.lower(), value.strip(b" \t")))
        body_size = _body_size(headers)
        credential = _only_credential(headers)
        if body_size is None or credential is None or not _is_plain(head, headers):
            return None
        refusal = self._refusals.get(hash((request_line, credential)))
        if refusal is None:
            return None
        if len(self._heads) >= _MAX_STORED:
            self._heads.clear()
        self._heads[hash(head)] = refusal, body_size
        return refusal, body_size


def _only_credential(headers: Headers) -> bytes | None:
    """Return the value of the only header with an API key; None if there are none or
    several, or if the request needs more than a look at its head."""
    credentials: list[bytes] = []
    for name, value in headers:
        is_default = name == b"connection" and value.lower() == b"keep-alive"
        if name in _EXCLUDING_HEADERS and not is_default:
            return None
        if name in CREDENTIALS:
            credentials.append(value)
    return credentials[0] if len(credentials) == 1 else None


def _body_size(headers: Headers) -> int | None:
    """Return the length of the body; None if it is not stated exactly once."""
    lengths = [value for name, value in headers if name == b"content-length"]
    return whole_number(lengths[0].decode("latin-1")) if len(lengths) == 1 else None


def _is_plain(head: bytes, headers: Headers) -> bool:
    """Return whether every parser must read a head alike: all lines end in CR LF, and
    all names are tokens (RFC 9110, 5.6.2)."""
    if not head.count(b"\n") == head.count(b"\r") == len(headers):
        return False
    return all(_TOKEN.fullmatch(name) for name, _ in headers)


def _request_line(scope: Scope) -> bytes:
    """Return the first line of a request as it was sent."""
    target: bytes = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    return scope["method"].encode() + b" " + target + b" HTTP/1.1"


def _response_bytes(reply: Reply, request_id: str) -> bytes:
    """Return a complete HTTP response."""
    headers = reply.response_headers(request_id.encode())
    finish_headers(headers)
    status_line = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"
    lines = [status_line.encode(), *(b": ".join(header) for header in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + reply.body
