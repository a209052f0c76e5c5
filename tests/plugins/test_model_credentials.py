"""Credentials of plugin models: the provider's form and that of single models, what a
check can say, models that a tenant names, and what an uninstallation leaves."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tools.show.odd_plugins import odd_plugin

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.models.types import ModelType
from modelyard.plugins.package import package_folder
from modelyard.tenancy.resource_types import (
    KINDS,
    CustomModel,
    Installation,
    PluginTask,
)
from tests.plugins.conftest import PluginGateway

pytestmark = pytest.mark.proof("plugin-kinds")

_FIELD = "    - {variable: %s, label: {en_US: x}, type: %s, required: %s}\n"
_PROVIDER = "provider_credential_schema:\n  credential_form_schemas:\n" + _FIELD % (
    "api_key",
    "secret-input",
    "true",
)
_SIZE = "    - {variable: context_size, label: {en_US: x}, type: text-input, required: true, show_on: [{variable: __model_type, value: llm}]}\n"
_MODEL = (
    "model_credential_schema:\n  model: {label: {en_US: M}}\n  credential_form_schemas:\n"
    + _FIELD % ("api_key", "secret-input", "true")
    + _SIZE
)


class Served:
    """A gateway with the played plugin and its admin API."""

    def __init__(self, gateway: PluginGateway, forms: str, folder: Path) -> None:
        self.gateway = gateway
        self.yard = gateway.yard
        source = odd_plugin(folder, "played", extension_type="models", forms=forms)
        gateway.run_on_loop(
            gateway.parts.installations.add("default", package_folder(source))
        )
        base = gateway.running.url.removesuffix("/v1")
        self.client = httpx.Client(base_url=base, timeout=60)

    def add(self, **fields: Any) -> httpx.Response:
        body = {"name": "mine", "provider": "played", **fields}
        return self.client.post("/admin/v1/credentials", json=body)

    def check(self, **fields: Any) -> dict[str, Any]:
        return self.client.post("/admin/v1/providers/played/check", json=fields).json()

    def ask(self, model: str, text: str = "x", **fields: Any) -> dict[str, Any]:
        """Return what the plugin received."""
        body = {
            "model": f"played/{model}",
            "messages": [{"role": "user", "content": text}],
            **fields,
        }
        answered = self.client.post("/v1/chat/completions", json=body)
        return json.loads(answered.json()["choices"][0]["message"]["content"])

    def resources(self) -> dict[str, int]:
        """Return how many rows of each type the tenant has."""
        directory = self.yard.services.tenancy.directory
        return {
            kind: count
            for kind, resource in KINDS.items()
            if (count := len(directory.of("default", resource)))
            and resource not in (PluginTask,)
        }


@pytest.fixture
def served(
    plugged: Callable[..., PluginGateway], tmp_path: Path
) -> Iterator[Callable[[str], Served]]:
    with ExitStack() as stack:

        def serve(forms: str) -> Served:
            started = Served(plugged(), forms, tmp_path / "odd")
            stack.enter_context(started.client)
            return started

        yield serve


def test_a_credential_for_one_model_has_the_models_form(
    served: Callable[[str], Served],
):
    both = served(_PROVIDER + _MODEL)
    detail = both.client.get("/admin/v1/providers/played").json()
    assert [field["variable"] for field in detail["forms"]] == ["api_key"]
    assert [field["variable"] for field in detail["model_forms"]] == [
        "api_key",
        "context_size",
    ]
    values = {"api_key": "good"}
    missing = both.add(values=values, model="own")
    assert missing.status_code == 400
    assert "context_size" in missing.json()["error"]["message"]
    assert both.add(values=values, name="all").status_code == 201
    full = {**values, "context_size": "4096"}
    assert both.add(values=full, model="own", name="one").status_code == 201
    # A field of another model type is not asked for.
    assert both.add(values=values, model="vectors", model_type="text-embedding", name="v").status_code == 201  # fmt: skip
    assert both.add(values=values, model="v", model_type="wrong", name="w").status_code == 400  # fmt: skip
    assert both.ask("own")["credentials"] == full
    assert both.ask("odd")["credentials"] == values


def test_what_the_plugin_says_of_a_model_is_used(served: Callable[[str], Served]):
    custom = served(_MODEL)
    values = {"api_key": "good", "context_size": "4096"}
    assert custom.add(values=values, model="own").status_code == 201
    models = custom.client.get("/v1/models").json()["data"]
    assert "played/own" in [model["id"] for model in models]
    instance = custom.yard.services.calls.models.find(
        "default", "played/own", ModelType.LLM
    )
    schema = instance.schema
    assert schema is not None
    assert schema.context_size == 4096
    assert [feature.value for feature in schema.features] == ["vision", "tool-call"]
    # Zeros of a plugin are no price.
    assert schema.pricing is None
    received = custom.ask("own", response_format={"type": "json_object"})
    assert received["model_parameters"] == {"response_format": "json_object"}
    # A changed credential changes what is known of the model.
    row = custom.client.get("/admin/v1/credentials").json()["data"][0]
    changed = custom.client.patch(
        f"/admin/v1/credentials/{row['id']}",
        json={"values": {**values, "context_size": "8192"}},
    )
    assert changed.status_code == 200, changed.text
    instance = custom.yard.services.calls.models.find(
        "default", "played/own", ModelType.LLM
    )
    assert instance.schema is not None
    assert instance.schema.context_size == 8192


def test_texts_are_embedded_in_batches_of_the_models_size(
    served: Callable[[str], Served],
):
    custom = served(_MODEL)
    values = {"api_key": "good"}
    added = custom.add(values=values, model="vectors", model_type="text-embedding")
    assert added.status_code == 201
    body = {"model": "played/vectors", "input": ["a", "b", "c"]}
    vectors = custom.client.post("/v1/embeddings", json=body).json()["data"]
    # The plugin answers with the number of texts that it got.
    assert [entry["embedding"] for entry in vectors] == [[2.0], [2.0], [1.0]]


def test_a_check_that_cannot_fail_is_none(served: Callable[[str], Served]):
    custom = served(_MODEL)
    unknown = custom.check(values={"api_key": "wrong", "context_size": "1"})
    assert unknown["works"] is False
    assert "only with a model" in unknown["message"]
    refused = custom.check(values={"api_key": "wrong", "context_size": "1"}, model="m")
    assert (refused["works"], "refused" in refused["message"]) == (False, True)
    assert custom.check(values={"api_key": "ok", "context_size": "1"}, model="m") == {
        "works": True,
        "models": ["m"],
        "message": "",
    }


def test_the_provider_tries_its_own_credentials(served: Callable[[str], Served]):
    provider = served(_PROVIDER)
    assert provider.check(values={"api_key": "wrong"})["works"] is False
    assert provider.check(values={"api_key": "good"})["models"] == ["odd"]
    provider.add(values={"api_key": "good"})
    found = provider.gateway.run_on_loop(provider.yard.check_provider("played"))
    assert found == {"mine": ["odd"]}


def test_credentials_of_single_models_are_tried_with_their_model(
    served: Callable[[str], Served],
):
    custom = served(_MODEL)
    values = {"api_key": "good", "context_size": "4096"}
    assert custom.add(values=values, model="own").status_code == 201
    vectors = {"model": "vectors", "model_type": "text-embedding", "name": "second"}
    assert custom.add(values={"api_key": "good"}, **vectors).status_code == 201
    found = custom.gateway.run_on_loop(custom.yard.check_provider("played"))
    assert found == {"mine": ["own"], "second": ["vectors"]}


def test_two_models_of_one_name_have_the_credentials_of_their_types(
    served: Callable[[str], Served],
):
    custom = served(_MODEL)
    llm = {"api_key": "for-llm", "context_size": "4096"}
    assert custom.add(values=llm, model="own").status_code == 201
    vectors = {"model": "own", "model_type": "text-embedding", "name": "second"}
    assert custom.add(values={"api_key": "for-vectors"}, **vectors).status_code == 201
    # They are used in turn otherwise.
    assert [custom.ask("own")["credentials"] for _ in range(4)] == [llm] * 4


def test_what_a_plugin_adds_to_credentials_is_in_its_calls(
    served: Callable[[str], Served],
):
    provider = served(_PROVIDER)
    added = provider.add(values={"api_key": "complete"})
    assert added.status_code == 201
    assert provider.ask("odd")["credentials"] == {"api_key": "complete", "mode": "chat"}
    # It is no field of the form, and is not shown.
    assert '"mode"' not in json.dumps(
        provider.client.get("/admin/v1/credentials").json()
    )
    path = f"/admin/v1/credentials/{added.json()['id']}"
    assert provider.client.patch(path, json={"weight": 2}).status_code == 200
    assert provider.ask("odd")["credentials"] == {"api_key": "complete", "mode": "chat"}
    # New values are completed anew; a refusal is no reason not to store them.
    assert (
        provider.client.patch(path, json={"values": {"api_key": "wrong"}}).status_code
        == 200
    )
    assert provider.ask("odd")["credentials"] == {"api_key": "wrong"}


def test_an_uninstallation_leaves_nothing(served: Callable[[str], Served]):
    custom = served(_PROVIDER + _MODEL)
    before = custom.resources()
    values = {"api_key": "good", "context_size": "4096"}
    assert custom.add(values=values, model="own").status_code == 201
    assert custom.add(values={"api_key": "good"}, name="all").status_code == 201
    custom.client.post(
        "/admin/v1/defaults", json={"name": "llm", "model": "played/own"}
    )
    assert custom.resources() != before
    custom.gateway.run_on_loop(
        custom.gateway.parts.installations.uninstall("default", "odd/played")
    )
    before.pop(Installation.kind)
    assert custom.resources() == before


def test_a_definition_of_the_tenant_stays(served: Callable[[str], Served]):
    custom = served(_MODEL)
    definition = {"name": "own", "model_type": "llm", "context_size": 77}
    added = custom.client.post(
        "/admin/v1/models",
        json={"name": "hand-made", "provider": "played", "definition": definition},
    )
    assert added.status_code == 201, added.text
    values = {"api_key": "good", "context_size": "4096"}
    assert custom.add(values=values, model="own").status_code == 201
    rows = custom.yard.services.tenancy.directory.of("default", CustomModel)
    assert [row.name for row, _ in rows] == ["hand-made"]


def rename_to_taken_labels(gateway: Any, provider: str) -> None:
    """Rename a second credential of a provider, which has another one called `work`."""
    credentials = gateway.parts.credentials
    add = credentials.add("default", provider, "home", {"token": "good"})
    other_id = gateway.run_on_loop(add)
    work_id = credentials.usable("default", provider)[0][0].id
    with pytest.raises(InvokeBadRequestError, match=f"'work' already, .* '{work_id}'"):
        gateway.run_on_loop(credentials.rename("default", other_id, "work"))
    with pytest.raises(InvokeBadRequestError, match="'label' must be printable"):
        gateway.run_on_loop(credentials.rename("default", other_id, " "))
    with pytest.raises(NotFoundError, match="does not exist"):
        gateway.run_on_loop(credentials.rename("other", other_id, "free"))
    gateway.run_on_loop(credentials.rename("default", work_id, "office"))
    gateway.run_on_loop(credentials.rename("default", other_id, "work"))
    assert [value.label for _, value in credentials.usable("default", provider)] == [
        "office",
        "work",
    ]
    found = credentials.find("default", provider, other_id)
    assert gateway.run_on_loop(found)[0] == {"token": "good"}
    for row_id in (work_id, other_id):
        gateway.run_on_loop(
            gateway.parts.rows.remove("default", "tool_credential", row_id)
        )
    gateway.run_on_loop(credentials.add("default", provider, "work", {"token": "good"}))


def test_labels_are_unique_within_a_provider_only(plugged: Callable[..., Any]):
    gateway = plugged()
    gateway.install("toolbox", "shelf")
    add = gateway.parts.credentials.add

    def added(provider: str, user: str = "") -> str:
        work = add("default", provider, "work", {"token": "good"}, user=user)
        return gateway.run_on_loop(work)

    toolbox, shelf = "modelyard/toolbox/toolbox", "modelyard/shelf/shelf"
    added(toolbox)
    added(shelf)
    added(toolbox, "ada")
    with pytest.raises(InvokeBadRequestError, match="has a credential 'work' already"):
        added(toolbox)
    labels = [value.label for _, value in gateway.parts.credentials.usable("default", toolbox)]  # fmt: skip
    assert labels == ["work"]
    rename_to_taken_labels(gateway, toolbox)
    gateway.run_on_loop(
        gateway.parts.installations.uninstall("default", "modelyard/toolbox")
    )
    assert gateway.parts.credentials.usable("default", toolbox, "ada") == []
    assert len(gateway.parts.credentials.usable("default", shelf)) == 1
