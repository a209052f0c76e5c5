"""Kill the real server repeatedly under load and compare its ledger with the provider's
own records.

MODELYARD_KILLS sets the number of kills; the default is 1,000.
"""

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.show.proof import Proof, free_port
from tools.show.truth_log import (
    Callers,
    LedgerComparison,
    TruthfulUpstream,
    compare_ledger,
    home_with,
    kill,
    rows_of,
    server_forker,
    wait_until_healthy,
)

_PG_KILLS = 10


def killed_servers(
    kills: int, folder: Path, *, seed: int = 1, **settings: Any
) -> tuple[LedgerComparison, float]:
    """Kill the server `kills` times. Return the comparison of ledger and provider
    records, and the duration in seconds."""
    rng, started_at, port = random.Random(seed), time.monotonic(), free_port()
    # Complete responses have some latency, as with a real provider. Callers without any
    # pause would keep the server from reading its streams.
    with TruthfulUpstream(latency=0.01) as upstream:
        environ = home_with(folder, upstream.url, **settings)
        with server_forker(environ) as servers:
            with Callers(port) as callers:
                for _ in range(kills):
                    server = servers.start("serve", "--port", str(port))
                    if not wait_until_healthy(port):
                        raise RuntimeError("the server did not start")
                    # Kill at a random moment after the server is ready.
                    time.sleep(rng.uniform(0.01, 0.25))
                    upstream.kill(server)
            # A last server recovers the records of the killed one and is stopped
            # normally.
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            # Leave time to write the recovered rows before the normal shutdown.
            time.sleep(0.5)
            kill(server, signal.SIGTERM)
        database = settings.get("database") or str(folder / "modelyard.db")
        return compare_ledger(
            upstream.served, rows_of(database), callers.whole
        ), time.monotonic() - started_at


def killed_database(kills: int, folder: Path) -> LedgerComparison:
    """Kill and restart PostgreSQL under load while the server keeps running. Return the
    comparison."""
    from tools.show.servers import Postgres

    port, rng = free_port(), random.Random(2)
    with TruthfulUpstream() as upstream, Postgres(folder / "postgres") as postgres:
        environ = home_with(folder, upstream.url, database=postgres.url)
        with server_forker(environ) as servers:
            server = servers.start("serve", "--port", str(port))
            if not wait_until_healthy(port):
                raise RuntimeError("the server did not start")
            with Callers(port) as callers:
                for _ in range(kills):
                    time.sleep(rng.uniform(0.3, 1.0))
                    postgres.kill()
                    # PostgreSQL stays down for a random time while calls continue.
                    time.sleep(rng.uniform(0.1, 0.8))
                    postgres.start()
            time.sleep(3.0)
            kill(server, signal.SIGTERM)
            # Kill the server as well, and let another one recover its records.
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            # Another prefix, so that the call ids differ from those of the first
            # callers.
            with Callers(port, prefix="v") as later_callers:
                time.sleep(1.0)
                upstream.kill(server)
            server = servers.start("serve", "--port", str(port))
            wait_until_healthy(port)
            time.sleep(1.0)
            kill(server, signal.SIGTERM)
        return compare_ledger(
            upstream.served, rows_of(postgres.url), callers.whole | later_callers.whole
        )


def show(
    proof: Proof, name: str, comparison: LedgerComparison, *, may_be_off: float = 0.01
) -> None:
    """Report a comparison. `may_be_off` is the accepted relative error of token counts
    on killed streams."""
    proof.line(
        f"{name}: requests served by the provider",
        comparison.requests,
        comparison.requests > 0,
    )
    # Lost or duplicated rows are never acceptable; token counts of killed streams may
    # be estimated.
    proof.line(f"{name}: rows lost", comparison.lost, comparison.lost == 0)
    proof.line(f"{name}: rows doubled", comparison.doubled, comparison.doubled == 0)
    proof.line(
        f"{name}: complete answers with wrong token counts",
        comparison.wrong,
        comparison.wrong == 0,
    )
    proof.line(
        f"{name}: tokens on {comparison.killed_streams} killed streams",
        f"{comparison.row_tokens} recorded, {comparison.truth_tokens} sent: {comparison.difference:.2%} off",
        comparison.difference <= may_be_off,
    )
    proof.line(
        f"{name}: rows of calls that never reached the provider", comparison.unserved
    )
    proof.figures[name] = {
        "requests": comparison.requests,
        "rows": comparison.rows,
        "lost": comparison.lost,
        "doubled": comparison.doubled,
        "wrong": comparison.wrong,
        "killed_streams": comparison.killed_streams,
        "off": round(comparison.difference, 5),
    }


def prove() -> Proof:
    """Kill the server on SQLite and PostgreSQL, then PostgreSQL itself, and report the
    ledgers."""
    proof = Proof()
    kills = int(os.environ.get("MODELYARD_KILLS", "1000"))
    with tempfile.TemporaryDirectory(prefix="modelyard-show-") as folder:
        comparison, seconds = killed_servers(kills, Path(folder) / "sqlite")
        proof.line("kills of the server on SQLite", f"{kills} in {seconds:.0f} s", True)
        show(proof, "SQLite", comparison)
        from tools.show.servers import Postgres

        with Postgres(Path(folder) / "pg") as postgres:
            # PostgreSQL takes longer per kill, so it gets a tenth of the kills.
            pg_kills = max(10, kills // 10)
            comparison, seconds = killed_servers(
                pg_kills, Path(folder) / "server", database=postgres.url
            )
            proof.line(
                "kills of the server on PostgreSQL",
                f"{pg_kills} in {seconds:.0f} s",
                True,
            )
            show(proof, "PostgreSQL, server killed", comparison)
        comparison = killed_database(_PG_KILLS, Path(folder) / "database")
        proof.line("kills of PostgreSQL itself", _PG_KILLS, True)
        show(proof, "PostgreSQL killed", comparison)
    return proof
