"""The plugin daemon's interface, called as Dify's API server calls it, with models as
strict as those into which it parses the answers.

Written from a reading of the client (`api/core/plugin/impl`), release 1.16.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import httpx
import pytest
import yaml
from pydantic import BaseModel, Field, TypeAdapter

from modelyard.plugins.package import package_folder, write_package
from tests.plugins.conftest import EXAMPLES, PluginGateway

Plug = Callable[..., PluginGateway]


class Text(BaseModel):
    """A text in several languages."""

    en_US: str  # noqa: N815
    zh_Hans: str | None = None  # noqa: N815


class Option(BaseModel):
    value: str
    label: Text


class FormField(BaseModel):
    name: str
    type: Literal[
        "secret-input", "text-input", "select", "boolean", "model-selector",
        "app-selector", "array[tools]", "any",
    ]  # fmt: skip
    required: bool = False
    options: list[Option] | None = None
    label: Text | None = None
    help: Text | None = None
    url: str | None = None


class Oauth(BaseModel):
    client_schema: list[FormField]
    credentials_schema: list[FormField]


class Identity(BaseModel):
    author: str
    name: str
    label: Text


class ProviderIdentity(Identity):
    description: Text
    icon: str
    tags: list[str] | None


class ToolParameter(BaseModel):
    name: str
    label: Text
    type: str
    form: Literal["schema", "form", "llm"]
    required: bool | None = False


class ToolDescription(BaseModel):
    human: Text
    llm: str


class PartIdentity(Identity):
    """The client writes the provider's name into it."""

    provider: str


class Tool(BaseModel):
    identity: PartIdentity
    description: ToolDescription
    parameters: list[ToolParameter]


class ToolProvider(BaseModel):
    identity: ProviderIdentity
    credentials_schema: list[FormField]
    oauth_schema: Oauth | None = None
    tools: list[Tool]


class Strategy(BaseModel):
    identity: PartIdentity
    description: Text
    parameters: list[Any]


class AgentProvider(BaseModel):
    identity: ProviderIdentity
    strategies: list[Strategy]


class Datasource(BaseModel):
    identity: PartIdentity
    description: Text
    parameters: list[Any]


class DatasourceProvider(BaseModel):
    identity: ProviderIdentity
    provider_type: Literal["online_document", "website_crawl", "online_drive"]
    credentials_schema: list[FormField]
    oauth_schema: Oauth | None = None
    datasources: list[Datasource]


class Event(BaseModel):
    identity: PartIdentity
    description: Text
    parameters: list[Any]


class Constructor(BaseModel):
    parameters: list[Any]
    credentials_schema: list[FormField]
    oauth_schema: Oauth | None = None


class TriggerProvider(BaseModel):
    identity: ProviderIdentity
    subscription_schema: list[FormField]
    subscription_constructor: Constructor | None
    events: list[Event]


class ParameterRule(BaseModel):
    name: str
    use_template: str | None = None
    label: Text
    type: Literal["float", "int", "string", "boolean", "text"]
    options: list[str] = []


class Model(BaseModel):
    model: str
    label: Text
    model_type: str
    features: list[str] | None = None
    fetch_from: Literal["predefined-model", "customizable-model"]
    model_properties: dict[str, Any]
    parameter_rules: list[ParameterRule]


class ModelProvider(BaseModel):
    provider: str
    label: Text
    supported_model_types: list[str]
    configurate_methods: list[Literal["predefined-model", "customizable-model"]]
    models: list[Model]


class EndpointGroup(BaseModel):
    class Endpoint(BaseModel):
        path: str
        method: str
        hidden: bool = False

    settings: list[FormField]
    endpoints: list[Endpoint]


class Resource(BaseModel):
    class Permission(BaseModel):
        class Storage(BaseModel):
            enabled: bool | None = False
            size: int = Field(ge=1024, le=1 << 30, default=1 << 20)

        storage: Storage | None = None

    memory: int
    permission: Permission | None = None


class Meta(BaseModel):
    minimum_dify_version: str | None = None
    version: str | None = None


class Declaration(BaseModel):
    version: str
    author: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,128}$")]
    description: Text
    label: Text
    icon: str
    created_at: datetime
    resource: Resource
    tags: list[str]
    verified: bool
    meta: Meta
    endpoint: EndpointGroup | None = None
    model: ModelProvider | None = None


