"""Files of callers and of servers: which ones an app accepts, what they are called, and
what type they really have."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.content_disposition import file_name_of, safe_name, shortened
from modelyard.base.errors import InvokeBadRequestError
from modelyard.storage.files import FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.transport.egress import EgressError, FetchedResponse
from modelyard.workflow.engine import Status
from modelyard.workflow.file_rules import rules_of_features
from modelyard.workflow.file_types import extension_of_content, named_by_type, real_kind
from modelyard.workflow.nodes.start import FormField, InputError
from modelyard.workflow.services import TenantFiles, form_value
from modelyard.workflow.variables import File
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

T = TypeVar("T")
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
PDF = b"%PDF-1.7\n%..."


class StubEgress:
    """Servers that answer with the given status, headers and content."""

    def __init__(self, **answers: tuple[int, Mapping[str, str], bytes]) -> None:
        self.answers = answers
        self.methods: list[str] = []

    def _answer(self, method: str) -> tuple[int, Mapping[str, str], bytes]:
        self.methods.append(method)
        if method not in self.answers:
            raise EgressError("connection refused")
        return self.answers[method]

    async def fetch(self, method: str, url: str, **options: Any) -> FetchedResponse:
        del options
        status, headers, body = self._answer(method)
        return FetchedResponse(
            status=status,
            headers=headers,
            body=b"" if method == "HEAD" else body,
            url=url,
        )

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        del options
        status, headers, body = self._answer(method)
        yield StubStream(status, headers, body, url)


class StubStream:
    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, url: str
    ) -> None:
        self.status, self.headers, self.url = status, headers, url
        self._body = body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(self._body), 10):
            yield self._body[start : start + 10]


class Keeper:
    """A tenant's files in a folder."""

    def __init__(self, folder: Path, egress: StubEgress | None = None) -> None:
        self.store = FileStore(LocalFileStorage(folder), lambda data: "signature")
        self.files = TenantFiles(self.store, egress, "default", "http://x")  # pyright: ignore[reportArgumentType]

    def upload(self, name: str, data: bytes, declared: str = "") -> dict[str, Any]:
        stored = asyncio.run(self.store.add("default", name, data))
        value = {"transfer_method": "local_file", "upload_file_id": stored.id}
        return {**value, "type": declared} if declared else value

    def form(self, value: Any, **field: Any) -> Any:
        kind = "file-list" if isinstance(value, list) else "file"
        form_field = FormField(variable="doc", type=kind, **field)
        return run(form_value(self.files, form_field, value))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path)


# ---------------------------------------------------------------------- restrictions

DOCUMENTS = {"allowed_file_types": ["document"]}


