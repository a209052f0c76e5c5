"""One contract for every storage of files: a folder, both databases, and a bucket of a
server that verifies signatures.

`MODELYARD_TEST_S3=http://KEY:SECRET@HOST:PORT/BUCKET` runs the cases of the bucket
against another server too.
"""

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.app import Modelyard
from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.ids import new_id
from modelyard.base.settings import Settings, load_settings
from modelyard.base.settings_file import mask_secrets
from modelyard.storage.database import Database, StorageUnavailableError
from modelyard.storage.database_files import DatabaseFileStorage
from modelyard.storage.file_storage import (
    SERVER_SCOPE,
    FileExistsInStorageError,
    FileStorage,
    one_chunk,
    read_all,
    regrouped,
)
from modelyard.storage.files import DamagedFileError, FileStore
from modelyard.storage.local_files import LocalFileStorage
from modelyard.storage.moved_files import MovedFileStorage
from modelyard.testing import Upstream
from modelyard.testing.s3 import ACCESS_KEY, SECRET_KEY, PlayedS3
from modelyard.transport.http import HttpClient
from modelyard.transport.s3 import S3Credentials
from modelyard.transport.s3_files import S3FileStorage

pytestmark = pytest.mark.proof("three-nodes")

STORAGES = ["folder", "sqlite", "postgresql", "s3"]
if "MODELYARD_TEST_S3" in os.environ:
    STORAGES.append("s3-outside")
BUCKET = "files"
NOW = 1_796_083_200.0
"""In December 2026; the double's uploads were started a day before."""
MB = 1 << 20
OPENED: list[S3FileStorage] = []


