"""Tests for changing, publishing and restoring apps, and for their web page."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tools.show.app_api import apps
from tools.show.app_clients import MODEL, serving

from modelyard.gateway.console_api import static

ADA, BOB = "a" * 24, "b" * 24


class Admin:
    def __init__(self, served_apps: dict[str, str]) -> None:
        self.origin = served_apps["base"].removesuffix("/v1")
        self.http = httpx.Client(base_url=f"{self.origin}/admin/v1/apps", timeout=30)

    def __call__(
        self, method: str, path: str = "", status: int = 200, **body: Any
    ) -> Any:
        answer = (
            self.http.request(method, path, json=body)
            if method != "GET"
            else self.http.get(path, params=body)
        )
        assert answer.status_code == status, answer.text
        return (
            answer.json() if "json" in answer.headers["content-type"] else answer.text
        )

    def id(self, name: str) -> str:
        return next(app["id"] for app in self("GET")["data"] if app["name"] == name)

    def ask(self, key: str, query: str = "hello", **body: Any) -> httpx.Response:
        auth_headers = {"authorization": f"Bearer {key}"}
        ask = {"query": query, "inputs": {}, "user": "ada", **body}
        url = f"{self.origin}/v1/chat-messages"
        return httpx.post(url, json=ask, headers=auth_headers, timeout=30)


def simple(mode: str, prompt: str = "Be short.", **config: Any) -> str:
    model_config = {
        "model": MODEL,
        "pre_prompt": prompt,
        "user_input_form": [],
        **config,
    }
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": {"name": mode, "mode": mode},
            "model_config": model_config,
        }
    )


def answering(text: str) -> str:
    """Return an app that answers with a fixed text."""
    graph = {
        "nodes": [
            {"id": "start", "data": {"type": "start", "title": "s"}},
            {"id": "answer", "data": {"type": "answer", "title": "a", "answer": text}},
        ],
        "edges": [{"source": "start", "target": "answer"}],
    }
    app = {"name": "changing", "mode": "advanced-chat"}
    return yaml.dump(
        {
            "kind": "app",
            "version": "0.6.0",
            "app": app,
            "workflow": {"graph": graph, "features": {}},
        }
    )


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    poems = simple("completion", "Write about {{topic}}.", more_like_this={"enabled": True}, user_input_form=[
        {"text-input": {"variable": "topic", "label": "Topic", "required": True}}
    ])  # fmt: skip
    with serving(
        {
            **apps(),
            "changing": answering("one"),
            "poems": poems,
            "plain": simple("chat"),
        }
    ) as served:
        yield served


@pytest.fixture
def admin(served_apps: dict[str, str]) -> Iterator[Admin]:
    admin_client = Admin(served_apps)
    yield admin_client
    admin_client.http.close()


# ----------------------------------------------------------------------------- versions


def test_callers_get_the_published_version_or_one_by_id(
    served_apps: dict[str, str], admin: Admin
):
    row, key = admin.id("changing"), served_apps["changing"]
    first = admin("GET", f"/{row}")
    saved = admin("PUT", f"/{row}/file", file=answering("two"), base=first["digest"])
    assert (saved["has_draft"], len(saved["versions"])) == (True, 1)
    assert admin.ask(key).json()["answer"] == "one"
    stale = admin(
        "PUT", f"/{row}/file", 409, file=answering("three"), base=first["digest"]
    )
    assert stale["error"]["code"] == "draft_changed"
    published = admin("POST", f"/{row}/publish", name="Second", note="Says two.")
    assert [
        (version["name"], version["note"]) for version in published["versions"]
    ] == [("Second", "Says two."), ("", "")]
    assert admin.ask(key).json()["answer"] == "two"
    old = str(uuid.UUID(hex=first["digest"]))
    assert admin.ask(key, workflow_id=old).json()["answer"] == "one"
    assert "answer: one" in admin("GET", f"/{row}/file", version=first["digest"][:10])
    admin("POST", f"/{row}/restore", version=first["digest"])
    assert admin.ask(key).json()["answer"] == "two"
    admin("POST", f"/{row}/publish")
    assert admin.ask(key).json()["answer"] == "one"
    # An identical file does not create a version.
    assert len(admin("GET", f"/{row}")["versions"]) == 2


def test_invalid_changes_get_an_error(served_apps: dict[str, str], admin: Admin):
    row = admin.id("plain")
    assert "no draft" in admin("POST", f"/{row}/publish", 400)["error"]["message"]
    assert (
        "no version 'ninth'"
        in admin("POST", f"/{row}/restore", 404, version="ninth")["error"]["message"]
    )
    odd = admin("PUT", f"/{row}/file", 400, file="app: {mode: odd}")["error"]["message"]
    assert odd.startswith("Line 1: Unknown mode 'odd'")
    assert admin("PUT", f"/{row}/file", 400, file="{")["error"]["message"]
    assert (
        admin("POST", "", 400, file=simple("chat"), mapping={"models": 7})["error"][
            "param"
        ]
        == "mapping"
    )
    assert admin("GET", "/nothing", 404)["error"]["code"] == "app_not_found"
    assert admin("POST", f"/{row}/dance", 404)["error"]["code"] == "unknown_url"
    assert (
        admin("DELETE", f"/{row}/keys/nothing", 404)["error"]["code"] == "key_not_found"
    )


def test_an_app_is_disabled_and_removed_with_its_keys(
    served_apps: dict[str, str], admin: Admin
):
    mapping = {"models": {"*": "scripted/model"}}
    created_app = admin(
        "POST", "", 201, file=answering("here"), name="passing", mapping=mapping
    )
    key = admin("POST", f"/{created_app['id']}/keys", 201)["key"]
    assert admin("GET", f"/{created_app['id']}/keys")["data"][0]["hint"].endswith(
        key[-4:]
    )
    assert admin.ask(key).json()["answer"] == "here"
    admin("PATCH", f"/{created_app['id']}", is_enabled=False)
    assert admin.ask(key).status_code == 401
    admin("PATCH", f"/{created_app['id']}", is_enabled=True)
    assert admin.ask(key).status_code == 200
    admin("DELETE", f"/{created_app['id']}")
    assert admin.ask(key).status_code == 401
    admin("GET", f"/{created_app['id']}", 404)


# ----------------------------------------------------------------------- the app's page


class Page:
    def __init__(
        self, admin: Admin, name: str, visitor: str = ADA, **page: Any
    ) -> None:
        patched_app = admin("PATCH", f"/{admin.id(name)}", page={"is_on": True, **page})
        self.url: str = patched_app["page"]["url"]
        self.visitor = visitor

    def __call__(
        self, method: str, path: str, visitor: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"x-visitor": self.visitor if visitor is None else visitor}
        return httpx.request(
            method, f"{self.url}/v1{path}", headers=headers, timeout=30, **options
        )


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page files as the console build produces them."""
    contents = {
        "chat.html": b"<!doctype html><title>Chat</title>", "index.html": b"<!doctype html><title>Console</title>",
        "assets/chat-abc.js": b"export const answer = 42;", "assets/chat-abc.js.br": b"as Brotli",
    }  # fmt: skip
    (tmp_path / "assets").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(
        static,
        "_list_built_files",
        lambda: {name: tmp_path / name for name in contents},
    )


