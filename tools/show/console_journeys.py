"""Twelve journeys through the console, each as a new user: a home of its own, a browser of its own, nothing set up."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Error as PlaywrightError

from modelyard.plugins.package import package_folder
from modelyard.testing import Answer, Upstream, UpstreamRequest, chat_answer, chat_events, error_answer, json_answer
from tools.show.browser import Person, browser, build, lines_of, person, server
from tools.show.proof import ROOT, Proof
from tools.show.servers import Postgres

GOOD = "sk-good-key-for-the-journey"
PASSWORD = "correct horse battery"


def _provider(request: UpstreamRequest) -> Answer:
    """A provider with one good key, two models, and prices of its own."""
    if request.key not in (GOOD, "sk-other"):
        return error_answer(401, "Incorrect API key provided", code="invalid_api_key")
    if request.path.endswith("/models"):
        return json_answer({"object": "list", "data": [{"id": "fine"}, {"id": "broken"}]})
    asked = request.json
    if asked["model"] == "broken":
        return error_answer(500, "the model is down")
    words = ["You ", "said: ", str(asked["messages"][-1]["content"])]
    if asked.get("stream"):
        return Answer(headers={"content-type": "text/event-stream"}, pieces=chat_events(words, model=asked["model"]))
    return chat_answer("".join(words), model=asked["model"], prompt=1000, completion=500)


def _settings(upstream: Upstream, key: str = "") -> str:
    price = {"input": "10", "output": "20", "unit": "0.000001", "currency": "USD"}
    models = [
        {
            "model": name, "model_type": "llm", "label": {"en_US": name}, "pricing": price,
            "model_properties": {"mode": "chat", "context_size": 8000},
        }
        for name in ("fine", "broken")
    ]  # fmt: skip
    provider: dict[str, Any] = {"name": "cloud", "base_url": upstream.url, "models": models}
    if key:
        provider["credentials"] = [{"values": {"api_key": key}}]
    return json.dumps({"providers": [provider], "defaults": {"llm": "cloud/fine"} if key else {}, "retries": 0})


@contextmanager
def _cloud(key: str = GOOD) -> Generator[str]:
    with Upstream(_provider) as upstream:
        yield _settings(upstream, key)


def _chat(one: Person, text: str) -> None:
    one.write(one.page.get_by_label("Message", exact=True), text)
    one.press(one.named("button", "Send"))


def first_chat(one: Person) -> None:
    one.goto("/")
    one.press(one.named("link", "Say hello to a model"))
    one.page.get_by_role("heading", name="Playground").wait_for()
    _chat(one, "Say hello in one short sentence.")
    one.sees("tokens in", 90)
    assert len(one.page.locator(".turn.assistant").inner_text()) > 10
    one.goto("/")
    one.page.locator(".figures dd").first.filter(has_text="1").wait_for()


def bad_then_good_key(one: Person) -> None:
    one.goto("/providers")
    one.write(one.page.get_by_label("Find", exact=True), "cloud")
    one.press(one.page.get_by_role("link", name=re.compile("cloud", re.IGNORECASE)).last)
    one.press(one.named("button", "Add a credential"))
    field = one.page.get_by_role("dialog").locator("input[type=password]").first
    one.write(field, "sk-wrong")
    one.press(one.named("button", "Check and save"))
    one.sees("Incorrect API key")
    one.write(field, GOOD)
    one.press(one.named("button", "Check and save"))
    one.page.get_by_role("dialog").wait_for(state="detached")
    one.page.locator("table .status.good", has_text="ready").first.wait_for()
    one.goto("/playground")
    one.choose(one.page.get_by_label("Model", exact=True), "cloud/fine")
    _chat(one, "is the key good?")
    one.sees("You said: is the key good?")


def compare_two(one: Person) -> None:
    one.goto("/playground")
    one.press(one.named("button", "Compare with"))
    one.choose(one.page.get_by_label("Model 1", exact=True), "cloud/fine")
    one.choose(one.page.get_by_label("Model 2", exact=True), "local/qwen2.5-coder-0.5b")
    _chat(one, "hello both")
    one.sees("You said: hello both")
    one.page.locator(".panes .turns").nth(1).get_by_text("tokens in").wait_for(timeout=90_000)


def why_failed_over(one: Person) -> None:
    one.goto("/routes")
    one.press(one.named("button", "Add a route"))
    box = one.page.get_by_role("dialog")
    one.write(box.get_by_label(re.compile("^Name")), "careful")
    one.write(box.get_by_label("Model 1", exact=True), "cloud/broken")
    one.press(one.named("button", "Add a failover"))
    one.write(box.get_by_label("Then 1", exact=True), "cloud/fine")
    one.press(one.named("button", "Save"))
    box.wait_for(state="detached")
    one.goto("/playground")
    one.choose(one.page.get_by_label("Model", exact=True), "careful")
    _chat(one, "who answers?")
    one.sees("You said: who answers?")
    one.press(one.named("link", "why it went there"))
    one.page.get_by_role("heading", name="One request").wait_for()
    one.page.locator(".timeline li").nth(1).wait_for()
    texts = one.page.locator(".timeline").inner_text()
    assert "cloud/broken" in texts, texts
    assert "cloud/fine" in texts, texts
    one.page.locator(".timeline .status.bad").first.wait_for()


def hit_a_budget(one: Person) -> None:
    one.goto("/routes?tab=limits")
    one.press(one.named("button", "Add a limit"))
    box = one.page.get_by_role("dialog")
    one.write(box.get_by_label("Name", exact=True), "pocket money")
    one.write(box.get_by_label("Amount", exact=True), "0.0001")
    one.press(one.named("button", "Save"))
    box.wait_for(state="detached")
    one.goto("/playground")
    for _ in range(3):
        _chat(one, "spend")
        one.page.get_by_role("button", name="Send").wait_for()
        one.page.wait_for_timeout(300)
        if one.page.get_by_text("pocket money").count():
            break
    one.sees("pocket money")
    one.goto("/requests?status=failed")
    one.goto("/routes?tab=dry-run")
    one.sees("pocket money")


def make_and_revoke_a_key(one: Person) -> None:
    one.goto("/keys")
    one.press(one.named("button", "Make a key"))
    box = one.page.get_by_role("dialog")
    one.write(box.get_by_label("Name", exact=True), "Ada")
    one.write(box.get_by_label("Email", exact=True), "ada@example.com")
    one.write(box.get_by_label("Password", exact=True), PASSWORD)
    one.press(box.get_by_role("button", name="Make it"))
    box.get_by_label("Role", exact=True).wait_for()
    one.write(box.get_by_label("Name", exact=True), "my script")
    one.press(box.get_by_role("button", name="Make a key"))
    key = one.page.locator("code.secret").inner_text()
    one.press(one.named("button", "Done"))
    ask = {"model": "cloud/fine", "messages": [{"role": "user", "content": "hi"}]}
    shown = {"authorization": f"Bearer {key}"}
    answered = httpx.post(f"{one.origin}/v1/chat/completions", json=ask, headers=shown, timeout=20)
    assert answered.status_code == 200, answered.text
    assert httpx.post(f"{one.origin}/v1/chat/completions", json=ask, timeout=20).status_code == 401
    one.press(one.named("button", "Revoke"))
    one.press(one.page.get_by_role("dialog").get_by_role("button", name="Revoke"))
    one.page.get_by_role("cell", name="revoked", exact=True).wait_for()
    assert httpx.post(f"{one.origin}/v1/chat/completions", json=ask, headers=shown, timeout=20).status_code == 401


def use_a_plugin(one: Person) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toolbox.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "toolbox").data)
        one.goto("/plugins")
        one.upload(one.page.locator("input[type=file]"), path)
        one.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    one.sees("It may")
    one.press(one.named("button", "toolbox/add"))
    box = one.page.get_by_role("dialog")
    one.write(box.get_by_label(re.compile("^a")).first, "2")
    one.write(box.get_by_label(re.compile("^b")).first, "40")
    one.press(box.get_by_role("button", name="Run"))
    box.locator("pre", has_text="42").wait_for(timeout=60_000)


def greeter() -> str:
    """An app's file, as an editor exports one."""
    variables = [{"variable": "name", "label": "Your name", "type": "text-input", "required": True}]
    chosen = [{"variable": "name", "value_selector": ["start", "name"]}]
    nodes: dict[str, dict[str, Any]] = {
        "start": {"type": "start", "title": "Start", "variables": variables},
        "greet": {
            "type": "template-transform", "title": "Greet", "template": "Good day, {{ name }}!", "variables": chosen,
        },
        "end": {"type": "end", "title": "End", "outputs": [{"variable": "it", "value_selector": ["greet", "output"]}]},
    }  # fmt: skip
    graph = {
        "nodes": [{"id": name, "data": data, "position": {"x": 0, "y": 0}} for name, data in nodes.items()],
        "edges": [{"source": "start", "target": "greet"}, {"source": "greet", "target": "end"}],
    }  # fmt: skip
    app = {"name": "greeter", "mode": "workflow", "description": "greets"}
    return json.dumps({"app": app, "kind": "app", "version": "0.3.0", "workflow": {"graph": graph}})


