"""Tests for segments from CSV files: how files are read, and the jobs that add them."""

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.errors import (
    InvokeBadRequestError,
    InvokeServerUnavailableError,
    NotFoundError,
)
from modelyard.base.settings import Settings
from modelyard.cli import root
from modelyard.gateway.server import Gateway
from modelyard.knowledge.entities import (
    Dataset,
    DocForm,
    Document,
)
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.segment_imports import (
    JOBS_SCOPE,
    ImportJob,
    SegmentImports,
)
from modelyard.knowledge.segment_table import (
    RowError,
    SegmentRow,
    read_segment_table,
)
from modelyard.testing.knowledge import HashEmbedder

TEXT, QA = DocForm.TEXT, DocForm.QA


def read(text: str, form: DocForm = QA, **options: Any) -> list[tuple[str, str]]:
    rows, errors = read_segment_table(text.encode(), form, **options)
    assert errors == []
    return [(row.content, row.answer) for row in rows]


# ------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("content,answer\nA,B\n", [("A", "B")]),
        ("question,answer\nA,B", [("A", "B")]),
        # The names decide, whatever their order and case.
        ("id,Answer, Content \n1,B,A\n", [("A", "B")]),
        ("answer,x\nB,A\n", [("A", "B")]),
        # Unknown names, as of Dify's templates in other languages: the order decides.
        ("问题,回答\nA,B\n", [("A", "B")]),
        ("content;answer\nA;B,C\n", [("A", "B,C")]),
        ("content\tanswer\nA\tB\n", [("A", "B")]),
        ('content,answer\n"A\n""a""",B\n\n,\nC,D\n', [('A\n"a"', "B"), ("C", "D")]),
        ("\ufeffcontent,answer\r\nA,B\r\n", [("A", "B")]),
        ("content,answer\nA\0,B\n", [("A", "B")]),
    ],
)
def test_columns_are_found_by_name_or_order(text: str, expected: list[tuple[str, str]]):
    assert read(text) == expected


def test_a_file_without_a_header_has_content_and_answer():
    assert read("A,B\nC,D\n", has_header=False) == [("A", "B"), ("C", "D")]


def test_files_in_other_encodings_are_read_if_the_encoding_is_named():
    data = "content,answer\n退货,三十天\n".encode("gb18030")
    with pytest.raises(InvokeBadRequestError, match="is not UTF-8; save it as UTF-8"):
        read_segment_table(data, QA)
    rows, _ = read_segment_table(data, QA, encoding="GB18030")
    assert (rows[0].content, rows[0].answer) == ("退货", "三十天")
    rows, _ = read_segment_table("content\nÄ".encode("utf-16"), TEXT)
    assert rows[0].content == "Ä"
    with pytest.raises(InvokeBadRequestError, match="Unknown encoding 'klingon'"):
        read_segment_table(data, QA, encoding="klingon")


def test_rows_that_cannot_become_segments_are_named_by_their_line():
    text = 'content,answer\nA,\n"two\nlines",B\n ,C\n\nD,E\n'
    rows, errors = read_segment_table(text.encode(), QA)
    assert [(row.line, row.content) for row in rows] == [(3, "two\nlines"), (7, "D")]
    assert errors == [
        RowError(
            line=2,
            message=(
                "The answer is empty, which a document of questions and answers requires"
            ),
        ),
        RowError(line=5, message="The content is empty"),
    ]
    # Other documents need no answers.
    rows, errors = read_segment_table(text.encode(), TEXT)
    assert (len(rows), len(errors)) == (3, 1)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "The CSV file is empty"),
        (b"content,answer\n\n,\n", "has no rows below its header"),
        (b"content\n" + b"a\n" * 20_001, "more than 20,000 rows; split it"),
        (b"content\n" + b"a" * (10 << 20), "larger than 10 MB; split it"),
        (
            b'content\n"' + b"a" * 200_000 + b'"\n',
            "Line 2 of the CSV file cannot be read",
        ),
    ],
)
def test_a_file_that_is_not_usable_is_refused(data: bytes, problem: str):
    with pytest.raises(InvokeBadRequestError, match=problem):
        read_segment_table(data, TEXT)


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@given(st.lists(st.tuples(CELL, CELL), min_size=1), st.sampled_from(",;\t"))
def test_every_row_of_a_written_file_is_read_or_named(
    pairs: list[tuple[str, str]], delimiter: str
):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["content", "answer"])
    writer.writerows(pairs)
    expected = [pair for pair in pairs if pair[0].strip() or pair[1].strip()]
    try:
        rows, errors = read_segment_table(buffer.getvalue().encode(), QA)
    except InvokeBadRequestError:
        assert expected == []
        return
    usable = [pair for pair in expected if pair[0].strip() and pair[1].strip()]
    assert [(row.content, row.answer) for row in rows] == usable
    assert len(errors) == len(expected) - len(usable)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes):
    try:
        read_segment_table(data, TEXT, encoding="latin1")
    except InvokeBadRequestError as error:
        assert str(error)[0].isupper()


