"""Forms by mail: a real mail server, the page to which the mail leads, and who may do
what with its address."""

import re
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from modelyard.base.settings import MailSettings
from tests.gateway.conftest import Running
from tests.mail_server import MailServer, mail_server
from tests.workflow.building import document

Start = Callable[..., Running]
BASE = "https://yard.test"
HOSTILE = "<script>alert(1)</script> {{#url#}} {{#env.KEY#}} \"'><img src=x onerror=y>"
ASK = {
    "type": "human-input",
    "form_content": "Refund for {{#start.q#}}?\n{{#$output.why#}}\nProof: {{#$output.proof#}}",
    "timeout": 1,
    "inputs": [
        {"type": "paragraph", "output_variable_name": "why",
         "default": {"type": "variable", "selector": ["start", "q"]}},
        {"type": "select", "output_variable_name": "size",
         "option_source": {"type": "constant", "value": ["S", "M <b>"]}},
        {"type": "file", "output_variable_name": "proof", "allowed_file_types": ["image"]},
    ],
    "user_actions": [
        {"id": "yes", "title": "Yes <b>", "button_style": "primary"},
        {"id": "no", "title": "No"},
    ],
    "delivery_methods": [
        {"id": "m", "type": "email", "enabled": True, "config": {
            "recipients": {"items": [{"type": "external", "email": "ada@shop.test"},
                                     {"type": "external", "email": "bob@shop.test"}]},
            "subject": "Approve {{#start.q#}}", "body": "About {{#start.q#}}:\n{{#url#}}"}},
    ],
}  # fmt: skip
APP = yaml.dump(
    document(
        {
            "start": {"type": "start", "variables": [{"variable": "q", "type": "paragraph"}]},
            "ask": ASK,
            "end": {"type": "end", "outputs": [
                {"variable": name, "value_selector": ["ask", name]} for name in ("why", "size", "proof")
            ]},
        },
        ["start > ask", "ask:yes > end", "ask:no > end"],
        environment_variables=[{"name": "KEY", "value": "s3cret-value", "value_type": "secret"}],
    )
)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


class World:
    """A gateway with an app whose form is sent by mail."""

    def __init__(self, running: Running, server: MailServer) -> None:
        self.server = server
        self.http = httpx.Client(base_url=running.origin, timeout=30)
        created = self.http.post("/admin/v1/apps", json={"file": APP}).json()
        self.warnings: list[str] = created["warnings"]
        path = f"/admin/v1/apps/{created['id']}/keys"
        self.key = {"authorization": f"Bearer {self.http.post(path).json()['key']}"}

    def start(self, q: str = "5 €") -> tuple[str, str]:
        """Run the app until it waits; return the run and the token of the service API."""
        body = {"inputs": {"q": q}, "user": "u", "response_mode": "blocking"}
        data = self.http.post("/v1/workflows/run", json=body, headers=self.key).json()
        run = data.get("workflow_run_id") or data["data"]["id"]
        events = self.http.get(f"/admin/v1/runs/{run}/events").text
        token = re.search(r'"form_token":"([^"]+)"', events)
        assert token
        return run, token[1]

    def run(self, run: str) -> dict[str, Any]:
        return self.http.get(f"/admin/v1/runs/{run}").json()

    def ended(self, run: str) -> dict[str, Any]:
        for _ in range(600):
            if (view := self.run(run))["finished_at"] is not None:
                return view
            time.sleep(0.05)
        raise AssertionError("The run did not end")

    def answer(self, path: str, files: Any = None, **fields: str) -> httpx.Response:
        # A file without a name makes httpx send multipart even if there is none.
        parts = [(name, (None, value)) for name, value in fields.items()]
        return self.http.post(path, files=[*parts, *(files or ())])


def link_of(message: EmailMessage) -> str:
    """Return the path of the link in a mail."""
    text = message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    found = re.search(re.escape(BASE) + r"(/forms/[\w-]+)", text)
    assert found, text
    return found[1]


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as started:
        yield started


def settings(server: MailServer, **changes: Any) -> MailSettings:
    usual = MailSettings(
        host="127.0.0.1", port=server.port, tls="none", sender="forms@yard.test",
        base_url=BASE, seconds=10.0,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **changes)


@pytest.fixture
def world(start_gateway: Start, server: MailServer) -> Iterator[World]:
    made = World(start_gateway(mail=settings(server)), server)
    yield made
    made.http.close()


def test_a_form_is_sent_by_mail_and_answered_on_its_page(world: World):
    assert world.warnings == []
    run, token = world.start()
    mails = {message["To"]: message for message in world.server.wait(2)}
    mail = mails["ada@shop.test"]
    assert (mail["From"], mail["Subject"]) == ("forms@yard.test", "Approve 5 €")
    html = mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    path = link_of(mail)
    assert f'<a href="{BASE}{path}"' in html
    page = world.http.get(path)
    assert (page.status_code, "Refund for 5 €?" in page.text) == (200, True)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe-inline" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    # Opening the page changes nothing; neither does a program that looks at links.
    assert world.http.head(path).status_code == 200
    fields = {"field:why": "broken\r\nglass", "field:size": "S", "action": "yes"}
    proof = [("field:proof", ("a.png", PNG, "image/png"))]
    answered = world.answer(path, proof, **fields)
    assert (answered.status_code, "Thank you" in answered.text) == (200, True)
    view = world.ended(run)
    assert view["outputs"]["why"] == "broken\nglass"
    assert view["outputs"]["proof"]["filename"] == "a.png"
    assert {(mail["recipient"], mail["state"]) for mail in view["mails"]} == {
        ("ada@shop.test", "sent"),
        ("bob@shop.test", "sent"),
    }
    # One answer wins, on every way to the form.
    other = link_of(mails["bob@shop.test"])
    for closed in (path, other):
        assert world.http.get(closed).status_code == 410
        assert world.answer(closed, proof, **fields).status_code == 410
    form = f"/v1/form/human_input/{token}"
    assert world.http.get(form, headers=world.key).status_code == 412
    # What became of the mails is in the record of the node too.
    events = world.http.get(f"/admin/v1/runs/{run}/events").text
    assert '"mails":[{"recipient":"ada@shop.test","state":"sent"' in events


