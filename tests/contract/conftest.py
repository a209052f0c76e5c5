"""Real servers for the stores that machines share."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tools.show.servers import Postgres, Temporal, Valkey, ValkeyCluster


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "data") as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Temporal]:
    with Temporal(tmp_path_factory.mktemp("temporal")) as server:
        yield server


def new_database(postgres_url: str) -> str:
    """Create a database on a server and return its URL."""
    name = f"own_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    return postgres_url.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "x.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
