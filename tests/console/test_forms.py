"""Forms of the canvas: what each says ends in the file, and what begins a workflow by itself begins it."""

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
from tools.show.browser import Person, chromium, person, server, violations
from tools.show.console_world import world
from tools.show.proof import ROOT

from modelyard.plugins.package import package_folder

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def one(made: Any, tmp_path: Path) -> Iterator[Person]:
    with ExitStack() as stack:
        served = stack.enter_context(server("", home=tmp_path / "home"))
        yield stack.enter_context(person(made, served.origin))


def imported(one: Person, nodes: list[dict[str, Any]], edges: list[tuple[str, str]] = []) -> str:  # noqa: B006
    graph = {
        "nodes": [
            {"id": each["id"], "data": {"title": each["id"], **each}, "position": {"x": 250 * at, "y": 50}}
            for at, each in enumerate(nodes)
        ],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    file = json.dumps({"app": {"name": "drawn", "mode": "workflow"}, "kind": "app", "workflow": {"graph": graph}})
    made = httpx.post(f"{one.origin}/admin/v1/apps", json={"file": file})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def node_of(one: Person, app: str, node: str) -> dict[str, Any]:
    document = yaml.safe_load(httpx.get(f"{one.origin}/admin/v1/apps/{app}/file").text)
    return next(each["data"] for each in document["workflow"]["graph"]["nodes"] if each["id"] == node)


def opened(one: Person, app: str, node: str) -> Any:
    one.goto(f"/workflows/{app}?node={node}")
    form = one.page.locator("aside.inspector")
    form.get_by_label("Title", exact=True).wait_for()
    return form


def save(one: Person) -> None:
    one.page.get_by_role("button", name="Save", exact=True).click()
    one.sees("The draft is saved.")


END = {"id": "end", "type": "end", "outputs": []}


def test_a_schedule_is_said_by_form_or_as_cron_and_its_next_times_are_shown(one: Person):
    app = imported(one, [{"id": "when", "type": "trigger-schedule"}, END], [("when", "end")])
    form = opened(one, app, "when")
    form.get_by_text("Next, by this browser's clock:").wait_for()
    form.get_by_label("How often").select_option("weekly")
    form.get_by_label("At", exact=True).fill("21:30")
    form.get_by_label("Wed").check()
    form.get_by_label("Fri").check()
    form.get_by_label("Time zone").select_option("Asia/Shanghai")
    one.page.wait_for_function("document.querySelectorAll('aside.inspector [role=status] li').length === 3")
    save(one)
    data = node_of(one, app, "when")
    assert (data["frequency"], data["timezone"]) == ("weekly", "Asia/Shanghai")
    assert (data["visual_config"]["time"], data["visual_config"]["weekdays"]) == ("9:30 PM", ["wed", "fri"])
    (shown,) = httpx.get(f"{one.origin}/admin/v1/apps/{app}/triggers").json()["data"]
    assert (shown["cron"], shown["is_live"]) == ("30 21 * * 3,5", False)
    form.get_by_label("How often").select_option("monthly")
    form.get_by_label("15", exact=True).check()
    form.get_by_label("The last one").check()
    save(one)
    assert node_of(one, app, "when")["visual_config"]["monthly_days"] == [15, "last"]
    form.get_by_label("Said as").select_option("cron")
    form.get_by_label("Cron expression").fill("99 * * * *")
    form.get_by_text("is no cron expression").wait_for()
    form.get_by_label("Cron expression").fill("0 8 * * 1-5")
    form.get_by_text("is no cron expression").wait_for(state="detached")
    save(one)
    assert node_of(one, app, "when")["cron_expression"] == "0 8 * * 1-5"
    assert one.wrongs == []


def test_a_webhook_shows_its_address_and_what_calls_it_runs_on_the_page(one: Person):
    app = imported(one, [
        {"id": "clock", "type": "trigger-schedule", "frequency": "daily"},
        {"id": "hook", "type": "trigger-webhook", "method": "post", "content_type": "application/json", "body": []},
        {"id": "end", "type": "end", "outputs": [{"variable": "topic", "value_selector": ["hook", "topic"]}]},
    ], [("clock", "end"), ("hook", "end")])  # fmt: skip
    form = opened(one, app, "hook")
    address = form.get_by_label("Address", exact=True).input_value()
    assert "/triggers/webhook/" in address
    form.get_by_role("button", name="Add to: Body").click()
    form.get_by_label("Name", exact=True).fill("topic")
    form.get_by_label("Required").check()
    form.get_by_label("Method").select_option("PUT")
    save(one)
    one.page.get_by_role("button", name="Publish", exact=True).click()
    one.sees("Published.")
    assert httpx.put(address, json={}).status_code == 400
    run = httpx.put(address, json={"topic": "tea"}).json()["run_id"]
    one.goto(f"/workflows/{app}?run={run}")
    one.page.locator("aside.inspector pre", has_text="tea").wait_for()
    one.page.get_by_label("Begins at").select_option("hook")
    one.page.get_by_label("topic", exact=True).fill("coffee")
    one.page.get_by_role("button", name="Run the draft").click()
    one.page.locator("aside.inspector pre", has_text="coffee").wait_for()
    one.goto(f"/apps/{app}?tab=publish")
    one.page.get_by_role("table", name="What begins it").wait_for()
    one.sees(address)
    assert one.wrongs == []


def test_a_plugins_event_is_subscribed_to_and_begins_a_run(one: Person):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pulse.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "pulse").data)
        one.goto("/plugins")
        one.page.locator("input[type=file]").set_input_files(str(path))
        one.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    app = imported(one, [{"id": "event", "type": "trigger-plugin"}, END], [("event", "end")])
    form = opened(one, app, "event")
    form.get_by_label("Event").select_option("modelyard/pulse / Beat")
    form.get_by_text("Nobody tells of it yet").wait_for()
    form.get_by_label("At least").fill("100")
    save(one)
    data = node_of(one, app, "event")
    assert (data["provider_id"], data["event_name"]) == ("modelyard/pulse/pulse", "beat")
    assert data["event_parameters"] == {"at_least": {"type": "constant", "value": 100}}
    one.page.get_by_role("button", name="Publish", exact=True).click()
    one.sees("Published.")
    one.goto("/plugins")
    one.page.get_by_role("button", name="Subscribe").click()
    box = one.page.get_by_role("dialog")
    box.get_by_label("Name").fill("ward")
    box.get_by_label("Room").fill("7")
    box.get_by_label(re.compile("^token")).fill("wrong")
    box.get_by_role("button", name="Subscribe").click()
    one.sees("this token is refused")
    box.get_by_label(re.compile("^token")).fill("good")
    box.get_by_role("button", name="Subscribe").click()
    one.sees("Subscribed")
    (made,) = httpx.get(f"{one.origin}/admin/v1/subscriptions").json()["data"]
    one.sees(made["address"])
    for beat in (72, 130):
        assert httpx.post(made["address"], json={"beat": beat}, timeout=60).status_code == 202
    runs = httpx.get(f"{one.origin}/admin/v1/apps/{app}/runs").json()["data"]
    assert len(runs) == 1, "the other beat was too slow for the node"
    assert one.wrongs == []