def import_and_run(one: Person) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "greeter.yml"
        path.write_text(greeter(), "utf-8")
        one.goto("/apps")
        one.upload(one.page.locator("input[type=file]"), path)
        one.page.get_by_text("imported").wait_for()
    one.press(one.named("link", "greeter"))
    one.write(one.page.get_by_label("Your name", exact=True), "Ada")
    one.press(one.named("button", "Run"))
    one.sees("Good day, Ada!")


def draw_and_run(one: Person) -> None:
    one.goto("/workflows")
    one.write(one.page.get_by_label("Name", exact=True), "shouter")
    one.press(one.named("button", "Draw"))
    one.page.locator(".react-flow__node").first.wait_for()
    one.press(one.page.locator(".outline summary"))
    one.press(one.page.locator(".outline").get_by_role("button", name="Start"))
    one.pick(one.named("button", "Add a node…"), "Model")
    form = one.page.locator("aside.inspector")
    form.get_by_label("Title", exact=True).wait_for()
    one.pick(form.get_by_role("button", name="Insert a variable…: Text").nth(1), "Start.text")
    one.pick(one.named("button", "Add a node…"), "End")
    one.press(form.get_by_role("button", name="Add to: Outputs"))
    one.write(form.get_by_label("Name", exact=True), "said")
    one.choose(form.get_by_label("Value", exact=True), "Model.text · string")
    one.press(one.named("button", "Tidy up"))
    one.press(one.page.locator(".head").get_by_role("button", name="Run"))
    one.write(one.page.get_by_label("text", exact=True), "louder")
    one.press(one.page.get_by_role("button", name=re.compile("Save and run|Run the draft")))
    one.page.locator("aside.inspector pre", has_text="You said: louder").wait_for(timeout=30_000)
    one.page.locator(".step.succeeded").nth(2).wait_for()
    one.press(one.named("button", "Publish"))
    one.sees("Published.")


