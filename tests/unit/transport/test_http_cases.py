"""Tests for the HTTP client against third-party servers: `tools/show/http_world.py`."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest
from tools.show.http_cases import CASES, Case
from tools.show.http_world import ExternalServices, external_services, run_case

pytestmark = [pytest.mark.xdist_group("http_cases"), pytest.mark.proof("http-client")]


@pytest.fixture(scope="module")
def peer_servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[ExternalServices]:
    folder: Path = tmp_path_factory.mktemp("http")
    with external_services(folder) as peers:
        yield peers


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(peer_servers: ExternalServices, case: Case):
    assert asyncio.run(run_case(peer_servers, case.run)) == case.expected
