"""An app's page in Chromium: chats, forms, files, speech, and embedding elsewhere."""

import base64
import json
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import expect
from tools.show import app_api
from tools.show.app_clients import MODEL, serving
from tools.show.browser import Person, chromium, person, violations
from tools.show.console_access import pairs
from tools.show.proof import ROOT

from modelyard.testing.workflows import ScriptedModel

# How long a change of the page may take, in milliseconds.
_PATIENCE = 30_000

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
    pytest.mark.timeout(300),
]

STORY = " ".join(f"word{number}" for number in range(400))
WRITTEN = (
    "# Rules\n\nSome **bold** and `code`, a [link](https://example.test/a), [none](javascript:alert(1)).\n\n"
    "- one\n- two\n  1. within\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n```\n<b>x</b>\n```\n"
    "![a](/admin/v1/usage) <img src=/admin/v1/about>"
)


def simple(mode: str, **config: Any) -> str:
    features = {"model": MODEL, "pre_prompt": "", "user_input_form": [], **config}
    app = {"name": mode, "mode": mode, "description": "For everybody"}
    return yaml.dump(
        {"kind": "app", "version": "0.6.0", "app": app, "model_config": features}
    )


DESK = simple(
    "chat", opening_statement="How can I **help**?", suggested_questions=["What is a **star**?"],
    file_upload={"enabled": True}, speech_to_text={"enabled": True}, text_to_speech={"enabled": True},
    user_input_form=[
        {"text-input": {"variable": "name", "label": "Your name", "required": True, "max_length": 20}},
        {"number": {"variable": "age", "label": "Age", "required": False}},
        {"json_object": {"variable": "more", "label": "More", "required": False, "hint": "As JSON"}},
    ],
)  # fmt: skip
POEMS = simple(
    "completion", pre_prompt="Write about {{topic}}.", more_like_this={"enabled": True},
    user_input_form=[{"paragraph": {"variable": "topic", "label": "Topic", "required": True}}],
)  # fmt: skip


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    answers = [
        ("^User: ", '["One?", "Two?"]'), ("long story", STORY), ("rules", WRITTEN), ("name", "the first"),
    ]  # fmt: skip
    model = ScriptedModel(answers=answers, delay=0.002)
    with serving({**app_api.apps(), "desk": DESK, "poems": POEMS}, model=model) as keys:
        yield keys


class Visit:
    """A visitor on the page of an app."""

    def __init__(self, user: Person, url: str) -> None:
        self.user, self.page, self.url = user, user.page, url

    def write(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str, answer: str) -> None:
        """Send a message and wait for the complete answer."""
        copy_buttons = self.page.get_by_role("button", name="Copy", exact=True)
        previous_count = copy_buttons.count()
        self.write(text)
        copy_buttons.nth(previous_count).wait_for()
        self.page.locator("article", has_text=answer).last.wait_for()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click()


class Pages:
    def __init__(self, web_browser: Any, served_apps: dict[str, str]) -> None:
        self.web_browser, self.origin = (
            web_browser,
            served_apps["base"].removesuffix("/v1"),
        )
        self.http = httpx.Client(base_url=f"{self.origin}/admin/v1/apps", timeout=30)

    def url(self, name: str, **page: Any) -> str:
        app = next(
            app["id"] for app in self.http.get("").json()["data"] if app["name"] == name
        )
        return self.http.patch(
            f"/{app}", json={"page": {"is_on": True, **page}}
        ).json()["page"]["url"]

    @contextmanager
    def visit(self, name: str, query: str = "", **options: Any) -> Generator[Visit]:
        with person(self.web_browser, self.origin, **options) as user:
            visit = Visit(user, self.url(name))
            user.page.goto(visit.url + query)
            user.page.locator("h1", has_text=name).wait_for()
            yield visit
            assert (user.problems, user.foreign_urls) == ([], [])


@pytest.fixture
def pages(web_browser: Any, served_apps: dict[str, str]) -> Iterator[Pages]:
    pages = Pages(web_browser, served_apps)
    with pages.http:
        yield pages


