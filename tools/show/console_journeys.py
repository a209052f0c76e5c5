"""Twelve user journeys through the console. Each one starts as a new user, with a fresh
home folder and a fresh browser profile."""

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
from modelyard.testing import (
    Answer,
    Upstream,
    UpstreamRequest,
    chat_answer,
    chat_events,
    error_answer,
    json_answer,
)
from tools.show.browser import Person, browser, build, lines_of, person, server
from tools.show.proof import ROOT, Proof
from tools.show.servers import Postgres

VALID_KEY = "sk-good-key-for-the-journey"
PASSWORD = "correct horse battery"


def _provider(request: UpstreamRequest) -> Answer:
    """Simulate a provider with two accepted keys, one working model and one model that
    always fails."""
    if request.key not in (VALID_KEY, "sk-other"):
        return error_answer(401, "Incorrect API key provided", code="invalid_api_key")
    if request.path.endswith("/models"):
        return json_answer(
            {"object": "list", "data": [{"id": "fine"}, {"id": "broken"}]}
        )
    body = request.json
    if body["model"] == "broken":
        return error_answer(500, "the model is down")
    chunks = ["You ", "said: ", str(body["messages"][-1]["content"])]
    if body.get("stream"):
        return Answer(
            headers={"content-type": "text/event-stream"},
            pieces=chat_events(chunks, model=body["model"]),
        )
    return chat_answer(
        "".join(chunks), model=body["model"], prompt=1000, completion=500
    )


def _settings(upstream: Upstream, key: str = "") -> str:
    # 1,000 input and 500 output tokens cost $0.02. The usage journey relies on this
    # amount.
    price = {"input": "10", "output": "20", "unit": "0.000001", "currency": "USD"}
    models = [
        {
            "model": name,
            "model_type": "llm",
            "label": {"en_US": name},
            "pricing": price,
            "model_properties": {"mode": "chat", "context_size": 8000},
        }
        for name in ("fine", "broken")
    ]
    provider: dict[str, Any] = {
        "name": "cloud",
        "base_url": upstream.url,
        "models": models,
    }
    if key:
        provider["credentials"] = [{"values": {"api_key": key}}]
    # Without retries, a failing model leads to failover or an error at once.
    return json.dumps(
        {
            "providers": [provider],
            "defaults": {"llm": "cloud/fine"} if key else {},
            "retries": 0,
        }
    )


@contextmanager
def _cloud(key: str = VALID_KEY) -> Generator[str]:
    with Upstream(_provider) as upstream:
        yield _settings(upstream, key)


def _chat(user: Person, text: str) -> None:
    user.write(user.page.get_by_label("Message", exact=True), text)
    user.press(user.element("button", "Send"))


def first_chat(user: Person) -> None:
    """Open the console for the first time and chat with a local model."""
    user.goto("/")
    user.press(user.element("link", "Chat with a model"))
    user.page.get_by_role("heading", name="Playground").wait_for()
    _chat(user, "Say hello in one short sentence.")
    # The local model may have to be loaded first, which takes long.
    user.wait_for_text("tokens in", 90)
    assert len(user.page.locator(".turn.assistant").inner_text()) > 10
    # The dashboard must have counted the request.
    user.goto("/")
    user.page.locator(".figures dd").first.filter(has_text="1").wait_for()


def bad_then_good_key(user: Person) -> None:
    """Add a provider with a wrong key, read the vendor's error, correct the key and
    chat."""
    user.goto("/providers")
    user.write(user.page.get_by_label("Search", exact=True), "cloud")
    user.press(
        user.page.get_by_role("link", name=re.compile("cloud", re.IGNORECASE)).last
    )
    user.press(user.element("button", "Add a credential"))
    field = user.page.get_by_role("dialog").locator("input[type=password]").first
    # The form must show the vendor's error and stay open for a correction.
    user.write(field, "sk-wrong")
    user.press(user.element("button", "Validate and save"))
    user.wait_for_text("Incorrect API key")
    user.write(field, VALID_KEY)
    user.press(user.element("button", "Validate and save"))
    user.page.get_by_role("dialog").wait_for(state="detached")
    user.page.locator("table .status.good", has_text="ready").first.wait_for()
    user.goto("/playground")
    user.choose(user.page.get_by_label("Model", exact=True), "cloud/fine")
    _chat(user, "is the key good?")
    user.wait_for_text("You said: is the key good?")


