"""Kill the real server again and again under load, and hold its ledger against what the provider wrote down.

MODELYARD_KILLS says how often; 1,000 where nothing is said.
"""

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.show.proof import Proof, free_port
from tools.show.truth_log import Account, Callers, TruthfulUpstream, account, home_with, kill, ready, rows_of, zygote

_PG_KILLS = 10


def killed_servers(kills: int, folder: Path, *, seed: int = 1, **settings: Any) -> tuple[Account, float]:
    """The account after so many kills, and the seconds that it took."""
    rng, begun, port = random.Random(seed), time.monotonic(), free_port()
    # Whole answers take a moment, as they do: callers without pause would keep the server from reading its streams.
    with TruthfulUpstream(latency=0.01) as upstream:
        environ = home_with(folder, upstream.url, **settings)
        with zygote(environ) as servers:
            with Callers(port) as callers:
                for _ in range(kills):
                    server = servers.start("serve", "--port", str(port))
                    if not ready(port):
                        raise RuntimeError("the server did not start")
                    time.sleep(rng.uniform(0.01, 0.25))
                    upstream.kill(server)
            # One more takes over what the last one left, and is stopped as it should be.
            server = servers.start("serve", "--port", str(port))
            ready(port)
            time.sleep(0.5)
            kill(server, signal.SIGTERM)
        database = settings.get("database") or str(folder / "modelyard.db")
        return account(upstream.served, rows_of(database), callers.whole), time.monotonic() - begun


def killed_database(kills: int, folder: Path) -> Account:
    """The server stays; the database server is killed, and started again, under load."""
    from tools.show.servers import Postgres

    port, rng = free_port(), random.Random(2)
    with TruthfulUpstream() as upstream, Postgres(folder / "postgres") as postgres:
        environ = home_with(folder, upstream.url, database=postgres.url)
        with zygote(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            if not ready(port):
                raise RuntimeError("the server did not start")
            with Callers(port) as callers:
                for _ in range(kills):
                    time.sleep(rng.uniform(0.3, 1.0))
                    postgres.kill()
                    time.sleep(rng.uniform(0.1, 0.8))
                    postgres.start()
            time.sleep(3.0)
            kill(server, signal.SIGTERM)
            # Both at once, and then a server that takes over.
            server = servers.start("serve", "--port", str(port))
            ready(port)
            with Callers(port, prefix="v") as more:
                time.sleep(1.0)
                upstream.kill(server)
            server = servers.start("serve", "--port", str(port))
            ready(port)
            time.sleep(1.0)
            kill(server, signal.SIGTERM)
        return account(upstream.served, rows_of(postgres.url), callers.whole | more.whole)


def show(proof: Proof, name: str, found: Account, *, may_be_off: float = 0.01) -> None:
    proof.line(f"{name}: requests served by the provider", found.requests, found.requests > 0)
    proof.line(f"{name}: rows lost", found.lost, found.lost == 0)
    proof.line(f"{name}: rows doubled", found.doubled, found.doubled == 0)
    proof.line(f"{name}: whole answers with wrong counts", found.wrong, found.wrong == 0)
    proof.line(
        f"{name}: tokens on {found.killed_streams} killed streams",
        f"{found.row_tokens} booked, {found.truth_tokens} sent: {found.difference:.2%} off",
        found.difference <= may_be_off,
    )
    proof.line(f"{name}: rows of calls that never reached the provider", found.unserved)
    proof.figures[name] = {
        "requests": found.requests, "rows": found.rows, "lost": found.lost, "doubled": found.doubled,
        "wrong": found.wrong, "killed_streams": found.killed_streams, "off": round(found.difference, 5),
    }  # fmt: skip


def prove() -> Proof:
    proof = Proof()
    kills = int(os.environ.get("MODELYARD_KILLS", "1000"))
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        found, seconds = killed_servers(kills, Path(folder) / "sqlite")
        proof.line("kills of the server on SQLite", f"{kills} in {seconds:.0f} s", True)
        show(proof, "SQLite", found)
        from tools.show.servers import Postgres

        with Postgres(Path(folder) / "pg") as postgres:
            some = max(10, kills // 10)
            found, seconds = killed_servers(some, Path(folder) / "server", database=postgres.url)
            proof.line("kills of the server on PostgreSQL", f"{some} in {seconds:.0f} s", True)
            show(proof, "PostgreSQL, server killed", found)
        found = killed_database(_PG_KILLS, Path(folder) / "database")
        proof.line("kills of PostgreSQL itself", _PG_KILLS, True)
        show(proof, "PostgreSQL killed", found)
    return proof