def test_a_form_is_filled_in_before_a_chat_starts(pages: Pages):
    with pages.visit("desk") as visit:
        page = visit.page
        visit.user.wait_for_text("How can I help?")
        name, more_field = (
            page.get_by_label("Your name", exact=True),
            page.get_by_label("More (optional)"),
        )
        complaint = "it => it.validationMessage"
        visit.write("what is my name?")
        assert name.evaluate(complaint) == "This field is needed."
        assert (
            page.get_by_label("Message", exact=True).input_value() == "what is my name?"
        )
        name.fill("Ada")
        more_field.fill("{")
        visit.write("what is my name?")
        assert more_field.evaluate(complaint) == "Invalid JSON"
        more_field.fill('{"a": 1}')
        page.get_by_label("Age (optional)").fill("36")
        with page.expect_request(re.compile("/chat-messages$")) as sent:
            visit.ask("what is my name?", "the first")
        assert sent.value.post_data_json["inputs"] == {
            "name": "Ada",
            "age": 36,
            "more": {"a": 1},
        }
        assert name.count() == 0


def test_an_answer_is_streamed_and_can_be_stopped(pages: Pages):
    with pages.visit("chat") as visit:
        visit.write("a long story")
        visit.page.get_by_text("word9 ").wait_for()
        visit.page.get_by_role("button", name="Stop", exact=True).click()
        visit.page.get_by_role("button", name="Send", exact=True).wait_for()
        assert visit.page.get_by_text("word399").count() == 0
        visit.ask("hello", "Answer to: hello")


def test_a_conversation_is_reopened_renamed_and_deleted(pages: Pages):
    with pages.visit("chat") as visit:
        page = visit.page
        visit.ask("hello there", "Answer to: hello there")
        visit.press("Two?")
        page.locator("article", has_text="Answer to: Two?").wait_for()
        page.get_by_role("button", name="One?").wait_for()
        # Suggestions after the first answer have been removed.
        assert page.get_by_role("button", name="One?").count() == 1
        with page.expect_response(re.compile("/feedbacks$")):
            visit.press("Good answer")
        page.goto("about:blank")
        page.goto(visit.url)
        conversation_items = page.get_by_role(
            "navigation", name="Conversations"
        ).get_by_role("listitem")
        conversation_items.get_by_role("button").first.click()
        page.locator("article", has_text="Answer to: Two?").wait_for()
        assert page.locator(".turn.user").all_text_contents() == [
            "You: hello there",
            "You: Two?",
        ]
        assert (
            page.get_by_role("button", name="Good answer").last.get_attribute(
                "aria-pressed"
            )
            == "true"
        )
        assert re.fullmatch("#.+", page.evaluate("location.hash"))
        page.reload()
        page.locator("article", has_text="Answer to: Two?").wait_for()
        visit.press("Rename")
        page.get_by_label("A name for this conversation").fill("about stars")
        page.get_by_role("dialog").get_by_role("button", name="Rename").click()
        conversation_items.get_by_role("button", name="about stars").wait_for()
        visit.press("Delete")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        conversation_items.wait_for(state="detached")
        assert page.locator("article").count() == 0
        assert page.evaluate("location.hash") == ""


def test_other_visitors_conversations_are_not_shown(pages: Pages):
    with pages.visit("chat") as visit:
        visit.ask("for me alone", "Answer to: for me alone")
        mine = visit.page.url
    with pages.visit("chat", query=mine[mine.index("#") :]) as visit:
        visit.page.get_by_label("Message", exact=True).wait_for()
        assert visit.page.get_by_text("for me alone").count() == 0


