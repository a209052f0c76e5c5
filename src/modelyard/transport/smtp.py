"""Sending of mails over SMTP (RFC 5321), with STARTTLS or implicit TLS.

The server is the operator's, so it may be in a private network; like every destination
it is never a cloud's metadata service. The library gets a connected socket and opens no
connections of its own.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Literal

from modelyard.base.errors import ConfigError, ModelyardError
from modelyard.transport.connect import connected_socket, trusting_context
from modelyard.transport.origins import Origin, check_addresses

try:
    from aiosmtplib import (
        SMTP,
        SMTPException,
        SMTPRecipientRefused,
        SMTPRecipientsRefused,
        SMTPResponseException,
    )
except ImportError as missing:
    raise ConfigError(
        "Mail needs its client: pip install 'modelyard[mail]'"
    ) from missing

# A reply comes from another server, and is stored with the mail.
_MAX_REPLY_CHARS = 200


class MailError(ModelyardError):
    """A mail was not accepted."""

    code = "mail_failed"
    status = 502

    def __init__(self, message: str, *, is_permanent: bool = False) -> None:
        """`is_permanent`: whether another try would fail in the same way."""
        super().__init__(message)
        self.is_permanent = is_permanent


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """An SMTP server and how to sign in."""

    host: str
    port: int
    tls: Literal["starttls", "implicit", "none"]
    user: str = ""
    password: str = ""
    local_name: str = "localhost"
    """Host name by which this server introduces itself."""
    ca_file: str = ""
    """File with further certificate authorities."""
    seconds: float = 30.0
    """Timeout of each step."""


async def send_mail(server: MailServer, message: EmailMessage) -> None:
    """Send a mail to the one address in its `To` header.

    Returns once the server is responsible for it. Raises MailError.
    """
    name = f"{server.host}:{server.port}"
    try:
        # Every command has its own timeout, so a slow server could go on for long.
        async with asyncio.timeout(4 * server.seconds):
            await _send(server, message)
    # First, since a TimeoutError is an OSError too.
    except TimeoutError as error:
        raise MailError(f"The mail server {name} did not answer in time") from error
    except (SMTPException, OSError, ConfigError) as error:
        raise _mail_error(name, error) from error


async def _send(server: MailServer, message: EmailMessage) -> None:
    """Connect, sign in and send. Raises the library's errors, OSError and
    ConfigError."""
    # Reading the system's certificates takes milliseconds.
    context = await asyncio.to_thread(trusting_context, server.ca_file)
    sock = await connected_socket(
        Origin("smtp", server.host, server.port), check_addresses, server.seconds
    )
    client = SMTP(
        hostname=server.host,
        sock=sock,
        local_hostname=server.local_name,
        timeout=server.seconds,
        use_tls=server.tls == "implicit",
        # True and not None: a server without STARTTLS must not get the mail in plain
        # text, since anybody on the way could have removed the offer.
        start_tls=server.tls == "starttls",
        tls_context=context,
    )
    try:
        await client.connect()
        if server.user:
            await client.login(server.user, server.password)
        await client.send_message(message)
        # The mail is accepted by now: a failed farewell must not send it again.
        with suppress(SMTPException, OSError):
            await client.execute_command(b"QUIT")
    finally:
        # Aborted and not closed: everything was said, and a peer that never ends its
        # half of TLS would keep the socket open.
        transport = client.transport
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
        client.close()
        sock.close()


def _mail_error(name: str, error: Exception) -> MailError:
    """Return the error for a failure, worded for the operator.

    Only a refusal of this recipient or this mail is permanent (RFC 5321, section
    4.2.1). A refused connection, sign-in or sender is a matter of the settings, which
    the operator may correct.
    """
    # There is one recipient only, whose refusal says more than the sum of all.
    if isinstance(error, SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    if isinstance(error, SMTPResponseException):
        reply = " ".join(str(error.message).split())[:_MAX_REPLY_CHARS]
        return MailError(
            f"The mail server {name} refused: {error.code} {reply}",
            is_permanent=isinstance(error, SMTPRecipientRefused) and error.code >= 500,
        )
    return MailError(f"The mail server {name} cannot be used: {error}")