# ------------------------------------------------------------------------------- the jobs

Work = Callable[[Modelyard, Dataset, Document], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run a test with a dataset and an indexed document."""

    def go(work: Work, embedder: Any = None) -> None:
        async def run_work() -> None:
            settings = Settings(home=str(tmp_path))
            async with Modelyard(
                settings, environ={}, embedder=embedder or HashEmbedder()
            ) as yard:
                datasets = yard.knowledge.datasets
                dataset = await datasets.create("default", "shop")
                added = await datasets.add_chunks(
                    dataset, "faq", [DocumentPart(text="Start?", answer="Yes.")], QA
                )
                [document] = await datasets.wait(dataset, added.batch, timeout=60)
                await work(yard, dataset, document)

        asyncio.run(run_work())

    return go


def rows_of(count: int) -> list[SegmentRow]:
    return [
        SegmentRow(line=line, content=f"Question {line}?", answer=f"Answer {line}.")
        for line in range(2, count + 2)
    ]


async def finished(imports: SegmentImports, document: Document, id: str) -> ImportJob:
    async with asyncio.timeout(60):
        while True:
            job = await imports.find(document, id)
            if job.status in ("completed", "error"):
                return job
            await asyncio.sleep(0.01)


def test_the_rows_are_added_in_order_and_found(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        imports = yard.services.knowledge.imports
        refused = [RowError(line=400, message="The content is empty")]
        job = await imports.start(dataset, document, rows_of(120), refused)
        assert (job.status, job.total, job.added) == ("waiting", 121, 0)
        job = await finished(imports, document, job.id)
        assert (job.status, job.added, job.failed) == ("completed", 120, 1)
        assert (job.errors, job.error) == (refused, "")
        store = yard.knowledge.datasets.store
        segments, total = await store.segments.list_page(
            "default", document.id, limit=200
        )
        imported = segments[1:]
        assert total == len(segments)
        assert [segment.content for segment in imported] == [
            row.content for row in rows_of(120)
        ]
        retrieval = await yard.knowledge.datasets.search(
            "default", [dataset.id], "Question 77?"
        )
        assert "Question 77?" in [hit.segment.content for hit in retrieval.hits]

    run(work)


def fail_at_seventy(texts: Sequence[str]) -> None:
    if any("Question 70?" in text for text in texts):
        raise InvokeServerUnavailableError("The embedding model is away")


def test_a_job_that_cannot_go_on_says_how_far_it_came(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        imports = yard.services.knowledge.imports
        job = await imports.start(dataset, document, rows_of(120), [])
        job = await finished(imports, document, job.id)
        assert (job.status, job.added) == ("error", 50)
        assert job.error == (
            "The import stopped after 50 of 120 rows: The embedding model is away"
        )

    run(work, HashEmbedder(on_embed=fail_at_seventy))


def test_a_deleted_document_ends_its_import(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        imports = yard.services.knowledge.imports
        await yard.knowledge.datasets.delete_documents(dataset, [document.id])
        job = await imports.start(dataset, document, rows_of(3), [])
        job = await finished(imports, document, job.id)
        assert (job.status, job.added) == ("error", 0)
        assert "does not exist" in job.error

    run(work)


def test_a_job_whose_server_stopped_is_reported_as_such(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        store, datasets = yard.services.storage.scoped_store, yard.knowledge.datasets
        now = 1000.0
        imports = SegmentImports(store, datasets, lambda: now)
        job = await imports.create(document, rows_of(9), [])
        assert (await imports.find(document, job.id)).status == "waiting"
        # Nobody said for two minutes that it goes on.
        now += 121
        silent = await imports.find(document, job.id)
        assert (
            silent.error == "The import stopped after 0 of 9 rows: the server stopped"
        )
        with pytest.raises(NotFoundError, match="Import 'none' does not exist"):
            await imports.find(document, "none")
        # A server that stops in an orderly way says so itself.
        running = await imports.start(dataset, document, rows_of(500), [])
        await asyncio.sleep(0)
        await imports.aclose()
        stopped = await imports.find(document, running.id)
        assert (stopped.status, "the server stopped" in stopped.error) == (
            "error",
            True,
        )

    run(work)


def test_old_reports_are_deleted(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        services = yard.services
        imports = services.knowledge.imports
        job = await imports.create(document, rows_of(1), [])
        store = services.storage.scoped_store
        await store.forget(JOBS_SCOPE, services.clock.time() - 5)
        assert (await imports.find(document, job.id)).status == "waiting"
        await store.forget(JOBS_SCOPE, services.clock.time() + 5)
        with pytest.raises(NotFoundError):
            await imports.find(document, job.id)

    run(work)


# -------------------------------------------------------------------- the API, the command


def form(data: bytes, **fields: str) -> tuple[bytes, bytes]:
    """Return (content type, body) of a multipart form with a file."""
    parts = [
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        + data
        + b"\r\n"
    ]
    parts += [
        f'--x\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    return b"multipart/form-data; boundary=x", b"".join([*parts, b"--x--\r\n"])


async def ask(
    gateway: Gateway,
    method: str,
    path: str,
    content_type: bytes = b"application/json",
    body: bytes = b"",
) -> tuple[int, Any]:
    """Send a request and return (status, JSON)."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:8790"), (b"content-type", content_type)]
    await gateway(
        {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers, "client": ("127.0.0.1", 9)},
        receive,
        send,
    )  # fmt: skip
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(content)


