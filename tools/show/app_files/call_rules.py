"""Node types that call tools, addresses, datasets and people."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from tools.show.app_files.conditions import NodeFailure
from tools.show.app_files.contract import Reading, Step, parameter_value
from tools.show.app_files.reading import ReadNode
from tools.show.app_files.values import markdown_of, render, value_at
from tools.show.app_files.world import (
    OWN_HEADERS,
    comparable_body,
    filled_form,
    http_body,
    indexed,
    segments,
    tool_messages,
)

_FORM_INPUT = re.compile(r"\{\{#\$output\.(\w+)#\}\}")


def tool(node: ReadNode, run: Reading) -> Step:
    """The messages of a tool. A parameter without a value is left to the tool."""
    entries = {
        **node.mapping_of("tool_configurations"),
        **node.mapping_of("tool_parameters"),
    }
    parameters = {
        name: value
        for name, entry in entries.items()
        if (value := _toolparameter_value(entry, run)) is not None
    }
    name = str(node.data["tool_name"])
    run.ask(node, "tool", [name, parameters])
    return Step(tool_outputs(tool_messages(name, parameters, run.script)))


def _toolparameter_value(entry: Any, run: Reading) -> Any:
    """Return the value of a tool's parameter; a constant stands as it is."""
    if isinstance(entry, Mapping) and entry.get("type") == "constant":
        return entry.get("value")
    return parameter_value(entry, run)


def tool_outputs(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the outputs for messages of a tool."""
    texts: list[str] = []
    objects: list[Any] = []
    files: list[Any] = []
    variables: dict[str, Any] = {}
    for entry in messages:
        message = entry["message"]
        match entry["type"]:
            case "text":
                texts.append(str(message["text"]))
            case "json":
                objects.append(message["json_object"])
            case "image_link":
                files.append(_linked_image(message["text"]))
            case _:
                variables[message["variable_name"]] = message["variable_value"]
    has_others = texts or files or variables
    nothing = [] if has_others else [{"data": []}]
    text = "".join(texts)
    return {"text": text, "files": files, "json": objects or nothing, **variables}


def _linked_image(url: str) -> dict[str, Any]:
    """Return the file for an image that a tool gives the address of."""
    return {
        "dify_model_identity": "__dify__file__",
        "type": "image",
        "filename": url.rpartition("/")[2],
        "extension": "",
        "mime_type": "",
        "size": -1,
        "url": url,
    }


def http_request(node: ReadNode, run: Reading) -> Step:
    """A request with rendered address, parameters, headers and body."""
    url = render(str(node.data.get("url") or ""), run.pool).strip()
    if not url.startswith(("http://", "https://")):
        raise NodeFailure(
            "url should start with http:// or https://", "InvalidURLError"
        )
    address, _, query = url.partition("?")
    pairs = [
        (render(key, run.pool), render(value, run.pool))
        for key, value in _fields(node.data.get("params"))
    ]
    request = {
        "method": str(node.data.get("method") or "get").upper(),
        "address": address,
        "query": [list(pair) for pair in [*parse_qsl(query), *pairs] if pair[0]],
        "headers": sorted(
            f"{name.lower()}: {render(value, run.pool)}"
            for name, value in [
                *_fields(node.data.get("headers")),
                *_authorization(node.mapping_of("authorization")),
            ]
            if name.lower() not in OWN_HEADERS
        ),
        "body": _http_body(node, run),
    }
    run.ask(node, "http", request)
    body = http_body(request, run.script)
    headers = {"content-type": "application/json"}
    return Step({"status_code": 200, "body": body, "headers": headers, "files": []})


def _authorization(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the header of an API key, which may contain selectors."""
    if settings.get("type") != "api-key":
        return []
    config: Mapping[str, Any] = settings["config"]
    key = str(config.get("api_key") or "")
    prefix = {"bearer": "Bearer ", "basic": "Basic "}.get(str(config["type"]), "")
    is_custom = config["type"] == "custom"
    header = str(config.get("header") or "") if is_custom else ""
    return [(header or "Authorization", f"{prefix}{key}")]


def _fields(lines: Any) -> list[tuple[str, str]]:
    """Return the fields of a text with one `name:value` per line."""
    pairs = [line.partition(":") for line in str(lines or "").splitlines()]
    return [(name.strip(), value.strip()) for name, _, value in pairs if name.strip()]


def _http_body(node: ReadNode, run: Reading) -> Any:
    """Return the body of a request as a comparable value."""
    body: Any = node.data.get("body") or {}
    entries = body.get("data") or ""
    # Old files have the body as one text.
    text = entries if isinstance(entries, str) else str(entries[0].get("value") or "")
    match body.get("type"):
        case "json" | "raw-text":
            return comparable_body(render(text, run.pool))
        case "form-data" | "x-www-form-urlencoded":
            fields = _form_fields(entries)
            return [[render(text, run.pool) for text in field] for field in fields]
        case _:
            return ""


def _form_fields(entries: Any) -> list[tuple[str, str]]:
    """Return the fields of a form, which old files have as one text."""
    if isinstance(entries, str):
        return _fields(entries)
    return [(str(entry.get("key")), str(entry.get("value"))) for entry in entries]


def knowledge_retrieval(node: ReadNode, run: Reading) -> Step:
    """The segments of the datasets."""
    query = value_at(run.pool, node.data.get("query_variable_selector"))
    if not query:
        return Step({"result": []})
    run.ask(
        node, "dataset", [query, [str(name) for name in node.list_of("dataset_ids")]]
    )
    return Step({"result": segments(query)})


def knowledge_index(node: ReadNode, run: Reading) -> Step:
    """The chunks of a pipeline, which its dataset gets."""
    chunks = value_at(run.pool, node.data.get("index_chunk_variable_selector"))
    run.ask(node, "index", chunks)
    return Step(indexed(chunks))


def human_input(node: ReadNode, run: Reading) -> Step:
    """The answer of a person; the chosen action is the branch."""
    answer = filled_form(node.data, run.script, node.id)
    if "expired" in answer:
        return Step({"__action_id": "", "__rendered_content": ""}, "__timeout")
    values: dict[str, Any] = answer["inputs"]
    content = _FORM_INPUT.sub(
        lambda match: markdown_of(values.get(match[1])),
        render(str(node.data.get("form_content") or ""), run.pool, markdown_of),
    )
    titles = {
        str(action["id"]): str(action.get("title") or "")
        for action in reversed(node.list_of("user_actions"))
    }
    outputs = {
        **values,
        "__action_id": answer["action"],
        "__action_value": titles.get(answer["action"], ""),
        "__rendered_content": content,
    }
    return Step(outputs, answer["action"])
