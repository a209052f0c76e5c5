"""The caller's side of a chat call that the protocol class answers without ASGI."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from modelyard.gateway.direct import AdmittedHead, DirectAnswer, DirectGateway
from modelyard.gateway.early_refusals import EarlyRefusals
from modelyard.gateway.http import Receive, Scope, Send
from modelyard.transport.turn_writes import TurnWrites

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DirectConnection(Protocol):
    """The parts of a connection that a direct response uses."""

    transport: Any
    cycle: Any

    def run_app(self, cycle: Any, app: App) -> None:
        """Run an ASGI application for a request."""
        ...

    def end_direct(self, cycle: Any) -> None:
        """The response to a request was written directly and is complete."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class DirectClient:
    """Writes one response to a connection. Implements
    `modelyard.gateway.direct.ClientConnection`."""

    __slots__ = ("_connection", "_cycle")

    def __init__(self, connection: DirectConnection, cycle: Any) -> None:
        self._connection = connection
        self._cycle = cycle

    def write(self, data: bytes) -> None:
        """Write a part of the response."""
        self._cycle.response_started = True
        self._connection.transport.write(data)

    def end_response(self) -> None:
        """The response is complete: the connection goes on with the next request."""
        self._connection.end_direct(self._cycle)

    def abort(self) -> None:
        """Close at once, so that the caller sees a truncated response."""
        self._connection.abort()

    def run(self, app: App) -> None:
        """Answer the request by an ASGI application instead."""
        self._connection.run_app(self._cycle, app)


class KnownClient:
    """The same for a request that was recognised by its head and not parsed. It is
    parsed if the response turns out to need more than its bytes."""

    __slots__ = ("_connection", "data", "has_written")

    def __init__(self, connection: "DirectAnswering", data: bytes) -> None:
        self._connection = connection
        self.data = data
        """The request as it was received."""
        self.has_written = False

    def write(self, data: bytes) -> None:
        """Write a part of the response."""
        self.has_written = True
        connection = self._connection
        connection.writes.write(connection.transport, data)

    def end_response(self) -> None:
        """The response is complete: the connection goes on with the next request."""
        self._connection.end_known()

    def abort(self) -> None:
        """Close at once, so that the caller sees a truncated response."""
        self._connection.abort()

    def run(self, app: App) -> None:
        """Answer the request by an ASGI application instead."""
        connection = self._connection
        connection.run_app(connection.parse_known(self), app)


