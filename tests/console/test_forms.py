"""Tests for the canvas's forms: values reach the file, and triggers start runs."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import expect
from tools.show.browser import Person, chromium, person, server, violations
from tools.show.console_world import world
from tools.show.proof import ROOT

from modelyard.plugins.package import package_folder

# How long a change of the page may take, in milliseconds.
_PATIENCE = 30_000

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def user(web_browser: Any, tmp_path: Path) -> Iterator[Person]:
    with ExitStack() as stack:
        served = stack.enter_context(server("", home=tmp_path / "home"))
        yield stack.enter_context(person(web_browser, served.origin))


def import_app(
    user: Person,
    nodes: list[dict[str, Any]],
    edges: list[tuple[str, str]] = [],  # noqa: B006
) -> str:
    graph = {
        "nodes": [
            {
                "id": node["id"],
                "data": {"title": node["id"], **node},
                "position": {"x": 250 * index, "y": 50},
            }
            for index, node in enumerate(nodes)
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    file = json.dumps(
        {
            "app": {"name": "drawn", "mode": "workflow"},
            "kind": "app",
            "workflow": {"graph": graph},
        }
    )
    response = httpx.post(f"{user.origin}/admin/v1/apps", json={"file": file})
    assert response.status_code == 201, response.text
    return response.json()["id"]


def node_of(user: Person, app: str, node: str) -> dict[str, Any]:
    document = yaml.safe_load(httpx.get(f"{user.origin}/admin/v1/apps/{app}/file").text)
    return next(
        candidate["data"]
        for candidate in document["workflow"]["graph"]["nodes"]
        if candidate["id"] == node
    )


def open_node_form(user: Person, app: str, node: str) -> Any:
    user.goto(f"/workflows/{app}?node={node}")
    form = user.page.locator("aside.inspector")
    form.get_by_label("Title", exact=True).wait_for()
    return form


def is_stored(response: Any) -> bool:
    """Return whether a response is that of a stored draft."""
    request = response.request
    return request.method == "PUT" and request.url.endswith("/file")


def save(user: Person) -> None:
    # The message of an earlier time may still be there.
    with user.page.expect_response(is_stored, timeout=_PATIENCE):
        user.page.get_by_role("button", name="Save", exact=True).click()
    user.wait_for_text("The draft is saved.")


END = {"id": "end", "type": "end", "outputs": []}


def test_a_schedule_is_set_by_form_or_cron_with_its_next_times(
    user: Person,
):
    app = import_app(
        user, [{"id": "when", "type": "trigger-schedule"}, END], [("when", "end")]
    )
    form = open_node_form(user, app, "when")
    form.get_by_text("Next runs (your time zone):").wait_for()
    form.get_by_label("How often").select_option("weekly")
    form.get_by_label("At", exact=True).fill("21:30")
    form.get_by_label("Wed").check()
    form.get_by_label("Fri").check()
    form.get_by_label("Time zone").select_option("Asia/Shanghai")
    expect(user.page.locator("aside.inspector [role=status] li")).to_have_count(
        3, timeout=_PATIENCE
    )
    save(user)
    data = node_of(user, app, "when")
    assert (data["frequency"], data["timezone"]) == ("weekly", "Asia/Shanghai")
    assert (data["visual_config"]["time"], data["visual_config"]["weekdays"]) == (
        "9:30 PM",
        ["wed", "fri"],
    )
    (trigger,) = httpx.get(f"{user.origin}/admin/v1/apps/{app}/triggers").json()["data"]
    assert (trigger["cron"], trigger["is_live"]) == ("30 21 * * 3,5", False)
    form.get_by_label("How often").select_option("monthly")
    form.get_by_label("15", exact=True).check()
    form.get_by_label("Last day of the month").check()
    save(user)
    assert node_of(user, app, "when")["visual_config"]["monthly_days"] == [15, "last"]
    form.get_by_label("Said as").select_option("cron")
    form.get_by_label("Cron expression").fill("99 * * * *")
    form.get_by_text("Invalid cron expression").wait_for()
    form.get_by_label("Cron expression").fill("0 8 * * 1-5")
    form.get_by_text("Invalid cron expression").wait_for(state="detached")
    save(user)
    assert node_of(user, app, "when")["cron_expression"] == "0 8 * * 1-5"
    assert user.problems == []


def test_a_webhook_shows_its_url_and_its_runs(user: Person):
    app = import_app(user, [
        {"id": "clock", "type": "trigger-schedule", "frequency": "daily"},
        {"id": "hook", "type": "trigger-webhook", "method": "post", "content_type": "application/json", "body": []},
        {"id": "end", "type": "end", "outputs": [{"variable": "topic", "value_selector": ["hook", "topic"]}]},
    ], [("clock", "end"), ("hook", "end")])  # fmt: skip
    form = open_node_form(user, app, "hook")
    address = form.get_by_label("Address", exact=True).input_value()
    assert "/triggers/webhook/" in address
    form.get_by_role("button", name="Add to: Body").click()
    form.get_by_label("Name", exact=True).fill("topic")
    form.get_by_label("Required").check()
    form.get_by_label("Method").select_option("PUT")
    save(user)
    user.page.get_by_role("button", name="Publish", exact=True).click()
    user.wait_for_text("Published.")
    assert httpx.put(address, json={}).status_code == 400
    run = httpx.put(address, json={"topic": "tea"}).json()["run_id"]
    user.goto(f"/workflows/{app}?run={run}")
    user.page.locator("aside.inspector pre", has_text="tea").wait_for()
    user.page.get_by_label("Start node").select_option("hook")
    user.page.get_by_label("topic", exact=True).fill("coffee")
    user.page.get_by_role("button", name="Run the draft").click()
    user.page.locator("aside.inspector pre", has_text="coffee").wait_for()
    user.goto(f"/apps/{app}?tab=publish")
    user.page.get_by_role("table", name="Triggers").wait_for()
    user.wait_for_text(address)
    assert user.problems == []


def test_a_subscribed_plugin_event_starts_a_run(user: Person):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pulse.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "pulse").data)
        user.goto("/plugins")
        user.page.locator("input[type=file]").set_input_files(str(path))
        user.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    app = import_app(
        user, [{"id": "event", "type": "trigger-plugin"}, END], [("event", "end")]
    )
    form = open_node_form(user, app, "event")
    form.get_by_label("Event").select_option("modelyard/pulse / Beat")
    form.get_by_text("No subscription yet").wait_for()
    form.get_by_label("At least").fill("100")
    save(user)
    data = node_of(user, app, "event")
    assert (data["provider_id"], data["event_name"]) == (
        "modelyard/pulse/pulse",
        "beat",
    )
    assert data["event_parameters"] == {"at_least": {"type": "constant", "value": 100}}
    user.page.get_by_role("button", name="Publish", exact=True).click()
    user.wait_for_text("Published.")
    user.goto("/plugins")
    user.page.get_by_role("button", name="Subscribe").click()
    box = user.page.get_by_role("dialog")
    box.get_by_label("Name").fill("ward")
    box.get_by_label("Room").fill("7")
    box.get_by_label(re.compile("^token")).fill("wrong")
    box.get_by_role("button", name="Subscribe").click()
    user.wait_for_text("this token is refused")
    box.get_by_label(re.compile("^token")).fill("good")
    box.get_by_role("button", name="Subscribe").click()
    user.wait_for_text("Subscribed")
    (subscription,) = httpx.get(f"{user.origin}/admin/v1/subscriptions").json()["data"]
    user.wait_for_text(subscription["address"])
    for beat in (72, 130):
        assert (
            httpx.post(
                subscription["address"], json={"beat": beat}, timeout=60
            ).status_code
            == 202
        )
    runs = httpx.get(f"{user.origin}/admin/v1/apps/{app}/runs").json()["data"]
    assert len(runs) == 1, "the other beat was too slow for the node"
    assert user.problems == []


def test_an_agents_model_tools_and_question_are_set_by_form(user: Person):
    app = import_app(user, [
        {"id": "start", "type": "start", "variables": [{"variable": "q", "label": "q", "type": "text-input"}]},
        {"id": "agent", "type": "agent", "agent_strategy_name": "", "agent_parameters": {}}, END,
    ], [("start", "agent"), ("agent", "end")])  # fmt: skip
    form = open_node_form(user, app, "agent")
    form.get_by_label("Strategy").select_option("Function calling")
    form.get_by_role("textbox", name="Instruction").fill("Be brief.")
    form.get_by_role("button", name="Insert a variable…: Query").click()
    user.page.get_by_role("menuitem", name="start.q").click()
    form.get_by_label("Maximum rounds").fill("3")
    form.get_by_role("button", name="Add a tool").click()
    user.page.get_by_role("menuitem", name=re.compile("calculator")).first.click()
    save(user)
    data = node_of(user, app, "agent")
    parameters = {
        name: value["value"] for name, value in data["agent_parameters"].items()
    }
    assert data["agent_strategy_name"] == "function_calling"
    assert (
        parameters["instruction"],
        parameters["query"],
        parameters["maximum_iterations"],
    ) == ("Be brief.", "{{#start.q#}}", 3)
    assert [tool["provider_name"] for tool in parameters["tools"]] == ["calculator"]
    assert user.problems == []


def test_a_selected_file_is_passed_to_the_run(user: Person, tmp_path: Path):
    app = import_app(user, [
        {"id": "start", "type": "start", "variables": [{"variable": "paper", "label": "Paper", "type": "file"}]},
        {"id": "end", "type": "end", "outputs": [{"variable": "name", "value_selector": ["start", "paper", "name"]}]},
    ], [("start", "end")])  # fmt: skip
    path = tmp_path / "minutes.txt"
    path.write_text("We met.", "utf-8")
    user.goto(f"/apps/{app}")
    user.page.get_by_label("Paper").set_input_files(str(path))
    user.page.wait_for_timeout(500)
    user.page.get_by_role("button", name="Run", exact=True).click()
    user.page.locator(".said", has_text="minutes.txt").wait_for()
    assert user.problems == []


def test_every_node_type_has_an_accessible_form(user: Person):
    kinds = [
        node_info["type"]
        for node_info in httpx.get(f"{user.origin}/admin/v1/nodes").json()["data"]
    ]
    inner = {"iteration-start", "loop-start", "loop-end"}
    nodes = [
        {"id": node_type, "type": node_type, **_MINIMAL_DATA.get(node_type, {})}
        for node_type in kinds
        if node_type not in inner
    ]
    insides = [
        {"id": "is", "type": "iteration-start", "iteration_id": "iteration"},
        {"id": "ls", "type": "loop-start", "loop_id": "loop"},
    ]
    app = import_app(user, [*nodes, *insides])
    user.goto(f"/workflows/{app}")
    user.page.locator(".outline summary").click()
    for node in nodes:
        user.page.locator(".outline").get_by_role(
            "button", name=node["id"], exact=True
        ).click()
        form = user.page.locator("aside.inspector")
        expect(user.page).to_have_url(
            re.compile(f"node={node['id']}"), timeout=_PATIENCE
        )
        assert (
            form.locator(
                "> .form > .field, > .form > fieldset, > .form > .template, > .form > .check"
            ).count()
            > 1
        )
        assert violations(user.page) == [], node["id"]
    assert user.problems == []


_MINIMAL_DATA: dict[str, dict[str, Any]] = {
    "if-else": {"cases": []},
    **{
        node_type: {"model": {"provider": "", "name": "default"}}
        for node_type in (
            "llm",
            "parameter-extractor",
            "question-classifier",
        )
    },
    "assigner": {"version": "2", "items": []},
    "code": {
        "code_language": "python3",
        "code": "def main():\n    return {}",
        "outputs": {},
        "variables": [],
    },
    "http-request": {
        "method": "get",
        "url": "http://127.0.0.1",
        "authorization": {"type": "no-auth"},
    },
}
"""The data that a file must contain for these node types."""


def test_an_evaluation_is_run_stored_and_compared(user: Person):
    def post(path: str, body: Any) -> Any:
        return httpx.post(f"{user.origin}{path}", json=body, timeout=30).json()

    dataset = post("/v1/datasets", {"name": "rules", "indexing_technique": "economy"})[
        "id"
    ]
    for name, text in (
        ("gate.md", "The gate is closed at nine."),
        ("dogs.md", "Dogs are welcome on a lead."),
    ):
        body = {
            "name": name,
            "text": text,
            "indexing_technique": "economy",
            "process_rule": {"mode": "automatic"},
        }
        post(f"/v1/datasets/{dataset}/document/create-by-text", body)
    user.goto(f"/knowledge/{dataset}?tab=evaluate")
    box = user.page.get_by_label("Questions with expected documents")
    lines = (
        "When is the gate closed? => gate.md\nAre dogs welcome? => dogs.md | gate.md"
    )
    box.fill(lines)
    for method_label in ("by meaning", "both"):
        user.page.get_by_label(method_label, exact=True).uncheck()
    user.page.get_by_role("button", name="Run", exact=True).click()
    user.page.get_by_role("table", name="Questions").wait_for()
    assert "evaluation=" in user.page.url
    user.page.reload()
    row = (
        user.page.get_by_role("table", name="Evaluation history")
        .get_by_role("row")
        .nth(1)
    )
    row.get_by_text("100 %").first.wait_for()
    assert [cell.inner_text() for cell in row.get_by_role("cell").all()][:2] == [
        "by words",
        "2",
    ]
    assert violations(user.page) == []
    user.page.get_by_role("button", name="Run", exact=True).click()
    user.page.get_by_role("table", name="Evaluation history").get_by_role("row").nth(
        2
    ).wait_for()
    user.page.get_by_role("table").get_by_role("button", name="Remove").first.click()
    user.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    user.page.get_by_role("table", name="Evaluation history").get_by_role("row").nth(
        2
    ).wait_for(state="detached")
    assert (
        len(httpx.get(f"{user.origin}/admin/v1/evaluations/{dataset}").json()["data"])
        == 1
    )
    assert user.problems == []


def test_the_operator_switches_to_another_tenant_and_back(user: Person):
    assert (
        httpx.post(f"{user.origin}/admin/v1/tenants", json={"name": "acme"}).status_code
        == 201
    )
    acting = {"x-modelyard-tenant": "acme"}
    for name, headers in (("of acme", acting), ("of the house", {})):
        httpx.post(
            f"{user.origin}/admin/v1/users", json={"name": name}, headers=headers
        )
    user.goto("/keys?tab=users")
    user.wait_for_text("of the house")
    user.page.get_by_label("Tenant").select_option("As acme")
    user.page.get_by_role("link", name="Keys and people").click()
    user.page.get_by_role("tab", name="End users").click()
    user.wait_for_text("of acme")
    assert user.page.get_by_text("of the house").count() == 0
    assert user.page.get_by_role("tab", name="Tenants").count() == 0
    user.page.reload()
    user.wait_for_text("of acme")
    user.page.get_by_label("Tenant").select_option("This server")
    user.page.get_by_role("heading", name="Home").wait_for()
    user.goto("/keys?tab=users")
    user.wait_for_text("of the house")
    assert user.problems == []


def test_viewers_are_offered_no_changes(web_browser: Any, user: Person):
    password = "correct horse battery"
    user.goto("/")
    origin = {"origin": user.origin}
    setup = {"email": "o@example.com", "name": "O", "password": password}
    assert user.page.request.post(
        f"{user.origin}/console/api/setup", data=setup, headers=origin
    ).ok
    invited = user.page.request.post(
        f"{user.origin}/console/api/invitations",
        data={"email": "v@example.com", "role": "viewer"},
        headers=origin,
    ).json()
    with person(web_browser, user.origin) as viewer:
        accepted = {"token": invited["token"], "name": "V", "password": password}
        assert viewer.page.request.post(
            f"{user.origin}/console/api/invitations/accept",
            data=accepted,
            headers=origin,
        ).ok
        viewer.goto("/")
        viewer.page.get_by_role("heading", name="Get started").wait_for()
        pages = viewer.page.locator("#nav a").all_inner_texts()
        assert pages == ["Home", "Usage and cost", "Requests"]
        assert (
            viewer.page.locator(
                "main a[href$='/providers'], main a[href$='/playground']"
            ).count()
            == 0
        )
        assert viewer.page.get_by_label("Tenant").count() == 0
        assert viewer.problems == []


def test_a_failing_node_gets_default_values(user: Person):
    app = import_app(user, [
        {"id": "start", "type": "start", "variables": []},
        {"id": "broken", "type": "code", "code_language": "python3", "code": "def main():\n    raise ValueError",
         "outputs": {"word": {"type": "string"}, "many": {"type": "array[number]"}}, "variables": []},
        {"id": "end", "type": "end", "outputs": [{"variable": "word", "value_selector": ["broken", "word"]},
                                                 {"variable": "many", "value_selector": ["broken", "many"]}]},
    ], [("start", "broken"), ("broken", "end")])  # fmt: skip
    form = open_node_form(user, app, "broken")
    form.locator("summary", has_text="On error").click()
    form.get_by_role("combobox", name="On error").select_option("default-value")
    form.get_by_label("word", exact=True).fill("instead")
    form.get_by_label("many", exact=True).fill("[1, 2]")
    form.get_by_label("Retry on failure").check()
    form.get_by_label("Maximum retries").fill("2")
    form.get_by_label("Retry interval (ms)").fill("10")
    save(user)
    data = node_of(user, app, "broken")
    assert (
        data["retry_config"]["max_retries"],
        data["retry_config"]["retry_interval"],
    ) == (2, 10)
    user.page.locator(".head").get_by_role("button", name="Run").click()
    user.page.get_by_role("button", name="Run the draft").click()
    user.page.locator("aside.inspector pre", has_text="instead").wait_for()
    run = httpx.get(f"{user.origin}/admin/v1/apps/{app}/runs").json()["data"][0]
    assert run["outputs"] == {"word": "instead", "many": [1, 2]}
    assert user.problems == []


def test_model_parameters_are_on_the_canvas(web_browser: Any):
    with (
        world() as console_world,
        person(web_browser, console_world.served.origin) as user,
    ):
        user.goto(f"/workflows/{console_world.ids['workflow']}?node=ask")
        form = user.page.locator("aside.inspector")
        form.get_by_label("Model", exact=True).select_option("cloud/fine")
        form.locator("summary", has_text="Parameters").click()
        form.get_by_label("Temperature").fill("0.3")
        save(user)
        params = node_of(user, console_world.ids["workflow"], "ask")["model"][
            "completion_params"
        ]
        assert params == {"temperature": 0.3}
        assert user.problems == []


def test_the_operator_confirms_an_unsigned_plugin(user: Person):
    assert (
        httpx.post(
            f"{user.origin}/admin/v1/tenants", json={"name": "globex"}
        ).status_code
        == 201
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toolbox.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "toolbox").data)
        user.goto("/plugins")
        user.page.locator("input[type=file]").set_input_files(str(path))
        user.page.get_by_role("button", name="Install without a signature").click()
        box = user.page.get_by_role("dialog")
        box.get_by_text(
            "Nobody whom this server trusts has signed this package"
        ).wait_for()
        box.get_by_role("button", name="Install without a signature").click()
        user.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    assert all("403" in page_error for page_error in user.problems)
    user.problems.clear()
