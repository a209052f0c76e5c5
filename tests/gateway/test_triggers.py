"""Tests for triggers: webhooks over HTTP and schedules with a fake clock.

Each due minute starts exactly one run.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from modelyard.workflow.triggers import Triggers
from tests.gateway.conftest import Running

Start = Callable[..., Running]
ADMIN = "/admin/v1"
DAY = 86_400.0


def app_file(
    nodes: list[dict[str, Any]], edges: list[tuple[str, str]], name: str = "hooked"
) -> str:
    graph = {
        "nodes": [
            {"id": node["id"], "data": {"title": node["id"], **node}} for node in nodes
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    return yaml.safe_dump(
        {
            "app": {"name": name, "mode": "workflow"},
            "kind": "app",
            "workflow": {"graph": graph},
        }
    )


def webhook(**data: Any) -> str:
    """Return an app whose outputs are the webhook's data."""
    hook = {
        "id": "hook",
        "type": "trigger-webhook",
        "method": "post",
        "content_type": "application/json",
        **data,
    }
    names = [
        parameter["name"]
        for part in ("headers", "params", "body")
        for parameter in hook.get(part, ())
    ]
    outputs = [
        {
            "variable": name.replace("-", "_"),
            "value_selector": ["hook", name.replace("-", "_")],
        }
        for name in [*names, "_webhook_raw"]
    ]
    return app_file(
        [hook, {"id": "end", "type": "end", "outputs": outputs}], [("hook", "end")]
    )


def schedule(cron: str, name: str = "timed") -> str:
    return app_file([
        {"id": "when", "type": "trigger-schedule", "mode": "cron", "cron_expression": cron, "timezone": "UTC"},
        {"id": "say", "type": "template-transform", "template": "rise", "variables": []},
        {"id": "end", "type": "end", "outputs": [{"variable": "text", "value_selector": ["say", "output"]}]},
    ], [("when", "say"), ("say", "end")], name)  # fmt: skip