def test_the_page_has_a_strict_policy_and_all_resources(
    served_apps: dict[str, str], admin: Admin, built: None
):
    page = Page(
        admin, "plain", origins=["https://shop.example", "javascript:alert(1)", "*"]
    )
    response = httpx.get(page.url)
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert policy.endswith("frame-ancestors 'self' https://shop.example *")
    assert "unsafe" not in policy
    assert (response.headers["cache-control"], "<title>Chat" in response.text) == (
        "no-cache",
        True,
    )
    for name, cache_policy in (
        ("assets/chat-abc.js", "immutable"),
        ("embed.js", "max-age=300"),
    ):
        asset_response = httpx.get(
            f"{admin.origin}/chat/-/{name}", headers={"accept-encoding": "identity"}
        )
        assert (
            asset_response.status_code,
            asset_response.headers["x-content-type-options"],
        ) == (200, "nosniff")
        assert (
            asset_response.headers["content-type"] == "text/javascript; charset=utf-8"
        )
        assert cache_policy in asset_response.headers["cache-control"]
    with httpx.stream(
        "GET",
        f"{admin.origin}/chat/-/assets/chat-abc.js",
        headers={"accept-encoding": "br"},
    ) as packed:
        assert (packed.headers["content-encoding"], b"".join(packed.iter_raw())) == (
            "br",
            b"as Brotli",
        )
    for name in (
        "../server.py",
        "%2e%2e/server.py",
        "assets/other.js",
        "assets/../index.html",
        "index.html",
        "chat.html",
    ):
        assert httpx.get(f"{admin.origin}/chat/-/{name}").status_code == 404, name
    assert httpx.get(f"{admin.origin}/console/chat.html").status_code == 404
    admin("PATCH", f"/{admin.id('plain')}", page={"is_on": False})
    assert httpx.get(page.url).status_code == 404
    assert page("GET", "/info").json()["code"] == "not_found"