def test_an_agent_is_given_its_model_tools_and_question_by_form(one: Person):
    app = imported(one, [
        {"id": "start", "type": "start", "variables": [{"variable": "q", "label": "q", "type": "text-input"}]},
        {"id": "agent", "type": "agent", "agent_strategy_name": "", "agent_parameters": {}}, END,
    ], [("start", "agent"), ("agent", "end")])  # fmt: skip
    form = opened(one, app, "agent")
    form.get_by_label("Strategy").select_option("Function calling")
    form.get_by_role("textbox", name="Instruction").fill("Be brief.")
    form.get_by_role("button", name="Insert a variable…: Query").click()
    one.page.get_by_role("menuitem", name="start.q").click()
    form.get_by_label("Rounds at most").fill("3")
    form.get_by_role("button", name="Add a tool").click()
    one.page.get_by_role("menuitem", name=re.compile("calculator")).first.click()
    save(one)
    data = node_of(one, app, "agent")
    given = {name: value["value"] for name, value in data["agent_parameters"].items()}
    assert data["agent_strategy_name"] == "function_calling"
    assert (given["instruction"], given["query"], given["maximum_iterations"]) == ("Be brief.", "{{#start.q#}}", 3)
    assert [each["provider_name"] for each in given["tools"]] == ["calculator"]
    assert one.wrongs == []


def test_a_file_that_is_chosen_comes_into_the_run(one: Person, tmp_path: Path):
    app = imported(one, [
        {"id": "start", "type": "start", "variables": [{"variable": "paper", "label": "Paper", "type": "file"}]},
        {"id": "end", "type": "end", "outputs": [{"variable": "name", "value_selector": ["start", "paper", "name"]}]},
    ], [("start", "end")])  # fmt: skip
    path = tmp_path / "minutes.txt"
    path.write_text("We met.", "utf-8")
    one.goto(f"/apps/{app}")
    one.page.get_by_label("Paper").set_input_files(str(path))
    one.page.wait_for_timeout(500)
    one.page.get_by_role("button", name="Run", exact=True).click()
    one.page.locator(".said", has_text="minutes.txt").wait_for()
    assert one.wrongs == []