DOCUMENT = (
    "# House rules\n\nThe gate of the yard is closed at nine in the evening.\n\n"
    "Dogs are welcome, if they are on a lead.\n"
)


def ask_a_document(one: Person) -> None:
    one.goto("/knowledge")
    one.write(one.page.get_by_label("New dataset", exact=True), "house rules")
    one.press(one.named("button", "Make"))
    one.page.get_by_role("tab", name="Documents").wait_for()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.md"
        path.write_text(DOCUMENT, "utf-8")
        one.upload(one.page.locator("input[type=file]"), path)
        one.page.get_by_role("cell", name="completed").wait_for(timeout=120_000)
    one.press(one.named("tab", "Ask"))
    one.write(one.page.get_by_label("Question", exact=True), "When is the gate closed?")
    one.press(one.page.get_by_role("tabpanel").get_by_role("button", name="Ask"))
    one.page.locator("blockquote").wait_for(timeout=120_000)
    one.page.locator("article", has_text="closed at nine").first.wait_for()


def publish_and_chat(one: Person) -> None:
    text = (
        "app: {name: desk, mode: chat, description: A help desk}\nkind: app\nversion: 0.3.0\nmodel_config:\n"
        "  model: {provider: '', name: default, mode: chat, completion_params: {}}\n  pre_prompt: ''\n"
        "  opening_statement: How can I help?\n  user_input_form: []\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desk.yml"
        path.write_text(text, "utf-8")
        one.goto("/apps")
        one.upload(one.page.locator("input[type=file]"), path)
        one.page.get_by_text("imported").wait_for()
    one.press(one.named("link", "desk"))
    one.press(one.named("tab", "Publishing"))
    one.press(one.page.get_by_role("switch", name="On a page of its own"))
    address = one.page.locator("a[href*='/chat/']").first.get_attribute("href")
    one.page.goto(address)
    one.sees("How can I help?")
    one.write(one.page.get_by_role("textbox").last, "is somebody there?")
    one.page.keyboard.press("Enter")
    one.sees("You said: is somebody there?")


def month_and_export(one: Person) -> None:
    ask = {"model": "cloud/fine", "messages": [{"role": "user", "content": "count me"}]}
    for _ in range(3):
        assert httpx.post(f"{one.origin}/v1/chat/completions", json=ask, timeout=20).status_code == 200
    time.sleep(0.5)
    one.goto("/usage")
    one.page.get_by_role("img", name=re.compile("Cost")).wait_for()
    one.page.locator(".figures dd", has_text="$0.06").first.wait_for()  # 3 × (1,000 × $10 + 500 × $20) a million
    with one.page.expect_download() as waiting:
        one.press(one.named("link", "Export CSV"))
    rows = Path(waiting.value.path()).read_text("utf-8").splitlines()
    assert len(rows) == 4, rows
    assert "total_price" in rows[0], rows
    one.press(one.page.locator("table").first.get_by_role("link").first)
    one.page.get_by_role("row").nth(3).wait_for()


Journey = Callable[[Person], None]
JOURNEYS: dict[str, tuple[Journey, str, bool]] = {
    "first start to first chat": (first_chat, "", True),
    "add a provider with a bad and then a good key": (bad_then_good_key, "keyless", False),
    "compare two models": (compare_two, "cloud", True),
    "find why a request failed over": (why_failed_over, "cloud", False),
    "set a budget and hit it": (hit_a_budget, "cloud", False),
    "create a key and revoke it": (make_and_revoke_a_key, "cloud", False),
    "install and use a plugin": (use_a_plugin, "", False),
    "import an app file and run it": (import_and_run, "", False),
    "draw a workflow from nothing and run it": (draw_and_run, "cloud", False),
    "upload a document and ask it": (ask_a_document, "", True),
    "publish an app and chat on its page": (publish_and_chat, "cloud", False),
    "read the month's cost and export it": (month_and_export, "cloud", False),
}
"""Name → the journey, who answers beside the local models, whether these are needed."""


def travel(made: Any, name: str, *, keyboard: bool = False, database: str = "") -> tuple[str, float]:
    """What went wrong, empty where nothing did; and seconds."""
    journey, upstream, local = JOURNEYS[name]
    begun = time.monotonic()
    environ = {"MODELYARD_DATABASE": database} if database else {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="modelyard-journey-"))
        settings = stack.enter_context(_cloud("" if upstream == "keyless" else GOOD)) if upstream else ""
        served = stack.enter_context(server(settings, home=Path(folder) / "home", local=local, **environ))
        one = stack.enter_context(person(made, served.origin, keyboard=keyboard, accept_downloads=True))
        try:
            journey(one)
            wrong = lines_of([*one.wrongs, *(f"asked for {url}" for url in one.elsewhere)])
        except (PlaywrightError, AssertionError, httpx.HTTPError) as error:  # the others are travelled too
            shot = Path(tempfile.gettempdir()) / f"modelyard-{re.sub('[^a-z]+', '-', name)}.png"
            one.page.screenshot(path=shot)
            wrong = f"{type(error).__name__}: {str(error)[:600]} (picture: {shot})"
    return wrong, time.monotonic() - begun


def prove() -> Proof:
    build()
    proof = Proof()
    with browser() as made:
        for name in JOURNEYS:
            wrong, seconds = travel(made, name)
            proof.line(name, wrong or f"{seconds:.1f} s", not wrong)
        for name in JOURNEYS:
            with (
                tempfile.TemporaryDirectory(prefix="modelyard-pg-") as folder,
                Postgres(Path(folder) / "data") as there,
            ):
                wrong, seconds = travel(made, name, database=there.url)
            proof.line(f"on PostgreSQL: {name}", wrong or f"{seconds:.1f} s", not wrong)
    proof.figures = {"journeys": 2 * len(JOURNEYS), "done": sum(ok is True for _, _, ok in proof.lines)}
    return proof