def compare_two(user: Person) -> None:
    """Send one prompt to a cloud model and a local model side by side."""
    user.goto("/playground")
    user.press(user.element("button", "Add model to compare"))
    user.choose(user.page.get_by_label("Model 1", exact=True), "cloud/fine")
    user.choose(
        user.page.get_by_label("Model 2", exact=True), "local/qwen2.5-coder-0.5b"
    )
    _chat(user, "hello both")
    user.wait_for_text("You said: hello both")
    # The second pane is answered by the local model, which is slower than the simulated
    # one.
    user.page.locator(".panes .turns").nth(1).get_by_text("tokens in").wait_for(
        timeout=90_000
    )


def why_failed_over(user: Person) -> None:
    """Create a route with a failover and find the reason for the failover on the
    request's page."""
    user.goto("/routes")
    user.press(user.element("button", "Add a route"))
    # The route tries the failing model first and then its failover.
    box = user.page.get_by_role("dialog")
    user.write(box.get_by_label(re.compile("^Name")), "careful")
    user.write(box.get_by_label("Model 1", exact=True), "cloud/broken")
    user.press(user.element("button", "Add a failover"))
    user.write(box.get_by_label("Fallback 1", exact=True), "cloud/fine")
    user.press(user.element("button", "Save"))
    box.wait_for(state="detached")
    user.goto("/playground")
    user.choose(user.page.get_by_label("Model", exact=True), "careful")
    _chat(user, "who answers?")
    user.wait_for_text("You said: who answers?")
    user.press(user.element("link", "routing decision"))
    user.page.get_by_role("heading", name="Request details").wait_for()
    user.page.locator(".timeline li").nth(1).wait_for()
    # The timeline lists both attempts, the failed one marked as such.
    texts = user.page.locator(".timeline").inner_text()
    assert "cloud/broken" in texts, texts
    assert "cloud/fine" in texts, texts
    user.page.locator(".timeline .status.bad").first.wait_for()


def hit_a_budget(user: Person) -> None:
    """Create a cost limit and exceed it in the playground."""
    user.goto("/routes?tab=limits")
    user.press(user.element("button", "Add a limit"))
    box = user.page.get_by_role("dialog")
    user.write(box.get_by_label("Name", exact=True), "pocket money")
    user.write(box.get_by_label("Amount", exact=True), "0.0001")
    user.press(user.element("button", "Save"))
    box.wait_for(state="detached")
    user.goto("/playground")
    # One call costs $0.02, which is more than the limit of $0.0001.
    for _ in range(3):
        _chat(user, "spend")
        user.page.get_by_role("button", name="Send").wait_for()
        user.page.wait_for_timeout(300)
        if user.page.get_by_text("pocket money").count():
            break
    user.wait_for_text("pocket money")
    # The refused call is in the list, and the limit says that it is used up.
    user.goto("/requests?outcome=refused")
    user.page.get_by_text("insufficient_quota").first.wait_for()
    user.goto("/")
    user.wait_for_text("The limit pocket money is used up.")
    user.goto("/routes?tab=dry-run")
    user.wait_for_text("pocket money")