class Entity(BaseModel):
    id: str
    created_at: datetime
    updated_at: datetime


class Source(StrEnum):
    GITHUB = "github"
    MARKETPLACE = "marketplace"
    PACKAGE = "package"
    REMOTE = "remote"


class Installation(Entity):
    tenant_id: str
    endpoints_setups: int
    endpoints_active: int
    runtime_type: str
    source: Source
    meta: Mapping[str, Any]
    plugin_id: str
    plugin_unique_identifier: str
    version: str
    checksum: str
    declaration: Declaration


class Listed(Installation):
    name: str
    installation_id: str


class Page(BaseModel):
    list: list[Listed]
    total: int


class Decoded(BaseModel):
    class Verification(BaseModel):
        authorized_category: Literal["langgenius", "partner", "community"]

    unique_identifier: str
    manifest: Declaration
    verification: Verification | None = None


class Step(BaseModel):
    plugin_unique_identifier: str
    plugin_id: str
    status: Literal["pending", "running", "success", "failed"]
    message: str
    icon: str
    labels: Text
    source: str | None = None


class Task(Entity):
    status: Literal["pending", "running", "success", "failed"]
    total_plugins: int
    completed_plugins: int
    plugins: list[Step]


class Started(BaseModel):
    all_installed: bool
    task_id: str


class Endpoint(Entity):
    settings: dict[str, Any]
    tenant_id: str
    plugin_id: str
    expired_at: datetime
    declaration: EndpointGroup
    name: str
    enabled: bool
    url: str
    hook_id: str


class Provided(BaseModel):
    provider: str
    plugin_unique_identifier: str
    plugin_id: str


class ProvidedModels(Provided, Entity):
    tenant_id: str
    declaration: ModelProvider


class ProvidedTools(Provided):
    declaration: ToolProvider


class ProvidedAgents(Provided):
    declaration: AgentProvider
    meta: Meta


class ProvidedDatasources(Provided):
    declaration: DatasourceProvider


class ProvidedTriggers(Provided):
    declaration: TriggerProvider


class DaemonError(Exception):
    """An error that the client reads from the body of an answer."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(f"{type}: {message}")
        self.type = type


class DaemonClient:
    """Calls the interface in the way of Dify's API server."""

    def __init__(self, gateway: PluginGateway, tenant: str = "default") -> None:
        self._base = f"{gateway.running.origin}/plugin/{tenant}"
        self._headers = {"X-Api-Key": gateway.yard.services.plugins.key}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(
            method,
            f"{self._base}/{path}",
            headers=self._headers | options.pop("headers", {}),
            timeout=60,
            **options,
        )

    def call(self, type: Any, method: str, path: str, **options: Any) -> Any:
        """Return the answer as a type. Everything but a 200 is a failure of the daemon
        itself, whose reason the client does not read."""
        # JSON is sent as content, also with GET.
        if "data" in options and "files" not in options:
            options["content"] = json.dumps(options.pop("data"))
            options["headers"] = {"Content-Type": "application/json"}
        answer = self.request(method, path, **options)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        document = answer.json()
        assert isinstance(document["message"], str)
        if document["code"] != 0:
            error = json.loads(document["message"])
            raise DaemonError(error["error_type"], error["message"])
        # A null is an error, too.
        assert document["data"] is not None, path
        return TypeAdapter(type).validate_python(document["data"])


def manage(path: str) -> str:
    return f"management/{path}"


def add_provider_names(providers: list[Any], key: str) -> list[Any]:
    """Write the provider's name into its parts, as the client does before it parses."""
    for provider in providers:
        for part in provider["declaration"][key]:
            part["identity"]["provider"] = provider["declaration"]["identity"]["name"]
    return providers


PAGE = {"page": 1, "page_size": 256}


@pytest.fixture
def client(plugged: Plug) -> tuple[PluginGateway, DaemonClient]:
    gateway = plugged()
    return gateway, DaemonClient(gateway)


def upload(client: DaemonClient, data: bytes) -> Decoded:
    return client.call(
        Decoded,
        "POST",
        manage("install/upload/package"),
        files={"dify_pkg": ("dify_pkg", data, "application/octet-stream")},
        data={"verify_signature": "false"},
    )


