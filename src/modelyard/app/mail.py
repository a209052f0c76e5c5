"""Mail setup: sends the mails of forms by the operator's mail server."""

import importlib.util
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

from modelyard.app.live_settings import LiveSettings
from modelyard.app.storage import StorageServices
from modelyard.base.log import redaction
from modelyard.base.settings import Settings
from modelyard.people.account import AccountTables
from modelyard.workflow.form_mails import FormMails
from modelyard.workflow.mail_delivery import MailDelivery, MailSetup, Member


def build_mail_delivery(
    live_settings: LiveSettings,
    mails: FormMails,
    storage: StorageServices,
    clock: Callable[[], float],
) -> MailDelivery:
    """Build the delivery. Changed settings apply to the next mail."""
    # The password must not appear in logs.
    live_settings.follow(lambda settings: redaction.add([settings.mail.password]))
    tables = AccountTables(storage.database)

    async def send(message: EmailMessage) -> None:
        """Send a mail by the current settings. Raises MailError, and ConfigError if the
        mail client is not installed."""
        await send_by(live_settings.current, message)

    async def members_of(tenant: str) -> Sequence[Member]:
        """Return the enabled accounts of a tenant."""
        rows = await tables.rows("of_tenant", tenant=tenant)
        return [
            Member(id=row["id"], email=row["email"])
            for row in rows
            if row["is_enabled"]
        ]

    def setup() -> MailSetup:
        """Return the current settings."""
        mail = live_settings.current.mail
        return MailSetup(
            sender=mail.sender,
            base_url=mail.base_url,
            step_seconds=mail.seconds,
            problem=mail.problem,
        )

    return MailDelivery(mails, setup, send, members_of, clock)


def mail_problem(settings: Settings) -> str:
    """Return why no mail can be sent by the settings; empty if it can be."""
    if problem := settings.mail.problem:
        return problem
    # The client is an optional package, whose absence a mail would meet much later.
    if importlib.util.find_spec("aiosmtplib") is None:
        return "The mail client is missing: pip install 'modelyard[mail]'"
    return ""


async def send_by(settings: Settings, message: EmailMessage) -> None:
    """Send a mail by the mail server of the settings. Raises MailError, and ConfigError
    if the mail client is not installed."""
    # Imported here because the client is an optional package.
    from modelyard.transport.smtp import MailServer, send_mail

    mail = settings.mail
    server = MailServer(
        host=mail.host,
        port=mail.port,
        tls=mail.tls,
        user=mail.user,
        password=mail.password,
        local_name=urlsplit(mail.base_url).hostname or "localhost",
        ca_file=_ca_file(settings),
        seconds=mail.seconds,
    )
    await send_mail(server, message)


def _ca_file(settings: Settings) -> str:
    """Return the path of the file with further authorities; empty if there is none."""
    path = settings.network.ca_file
    return str(Path(path).expanduser()) if path else ""
