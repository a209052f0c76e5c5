"""Delivery of the mails of forms: who gets one, and sending in the background.

A mail is stored with its form and sent by any process of the server. It is sent at least
once: if a process ends between the mail server's acceptance and the note of it, the mail
is sent again, with the same `Message-ID`. A run never fails because of a mail; its record
says what became of each.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from email.message import EmailMessage

import msgspec

from modelyard.base.email_addresses import checked_email
from modelyard.base.errors import InvokeBadRequestError, ModelyardError
from modelyard.workflow.form_mail import FormMail
from modelyard.workflow.form_mails import DueMail, FormMails, NewMail
from modelyard.workflow.mail_message import form_message
from modelyard.workflow.run_record import RunRecord

logger = logging.getLogger("modelyard.workflow")

# Greylisting servers accept a second attempt after some minutes.
_FIRST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 3600.0
_CLAIM_STEPS = 8
"""A claim lasts this many timeouts of a step, longer than any attempt."""

Send = Callable[[EmailMessage], Awaitable[None]]
"""Sends a mail. Raises ModelyardError, with `is_permanent` if another try is useless."""


class MailSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How mails of forms are sent."""

    sender: str
    base_url: str
    """URL origin of the forms' pages."""
    step_seconds: float
    """Timeout of each step of sending."""
    problem: str = ""
    """Why no mail can be sent; empty if it can be."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An account of a tenant."""

    id: str
    email: str


MembersOf = Callable[[str], Awaitable[Sequence[Member]]]
"""Returns the enabled accounts of a tenant."""


class MailDelivery:
    """Addresses and sends the mails of forms."""

    def __init__(
        self,
        mails: FormMails,
        setup: Callable[[], MailSetup],
        send: Send,
        members_of: MembersOf,
        clock: Callable[[], float],
    ) -> None:
        """`setup` is called again for each use, so that changes apply at once."""
        self._mails = mails
        self._setup = setup
        self._send = send
        self._members_of = members_of
        self._now = clock

    async def addressed(
        self, run: RunRecord, mails: Sequence[FormMail]
    ) -> list[NewMail]:
        """Return the mails of a form for each recipient, who gets one mail only. What
        keeps a mail from being sent is noted in it."""
        # Noted and not raised: the form can be answered in other ways.
        problem = self._setup().problem
        by_recipient: dict[str, NewMail] = {}
        for mail in mails:
            for address in await self._recipients(run, mail):
                new_mail = _new_mail(mail, address, problem)
                # Several groups of a form may name the same person; the first mail
                # counts.
                by_recipient.setdefault(new_mail.recipient, new_mail)
        return list(by_recipient.values())

    async def _recipients(self, run: RunRecord, mail: FormMail) -> list[str]:
        """Return the addresses of a mail's recipients."""
        if mail.is_debugged and run.created_from == "console":
            # Whoever is signed in to the console is known by the address.
            return [run.user] if "@" in run.user else []
        # Most mails name their recipients, and need no query.
        needs_members = mail.is_for_everyone or mail.members
        members = await self._members_of(run.tenant) if needs_members else ()
        chosen = [
            member.email
            for member in members
            if mail.is_for_everyone or member.id in mail.members
        ]
        return [*mail.addresses, *chosen]

    async def send_due(self) -> int:
        """Send the mails that are due; return how many were tried. Does nothing while
        mail is not set up. Raises StorageUnavailableError."""
        setup = self._setup()
        if setup.problem:
            return 0
        # The claim starts before the first attempt, so that it covers the slowest one.
        now = self._now()
        claimed = await self._mails.claim_due(
            now, now + _CLAIM_STEPS * setup.step_seconds
        )
        # Together, so that one slow recipient does not hold up the others.
        await asyncio.gather(*(self._deliver(mail, setup) for mail in claimed))
        return len(claimed)

    async def _deliver(self, mail: DueMail, setup: MailSetup) -> None:
        """Make one attempt and store its result. Raises StorageUnavailableError."""
        if not await self._mails.is_needed(mail, self._now()):
            await self._mails.settle(mail, "unneeded")
            return
        # An attempt is made outside of any transaction: mail servers may take minutes.
        try:
            await self._send(self._message(mail, setup))
        # ValueError: a header that the settings or the app make impossible.
        except (ModelyardError, ValueError) as error:
            await self._note_failure(mail, error)
            return
        await self._mails.settle(mail, "sent")

    def _message(self, mail: DueMail, setup: MailSetup) -> EmailMessage:
        """Return the message of a mail. Raises ValueError."""
        return form_message(
            sender=setup.sender,
            recipient=mail.recipient,
            subject=mail.subject,
            body=mail.body,
            url=form_url(setup.base_url, mail.token),
            sent_at=self._now(),
        )

    async def _note_failure(self, mail: DueMail, error: Exception) -> None:
        """Store a failed attempt, and when the next one is due."""
        is_permanent = getattr(error, "is_permanent", False)
        fields = {"run": mail.run, "error": str(error)}
        logger.warning("mail of a form not sent", extra={"fields": fields})
        # Doubled each time, so that a server that is down is not asked too often.
        pause = min(
            # The exponent is limited: a large one would raise OverflowError.
            _FIRST_PAUSE_SECONDS * 2.0 ** min(mail.attempts - 1, 16),
            _LONGEST_PAUSE_SECONDS,
        )
        await self._mails.settle(
            mail,
            "failed" if is_permanent else "waiting",
            due_at=self._now() + pause,
            error=str(error),
        )


def form_url(base_url: str, token: str) -> str:
    """Return the URL of a form's page."""
    return f"{base_url.rstrip('/')}/forms/{token}"


def _new_mail(mail: FormMail, address: str, problem: str) -> NewMail:
    """Return the mail for one recipient; refused if the address is none."""
    try:
        recipient, error = checked_email(address), problem
    except InvokeBadRequestError as invalid:
        # Cut, since it becomes part of the mail's key.
        recipient, error = address[:254], str(invalid)
    return NewMail(
        recipient=recipient,
        subject=mail.subject,
        body=mail.body,
        error=error,
        is_refused=error != problem,
    )