def install(
    gateway: PluginGateway, client: DaemonClient, *identifiers: str, path: str = ""
) -> Task:
    started = client.call(
        Started,
        "POST",
        manage("install/identifiers"),
        data={
            "plugin_unique_identifiers": identifiers,
            "source": "package",
            "metas": [{} for _ in identifiers],
        },
    )
    return finish(gateway, client, started)


def finish(gateway: PluginGateway, client: DaemonClient, started: Started) -> Task:
    gateway.run_on_loop(gateway.parts.installations.wait_until_idle())
    path = manage(f"install/tasks/{started.task_id}")
    return client.call(Task, "GET", path)


def test_an_installation_as_dify_does_it(client: tuple[PluginGateway, DaemonClient]):
    gateway, daemon = client
    decoded = upload(daemon, package_folder(EXAMPLES / "toolbox").data)
    identifier = decoded.unique_identifier
    # The icon is shown before anything is installed.
    icon = daemon.request("GET", f"asset/{decoded.manifest.icon}")
    assert (icon.status_code, icon.content[:4]) == (200, b"<svg")
    named = {"plugin_unique_identifier": identifier}
    # The client names the package in the body of a GET.
    again = daemon.call(Decoded, "GET", manage("decode/from_identifier"), data=named)
    assert again.manifest == decoded.manifest
    queried = manage("decode/from_identifier")
    assert daemon.call(Decoded, "GET", queried, params=named) == again
    task = install(gateway, daemon, identifier)
    assert (task.status, task.total_plugins, task.completed_plugins) == (
        "success",
        1,
        1,
    )
    assert daemon.request("GET", f"asset/{task.plugins[0].icon}").status_code == 200
    assert daemon.call(list[Task], "GET", manage("install/tasks"), params=PAGE) == [
        task
    ]
    # What was done before is done at once.
    repeated = install(gateway, daemon, identifier)
    assert repeated.status == "success"

    page = daemon.call(
        Page, "GET", manage("list"), params={**PAGE, "response_type": "paged"}
    )
    (listed,) = page.list
    assert (page.total, listed.plugin_unique_identifier) == (1, identifier)
    assert listed.created_at.year > 2020
    batch = manage("installation/fetch/batch")
    (fetched,) = daemon.call(
        list[Installation],
        "POST",
        batch,
        data={"plugin_ids": [listed.plugin_id, "x/y"]},
    )
    assert fetched.id == listed.id
    missing = daemon.call(
        list[dict[str, Any]],
        "POST",
        manage("installation/missing"),
        data={"plugin_unique_identifiers": [identifier, "a/b:1.0.0@" + "0" * 64]},
    )
    assert [entry["plugin_unique_identifier"][:3] for entry in missing] == ["a/b"]
    ids = daemon.call(
        dict[str, list[str]],
        "GET",
        manage("installation/ids"),
        params={"category": "tool"},
    )
    assert ids == {"plugin_ids": [listed.plugin_id]}
    assert daemon.call(bool, "GET", manage("fetch/identifier"), params=named) is True
    assert daemon.call(Declaration, "GET", manage("fetch/manifest"), params=named).name
    readme = daemon.call(
        dict[str, str],
        "GET",
        manage("fetch/readme"),
        params={**named, "language": "en_US"},
    )
    assert set(readme) == {"content", "language"}
    exists = daemon.call(
        list[bool],
        "POST",
        manage("tools/check_existence"),
        data={
            "provider_ids": [
                {"plugin_id": listed.plugin_id, "provider_name": name}
                for name in ("toolbox", "nothing")
            ]
        },
    )
    assert exists == [True, False]
    category = daemon.call(
        dict[str, Any], "GET", manage("tool/list"), params={**PAGE, "query": "tool"}
    )
    assert ([entry["id"] for entry in category["list"]], category["has_more"]) == (
        [listed.id],
        False,
    )
    key = daemon.call(dict[str, str], "POST", "debugging/key")
    assert key["key"]

    # An upgrade, and the end.
    files = dict(package_folder(EXAMPLES / "toolbox").files)
    manifest = yaml.safe_load(files["manifest.yaml"])
    manifest["version"] = "0.0.2"
    files["manifest.yaml"] = yaml.safe_dump(manifest).encode()
    newer = upload(daemon, write_package(files)).unique_identifier
    started = daemon.call(
        Started,
        "POST",
        manage("install/upgrade"),
        data={
            "original_plugin_unique_identifier": identifier,
            "new_plugin_unique_identifier": newer,
            "source": "marketplace",
            "meta": {"plugin_unique_identifier": newer},
        },
    )
    assert finish(gateway, daemon, started).status == "success"
    (upgraded,) = daemon.call(Page, "GET", manage("list"), params=PAGE).list
    assert (upgraded.version, upgraded.id) == ("0.0.2", listed.id)
    assert upgraded.updated_at > upgraded.created_at
    for path in (f"install/tasks/{task.id}/delete", "install/tasks/delete_all"):
        assert daemon.call(bool, "POST", manage(path)) is True
    removal = {"plugin_installation_id": upgraded.installation_id}
    assert daemon.call(bool, "POST", manage("uninstall"), data=removal) is True
    assert daemon.call(Page, "GET", manage("list"), params=PAGE).total == 0


