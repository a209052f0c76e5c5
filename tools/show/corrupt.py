"""Overwrite pages of the usage table under a running server. The server must refuse
calls and report "not ready"; restoring a backup must recover everything."""

import json
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from tools.show.proof import Proof, free_port, modelyard, running, serve_command
from tools.show.rollback import OWNER, SETTINGS
from tools.show.rotate import ask
from tools.show.truth_log import TruthfulUpstream

_CALLS = 200
_FORMATS = {
    "/v1/chat/completions": {
        "model": "own/m",
        "messages": [{"role": "user", "content": "hi"}],
    },
    "/v1/messages": {
        "model": "own/m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    },
    "/v1beta/models/own%2Fm:generateContent": {
        "contents": [{"parts": [{"text": "hi"}]}]
    },
    "/v2/chat": {"model": "own/m", "messages": [{"role": "user", "content": "hi"}]},
}


def _ids(path: Path) -> set[str]:
    """Return the ids of all rows of the usage table."""
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM usage")}


def _overwrite(path: Path) -> int:
    """Overwrite every second child page of the usage table and return how many were
    overwritten.

    See https://www.sqlite.org/fileformat2.html for the page layout.
    """
    with closing(sqlite3.connect(path)) as connection:
        # Move all committed pages from the write-ahead log into the database file
        # first.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'usage'"
        ).fetchone()[0]
    data = path.read_bytes()
    page = data[(root - 1) * size : root * size]
    children = [root]
    if page[0] == 5:  # an inner page: its cells begin with the numbers of those below
        # An interior B-tree page: the cell count is at byte 3. Each cell starts with a
        # 4-byte child page number.
        count = int.from_bytes(page[3:5], "big")
        cell_offsets = [
            int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(count)
        ]
        children = [
            int.from_bytes(page[offset : offset + 4], "big") for offset in cell_offsets
        ]
    damaged_pages = children[::2]
    with path.open("r+b") as file:
        for number in damaged_pages:
            # SQLite page numbers start at 1.
            file.seek((number - 1) * size)
            file.write(b"\xa5" * size)
    return len(damaged_pages)


def _wait_until(holds: Callable[[], bool], seconds: float) -> float | None:
    """Wait until the condition holds. Return the elapsed seconds, or None on timeout."""
    started_at = time.monotonic()
    while not holds():
        if time.monotonic() - started_at > seconds:
            return None
        time.sleep(0.1)
    return time.monotonic() - started_at


def _all_formats(port: int) -> Counter[int]:
    """Send one call in each of the four wire formats and count the response statuses."""
    return Counter(
        ask(port, "POST", path, body, OWNER)[0] for path, body in _FORMATS.items()
    )


def _ready(port: int) -> tuple[int, str]:
    """Return the status code and the reported problem of the readiness check."""
    status, body = ask(port, "GET", "/health/ready", None, OWNER)
    return status, str(json.loads(body)["problem"])


def prove() -> Proof:
    """Damage the database, check that calls are refused, restore the backup and check
    that no row is lost."""
    proof, port = Proof(), free_port()
    with ExitStack() as stack:
        home = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-show-"))
        )
        upstream = stack.enter_context(TruthfulUpstream())
        (home / "modelyard.yaml").write_text(
            SETTINGS.format(owner=OWNER, url=upstream.url)
        )
        path, environ = home / "modelyard.db", {"MODELYARD_HOME": str(home)}
        with running(serve_command(), port, environ=environ):
            served = sum(
                _all_formats(port)[200] for _ in range(_CALLS // len(_FORMATS))
            )
            # Usage rows are written shortly after the response.
            time.sleep(0.5)
            backup = modelyard("database", "backup", environ=environ).strip()
            ids_before = _ids(path)
            proof.line("calls before", served, served == _CALLS == len(ids_before))
            proof.line("readiness before", _ready(port)[0], _ready(port)[0] == 200)
            _check_damage(proof, port, path, upstream)
        restored = modelyard("database", "restore", backup, environ=environ)
        proof.line(
            "the backup is restored",
            restored.strip() or "yes",
            _ids(path) == ids_before,
        )
        # The database file was replaced, so a new server process is started on it.
        with running(serve_command(), port, environ=environ):
            ready, answers = _ready(port)[0], _all_formats(port)
            time.sleep(0.5)
        ids_after = _ids(path)
    proof.line(
        "ready, and calls are served",
        f"{ready}, {dict(answers)}",
        ready == 200 and answers.keys() == {200},
    )
    lost = ids_before - ids_after
    proof.line("earlier rows that are lost", len(lost), not lost)
    proof.line("rows", len(ids_after), len(ids_after) == _CALLS + len(_FORMATS))
    proof.figures |= {"rows": len(ids_after), "lost": len(lost)}
    return proof


def _check_damage(
    proof: Proof, port: int, path: Path, upstream: TruthfulUpstream
) -> None:
    """Overwrite pages of the database at `path`; the server has to become unready and
    to refuse calls."""
    pages = _overwrite(path)
    proof.line("pages of the table overwritten", pages, pages >= 1)
    # The integrity check runs periodically, so detection takes some seconds.
    seconds = _wait_until(lambda: _ready(port)[0] == 503, 40)
    proof.line(
        "not ready after",
        f"{seconds:.1f} s" if seconds is not None else "never",
        bool(seconds),
    )
    proof.line("the reason", _ready(port)[1][:80], "damaged" in _ready(port)[1])
    requests_before, answers = len(upstream.served), _all_formats(port)
    proof.line("calls in four formats", dict(answers), answers.keys() == {503})
    # A call that cannot be accounted for must not cost money at the provider.
    sent = len(upstream.served) - requests_before
    proof.line("of these, calls that reached the provider", sent, sent == 0)
    proof.figures["noticed_s"] = round(seconds or -1.0, 1)
