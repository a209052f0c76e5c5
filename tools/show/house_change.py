"""The cost of typical additions (a gateway route, a dataset feature), measured on a
copy of the checkout.

Each addition is written as a developer would write it. The copy's import contracts and
table tests must pass, and the new route must answer. The result is the list of existing
files that had to be edited.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.show.proof import ROOT

_GATEWAY = "src/modelyard/gateway"
_TESTS = ["tests/gateway/test_tables.py", "tests/house/test_house.py"]
_IGNORED = shutil.ignore_patterns(
    ".git", ".venv", "node_modules", "__pycache__", ".*_cache"
)
_TRIED = "the_page_and_the_contract or reference or circle or every_row or table"


@dataclass(frozen=True)
class Addition:
    """New files, and edits to existing shared files."""

    about: str
    files: Mapping[str, str]
    edits: Mapping[str, tuple[tuple[str, str], ...]]
    """File → pairs of existing text and its replacement."""
    check_program: str
    """A program that prints `answered` if the addition works."""


@dataclass(frozen=True)
class Outcome:
    """The result of an addition."""

    shared: list[str]
    """Existing files that changed, including generated ones."""
    problem: str
    """The first problem; empty if all checks passed and the addition works."""


ROUTE = Addition(
    about="a gateway route",
    files={
        f"{_GATEWAY}/operations/version.py": '''"""GET /health/version: the version of the server."""

import msgspec

from modelyard.base.version import __version__
from modelyard.gateway.http import Reply, Request, json_reply


class Version(msgspec.Struct, frozen=True):
    """The version that runs."""

    version: str


async def version(request: Request) -> Reply:
    """Return the version. Public."""
    del request
    return json_reply(msgspec.to_builtins(Version(__version__)))
'''
    },
    edits={
        f"{_GATEWAY}/operations/table.py": (
            (
                "from modelyard.gateway.operations import health, metrics\n",
                "from modelyard.gateway.operations import health, metrics\n"
                "from modelyard.gateway.operations.version import Version, version\n",
            ),
            (
                '        Row(\n            method="GET",\n            path="/metrics"',
                '        Row(\n            method="GET",\n            path="/health/version",\n'
                "            auth=NO_AUTH,\n"
                '            summary="Get the version of the server.",\n'
                "            handler=version,\n"
                "            answer=Version,\n"
                "        ),\n"
                '        Row(\n            method="GET",\n            path="/metrics"',
            ),
        )
    },
    check_program="""
import asyncio, tempfile, httpx
from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings

