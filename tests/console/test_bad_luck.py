"""Tests for interrupted work in the console.

The session ends, the server stops, somebody else saved first, or the file is invalid.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tools.show.browser import Person, chromium, person, server
from tools.show.console_journeys import greeter_app_file
from tools.show.proof import free_port, ready_home, running, serve_command

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]
PASSWORD = "correct horse battery"


@pytest.fixture
def user(web_browser: Any, tmp_path: Path) -> Iterator[Person]:
    with ExitStack() as stack:
        served = stack.enter_context(server("", home=tmp_path / "home"))
        yield stack.enter_context(person(web_browser, served.origin))


def open_workflow(user: Person) -> str:
    """Open a new workflow on the canvas, with its template node's form."""
    headers = {"origin": user.origin}
    answered = httpx.post(
        f"{user.origin}/admin/v1/apps",
        json={"file": greeter_app_file()},
        cookies=cookies(user),
        headers=headers,
    )
    assert answered.status_code == 201, answered.text
    app = answered.json()["id"]
    user.goto(f"/workflows/{app}")
    user.page.locator(".react-flow__node").nth(2).wait_for()
    user.page.locator(".outline summary").click()
    user.page.locator(".outline").get_by_role("button", name="Greet").click()
    return app


def cookies(user: Person) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in user.page.context.cookies()}


def test_a_session_that_ends_during_an_edit_loses_nothing(user: Person):
    user.goto("/")
    setup = {"email": "o@example.com", "name": "O", "password": PASSWORD}
    assert user.page.request.post(
        f"{user.origin}/console/api/setup", data=setup, headers={"origin": user.origin}
    ).ok
    app = open_workflow(user)
    field = user.page.locator("aside.inspector").get_by_label("Template", exact=True)
    field.fill("Good evening, {{ name }}!")
    user.page.wait_for_timeout(700)
    user.page.context.clear_cookies()
    user.page.get_by_role("button", name="Save", exact=True).click()
    box = user.page.get_by_role("dialog", name="Session expired")
    box.get_by_label("Email").fill("o@example.com")
    box.get_by_label("Password").fill(PASSWORD)
    box.get_by_role("button", name="Sign in").click()
    box.wait_for(state="detached")
    assert field.input_value() == "Good evening, {{ name }}!"
    user.page.get_by_role("button", name="Save", exact=True).click()
    user.wait_for_text("The draft is saved.")
    stored_file = httpx.get(
        f"{user.origin}/admin/v1/apps/{app}/file",
        cookies=cookies(user),
        headers={"origin": user.origin},
    )
    assert "Good evening" in stored_file.text


def test_unsaved_changes_survive_a_reload(user: Person):
    open_workflow(user)
    user.page.locator("aside.inspector").get_by_label("Template", exact=True).fill(
        "Not saved yet {{ name }}"
    )
    user.page.wait_for_timeout(900)
    user.page.reload()
    user.page.locator(".outline summary").click()
    user.page.locator(".outline").get_by_role("button", name="Greet").click()
    field_value = (
        user.page.locator("aside.inspector")
        .get_by_label("Template", exact=True)
        .input_value()
    )
    assert field_value == "Not saved yet {{ name }}"


def test_concurrent_edits_of_a_workflow_are_not_overwritten_silently(
    user: Person, web_browser: Any
):
    app = open_workflow(user)
    with person(web_browser, user.origin) as second_user:
        second_user.goto(f"/workflows/{app}")
        second_user.page.locator(".react-flow__node").nth(2).wait_for()
        second_user.page.locator(".outline summary").click()
        second_user.page.locator(".outline").get_by_role("button", name="Greet").click()
        for who, text in ((user, "mine"), (second_user, "theirs")):
            who.page.locator("aside.inspector").get_by_label(
                "Template", exact=True
            ).fill(text)
        user.page.get_by_role("button", name="Save", exact=True).click()
        user.wait_for_text("The draft is saved.")
        second_user.page.wait_for_timeout(3500)
        if second_user.page.get_by_role("button", name="Save", exact=True).is_enabled():
            second_user.page.get_by_role("button", name="Save", exact=True).click()
        second_user.wait_for_text("This draft was changed by someone else.")
        assert "mine" in httpx.get(f"{user.origin}/admin/v1/apps/{app}/file").text
        second_user.page.get_by_role("button", name="Keep my version").click()
        second_user.wait_for_text("The draft is saved.")
        assert "theirs" in httpx.get(f"{user.origin}/admin/v1/apps/{app}/file").text


def test_an_unreachable_server_is_shown_until_it_is_back(
    web_browser: Any, tmp_path: Path
):
    home, port = ready_home(tmp_path / "home"), free_port()
    environ = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_LOCAL__ENABLED": "false",
        "MODELYARD_PLUGINS__DEBUG_PORT": "0",
    }
    with ExitStack() as stack:
        with running(serve_command(), port, environ=environ):
            user = stack.enter_context(person(web_browser, f"http://127.0.0.1:{port}"))
            user.goto("/keys")
            user.wait_for_text("No keys yet.")
        user.wait_for_text("Connection lost. Reconnecting…", 30)
        user.page.get_by_role("tab", name="End users").click()
        user.wait_for_text("The server cannot be reached.")
        with running(serve_command(), port, environ=environ):
            user.page.get_by_text("Connection lost").wait_for(
                state="detached", timeout=30_000
            )
            httpx.post(
                f"http://127.0.0.1:{port}/admin/v1/users",
                json={"name": "Ada, who came later"},
            )
            user.wait_for_text("Ada, who came later", 30)


@pytest.mark.parametrize(("name", "content", "expected_text"), [
    ("large.yml", "a: " + "x" * (20 << 20), "File exceeds 10 MB"), ("broken.yml", "app: [", "Invalid YAML"),
    ("other.yml", "just: something", "Missing section 'app'"), ("picture.yml", "\x00\x01\x02", "Invalid YAML"),
])  # fmt: skip
def test_a_file_that_is_not_an_app_is_refused_with_an_error(
    user: Person, name: str, content: str, expected_text: str
):
    user.goto("/apps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(content, "utf-8")
        user.page.locator("input[type=file]").set_input_files(str(path))
        user.wait_for_text(expected_text)
    assert httpx.get(f"{user.origin}/admin/v1/apps").json()["data"] == []


def test_a_link_to_another_tenants_resource_shows_not_found(user: Person):
    httpx.post(f"{user.origin}/admin/v1/tenants", json={"name": "other"})
    foreign_response = httpx.post(
        f"{user.origin}/admin/v1/apps?tenant=other", json={"file": greeter_app_file()}
    )
    assert foreign_response.status_code == 201, foreign_response.text
    app = foreign_response.json()["id"]
    for path, expected_text in (
        (f"/apps/{app}", "does not exist"), (f"/workflows/{app}", "does not exist"), ("/knowledge/nobody", "not"),
        ("/requests/req_nobody", "not found"), ("/providers/nobody", "nobody"), ("/nowhere", "Page not found."),
    ):  # fmt: skip
        user.goto(path)
        user.wait_for_text(expected_text)
    assert "greeter" not in json.dumps(user.page.locator("main").inner_text())
