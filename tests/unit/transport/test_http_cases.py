"""The HTTP client against a world that is mostly written by others: `tools/show/http_world.py`."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest
from tools.show.http_cases import CASES, Case
from tools.show.http_world import Others, in_world, others

pytestmark = pytest.mark.xdist_group("http_cases")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Generator[Others]:
    folder: Path = tmp_path_factory.mktemp("http")
    with others(folder) as known:
        yield known


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(outside: Others, case: Case):
    assert asyncio.run(in_world(outside, case.run)) == case.expected