@pytest.mark.parametrize(
    ("name", "data", "declared", "field"),
    [
        pytest.param("a.png", PNG, "image", DOCUMENTS, id="image for document"),
        pytest.param("a.png", PNG, "custom", DOCUMENTS, id="image declared as custom"),
        pytest.param("a.txt", PNG, "document", DOCUMENTS, id="image named as text"),
        pytest.param("a.pdf", b"no pdf", "document", DOCUMENTS, id="text named as PDF"),
        pytest.param("a.exe", b"MZ", "custom", DOCUMENTS, id="program for document"),
        pytest.param("a.pdf", PDF, "", {"allowed_file_types": ["image"]}, id="PDF for image"),
        pytest.param(
            "a.exe", b"MZ", "custom",
            {"allowed_file_types": ["custom"], "allowed_file_extensions": [".zip"]},
            id="extension",
        ),
        pytest.param(
            "a.txt", b"text", "document",
            {"allowed_file_upload_methods": ["remote_url"]},
            id="upload where only addresses are allowed",
        ),
        pytest.param(
            "a.txt", b"text", "document", {"allowed_file_extensions": ["PDF"]},
            id="extension without a type",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_list", [False, True])
def test_a_form_refuses_files_that_it_does_not_allow(
    keeper: Keeper,
    name: str,
    data: bytes,
    declared: str,
    field: dict[str, Any],
    is_list: bool,
):
    value = keeper.upload(name, data, declared)
    with pytest.raises(InputError, match="File validation failed"):
        keeper.form([value] if is_list else value, **field)


@pytest.mark.parametrize(
    ("name", "data", "declared", "field"),
    [
        ("a.txt", b"text", "document", DOCUMENTS),
        ("a.pdf", PDF, "", DOCUMENTS),
        ("a.txt", b"text", "custom", DOCUMENTS),
        ("a.png", PNG, "image", {"allowed_file_types": ["document", "image"]}),
        ("a.ZIP", b"PK\x03\x04", "custom", {"allowed_file_types": ["document", "custom"], "allowed_file_extensions": ["zip"]}),
        ("a.exe", b"MZ", "custom", {"allowed_file_types": ["custom"]}),
        ("a.exe", b"MZ", "custom", {}),
        ("a.txt", b"text", "", {"allowed_file_upload_methods": ["local_file"]}),
        # Editors leave the extensions of images in forms for other types.
        ("a.txt", b"text", "", {**DOCUMENTS, "allowed_file_extensions": [".JPG"]}),
    ],
)  # fmt: skip
def test_a_form_accepts_the_files_that_it_allows(
    keeper: Keeper, name: str, data: bytes, declared: str, field: dict[str, Any]
):
    value = keeper.upload(name, data, declared)
    assert keeper.form(value, **field)["filename"] == name


FEATURES = {
    "file_upload": {
        "enabled": True,
        "allowed_file_types": ["image", "document"],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "number_limits": 2,
        "image": {
            "enabled": True,
            "number_limits": 1,
            "transfer_methods": ["local_file"],
        },
    }
}
OLD_FEATURES = {
    "file_upload": {
        "image": {
            "enabled": True,
            "number_limits": 1,
            "transfer_methods": ["local_file"],
        }
    }
}


@pytest.mark.parametrize(
    ("features", "names", "message"),
    [
        (FEATURES, ["a.mp3"], "of type audio, only document, image is allowed"),
        (FEATURES, ["a.txt", "b.txt", "c.txt"], "3 files, at most 2"),
        (FEATURES, ["a.png", "b.png"], "2 images, at most 1"),
        (OLD_FEATURES, ["a.txt"], "only image is allowed"),
        (OLD_FEATURES, ["a.png", "b.png"], "2 files, at most 1"),
        (FEATURES, ["a.png", "b.txt"], ""),
        ({}, ["a.exe"] * 9, ""),
        ({"file_upload": {"enabled": False}}, ["a.exe"], ""),
        ({"file_upload": "odd"}, ["a.exe"], ""),
    ],
)
def test_a_chat_has_restrictions_too(
    keeper: Keeper, features: dict[str, Any], names: list[str], message: str
):
    values = [
        keeper.upload(name, PNG if name.endswith("png") else b"text") for name in names
    ]
    work = keeper.files.parse_files(values, rules_of_features(features))
    if not message:
        assert len(run(work)) == len(names)
        return
    with pytest.raises(InputError, match=message):
        run(work)


def test_addresses_of_images_have_their_own_restriction(tmp_path: Path):
    egress = StubEgress(HEAD=(200, {"content-type": "image/png"}, b""))
    keeper = Keeper(tmp_path, egress)
    value = {"transfer_method": "remote_url", "url": "http://x.example/a.txt"}
    with pytest.raises(InputError, match="sent as remote_url, only local_file"):
        run(keeper.files.parse_files([value], rules_of_features(FEATURES)))


# ---------------------------------------------------------------------- remote files

REMOTE = {"transfer_method": "remote_url", "url": "http://x.example/download?id=7"}
CSV = (
    200,
    {"content-type": "text/csv; charset=utf-8", "content-length": "9"},
    b"a,b\n1,2\n",
)
NAMED = {"content-disposition": "attachment; filename*=UTF-8''%E5%AD%A3.xlsx"}
UNTYPED = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("answers", "name", "kind", "extension"),
    [
        pytest.param({"HEAD": CSV}, "download.csv", "document", ".csv", id="HEAD"),
        pytest.param(
            {"HEAD": (405, {}, b""), "GET": CSV}, "download.csv", "document", ".csv",
            id="HEAD is refused",
        ),
        pytest.param({"GET": CSV}, "download.csv", "document", ".csv", id="HEAD breaks off"),
        pytest.param(
            {"HEAD": (200, NAMED, b"")}, "季.xlsx", "document", ".xlsx", id="name"
        ),
        pytest.param(
            {"HEAD": (200, UNTYPED, b""), "GET": (200, UNTYPED, PDF)},
            "download.pdf", "document", ".pdf", id="content",
        ),
        pytest.param(
            {"HEAD": (200, {"content-type": "image/png"}, b"")},
            "download.png", "image", ".png", id="image",
        ),
        pytest.param({}, "download", "custom", "", id="no answer"),
        pytest.param(
            {"HEAD": (404, {}, b""), "GET": (404, {"content-type": "text/html"}, b"")},
            "download", "custom", "", id="error page",
        ),
    ],
)  # fmt: skip
def test_a_remote_file_is_what_its_server_says(
    tmp_path: Path, answers: dict[str, Any], name: str, kind: str, extension: str
):
    keeper = Keeper(tmp_path, StubEgress(**answers))
    file = run(keeper.files.parse_file(REMOTE))
    assert (file.filename, file.type, file.extension) == (name, kind, extension)


def test_a_remote_file_with_a_telling_name_needs_no_request(tmp_path: Path):
    egress = StubEgress()
    file = run(
        Keeper(tmp_path, egress).files.parse_file(
            {"type": "document", "url": "http://x.example/a%20b.csv?x=1"}
        )
    )
    assert (file.filename, file.extension, egress.methods) == ("a b.csv", ".csv", [])


def test_the_real_type_of_a_remote_file_decides(tmp_path: Path):
    egress = StubEgress(HEAD=(200, {"content-type": "image/png"}, b""))
    keeper = Keeper(tmp_path, egress)
    value = {"type": "document", "transfer_method": "remote_url", "url": "http://x.example/a.pdf"}  # fmt: skip
    with pytest.raises(InputError, match="of type image"):
        keeper.form(value, **DOCUMENTS)
    value = {**value, "type": "document", "url": REMOTE["url"]}
    with pytest.raises(InvokeBadRequestError, match="is of type image, not document"):
        run(keeper.files.parse_file(value))


def test_a_server_that_says_nothing_leaves_the_callers_word(tmp_path: Path):
    file = run(
        Keeper(tmp_path, StubEgress()).files.parse_file({**REMOTE, "type": "image"})
    )
    assert file.type == "image"


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        (File(type="document", related_id="f", mime_type="text/csv"), b"a,b\n1,2\n", "| a | b |"),
        (File(type="custom", related_id="f"), b"plain text", "plain text"),
        (File(type="custom", related_id="f"), b"<!DOCTYPE html><p>page</p>", "page"),
    ],
)  # fmt: skip
def test_the_extractor_reads_files_without_an_extension(
    bench: Bench, file: File, content: bytes, text: str
):
    bench.files.contents["f"] = content
    app = app_of(
        {
            "start": {"type": "start"},
            "x": {"type": "document-extractor", "variable_selector": ["sys", "files"]},
            "end": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["x", "text"]}]},
        },
        ["start > x", "x > end"],
    )  # fmt: skip
    outcome, _ = bench.run(app, files=[file])
    assert outcome.status is Status.SUCCEEDED, outcome.error
    assert text in outcome.outputs["r"][0]


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (b"PK\x03\x04..word/document.xml", ".docx"),
        (b"PK\x03\x04..xl/workbook.xml", ".xlsx"),
        (b"PK\x03\x04..other", ""),
        (PDF, ".pdf"),
        (b"\0\1\2", ""),
        (b"", ""),
    ],
)
def test_documents_are_recognised_by_their_content(data: bytes, extension: str):
    assert extension_of_content(data) == extension


