"""The console in Chromium with a real server.

Without Chromium, or without a way to build the page, the tests are skipped with the
reason.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from tools.show.browser import chromium, server
from tools.show.console_access import inspect_pages
from tools.show.console_figures import first_page
from tools.show.console_journeys import JOURNEYS, run_journey
from tools.show.console_safety import (
    CORPUS,
    check_access_matrix,
    check_security_headers,
    find_executed_scripts,
)
from tools.show.console_world import world
from tools.show.servers import Postgres

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]


@pytest.mark.proof("console-journeys")
@pytest.mark.parametrize("name", JOURNEYS)
def test_each_journey_succeeds(web_browser: Any, name: str):
    failure, _ = run_journey(web_browser, name)
    assert failure == ""


def test_a_journey_succeeds_on_postgresql(web_browser: Any, tmp_path: Path):
    with Postgres(tmp_path / "data") as postgres:
        failure, _ = run_journey(
            web_browser, "find why a request failed over", database=postgres.url
        )
    assert failure == ""


@pytest.mark.proof("console-access")
@pytest.mark.parametrize(
    "name", ["create a key and revoke it", "draw a workflow from nothing and run it"]
)
def test_each_journey_succeeds_with_the_keyboard(web_browser: Any, name: str):
    failure, _ = run_journey(web_browser, name, keyboard=True)
    assert failure == ""


@pytest.mark.proof("console-access")
def test_every_page_is_accessible_and_in_one_language(web_browser: Any):
    with world() as console_world:
        for language, theme in (("en", "light"), ("zh", "dark")):
            violations, missing = inspect_pages(
                web_browser, console_world, console_world.paths(), language, theme
            )
            assert (violations, missing) == ([], [])
        assert check_security_headers(console_world) == []


@pytest.mark.proof("console-safety")
def test_no_script_that_somebody_wrote_runs(web_browser: Any):
    _, ran = find_executed_scripts(
        web_browser, " ".join([CORPUS[0], CORPUS[2], CORPUS[6]])
    )
    assert ran == []


@pytest.mark.proof("console-safety")
def test_no_route_answers_whoever_has_no_right_to_it():
    with tempfile.TemporaryDirectory() as folder:
        counts, exposed_routes = check_access_matrix(Path(folder) / "home")
    assert exposed_routes == []
    assert all(counts.values())


@pytest.mark.proof("console-figures")
def test_the_first_page_loads_little_and_becomes_usable(
    web_browser: Any, tmp_path: Path
):
    with server(home=tmp_path) as served:
        size, seconds = first_page(web_browser, served)
    # How soon it is usable is measured by the full proof, on a quiet machine.
    assert 0 < size <= 250_000
    assert seconds > 0