KINDS: list[tuple[str, str, str, Any, str]] = [
    ("toolbox", "tools", "tool", ProvidedTools, "tools"),
    ("planner", "agent_strategies", "agent_strategy", ProvidedAgents, "strategies"),
    ("shelf", "datasources", "datasource", ProvidedDatasources, "datasources"),
    ("pulse", "triggers", "trigger", ProvidedTriggers, "events"),
]


@pytest.mark.parametrize(("plugin", "path", "single", "type", "parts"), KINDS)
def test_providers_are_complete(
    client: tuple[PluginGateway, DaemonClient],
    plugin: str,
    path: str,
    single: str,
    type: Any,
    parts: str,
):
    gateway, daemon = client
    gateway.install(plugin)
    raw = daemon.call(list[Any], "GET", manage(path), params=PAGE)
    (provided,) = TypeAdapter(list[type]).validate_python(
        add_provider_names(raw, parts)
    )
    query = {"plugin_id": provided.plugin_id, "provider": provided.provider}
    entry = daemon.call(dict[str, Any], "GET", manage(single), params=query)
    assert TypeAdapter(type).validate_python(add_provider_names([entry], parts)[0])
    icon = daemon.request("GET", f"asset/{provided.declaration.identity.icon}")
    assert icon.status_code == 200
    # Files of the package are none of the clients' business.
    assert '"extra"' not in json.dumps(raw)


def test_the_credential_form_of_a_tool_has_one_name(
    client: tuple[PluginGateway, DaemonClient],
):
    gateway, daemon = client
    files = dict(package_folder(EXAMPLES / "toolbox").files)
    path = "provider/toolbox.yaml"
    document = yaml.safe_load(files[path])
    document["credentials_for_provider"] = {
        "key": {"type": "secret-input", "required": True, "label": {"en_US": "Key"}},
        "short": {"type": "text-input", "label": {"en_US": "Short"}},
    }
    files[path] = yaml.safe_dump(document).encode()
    identifier = upload(daemon, write_package(files)).unique_identifier
    assert install(gateway, daemon, identifier).status == "success"
    raw = daemon.call(list[Any], "GET", manage("tools"), params=PAGE)
    (provided,) = TypeAdapter(list[ProvidedTools]).validate_python(
        add_provider_names(raw, "tools")
    )
    form = provided.declaration.credentials_schema
    assert [(field.name, field.label and field.label.en_US) for field in form] == [
        ("key", "Key"),
        ("short", "Short"),
    ]


def test_models_say_what_dify_requires(client: tuple[PluginGateway, DaemonClient]):
    gateway, daemon = client
    gateway.install("mockgpt", "sixfold")
    provided = daemon.call(list[ProvidedModels], "GET", manage("models"), params=PAGE)
    assert {entry.provider for entry in provided} == {"mockgpt", "sixfold"}
    rules = provided[0].declaration.models[0].parameter_rules
    assert all(rule.label.en_US for rule in rules)
    bindings = daemon.call(list[dict[str, Any]], "GET", manage("models/bindings"))
    assert {entry["provider"] for entry in bindings} == {"mockgpt", "sixfold"}