def create_and_revoke_key(user: Person) -> None:
    """Create the first account and an API key, call the gateway with the key, then
    revoke it."""
    user.goto("/keys")
    user.press(user.element("button", "Create key"))
    # Without an account, the dialog asks for one before it creates the key.
    box = user.page.get_by_role("dialog")
    user.write(box.get_by_label("Name", exact=True), "Ada")
    user.write(box.get_by_label("Email", exact=True), "ada@example.com")
    user.write(box.get_by_label("Password", exact=True), PASSWORD)
    user.press(box.get_by_role("button", name="Create account"))
    box.get_by_label("Role", exact=True).wait_for()
    user.write(box.get_by_label("Name", exact=True), "my script")
    user.press(box.get_by_role("button", name="Create key"))
    key = user.page.locator("code.secret").inner_text()
    user.press(user.element("button", "Done"))
    ask = {"model": "cloud/fine", "messages": [{"role": "user", "content": "hi"}]}
    auth_headers = {"authorization": f"Bearer {key}"}
    answered = httpx.post(
        f"{user.origin}/v1/chat/completions", json=ask, headers=auth_headers, timeout=20
    )
    assert answered.status_code == 200, answered.text
    # As soon as a key exists, calls without a key are refused.
    assert (
        httpx.post(
            f"{user.origin}/v1/chat/completions", json=ask, timeout=20
        ).status_code
        == 401
    )
    user.press(user.element("button", "Revoke"))
    user.press(user.page.get_by_role("dialog").get_by_role("button", name="Revoke"))
    user.page.get_by_role("cell", name="revoked", exact=True).wait_for()
    assert (
        httpx.post(
            f"{user.origin}/v1/chat/completions",
            json=ask,
            headers=auth_headers,
            timeout=20,
        ).status_code
        == 401
    )


def use_a_plugin(user: Person) -> None:
    """Install a plugin from a package file and run one of its tools."""
    with tempfile.TemporaryDirectory() as folder:
        # The plugin is packaged from its source folder, as a developer would do it.
        path = Path(folder) / "toolbox.difypkg"
        path.write_bytes(package_folder(ROOT / "examples" / "plugins" / "toolbox").data)
        user.goto("/plugins")
        user.upload(user.page.locator("input[type=file]"), path)
        # The first installation may create a Python environment.
        user.page.locator("[role=status] .status.good").first.wait_for(timeout=120_000)
    user.wait_for_text("Permissions")
    user.press(user.element("button", "toolbox/add"))
    box = user.page.get_by_role("dialog")
    user.write(box.get_by_label(re.compile("^a")).first, "2")
    user.write(box.get_by_label(re.compile("^b")).first, "40")
    user.press(box.get_by_role("button", name="Run"))
    box.locator("pre", has_text="42").wait_for(timeout=60_000)


def greeter_app_file() -> str:
    """Return a workflow app as a JSON file, in the shape that an editor exports."""
    variables = [
        {
            "variable": "name",
            "label": "Your name",
            "type": "text-input",
            "required": True,
        }
    ]
    template_variables = [{"variable": "name", "value_selector": ["start", "name"]}]
    nodes: dict[str, dict[str, Any]] = {
        "start": {"type": "start", "title": "Start", "variables": variables},
        "greet": {
            "type": "template-transform",
            "title": "Greet",
            "template": "Good day, {{ name }}!",
            "variables": template_variables,
        },
        "end": {
            "type": "end",
            "title": "End",
            "outputs": [{"variable": "it", "value_selector": ["greet", "output"]}],
        },
    }
    graph = {
        "nodes": [
            {"id": name, "data": data, "position": {"x": 0, "y": 0}}
            for name, data in nodes.items()
        ],
        "edges": [
            {"source": "start", "target": "greet"},
            {"source": "greet", "target": "end"},
        ],
    }
    app = {"name": "greeter", "mode": "workflow", "description": "greets"}
    return json.dumps(
        {"app": app, "kind": "app", "version": "0.3.0", "workflow": {"graph": graph}}
    )