def test_a_page_that_was_not_built_says_so(
    served_apps: dict[str, str], admin: Admin, monkeypatch: pytest.MonkeyPatch
):
    page = Page(admin, "plain", origins=["https://shop.example"])
    monkeypatch.setattr(static, "_list_built_files", dict)
    response = httpx.get(page.url)
    assert (response.status_code, response.headers["content-type"]) == (
        503,
        "text/html; charset=utf-8",
    )
    assert "with <code>make console</code>" in response.text
    assert response.headers["content-security-policy"].endswith(
        "frame-ancestors 'self' https://shop.example"
    )
    assert httpx.get(f"{admin.origin}/chat/nowhere").status_code == 404
    assert page("GET", "/info").status_code == 200  # the API still works


def test_visitors_see_only_their_own_conversations(
    served_apps: dict[str, str], admin: Admin
):
    page = Page(admin, "talking")
    first = page(
        "POST",
        "/chat-messages",
        json={"query": "hello", "inputs": {}, "user": "somebody-else"},
    ).json()
    listed = page("GET", "/conversations", params={"user": "somebody-else"}).json()[
        "data"
    ]
    assert [conversation["id"] for conversation in listed] == [first["conversation_id"]]
    assert page("GET", "/conversations", BOB).json()["data"] == []
    messages = f"/messages?conversation_id={first['conversation_id']}"
    assert page("GET", messages).json()["data"][0]["query"] == "hello"
    assert page("GET", messages, BOB).status_code == 404
    rated = f"/messages/{first['message_id']}/feedbacks"
    assert page("POST", rated, BOB, json={"rating": "like"}).status_code == 404
    assert page("POST", rated, json={"rating": "like"}).status_code == 200
    speech_request = {"message_id": first["message_id"]}
    assert page("POST", "/text-to-audio", BOB, json=speech_request).status_code == 404
    up = page(
        "POST", "/files/upload", files={"file": ("a.txt", b"hello")}, data={"user": "x"}
    ).json()
    preview = f"/files/{up['id']}/preview"
    assert page("GET", preview).content == b"hello"
    assert page("GET", preview, BOB).status_code == 403
    assert page("GET", "/conversations", "short").status_code == 401
    for path in (
        "/workflows/logs",
        "/apps/annotations",
        "/app/feedbacks",
        "/end-users/x",
        "/workflows/run/x",
        "/models",
    ):
        assert page("GET", path).status_code == 404, path


def test_a_page_answers_like_the_service_api_with_its_methods(
    served_apps: dict[str, str], admin: Admin
):
    page = Page(admin, "talking")
    assert page("GET", "/parameters").json() == httpx.get(
        f"{admin.origin}/v1/parameters", headers={"authorization": f"Bearer {served_apps['talking']}"}
    ).json()  # fmt: skip
    rejected = page("PUT", "/conversations")
    assert (rejected.status_code, rejected.headers["allow"]) == (
        405,
        "GET, HEAD, OPTIONS",
    )
    assert rejected.json()["code"] == "method_not_allowed"
    assert (
        httpx.options(f"{page.url}/v1/chat-messages").headers["allow"]
        == "POST, OPTIONS"
    )
    missing_page = httpx.get(f"{admin.origin}/chat/nowhere")
    assert (missing_page.status_code, missing_page.headers["content-type"]) == (
        404,
        "text/html; charset=utf-8",
    )
    assert httpx.get(f"{admin.origin}/chat/-/index.html").json()["code"] == "not_found"