def test_every_node_type_has_a_form_that_everybody_can_use(one: Person):
    kinds = [each["type"] for each in httpx.get(f"{one.origin}/admin/v1/nodes").json()["data"]]
    inner = {"iteration-start", "loop-start", "loop-end"}
    nodes = [{"id": kind, "type": kind, **_LEAST.get(kind, {})} for kind in kinds if kind not in inner]
    insides = [
        {"id": "is", "type": "iteration-start", "iteration_id": "iteration"},
        {"id": "ls", "type": "loop-start", "loop_id": "loop"},
    ]
    app = imported(one, [*nodes, *insides])
    one.goto(f"/workflows/{app}")
    one.page.locator(".outline summary").click()
    for node in nodes:
        one.page.locator(".outline").get_by_role("button", name=node["id"], exact=True).click()
        form = one.page.locator("aside.inspector")
        one.page.wait_for_function("id => location.search.includes(`node=${id}`)", arg=node["id"])
        assert form.locator("> .form > .field, > .form > fieldset, > .form > .template, > .form > .check").count() > 1
        assert violations(one.page) == [], node["id"]
    assert one.wrongs == []


_LEAST: dict[str, dict[str, Any]] = {
    "if-else": {"cases": []},
    **{
        kind: {"model": {"provider": "", "name": "default"}}
        for kind in (
            "llm",
            "parameter-extractor",
            "question-classifier",
        )
    },
    "assigner": {"version": "2", "items": []},
    "code": {"code_language": "python3", "code": "def main():\n    return {}", "outputs": {}, "variables": []},
    "http-request": {"method": "get", "url": "http://127.0.0.1", "authorization": {"type": "no-auth"}},
}
"""What a file must say of these."""


def test_an_evaluation_is_run_kept_and_compared(one: Person):
    def post(path: str, body: Any) -> Any:
        return httpx.post(f"{one.origin}{path}", json=body, timeout=30).json()

    dataset = post("/v1/datasets", {"name": "rules", "indexing_technique": "economy"})["id"]
    for name, text in (("gate.md", "The gate is closed at nine."), ("dogs.md", "Dogs are welcome on a lead.")):
        body = {"name": name, "text": text, "indexing_technique": "economy", "process_rule": {"mode": "automatic"}}
        post(f"/v1/datasets/{dataset}/document/create-by-text", body)
    one.goto(f"/knowledge/{dataset}?tab=evaluate")
    box = one.page.get_by_label("Questions whose document is known")
    box.fill("When is the gate closed? => gate.md\nAre dogs welcome? => dogs.md | gate.md\nno document named")
    for way in ("by meaning", "both"):
        one.page.get_by_label(way, exact=True).uncheck()
    one.page.get_by_role("button", name="Run", exact=True).click()
    one.page.get_by_role("table", name="Questions").wait_for()
    assert "evaluation=" in one.page.url
    one.page.reload()
    row = one.page.get_by_role("table", name="Evaluations so far").get_by_role("row").nth(1)
    row.get_by_text("100 %").first.wait_for()
    assert [each.inner_text() for each in row.get_by_role("cell").all()][:2] == ["by words", "2"]
    assert violations(one.page) == []
    one.page.get_by_role("button", name="Run", exact=True).click()
    one.page.get_by_role("table", name="Evaluations so far").get_by_role("row").nth(2).wait_for()
    one.page.get_by_role("table").get_by_role("button", name="Remove").first.click()
    one.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    one.page.get_by_role("table", name="Evaluations so far").get_by_role("row").nth(2).wait_for(state="detached")
    assert len(httpx.get(f"{one.origin}/admin/v1/evaluations/{dataset}").json()["data"]) == 1
    assert one.wrongs == []


def test_the_operator_looks_at_another_tenant_and_comes_back(one: Person):
    assert httpx.post(f"{one.origin}/admin/v1/tenants", json={"name": "acme"}).status_code == 201
    acting = {"x-modelyard-tenant": "acme"}
    for name, headers in (("of acme", acting), ("of the house", {})):
        httpx.post(f"{one.origin}/admin/v1/users", json={"name": name}, headers=headers)
    one.goto("/keys?tab=users")
    one.sees("of the house")
    one.page.get_by_label("Whose things are shown").select_option("For acme")
    one.page.get_by_role("link", name="Keys and people").click()
    one.page.get_by_role("tab", name="End users").click()
    one.sees("of acme")
    assert one.page.get_by_text("of the house").count() == 0
    assert one.page.get_by_role("tab", name="Tenants").count() == 0
    one.page.reload()
    one.sees("of acme")
    one.page.get_by_label("Whose things are shown").select_option("This server's own")
    one.page.get_by_role("heading", name="Home").wait_for()
    one.goto("/keys?tab=users")
    one.sees("of the house")
    assert one.wrongs == []