def test_the_real_kind_is_that_of_the_content():
    assert real_kind(".txt", "text/plain", PNG) == "image"
    assert real_kind(".png", "image/png", b"<script>") == "custom"
    assert real_kind(".png", "image/png", b"") == "image"
    assert real_kind("", "audio/unheard-of", b"") == "audio"


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment; filename*=UTF-8''%E5%AD%A3%E5%BA%A6.xlsx", "季度.xlsx"),
        ('attachment; filename="a;b.csv"', "a;b.csv"),
        ('attachment; filename="a\\"b.csv"', 'a"b.csv'),
        ("attachment; filename=plain.csv; size=3", "plain.csv"),
        ("attachment; filename=\"old.csv\"; filename*=UTF-8''new%20name.csv", "new name.csv"),
        ("attachment; filename*=utf-8'en'x.csv; filename=y.csv", "x.csv"),
        ("attachment; filename*=GB2312''%BC%BE.csv", "季.csv"),
        ("attachment; filename*=punycode''a-b.csv; filename=y.csv", "a-b.csv"),
        ("attachment; filename*=UTF-8''%FF%FE.csv; filename=y.csv", "y.csv"),
        ("ATTACHMENT; FileName = 'a.csv'", "'a.csv'"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\dir\\\\a.csv"', "a.csv"),
        ('attachment; filename="a\tb\x7f\u202e.csv"', "ab.csv"),
        ('attachment; filename=".."', ""),
        ("attachment; filename*0=\"long-\"; filename*1=\"name.csv\"", "long-name.csv"),
        ('attachment; filename="=?UTF-8?B?5a2jLmNzdg==?="', "季.csv"),
        ('attachment; filename="å\xad£.csv"', "季.csv"),
        ("inline", ""),
        ("", ""),
        ('attachment; filename="', ""),
    ],
)  # fmt: skip
def test_names_in_content_disposition(header: str, name: str):
    assert file_name_of(header) == name


@given(st.text(max_size=300))
def test_a_name_never_leads_out_of_its_folder(text: str):
    for name in (safe_name(text), file_name_of(f'attachment; filename="{text}"')):
        assert "/" not in name
        assert "\\" not in name
        assert name not in (".", "..")
        assert len(name) <= 200
        assert not any(char < " " or char == "\x7f" for char in name)


def test_a_long_name_keeps_its_extension():
    assert shortened("a" * 300 + ".csv", 200) == "a" * 196 + ".csv"
    assert shortened("a" * 300, 200) == "a" * 200
    assert named_by_type("report", "text/csv") == "report.csv"
    assert named_by_type("report.txt", "text/csv") == "report.txt"


def test_an_http_node_names_its_file_by_the_header(bench: Bench):
    bench.http.answers.append(
        (".", 200, {"content-type": "application/zip", "content-disposition": 'attachment; filename="a;b.zip"'}, b"PK")
    )  # fmt: skip
    app = app_of(
        {"start": {"type": "start"}, "h": {"type": "http-request", "method": "get", "url": "http://x.example/disp"}},
        ["start > h"],
    )  # fmt: skip
    _, events = bench.run(app)
    [file] = events[-2].outputs["files"]  # type: ignore[union-attr]
    assert (file["filename"], file["extension"]) == ("a;b.zip", ".zip")
