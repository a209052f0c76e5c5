"""Answers to human-input forms: by the service API, by other agents, and on the page to
which a mail leads. All of them have the same rules."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.storage.database import Row
from modelyard.workflow.form_inputs import FileParser, checked_inputs
from modelyard.workflow.runs import Runs


class FormClosedError(ModelyardError):
    """A form takes no answer any more."""

    code = "human_input_form_submitted"
    status = 412


class FormExpiredError(FormClosedError):
    """The time for an answer is over."""

    code = "human_input_form_expired"


class OpenForm(msgspec.Struct, frozen=True, kw_only=True):
    """A form that waits for its answer."""

    tenant: str
    run: str
    token: str
    """The token of the service API; a mail has a token of its own."""
    definition: dict[str, Any]
    """form_content, inputs, actions and resolved_default_values."""
    expires_at: float
    recipient: str = ""
    """The address of the mail whose token was used; empty without one."""


class FormAnswers:
    """Finds open forms and stores one answer for each."""

    def __init__(
        self,
        runs: Runs,
        files_of: Callable[[str, str], FileParser],
        clock: Callable[[], float],
    ) -> None:
        """`files_of` returns the files of a tenant's user."""
        self._runs = runs
        self._files_of = files_of
        self._now = clock

    async def find(self, tenant: str, token: str) -> Row:
        """Return a tenant's form by its token of the service API, open or not. Raises
        NotFoundError."""
        row = await self._runs.journal.forms.by_token(token)
        # A token of another tenant is treated as unknown.
        if row is None or row["tenant"] != tenant:
            raise NotFoundError("The form does not exist")
        return row

    async def by_mail_token(self, token: str) -> OpenForm:
        """Return the open form to which a mail leads. Raises NotFoundError, or
        FormClosedError: also if the run has ended, since nobody would read the answer.
        """
        row = await self._runs.journal.forms.mails.form_by_token(token)
        if row is None:
            raise NotFoundError("The form does not exist")
        form = self.opened(row)
        # A stopped run keeps its open forms until it is deleted.
        run = await self._runs.find(form.tenant, form.run)
        if run.status.is_over:
            raise FormClosedError("The form is no longer needed")
        return form

    def opened(self, row: Row) -> OpenForm:
        """Return a form that is still open. Raises FormClosedError."""
        # An expired form is stored with an answer of its own, a little after its time.
        text = row["answer"]
        answer: dict[str, Any] = msgspec.json.decode(text) if text else {}
        if "expired" in answer or (not answer and row["expires_at"] <= self._now()):
            raise FormExpiredError("The form has expired")
        if answer:
            raise FormClosedError("The form was already submitted")
        return OpenForm(
            tenant=row["tenant"],
            run=row["run"],
            token=row["token"],
            definition=msgspec.json.decode(row["body"]),
            expires_at=row["expires_at"],
            recipient=dict(row).get("recipient") or "",
        )

    async def submit(
        self,
        form: OpenForm,
        *,
        action: str,
        inputs: Mapping[str, Any],
        user: str,
        owner: str = "",
    ) -> None:
        """Store an answer and resume the run. `owner` is the user who has uploaded its
        files, if that is not `user`.

        Raises InvokeBadRequestError or InputError for an answer that the form does not
        allow, and FormClosedError if another answer was faster.
        """
        answer = {
            "inputs": await self._checked(form, inputs, owner or user),
            "action": _checked_action(form, action),
            "user": user,
        }
        # `fill` is atomic: of two simultaneous answers, one gets None.
        if await self._runs.journal.forms.fill(form.token, answer) is None:
            raise FormClosedError("The form was already submitted")
        await self._runs.resume_soon(form.tenant, form.run)

    async def _checked(
        self, form: OpenForm, inputs: Mapping[str, Any], owner: str
    ) -> dict[str, Any]:
        """Return the inputs over the form's defaults, with their files resolved. Raises
        InvokeBadRequestError or InputError."""
        fields = form.definition["inputs"]
        files = self._files_of(form.tenant, owner)
        checked = await checked_inputs(fields, inputs, files)
        # Defaults come from the run itself, and need no check.
        filled = {**form.definition["resolved_default_values"], **checked}
        # A field may be empty, but it must have been shown to the person.
        names = [field["output_variable_name"] for field in fields]
        lacking = [name for name in names if name not in filled]
        if lacking:
            raise InvokeBadRequestError(f"Missing inputs: {', '.join(lacking)}")
        return filled


def _checked_action(form: OpenForm, action: str) -> str:
    """Return the chosen action. Raises InvokeBadRequestError if the form does not offer
    it."""
    actions = [offered["id"] for offered in form.definition["actions"]]
    if action not in actions:
        raise InvokeBadRequestError(
            f"'action' must be one of {', '.join(actions)}, not {action[:40]!r}"
        )
    return action
