"""What people submit with human-input forms: texts, options, and files by the rules of
all files."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.workflow.file_rules import rules_of_field, rules_of_input
from modelyard.workflow.form_inputs import checked_inputs
from modelyard.workflow.nodes.start import FormField, InputError
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.variables import FILE_MARK, File, from_object

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
FIELDS = [
    {"type": "select", "output_variable_name": "kind", "options": ["letter", "note"]},
    {"type": "paragraph", "output_variable_name": "why"},
    {
        "type": "file",
        "output_variable_name": "proof",
        "allowed_file_types": ["image", "custom"],
        "allowed_file_extensions": ["CAD"],
        "allowed_file_upload_methods": ["local_file"],
    },
    {"type": "file-list", "output_variable_name": "annexes", "number_limits": 2},
]


class Uploads:
    """The uploads of a person in a folder."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(LocalFileStorage(folder), lambda data: "signature")
        self.files = TenantFiles(self.store, None, "default", "http://x", "ada")

    def add(self, name: str, data: bytes, owner: str = "ada") -> dict[str, Any]:
        stored = asyncio.run(self.store.add("default", name, data, owner=owner))
        return {"transfer_method": "local_file", "upload_file_id": stored.id}

    def submit(self, **inputs: Any) -> dict[str, Any]:
        return asyncio.run(checked_inputs(FIELDS, inputs, self.files))


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"kind": "poem"}, "'kind' must be one of letter, note, not 'poem'"),
        ({"kind": ["note"]}, "'kind' must be a text"),
        # An object with the mark of a file would reach the run as that file.
        ({"why": {"dify_model_identity": FILE_MARK, "related_id": "x"}}, "must be a text"),
        ({"proof": "x"}, "A file must be an object"),
        ({"annexes": {"type": "image"}}, "'annexes' must be a list of files"),
        (
            {"proof": {"transfer_method": "remote_url", "url": "http://x.example/a.png"}},
            "was sent as remote_url, only local_file is allowed",
        ),
    ],
)  # fmt: skip
def test_a_form_refuses_what_it_does_not_offer(
    uploads: Uploads, inputs: dict[str, Any], error: str
):
    with pytest.raises((InvokeBadRequestError, InputError), match=re.escape(error)):
        uploads.submit(**inputs)


def test_a_form_refuses_files_that_it_does_not_allow(uploads: Uploads):
    program, image = uploads.add("a.exe", b"MZ"), uploads.add("a.png", PNG)
    with pytest.raises(InputError, match=r"of type custom, only \.cad, image"):
        uploads.submit(proof=program)
    # The content decides, whatever name and caller say.
    with pytest.raises(InputError, match="of type custom"):
        uploads.submit(proof={**uploads.add("b.png", b"MZ"), "type": "image"})
    with pytest.raises(InputError, match="3 files, at most 2"):
        uploads.submit(annexes=[image] * 3)
    with pytest.raises(InvokeBadRequestError, match="not found"):
        uploads.submit(proof=uploads.add("a.png", PNG, owner="bob"))


def test_submitted_files_become_files_of_the_run(uploads: Uploads):
    drawing, image = uploads.add("a.Cad", b"drawing"), uploads.add("a.png", PNG)
    checked = uploads.submit(kind="note", proof=drawing, annexes=[image], other=1)
    values = from_object(checked)
    assert list(values) == ["kind", "proof", "annexes"]
    assert isinstance(values["proof"], File)
    assert (values["proof"].filename, values["proof"].related_id) == (
        "a.Cad",
        drawing["upload_file_id"],
    )
    assert [file.type for file in values["annexes"]] == ["image"]


def test_fields_that_were_left_empty_stay_empty(uploads: Uploads):
    empty = {"kind": None, "proof": None, "annexes": []}
    assert uploads.submit(**empty) == empty


@pytest.mark.parametrize("types", [[], ["document"], ["custom"], ["image", "custom"]])
@pytest.mark.parametrize("extensions", [[], ["CAD"], [".cad", "zip"]])
def test_start_forms_and_human_input_forms_have_the_same_rules(
    types: list[str], extensions: list[str]
):
    declaration = {
        "allowed_file_types": types,
        "allowed_file_extensions": extensions,
        "allowed_file_upload_methods": ["local_file"],
    }
    field = FormField(variable="doc", type="file", **declaration)
    assert rules_of_field(field) == rules_of_input({"type": "file", **declaration})
