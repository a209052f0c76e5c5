"""The public page of a form: shown to whoever has the link of a mail, answered once.

A mail's token opens this form and nothing else. Opening the page changes nothing, since
mail programs and scanners follow links by themselves.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError
from modelyard.gateway.errors import error_headers, status_of
from modelyard.gateway.form_page.html_form import (
    FIELD,
    POLICY,
    form_page,
    notice_page,
    takes_files,
)
from modelyard.gateway.forms import Form, Upload, parse_form
from modelyard.gateway.http import Reply, Request, Scope
from modelyard.gateway.service.uploads import MAX_MB
from modelyard.people.sign_in_limits import Attempts, client_network
from modelyard.storage.files import FileStore
from modelyard.workflow.file_types import file_kind
from modelyard.workflow.form_answers import (
    FormAnswers,
    FormClosedError,
    FormExpiredError,
    OpenForm,
)
from modelyard.workflow.nodes.start import InputError

ANSWERS_A_MINUTE = 30
"""Number of answers per minute that one network may send to all forms."""
_FILE_TYPES = ("file", "file-list")
_HEADERS = {
    "content-security-policy": POLICY,
    # The address is the secret that opens the form.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-robots-tag": "noindex, nofollow",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class FormPages:
    """Handlers of the pages of all forms."""

    answers: FormAnswers
    files: FileStore
    address_of: Callable[[Scope], str]
    """Returns the client's address."""
    attempts: Attempts = field(default_factory=lambda: Attempts(ANSWERS_A_MINUTE, 60.0))

    async def show(self, request: Request) -> Reply:
        """GET /forms/TOKEN: return the page of a form, or a notice."""
        return await _as_page(self._show(request))

    async def submit(self, request: Request) -> Reply:
        """POST /forms/TOKEN: store the answer; return a notice, or the form again with
        what is wrong."""
        return await _as_page(self._submit(request))

    async def _show(self, request: Request) -> Reply:
        """Return the page with the form of a link in a mail."""
        form = await self.answers.by_mail_token(request.names["token"])
        return _reply(form_page(form.definition), 200)

    async def _submit(self, request: Request) -> Reply:
        """Store an answer. Raises ModelyardError."""
        # Counted before the token is looked at, so that guesses are counted too.
        self.attempts.take(client_network(self.address_of(request.scope)))
        token = request.names["token"]
        form = await self.answers.by_mail_token(token)
        submitted = parse_form(
            request.header(b"content-type") or "",
            await request.body(),
            error_message="Send the form as multipart/form-data",
            file=None,
        )
        answer = _Answer(form, submitted, _texts(submitted), _owner(token))
        try:
            await self._store_answer(answer)
        except (InvokeBadRequestError, InputError) as error:
            # Files cannot be filled in again by a page.
            page = form_page(
                form.definition, values=answer.texts, error=error.public_text
            )
            return _reply(page, 400)
        return _reply(notice_page("Thank you", "Your answer was received."), 200)

    async def _store_answer(self, answer: "_Answer") -> None:
        """Store the answer with its files; without an answer no file stays. Raises
        InvokeBadRequestError, InputError or FormClosedError."""
        form = answer.form
        try:
            await self.answers.submit(
                form,
                action=answer.submitted.fields.get("action", ""),
                inputs=await self._inputs(answer),
                user=form.recipient,
                owner=answer.owner,
            )
        # Also if another answer was faster: its files are the ones that count.
        except ModelyardError:
            for file_id in answer.file_ids:
                await self.files.remove(form.tenant, file_id)
            raise

    async def _inputs(self, answer: "_Answer") -> dict[str, Any]:
        """Return the submitted values by field, in the format of the service API. Raises
        InvokeBadRequestError."""
        definition = answer.form.definition
        texts = {
            field["output_variable_name"]: answer.texts.get(
                field["output_variable_name"]
            )
            for field in definition["inputs"]
            if field.get("type") not in _FILE_TYPES
        }
        inputs: dict[str, Any] = {
            name: text for name, text in texts.items() if text is not None
        }
        for file_field in definition["inputs"]:
            name, type_name = file_field["output_variable_name"], file_field.get("type")
            if type_name not in _FILE_TYPES:
                continue
            values = await self._file_values(answer, name, file_field)
            # A field that was left empty keeps its default.
            if values or name not in definition["resolved_default_values"]:
                inputs[name] = _file_value(type_name, values)
        return inputs

    async def _file_values(
        self, answer: "_Answer", name: str, file_field: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the file objects of a field; uploads are stored. Raises
        InvokeBadRequestError."""
        if not takes_files(file_field):
            return _remote_files(answer.texts.get(name, ""))
        uploads = answer.submitted.file_lists.get(FIELD + name, [])
        return [await self._stored(answer, upload) for upload in uploads]

    async def _stored(self, answer: "_Answer", upload: Upload) -> dict[str, Any]:
        """Store an uploaded file and return its file object. Raises
        InvokeBadRequestError if it is too large."""
        tenant = answer.form.tenant
        stored = await self.files.add(
            tenant,
            upload.filename,
            upload.data,
            owner=answer.owner,
        )
        # Noted before its size is checked, so that a refused file is removed too.
        answer.file_ids.append(stored.id)
        max_mb = MAX_MB[file_kind(stored.extension, stored.mime_type)]
        if stored.size > max_mb << 20:
            raise InvokeBadRequestError(
                f"File {stored.name!r} is larger than {max_mb} MB"
            )
        return {"transfer_method": "local_file", "upload_file_id": stored.id}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was submitted for a form."""

    form: OpenForm
    submitted: Form
    texts: Mapping[str, str]
    owner: str
    """The owner of the uploaded files."""
    file_ids: list[str] = field(default_factory=list[str])
    """Files that are stored by now."""


async def _as_page(work: Awaitable[Reply]) -> Reply:
    """Return a reply, or the page of its error."""
    try:
        return await work
    # Before FormClosedError, of which it is a special case.
    except FormExpiredError:
        text = "The time for an answer is over. You can close this page."
        return _reply(notice_page("This form has expired", text), 410)
    except FormClosedError:
        text = "The form was answered, or is no longer needed. You can close this page."
        return _reply(notice_page("This form is closed", text), 410)
    except NotFoundError:
        text = "The address is wrong, or the form was deleted."
        return _reply(notice_page("No such form", text), 404)
    except ModelyardError as error:
        status, _ = status_of(error)
        # Details of the server's own faults are not for the public.
        text = error.public_text if status < 500 else "Please try again later."
        page = notice_page("The form cannot be used", text)
        return Reply(page, status, _HTML, {**error_headers(error), **_HEADERS})


_HTML = b"text/html; charset=utf-8"


def _reply(page: bytes, status: int) -> Reply:
    """Return a page with its headers."""
    return Reply(page, status, _HTML, _HEADERS)


def _owner(token: str) -> str:
    """Return the owner of files that were uploaded with a form: nobody else has this
    name."""
    # Owners are stored as they are, but the token opens the form.
    return f"form-{hashlib.sha256(token.encode()).hexdigest()[:32]}"


def _texts(submitted: Form) -> dict[str, str]:
    """Return the entered texts by field."""
    return {
        # Browsers send line breaks as CRLF, whatever was entered.
        name.removeprefix(FIELD): value.replace("\r\n", "\n")
        for name, value in submitted.fields.items()
        if name.startswith(FIELD)
    }


def _remote_files(text: str) -> list[dict[str, Any]]:
    """Return the file objects of addresses, one per line."""
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return [{"transfer_method": "remote_url", "url": line} for line in lines if line]


def _file_value(type_name: str, values: list[dict[str, Any]]) -> Any:
    """Return the value of a field of files."""
    if type_name == "file-list":
        return values
    return values[0] if values else None