def import_and_run(user: Person) -> None:
    """Import an app file and run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "greeter.yml"
        path.write_text(greeter_app_file(), "utf-8")
        user.goto("/apps")
        user.upload(user.page.locator("input[type=file]"), path)
        user.page.get_by_text("imported").wait_for()
    user.press(user.element("link", "greeter"))
    user.write(user.page.get_by_label("Your name", exact=True), "Ada")
    user.press(user.element("button", "Run"))
    user.wait_for_text("Good day, Ada!")


def draw_and_run(user: Person) -> None:
    """Build a workflow of three nodes in the editor, run the draft and publish it."""
    user.goto("/workflows")
    user.write(user.page.get_by_label("Name", exact=True), "shouter")
    user.press(user.element("button", "Create"))
    user.page.locator(".react-flow__node").first.wait_for()
    user.press(user.page.locator(".outline summary"))
    user.press(user.page.locator(".outline").get_by_role("button", name="Start"))
    user.pick(user.element("button", "Add a node…"), "Model")
    inspector = user.page.locator("aside.inspector")
    # Wait for the inspector of the new node before its fields are used.
    inspector.get_by_label("Title", exact=True).wait_for()
    user.pick(
        inspector.get_by_role("button", name="Insert a variable…: Text").nth(1),
        "Start.text",
    )
    user.pick(user.element("button", "Add a node…"), "End")
    user.press(inspector.get_by_role("button", name="Add to: Outputs"))
    user.write(inspector.get_by_label("Name", exact=True), "said")
    user.choose(inspector.get_by_label("Value", exact=True), "Model.text · string")
    user.press(user.element("button", "Auto layout"))
    user.press(user.page.locator(".head").get_by_role("button", name="Run"))
    user.write(user.page.get_by_label("text", exact=True), "louder")
    user.press(
        user.page.get_by_role("button", name=re.compile("Save and run|Run the draft"))
    )
    user.page.locator("aside.inspector pre", has_text="You said: louder").wait_for(
        timeout=30_000
    )
    # All three nodes must be marked as succeeded.
    user.page.locator(".step.succeeded").nth(2).wait_for()
    user.press(user.element("button", "Publish"))
    user.wait_for_text("Published.")


DOCUMENT = (
    "# House rules\n\nThe gate of the yard is closed at nine in the evening.\n\n"
    "Dogs are welcome, if they are on a lead.\n"
)


def ask_a_document(user: Person) -> None:
    """Create a dataset, upload a document and ask a question about it."""
    user.goto("/knowledge")
    user.write(user.page.get_by_label("New dataset", exact=True), "house rules")
    user.press(user.element("button", "Create"))
    user.page.get_by_role("tab", name="Documents").wait_for()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.md"
        path.write_text(DOCUMENT, "utf-8")
        user.upload(user.page.locator("input[type=file]"), path)
        # Indexing computes embeddings with a local model.
        user.page.get_by_role("cell", name="completed").wait_for(timeout=120_000)
    user.press(user.element("tab", "Ask"))
    user.write(
        user.page.get_by_label("Question", exact=True), "When is the gate closed?"
    )
    user.press(user.page.get_by_role("tabpanel").get_by_role("button", name="Ask"))
    user.page.locator("blockquote").wait_for(timeout=120_000)
    user.page.locator("article", has_text="closed at nine").first.wait_for()


def publish_and_chat(user: Person) -> None:
    """Import a chat app, publish it on its own page and chat there."""
    text = (
        "app: {name: desk, mode: chat, description: A help desk}\nkind: app\nversion: 0.3.0\nmodel_config:\n"
        "  model: {provider: '', name: default, mode: chat, completion_params: {}}\n  pre_prompt: ''\n"
        "  opening_statement: How can I help?\n  user_input_form: []\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desk.yml"
        path.write_text(text, "utf-8")
        user.goto("/apps")
        user.upload(user.page.locator("input[type=file]"), path)
        user.page.get_by_text("imported").wait_for()
    user.press(user.element("link", "desk"))
    user.press(user.element("tab", "Publishing"))
    user.press(user.page.get_by_role("switch", name="Enable web app"))
    address = user.page.locator("a[href*='/chat/']").first.get_attribute("href")
    # The address is a public chat page outside the console, so `user.goto` does not
    # apply.
    user.page.goto(address)
    user.wait_for_text("How can I help?")
    user.write(user.page.get_by_role("textbox").last, "is somebody there?")
    user.page.keyboard.press("Enter")
    user.wait_for_text("You said: is somebody there?")


def export_usage(user: Person) -> None:
    """Read the month's cost and export the usage records as CSV."""
    ask = {"model": "cloud/fine", "messages": [{"role": "user", "content": "count me"}]}
    for _ in range(3):
        assert (
            httpx.post(
                f"{user.origin}/v1/chat/completions", json=ask, timeout=20
            ).status_code
            == 200
        )
    # Usage records are written shortly after the response.
    time.sleep(0.5)
    user.goto("/usage")
    user.page.get_by_role("img", name=re.compile("Cost")).wait_for()
    user.page.locator(
        ".figures dd", has_text="$0.06"
    ).first.wait_for()  # 3 × (1,000 × $10 + 500 × $20) a million
    with user.page.expect_download() as waiting:
        user.press(user.element("link", "Export CSV"))
    rows = Path(waiting.value.path()).read_text("utf-8").splitlines()
    # One header row and one row for each call.
    assert len(rows) == 4, rows
    assert "total_price" in rows[0], rows
    user.press(user.page.locator("table").first.get_by_role("link").first)
    user.page.get_by_role("row").nth(3).wait_for()


