"""API documentation as HTML pages, without scripts and external resources."""

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
"""  # noqa: E501
_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="stylesheet" href="/docs/style.css"></head><body><main><h1>{title}</h1>'
)


def index(apis: Iterable[Api]) -> bytes:
    """Return the page that lists the APIs."""
    lines = [
        f'<li><a href="/docs/{_escape(api.name)}">{_escape(api.title)}</a>:'
        f" {_escape(api.about)} ({len(api.rows)} operations)</li>"
        for api in apis
    ]
    head = _HEAD.format(title=f"Modelyard {_escape(__version__)}: its APIs")
    return f"{head}<ul>{''.join(lines)}</ul></main></body></html>".encode()


def page(api: Api, document: JSON) -> bytes:
    """Return the page of one API: its operations with request and response, and its
    schemas."""
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    # Sorted by name, because readers look a schema up by its name.
    schemas = sorted(document["components"]["schemas"].items())
    shapes = [_schema_section(name, schema) for name, schema in schemas]
    return (
        f"{_HEAD.format(title=_escape(api.title))}<p>{_escape(api.about)} For"
        " programs: "
        f'<a href="/docs/{_escape(api.name)}/openapi.json">the OpenAPI 3.1'
        " document</a>. "
        '<a href="/docs">All'
        f" APIs</a>.</p>{''.join(operations)}<h2>Schemas</h2>{''.join(shapes)}</main></body></html>"
    ).encode()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """Return the section of one operation."""
    body = _content(operation.get("requestBody", {}).get("content"))
    # The first response is the successful one.
    answer = _content(next(iter(operation["responses"].values())).get("content"))
    sends = f"<h3>Request</h3>{body}" if body else ""
    answers = f"<h3>Response</h3>{answer}" if answer else ""
    return (
        f'<details id="{_escape(operation["operationId"])}"><summary><b'
        f' class="{_escape(method)}">{method.upper()}</b> '
        f"<code>{_escape(path)}</code>"
        f" <span>{_escape(operation['summary'])}</span></summary>"
        f"<p>{_authentication_text(operation)}</p>{_query(operation)}{sends}{answers}</details>"
    )


def _authentication_text(operation: Mapping[str, Any]) -> str:
    """Return how a caller of the operation authenticates."""
    role = operation.get("x-modelyard-role")
    if role:
        return f"Requires an API key with role <code>{_escape(role)}</code> or higher."
    # An operation without a role has its own scheme, or is public.
    schemes = [name for requirement in operation["security"] for name in requirement]
    return (
        f"Requires: <code>{_escape(schemes[0])}</code>."
        if schemes
        else "No authentication required."
    )


def _query(operation: Mapping[str, Any]) -> str:
    """Return the table of the query parameters."""
    rows = [
        f"<tr><td><code>{_escape(parameter['name'])}</code></td><td>{_escape(parameter['schema']['type'])}</td>"
        f"<td>{_escape(parameter['description'])}</td></tr>"
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    ]
    return f"<h3>Query</h3><table>{''.join(rows)}</table>" if rows else ""


def _content(content: Mapping[str, Any] | None) -> str:
    """Return a request or response body in all its content types."""
    if not content:
        return ""
    return "".join(
        _body(content_type, media["schema"]) for content_type, media in content.items()
    )


def _body(content_type: str, schema: Mapping[str, Any]) -> str:
    """Return a body: a link if its schema has a name, otherwise the schema itself."""
    # A list response refers to the schema of its elements.
    reference = schema.get("$ref") or schema.get("properties", {}).get("data", {}).get(
        "items", {}
    ).get("$ref")
    if reference:
        name = reference.rpartition("/")[2]
        return (
            f'<p><a href="#{_escape(name)}"><code>{_escape(name)}</code></a> as'
            f" {_escape(content_type)}</p>"
        )
    text = _pretty(schema) if content_type == "application/json" else ""
    return f"<p>{_escape(content_type)}</p>{text}"


def _schema_section(name: str, schema: JSON) -> str:
    """Return the section of a named schema."""
    return (
        "<details"
        f' id="{_escape(name)}"><summary><code>{_escape(name)}</code></summary>{_pretty(schema)}</details>'  # noqa: E501
    )


def _pretty(schema: Mapping[str, Any]) -> str:
    """Return a schema as indented JSON."""
    return f"<pre>{_escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())}</pre>"  # noqa: E501


def _escape(text: Any) -> str:
    """Return text escaped for HTML."""
    return html.escape(str(text))
