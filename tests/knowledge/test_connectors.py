"""Connectors: each source against a played server or a real folder. First pass, change,
deletion, permissions, interruption and going on."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.access import AccessList, list_of_principals
from modelyard.knowledge.connectors.base import (
    AccessRules,
    ItemError,
    Source,
    SourceError,
    SourceItem,
    SourcePage,
    parse_rules,
)
from modelyard.knowledge.connectors.confluence import ConfluenceSource
from modelyard.knowledge.connectors.folder import FolderSource
from modelyard.knowledge.connectors.s3 import S3Credentials, S3Source
from modelyard.knowledge.connectors.sync import StoredDocument, SyncReport
from modelyard.knowledge.connectors.sync import _gone as keys_gone  # pyright: ignore[reportPrivateUsage]
from modelyard.knowledge.entities import Dataset, Technique
from modelyard.testing import Answer, Upstream, json_answer
from modelyard.testing.confluence import TOKEN, USER, PlayedConfluence, PlayedPage
from modelyard.testing.s3 import ACCESS_KEY, SECRET_KEY, PlayedS3
from tests.knowledge.conftest import Bench, Run

pytestmark = pytest.mark.proof("connectors")
RULES = parse_rules(["hr/=group:hr,user:ada", "hr/open/=everyone", "board/=nobody"])


class Files(Protocol):
    """Where a test puts the documents of a source."""

    def put(self, key: str, text: str) -> None:
        """Create or replace a document."""
        ...

    def remove(self, key: str) -> None:
        """Delete a document."""
        ...


@dataclass
class FolderFiles(Files):
    folder: Path
    count: int = 0

    def put(self, key: str, text: str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        # Times of files may be coarser than the test is fast.
        self.count += 1
        os.utime(path, (self.count, self.count))

    def remove(self, key: str) -> None:
        (self.folder / key).unlink()


@dataclass
class BucketFiles(Files):
    server: PlayedS3

    def put(self, key: str, text: str) -> None:
        self.server.objects[f"docs/{key}"] = text.encode()

    def remove(self, key: str) -> None:
        del self.server.objects[f"docs/{key}"]


Open = Callable[[Bench, AccessRules], Source]


@dataclass
class Connected:
    """A source, its documents, and how it is broken for a moment."""

    files: Files
    open: Open
    fail: Callable[[], Callable[[], None]]
    """Breaks reading after the first page; returns how to mend it."""
    prefix: str = ""


@pytest.fixture(params=["folder", "s3"])
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        folder = tmp_path / "share"
        folder.mkdir()

        def lock() -> Callable[[], None]:
            moved = folder.rename(tmp_path / "away")
            return lambda: moved.rename(folder) and None

        yield Connected(
            FolderFiles(folder), lambda _, rules: FolderSource(folder, rules, page_size=2), lock
        )  # fmt: skip
        return
    server = PlayedS3("company")

    def opened(bench: Bench, rules: AccessRules) -> Source:
        return S3Source(
            bench.yard.services.network.egress, "company", "docs/", page_size=2, rules=rules,
            credentials=S3Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY),
            get_time=bench.yard.services.clock.time, endpoint=upstream.url.removesuffix("/v1"),
            is_operators=True,
        )  # fmt: skip

    def fail() -> Callable[[], None]:
        server.failures += [503] * 20
        return server.failures.clear

    with Upstream(server) as upstream:
        yield Connected(BucketFiles(server), opened, fail, "docs/")


async def synchronised(bench: Bench, dataset: Dataset, source: Source) -> SyncReport:
    """Synchronise, and wait for the index."""
    report = await bench.parts.source_sync.run(dataset, source)
    for batch in report.batches:
        await bench.datasets.wait(dataset, batch, 60)
    return report


async def stored(bench: Bench, dataset: Dataset) -> dict[str, Any]:
    """Return the text and the access list of each document, by key."""
    documents = await bench.parts.stored.documents.list_all("default", dataset.id)
    return {
        document.source["key"]: (
            (await bench.datasets.text(document)).strip(),
            list_of_principals(document.readers),
        )
        for document in documents
    }


def counts(report: SyncReport) -> tuple[int, ...]:
    return (report.added, report.changed, report.deleted, report.same, report.permissions)  # fmt: skip


def test_a_source_is_followed(run: Run, connected: Connected):
    async def work(bench: Bench) -> None:
        files, key = connected.files, connected.prefix
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        # Documents of other origin stay what they are.
        await bench.add(dataset, "Not of the source.", source={"kind": "text", "key": "x"})  # fmt: skip
        for name in ("a b+c.txt", "hr/pay.txt", "hr/open/tea.txt", "board/plan.txt", "研究.txt"):  # fmt: skip
            files.put(name, f"About {name}.")
        source = connected.open(bench, RULES)
        assert counts(await synchronised(bench, dataset, source)) == (5, 0, 0, 0, 0)
        ada_and_hr = AccessList(users=["ada"], groups=["hr"])
        assert await stored(bench, dataset) == {
            "x": ("Not of the source.", None),
            f"{key}a b+c.txt": ("About a b+c.txt.", None),
            f"{key}hr/pay.txt": ("About hr/pay.txt.", ada_and_hr),
            f"{key}hr/open/tea.txt": ("About hr/open/tea.txt.", AccessList(everyone=True)),
            f"{key}board/plan.txt": ("About board/plan.txt.", AccessList()),
            f"{key}研究.txt": ("About 研究.txt.", None),
        }  # fmt: skip
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 5, 0)
        files.put("hr/pay.txt", "About higher pay.")
        files.put("new.txt", "News.")
        files.remove("board/plan.txt")
        assert counts(await synchronised(bench, dataset, source)) == (1, 1, 1, 3, 0)
        contents = await stored(bench, dataset)
        assert contents[f"{key}hr/pay.txt"] == ("About higher pay.", ada_and_hr)
        assert f"{key}board/plan.txt" not in contents
        # Permissions alone: nothing is read again.
        rules = parse_rules(["hr/=group:managers"])
        source = connected.open(bench, rules)
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 5, 2)
        assert (await stored(bench, dataset))[f"{key}hr/pay.txt"][1] == AccessList(groups=["managers"])  # fmt: skip
        for name in (
            "a b+c.txt",
            "hr/pay.txt",
            "hr/open/tea.txt",
            "研究.txt",
            "new.txt",
        ):
            files.remove(name)
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 5, 0, 0)
        assert list(await stored(bench, dataset)) == ["x"]

    run(work)


def test_an_interrupted_pass_goes_on_where_it_was(run: Run, connected: Connected):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        for number in range(5):
            connected.files.put(f"n{number}.txt", f"Number {number}.")
        source = connected.open(bench, RULES)
        stopped = _Stopping(source, pages=1)
        with pytest.raises(SourceError, match="unplugged"):
            await synchronised(bench, dataset, stopped)
        assert len(await stored(bench, dataset)) == 2
        # What is away for a moment deletes nothing.
        mend = connected.fail()
        with pytest.raises(SourceError):
            await synchronised(bench, dataset, source)
        mend()
        assert len(await stored(bench, dataset)) == 2
        report = await synchronised(bench, dataset, source)
        assert counts(report) == (3, 0, 0, 0, 0), "the first page is not listed again"
        # The next pass begins anew, and sees what was deleted on the first page.
        connected.files.remove("n0.txt")
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 1, 4, 0)

    run(work)


def test_two_passes_at_a_time_add_each_document_once(run: Run, connected: Connected):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        for number in range(5):
            connected.files.put(f"n{number}.txt", f"Number {number}.")
        passes = [
            synchronised(bench, dataset, connected.open(bench, RULES)) for _ in range(3)
        ]
        await asyncio.gather(*passes)
        documents = await bench.parts.stored.documents.list_all("default", dataset.id)
        keys = sorted(document.source["key"] for document in documents)
        assert keys == [f"{connected.prefix}n{number}.txt" for number in range(5)]

    run(work)


@dataclass
class _Stopping:
    """A source that fails after some pages."""

    source: Source
    pages: int
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.source.name

    async def changes(self, cursor: str) -> Any:
        count = 0
        async for page in self.source.changes(cursor):
            if count == self.pages:
                raise SourceError("unplugged")
            count += 1
            yield page

    async def fetch(self, item: SourceItem) -> bytes:
        return await self.source.fetch(item)


def test_what_cannot_be_read_is_skipped_and_named(run: Run, connected: Connected):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        connected.files.put("empty.txt", "")
        connected.files.put("full.txt", "Full.")
        source = connected.open(bench, RULES)
        report = await synchronised(bench, dataset, source)
        assert (counts(report), report.skipped) == ((1, 0, 0, 0, 0), 1)
        assert "empty.txt: File 'empty.txt' is empty" in report.reasons[0]
        with pytest.raises(ItemError):
            await source.fetch(SourceItem(key="gone.txt", name="gone.txt", revision=""))

    run(work)


def test_a_folder_keeps_the_modes_of_its_files(run: Run, tmp_path: Path):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        folder = tmp_path / "share"
        folder.mkdir()
        (folder / ".hidden").write_text("Hidden.")
        (folder / "link.txt").symlink_to(folder / ".hidden")
        for name, mode in (
            ("all.txt", 0o644),
            ("group.txt", 0o640),
            ("none.txt", 0o200),
        ):
            (folder / name).write_text(f"About {name}.")
            (folder / name).chmod(mode)
        source = FolderSource(folder, keeps_modes=True)
        report = await synchronised(bench, dataset, source)
        # Root reads every file; others cannot read what is not theirs to read.
        assert report.added + report.skipped == 3
        lists = {key: access for key, (_, access) in (await stored(bench, dataset)).items()}  # fmt: skip
        assert lists["all.txt"].everyone
        assert not lists["group.txt"].everyone
        assert lists["group.txt"].users
        assert lists["group.txt"].groups
        assert lists.get("none.txt", AccessList()) == AccessList()
        (folder / "all.txt").chmod(0o600)
        assert (await synchronised(bench, dataset, source)).permissions == 1
        assert not (await stored(bench, dataset))["all.txt"][1].everyone

    run(work)


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda server: server.failures.append(500), "status 500 InternalError"),
        (lambda server: setattr(server, "bucket", "else"), "status 404 NoSuchBucket"),
    ],
)
def test_a_bucket_that_fails_is_said(run: Run, break_: Callable[[PlayedS3], Awaitable[None]], message: str):  # fmt: skip
    async def work(bench: Bench) -> None:
        server = PlayedS3("company")
        break_(server)
        with Upstream(server) as upstream:
            source = S3Source(
                bench.yard.services.network.egress, "company",
                credentials=S3Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY),
                get_time=bench.yard.services.clock.time,
                endpoint=upstream.url.removesuffix("/v1"), is_operators=True,
            )  # fmt: skip
            with pytest.raises(SourceError, match=message):
                await anext(source.changes(""))

    run(work)


def test_wrong_keys_are_refused_by_the_server(run: Run):
    async def work(bench: Bench) -> None:
        with Upstream(PlayedS3("company")) as upstream:
            endpoint = upstream.url.removesuffix("/v1")
            for trusted, text in ((True, "SignatureDoesNotMatch"), (False, "cannot be reached")):  # fmt: skip
                source = S3Source(
                    bench.yard.services.network.egress, "company",
                    credentials=S3Credentials(access_key=ACCESS_KEY, secret_key="no"),
                    get_time=bench.yard.services.clock.time, endpoint=endpoint,
                    is_operators=trusted,
                )  # fmt: skip
                with pytest.raises(SourceError, match=text):
                    await anext(source.changes(""))

    run(work)


# ------------------------------------------------------------------------- Confluence


def test_a_space_of_confluence_is_followed_with_its_restrictions(run: Run):
    async def work(bench: Bench) -> None:
        server = PlayedConfluence("DOC")
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        server.pages = {
            "3": PlayedPage(title="Home", body="<p>Welcome</p>"),
            "10": PlayedPage(title="Pay", body="<p>Salaries</p>", parent="3", groups=["hr", "board"]),
            "11": PlayedPage(title="Top pay", body="<p>Bonus</p>", parent="10", users=["Ada@example.com", "x"], groups=["board"]),
            "12": PlayedPage(title="Pay rules", body="<p>Rules</p>", parent="10"),
            "13": PlayedPage(title="Lost", body="<p>Lost</p>", parent="99"),
        }  # fmt: skip
        with Upstream(server) as upstream:
            source = _confluence(bench, upstream, parse_rules(["DOC/=group:staff"]))
            report = await synchronised(bench, dataset, source)
            assert counts(report) == (5, 0, 0, 0, 0)
            lists = {key: access for key, (_, access) in (await stored(bench, dataset)).items()}  # fmt: skip
            assert lists == {
                "3": AccessList(groups=["staff"]),
                "10": AccessList(groups=["board", "hr"]),
                # Whom the page and the page above it name.
                "11": AccessList(groups=["board"]),
                "12": AccessList(groups=["board", "hr"]),
                # The page above cannot be seen, and may be restricted.
                "13": AccessList(),
            }
            (document, *_) = await bench.parts.stored.documents.list_all("default", dataset.id)  # fmt: skip
            assert document.source["url"].endswith(f"/spaces/DOC/pages/{document.source['key']}")  # fmt: skip
            # A changed restriction is no new version, and nothing is read again.
            server.fetched.clear()
            server.pages["10"].groups = []
            server.pages["10"].users = ["x"]
            assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 5, 3)
            assert server.fetched == []
            lists = {key: access for key, (_, access) in (await stored(bench, dataset)).items()}  # fmt: skip
            assert lists["11"] == AccessList(users=["id-x"])
            server.pages["3"] = PlayedPage(
                title="Start", body="<p>Hello</p>", version=2
            )
            del server.pages["12"]
            assert counts(await synchronised(bench, dataset, source)) == (0, 1, 1, 3, 0)
            assert "Hello" in (await stored(bench, dataset))["3"][0]

    run(work)


def _confluence(bench: Bench, upstream: Upstream, rules: AccessRules | None = None) -> ConfluenceSource:  # fmt: skip
    return ConfluenceSource(
        bench.yard.services.network.egress, f"{upstream.url}/wiki", "DOC", user=USER,
        token=TOKEN, rules=rules, is_operators=True, page_size=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "step", "error", "message"),
    [
        (500, "list", SourceError, "cannot be listed: status 500"),
        (401, "list", SourceError, "cannot be listed: status 401"),
        (429, "fetch", SourceError, "status 429"),
        (404, "fetch", ItemError, "Status 404"),
    ],
)
def test_errors_of_confluence_are_said(
    run: Run, status: int, step: str, error: type[Exception], message: str
):
    async def work(bench: Bench) -> None:
        server = PlayedConfluence("DOC", failures=[status])
        with Upstream(server) as upstream:
            source = _confluence(bench, upstream)
            with pytest.raises(error, match=message):
                if step == "list":
                    await anext(source.changes(""))
                else:
                    await source.fetch(SourceItem(key="3", name="a", revision="1"))

    run(work)


def test_a_page_without_known_restrictions_stops_the_pass(run: Run):
    """It is not one without restrictions."""

    async def work(bench: Bench) -> None:
        page = {"id": "3", "title": "Home", "version": {"number": 1}, "ancestors": []}
        answers = [json_answer({"results": [page]}), Answer(body=b"<html>"), json_answer([])]  # fmt: skip
        for answer in answers:
            with Upstream(lambda _, answer=answer: answer) as upstream:
                source = _confluence(bench, upstream)
                with pytest.raises(SourceError, match="unexpected answer"):
                    await anext(source.changes(""))

    run(work)


def test_a_space_goes_on_after_an_interruption(run: Run):
    async def work(bench: Bench) -> None:
        server = PlayedConfluence("DOC")
        server.pages = {
            str(10 + n): PlayedPage(title=f"Page {n}", body=f"<p>Text {n}</p>") for n in range(5)
        }  # fmt: skip
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        with Upstream(server) as upstream:
            source = _confluence(bench, upstream)
            # Three requests list the space; the third content is refused.
            server.failures = [0] * 5 + [503]
            with pytest.raises(SourceError, match="status 503"):
                await synchronised(bench, dataset, source)
            assert len(await stored(bench, dataset)) == 2
            report = await synchronised(bench, dataset, source)
            assert counts(report) == (3, 0, 0, 0, 0)
            assert sorted(server.fetched) == ["10", "11", "12", "13", "14"]

    run(work)


@pytest.mark.parametrize("text", ["hr", "hr=", "hr=boss", "hr=user:", "hr=group:a,b"])
def test_invalid_rules_are_refused(text: str):
    with pytest.raises(InvokeBadRequestError, match="Invalid access rule"):
        parse_rules([text])


@settings(deadline=None, max_examples=100)
@given(
    before=st.sets(st.text("abc", min_size=1, max_size=3)),
    after=st.sets(st.text("abc", min_size=1, max_size=3)),
    size=st.integers(1, 4),
)
def test_pages_that_cover_all_keys_delete_exactly_what_is_gone(
    before: set[str], after: set[str], size: int
):
    """Law: whatever the size of the pages, a pass deletes what is no longer listed."""
    by_key = {key: StoredDocument(key, "1", [], key) for key in before}
    keys, start, deleted = sorted(after), "", set[str]()
    pages = [keys[position : position + size] for position in range(0, len(keys), size)]
    for position, page_keys in enumerate(pages or [[]]):
        is_last = position >= len(pages) - 1
        end = None if is_last else page_keys[-1]
        items = [SourceItem(key=key, name=key, revision="1") for key in page_keys]
        page = SourcePage(items=items, covers=(start, end), cursor="")
        deleted |= set(keys_gone(page, by_key))
        start = end or start
    assert deleted == before - after