Journey = Callable[[Person], None]
JOURNEYS: dict[str, tuple[Journey, str, bool]] = {
    "first start to first chat": (first_chat, "", True),
    "add a provider with a bad and then a good key": (
        bad_then_good_key,
        "keyless",
        False,
    ),
    "compare two models": (compare_two, "cloud", True),
    "find why a request failed over": (why_failed_over, "cloud", False),
    "set a budget and hit it": (hit_a_budget, "cloud", False),
    "create a key and revoke it": (create_and_revoke_key, "cloud", False),
    "install and use a plugin": (use_a_plugin, "", False),
    "import an app file and run it": (import_and_run, "", False),
    "draw a workflow from nothing and run it": (draw_and_run, "cloud", False),
    "upload a document and ask it": (ask_a_document, "", True),
    "publish an app and chat on its page": (publish_and_chat, "cloud", False),
    "read the month's cost and export it": (export_usage, "cloud", False),
}
"""Name → the journey, the upstream besides the local models (`cloud`, `keyless` or
none), and whether local models are required."""


def run_journey(
    browser_instance: Any, name: str, *, keyboard: bool = False, database: str = ""
) -> tuple[str, float]:
    """Run a journey. Return the problem (empty if there was none) and the duration in
    seconds."""
    journey, upstream, local = JOURNEYS[name]
    started_at = time.monotonic()
    environ = {"MODELYARD_DATABASE": database} if database else {}
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="modelyard-journey-")
        )
        settings = (
            stack.enter_context(_cloud("" if upstream == "keyless" else VALID_KEY))
            if upstream
            else ""
        )
        served = stack.enter_context(
            server(settings, home=Path(folder) / "home", local=local, **environ)
        )
        user = stack.enter_context(
            person(
                browser_instance,
                served.origin,
                keyboard=keyboard,
                accept_downloads=True,
            )
        )
        try:
            journey(user)
            problem = lines_of(
                [*user.problems, *(f"asked for {url}" for url in user.foreign_urls)]
            )
        except (
            PlaywrightError,
            AssertionError,
            httpx.HTTPError,
        ) as error:  # the others are travelled too
            # A failed journey must not stop the others. The screenshot remains for
            # diagnosis.
            shot = (
                Path(tempfile.gettempdir())
                / f"modelyard-{re.sub('[^a-z]+', '-', name)}.png"
            )
            user.page.screenshot(path=shot)
            problem = f"{type(error).__name__}: {str(error)[:600]} (picture: {shot})"
    return problem, time.monotonic() - started_at


def prove() -> Proof:
    """Run all journeys on SQLite and again on PostgreSQL."""
    build()
    proof = Proof()
    with browser() as browser_instance:
        for name in JOURNEYS:
            problem, seconds = run_journey(browser_instance, name)
            proof.line(name, problem or f"{seconds:.1f} s", not problem)
        for name in JOURNEYS:
            with (
                tempfile.TemporaryDirectory(prefix="modelyard-pg-") as folder,
                Postgres(Path(folder) / "data") as postgres,
            ):
                problem, seconds = run_journey(
                    browser_instance, name, database=postgres.url
                )
            proof.line(
                f"on PostgreSQL: {name}", problem or f"{seconds:.1f} s", not problem
            )
    proof.figures = {
        "journeys": 2 * len(JOURNEYS),
        "done": sum(ok is True for _, _, ok in proof.lines),
    }
    return proof
