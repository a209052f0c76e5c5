"""What happens to somebody at work: the session ends, the server goes away, somebody else was quicker, the file is wrong."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tools.show.browser import Person, chromium, person, server
from tools.show.console_journeys import greeter
from tools.show.proof import free_port, ready_home, running, serve_command

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]
PASSWORD = "correct horse battery"


@pytest.fixture
def one(made: Any, tmp_path: Path) -> Iterator[Person]:
    with ExitStack() as stack:
        served = stack.enter_context(server("", home=tmp_path / "home"))
        yield stack.enter_context(person(made, served.origin))


def drawn(one: Person) -> str:
    """A workflow, open on the canvas with its template's form beside it."""
    headers = {"origin": one.origin}
    answered = httpx.post(
        f"{one.origin}/admin/v1/apps", json={"file": greeter()}, cookies=cookies(one), headers=headers
    )
    assert answered.status_code == 201, answered.text
    app = answered.json()["id"]
    one.goto(f"/workflows/{app}")
    one.page.locator(".react-flow__node").nth(2).wait_for()
    one.page.locator(".outline summary").click()
    one.page.locator(".outline").get_by_role("button", name="Greet").click()
    return app


def cookies(one: Person) -> dict[str, str]:
    return {each["name"]: each["value"] for each in one.page.context.cookies()}


def test_a_session_that_ends_in_the_middle_of_an_edit_loses_nothing(one: Person):
    one.goto("/")
    setup = {"email": "o@example.com", "name": "O", "password": PASSWORD}
    assert one.page.request.post(f"{one.origin}/console/api/setup", data=setup, headers={"origin": one.origin}).ok
    app = drawn(one)
    field = one.page.locator("aside.inspector").get_by_label("Template", exact=True)
    field.fill("Good evening, {{ name }}!")
    one.page.wait_for_timeout(700)
    one.page.context.clear_cookies()
    one.page.get_by_role("button", name="Save", exact=True).click()
    box = one.page.get_by_role("dialog", name="You were signed out")
    box.get_by_label("Email").fill("o@example.com")
    box.get_by_label("Password").fill(PASSWORD)
    box.get_by_role("button", name="Sign in").click()
    box.wait_for(state="detached")
    assert field.input_value() == "Good evening, {{ name }}!"
    one.page.get_by_role("button", name="Save", exact=True).click()
    one.sees("The draft is saved.")
    kept = httpx.get(f"{one.origin}/admin/v1/apps/{app}/file", cookies=cookies(one), headers={"origin": one.origin})
    assert "Good evening" in kept.text


def test_what_was_not_saved_is_there_after_a_reload(one: Person):
    drawn(one)
    one.page.locator("aside.inspector").get_by_label("Template", exact=True).fill("Not saved yet {{ name }}")
    one.page.wait_for_timeout(900)
    one.page.reload()
    one.page.locator(".outline summary").click()
    one.page.locator(".outline").get_by_role("button", name="Greet").click()
    shown = one.page.locator("aside.inspector").get_by_label("Template", exact=True).input_value()
    assert shown == "Not saved yet {{ name }}"


def test_of_two_people_who_edit_one_workflow_none_loses_their_work_unasked(one: Person, made: Any):
    app = drawn(one)
    with person(made, one.origin) as other:
        other.goto(f"/workflows/{app}")
        other.page.locator(".react-flow__node").nth(2).wait_for()
        other.page.locator(".outline summary").click()
        other.page.locator(".outline").get_by_role("button", name="Greet").click()
        for who, text in ((one, "mine"), (other, "theirs")):
            who.page.locator("aside.inspector").get_by_label("Template", exact=True).fill(text)
        one.page.get_by_role("button", name="Save", exact=True).click()
        one.sees("The draft is saved.")
        other.page.wait_for_timeout(3500)
        if other.page.get_by_role("button", name="Save", exact=True).is_enabled():
            other.page.get_by_role("button", name="Save", exact=True).click()
        other.sees("Somebody else has changed this since you began.")
        assert "mine" in httpx.get(f"{one.origin}/admin/v1/apps/{app}/file").text
        other.page.get_by_role("button", name="Save mine over it").click()
        other.sees("The draft is saved.")
        assert "theirs" in httpx.get(f"{one.origin}/admin/v1/apps/{app}/file").text


def test_a_server_that_goes_away_is_said_and_the_page_goes_on_when_it_is_back(made: Any, tmp_path: Path):
    home, port = ready_home(tmp_path / "home"), free_port()
    environ = {"MODELYARD_HOME": str(home), "MODELYARD_LOCAL__ENABLED": "false", "MODELYARD_PLUGINS__DEBUG_PORT": "0"}
    with ExitStack() as stack:
        with running(serve_command(), port, environ=environ):
            one = stack.enter_context(person(made, f"http://127.0.0.1:{port}"))
            one.goto("/keys")
            one.sees("No keys yet.")
        one.sees("This page goes on by itself when it is back.", 30)
        one.page.get_by_role("tab", name="End users").click()
        one.sees("The server cannot be reached.")
        with running(serve_command(), port, environ=environ):
            one.page.get_by_text("goes on by itself").wait_for(state="detached", timeout=30_000)
            httpx.post(f"http://127.0.0.1:{port}/admin/v1/users", json={"name": "Ada, who came later"})
            one.sees("Ada, who came later", 30)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("large.yml", "a: " + "x" * (20 << 20), "The file is larger than 10 MB"), ("broken.yml", "app: [", "no YAML"),
    ("other.yml", "just: something", "'app' is missing"), ("picture.yml", "\x00\x01\x02", "no YAML"),
])  # fmt: skip
def test_a_file_that_is_no_app_is_refused_in_words(one: Person, name: str, content: str, words: str):
    one.goto("/apps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(content, "utf-8")
        one.page.locator("input[type=file]").set_input_files(str(path))
        one.sees(words)
    assert httpx.get(f"{one.origin}/admin/v1/apps").json()["data"] == []


def test_a_link_to_what_is_not_ones_own_shows_that_it_is_not_there(one: Person):
    httpx.post(f"{one.origin}/admin/v1/tenants", json={"name": "other"})
    theirs = httpx.post(f"{one.origin}/admin/v1/apps?tenant=other", json={"file": greeter()})
    assert theirs.status_code == 201, theirs.text
    app = theirs.json()["id"]
    for path, words in (
        (f"/apps/{app}", "does not exist"), (f"/workflows/{app}", "does not exist"), ("/knowledge/nobody", "not"),
        ("/requests/req_nobody", "does not exist"), ("/providers/nobody", "nobody"), ("/nowhere", "There is no such page."),
    ):  # fmt: skip
        one.goto(path)
        one.sees(words)
    assert "greeter" not in json.dumps(one.page.locator("main").inner_text())
