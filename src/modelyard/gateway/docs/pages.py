"""Descriptions of the APIs as pages to read: no script, nothing from elsewhere."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from modelyard.base.version import __version__
from modelyard.gateway.table import Api
from modelyard.models.types import JSON

STYLE = b"""
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 1rem; }
details { border: 1px solid #8886; border-radius: 8px; padding: .4rem .8rem; margin: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary b { display: inline-block; min-width: 4.5rem; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
pre { overflow-x: auto; padding: .6rem; border-radius: 8px; background: #8882; }
"""
_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="stylesheet" href="/docs/style.css"></head><body><main><h1>{title}</h1>'
)


def index(apis: Iterable[Api]) -> bytes:
    """The list of APIs."""
    lines = [
        f'<li><a href="/docs/{_safe(api.name)}">{_safe(api.title)}</a>: {_safe(api.about)} '
        f"({len(api.rows)} operations)</li>"
        for api in apis
    ]
    head = _HEAD.format(title=f"Modelyard {_safe(__version__)}: its APIs")
    return f"{head}<ul>{''.join(lines)}</ul></main></body></html>".encode()


def page(api: Api, document: JSON) -> bytes:
    """One API: every operation with what it takes and answers, and the shapes they are made of."""
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = sorted(document["components"]["schemas"].items())
    shapes = [_shape(name, schema) for name, schema in schemas]
    return (
        f"{_HEAD.format(title=_safe(api.title))}<p>{_safe(api.about)} For programs: "
        f'<a href="/docs/{_safe(api.name)}/openapi.json">the OpenAPI 3.1 description</a>. '
        f'<a href="/docs">All APIs</a>.</p>{"".join(operations)}<h2>Shapes</h2>{"".join(shapes)}</main></body></html>'
    ).encode()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    body = _content(operation.get("requestBody", {}).get("content"))
    answer = _content(next(iter(operation["responses"].values())).get("content"))
    sends = f"<h3>Send</h3>{body}" if body else ""
    answers = f"<h3>Answer</h3>{answer}" if answer else ""
    return (
        f'<details id="{_safe(operation["operationId"])}"><summary><b class="{_safe(method)}">{method.upper()}</b> '
        f"<code>{_safe(path)}</code> <span>{_safe(operation['summary'])}</span></summary>"
        f"<p>{_shown_key(operation)}</p>{_query(operation)}{sends}{answers}</details>"
    )


def _shown_key(operation: Mapping[str, Any]) -> str:
    """What a caller has to show."""
    role = operation.get("x-modelyard-role")
    if role:
        return f"Show an API key of the role <code>{_safe(role)}</code> or a higher one."
    schemes = [name for requirement in operation["security"] for name in requirement]
    return f"Show: <code>{_safe(schemes[0])}</code>." if schemes else "No key is asked for."


def _query(operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{_safe(parameter['name'])}</code></td><td>{_safe(parameter['schema']['type'])}</td>"
        f"<td>{_safe(parameter['description'])}</td></tr>"
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    ]
    return f"<h3>Query</h3><table>{''.join(rows)}</table>" if rows else ""


def _content(content: Mapping[str, Any] | None) -> str:
    """A body: by the name of its shape where it has one."""
    if not content:
        return ""
    return "".join(_body(kind, media["schema"]) for kind, media in content.items())


def _body(kind: str, schema: Mapping[str, Any]) -> str:
    named = schema.get("$ref") or schema.get("properties", {}).get("data", {}).get("items", {}).get("$ref")
    if named:
        name = named.rpartition("/")[2]
        return f'<p><a href="#{_safe(name)}"><code>{_safe(name)}</code></a> as {_safe(kind)}</p>'
    text = _pretty(schema) if kind == "application/json" else ""
    return f"<p>{_safe(kind)}</p>{text}"


def _shape(name: str, schema: JSON) -> str:
    return f'<details id="{_safe(name)}"><summary><code>{_safe(name)}</code></summary>{_pretty(schema)}</details>'


def _pretty(schema: Mapping[str, Any]) -> str:
    return f"<pre>{_safe(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())}</pre>"


def _safe(text: Any) -> str:
    return html.escape(str(text))
