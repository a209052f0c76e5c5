"""The plugins that the proofs run over: those of a repository that lies on this machine,
or else our examples and new ones from the templates.

`MODELYARD_PLUGINS_FOLDER` names the folder of the repository, in which each folder with a
manifest is a plugin. Nothing of it is copied into this project.
"""

import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelyard.models.provider import CredentialFormSchema, FormType
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.declaration import Declaration, Field, Parameter
from modelyard.plugins.manifest import MANIFEST, load_yaml
from modelyard.plugins.scaffold import CATEGORIES, ScaffoldOptions, create
from tools.show.plugged import EXAMPLES

FOLDER_VARIABLE = "MODELYARD_PLUGINS_FOLDER"
NOWHERE = "http://127.0.0.1:9"
"""An address at which nobody listens."""


def repository() -> Path | None:
    """Return the folder of real plugins; None if there is none on this machine."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return Path(folder).expanduser() if folder else None


def plugin_folders(target: Path) -> list[Path]:
    """Return the folders of all plugins, the most different ones first.

    Without a repository, new plugins are created below `target`, one of each category.
    """
    folder = repository()
    if folder is None:
        examples = sorted(path.parent for path in EXAMPLES.glob(f"*/{MANIFEST}"))
        return [*examples, *_new_plugins(target)]
    folders = [path.parent for path in sorted(folder.rglob(MANIFEST))]
    return list(by_difference([(path, traits(path)) for path in folders]))


def _new_plugins(target: Path) -> Iterator[Path]:
    """Create a plugin of each category from the templates, and yield its folder."""
    for category in CATEGORIES:
        options = ScaffoldOptions(
            name=f"new-{category}", author="shown", category=category
        )
        create(target / category, options)
        yield target / category


def by_difference(plugins: Sequence[tuple[Path, frozenset[str]]]) -> Iterator[Path]:
    """Yield plugins so that each next one has the most traits that none before it has.

    The first ones of any number are a sample of everything that occurs.
    """
    remaining, covered = dict(plugins), set[str]()
    while remaining:
        # The name decides between equals, so that the order is always the same.
        best = min(remaining, key=lambda path: (-len(remaining[path] - covered), path))
        covered |= remaining.pop(best)
        yield best


def spread(folders: Sequence[Path], count: int) -> list[Path]:
    """Return `count` folders, evenly spread over the sorted ones."""
    step = max(1, len(folders) // max(1, count))
    return [*folders[::step]][:count]


def traits(folder: Path) -> frozenset[str]:
    """Return what could make a difference for a plugin's host: its kind, its direct
    requirements, the version of its SDK, and the shape of its manifest."""
    manifest = load_yaml(folder, MANIFEST)
    offered = manifest.get("plugins") or {}
    resource = manifest.get("resource") or {}
    permission = resource.get("permission") or {}
    runner = (manifest.get("meta") or {}).get("runner") or {}
    found_traits = {f"kind {folder.parent.name}", f"entry {runner.get('entrypoint')}"}
    found_traits |= {f"offers {name}" for name in offered}
    found_traits |= {f"asks {name}" for name in permission}
    found_traits |= {
        f"runner {runner.get('version')}",
        f"author {manifest.get('author')}",
    }
    return frozenset(found_traits | _requirement_traits(folder))


def _requirement_traits(folder: Path) -> set[str]:
    """Return the direct requirements of a plugin, and its version of the SDK."""
    found_traits: set[str] = set()
    if (project := folder / "pyproject.toml").is_file():
        document = tomllib.loads(project.read_text("utf-8"))
        found_traits |= set((document.get("project") or {}).get("dependencies") or ())
    if (lock := folder / "uv.lock").is_file():
        for package in tomllib.loads(lock.read_text("utf-8"))["package"]:
            if package["name"] == "dify-plugin":
                found_traits.add(f"sdk {package['version']}")
            if not package.get("wheels"):
                found_traits.add(f"no wheel of {package['name']}")
    return found_traits


# ---------------------------------------------------------------------------- first call


def first_call(declaration: Declaration, tenant: str = "default") -> PluginCall:
    """Return a call that any plugin of this kind answers without a vendor: credentials
    that lead nowhere, or a first tool, event or request."""
    call_type, action, data = _FIRST[_kind_of(declaration)](declaration)
    return PluginCall(
        tenant=tenant,
        type=call_type,
        action=action,
        data=data,
        user="show",
        plugin=declaration.manifest.id,
        permissions=declaration.manifest.permissions,
    )


def _kind_of(declaration: Declaration) -> str:
    names = ("model", "tool", "agent_strategy", "datasource", "trigger", "endpoint")
    return next(name for name in names if getattr(declaration, name) is not None)


_Request = tuple[str, str, dict[str, Any]]


def _model_call(declaration: Declaration) -> _Request:
    """Return a check of credentials: the provider's, or those of its first model."""
    definition = declaration.model
    assert definition is not None
    entity = definition.entity
    schema = entity.provider_credential_schema
    data: dict[str, Any] = {"provider": definition.name}
    if schema is not None and schema.credential_form_schemas:
        data["credentials"] = model_form(schema.credential_form_schemas)
        return "model", "validate_provider_credentials", data
    listed = entity.models[0] if entity.models else None
    model_type = listed.model_type if listed else entity.supported_model_types[0]
    data |= {"model": listed.model if listed else "any", "model_type": model_type.value}
    data["credentials"] = model_form(entity.model_forms)
    return "model", "validate_model_credentials", data


