"""Imports of apps: what they replace, and what they leave as it was."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelyard.base.errors import ConfigError, InvokeBadRequestError
from modelyard.storage.database import Database
from modelyard.storage.secrets import KeyRing, SecretError
from modelyard.workflow.app_documents import AppDocuments
from modelyard.workflow.dsl import AppMapping, DslError, dump
from tests.workflow.building import app_of, document
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

MAPPING = AppMapping(models={"*": "scripted/model"})


def file_of(name: str, mode: str = "workflow", **fields: Any) -> str:
    """Return the file of an app. `schedule` is the cron expression of its trigger."""
    nodes: dict[str, Any] = {"start": {"type": "start"}}
    if "schedule" in fields:
        cron = fields.pop("schedule")
        nodes = {"start": {"type": "trigger-schedule", "mode": "cron", "cron_expression": cron, "timezone": "UTC"}}  # fmt: skip
    last = {"type": "answer", "answer": "hi"}
    if mode == "workflow":
        last = {"type": "end", "outputs": []}
    app_document = document(
        {**nodes, "last": last}, ["start > last"], mode=mode, **fields
    )
    app_document["app"]["name"] = name
    return yaml.dump(app_document)


def secrets_of(bench: Bench, record: Any) -> dict[str, Any]:
    app = bench.do(bench.yard.apps.draft(record))
    return {variable.name: variable.value for variable in app.environment}


@pytest.mark.parametrize(
    ("first", "second"),
    [("workflow", "advanced-chat"), ("advanced-chat", "workflow")],
)
@pytest.mark.parametrize("publishes", [True, False])
def test_an_import_does_not_replace_an_app_of_another_kind(
    bench: Bench, first: str, second: str, publishes: bool
):
    name = f"{first} {publishes}"
    record, _, _ = bench.do(bench.yard.apps.add("default", file_of(name, first)))
    with pytest.raises(
        DslError, match=f"exists and is of the kind {first}, not {second}"
    ):
        bench.do(
            bench.yard.apps.add("default", file_of(name, second), publishes=publishes)
        )
    current = bench.yard.apps.get_by_id_or_name("default", name)
    assert (current.id, current.stored.mode) == (record.id, first)
    other, _, was_replaced = bench.do(
        bench.yard.apps.add("default", file_of(name, second), name=f"{name} 2")
    )
    assert (other.id != record.id, was_replaced) == (True, False)
    again, _, was_replaced = bench.do(
        bench.yard.apps.add("default", file_of(name, first))
    )
    assert (again.id, was_replaced) == (record.id, True)


def secret(value: str, name: str = "KEY") -> dict[str, Any]:
    return {"name": name, "value_type": "secret", "value": value}


def test_an_import_keeps_the_secrets_that_the_file_does_not_contain(bench: Bench):
    apps = bench.yard.apps
    variables = [
        secret("s3cret"),
        {"name": "plain", "value_type": "string", "value": "a"},
    ]
    record, app, _ = bench.do(
        apps.add("default", file_of("secrets", environment_variables=variables))
    )
    exported = dump(app)
    assert "s3cret" not in exported
    record, app, _ = bench.do(apps.add("default", exported, mapping=MAPPING))
    assert secrets_of(bench, record) == {"KEY": "s3cret", "plain": "a"}
    assert app.missing_secrets == []
    # The published version that callers run has it as well.
    published = bench.do(apps.load_version("default", record.stored.digest, record.stored.mapping))  # fmt: skip
    assert published.environment[0].value == "s3cret"
    # A draft without the secret keeps it too, and a file with one replaces it.
    record, _, _ = bench.do(apps.add("default", exported, publishes=False))
    assert secrets_of(bench, record)["KEY"] == "s3cret"
    changed = file_of("secrets", environment_variables=[secret("new")])
    record, _, _ = bench.do(apps.add("default", changed))
    assert secrets_of(bench, record) == {"KEY": "new"}


def test_secrets_without_a_value_are_asked_for(bench: Bench):
    variables = [secret("", "A"), secret("x", "B"), {"name": "C", "value": ""}]
    _, app, _ = bench.do(
        bench.yard.apps.add("default", file_of("asks", environment_variables=variables))
    )
    assert app.missing_secrets == ["A"]


def test_secrets_are_given_at_import_and_set_later(bench: Bench):
    apps = bench.yard.apps
    variables = [secret("", "A"), secret("", "B")]
    text = file_of("given", "advanced-chat", environment_variables=variables)
    record, app, _ = bench.do(apps.add("default", text, secrets={"A": "first-value"}))
    assert app.missing_secrets == ["B"]
    with pytest.raises(InvokeBadRequestError, match="no secret variable 'C'") as caught:
        bench.do(apps.add("default", text, secrets={"C": "first-value"}))
    assert "first-value" not in str(caught.value)
    # The published version and a draft get the value, and the draft stays one.
    record, _, _ = bench.do(
        apps.add("default", text.replace("hi", "ho"), publishes=False)
    )
    assert record.stored.draft
    record = bench.do(apps.set_secrets(record, {"B": "second-value"}))
    assert record.stored.draft != record.stored.digest
    for app in (bench.do(apps.draft(record)), bench.do(apps.published_app(record))):
        assert [variable.value for variable in app.environment] == [
            "first-value",
            "second-value",
        ]
    with pytest.raises(InvokeBadRequestError, match="its secret variables are"):
        bench.do(apps.set_secrets(record, {"X": "y"}))


QUERY = "SELECT body FROM app_documents WHERE digest = :digest"


def test_an_app_with_secrets_is_encrypted_at_rest(bench: Bench):
    database = bench.yard.services.storage.database
    text = file_of("sealed", environment_variables=[secret("s3cret-value")])
    record, _, _ = bench.do(bench.yard.apps.add("default", text))
    (row,) = bench.do(database.fetch(QUERY, {"digest": record.stored.digest}))
    assert "s3cret-value" not in row["body"]
    assert secrets_of(bench, record) == {"KEY": "s3cret-value"}


def test_files_with_secrets_are_encrypted_with_each_new_master_key(tmp_path: Path):
    async def work(database: Database) -> None:
        ring = KeyRing({}).rotated()
        documents = AppDocuments(database, time.time, ring)

        async def body(digest: str) -> str:
            return (await database.fetch(QUERY, {"digest": digest}))[0]["body"]

        await documents.save("t", "a", "key: s3cret", has_secrets=True)
        await documents.save("t", "b", "key: none")
        before = await body("a")
        assert ("s3cret" in before, await body("b")) == (False, "key: none")
        # The row of one tenant cannot be read as another's.
        await database.transact(
            lambda connection: connection.execute(
                "INSERT INTO app_documents VALUES (?, ?, ?, ?)", ("u", "a", before, 1.0)
            )
        )
        with pytest.raises(SecretError):
            await documents.find("u", "a")
        await database.transact(
            lambda connection: connection.execute(
                "DELETE FROM app_documents WHERE tenant = ?", ("u",)
            )
        )
        newer = ring.rotated()
        assert await documents.reencrypt_all(newer) == 1
        assert await documents.reencrypt_all(newer) == 0
        assert await body("a") != before
        assert await documents.find("t", "a") == "key: s3cret"
        # A file of an earlier version is encrypted when it is stored again.
        await documents.save("t", "b", "key: none", has_secrets=True)
        assert (await body("b")).startswith("!sealed ")
        assert await documents.find("t", "b") == "key: none"
        with pytest.raises(ConfigError, match="need a master key"):
            await AppDocuments(database, time.time).find("t", "a")

    database = Database(str(tmp_path / "a.db"))
    try:
        asyncio.run(work(database))
    finally:
        database.close()


@pytest.mark.parametrize("cron", ["@reboot", "0 9 * * FOO", "0 0 30 2 *", "every day"])
def test_an_app_whose_schedule_never_starts_a_run_is_not_published(
    bench: Bench, cron: str
):
    apps = bench.yard.apps
    text = file_of(f"never {cron}", schedule=cron)
    with pytest.raises(DslError, match="cannot be published"):
        bench.do(apps.add("default", text))
    record, app, _ = bench.do(apps.add("default", text, publishes=False))
    assert "starts no runs" in str(app.warnings[0])
    with pytest.raises(InvokeBadRequestError, match="cannot be published"):
        bench.do(apps.publish(record))


def test_an_app_with_a_nickname_as_its_schedule_is_published(bench: Bench):
    record, app, _ = bench.do(
        bench.yard.apps.add("default", file_of("daily", schedule="@daily"))
    )
    assert [trigger.cron for trigger in record.stored.triggers] == ["0 0 * * *"]
    assert not app.warnings


def test_a_delivery_that_is_not_supported_is_named():
    methods = [
        {"id": "m", "type": "email", "enabled": True, "config": {}},
        {"id": "w", "type": "webapp", "enabled": True},
        {"id": "s", "type": "slack", "enabled": False},
    ]
    app = app_of(
        {
            "start": {"type": "start"},
            "ask": {"type": "human-input", "title": "Approve", "form_content": "x", "user_actions": [{"id": "ok"}], "delivery_methods": methods},
        },
        ["start > ask"],
    )  # fmt: skip
    [warning] = app.warnings
    assert warning.message.startswith("The form is not sent by")
    assert warning.node == "Approve"