def test_who_may_only_look_is_offered_nothing_to_change(made: Any, one: Person):
    password = "correct horse battery"
    one.goto("/")
    origin = {"origin": one.origin}
    setup = {"email": "o@example.com", "name": "O", "password": password}
    assert one.page.request.post(f"{one.origin}/console/api/setup", data=setup, headers=origin).ok
    invited = one.page.request.post(
        f"{one.origin}/console/api/invitations", data={"email": "v@example.com", "role": "viewer"}, headers=origin
    ).json()
    with person(made, one.origin) as viewer:
        accepted = {"token": invited["token"], "name": "V", "password": password}
        assert viewer.page.request.post(
            f"{one.origin}/console/api/invitations/accept", data=accepted, headers=origin
        ).ok
        viewer.goto("/")
        viewer.page.get_by_role("heading", name="First steps").wait_for()
        pages = viewer.page.locator("#nav a").all_inner_texts()
        assert pages == ["Home", "Usage and cost", "Requests"]
        assert viewer.page.locator("main a[href$='/providers'], main a[href$='/playground']").count() == 0
        assert viewer.page.get_by_label("Whose things are shown").count() == 0
        assert viewer.wrongs == []


def test_a_node_that_fails_is_given_values_to_go_on_with(one: Person):
    app = imported(one, [
        {"id": "start", "type": "start", "variables": []},
        {"id": "broken", "type": "code", "code_language": "python3", "code": "def main():\n    raise ValueError",
         "outputs": {"word": {"type": "string"}, "many": {"type": "array[number]"}}, "variables": []},
        {"id": "end", "type": "end", "outputs": [{"variable": "word", "value_selector": ["broken", "word"]},
                                                 {"variable": "many", "value_selector": ["broken", "many"]}]},
    ], [("start", "broken"), ("broken", "end")])  # fmt: skip
    form = opened(one, app, "broken")
    form.locator("summary", has_text="When it fails").click()
    form.get_by_role("combobox", name="When it fails").select_option("default-value")
    form.get_by_label("word", exact=True).fill("instead")
    form.get_by_label("many", exact=True).fill("[1, 2]")
    form.get_by_label("Tries again").check()
    form.get_by_label("Tries at most").fill("2")
    form.get_by_label("Milliseconds between").fill("10")
    save(one)
    data = node_of(one, app, "broken")
    assert (data["retry_config"]["max_retries"], data["retry_config"]["retry_interval"]) == (2, 10)
    one.page.locator(".head").get_by_role("button", name="Run").click()
    one.page.get_by_role("button", name="Run the draft").click()
    one.page.locator("aside.inspector pre", has_text="instead").wait_for()
    run = httpx.get(f"{one.origin}/admin/v1/apps/{app}/runs").json()["data"][0]
    assert run["outputs"] == {"word": "instead", "many": [1, 2]}
    assert one.wrongs == []


def test_a_models_own_knobs_are_on_the_canvas_too(made: Any):
    with world() as there, person(made, there.served.origin) as one:
        one.goto(f"/workflows/{there.ids['workflow']}?node=ask")
        form = one.page.locator("aside.inspector")
        form.get_by_label("Model", exact=True).select_option("cloud/fine")
        form.locator("summary", has_text="Parameters").click()
        form.get_by_label("Temperature").fill("0.3")
        save(one)
        params = node_of(one, there.ids["workflow"], "ask")["model"]["completion_params"]
        assert params == {"temperature": 0.3}
        assert one.wrongs == []


def test_the_operator_installs_what_nobody_signed_beside_other_tenants(one: Person):
    assert httpx.post(f"{one.origin}/admin/v1/tenants", json={"name": "globex"}).status_code == 201
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toolbox.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "toolbox").data)
        one.goto("/plugins")
        one.page.locator("input[type=file]").set_input_files(str(path))
        one.page.get_by_role("button", name="Install without a signature").click()
        box = one.page.get_by_role("dialog")
        box.get_by_text("Nobody whom this server trusts has signed this package").wait_for()
        box.get_by_role("button", name="Install without a signature").click()
        one.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    assert all("403" in wrong for wrong in one.wrongs)
    one.wrongs.clear()
