"""The forms of one run, as its nodes publish them and read their answers."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelyard.workflow.form_mail import FormMail
from modelyard.workflow.journal import DatabaseJournal
from modelyard.workflow.mail_delivery import MailDelivery
from modelyard.workflow.run_record import RunRecord


class StoredForms:
    """Forms of one run; anyone with a form's URL can submit it."""

    def __init__(
        self,
        journal: DatabaseJournal,
        run: RunRecord,
        origin: str,
        delivery: MailDelivery,
    ) -> None:
        self._forms = journal.forms
        self._run = run
        self._origin = origin
        self._delivery = delivery

    async def answer(self, key: str) -> Mapping[str, Any] | None:
        """Return the submitted values of a step's form, and under `mails` what became of
        its mails; None while it is open."""
        row = await self._forms.of_step(self._run.id, key)
        if row is None or not row["answer"]:
            # The form exists, but was not submitted yet.
            return None
        answer: dict[str, Any] = msgspec.json.decode(row["answer"])
        mails = await self._forms.mails.of_run(self._run.tenant, self._run.id)
        names = ("recipient", "state", "attempts", "error")
        record = [
            {name: mail[name] for name in names} for mail in mails if mail["key"] == key
        ]
        return {**answer, "mails": record} if record else answer

    async def publish(
        self,
        key: str,
        form_definition: Mapping[str, Any],
        expires_at: float,
        mails: Sequence[FormMail] = (),
    ) -> Mapping[str, Any]:
        """Publish a form, queue its mails, and return its token and URL."""
        addressed = await self._delivery.addressed(self._run, mails)
        form_row = await self._forms.publish(
            self._run,
            key,
            secrets.token_urlsafe(24),
            dict(form_definition),
            expires_at,
            addressed,
        )
        # The id is a one-way hash of the token, so it does not give access to the form.
        return {
            "form_id": hashlib.sha256(form_row["token"].encode()).hexdigest()[:32],
            "form_token": form_row["token"],
            "form_url": f"{self._origin}/v1/form/human_input/{form_row['token']}",
            "expiration_time": form_row["expires_at"],
        }