def test_files_are_sent_with_a_question(pages: Pages, tmp_path: Path):
    with pages.visit("desk") as visit:
        page = visit.page
        page.get_by_label("Your name", exact=True).fill("Ada")
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("hello")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Attach files").click()
        chooser.value.set_files([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
        page.get_by_role("button", name="Remove: b.txt").click()
        with page.expect_request(re.compile("/chat-messages$")) as sent:
            visit.ask("what is in it?", "Answer to")
        (file,) = sent.value.post_data_json["files"]
        assert (file["type"], file["transfer_method"], sorted(file)) == (
            "document", "local_file", ["transfer_method", "type", "upload_file_id"],
        )  # fmt: skip
        assert page.locator(".turn.user").inner_text().splitlines()[-1] == "📎 a.txt"


def test_speech_is_transcribed(pages: Pages):
    with pages.visit("desk", permissions=["microphone"]) as visit:
        page = visit.page
        page.route(
            "**/audio-to-text",
            lambda route: route.fulfill(json={"text": "good morning"}),
        )
        page.get_by_label("Message", exact=True).fill("Well,")
        visit.press("Speak")
        visit.user.wait_for_text("Recording. Press again to end.")
        page.wait_for_timeout(300)
        with page.expect_request("**/audio-to-text") as sent:
            visit.press("Speak")
        assert b"WAVEfmt " in sent.value.post_data_buffer
        box = page.get_by_label("Message", exact=True)
        expect(box).to_have_value("Well, good morning", timeout=_PATIENCE)
        page.route(
            "**/text-to-audio",
            lambda route: route.fulfill(status=400, json={"message": "no voice here"}),
        )
        page.get_by_label("Your name", exact=True).fill("Ada")
        visit.ask("my name?", "the first")
        visit.press("Listen")
        visit.user.wait_for_text("no voice here")


def test_a_completion_is_regenerated_and_a_workflow_shows_its_outputs(
    pages: Pages, tmp_path: Path
):
    with pages.visit("poems") as visit:
        visit.press("Run")
        topic = visit.page.get_by_label("Topic", exact=True)
        assert topic.evaluate("it => it.validationMessage") == "This field is needed."
        topic.fill("rain")
        visit.press("Run")
        visit.page.locator("article", has_text="Write about rain").wait_for()
        visit.press("More like this")
        visit.page.get_by_role("button", name="Copy", exact=True).nth(1).wait_for()
        assert visit.page.locator("article").count() == 2
    with pages.visit("workflow") as visit:
        (tmp_path / "a.txt").write_text("from the file")
        visit.page.get_by_label("n", exact=True).fill("7")
        visit.page.get_by_label("doc (optional)").set_input_files(
            str(tmp_path / "a.txt")
        )
        visit.press("Run")
        visit.page.locator("article", has_text="7:from the file").wait_for()


def test_a_paused_run_continues_with_the_visitors_answer(pages: Pages):
    with pages.visit("form") as visit:
        visit.press("Run")
        visit.user.wait_for_text("Go on?")
        visit.page.get_by_label("note (optional)").fill("by all means")
        visit.press("Yes")
        visit.page.locator("article", has_text="by all means").wait_for()
        visit.press("Run")
        visit.user.wait_for_text("Go on?")
        visit.press("Stop")
        visit.page.get_by_role("button", name="Run", exact=True).wait_for()


def test_model_output_is_text_and_loads_nothing(pages: Pages):
    requested_urls: list[str] = []
    with pages.visit("chat") as visit:
        page = visit.page
        page.on("request", lambda request: requested_urls.append(request.url))
        visit.ask("the rules", "quoted")
        answer_body = page.locator("article .said")
        assert answer_body.locator("h3, strong, ul ol li, td, blockquote, pre code").all_inner_texts() == [
            "Rules", "bold", "within", "1", "2", "quoted", "<b>x</b>",
        ]  # fmt: skip
        links = [link.get_attribute("href") for link in answer_body.locator("a").all()]
        assert links == ["https://example.test/a", f"{pages.origin}/admin/v1/usage"]
        assert page.locator("img, b").count() == 0
        assert [url for url in requested_urls if "/admin/" in url] == []


POINT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_all_events_of_an_answer_are_shown(pages: Pages):
    """Events that the scripted model does not cause.

    Thinking, tools, images, citations, a failure.
    """
    events = [
        {"event": "reasoning_chunk", "data": {"reasoning": "Let me see."}},
        {"event": "agent_thought", "id": "1", "thought": "look", "tool": "search", "tool_input": "{}", "observation": ""},
        {"event": "agent_thought", "id": "1", "thought": "look", "tool": "search", "tool_input": "{}", "observation": "2"},
        {"event": "agent_log", "data": {"id": "9", "label": "ROUND", "status": "done"}},
        {"event": "message", "answer": "wrong"}, {"event": "message_replace", "answer": "It is **two**."},
        {"event": "message_file", "type": "image", "url": "/files/point?sign=x"},
        {"event": "message_file", "type": "image", "url": "https://elsewhere.test/a.png"},
        {"event": "message_end", "message_id": "m", "metadata": {
            "retriever_resources": [{"document_name": "rules.md", "content": "closed at nine"}]}},
    ]  # fmt: skip
    streams = [
        [*events],
        [
            {"event": "message", "answer": "half"},
            {"event": "error", "message": "no credit left"},
        ],
    ]

    def answer(route: Any) -> None:
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in streams.pop(0))
        route.fulfill(content_type="text/event-stream", body=body)

    with pages.visit("chat") as visit:
        page = visit.page
        page.route("**/v1/chat-messages", answer)
        page.route(
            "**/files/point?**",
            lambda route: route.fulfill(content_type="image/png", body=POINT),
        )
        visit.ask("how many?", "It is two.")
        article = page.locator("article")
        article.get_by_text("Reasoning", exact=True).click()
        article.get_by_text("Let me see.").wait_for()
        article.get_by_text("Steps", exact=True).click()
        assert article.locator("details").last.locator("p").all_inner_texts() == [
            "look\n→ search {}\n2",
            "ROUND: done",
        ]
        expect(article.locator("img")).to_have_js_property(
            "naturalWidth", 1, timeout=_PATIENCE
        )
        assert article.locator("img").get_attribute("src").startswith("blob:")
        assert (
            article.get_by_role("link", name="a.png").get_attribute("rel")
            == "noopener noreferrer"
        )
        assert (
            article.get_by_role("listitem").get_attribute("title") == "closed at nine"
        )
        visit.write("and now?")
        page.get_by_role("alert").get_by_text(
            "That did not work: no credit left"
        ).wait_for()


def test_a_question_that_was_not_sent_is_kept(pages: Pages):
    with pages.visit("chat") as visit:
        visit.page.route("**/v1/chat-messages", lambda route: route.abort())
        visit.write("are you there?")
        visit.user.wait_for_text(
            "The connection was lost. What you wrote is still there."
        )
        box = visit.page.get_by_label("Message", exact=True)
        expect(box).not_to_have_value("", timeout=_PATIENCE)
        visit.page.reload()
        assert box.input_value() == "are you there?"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_is_accessible_and_in_one_language(
    pages: Pages, scheme: str, width: int
):
    with pages.visit("desk", color_scheme=scheme) as visit:
        page = visit.page
        page.set_viewport_size({"width": width, "height": 800})
        page.get_by_label("Your name", exact=True).fill("Ada")
        visit.ask("the rules", "quoted")
        assert violations(page) == []
        page.get_by_label("Language").select_option(label="中文")
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        page.get_by_role("button", name="复制").wait_for()
        english = set(pairs("chat/messages.ts"))
        texts: str = page.locator("body").inner_text()
        assert english.intersection(texts.splitlines()) == set()
        assert violations(page) == []
    with pages.visit("desk", query="?lang=zh") as visit:
        visit.page.get_by_role("button", name="发送").wait_for()


def test_the_page_loads_nothing_of_the_console_and_is_small(pages: Pages):
    sizes: dict[str, int] = {}
    with pages.visit("chat") as visit:
        visit.page.on(
            "response", lambda response: sizes.update({response.url: _size(response)})
        )
        visit.page.reload(wait_until="networkidle")
    files = {url: size for url, size in sizes.items() if "/assets/" in url}
    assert all(url.startswith(f"{pages.origin}/chat/-/assets/") for url in files)
    assert not [
        url
        for url in files
        if re.search("/(index|editor|code|dialog|public-api)-", url)
    ]
    assert 0 < sum(files.values()) < 120_000


class _Site(BaseHTTPRequestHandler):
    """Another site that has the embed script on its page."""

    script = ""

    def do_GET(self) -> None:
        body = f"<!doctype html><title>shop</title><h1>Shop</h1>{self.script}".encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""


def test_the_page_is_embedded_in_another_site(pages: Pages, web_browser: Any):
    with ExitStack() as stack:
        site = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Site))
        stack.callback(site.shutdown)
        Thread(target=site.serve_forever).start()
        shop = f"http://localhost:{site.server_port}"
        token = pages.url("chat", origins=[shop]).rpartition("/")[2]
        _Site.script = f'<script src="{pages.origin}/chat/-/embed.js" data-token="{token}" defer></script>'
        page = stack.enter_context(web_browser.new_context(locale="en-US")).new_page()
        page.goto(shop)
        page.get_by_role("button", name="Open chat").click()
        frame = page.frame_locator("iframe")
        frame.get_by_label("Message", exact=True).fill("hello")
        frame.get_by_role("button", name="Send").click()
        frame.locator("article", has_text="Answer to: hello").wait_for()
        page.keyboard.press("Tab")
        page.get_by_role("button", name="Close chat").click()
        page.locator("iframe").wait_for(state="hidden")


def test_nothing_in_the_source_sets_html():
    source = ROOT / "console-ui" / "src"
    texts = {file.name: file.read_text("utf-8") for file in source.rglob("*.ts*")}
    assert [
        name
        for name, text in texts.items()
        if re.search("innerHTML|dangerouslySet|insertAdjacent", text)
    ] == []


def _size(response: Any) -> int:
    return int(response.headers.get("content-length", 0))
