"""Mails as RFC 5322 messages: plain text and HTML with the same content. No I/O."""

import hashlib
import html
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from urllib.parse import urlsplit

_DOCUMENT = (
    '<!doctype html><html><head><meta charset="utf-8"></head>'
    '<body style="font-family: sans-serif">{}</body></html>'
)


def form_message(
    *,
    sender: str,
    recipient: str,
    subject: str,
    body: Sequence[str | None],
    url: str,
    sent_at: float,
) -> EmailMessage:
    """Return the mail about a form. `body` holds texts, and None for the link `url`.

    `sender` and `recipient` are plain addresses. A mail that is sent again has the same
    `Message-ID`, so that mailboxes can recognise the repetition. Raises ValueError for a
    header that contains a line break.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = recipient
    message["Subject"] = subject or "A form waits for you"
    message["Date"] = formatdate(sent_at)
    digest = hashlib.sha256(url.encode()).hexdigest()[:32]
    message["Message-ID"] = f"<{digest}@{urlsplit(url).hostname}>"
    # Vacation replies to a machine help nobody (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("".join(url if text is None else text for text in body))
    message.add_alternative(_html_of(body, url), subtype="html")
    return message


def _html_of(body: Sequence[str | None], url: str) -> str:
    """Return the body as HTML. Its texts are data: their markup is shown, not applied."""
    address = html.escape(url)
    link = f'<a href="{address}" rel="noopener noreferrer">{address}</a>'
    texts = [
        link if text is None else html.escape(text).replace("\n", "<br>\n")
        for text in body
    ]
    return _DOCUMENT.format("".join(texts))
