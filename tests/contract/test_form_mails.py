"""Contract tests for the mails of forms: stored with their form, sent at least once over
crashes, retried, and never for a form that is closed."""

import asyncio
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest

from modelyard.base.errors import ModelyardError
from modelyard.base.ids import new_id
from modelyard.storage.database import Database
from modelyard.testing import FakeClock
from modelyard.workflow.engine import Status
from modelyard.workflow.form_answers import (
    FormAnswers,
    FormClosedError,
    FormExpiredError,
)
from modelyard.workflow.form_mail import FormMail
from modelyard.workflow.journal import DatabaseJournal, RunRecord
from modelyard.workflow.mail_delivery import MailDelivery, MailSetup, Member
from modelyard.workflow.runs import Runs

SETUP = MailSetup(
    sender="forms@yard.test", base_url="https://yard.test", step_seconds=10.0
)
MEMBERS = [Member(id="acct-1", email="ada@shop.test"), Member(id="acct-2", email="bob@shop.test")]  # fmt: skip


class Refusal(ModelyardError):
    def __init__(self, message: str, *, is_permanent: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class Office:
    """Runs with forms, and deliveries of several processes at one database."""

    def __init__(self, database: Database) -> None:
        self.clock = FakeClock()
        self.database = database
        self.journal = DatabaseJournal(database, self.clock.time)
        self.setup = SETUP
        self.sent: list[EmailMessage] = []
        self.failures: list[BaseException] = []
        self.form_seconds = 3600.0
        self.delivery = self.process()

    def process(self) -> MailDelivery:
        async def send(message: EmailMessage) -> None:
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
            self.sent.append(message)

        async def members_of(tenant: str) -> Sequence[Member]:
            return MEMBERS if tenant == "t" else []

        return MailDelivery(
            self.journal.forms.mails, lambda: self.setup, send, members_of, self.clock.time
        )  # fmt: skip

    async def end(self, run: RunRecord) -> None:
        """Record the end of a run that waits."""
        resumed = await self.journal.resume(run)
        assert resumed is not None
        await self.journal.settle(msgspec.structs.replace(run, epoch=resumed.epoch))

    async def form(self, *mails: FormMail, **fields: Any) -> RunRecord:
        run = RunRecord(
            tenant="t", id=new_id("run"), app="a", status=Status.PAUSED,
            created_at=self.clock.now, **fields,
        )  # fmt: skip
        await self.journal.create(run)
        await self.journal.settle(run, [])
        addressed = await self.delivery.addressed(run, mails)
        await self.journal.forms.publish(
            run, "ask", new_id("tok"), {}, self.clock.now + self.form_seconds, addressed
        )
        return run

    async def page_error(self, run: RunRecord) -> type[ModelyardError]:
        """Return the error of the page to which a run's mail leads."""
        runs = Runs(self.journal, self._nothing, self._nothing, clock=self.clock.time)
        answers = FormAnswers(runs, self._nothing, self.clock.time)
        with pytest.raises(ModelyardError) as caught:
            await answers.by_mail_token(await self._token(run))
        return type(caught.value)

    async def _token(self, run: RunRecord) -> str:
        (token,) = await self.database.fetch(
            "SELECT token FROM form_mails WHERE run = :run", {"run": run.id}
        )
        return token["token"]

    @staticmethod
    def _nothing(*arguments: Any) -> Any:
        raise AssertionError(f"Not needed: {arguments}")

    async def record(self, run: RunRecord) -> list[tuple[str, str, int, str]]:
        mails = await self.journal.forms.mails.of_run(run.tenant, run.id)
        names = ("recipient", "state", "attempts", "error")
        return [tuple(mail[name] for name in names) for mail in mails]  # type: ignore[misc]


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    database = Database(database_url)
    yield Office(database)
    database.close()


def mail(*addresses: str, **fields: Any) -> FormMail:
    return FormMail(subject="Approve", body=["See ", None], addresses=list(addresses), **fields)  # fmt: skip


def test_each_recipient_gets_one_mail_with_a_link_of_its_own(office: Office):
    async def work() -> None:
        run = await office.form(
            mail("Ada@Shop.test", "eve@out.test", members=["acct-2", "unknown"]),
            mail(is_for_everyone=True),
        )
        while await office.delivery.send_due():
            pass
        assert [row[:3] for row in await office.record(run)] == [
            ("ada@shop.test", "sent", 1),
            ("bob@shop.test", "sent", 1),
            ("eve@out.test", "sent", 1),
        ]
        # Another tenant's record has none of it.
        assert await office.journal.forms.mails.of_run("other", run.id) == []

    asyncio.run(work())
    assert sorted(message["To"] for message in office.sent) == [
        "ada@shop.test",
        "bob@shop.test",
        "eve@out.test",
    ]
    links = {
        message.get_body(("plain",)).get_content().strip() for message in office.sent
    }  # type: ignore[union-attr]
    assert len(links) == 3
    assert all(link.startswith("See https://yard.test/forms/") for link in links)


def test_several_processes_send_a_mail_once(office: Office):
    async def work() -> None:
        await office.form(mail(*(f"p{number}@out.test" for number in range(8))))
        processes = [office.process() for _ in range(4)]
        await asyncio.gather(*(process.send_due() for process in processes))

    asyncio.run(work())
    assert len(office.sent) == 8


def test_a_crash_while_sending_repeats_the_same_mail(office: Office):
    async def work() -> None:
        run = await office.form(mail("ada@shop.test"))
        await office.delivery.send_due()
        first = office.sent[0]
        # The process ends after the mail was accepted and before that is noted.
        second_run = await office.form(mail("bob@shop.test"))
        office.failures.append(asyncio.CancelledError())
        with pytest.raises(asyncio.CancelledError):
            await office.delivery.send_due()
        survivor = office.process()
        await survivor.send_due()
        assert len(office.sent) == 1
        office.clock.advance(81)
        await survivor.send_due()
        assert [row[1:3] for row in await office.record(second_run)] == [("sent", 2)]
        assert [row[1:3] for row in await office.record(run)] == [("sent", 1)]
        assert office.sent[1]["Message-ID"] != first["Message-ID"]

    asyncio.run(work())


def test_failures_are_retried_with_longer_pauses_and_recorded(office: Office):
    async def work() -> None:
        office.form_seconds = 1e9
        run = await office.form(mail("ada@shop.test", "bad@out.test"))
        office.failures += [
            Refusal("451 later"),
            Refusal("550 unknown", is_permanent=True),
        ]
        await office.delivery.send_due()
        states = {row[1:] for row in await office.record(run)}
        assert states == {("waiting", 1, "451 later"), ("failed", 1, "550 unknown")}
        pauses: list[float] = []
        for _ in range(9):
            office.failures.append(Refusal("451 later"))
            waited = 0.0
            while not await office.delivery.send_due():
                office.clock.advance(10)
                waited += 10
            pauses.append(waited)
        assert pauses[:4] == [30, 60, 120, 240]
        assert max(pauses) <= 3600

    asyncio.run(work())


def test_no_mail_is_sent_for_a_form_that_is_closed(office: Office):
    async def work() -> None:
        answered = await office.form(mail("ada@shop.test"))
        row = await office.journal.forms.of_step(answered.id, "ask")
        assert row is not None
        assert await office.journal.forms.fill(row["token"], {"action": "ok"})
        stopped = await office.form(mail("ada@shop.test"))
        ended = msgspec.structs.replace(stopped, status=Status.STOPPED, finished_at=1.0)
        await office.end(ended)
        pages = [await office.page_error(run) for run in (answered, stopped)]
        assert pages == [FormClosedError, FormClosedError]
        expired = await office.form(mail("ada@shop.test"))
        office.clock.advance(3601)
        assert await office.page_error(expired) is FormExpiredError
        while await office.delivery.send_due():
            pass
        for run in (answered, stopped, expired):
            assert [row[1] for row in await office.record(run)] == ["unneeded"]
        # An expired form takes no answer, even before it is marked.
        row = await office.journal.forms.of_step(expired.id, "ask")
        assert row is not None
        assert await office.journal.forms.fill(row["token"], {"action": "ok"}) is None

    asyncio.run(work())
    assert office.sent == []


def test_what_keeps_a_mail_from_being_sent_is_recorded(office: Office):
    async def work() -> None:
        office.setup = msgspec.structs.replace(SETUP, problem="Mail is not set up")
        hostile = "a@x.test\r\nBcc: b@x.test"
        run = await office.form(mail("ada@shop.test", hostile, "a@x.test, b@x.test"))
        assert await office.delivery.send_due() == 0
        by_recipient = {row[0]: row[1:] for row in await office.record(run)}
        assert by_recipient["ada@shop.test"] == ("waiting", 0, "Mail is not set up")
        assert by_recipient[hostile][0] == "failed"
        assert "Invalid email address" in by_recipient["a@x.test, b@x.test"][2]
        # It is sent once mail is set up, since the form still waits.
        office.setup = SETUP
        await office.delivery.send_due()

    asyncio.run(work())
    assert [message["To"] for message in office.sent] == ["ada@shop.test"]


def test_a_test_run_mails_only_the_person_who_tests(office: Office):
    async def work() -> None:
        debugged = mail("ada@shop.test", is_debugged=True)
        await office.form(debugged, created_from="console", user="dev@yard.test")
        await office.form(debugged, created_from="console", user="operator")
        await office.form(debugged, created_from="service-api", user="dev@yard.test")
        await office.delivery.send_due()

    asyncio.run(work())
    assert sorted(message["To"] for message in office.sent) == [
        "ada@shop.test",
        "dev@yard.test",
    ]


def test_the_mails_of_old_runs_are_deleted(office: Office):
    async def work() -> None:
        run = await office.form(mail("ada@shop.test"))
        ended = msgspec.structs.replace(run, status=Status.STOPPED, finished_at=1.0)
        await office.end(ended)
        await office.journal.delete_ended_before(2.0)
        assert await office.record(run) == []

    asyncio.run(work())
