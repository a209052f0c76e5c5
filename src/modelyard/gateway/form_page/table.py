"""Route table of the form pages: `/forms/TOKEN`, to which mails lead. The token is the
recipient's secret; no key and no session is needed."""

from collections.abc import Callable

from modelyard.gateway.form_page.page import FormPages
from modelyard.gateway.http import Scope
from modelyard.gateway.service.calls import ERROR_SHAPE
from modelyard.gateway.table import OWN_SECRET, Api, Content, Row
from modelyard.storage.files import FileStore
from modelyard.workflow.form_answers import FormAnswers


def api(
    answers: FormAnswers, files: FileStore, address_of: Callable[[Scope], str]
) -> Api:
    """Return the API of the form pages. `address_of` returns a client's address."""
    pages = FormPages(answers, files, address_of)
    path, page = "/forms/{token}", Content("text/html")
    rows = (
        Row(
            method="GET",
            path=path,
            auth=OWN_SECRET,
            handler=pages.show,
            answer=page,
            other_statuses=(404, 410, 503),
            summary="Get the page of a form.",
        ),
        Row(
            method="POST",
            path=path,
            auth=OWN_SECRET,
            handler=pages.submit,
            takes=Content("multipart/form-data"),
            answer=page,
            other_statuses=(400, 404, 410, 413, 429, 503),
            summary="Answer a form; the run that waits for it resumes.",
        ),
    )
    return Api(
        name="form_page",
        title="Form page",
        about="The public pages of forms that are sent by mail.",
        prefixes=("/forms",),
        errors=ERROR_SHAPE,
        rows=rows,
    )