def test_texts_from_outside_are_shown_and_never_applied(world: World):
    world.start(HOSTILE)
    mail = world.server.wait()[0]
    path = link_of(mail)
    page = world.http.get(path).text
    html = mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    for text in (page, html):
        assert "<script" not in text
        assert "<img" not in text
        assert "&lt;script&gt;" in text
        assert "{{#url#}}" in text
        assert "s3cret-value" not in text
    assert "Yes &lt;b&gt;" in page
    assert page.count("<form") == 1
    # A subject with line breaks stays one header.
    world.start("x\r\nBcc: eve@evil.test\r\n\r\nbody")
    later = world.server.wait(4)[2:]
    assert {message["Subject"] for message in later} == {
        "Approve x Bcc: eve@evil.test body"
    }
    assert all(message["Bcc"] is None for message in later)
    assert all(len(recipients) == 1 for recipients in world.server.recipients)


def test_a_wrong_answer_shows_the_form_again_with_what_was_typed(world: World):
    run, _ = world.start()
    path = link_of(world.server.wait()[0])
    usual = {"field:why": "<typed>", "field:size": "S", "action": "yes"}
    cases = [
        ({**usual, "action": "maybe"}, [], "must be one of yes, no"),
        ({**usual, "field:size": "XL"}, [], "must be one of S, M"),
        (usual, [("field:proof", ("a.exe", b"MZ", "image/png"))], "of type custom"),
    ]
    for fields, files, message in cases:
        refused = world.answer(path, files, **fields)
        assert (refused.status_code, message in refused.text) == (400, True)
        assert "&lt;typed&gt;</textarea>" in refused.text
    assert world.http.post(path, json=usual).status_code == 400
    assert world.run(run)["status"] == "paused"
    # Files of refused answers do not stay.
    assert world.answer(path, **usual).status_code == 200
    assert world.ended(run)["outputs"]["proof"] is None


def test_a_token_opens_its_own_form_and_nothing_else(world: World):
    _, service_token = world.start()
    world.start("second")
    mails = world.server.wait(4)
    token = link_of(mails[0]).rpartition("/")[2]
    for path in (
        f"/forms/{service_token}",
        f"/forms/{token[:-1]}",
        f"/forms/{token}x",
        f"/forms/{token[:-1]}%00",
        "/forms/%25",
    ):
        missing = world.http.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (
            404,
            "text/html; charset=utf-8",
        ), path
    form = world.http.get(f"/v1/form/human_input/{token}", headers=world.key)
    assert form.status_code == 404
    headers = {"authorization": f"Bearer {token}"}
    assert world.http.get("/v1/info", headers=headers).status_code == 401
    contents = {
        world.http.get(link_of(message)).text.count("second") for message in mails
    }
    assert contents == {0, 2}


def test_too_many_answers_of_one_network_are_refused(world: World):
    world.start()
    path = link_of(world.server.wait()[0])
    statuses = [world.answer(path, action="maybe").status_code for _ in range(31)]
    assert statuses == [400] * 30 + [429]


def test_a_server_that_can_send_mail_says_so(world: World):
    assert world.http.get("/admin/v1/about").json()["mail_problem"] is None


def test_a_refused_mail_does_not_fail_the_run(world: World):
    world.server.recipient_replies += ["550 no such user"] * 2
    run, _ = world.start()
    world.server.wait_for_tries(2)
    for _ in range(600):
        view = world.run(run)
        if all(mail["state"] == "failed" for mail in view["mails"]):
            break
        time.sleep(0.05)
    assert all("550 no such user" in mail["error"] for mail in view["mails"])
    assert view["status"] == "paused"


def test_without_a_mail_server_the_import_says_what_to_set(
    start_gateway: Start, server: MailServer
):
    for missing in ("host", "sender", "base_url"):
        world = World(start_gateway(mail=settings(server, **{missing: ""})), server)
        (warning,) = world.warnings
        assert warning.endswith(f"Mail is not set up: set mail.{missing}")
        assert "e-mail to ada@shop.test, bob@shop.test" in warning
        checked = world.http.post("/admin/v1/apps/check", json={"file": APP}).json()
        assert checked["warnings"][0]["message"] == warning.partition("Node 'ask': ")[2]
        run, _ = world.start()
        problem = f"Mail is not set up: set mail.{missing}"
        assert {mail["error"] for mail in world.run(run)["mails"]} == {problem}
        # The console shows it before anybody builds a form.
        assert world.http.get("/admin/v1/about").json()["mail_problem"] == problem
        world.http.close()
    assert server.tries == 0