def test_endpoints_are_a_list_with_masked_settings(
    client: tuple[PluginGateway, DaemonClient],
):
    gateway, daemon = client
    data = package_folder(EXAMPLES / "webhook").data
    identifier = upload(daemon, data).unique_identifier
    install(gateway, daemon, identifier)
    setup = {
        "user_id": "u",
        "plugin_unique_identifier": identifier,
        "settings": {"greeting": "Ho", "token": "hush"},
        "name": "a",
    }
    assert daemon.call(bool, "POST", "endpoint/setup", data=setup) is True

    def listed(path: str, **query: str) -> list[Endpoint]:
        params = {**PAGE, "user_id": "u", **query}
        return daemon.call(list[Endpoint], "GET", f"endpoint/{path}", params=params)

    (endpoint,) = listed("list")
    assert endpoint.settings == {"greeting": "Ho", "token": "********"}
    assert [field.name for field in endpoint.declaration.settings] == [
        "greeting",
        "token",
    ]
    assert listed("list/plugin", plugin_id=endpoint.plugin_id) == [endpoint]
    changed = {"endpoint_id": endpoint.id}
    assert daemon.call(bool, "POST", "endpoint/disable", data=changed) is True
    update = {**changed, "user_id": "u", "name": "b", "settings": {**endpoint.settings, "greeting": "Hm"}}  # fmt: skip
    assert daemon.call(bool, "POST", "endpoint/update", data=update) is True
    (after,) = listed("list")
    # An update leaves a secret whose mask came back, and does not switch it on.
    assert (after.name, after.enabled, after.settings["greeting"]) == ("b", False, "Hm")
    _, stored, settings = _enabled(daemon, gateway, endpoint.id)
    assert (stored.user, settings["token"]) == ("u", "hush")
    # What is left of an endpoint whose plugin was removed elsewhere is still listed.
    assert daemon.call(
        bool, "POST", "endpoint/remove", data={**changed, "user_id": "u"}
    )
    assert listed("list") == []


def _enabled(daemon: DaemonClient, gateway: PluginGateway, id: str) -> Any:
    """Enable an endpoint and return what is stored of it."""
    assert (
        daemon.call(bool, "POST", "endpoint/enable", data={"endpoint_id": id}) is True
    )
    return gateway.parts.endpoints.endpoint(id)


def test_errors_are_where_the_client_reads_them(
    client: tuple[PluginGateway, DaemonClient],
):
    _, daemon = client
    unknown = "a/b:1.0.0@" + "0" * 64
    cases = [
        ("GET", "fetch/manifest", {"params": {"plugin_unique_identifier": unknown}}),
        ("GET", "tool", {"params": {"plugin_id": "a/b", "provider": "c"}}),
        ("POST", "uninstall", {"data": {"plugin_installation_id": "x"}}),
        ("GET", "install/tasks/x", {}),
    ]  # fmt: skip
    for method, path, options in cases:
        with pytest.raises(DaemonError) as caught:
            daemon.call(Any, method, manage(path), **options)
        assert caught.value.type in ("PluginNotFoundError", "PluginDaemonNotFoundError")
    with pytest.raises(DaemonError, match="invalid ZIP") as caught:
        upload(daemon, b"not a zip")
    assert caught.value.type == "PluginDaemonBadRequestError"
    # Without the key the answer is a 401, and for an asset a 404.
    assert (
        daemon.request("GET", manage("list"), headers={"X-Api-Key": "x"}).status_code
        == 401
    )
    assert daemon.request("GET", "asset/none.svg").status_code == 404


def test_a_plugin_that_does_not_start_fails_its_task_with_its_own_words(
    client: tuple[PluginGateway, DaemonClient],
):
    gateway, daemon = client
    files = dict(package_folder(EXAMPLES / "toolbox").files)
    files["main.py"] = b"print('set the variable ABC')\nraise SystemExit(3)\n"
    identifier = upload(daemon, write_package(files)).unique_identifier
    task = install(gateway, daemon, identifier)
    assert task.status == "failed"
    assert "does not start" in task.plugins[0].message
    assert "set the variable ABC" in task.plugins[0].message
    assert daemon.call(Page, "GET", manage("list"), params=PAGE).total == 0
