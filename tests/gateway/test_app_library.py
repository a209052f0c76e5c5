"""Tests for copies, tags, the appearance of apps, and templates, through the admin API."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tools.show.app_clients import serving

from modelyard.app import Modelyard
from modelyard.base.errors import InvokeBadRequestError
from modelyard.base.settings import Settings
from modelyard.testing.workflows import ScriptedModel
from modelyard.workflow.app_appearance import (
    Appearance,
    AppearanceChange,
    app_with_appearance,
    checked_change,
)
from modelyard.workflow.app_templates import list_templates, template_file
from modelyard.workflow.dsl import dump, loads

GREETING: dict[str, Any] = {
    "kind": "app",
    "version": "0.6.0",
    "app": {
        "name": "Greeting", "mode": "advanced-chat", "description": "Greets.",
        "icon": "👋", "icon_type": "emoji", "icon_background": "#FFEAD5",
        "use_icon_as_answer_icon": True,
    },
    "workflow": {
        "environment_variables": [
            {"id": "1", "name": "TOKEN", "value": "s3cret-value", "value_type": "secret", "selector": ["env", "TOKEN"]}
        ],
        "features": {},
        "graph": {
            "nodes": [
                {"id": "start", "data": {"type": "start", "title": "s"}},
                {"id": "answer", "data": {"type": "answer", "title": "a", "answer": "Hello"}},
            ],
            "edges": [{"source": "start", "target": "answer"}],
        },
    },
}  # fmt: skip


MODEL_DOUBLE = ScriptedModel()


@pytest.fixture(scope="module")
def served_apps() -> Iterator[dict[str, str]]:
    with serving({"Greeting": yaml.dump(GREETING)}, model=MODEL_DOUBLE) as served:
        yield served


@pytest.fixture
def admin(served_apps: dict[str, str]) -> Iterator[httpx.Client]:
    origin = served_apps["base"].removesuffix("/v1")
    with httpx.Client(base_url=f"{origin}/admin/v1", timeout=30) as client:
        yield client


def ok(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json() if "json" in response.headers["content-type"] else None


def greeting(admin: httpx.Client) -> dict[str, Any]:
    return next(
        app for app in ok(admin.get("/apps"))["data"] if app["mode"] == "advanced-chat"
        and app["name"].startswith("Greeting") and "copy" not in app["name"]
    )  # fmt: skip


def call(served_apps: dict[str, str], key: str, path: str) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    return ok(httpx.get(f"{served_apps['base']}{path}", headers=headers, timeout=30))


# --------------------------------------------------------------------------------- copies


def test_a_copy_runs_like_the_original_and_has_no_keys_or_page_of_it(
    admin: httpx.Client, served_apps: dict[str, str]
):
    original = greeting(admin)
    ok(admin.patch(f"/apps/{original['id']}", json={"page": {"is_on": True}}))
    tag = ok(admin.post("/app-tags", json={"name": "copied"}), 201)
    ok(admin.patch(f"/apps/{original['id']}", json={"tags": [tag["id"]]}))
    path = f"/apps/{original['id']}/duplicate"
    copy = ok(admin.post(path), 201)
    assert copy["name"] == f"{original['name']} copy"
    assert copy["id"] != original["id"]
    assert (copy["is_published"], copy["has_draft"]) == (False, True)
    assert copy["page"] == {"is_on": False, "origins": [], "url": None}
    assert [tag["name"] for tag in copy["tags"]] == ["copied"]
    assert ok(admin.get(f"/apps/{copy['id']}/keys"))["data"] == []
    # The secret was copied: it is not among what the copy needs.
    assert copy["needs"] == []
    assert "s3cret-value" not in admin.get(f"/apps/{copy['id']}/file").text
    second = ok(admin.post(path, json={"name": "Second", "publish": True}), 201)
    key = ok(admin.post(f"/apps/{second['id']}/keys"), 201)["key"]
    answer = httpx.post(
        f"{served_apps['base']}/chat-messages",
        json={"query": "hi", "inputs": {}, "user": "ada"},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )
    assert ok(answer)["answer"] == "Hello"
    # A taken name is refused: an import would replace that app.
    refused = ok(admin.post(path, json={"name": "Second"}), 400)
    assert refused["error"]["message"] == "App 'Second' already exists"
    assert ok(admin.post(path), 201)["name"] == f"{original['name']} copy 2"


# ----------------------------------------------------------------------------------- tags


def test_apps_are_sorted_by_tags(admin: httpx.Client, served_apps: dict[str, str]):
    first, second = (
        ok(admin.post("/app-tags", json={"name": name}), 201)["id"]
        for name in ("Sales", "Support")
    )
    duplicate = ok(admin.post("/app-tags", json={"name": " Sales "}), 400)
    assert "already exists" in duplicate["error"]["message"]
    app = greeting(admin)
    tagged = ok(admin.patch(f"/apps/{app['id']}", json={"tags": [second, "Sales"]}))
    assert [tag["name"] for tag in tagged["tags"]] == ["Sales", "Support"]
    # /v1/info names them, as Dify's does.
    assert call(served_apps, served_apps["Greeting"], "/info")["tags"] == [
        "Sales",
        "Support",
    ]
    listed = ok(admin.get("/apps", params={"tags": f"{first},Support"}))["data"]
    assert [found["id"] for found in listed] == [app["id"]]
    counts = {tag["name"]: tag["apps"] for tag in ok(admin.get("/app-tags"))["data"]}
    assert (counts["Sales"], counts["Support"]) == (1, 1)
    renamed = ok(admin.patch(f"/app-tags/{first}", json={"name": "Retail"}))
    assert (renamed["id"], renamed["name"], renamed["apps"]) == (first, "Retail", 1)
    # An import of the app's file leaves its tags.
    ok(
        admin.post("/apps", json={"file": yaml.dump(GREETING), "name": app["name"]}),
        201,
    )
    ok(admin.delete("/app-tags/Retail"))
    assert [tag["name"] for tag in greeting(admin)["tags"]] == ["Support"]
    for response in (
        admin.get("/apps", params={"tags": "Retail"}),
        admin.patch(f"/apps/{app['id']}", json={"tags": ["Retail"]}),
        admin.delete("/app-tags/Retail"),
    ):
        assert ok(response, 404)["error"]["code"] == "tag_not_found"
    for name in ("", "x" * 51, "a\nb"):
        assert admin.post("/app-tags", json={"name": name}).status_code == 400
    refused = ok(admin.post("/app-tags", json={"name": "A", "colour": "red"}), 400)
    assert "Unknown field 'colour'" in refused["error"]["message"]


def test_tags_belong_to_a_tenant(admin: httpx.Client):
    ok(admin.post("/tenants", json={"name": "acme"}), 201)
    other = {"tenant": "acme"}
    tag = ok(admin.post("/app-tags", json={"name": "Theirs"}, params=other), 201)
    names = [found["name"] for found in ok(admin.get("/app-tags"))["data"]]
    assert "Theirs" not in names
    assert ok(admin.delete(f"/app-tags/{tag['id']}"), 404)
    assert ok(
        admin.patch(f"/apps/{greeting(admin)['id']}", json={"tags": [tag["id"]]}), 404
    )


# ----------------------------------------------------------------------------- appearance


def test_name_icon_and_description_are_edited_at_once_and_exported(
    admin: httpx.Client, served_apps: dict[str, str]
):
    app = greeting(admin)
    path, key = f"/apps/{app['id']}", served_apps["Greeting"]
    before = yaml.safe_load(admin.get(f"{path}/file").text)
    changed = ok(
        admin.patch(
            path,
            json={
                "name": "Greeting desk",
                "description": "Says hello.",
                "icon": "🤖",
                "icon_background": "#D1E9FF",
            },
        )
    )
    assert (changed["name"], changed["icon"]) == ("Greeting desk", "🤖")
    # Without a new version: the published app shows it, and its digest is the same.
    assert changed["digest"] == app["digest"]
    assert call(served_apps, key, "/info")["description"] == "Says hello."
    site = call(served_apps, key, "/site")
    assert (site["title"], site["icon"], site["icon_background"]) == (
        "Greeting desk",
        "🤖",
        "#D1E9FF",
    )
    after = yaml.safe_load(admin.get(f"{path}/file").text)
    assert after["app"] == {
        **before["app"],
        "name": "Greeting desk",
        "description": "Says hello.",
        "icon": "🤖",
        "icon_background": "#D1E9FF",
    }
    assert {**after, "app": None} == {**before, "app": None}
    # A draft that was started from the older file does not take the change back.
    ok(admin.put(f"{path}/file", json={"file": yaml.dump(before)}))
    assert ok(admin.get(path))["description"] == "Says hello."
    before["app"]["description"] = "Greets everybody."
    ok(admin.put(f"{path}/file", json={"file": yaml.dump(before)}))
    kept = ok(admin.get(path))
    assert (kept["description"], kept["icon"]) == ("Greets everybody.", "🤖")
    ok(admin.patch(path, json={"name": app["name"]}))
    taken = admin.patch(path, json={"name": "chat"})
    assert "already exists" in ok(taken, 400)["error"]["message"]


def test_a_draft_replaces_a_file_that_cannot_be_read(settings: Settings):
    """Whose appearance was edited is not known then: the new file's is taken."""

    async def work() -> None:
        async with Modelyard(settings, environ={}) as yard:
            await yard.apps.add("default", yaml.dump(GREETING))
            await yard.services.storage.database.transact(
                lambda connection: connection.execute("DELETE FROM app_documents", ())
            )
        # Another process, which has not parsed the file before.
        async with Modelyard(settings, environ={}) as yard:
            app = {**GREETING["app"], "description": "Greets again."}
            record, _, _ = await yard.apps.add(
                "default",
                yaml.dump({**GREETING, "app": app}),
                publishes=False,
                keeps_appearance=True,
            )
            assert record.stored.description == "Greets again."

    asyncio.run(work())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("name", "a\nb"),
        ("description", "x" * 4001),
        ("icon", ""),
        ("icon", "x" * 200),
        ("icon_type", "picture"),
        ("icon_background", "red"),
        ("icon_background", "#12345"),
    ],
)
def test_an_appearance_that_no_app_may_have_is_refused(field: str, value: str):
    with pytest.raises(InvokeBadRequestError, match=f"^'{field}' must ") as refused:
        checked_change(AppearanceChange(**{field: value}))
    assert refused.value.param == field


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(
    st.builds(
        Appearance,
        name=TEXT,
        description=TEXT,
        icon=TEXT,
        icon_type=st.sampled_from(["emoji", "image", "link"]),
        icon_background=TEXT,
    )
)
def test_an_export_has_the_edited_appearance_and_nothing_else_changed(
    appearance: Appearance,
):
    app = loads(yaml.dump(GREETING))
    exported = loads(dump(app_with_appearance(app, appearance), with_secrets=True))
    for field in Appearance.__struct_fields__:
        assert getattr(exported, field) == getattr(appearance, field)
    edited = exported.document["app"]
    assert {**exported.document, "app": None} == {**app.document, "app": None}
    assert edited.keys() == GREETING["app"].keys()
    unchanged = {name: GREETING["app"][name] for name in Appearance.__struct_fields__}
    assert app_with_appearance(app, Appearance(**unchanged)) is app


