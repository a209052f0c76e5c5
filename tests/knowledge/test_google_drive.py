"""A shared drive of Google Drive as a source, against a played server."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import (
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)
from modelyard.knowledge.connectors.dataset_sources import SourceDefinition
from modelyard.knowledge.connectors.google_drive import GoogleDriveSource
from modelyard.knowledge.entities import Technique
from modelyard.testing import Upstream
from modelyard.testing.google_drive import DOCUMENT, FOLDER, PlayedDrive, PlayedFile
from tests.knowledge.conftest import Bench, Run
from tests.knowledge.test_connectors import counts, stored, synchronised

pytestmark = pytest.mark.proof("connectors")
HR = {"type": "group", "emailAddress": "hr@example.com", "role": "reader"}
ADA = {"type": "user", "emailAddress": "Ada@example.com", "role": "owner"}


@dataclass
class World:
    server: PlayedDrive
    url: str

    def open(self, bench: Bench, get_time: Callable[[], float] | None = None) -> GoogleDriveSource:  # fmt: skip
        return GoogleDriveSource(
            bench.yard.services.network.egress,
            service_account_key=self.server.account_key,
            get_time=get_time or bench.yard.services.clock.time,
            drive=self.server.drive,
            api_url=self.url,
            token_url=f"{self.url}/token",
            operators=self.url,
            page_size=2,
        )


async def pages_after(source: GoogleDriveSource, cursor: str) -> list[SourcePage]:
    return [page async for page in source.changes(cursor)]


def keys_of(page: SourcePage) -> list[str]:
    return [item.key for item in page.items]


@pytest.fixture
def world() -> Iterator[World]:
    server = PlayedDrive("0ABC")
    for number in range(5):
        file = PlayedFile(name=f"n{number}.txt", content=f"Number {number}.".encode())
        server.put(f"id{number}", file)
    with Upstream(server) as upstream:
        yield World(server, upstream.url.removesuffix("/v1"))


def test_a_drive_is_followed_with_its_permissions(run: Run, world: World):
    async def work(bench: Bench) -> None:
        server = world.server
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        server.files["id0"].permissions = [HR, ADA]
        server.files["id1"].permissions = [{"type": "domain", "domain": "example.com"}]
        server.files["id2"].permissions = [
            {**ADA, "deleted": True}, {**HR, "view": "metadata"}, {"type": "new"},
        ]  # fmt: skip
        server.files["id3"].permissions = [{"type": "anyone", "role": "reader"}]
        server.put("folder", PlayedFile(name="Folder", mime_type=FOLDER))
        source = world.open(bench)
        report = await synchronised(bench, dataset, source)
        assert counts(report) == (5, 0, 0, 0, 0)
        lists = {key: access for key, (_, access) in (await stored(bench, dataset)).items()}  # fmt: skip
        assert lists == {
            "id0": AccessList(users=["ada@example.com"], groups=["hr@example.com"]),
            "id1": AccessList(groups=["example.com"]),
            "id2": AccessList(),
            "id3": AccessList(everyone=True),
            # Without any permission nobody may read it.
            "id4": AccessList(),
        }
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 0, 0)
        # A change, a removal, a permission alone, and a new document of an editor.
        server.fetched.clear()
        server.put("id0", PlayedFile(name="n0.txt", content=b"Zero.", permissions=[HR]))
        server.remove("id1")
        server.files["id3"].permissions = [HR]
        server.log.append("id3")
        report = await synchronised(bench, dataset, source)
        assert (counts(report), report.skipped) == ((0, 1, 1, 1, 2), 0)
        assert server.fetched == ["id0"]
        contents = await stored(bench, dataset)
        assert contents["id0"] == ("Zero.", AccessList(groups=["hr@example.com"]))
        assert contents["id3"][1] == AccessList(groups=["hr@example.com"])
        assert "id1" not in contents
        # A folder has changed: what it grants applies to the files in it.
        server.files["id4"].permissions = [ADA]
        server.log.append("folder")
        assert counts(await synchronised(bench, dataset, source)) == (0, 0, 0, 4, 1)
        assert (await stored(bench, dataset))["id4"][1] == AccessList(users=["ada@example.com"])  # fmt: skip

    run(work)


def test_a_drive_goes_on_after_an_interruption(run: Run, world: World):
    async def work(bench: Bench) -> None:
        server = world.server
        source = world.open(bench)
        pages = source.changes("")
        first = await anext(pages)
        await pages.aclose()
        assert keys_of(first) == ["id0", "id1"]
        # What changes while the listing is interrupted is a change afterwards.
        server.put("id0", PlayedFile(name="n0.txt", content=b"Changed."))
        remaining = await pages_after(source, first.cursor)
        assert list(map(keys_of, remaining)) == [["id2", "id3"], ["id4"]]
        later = await pages_after(source, remaining[-1].cursor)
        assert list(map(keys_of, later)) == [["id0"]]

    run(work)


def test_a_drive_that_fails_deletes_nothing(run: Run, world: World):
    async def work(bench: Bench) -> None:
        server, source = world.server, world.open(bench)
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        await synchronised(bench, dataset, source)
        # Google asks to wait, also with status 403.
        for failure in ((503, "backendError"), (403, "rateLimitExceeded"), (401, "authError")):  # fmt: skip
            server.failures.append(failure)
            with pytest.raises(SourceError, match=failure[1]):
                await synchronised(bench, dataset, source)
        assert len(await stored(bench, dataset)) == 5
        # In the midst of changes: permissions cannot be read for now.
        server.put("id5", PlayedFile(name="n5.txt", content=b"Five.", permissions=[ADA]))  # fmt: skip
        await source.fetch(SourceItem(key="id5", name="", revision=""))
        real, server.files["id5"].permissions = server.files["id5"].permissions, [{"no": "type"}]  # fmt: skip
        with pytest.raises(SourceError, match="unexpected answer"):
            await synchronised(bench, dataset, source)
        server.files["id5"].permissions = real
        assert counts(await synchronised(bench, dataset, source)) == (1, 0, 0, 0, 0)

    run(work)


def test_all_files_of_an_account_are_followed(run: Run, world: World):
    async def work(bench: Bench) -> None:
        world.server.drive = ""
        source = world.open(bench)
        assert source.name == "google-drive://reader@project.iam.gserviceaccount.com"
        pages = await pages_after(source, "")
        assert list(map(keys_of, pages)) == [["id0", "id1"], ["id2", "id3"], ["id4"]]
        world.server.remove("id3")
        (later,) = await pages_after(source, pages[-1].cursor)
        assert later.removed == ["id3"]

    run(work)


def test_what_permissions_cannot_be_seen_of_is_read_by_nobody(run: Run, world: World):
    async def work(bench: Bench) -> None:
        server, source = world.server, world.open(bench)
        server.files = {"id0": server.files["id0"]}
        server.files["id0"].permissions = [{"type": "anyone"}]
        shown = await anext(source.changes(""))
        assert shown.items[0].access == AccessList(everyone=True)
        server.hidden.add("id0")
        listed = await anext(source.changes(""))
        assert listed.items[0].access == AccessList()

    run(work)


def test_documents_of_editors_are_exported_and_unreadable_ones_skipped(run: Run, world: World):  # fmt: skip
    async def work(bench: Bench) -> None:
        server, source = world.server, world.open(bench)
        server.put("doc", PlayedFile(name="Plan", mime_type=DOCUMENT, content=b"PK"))
        server.put("raw", PlayedFile(name="report", mime_type="application/pdf"))
        listed = [item for page in await pages_after(source, "") for item in page.items]
        names = {item.key: item.name for item in listed}
        assert (names["doc"], names["raw"]) == ("Plan.docx", "report.pdf")
        item = next(item for item in listed if item.key == "doc")
        assert await source.fetch(item) == b"PK"
        server.failures.append((403, "exportSizeLimitExceeded"))
        with pytest.raises(ItemError, match="exportSizeLimitExceeded"):
            await source.fetch(item)
        server.remove("doc")
        with pytest.raises(ItemError, match="404 notFound"):
            await source.fetch(item)

    run(work)


def test_tokens_are_renewed_and_wrong_keys_told(run: Run, world: World):
    async def work(bench: Bench) -> None:
        now = 1_800_000_000.0
        source = world.open(bench, lambda: now)
        assert len(await pages_after(source, "")) == 3
        assert world.server.tokens == 1
        now += 3500
        assert len(await pages_after(source, "")) == 3
        assert world.server.tokens == 2
        dataset = await bench.dataset(indexing_technique=Technique.ECONOMY)
        broken = base64.b64encode(b"{}").decode()
        for credentials, text in (
            ({}, "missing required field"),
            ({"service_account_key": broken}, "client_email or private_key is missing"),
        ):
            definition = SourceDefinition(
                name="d", connector="google_drive", credentials=credentials
            )
            with pytest.raises(InvokeBadRequestError, match=text):
                await bench.parts.sources.add(dataset, definition)

    run(work)