class DirectAnswering:
    """The part of the protocol class that answers without ASGI: plain chat calls, and
    calls of those who are being refused."""

    scope: Any
    tasks: Any
    transport: Any
    flow: Any
    door: Any
    server_state: Any
    cycle: Any
    fed: int
    running: Any
    app: Any
    early_refusals: EarlyRefusals
    writes: TurnWrites
    """Sends responses to requests that were not parsed."""
    direct: DirectGateway | None = None
    """Answers plain chat calls without ASGI."""
    held: Any | None = None
    """A request that may be answered directly, once it is complete."""
    held_head: AdmittedHead | None = None
    answer: DirectAnswer | None = None
    """The direct answer that is being written."""
    received: bytes | None = None
    """What is being parsed, if it starts with a request."""
    is_answered: bool = False
    """Whether the request that is being parsed is being answered already."""
    is_declined: bool = False
    """Whether the request that is being parsed cannot be answered directly."""

    def start_usual(self, cycle: Any) -> None:
        """Run the application for a request."""
        self.run_app(cycle, self.app)

    def run_app(self, cycle: Any, app: App) -> None:
        """Run an ASGI application for a request."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def parse(self, data: bytes) -> None:
        """Parse input."""
        raise NotImplementedError

    def direct_head(self, cycle: Any) -> AdmittedHead | None:
        """Return who asks for what if the request may be answered without ASGI, once
        its body has arrived."""
        if self.direct is None or self.is_declined or not cycle.keep_alive:
            return None
        return self.direct.admit(self.scope)

    def answer_known(self, data: bytes) -> bool:
        """Answer a complete request whose head is known; return False if it must be
        parsed."""
        direct = self.direct
        if direct is None or (known := direct.recognise(data)) is None:
            return False
        # The parser would have told the connection limits that a request is here.
        self.door.start_response(self)
        client = KnownClient(self, data)
        answer = direct.start(known[0], known[1], client)
        if answer is None:
            self.is_declined = True
            return False
        # The call may be over already, or go on as usual.
        if not answer.is_over:
            self.answer = answer
            self.tasks.add(answer)  # pyright: ignore[reportArgumentType]  only `cancel` is used
        return True

    def parse_known(self, client: KnownClient) -> Any:
        """Parse a request that is being answered by its head, and return its cycle."""
        # What the application writes comes after what was written so far.
        self.writes.flush_for(self.transport)
        self.is_declined, self.is_answered = True, True
        self.parse(client.data)
        self.is_declined = self.is_answered = False
        cycle = self.running = self.cycle
        # The application must not send a second head.
        cycle.response_started = client.has_written
        return cycle

    def parse_unparsed(self) -> None:
        """Parse the request that is being answered by its head, if there is one: what
        happens next needs to know it."""
        answer = self.answer
        if answer is not None and isinstance(answer.client, KnownClient):
            cycle = self.parse_known(answer.client)
            # The class that this is a part of has what is missing here.
            answer.client = DirectClient(self, cycle)  # pyright: ignore[reportArgumentType]

    def end_known(self) -> None:
        """The response to a request that was not parsed is complete."""
        if self.answer is not None:
            self.take_answer()
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.door.mark_idle(self)

    def shutdown(self) -> None:
        """End the connection after the response that is being written, because the
        server stops."""
        # A request that is not complete yet gets its error as usual.
        self.release_held()
        self.parse_unparsed()
        self.writes.flush_for(self.transport)
        super().shutdown()  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType]

    def release_held(self) -> None:
        """Let a request whose body does not arrive as it should take the usual way."""
        if self.held is not None:
            held, self.held = self.held, None
            self.start_usual(held)

    def start_direct(self, cycle: Any) -> None:
        """Answer a complete request directly if that is possible, else as usual."""
        direct, head = self.direct, self.held_head
        answer: DirectAnswer | None = None
        self.running = cycle
        if direct is not None and head is not None:
            received, scope = self.received, cycle.scope
            # The class that this is a part of has what is missing here.
            client = DirectClient(self, cycle)  # pyright: ignore[reportArgumentType]
            answer = direct.start(head, bytes(cycle.body), client)
            if answer is not None and received is not None:
                direct.store(received, scope, head)
        if answer is None:
            self.start_usual(cycle)
        # The call may be over already, or go on as usual.
        elif not answer.is_over:
            self.answer = answer
            self.tasks.add(answer)  # pyright: ignore[reportArgumentType]  only `cancel` is used

    def take_answer(self) -> DirectAnswer | None:
        """Return the direct answer that was being written, which is over now; None if
        there is none."""
        answer = self.answer
        if answer is not None:
            self.answer = None
            self.tasks.discard(answer)  # pyright: ignore[reportArgumentType]
        return answer

    def end_direct(self, cycle: Any) -> None:
        """The direct response to a request is complete."""
        self.take_answer()
        cycle.response_started = cycle.response_complete = True
        # A server that stops has said in the meantime that this is the last response.
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    @property
    def is_between_requests(self) -> bool:
        """Whether the next byte begins a request."""
        return self.cycle is None and not self.fed and self.answer is None

    def refuse_early(self, data: bytes) -> bool:
        """Answer a complete request whose caller's calls are being refused; return False
        if it must be parsed."""
        # A client that does not read is not sent even more.
        if not self.is_between_requests or self.flow.write_paused:
            return False
        response = self.early_refusals.response(data)
        if response is None:
            return False
        self.writes.write(self.transport, response)
        self.server_state.total_requests += 1
        self.door.renew_idle(self)
        return True