# ------------------------------------------------------------------------------ templates


def _inputs(admin: httpx.Client, app: str) -> dict[str, Any]:
    """Return values for the required fields of an app's form."""
    fields = ok(admin.get(f"/apps/{app}/form", params={"draft": "true"}))["data"]
    return {
        field["variable"]: field["options"][0] if field["options"] else "some text"
        for field in fields
        if field["required"]
    }


@pytest.mark.parametrize("template", list_templates(), ids=lambda template: template.id)
def test_each_template_is_imported_without_warnings_and_runs(
    admin: httpx.Client, served_apps: dict[str, str], template: Any
):
    listed = ok(admin.get("/app-templates"))["data"]
    assert template.id in {row["id"] for row in listed}
    body: dict[str, Any] = {"name": f"from {template.id}"}
    if template.needs_dataset:
        headers = {"authorization": f"Bearer {served_apps['datasets']}"}
        dataset = httpx.post(
            f"{served_apps['base']}/datasets",
            json={"name": f"of {template.id}", "indexing_technique": "economy"},
            headers=headers,
            timeout=30,
        )
        body["dataset"] = ok(dataset)["name"]
    created = ok(admin.post(f"/app-templates/{template.id}/apps", json=body), 201)
    assert (created["warnings"], created["is_published"]) == ([], True)
    # The dataset is named by its id, so nothing of the template is left open.
    assert "dataset documents" not in created["needs"]
    run = admin.post(
        f"/apps/{created['id']}/runs",
        json={"inputs": _inputs(admin, created["id"]), "query": "What is it?"},
    )
    events = [
        json.loads(line[6:]) for line in run.text.splitlines() if line[:5] == "data:"
    ]
    assert "succeeded" in json.dumps(events[-2:]), events[-2:]
    # A second app of the template gets another name.
    again = ok(admin.post(f"/app-templates/{template.id}/apps"), 201)
    assert again["name"] == template.name


