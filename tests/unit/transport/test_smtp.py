"""Sending of mails by a real SMTP server: TLS, signing in, refusals."""

import asyncio
import socket
import ssl
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

from modelyard.transport.smtp import MailError, MailServer, send_mail
from tests.mail_server import PASSWORD, USER, mail_server


@pytest.fixture(scope="module")
def authority(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, ssl.SSLContext]:
    """(file of an authority, the context of a server with its certificate)"""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    return str(path), context


def message(**headers: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = (
        "forms@yard.test",
        "ada@shop.test",
        "Größe",
    )
    for name, value in headers.items():
        mail.replace_header(name, value)
    mail.set_content("Grüße\n.\nEnde")
    return mail


def send(port: int, mail: EmailMessage | None = None, **fields: Any) -> None:
    settings = {"host": "localhost", "tls": "none", "seconds": 10.0, **fields}
    asyncio.run(send_mail(MailServer(port=port, **settings), mail or message()))


def test_a_mail_arrives_as_it_was_sent():
    with mail_server() as server:
        send(server.port, local_name="yard.test")
    (mail,) = server.mails
    assert (mail["Subject"], mail.get_content().splitlines()) == (
        "Größe",
        ["Grüße", ".", "Ende"],
    )
    assert server.recipients == [["ada@shop.test"]]
    # The machine's own name is nobody's business.
    assert server.greetings == ["yard.test"]


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_a_mail_is_encrypted_and_the_certificate_checked(
    authority: tuple[str, ssl.SSLContext], mode: str
):
    ca_file, context = authority
    with mail_server(**{mode: context}) as server:
        signing = {"user": USER, "password": PASSWORD} if mode == "starttls" else {}
        send(server.port, tls=mode, ca_file=ca_file, **signing)
        with pytest.raises(MailError, match="cannot be used"):
            send(server.port, tls=mode)
    assert len(server.mails) == 1
    assert server.was_encrypted == [True] or mode == "implicit"


def test_no_mail_is_sent_in_plain_text_if_the_offer_of_tls_is_missing():
    with mail_server() as server, pytest.raises(MailError, match="STARTTLS"):
        send(server.port, tls="starttls")
    assert server.mails == []


@pytest.mark.parametrize(
    ("reply", "is_permanent"),
    [("550 5.1.1 No such user", True), ("451 4.3.0 Later", False)],
)
def test_a_refused_recipient_is_permanent_if_the_server_says_so(
    reply: str, is_permanent: bool
):
    with mail_server() as server:
        server.recipient_replies.append(reply)
        with pytest.raises(MailError, match=reply[4:]) as caught:
            send(server.port)
    assert caught.value.is_permanent is is_permanent


def test_a_wrong_password_can_be_corrected(authority: tuple[str, ssl.SSLContext]):
    ca_file, context = authority
    with mail_server(starttls=context, needs_sign_in=True) as server:
        with pytest.raises(MailError, match="535") as caught:
            send(server.port, tls="starttls", ca_file=ca_file, user=USER, password="no")
        assert not caught.value.is_permanent
        assert PASSWORD not in str(caught.value)
        send(server.port, tls="starttls", ca_file=ca_file, user=USER, password=PASSWORD)
    assert len(server.mails) == 1


def test_a_server_that_is_away_or_silent_is_named(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(MailError, match=f"localhost:{port}"):
            send(port, seconds=0.05)
    with pytest.raises(MailError, match=f"localhost:{port} cannot be used"):
        send(port)
    with pytest.raises(MailError, match="does not|cannot be"):
        send(port, host="name.invalid")


def test_a_metadata_service_is_no_mail_server():
    with pytest.raises(MailError, match="cloud metadata address"):
        send(25, host="169.254.169.254")


@pytest.mark.parametrize("header", ["To", "Subject"])
def test_no_header_can_hold_another(header: str):
    with pytest.raises(ValueError, match="line|CR|newline"):
        message(**{header: "x\r\nBcc: eve@evil.test"})