async def main():
    async with Modelyard(Settings(home=tempfile.mkdtemp()), environ={}) as yard:
        transport = httpx.ASGITransport(gateway_for(yard.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8790") as client:
            answer = await client.get("/health/version")
            wrong = await client.post("/health/version")
        if answer.json()["version"] and wrong.status_code == 405:
            print("answered")

asyncio.run(main())
""",
)

DATASET_FEATURE = Addition(
    about="a feature of datasets",
    files={
        "src/modelyard/storage/sql/large_documents.sql": """-- name: largest
-- The documents of a dataset with the most words.
SELECT id, name, words FROM documents WHERE tenant = :tenant AND dataset = :dataset
ORDER BY words DESC, id LIMIT :limit;
""",
        "src/modelyard/knowledge/stored/large_documents.py": '''"""The largest documents of a dataset."""

from modelyard.storage.database import Database, Row
from modelyard.storage.repository import Repository


class LargeDocuments(Repository):
    """Queries on the table of documents, by size."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, "large_documents")

    async def largest(self, tenant: str, dataset: str, limit: int) -> list[Row]:
        """Return at most `limit` documents with `id`, `name` and `words`, largest first.

        Raises StorageUnavailableError.
        """
        return await self._rows("largest", tenant=tenant, dataset=dataset, limit=limit)
''',
        f"{_GATEWAY}/knowledge/large_documents.py": '''"""A dataset's largest documents."""

from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.knowledge.calls import DatasetRequest
from modelyard.gateway.schemas import INTEGER, TEXT, list_of, object_schema

_DOCUMENT = object_schema({"id": TEXT, "name": TEXT, "words": INTEGER})
LARGEST = object_schema({"data": list_of(_DOCUMENT)})


async def largest(request: DatasetRequest) -> Reply:
    """Return the largest documents, at most `limit`."""
    dataset = await request.dataset()
    documents = request.datasets.store.large_documents
    limit = request.number("limit", 10)
    rows = await documents.largest(request.tenant, dataset.id, limit)
    return json_reply({"data": [dict(row) for row in rows]})
''',
    },
    edits={
        "src/modelyard/knowledge/stored/repositories.py": (
            (
                "from modelyard.knowledge.stored.leases import DocumentClaims\n",
                "from modelyard.knowledge.stored.large_documents import LargeDocuments\n"
                "from modelyard.knowledge.stored.leases import DocumentClaims\n",
            ),
            (
                "    integrity: IntegrityCheck\n",
                "    integrity: IntegrityCheck\n    large_documents: LargeDocuments\n",
            ),
            (
                "        searches=SearchReader(",
                "        large_documents=LargeDocuments(database),\n        searches=SearchReader(",
            ),
        ),
        f"{_GATEWAY}/knowledge/table.py": (
            (
                "from modelyard.gateway.knowledge.metadata import",
                "from modelyard.gateway.knowledge.large_documents import LARGEST, largest\n"
                "from modelyard.gateway.knowledge.metadata import",
            ),
            (
                '    yield _row("GET", _DATASET, calls.get_dataset,',
                '    yield _row("GET", f"{_DATASET}/largest-documents", largest,\n'
                '               "List the largest documents.", LARGEST, query=_PAGE[1:])\n'
                '    yield _row("GET", _DATASET, calls.get_dataset,',
            ),
        ),
    },
    check_program="""
import asyncio, tempfile, httpx
from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings

async def main():
    async with Modelyard(Settings(home=tempfile.mkdtemp()), environ={}) as yard:
        key = await yard.services.tenancy.dataset_keys.create("default")
        transport = httpx.ASGITransport(gateway_for(yard.services))
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8790", headers=headers) as client:
            made = await client.post("/v1/datasets", json={"name": "d", "indexing_technique": "economy"})
            dataset = f"/v1/datasets/{made.json()['id']}"
            for text in ("short", "a long text", "long text"):
                body = {"name": text, "text": text, "process_rule": {"mode": "automatic"}}
                body["indexing_technique"] = "economy"
                added = await client.post(f"{dataset}/document/create-by-text", json=body)
                batch = added.json()["batch"]
                while (await client.get(f"{dataset}/documents/{batch}/indexing-status")).json()["data"][0][
                    "indexing_status"] not in ("completed", "error"):
                    await asyncio.sleep(0.05)
            answer = await client.get(f"{dataset}/largest-documents", params={"limit": 2})
        if [row["name"] for row in answer.json()["data"]] == ["a long text", "long text"]:
            print("answered")

asyncio.run(main())
""",
)


def add(addition: Addition) -> Outcome:
    """Apply the addition to a copy of the checkout and check it there."""
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=_IGNORED)
        # Commit the copy first: `git status` then lists exactly the files that the
        # addition changed.
        _git(copy, "init", "-q")
        _git(copy, "add", "-A", "-f")
        _git(
            copy,
            "-c",
            "user.name=proof",
            "-c",
            "user.email=proof@localhost",
            "commit",
            "-qm",
            "Before",
        )
        problem = _apply(copy, addition) or _check(copy, addition)
        # New files are marked `??` and do not count; only modified ones do.
        edited = [
            line[3:]
            for line in _git(copy, "status", "--porcelain").splitlines()
            if line.startswith(" M")
        ]
        return Outcome(sorted(edited), problem)


def _apply(copy: Path, addition: Addition) -> str:
    """Write the files and edits. Return the problem if an edit does not apply, else an
    empty string."""
    for name, text in addition.files.items():
        (copy / name).write_text(text, "utf-8")
    for name, edits in addition.edits.items():
        text = (copy / name).read_text("utf-8")
        for original, replacement in edits:
            # Fail clearly if the source has changed since this addition was written.
            if original not in text:
                return f"{name} has no {original.strip()[:60]!r}"
            text = text.replace(original, replacement, 1)
        (copy / name).write_text(text, "utf-8")
    return ""


def _check(copy: Path, addition: Addition) -> str:
    """Run the copy's own checks. Return the first failure, or an empty string."""
    # Generate the reference first, because the tests compare it with the tables.
    reference_process = _python(copy, "-m", "tools.reference")
    if reference_process.returncode:
        return f"the reference cannot be made: {reference_process.stderr[-300:]}"
    linted = _run(
        copy, str(Path(sys.executable).with_name("lint-imports")), "--no-cache"
    )
    if linted.returncode:
        return f"a contract is broken: {linted.stdout[-300:]}"
    tested = _python(
        copy,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *_TESTS,
        "-k",
        _TRIED,
    )
    if tested.returncode:
        return f"a test fails: {tested.stdout[-300:]}"
    # The imports of the new code are checked above; now call the new route.
    process = _python(copy, "-c", addition.check_program)
    return (
        ""
        if "answered" in process.stdout
        else f"it does not answer: {process.stderr[-300:]}"
    )


def _python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(copy, sys.executable, *arguments)


def _run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the copy. PYTHONPATH puts the copy's source before the one of
    this checkout."""
    # Nothing of this process's environment: the copy must not use this checkout.
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{copy / 'src'}:{copy}",
        "HOME": str(copy.parent),
    }
    options = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=copy, env=environ, **options)


def _git(copy: Path, *arguments: str) -> str:
    process = subprocess.run(
        ["git", *arguments], cwd=copy, capture_output=True, text=True, check=True
    )
    return process.stdout