def _tool_call(declaration: Declaration) -> _Request:
    """Return a check of credentials, or a call of the first tool if it needs none."""
    provider = declaration.tool
    assert provider is not None
    name = provider.identity.name
    credentials = filled_fields(provider.credentials_schema)
    data: dict[str, Any] = {"provider": name, "credentials": credentials}
    if credentials:
        return "tool", "validate_tool_credentials", data
    tool = provider.tools[0]
    data |= {"tool": tool.identity.name, "credential_type": "unauthorized"}
    data["tool_parameters"] = filled_parameters(tool.parameters)
    return "tool", "invoke_tool", data


def _agent_call(declaration: Declaration) -> _Request:
    """Return a call of the first strategy, with a model that nobody serves."""
    provider = declaration.agent_strategy
    assert provider is not None
    model = {"provider": "nobody/none/none", "model": "none", "model_type": "llm"}
    model |= {"mode": "chat", "completion_params": {}, "history_prompt_messages": []}
    parameters = {"query": "hi", "instruction": "hi", "model": model, "tools": []}
    data = {
        "agent_strategy_provider": provider.identity.name,
        "agent_strategy": provider.strategies[0].identity.name,
        "agent_strategy_params": {**parameters, "maximum_iterations": 1},
    }
    return "agent_strategy", "invoke_agent_strategy", data


def _datasource_call(declaration: Declaration) -> _Request:
    provider = declaration.datasource
    assert provider is not None
    credentials = filled_fields(provider.credentials_schema)
    data = {"provider": provider.identity.name, "credentials": credentials}
    return "datasource", "validate_datasource_credentials", data


def _trigger_call(declaration: Declaration) -> _Request:
    """Return an event that arrives at the webhook of an empty subscription."""
    provider = declaration.trigger
    assert provider is not None
    endpoint = f"{NOWHERE}/t/none"
    subscription = {"expires_at": -1, "endpoint": endpoint, "parameters": {}}
    data = {
        "provider": provider.identity.name,
        "subscription": {**subscription, "properties": {}},
        "raw_http_request": raw_request("POST", "/t/none", b"{}"),
        "credentials": None,
        "credential_type": None,
    }
    return "trigger", "dispatch_trigger_event", data


def _endpoint_call(declaration: Declaration) -> _Request:
    """Return a request to the first address of the plugin."""
    group = declaration.endpoint
    assert group is not None
    first = group.endpoints[0]
    settings = filled_fields(group.settings)
    request = raw_request(
        first.method, first.path.replace("<", "").replace(">", ""), b"{}"
    )
    data = {"raw_http_request": request, "settings": settings}
    return "endpoint", "invoke_endpoint", data


_FIRST = {
    "model": _model_call,
    "tool": _tool_call,
    "agent_strategy": _agent_call,
    "datasource": _datasource_call,
    "trigger": _trigger_call,
    "endpoint": _endpoint_call,
}


def raw_request(method: str, path: str, body: bytes) -> str:
    """Return an HTTP request as the plugin protocol has it, in hexadecimal."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head.encode() + body).hex()


def model_form(
    forms: Sequence[CredentialFormSchema], address: str = NOWHERE
) -> dict[str, str]:
    """Return values for a credential form of a model provider; fields for an address
    get `address`."""
    values: dict[str, str] = {}
    for form in forms:
        if form.type in (FormType.SELECT, FormType.RADIO) and form.options:
            values[form.variable] = form.default or form.options[0].value
        else:
            values[form.variable] = form.default or _value_for(form.variable, address)
    return values


def filled_fields(fields: Sequence[Field], address: str = NOWHERE) -> dict[str, Any]:
    """Return values for the form of a tool, datasource or endpoint."""
    return {
        field.name: _option(field.options)
        or field.default
        or (True if field.type == "boolean" else _value_for(field.name, address))
        for field in fields
    }


def filled_parameters(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return values for the required parameters of a tool."""
    return {
        parameter.name: _option(parameter.options)
        or parameter.default
        or _EXAMPLES.get(parameter.type, "text")
        for parameter in parameters
        if parameter.required
    }


_EXAMPLES: dict[str, Any] = {"number": 1, "boolean": True, "array": [], "object": {}}


def _option(options: Sequence[Any] | None) -> Any:
    """Return the first option of a field; None if there are none."""
    first = options[0] if options else None
    return first.get("value") if isinstance(first, dict) else first


def _value_for(name: str, address: str) -> str:
    """Return a value that suits the name of a field."""
    markers = ("url", "endpoint", "base", "host", "server", "domain")
    return address if any(marker in name.lower() for marker in markers) else "none"