def test_the_api_imports_and_reports(run: Any):
    async def work(yard: Modelyard, dataset: Dataset, document: Document) -> None:
        gateway = gateway_for(yard.services)
        path = (
            f"/v1/datasets/{dataset.id}/documents/{document.id}/segments/batch_import"
        )

        async def call(method: str, path: str, *upload: bytes) -> tuple[int, Any]:
            return await ask(gateway, method, path, *upload)

        data = b"question,answer\nWhen?,Now.\n,x\n"
        status, job = await call("POST", path, *form(data))
        assert (status, job["job_status"], job["total"]) == (200, "waiting", 2)
        for _ in range(500):
            status, job = await call("GET", f"{path}/{job['job_id']}")
            if job["job_status"] == "completed":
                break
            await asyncio.sleep(0.01)
        assert (status, job["added"], job["failed"], job["error"]) == (200, 1, 1, None)
        assert job["errors"] == [{"line": 3, "message": "The content is empty"}]
        for upload, problem in (
            (form(b""), "The CSV file is empty"),
            (form(data, encoding="x"), "Unknown encoding 'x'"),
            (form(data, has_header="maybe"), "'has_header' must be true or false"),
        ):
            status, refused = await call("POST", path, *upload)
            assert (status, problem in refused["message"]) == (400, True), refused
        status, missing = await call("GET", f"{path}/none")
        assert (status, missing["code"]) == (404, "not_found")

    run(work)


def test_the_command_imports_a_file(tmp_path: Path):
    home, file = tmp_path / "home", tmp_path / "rows.csv"
    text = tmp_path / "start.md"
    text.write_text("Start.")
    file.write_text("content\nQuays are long.\n\n \nShips are fast.\n")
    environment = {"MODELYARD_HOME": str(home)}

    def command(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(
            root, list(arguments), env=environment, standalone_mode=False
        )
        assert (result.return_value or 0) == status, result.output
        return result.output

    command("knowledge", "add", "notes", str(text), "--economy")
    shown = command("knowledge", "import-segments", "notes", "start.md", str(file))
    assert "added 2 of 2 rows" in shown
    assert "Ships are fast." in command("knowledge", "search", "notes", "fast ships")
    file.write_text("content,keywords\n,x\nOne.,y\n")
    shown = command(
        "knowledge",
        "import-segments",
        "notes",
        "start.md",
        str(file),
        "--json",
        status=1,
    )
    assert '"added": 1' in shown
    assert '"line": 2' in shown
    missing = CliRunner().invoke(
        root,
        ["knowledge", "import-segments", "notes", "none", str(file)],
        env=environment,
    )
    assert isinstance(missing.exception, NotFoundError)