def test_a_completion_page_regenerates_an_answer(
    served_apps: dict[str, str], admin: Admin
):
    page = Page(admin, "poems")
    first = page(
        "POST", "/completion-messages", json={"inputs": {"topic": "rain"}}
    ).json()
    variant = page("POST", f"/messages/{first['message_id']}/more-like-this", json={})
    assert (variant.status_code, variant.json()["answer"]) == (200, first["answer"])
    assert variant.json()["message_id"] != first["message_id"]
    assert (
        page(
            "POST", f"/messages/{first['message_id']}/more-like-this", BOB, json={}
        ).status_code
        == 404
    )
    plain = Page(admin, "plain")
    assert (
        plain(
            "POST", f"/messages/{first['message_id']}/more-like-this", json={}
        ).json()["code"]
        == "app_unavailable"
    )


def test_the_page_keeps_its_url_when_disabled_and_enabled(
    served_apps: dict[str, str], admin: Admin
):
    page = Page(admin, "form")
    admin("PATCH", f"/{admin.id('form')}", page={"is_on": False})
    assert Page(admin, "form").url == page.url


def test_a_page_keeps_the_teams_settings_to_itself(
    served_apps: dict[str, str], admin: Admin
):
    """Visitors see which features are on, and no word lists, prompts, models and tags."""
    words = {"keywords": "secretword", "inputs_config": {"enabled": True}}
    text = simple(
        "chat",
        sensitive_word_avoidance={"enabled": True, "type": "keywords", "config": words},
        suggested_questions_after_answer={"enabled": True, "prompt": "secretprompt"},
    )
    created = admin("POST", "", 201, file=text, name="private")
    tags = httpx.Client(base_url=f"{admin.origin}/admin/v1/app-tags", timeout=30)
    with tags:
        assert tags.post("", json={"name": "secrettag"}).status_code == 201
    admin("PATCH", f"/{created['id']}", tags=["secrettag"])
    admin("PUT", f"/{created['id']}/annotation-reply", enabled=True)
    page = Page(admin, "private")
    shown = page("GET", "/parameters").json()
    for name in (
        "sensitive_word_avoidance",
        "suggested_questions_after_answer",
        "annotation_reply",
    ):
        assert shown[name] == {"enabled": True}
    assert page("GET", "/info").json()["tags"] == []
    key = admin("POST", f"/{created['id']}/keys", 201)["key"]
    headers = {"authorization": f"Bearer {key}"}
    by_key = httpx.get(f"{admin.origin}/v1/info", headers=headers, timeout=30).json()
    assert by_key["tags"] == ["secrettag"]


def test_missing_secrets_are_listed_and_set_and_never_returned(admin: Admin):
    variables = [
        {"name": name, "value": "", "value_type": "secret"} for name in ("A", "B")
    ]
    file = yaml.safe_load(answering("hi"))
    file["app"]["name"] = "secretive"
    file["workflow"]["environment_variables"] = variables
    body = {"file": yaml.dump(file), "secrets": {"A": "value-of-a"}}
    created = admin("POST", "", 201, **body)
    assert (created["missing_secrets"], created["needs"]) == (["B"], ["secret B"])
    path = f"/{created['id']}"
    changed = admin("PATCH", path, secrets={"B": "value-of-b"})
    assert changed["digest"] != created["digest"]
    again = admin("POST", "", 201, file=yaml.dump(file))
    assert again["missing_secrets"] == []
    for secrets, message in (({"C": "x"}, "secret variable"), ({"A": 1}, "texts")):
        error = admin("PATCH", path, 400, secrets=secrets)["error"]
        assert (error["param"], message in error["message"]) == ("secrets", True)
    for answer in (created, changed, again):
        assert "value-of" not in str(answer)