def test_a_template_takes_a_model_and_datasets_into_its_file():
    document = yaml.safe_load(
        template_file("ask-documents", model="openai/gpt-5-mini", datasets=["d1"])
    )
    nodes = {
        node["id"]: node["data"] for node in document["workflow"]["graph"]["nodes"]
    }
    assert nodes["search"]["dataset_ids"] == ["d1"]
    model = nodes["reply"]["model"]
    assert (model["provider"], model["name"]) == ("openai", "gpt-5-mini")
    by_route = yaml.safe_load(template_file("summarise", model="fast"))
    model = by_route["workflow"]["graph"]["nodes"][1]["data"]["model"]
    assert (model["provider"], model["name"]) == ("", "fast")


def test_an_unknown_template_is_named_with_those_that_exist(admin: httpx.Client):
    refused = ok(admin.post("/app-templates/summarize/apps"), 404)["error"]
    assert refused["code"] == "template_not_found"
    assert "summarise" in refused["message"]


# ----------------------------------------------------------------------------- statistics


def test_an_apps_use_is_shown_by_day_as_json_and_csv(
    admin: httpx.Client, served_apps: dict[str, str]
):
    key = {"authorization": f"Bearer {served_apps['completion']}"}
    app = next(
        app["id"]
        for app in ok(admin.get("/apps"))["data"]
        if app["name"] == "completion"
    )
    answers = [
        ok(
            httpx.post(
                f"{served_apps['base']}/completion-messages",
                json={"inputs": {"query": "hello there"}, "user": user},
                headers=key,
                timeout=30,
            )
        )
        for user in ("ada", "bob", "ada")
    ]
    message = answers[0]["message_id"]
    rating = {"rating": "like", "user": "ada"}
    rated = f"{served_apps['base']}/messages/{message}/feedbacks"
    ok(httpx.post(rated, json=rating, headers=key, timeout=30))
    # A test in the console is not a user's message.
    admin.post(f"/apps/{app}/runs", json={"inputs": {"query": "hello"}})
    shown = ok(admin.get(f"/apps/{app}/statistics"))
    assert len(shown["data"]) == 30
    today, total = shown["data"][-1], shown["total"]
    assert {**today, "day": ""} == total
    assert (total["messages"], total["runs"], total["end_users"]) == (3, 3, 2)
    assert (total["likes"], total["likes_per_1000"]) == (1, 333.33)
    assert total["completion_tokens"] > 0
    text = admin.get(f"/apps/{app}/statistics", params={"format": "csv"})
    assert text.headers["content-type"] == "text/csv; charset=utf-8"
    header, *rows = text.text.splitlines()
    assert header.startswith("day,messages,runs,end_users,conversations,interactions")
    assert len(rows) == 30
    assert rows[-1].startswith(f"{today['day']},3,3,2,0,,")


