"""The product as a user starts it, with real models.

All of these tests share one pytest worker and one server.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.show.proof import free_port, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("local"))
            item.add_marker(pytest.mark.local)


class Served:
    def __init__(self, port: int, pid: int, environ: dict[str, str]) -> None:
        self.port = port
        self.pid = pid
        self.environ = environ
        self.url = f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, weights_folder: Path
) -> Iterator[Served]:
    """`modelyard serve` with a new home and the weights that `make test` downloaded."""
    home = tmp_path_factory.mktemp("home")
    environ = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_LOCAL__WEIGHTS": str(weights_folder),
        "MODELYARD_LOCAL__HUB": "",
    }
    port = free_port()
    with running(
        [sys.executable, "-m", "modelyard", "serve"], port, environ=environ, seconds=30
    ) as (process, _):
        yield Served(
            port, process.pid, {**os.environ, **environ, "MODELYARD_PORT": str(port)}
        )