class Console:
    """An administrator of the gateway."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.http = httpx.Client(base_url=running.origin, timeout=30)

    def add(self, file: str, **extra_fields: Any) -> str:
        response = self.http.post(f"{ADMIN}/apps", json={"file": file, **extra_fields})
        assert response.status_code == 201, response.text
        return response.json()["id"]

    def triggers(self, app: str) -> list[dict[str, Any]]:
        return self.http.get(f"{ADMIN}/apps/{app}/triggers").json()["data"]

    def runs(self, app: str) -> list[dict[str, Any]]:
        return self.http.get(f"{ADMIN}/apps/{app}/runs").json()["data"]

    def ended(self, run: str) -> dict[str, Any]:
        with self.http.stream("GET", f"{ADMIN}/runs/{run}/events") as stream:
            *_, last = (
                json.loads(line[5:])
                for line in stream.iter_lines()
                if line.startswith("data:")
            )
        return last["run"]


@pytest.fixture
def console(start_gateway: Start) -> Iterator[Console]:
    new_console = Console(start_gateway())
    with new_console.http:
        yield new_console


def address(console: Console, app: str, which: str = "address") -> str:
    (trigger,) = console.triggers(app)
    assert trigger["type"] == "webhook"
    return str(trigger[which])


# ----------------------------------------------------------------------------- webhooks


def test_a_webhook_starts_a_run_with_its_declared_fields(console: Console):
    app = console.add(webhook(
        headers=[{"name": "X-Source", "required": True}], params=[{"name": "page", "type": "number"}],
        body=[{"name": "title", "required": True}, {"name": "tags", "type": "array[string]"}],
    ))  # fmt: skip
    hook = address(console, app)
    answer = console.http.post(
        f"{hook}?page=7", json={"title": "Grüße", "tags": ["a"], "other": 1},
        headers={"x-source": "shop", "authorization": "Bearer sk-of-theirs", "cookie": "session=theirs"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    run = console.ended(answer.json()["run_id"])
    assert (run["status"], run["created_from"], run["user"]) == (
        "succeeded",
        "trigger",
        "trigger",
    )
    outputs = run["outputs"]
    assert (
        outputs["X_Source"],
        outputs["page"],
        outputs["title"],
        outputs["tags"],
    ) == ("shop", 7, "Grüße", ["a"])
    raw = outputs["_webhook_raw"]
    assert (raw["method"], raw["query_params"], raw["body"]["other"]) == (
        "POST",
        {"page": "7"},
        1,
    )
    assert "sk-of-theirs" not in json.dumps(run)
    assert "session=theirs" not in json.dumps(run)


@pytest.mark.parametrize(("sent", "status", "expected_text"), [
    ({"json": {}}, 400, "title is required by the webhook"),
    ({"json": {"title": "x", "count": "many"}}, 400, "count must be number"),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
    ({"data": {"title": "x"}}, 400, "'application/x-www-form-urlencoded'; expected application/json"),
    ({"content": b"[1]", "headers": {"content-type": "application/json"}}, 400, "object"),
])  # fmt: skip
def test_an_invalid_webhook_call_starts_nothing_and_gets_an_error(
    console: Console, sent: dict[str, Any], status: int, expected_text: str
):
    app = console.add(
        webhook(
            body=[
                {"name": "title", "required": True},
                {"name": "count", "type": "number"},
            ]
        )
    )
    answer = console.http.post(address(console, app), **sent)
    assert (answer.status_code, expected_text in answer.json()["error"]["message"]) == (
        status,
        True,
    ), answer.text
    assert console.runs(app) == []


def test_another_method_is_refused_with_the_allowed_one(console: Console):
    app = console.add(webhook(method="PUT"))
    answer = console.http.get(address(console, app))
    assert (answer.status_code, answer.headers["allow"]) == (405, "PUT")
    assert console.http.put(address(console, app), json={}).status_code == 200


def test_webhooks_accept_forms_text_and_files(console: Console):
    def run_outputs(
        content_type: str, body: list[dict[str, Any]], **sent: Any
    ) -> dict[str, Any]:
        app = console.add(
            webhook(content_type=content_type, body=body), name=content_type
        )
        answer = console.http.post(address(console, app), **sent)
        assert answer.status_code == 200, answer.text
        return console.ended(answer.json()["run_id"])["outputs"]

    fields = run_outputs(
        "application/x-www-form-urlencoded",
        [{"name": "n", "type": "number"}],
        data={"n": "3"},
    )
    assert fields["n"] == 3
    form_outputs = run_outputs(
        "multipart/form-data", [{"name": "note"}, {"name": "paper", "type": "file"}],
        data={"note": "see"}, files={"paper": ("a.txt", b"some words", "text/plain")},
    )  # fmt: skip
    assert (
        form_outputs["note"],
        form_outputs["paper"]["filename"],
        form_outputs["paper"]["size"],
    ) == ("see", "a.txt", 10)
    plain = {"content-type": "text/plain"}
    assert (
        run_outputs("text/plain", [{"name": "line"}], content=b"a line", headers=plain)[
            "line"
        ]
        == "a line"
    )
    binary = {"content-type": "application/octet-stream"}
    file = run_outputs(
        "application/octet-stream",
        [{"name": "file", "type": "file"}],
        content=b"\0\1",
        headers=binary,
    )
    assert file["file"]["size"] == 2


def test_a_webhook_answers_as_its_node_defines(console: Console):
    def answered(**data: Any) -> httpx.Response:
        app = console.add(webhook(**data), name=json.dumps(data))
        return console.http.post(address(console, app), json={})

    response = answered(status_code=202, response_body='{"ok": true}')
    assert (
        response.status_code,
        response.json(),
        response.headers["content-type"],
    ) == (202, {"ok": True}, "application/json")
    text = answered(response_body="thanks")
    assert (text.text, text.headers["content-type"]) == (
        "thanks",
        "text/plain; charset=utf-8",
    )
    empty = answered(status_code=204, response_body="unsaid")
    assert (empty.status_code, empty.content) == (204, b"")


def test_a_blocking_webhook_answers_with_the_runs_outputs(console: Console):
    body = [{"name": "n", "type": "number"}]
    app = console.add(webhook(async_mode=False, body=body))
    result = console.http.post(address(console, app), json={"n": 2}).json()
    assert (result["status"], result["outputs"]["n"]) == ("succeeded", 2)
    failing = app_file([
        {"id": "hook", "type": "trigger-webhook", "method": "post", "async_mode": False},
        {"id": "code", "type": "code", "code_language": "python3", "variables": [],
         "code": "def main():\n    raise ValueError('no')", "outputs": {"x": {"type": "string"}}},
    ], [("hook", "code")], "failing")  # fmt: skip
    broken = console.http.post(address(console, console.add(failing)), json={})
    assert (broken.status_code, broken.json()["status"]) == (500, "failed")
    slow = app_file([
        {"id": "hook", "type": "trigger-webhook", "method": "post", "async_mode": False, "timeout": 1},
        {"id": "code", "type": "code", "code_language": "python3", "variables": [],
         "code": "import time\ndef main():\n    time.sleep(3)\n    return {'x': 'late'}",
         "outputs": {"x": {"type": "string"}}},
        {"id": "end", "type": "end", "outputs": [{"variable": "x", "value_selector": ["code", "x"]}]},
    ], [("hook", "code"), ("code", "end")], "slow")  # fmt: skip
    late_response = console.http.post(address(console, console.add(slow)), json={})
    assert (late_response.status_code, late_response.json()["status"]) == (
        504,
        "running",
    )
    assert console.ended(late_response.json()["run_id"])["outputs"] == {"x": "late"}, (
        "the run goes on"
    )


@pytest.mark.parametrize("header", ["idempotency-key", "webhook-id"])
def test_calls_with_the_same_idempotency_key_start_one_run(
    console: Console, header: str
):
    app = console.add(webhook())
    hook = address(console, app)
    answers: list[str] = []

    def call(key: str) -> None:
        answers.append(
            httpx.post(hook, json={}, headers={header: key}, timeout=30).json()[
                "run_id"
            ]
        )

    threads = [
        threading.Thread(target=call, args=(f"order-{index % 2}",))
        for index in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), len(set(answers)), len(console.runs(app))) == (20, 2, 2)
    call("order-0")
    assert answers[-1] in answers[:-1], "long after it ended too"
    call("order-2")
    assert len(console.runs(app)) == 3


def test_a_draft_has_its_own_url_and_callers_get_the_published_version(
    console: Console,
):
    app = console.add(webhook(response_body="first"), publish=False)
    (trigger,) = console.triggers(app)
    assert trigger["is_live"] is False
    assert console.http.post(trigger["address"], json={}).status_code == 404
    assert console.http.post(trigger["draft_address"], json={}).text == "first"
    console.http.post(f"{ADMIN}/apps/{app}/publish", json={})
    console.http.put(
        f"{ADMIN}/apps/{app}/file", json={"file": webhook(response_body="second")}
    )
    (updated_trigger,) = console.triggers(app)
    assert updated_trigger["address"] == trigger["address"], (
        "an address stays when the file changes"
    )
    assert [console.http.post(updated_trigger[which], json={}).text for which in ("address", "draft_address")] == [
        "first", "second",
    ]  # fmt: skip
    assert {run["created_from"] for run in console.runs(app)} == {"trigger", "debugger"}


def test_no_webhook_works_after_its_app_or_node_is_gone(console: Console):
    app = console.add(webhook())
    hook = address(console, app)
    console.http.patch(f"{ADMIN}/apps/{app}", json={"is_enabled": False})
    assert console.http.post(hook, json={}).status_code == 404
    console.http.patch(f"{ADMIN}/apps/{app}", json={"is_enabled": True})
    assert console.http.post(hook, json={}).status_code == 200
    console.add(schedule("0 0 1 1 *", "hooked"))
    assert console.http.post(hook, json={}).status_code == 404
    assert console.http.post(hook[:-3] + "abc", json={}).status_code == 404
    console.http.delete(f"{ADMIN}/apps/{app}")
    assert console.http.post(hook, json={}).status_code == 404


def test_a_manual_run_asks_for_the_webhooks_fields(console: Console):
    app = console.add(webhook(body=[{"name": "n", "type": "number", "required": True}]))
    (field,) = console.http.get(f"{ADMIN}/apps/{app}/form").json()["data"]
    assert (field["variable"], field["type"], field["required"]) == (
        "n",
        "number",
        True,
    )
    with console.http.stream(
        "POST", f"{ADMIN}/apps/{app}/runs", json={"inputs": {"n": 4}, "root": "hook"}
    ) as stream:
        *_, last = (
            json.loads(line[5:])
            for line in stream.iter_lines()
            if line.startswith("data:")
        )
    assert last["run"]["outputs"]["n"] == 4
    rejected = console.http.get(f"{ADMIN}/apps/{app}/form", params={"root": "nobody"})
    assert (rejected.status_code, "has no start node" in rejected.text) == (400, True)


# ---------------------------------------------------------------------------- schedules


class Moved:
    """The triggers of a running gateway, with a clock that the test sets."""

    def __init__(self, console: Console, *, catch_up: float = 3600.0) -> None:
        self.yard = console.running.yard
        self._loop = console.running.loop
        self.now = self.yard.services.clock.time()
        parts = self.yard.services.workflows
        self.triggers = Triggers(
            parts.apps,
            parts.chats,
            self.yard.services.tenancy.directory,
            catch_up=lambda: catch_up,
            clock=lambda: self.now,
        )

    def tick(self) -> int:
        return asyncio.run_coroutine_threadsafe(
            self.triggers.tick(), self._loop
        ).result(30)


def far_away() -> str:
    """Return a daily schedule half a day from now.

    So the server's own clock does not start runs of it during the test.
    """
    return f"0 {(time.gmtime().tm_hour + 12) % 24} * * *"


def test_a_schedule_runs_once_with_several_schedulers(console: Console):
    cron = far_away()
    app = console.add(schedule(cron))
    first, second = Moved(console), Moved(console)
    assert (first.tick(), second.tick(), console.runs(app)) == (0, 0, []), (
        "not before its time"
    )
    (trigger,) = console.triggers(app)
    assert (trigger["cron"], trigger["is_live"], len(trigger["next"])) == (
        cron,
        True,
        3,
    )
    for scheduled_at in trigger["next"][:2]:
        first.now = second.now = scheduled_at + 0.2
        for _ in range(3):
            first.tick()
            second.tick()
    runs = console.runs(app)
    assert len(runs) == 2
    ended = [console.ended(run["id"]) for run in runs]
    assert [run["outputs"] for run in ended] == [{"text": "rise"}] * 2
    assert {run["created_from"] for run in ended} == {"trigger"}


def test_a_missed_time_is_caught_up_once_within_the_limit(
    console: Console,
):
    app = console.add(schedule(far_away()))
    moved = Moved(console, catch_up=2 * DAY)
    moved.tick()
    moved.now += 5 * DAY
    assert moved.tick() == 1, "the last of five"
    assert moved.tick() == 0
    assert len(console.runs(app)) == 1
    yearly_app = console.add(schedule("0 0 1 1 *", "yearly"))
    strict = Moved(console, catch_up=0.0)
    (trigger,) = console.triggers(yearly_app)
    strict.tick()
    strict.now = trigger["next"][0] + 1000
    strict.tick()
    assert console.runs(yearly_app) == [], (
        "a quarter of an hour is too late where nothing is made up for"
    )


def test_times_before_publication_do_not_run(console: Console):
    moved = Moved(console)
    a_while_ago = int(moved.now // 60 - 10) % 60
    app = console.add(schedule(f"{a_while_ago} * * * *"))
    assert (moved.tick(), console.runs(app)) == (0, [])
    moved.now += 3600
    assert moved.tick() == 1


def test_a_disabled_schedule_does_not_run_and_a_new_one_starts_at_its_change(
    console: Console,
):
    app = console.add(schedule(far_away()))
    moved = Moved(console, catch_up=2 * DAY)
    moved.tick()
    console.http.patch(f"{ADMIN}/apps/{app}", json={"is_enabled": False})
    moved.now += 2 * DAY
    assert moved.tick() == 0
    console.http.patch(f"{ADMIN}/apps/{app}", json={"is_enabled": True})
    assert moved.tick() == 0, "what passed while it was off has passed"
    moved.now += 2 * DAY
    assert moved.tick() == 1
    console.http.delete(f"{ADMIN}/apps/{app}")
    moved.now += 2 * DAY
    assert moved.tick() == 0


def test_the_server_runs_due_schedules(console: Console):
    app = console.add(schedule("* * * * *"))
    parts = console.running.yard.services.workflows
    due_schedules = parts.triggers._due  # type: ignore[reportPrivateUsage]
    for _ in range(100):
        if due_schedules:
            break
        threading.Event().wait(0.05)
        due_schedules = parts.triggers._due  # type: ignore[reportPrivateUsage]
    (due_schedule,) = due_schedules.values()
    # As if a minute had passed.
    due_schedule.at = console.running.yard.services.clock.time() - 61
    for _ in range(200):
        if console.runs(app):
            return
        threading.Event().wait(0.05)
    raise AssertionError("nothing was begun")


def test_an_invalid_schedule_is_a_warning_that_names_the_node(
    console: Console,
):
    check = console.http.post(
        f"{ADMIN}/apps/check", json={"file": schedule("99 * * * *")}
    ).json()
    assert (check["problems"], check["schedules"]) == ([], [])
    (warning,) = check["warnings"]
    assert ("Invalid cron expression" in warning["message"], warning["node"]) == (
        True,
        "when",
    )
    valid_check = console.http.post(
        f"{ADMIN}/apps/check", json={"file": schedule("0 9 * * *")}
    ).json()
    assert [
        (listed_schedule["node"], len(listed_schedule["next"]))
        for listed_schedule in valid_check["schedules"]
    ] == [("when", 3)]
    published = console.http.post(
        f"{ADMIN}/apps", json={"file": schedule("99 * * * *")}
    )
    assert published.status_code == 400
    assert "when: Invalid cron expression" in published.json()["error"]["message"]
    app = console.add(schedule("99 * * * *"), publish=False)
    assert console.triggers(app) == []