def s3_storage(url: str, bucket: str = BUCKET, secret_key: str = SECRET_KEY, **options: Any) -> S3FileStorage:  # fmt: skip
    credentials = S3Credentials(
        access_key=options.pop("access_key", ACCESS_KEY), secret_key=secret_key
    )
    options = {
        "get_time": lambda: NOW,
        "endpoint": url.removesuffix("/v1"),
        "prefix": "test",
        **options,
    }
    storage = S3FileStorage(HttpClient(), bucket, credentials=credentials, **options)
    OPENED.append(storage)
    return storage


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test and close the connections of its storages on its loop."""

    async def main() -> None:
        try:
            await work()
        finally:
            while OPENED:
                await OPENED.pop().aclose()

    asyncio.run(main())


def outside_storage() -> S3FileStorage:
    import time

    url = urlsplit(os.environ["MODELYARD_TEST_S3"])
    return s3_storage(
        f"http://{url.hostname}:{url.port}",
        url.path.strip("/"),
        str(url.password),
        access_key=url.username,
        get_time=time.time,
        prefix=new_id("p"),
    )


class Bench:
    """A storage, opened on the loop of the test."""

    def __init__(self, open_: Callable[[], FileStorage], close: Callable[[], None]):
        self._open, self._close = open_, close

    def run(self, work: Callable[[FileStorage], Awaitable[None]]) -> None:
        async def main() -> None:
            storage = self._open()
            await storage.check()
            try:
                await work(storage)
            finally:
                await storage.aclose()

        asyncio.run(main())

    def close(self) -> None:
        self._close()


@pytest.fixture(params=STORAGES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "folder":
        yield Bench(lambda: LocalFileStorage(tmp_path / "files"), lambda: None)
    elif request.param == "s3":
        with Upstream(PlayedS3(BUCKET)) as upstream:
            yield Bench(lambda: s3_storage(upstream.url), lambda: None)
    elif request.param == "s3-outside":
        yield Bench(outside_storage, lambda: None)
    else:
        url = str(tmp_path / "x.db")
        if request.param == "postgresql":
            url = request.getfixturevalue("postgres_url")
        database = Database(url)
        yield Bench(lambda: DatabaseFileStorage(database), lambda: None)
        database.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def broken(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise ConnectionResetError("the caller is gone")


def sized(size: int, seed: int = 1) -> bytes:
    """Bytes in which every offset looks different."""
    unit = hashlib.sha256(str(seed).encode()).digest() + bytes(range(219))
    return (unit * (size // len(unit) + 1))[:size]


def test_a_file_is_read_as_it_was_written(bench: Bench):
    async def work(storage: FileStorage) -> None:
        tenant, data = new_id("t").replace("_", "-").lower(), sized(300_000)
        written = await storage.write(tenant, "ab/file_1", stream(data[:7], data[7:]))
        assert (written.size, written.sha256) == (300_000, hashlib.sha256(data).hexdigest())  # fmt: skip
        assert await read_all(storage, tenant, "ab/file_1") == data
        info = await storage.info(tenant, "ab/file_1")
        assert (info.size, info.sha256 in ("", written.sha256)) == (300_000, True)
        # An empty file is a file.
        await storage.write(tenant, "empty", stream())
        assert (await storage.info(tenant, "empty")).size == 0
        assert await read_all(storage, tenant, "empty") == b""

    bench.run(work)


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1), (5, 10), (MB - 3, 6), (MB, 2 * MB), (2 * MB + 7, None), (0, 10 * MB),
        (3 * MB, 4), (9 * MB, None), (4, 0), (3 * MB - 1, None),
    ],
)  # fmt: skip
def test_ranges_are_those_of_the_bytes(bench: Bench, start: int, length: int | None):
    async def work(storage: FileStorage) -> None:
        data = sized(3 * MB)
        await storage.write("ranges", "f", one_chunk(data))
        end = None if length is None else start + length
        part = await read_all(storage, "ranges", "f", start=start, length=length)
        assert part == data[start:end]

    bench.run(work)


def test_a_later_write_replaces_and_a_new_one_does_not(bench: Bench):
    async def work(storage: FileStorage) -> None:
        await storage.delete("replace", "f")
        await storage.write("replace", "f", one_chunk(b"first"), is_new=True)
        with pytest.raises(FileExistsInStorageError, match="exists already"):
            await storage.write("replace", "f", one_chunk(b"second"), is_new=True)
        assert await read_all(storage, "replace", "f") == b"first"
        await storage.write("replace", "f", one_chunk(b"longer than the first"))
        assert await read_all(storage, "replace", "f") == b"longer than the first"
        assert (await storage.info("replace", "f")).size == 21

    bench.run(work)


def test_what_was_deleted_or_never_was_is_not_found(bench: Bench):
    async def work(storage: FileStorage) -> None:
        await storage.write("gone", "f", one_chunk(b"x"))
        await storage.delete("gone", "f")
        await storage.delete("gone", "f")
        for name in ("f", "never", "f/below"):
            with pytest.raises(NotFoundError, match="does not exist"):
                await storage.info("gone", name)
            for length in (None, 3, 0):
                with pytest.raises(NotFoundError, match="does not exist"):
                    await read_all(storage, "gone", name, length=length)

    bench.run(work)


def test_scopes_do_not_see_each_other(bench: Bench):
    async def work(storage: FileStorage) -> None:
        for scope in ("acme", "acme-2", SERVER_SCOPE):
            await storage.write(scope, "same", one_chunk(scope.encode()))
        for scope in ("acme", "acme-2", SERVER_SCOPE):
            assert await read_all(storage, scope, "same") == scope.encode()
        await storage.delete("acme", "same")
        assert await read_all(storage, "acme-2", "same") == b"acme-2"
        with pytest.raises(NotFoundError):
            await storage.info("ac", "me/same")

    bench.run(work)


BAD_NAMES = ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".hidden", "a/.x", "a\\b", "a\0",
             "a b", "ä", "a\nb", "%2e%2e/a", "x" * 401]  # fmt: skip
BAD_SCOPES = ["", ".", "..", "A", "-a", "a/b", "a" * 64, "_other", "a_b", "acme\n"]


@pytest.mark.parametrize(
    ("scope", "name"),
    [*(("acme", name) for name in BAD_NAMES), *((scope, "f") for scope in BAD_SCOPES)],
)
def test_malformed_names_reach_no_storage(tmp_path: Path, scope: str, name: str):
    async def refuse(storage: FileStorage) -> None:
        for call in (
            storage.write(scope, name, one_chunk(b"x")),
            storage.info(scope, name),
            read_all(storage, scope, name),
            storage.delete(scope, name),
        ):
            with pytest.raises(NotFoundError, match="does not exist"):
                await call

    server = PlayedS3(BUCKET)
    database = Database(":memory:")
    with Upstream(server) as upstream:
        for storage in (
            LocalFileStorage(tmp_path / "files"),
            DatabaseFileStorage(database),
            s3_storage(upstream.url),
        ):
            asyncio.run(refuse(storage))
    OPENED.clear()
    database.close()
    assert server.requests == []
    assert list(tmp_path.rglob("*")) == []


def test_an_interrupted_upload_leaves_nothing(bench: Bench):
    async def work(storage: FileStorage) -> None:
        # Other tests on the same server have replaced files.
        await storage.clean(NOW + 1e9)
        await storage.write("cut", "kept", one_chunk(b"before"))
        # Within the first chunk, after some, and after a part of a large object.
        for chunks in ([b"x"], [b"x" * MB] * 3, [b"x" * MB] * 20):
            for name in ("new", "kept"):
                with pytest.raises(ConnectionResetError):
                    await storage.write("cut", name, broken(*chunks))
        with pytest.raises(NotFoundError):
            await storage.info("cut", "new")
        assert await read_all(storage, "cut", "kept") == b"before"
        # Nor what only `clean` would find.
        assert await storage.clean(NOW + 1e9) == 0

    bench.run(work)


def test_a_cancelled_upload_leaves_nothing(bench: Bench):
    async def work(storage: FileStorage) -> None:
        await storage.clean(NOW + 1e9)
        has_begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(18):
                yield b"x" * MB
            has_begun.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(storage.write("cancel", "f", endless()))
        await has_begun.wait()
        upload.cancel()
        with suppress(asyncio.CancelledError):
            await upload
        with pytest.raises(NotFoundError):
            await storage.info("cancel", "f")
        # The next write of a database comes after the removal of the chunks.
        await storage.write("cancel", "g", one_chunk(b"x"))
        assert await storage.clean(NOW + 1e9) == 0

    bench.run(work)


def test_of_writes_at_once_one_wins_as_a_whole(bench: Bench):
    async def work(storage: FileStorage) -> None:
        versions = [sized(2 * MB + seed, seed) for seed in range(6)]
        for version in versions:
            await asyncio.gather(
                *(
                    storage.write("race", "f", stream(data[:MB], data[MB:]))
                    for data in versions
                )
            )
            assert await read_all(storage, "race", "f") in versions
            assert version in versions
        await storage.delete("race", "new")
        outcomes = await asyncio.gather(
            *(
                storage.write("race", "new", one_chunk(data), is_new=True)
                for data in versions
            ),
            return_exceptions=True,
        )
        winners = [data for data, outcome in zip(versions, outcomes, strict=True) if not isinstance(outcome, Exception)]  # fmt: skip
        assert winners == [await read_all(storage, "race", "new")]
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {FileExistsInStorageError}  # fmt: skip

    bench.run(work)


def test_a_reader_gets_one_version_while_others_write(bench: Bench):
    async def work(storage: FileStorage) -> None:
        old, new = sized(3 * MB, 1), sized(3 * MB, 2)
        await storage.write("reader", "f", one_chunk(old))
        chunks = storage.read("reader", "f")
        first = await anext(chunks)
        await storage.write("reader", "f", one_chunk(new))
        data = first + b"".join([chunk async for chunk in chunks])
        assert data == old
        assert await read_all(storage, "reader", "f") == new

    bench.run(work)


def test_fifty_megabytes_are_streamed(bench: Bench, request: pytest.FixtureRequest):
    size = 50

    async def source() -> AsyncIterator[bytes]:
        for index in range(size):
            yield bytes([index]) * MB

    async def work(storage: FileStorage) -> None:
        expected = hashlib.sha256()
        for index in range(size):
            expected.update(bytes([index]) * MB)
        tracemalloc.start()
        try:
            written = await storage.write("large", "f", source())
            received = hashlib.sha256()
            async for chunk in storage.read("large", "f"):
                received.update(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (written.size, written.sha256) == (size * MB, expected.hexdigest())
        assert received.hexdigest() == expected.hexdigest()
        # The double of S3 holds all objects in this process.
        if "s3]" not in request.node.name:
            assert peak < 40 * MB
        await storage.delete("large", "f")

    bench.run(work)


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 30))
def test_regrouping_keeps_the_bytes(chunks: list[bytes], size: int):
    async def collect() -> list[bytes]:
        return [chunk async for chunk in regrouped(stream(*chunks), size)]

    groups = asyncio.run(collect())
    assert b"".join(groups) == b"".join(chunks)
    assert all(len(group) == size for group in groups[:-1])
    assert all(groups)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 70) | st.none())
def test_chunks_of_any_size_give_the_same_ranges(tmp_path: Path, data: bytes, start: int, length: int | None):  # fmt: skip
    async def work() -> None:
        database = Database(":memory:")
        storage = DatabaseFileStorage(database, chunk_bytes=7)
        await storage.write("law", "f", one_chunk(data))
        part = await read_all(storage, "law", "f", start=start, length=length)
        assert part == data[start : None if length is None else start + length]
        await asyncio.to_thread(database.close)

    asyncio.run(work())


# ------------------------------------------------------------------------------- S3


def test_a_server_without_ranges_gives_the_same_bytes():
    server = PlayedS3(BUCKET, ignores_ranges=True)

    async def work() -> None:
        storage = s3_storage(upstream.url)
        data = sized(500_000)
        await storage.write("acme", "f", one_chunk(data))
        assert await read_all(storage, "acme", "f", start=100_000, length=9) == data[100_000:100_009]  # fmt: skip
        assert (await storage.info("acme", "f")).size == 500_000

    with Upstream(server) as upstream:
        run(work)


def test_parts_are_as_large_as_the_protocol_requires():
    server = PlayedS3(BUCKET)

    async def work() -> None:
        storage = s3_storage(upstream.url)
        data = sized(17 * MB)
        await storage.write("acme", "f", one_chunk(data))
        assert server.objects["test/acme/f"] == data
        assert server.uploads == {}

    with Upstream(server) as upstream:
        run(work)
    assert sum(request.startswith("PUT") for request in server.requests) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"bucket": "none"}, "NoSuchBucket; create the bucket", id="bucket"),
        pytest.param({"secret_key": "wrong"}, "403 SignatureDoesNotMatch; check files.access_key", id="secret"),
        pytest.param({"access_key": "wrong"}, "403 SignatureDoesNotMatch", id="key"),
    ],
)  # fmt: skip
def test_a_setting_that_can_never_work_is_refused_at_the_start(options: dict[str, str], message: str):  # fmt: skip
    async def work() -> None:
        storage = s3_storage(upstream.url, **options)
        with pytest.raises(ConfigError, match=message):
            await storage.check()
        # The same while the server runs is a 503, not a file that does not exist.
        for call in (storage.info("a", "f"), read_all(storage, "a", "f"),
                     storage.delete("a", "f"), storage.write("a", "f", one_chunk(b"x"))):  # fmt: skip
            with pytest.raises(StorageUnavailableError, match=message):
                await call

    with Upstream(PlayedS3(BUCKET)) as upstream:
        run(work)


def test_a_bucket_behind_a_name_that_does_not_exist():
    async def work() -> None:
        storage = s3_storage("http://127.0.0.1:1")
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            await storage.check()

    run(work)


def test_a_server_that_is_busy_for_a_moment_is_asked_again():
    server = PlayedS3(BUCKET)

    async def work() -> None:
        storage = s3_storage(upstream.url)
        server.failures += [503, 500]
        await storage.write("acme", "f", one_chunk(b"x"))
        server.failures += [503]
        assert await read_all(storage, "acme", "f") == b"x"

    with Upstream(server) as upstream:
        run(work)


def test_a_server_that_is_away_loses_nothing_and_comes_back():
    server = PlayedS3(BUCKET)

    async def work() -> None:
        storage = s3_storage(upstream.url)
        files = FileStore(storage, lambda data: "signature")
        stored = await files.add("acme", "a.txt", b"before")
        server.failures += [503] * 40
        with pytest.raises(StorageUnavailableError, match="answered 503 InternalError"):
            await files.get("acme", stored.id)
        with pytest.raises(StorageUnavailableError, match="File storage unavailable"):
            await files.add("acme", "b.txt", b"lost")
        server.failures.clear()
        assert (await files.get("acme", stored.id))[1] == b"before"
        assert len(server.objects) == 2

    with Upstream(server) as upstream:
        run(work)


def test_killed_uploads_are_cleaned():
    server = PlayedS3(BUCKET)
    server.uploads["old&1"] = "test/acme/f", {1: b"x"}

    async def work() -> None:
        storage = s3_storage(upstream.url)
        assert await storage.clean(NOW - 7 * 86_400) == 0
        assert await storage.clean(NOW) == 1
        assert server.uploads == {}

    with Upstream(server) as upstream:
        run(work)


def test_killed_uploads_to_a_database_are_cleaned(database_url: str):
    async def work() -> None:
        database = Database(database_url)
        times = [100.0]
        storage = DatabaseFileStorage(database, get_time=lambda: times[0])
        await storage.write("acme", "f", one_chunk(b"kept"))
        await storage._write_chunks("acme", "killed", one_chunk(b"x" * 100))  # pyright: ignore[reportPrivateUsage]
        assert await storage.clean(100.0) == 0
        assert await storage.clean(101.0) == 1
        assert await read_all(storage, "acme", "f") == b"kept"
        await asyncio.to_thread(database.close)

    run(work)


def test_partial_files_of_killed_servers_are_cleaned(tmp_path: Path):
    storage = LocalFileStorage(tmp_path)
    partial = tmp_path / "acme" / f".f.{'0' * 32}.partial"
    partial.parent.mkdir()
    partial.write_bytes(b"x")
    os.utime(partial, (100, 100))
    assert asyncio.run(storage.clean(99.0)) == 0
    assert asyncio.run(storage.clean(101.0)) == 1
    assert not partial.exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used: Not a directory"):
        asyncio.run(LocalFileStorage(tmp_path / "file" / "files").check())


# ------------------------------------------------------------------ files of tenants


def test_bytes_that_were_changed_are_not_given_out(tmp_path: Path):
    async def work() -> None:
        files = FileStore(LocalFileStorage(tmp_path), lambda data: "signature")
        stored = await files.add("acme", "a.txt", b"as stored")
        path = tmp_path / "acme" / stored.id[5:7] / stored.id
        path.write_bytes(b"as forged")
        with pytest.raises(DamagedFileError, match="SHA-256 is not the one"):
            await files.get("acme", stored.id)

    asyncio.run(work())


def test_content_without_metadata_is_not_left_behind(tmp_path: Path):
    class Failing(LocalFileStorage):
        async def write(
            self, scope: str, name: str, chunks: Any, **options: Any
        ) -> Any:
            if name.endswith(".json"):
                raise StorageUnavailableError("away")
            return await super().write(scope, name, chunks, **options)

    files = FileStore(Failing(tmp_path), lambda data: "signature")
    with pytest.raises(StorageUnavailableError):
        asyncio.run(files.add("acme", "a.txt", b"x"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_of_the_folder_are_read_and_moved(tmp_path: Path, database_url: str):
    folder = tmp_path / "files"

    async def work() -> None:
        database = Database(database_url)
        before = FileStore(LocalFileStorage(folder), lambda data: "signature")
        old = [await before.add("acme", f"{index}.txt", b"%d" % index) for index in range(9)]  # fmt: skip
        (folder / "acme" / "stray name").write_bytes(b"x")
        storage = MovedFileStorage(DatabaseFileStorage(database), folder)
        files = FileStore(storage, lambda data: "signature")
        new = await files.add("acme", "new.txt", b"new")
        assert [(await files.get("acme", file.id))[1] for file in old] == [b"%d" % index for index in range(9)]  # fmt: skip
        await files.remove("acme", old[0].id)
        # A move that ended between its two steps.
        path = f"{old[1].id[5:7]}/{old[1].id}"
        await DatabaseFileStorage(database).write("acme", path, one_chunk(b"1"))
        await storage.move()
        shared = FileStore(DatabaseFileStorage(database), lambda data: "signature")
        assert [(await shared.get("acme", file.id))[1] for file in [*old[1:], new]] == [*(b"%d" % index for index in range(1, 9)), b"new"]  # fmt: skip
        with pytest.raises(NotFoundError):
            await files.get("acme", old[0].id)
        left = [path.name for path in folder.rglob("*") if path.is_file()]
        assert left == ["stray name"]
        await asyncio.to_thread(database.close)

    asyncio.run(work())


# -------------------------------------------------------------------------- settings


def modelyard_settings(tmp_path: Path, **fields: Any) -> Settings:
    document = {"home": str(tmp_path), "local": {"enabled": False}, **fields}
    return msgspec.convert(document, Settings)


def test_a_local_folder_with_a_shared_database_is_refused(tmp_path: Path, postgres_url: str):  # fmt: skip
    settings = modelyard_settings(
        tmp_path, database=postgres_url, files={"storage": "local"}
    )
    with pytest.raises(ConfigError, match="other servers on the same database would"):
        Modelyard(settings, environ={})


@pytest.mark.parametrize(
    ("is_postgresql", "files", "expected"),
    [
        (True, {}, DatabaseFileStorage),
        (True, {"storage": "local", "shared": True}, LocalFileStorage),
        (True, {"storage": "s3", "bucket": "b", "access_key": "a", "secret_key": "s"}, S3FileStorage),
        (False, {}, LocalFileStorage),
        (False, {"storage": "database"}, DatabaseFileStorage),
    ],
)  # fmt: skip
def test_the_settings_choose_the_storage(
    tmp_path: Path, postgres_url: str, is_postgresql: bool, files: Any, expected: type
):
    fields = {"database": postgres_url} if is_postgresql else {}
    settings = modelyard_settings(tmp_path, files=files, **fields)
    yard = Modelyard(settings, environ={})
    try:
        assert type(yard.services.storage.file_storage) is expected
    finally:
        asyncio.run(yard.aclose())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{storage: s3, bucket: b, access_key: a, secret_key: s, endpoint: minio}",
         "'files.endpoint' must be a URL origin such as http://minio:9000, not 'minio'"),
        ("{storage: ftp}", "Invalid enum value 'ftp'"),
        ("{buckets: b}", "unknown field `buckets`"),
    ],
)  # fmt: skip
def test_mistakes_in_the_settings_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "modelyard.yaml"
    path.write_text(f"files: {text}\n")
    with pytest.raises(ConfigError, match=message):
        load_settings({"MODELYARD_HOME": str(tmp_path)})


def test_an_incomplete_bucket_is_refused(tmp_path: Path):
    files = {"storage": "s3", "bucket": "b"}
    with pytest.raises(ConfigError, match="needs files.access_key, files.secret_key"):
        Modelyard(modelyard_settings(tmp_path, files=files), environ={})


def test_the_secrets_of_file_servers_are_masked():
    text = "files: {storage: s3, access_key: AKID, secret_key: hush, session_token: hush2}\nmail: {password: hush3}\n"  # fmt: skip
    masked = mask_secrets(text)
    assert "hush" not in masked
    assert "AKID" in masked


def test_a_server_without_its_bucket_does_not_start(tmp_path: Path):
    with Upstream(PlayedS3("other")) as upstream:
        files = {"storage": "s3", "bucket": BUCKET, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY,
                 "endpoint": upstream.url.removesuffix("/v1")}  # fmt: skip
        yard = Modelyard(modelyard_settings(tmp_path, files=files), environ={})

        async def work() -> None:
            with pytest.raises(ConfigError, match="create the bucket, or correct"):
                await yard.open()
            await yard.aclose()

        asyncio.run(work())


def test_a_server_starts_while_its_file_server_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture):  # fmt: skip
    files = {"storage": "s3", "bucket": BUCKET, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY,
             "endpoint": "http://127.0.0.1:1"}  # fmt: skip
    yard = Modelyard(modelyard_settings(tmp_path, files=files), environ={})

    async def work() -> None:
        await yard.open()
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            await yard.services.storage.files.add("default", "a.txt", b"x")
        await yard.aclose()

    asyncio.run(work())
    assert "files unavailable" in caplog.text
