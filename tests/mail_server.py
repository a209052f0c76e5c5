"""A real SMTP server (aiosmtpd) on loopback, which keeps what it receives and refuses
what a test tells it to."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

USER, PASSWORD = "forms", "s3cret-of-the-mail-server"


class MailServer:
    """The handler of all connections."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.greetings: list[str] = []
        self.was_encrypted: list[bool] = []
        self.tries = 0
        self.recipient_replies: list[str] = []
        """Replies to the next `RCPT TO` commands, instead of acceptance."""
        self.data_replies: list[str] = []
        """Replies to the next mails; they are kept even if the reply is a refusal."""
        self.has_mail = threading.Condition()

    def wait(self, count: int = 1) -> list[EmailMessage]:
        """Return the mails once there are this many."""
        with self.has_mail:
            assert self.has_mail.wait_for(lambda: len(self.mails) >= count, 30)
        return self.mails

    def wait_for_tries(self, count: int) -> None:
        with self.has_mail:
            assert self.has_mail.wait_for(lambda: self.tries >= count, 30)

    # The names of these methods are the library's.
    async def handle_EHLO(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        session.host_name = hostname
        self.greetings.append(hostname)
        return responses

    async def handle_RCPT(  # noqa: N802
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: list[str],
    ) -> str:
        with self.has_mail:
            self.tries += 1
            self.has_mail.notify_all()
        if self.recipient_replies:
            return self.recipient_replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        message: Any = message_from_bytes(envelope.content or b"", policy=default)  # type: ignore[arg-type]
        with self.has_mail:
            self.mails.append(message)
            self.recipients.append(envelope.rcpt_tos)
            self.was_encrypted.append(session.ssl is not None)
            self.has_mail.notify_all()
        return self.data_replies.pop(0) if self.data_replies else "250 OK"


def _sign_in(
    server: Any, session: Any, envelope: Any, mechanism: str, data: Any
) -> AuthResult:
    is_right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    # Not handled: the library sends the refusal.
    return AuthResult(success=is_right, handled=False)


@contextmanager
def mail_server(
    *,
    starttls: ssl.SSLContext | None = None,
    implicit: ssl.SSLContext | None = None,
    needs_sign_in: bool = False,
) -> Iterator[MailServer]:
    """A server until the block is left. Both contexts are those of the server's side."""
    handler = MailServer()
    loop = asyncio.new_event_loop()

    connections: list[SMTP] = []

    def protocol() -> SMTP:
        connection = SMTP(
            handler,
            hostname="mail.test",
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=_sign_in,
            auth_required=needs_sign_in,
            auth_require_tls=starttls is not None,
            loop=loop,
        )
        connections.append(connection)
        return connection

    async def start() -> asyncio.Server:
        return await loop.create_server(protocol, "127.0.0.1", 0, ssl=implicit)

    server = loop.run_until_complete(start())
    handler.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield handler
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_end_all(connections), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _end_all(connections: list[SMTP]) -> None:
    """Abort all connections, and wait until their tasks have ended."""
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abort()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Transports close their sockets within a few rounds of the loop.
    for _ in range(5):
        await asyncio.sleep(0)
