"""The console in Chromium before a real server. Where there is no Chromium, or no way to build the page, it is said."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from tools.show.browser import chromium
from tools.show.console_access import looked_at
from tools.show.console_journeys import JOURNEYS, travel
from tools.show.console_safety import CORPUS, matrix, policy, scripts
from tools.show.console_world import world
from tools.show.servers import Postgres

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("name", JOURNEYS)
def test_a_new_user_travels(made: Any, name: str):
    wrong, _ = travel(made, name)
    assert wrong == ""


def test_a_server_on_postgresql_is_no_other(made: Any, tmp_path: Path):
    with Postgres(tmp_path / "data") as there:
        wrong, _ = travel(made, "find why a request failed over", database=there.url)
    assert wrong == ""


@pytest.mark.parametrize("name", ["create a key and revoke it", "draw a workflow from nothing and run it"])
def test_who_has_no_pointer_travels_too(made: Any, name: str):
    wrong, _ = travel(made, name, keyboard=True)
    assert wrong == ""


def test_every_page_is_for_everybody_and_in_one_language(made: Any):
    with world() as there:
        for language, theme in (("en", "light"), ("zh", "dark")):
            wrong, missing = looked_at(made, there, there.paths(), language, theme)
            assert (wrong, missing) == ([], [])
        assert policy(there) == []


def test_no_script_that_somebody_wrote_runs(made: Any):
    _, ran = scripts(made, " ".join([CORPUS[0], CORPUS[2], CORPUS[6]]))
    assert ran == []


def test_no_route_answers_whoever_has_no_right_to_it():
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = matrix(Path(folder) / "home")
    assert wrong == []
    assert all(counts.values())
