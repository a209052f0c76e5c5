"""What a run is started with: a value of its own for each variable that a file declares,
so that two values cannot be confused."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.show.app_files.reading import ReadApp, ReadNode
from tools.show.app_files.value_rules import content_of
from tools.show.app_files.world import Script

_LIKE_A_TEMPLATE = "{{#sys.query#}} {{ 7 * 7 }} <b>"
"""In every text that a person enters: what comes from outside is not read as a template."""
_EXTENSIONS = {"image": ".png", "audio": ".mp3", "video": ".mp4"}
_MIME_TYPES = {".png": "image/png", ".mp3": "audio/mpeg", ".mp4": "video/mp4"}


def inputs_of(app: ReadApp, root: str, script: Script) -> dict[str, Any]:
    """Return the inputs for a run that starts at a node."""
    if root:
        values = _values_of(app, app.nodes[root])
    else:
        values = {field["variable"]: value_for(field, 3) for field in form_fields(app)}
    values |= script.inputs
    # What a script has no value for is left out.
    return {name: values[name] for name in values if values[name] is not None}


def form_fields(app: ReadApp) -> list[Mapping[str, Any]]:
    """Return the fields of the form of an app without a graph."""
    if app.mode == "agent":
        package = app.packages[str(app.agent["package_ref"])]
        return [
            {"variable": variable["name"], "type": variable.get("type") or "string"}
            for variable in package["soul"].get("app_variables") or ()
        ]
    return [
        {**declared, "type": field_type}
        for entry in app.model_config.get("user_input_form") or ()
        for field_type, declared in entry.items()
    ]


def _values_of(app: ReadApp, node: ReadNode) -> dict[str, Any]:
    """Return the values with which a root starts."""
    match node.type:
        case "start":
            return _numbered(node.list_of("variables"))
        case "trigger-webhook":
            sections = ("headers", "params", "body")
            lists = [_numbered(_declared(node, section)) for section in sections]
            return {name: values[name] for values in lists for name in values}
        case "datasource":
            return {"file": file_for({}, "file"), **_numbered(app.pipeline_variables)}
        case _:
            # An event has the fields that the app reads.
            names = sorted(set(_names_read(app, node.id)))
            return {name: f"{name} of the event" for name in names}


def _numbered(declared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a value for each variable; numbers differ."""
    return {
        str(variable["variable"]): value_for(variable, number)
        for number, variable in enumerate(declared, 3)
    }


def _declared(node: ReadNode, section: str) -> list[Mapping[str, Any]]:
    """Return the parameters that a webhook declares in a section."""
    declared: Any = node.data.get(section) or ()
    if isinstance(declared, Mapping):
        declared = [{**declared[name], "name": name} for name in declared]
    return [{**entry, "variable": entry["name"]} for entry in declared]


def _names_read(app: ReadApp, node_id: str) -> Iterator[str]:
    """Yield the outputs of a node that other nodes select."""
    waiting: list[Any] = [node.data for node in app.nodes.values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
            if len(value) > 1 and value[0] == node_id:
                yield str(value[1])


def value_for(declared: Mapping[str, Any], number: int) -> Any:
    """Return a valid value for a declared variable, with its name in it."""
    name = str(declared.get("variable") or "")
    match declared.get("type"):
        case "select":
            options = declared.get("options") or ("",)
            return str(options[-1])
        case "number" | "integer":
            return number
        case "checkbox" | "boolean":
            return True
        case "file":
            return file_for(declared, name)
        case "file-list" | "array[file]":
            return [file_for(declared, f"{name}_{index}") for index in (1, 2)]
        case "json_object" | "object":
            return {"name": name}
        case "array[string]":
            return [f"{name} {index}" for index in (1, 2)]
        case "array[object]":
            return [{"name": f"{name} {index}"} for index in (1, 2)]
        case _:
            limit = declared.get("max_length") or None
            return f"{name} as given {_LIKE_A_TEMPLATE}"[:limit]


def file_for(declared: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a file that a variable accepts."""
    allowed = [str(entry) for entry in declared.get("allowed_file_types") or ()]
    file_type = next((entry for entry in allowed if entry != "custom"), "document")
    extension = _EXTENSIONS.get(file_type, ".txt")
    file: dict[str, Any] = {
        "dify_model_identity": "__dify__file__",
        "id": None,
        "type": file_type,
        "transfer_method": "local_file",
        "remote_url": None,
        "related_id": f"id_{name}",
        "filename": f"{name}{extension}",
        "extension": extension,
        "mime_type": _MIME_TYPES.get(extension, "text/plain"),
        "url": "",
    }
    return {**file, "size": len(content_of(file))}


def attached_files(script: Script) -> list[dict[str, Any]]:
    """Return the files that come with the first message of a chat."""
    return [
        file_for({"allowed_file_types": [file_type]}, f"attached_{number}")
        for number, file_type in enumerate(script.files, 1)
    ]


def contents_of(inputs: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of all files in the inputs by their ids."""
    contents: dict[str, bytes] = {}
    for value in inputs.values():
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, Mapping) and "related_id" in element:
                contents[element["related_id"]] = content_of(element).encode()
    return contents