def test_statistics_that_cannot_be_shown_are_refused(admin: httpx.Client):
    path = f"/apps/{greeting(admin)['id']}/statistics"
    for query, problem in (
        ({"format": "xml"}, "'format' must be json or csv"),
        ({"since": "x"}, "'since' and 'until' must be Unix times"),
        ({"offset": "1e9"}, "'offset' must be from -840 to 840 minutes"),
        ({"since": "9", "until": "3"}, "'since' must be a Unix time before 'until'"),
        ({"since": "0", "until": "1e9"}, "at most 366 days"),
        ({"until": "inf"}, "'since' must be a Unix time before 'until'"),
    ):
        refused = ok(admin.get(path, params=query), 400)
        assert problem in refused["error"]["message"], query
    assert ok(admin.get("/apps/none/statistics"), 404)


# ----------------------------------------------------------------------------- generators


def test_what_a_model_writes_is_returned_or_refused(admin: httpx.Client):
    MODEL_DOUBLE.answers[:] = [("Greet", '{"prompt": "Greet {{name}}."}')]
    written = ok(admin.post("/generate/prompt", json={"instruction": "Greet."}))
    assert written == {
        "prompt": "Greet {{name}}.",
        "variables": ["name"],
        "opening_statement": "",
    }
    # Neither a schema nor a program.
    for path in ("schema", "code"):
        failed = ok(
            admin.post(f"/generate/{path}", json={"instruction": "Greet."}), 502
        )
        assert failed["error"]["code"] == "generation_failed"
    for body, problem in (
        ({}, "'instruction' is required"),
        ({"instruction": " "}, "'instruction' is required"),
        ({"instruction": "x", "language": "cobol"}, "'language' must be python3 or"),
    ):
        refused = ok(admin.post("/generate/code", json=body), 400)
        assert problem in refused["error"]["message"], refused
    unknown = admin.post("/generate/code", json={"instruction": "x", "model": "a/b"})
    assert ok(unknown, 404)
    MODEL_DOUBLE.answers.clear()
