"""The admin API as OpenAPI 3.1, and as a page to read. Made from the shapes that the routes answer with."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.base.version import __version__
from modelyard.gateway.admin import shapes
from modelyard.models.types import JSON
from modelyard.runtime.inputs import INPUTS

_QUERY: Mapping[str, tuple[str, str]] = {
    "tenant": ("string", "Another tenant's, for the default tenant's owner."),
    "limit": ("integer", "How many, 1 to 1,000."),
    "after": ("string", "From the name after this one on."),
    "root": ("string", "The node that begins the run; the first where nothing is said."),
    "offset": ("integer", "From this one on."),
    "since": ("number", "Seconds since 1970; thirty days ago where nothing is said."),
    "until": ("number", "Seconds since 1970; now where nothing is said."),
    "by": ("string", "Joined by commas: provider, model, model_type, credential, key, user, tenant, status, day, hour"),
    "unsigned": ("string", "true where the operator says that the package need not be signed."),
    "format": ("string", "jsonl or csv."),
    "type": ("string", "A model type."),
    "ready": ("boolean", "Those alone that can be called now."),
    "q": ("string", "Words to find."),
    "status": ("string", "As the ledger has it; `failed` for all that did not go well."),
    "provider": ("string", ""), "model": ("string", ""), "credential": ("string", ""), "key": ("string", ""),
    "user": ("string", ""), "call": ("string", ""), "version": ("string", "A version's digest; the draft without it."),
    "draft": ("boolean", "What is not published yet."), "who": ("string", ""), "what": ("string", ""),
    "before": ("number", "Older than this."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    verb: str
    path: str
    says: str
    answer: Any = None
    """A shape; a list of one for `data` with `has_more`; a text for what is no JSON."""
    body: Mapping[str, Any] | type[Any] | str | None = None
    """Fields → JSON types, a struct, or a content type."""
    query: Sequence[str] = ()
    status: int = 200
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _operations() -> list[Operation]:
    kinds: Mapping[str, tuple[str, type[Any]]] = {
        "tenants": ("tenant", shapes.TenantShown), "users": ("user", shapes.UserShown),
        "keys": ("key", shapes.KeyShown), "credentials": ("credential", shapes.CredentialShown),
        "models": ("model", shapes.ModelShown), "routes": ("route", shapes.RouteShown),
        "limits": ("limit", shapes.LimitShown), "defaults": ("default", shapes.DefaultShown),
    }  # fmt: skip
    found: list[Operation] = []
    for plural, (kind, shape) in kinds.items():
        one = f"/admin/v1/{plural}/{{id}}"
        found += [
            Operation("GET", f"/admin/v1/{plural}", f"All {plural}, by name.", [shape], query=("limit", "after")),
            Operation("POST", f"/admin/v1/{plural}", f"Make a {kind}.", shape, INPUTS[kind], status=201),
            Operation("GET", one, f"One {kind}.", shape),
            Operation(
                "PATCH", one, f"Change a {kind}: what is given takes the place of what was.", shape, INPUTS[kind]
            ),
            Operation("DELETE", one, f"Remove a {kind}.", shapes.Accepted),
        ]
    text, number, flag, thing, words = "string", "number", "boolean", "object", "array"
    app, run, evaluated = "/admin/v1/apps/{id}", "/admin/v1/runs/{id}", "/admin/v1/evaluations/{id}"
    return [
        *found,
        Operation(
            "POST",
            "/admin/v1/keys/{id}/rotate",
            "A new key with the old one's rights.",
            shapes.KeyShown,
            {"grace_seconds?": number},
            status=201,
        ),
        Operation("POST", "/admin/v1/keys/{id}/revoke", "The key serves nobody from now on.", shapes.KeyShown),
        Operation("GET", "/admin/v1/providers", "Providers, and what is set up of them.", [shapes.ProviderShown]),
        Operation("GET", "/admin/v1/providers/{id}", "One, with its form and its models.", shapes.ProviderDetail),
        Operation(
            "POST",
            "/admin/v1/providers/{id}/check",
            "Ask a provider whether a filled-in form works; nothing is kept.",
            shapes.CredentialCheck,
            {"values": thing},
        ),
        Operation(
            "GET",
            "/admin/v1/catalogue",
            "Models, ready or not, with rules and prices.",
            [shapes.CatalogueModel],
            query=("type", "ready"),
        ),
        Operation("GET", "/admin/v1/weights", "Local models' files.", [shapes.WeightsShown]),
        Operation("POST", "/admin/v1/weights/{id}/pull", "Fetch a local model; told as it goes.", "text/event-stream"),
        Operation("DELETE", "/admin/v1/weights/{id}", "Delete a local model's files.", shapes.Accepted),
        Operation(
            "POST",
            "/admin/v1/plan",
            "Where a call would go now. Calls nothing.",
            shapes.Planned,
            {"model": text, "type?": text, "user?": text, "key?": text},
        ),
        Operation(
            "GET", "/admin/v1/usage", "Sums of what was used.", [shapes.UsageSum], query=("by", "since", "until")
        ),
        Operation(
            "GET",
            "/admin/v1/usage/rows",
            "Every attempt, as JSON lines or CSV.",
            "application/x-ndjson",
            query=("format", "since", "until"),
        ),
        Operation("GET", "/admin/v1/latency", "Percentiles by model.", [shapes.Percentiles], query=("since", "until")),
        Operation(
            "GET",
            "/admin/v1/calls",
            "Attempts, newest first.",
            shapes.CallPage,
            query=(
                "since",
                "until",
                "limit",
                "offset",
                "provider",
                "model",
                "type",
                "credential",
                "key",
                "user",
                "status",
                "call",
            ),
        ),
        Operation("GET", "/admin/v1/calls/{id}", "Why a call went where it went.", shapes.Explanation),
        Operation(
            "POST",
            "/admin/v1/calls/{id}/replay",
            "Ask a recorded chat again, of another model.",
            shapes.Replayed,
            {"model": text},
        ),
        Operation(
            "GET",
            "/admin/v1/resting",
            "What rests after failures → seconds left.",
            None,
            more={"data": {"type": "object", "additionalProperties": {"type": "number"}}},
        ),
        Operation(
            "DELETE",
            "/admin/v1/cache",
            "Forget the answers that may be given again.",
            None,
            more={"cleared": {"type": "boolean"}},
        ),
        Operation("POST", "/admin/v1/oauth/clients", "Set this server up as a provider's client.", None, thing),
        Operation("POST", "/admin/v1/oauth/connections", "Get where a person connects an account.", None, thing),
        Operation("GET", "/admin/v1/plugins", "Plugins, and what they take.", shapes.PluginsShown),
        Operation(
            "POST",
            "/admin/v1/plugins",
            "Install a package, sent as it is.",
            shapes.InstallTask,
            "application/octet-stream",
            status=201,
            query=("unsigned",),
        ),
        Operation(
            "POST",
            "/admin/v1/plugins/market",
            "Install from a market.",
            shapes.InstallTask,
            {"id": text, "version?": text},
            status=201,
            query=("unsigned",),
        ),
        Operation("GET", "/admin/v1/plugins/tasks/{id}", "How far an installation is.", shapes.InstallTask),
        Operation("GET", "/admin/v1/plugins/{id}", "One plugin.", shapes.PluginShown),
        Operation(
            "PATCH", "/admin/v1/plugins/{id}", "What it may ask its host for.", shapes.PluginShown, {"granted": words}
        ),
        Operation("DELETE", "/admin/v1/plugins/{id}", "Remove it and what it kept.", shapes.Accepted),
        Operation(
            "GET",
            "/admin/v1/plugins/{id}/logs",
            "What it said lately.",
            None,
            more={
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["at", "text"],
                        "properties": {"at": {"type": "number"}, "text": {"type": "string"}},
                    },
                }
            },
        ),
        Operation("GET", "/admin/v1/plugins/{id}/icon", "Its picture.", "image/*"),
        Operation("GET", "/admin/v1/market", "What the markets list.", [shapes.MarketPlugin], query=("q",)),
        Operation("GET", "/admin/v1/nodes", "Node types, with a schema of what each is told.", [shapes.NodeKindShown]),
        Operation("GET", "/admin/v1/node-parts", "What plugins give nodes to work with.", shapes.NodeParts),
        Operation("GET", "/admin/v1/subscriptions", "What trigger plugins listen to.", [shapes.SubscriptionShown]),
        Operation(
            "POST",
            "/admin/v1/subscriptions",
            "Have a trigger plugin's provider tell what happens.",
            shapes.SubscriptionShown,
            {"plugin": text, "name": text, "parameters?": thing, "credentials?": thing},
            status=201,
        ),
        Operation("DELETE", "/admin/v1/subscriptions/{id}", "Listen no longer.", shapes.Accepted),
        Operation("GET", "/admin/v1/apps", "Apps.", [shapes.AppShown]),
        Operation(
            "POST",
            "/admin/v1/apps",
            "Import an app.",
            shapes.AppImported,
            {"file": text, "name?": text, "mapping?": thing, "publish?": flag, "note?": text},
            status=201,
        ),
        Operation(
            "POST",
            "/admin/v1/apps/check",
            "What is wrong with a file, and what it needs.",
            shapes.FileCheck,
            {"file": text, "name?": text},
        ),
        Operation("GET", app, "One app, with its versions.", shapes.AppShown),
        Operation(
            "PATCH", app, "Switch it or its page on or off.", shapes.AppShown, {"is_enabled?": flag, "page?": thing}
        ),
        Operation("DELETE", app, "Remove it.", shapes.Accepted),
        Operation("GET", f"{app}/file", "Its file.", "application/yaml", query=("version",)),
        Operation(
            "PUT",
            f"{app}/file",
            "Keep a draft; 409 where another is there by now.",
            shapes.AppImported,
            {"file": text, "base?": text},
        ),
        Operation("POST", f"{app}/publish", "Publish the draft.", shapes.AppShown, {"name?": text, "note?": text}),
        Operation("POST", f"{app}/restore", "Make an old version the draft.", shapes.AppShown, {"version": text}),
        Operation("GET", f"{app}/keys", "Keys of its callers.", [shapes.AppKeyShown]),
        Operation("POST", f"{app}/keys", "A key, shown once.", shapes.AppKeyShown, status=201),
        Operation("DELETE", f"{app}/keys/{{key}}", "Take a key away.", shapes.Accepted),
        Operation(
            "GET",
            f"{app}/form",
            "What it asks for.",
            [shapes.InputForm],
            query=("draft", "root"),
            more={"is_chat": {"type": "boolean"}},
        ),
        Operation("GET", f"{app}/triggers", "What begins its runs without a caller.", [shapes.TriggerShown]),
        Operation("GET", f"{app}/runs", "Its runs, newest first.", shapes.RunPage, query=("status", "limit", "offset")),
        Operation(
            "POST",
            f"{app}/runs",
            "Run it; its events as they come.",
            "text/event-stream",
            {"inputs?": thing, "query?": text, "conversation?": text, "draft?": flag, "root?": text},
        ),
        Operation(
            "POST",
            f"{app}/files",
            "A file for its runs, as a form's field 'file'.",
            shapes.UploadedFile,
            "multipart/form-data",
            status=201,
        ),
        Operation(
            "POST",
            f"{app}/test-node",
            "Run one node of a file alone.",
            shapes.NodeTest,
            {"file": text, "node": text, "inputs?": thing},
        ),
        Operation("GET", f"{app}/conversations", "What people talked about.", [shapes.ConversationShown]),
        Operation(
            "GET", f"{app}/conversations/{{conversation}}", "One conversation's messages.", [shapes.MessageShown]
        ),
        Operation("GET", f"{app}/feedback", "Messages that people rated.", [shapes.MessageShown]),
        Operation(
            "GET",
            f"{app}/annotations",
            "Answers that are given as they stand.",
            [shapes.AnnotationShown],
            query=("limit",),
        ),
        Operation(
            "POST",
            f"{app}/annotations",
            "Add one.",
            shapes.AnnotationShown,
            {"question": text, "answer": text},
            status=201,
        ),
        Operation("DELETE", f"{app}/annotations/{{annotation}}", "Remove one.", shapes.Accepted),
        Operation("GET", run, "A run.", shapes.RunShown),
        Operation(
            "GET",
            f"{run}/events",
            "Its events, from its beginning, and on as they come.",
            "text/event-stream",
            query=("after",),
        ),
        *(
            Operation("POST", f"{run}/{verb}", f"Have it {verb}.", None, more={"done": {"type": "boolean"}})
            for verb in ("stop", "pause", "resume")
        ),
        Operation(
            "POST",
            "/admin/v1/split",
            "What a rule makes of a text. Nothing is kept.",
            [shapes.SplitPiece],
            {"text": text, "process_rule?": thing},
            more={"total": {"type": "integer"}},
        ),
        Operation("GET", f"{evaluated}", "A dataset's evaluations, newest first.", [shapes.EvaluationShown]),
        Operation(
            "POST",
            evaluated,
            "Ask questions whose documents are known, in each way; told as it goes, and kept.",
            "text/event-stream",
            {"questions": "objects", "ways?": words},
        ),
        Operation(
            "POST",
            f"{evaluated}/questions",
            "Have a model write a question a document.",
            [shapes.QuestionShown],
            {"count?": number, "model?": text},
        ),
        Operation("GET", f"{evaluated}/{{evaluation}}", "One, question by question.", shapes.EvaluationShown),
        Operation("DELETE", f"{evaluated}/{{evaluation}}", "Remove one.", shapes.Accepted),
        Operation("GET", "/admin/v1/about", "What runs here.", shapes.About),
        Operation("GET", "/admin/v1/settings", "The settings' file, without its secrets.", shapes.SettingsShown),
        Operation("PUT", "/admin/v1/settings", "Write it; checked first.", shapes.SettingsShown, {"text": text}),
        Operation("GET", "/admin/v1/live", "A line whenever something is new.", "text/event-stream"),
    ]


def described() -> JSON:
    """The OpenAPI 3.1 description."""
    operations = _operations()
    used: dict[str, type[Any]] = {}
    for one in operations:
        for shape in (*(one.answer if isinstance(one.answer, list) else [one.answer]), one.body):
            if isinstance(shape, type):
                used[shape.__name__] = shape
    _, schemas = msgspec.json.schema_components(list(used.values()), ref_template="#/components/schemas/{name}")
    paths: JSON = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.verb.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelyard admin API", "version": __version__},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **_complete(schemas), "Error": {
                    "type": "object", "required": ["error"], "properties": {"error": {
                        "type": "object", "required": ["message"],
                        "properties": {"message": {"type": "string"}, "code": {"type": "string"},
                                       "param": {"type": ["string", "null"]}}}},
                },
            },
        },
        "paths": paths,
    }  # fmt: skip


def _complete(schemas: Mapping[str, JSON]) -> JSON:
    """Answers hold every field, those with defaults too; what is sent may leave them out."""
    inputs = {kind.__name__ for kind in INPUTS.values()} | {"Target"}
    may_lack = {"UsageSum", "AppShown", "AppImported", "AppKeyShown", "Accepted", "Explanation"}
    return {
        name: {**one, "required": list(one.get("properties", {}))}
        if one.get("type") == "object" and name not in inputs | may_lack and "properties" in one
        else one
        for name, one in schemas.items()
    }


def _operation(one: Operation) -> JSON:
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    parameters: list[JSON] = [
        *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names),
        *({"name": name, "in": "query", "required": False, "description": _QUERY[name][1],
           "schema": {"type": _QUERY[name][0]}} for name in (*one.query, "tenant")),
    ]  # fmt: skip
    refused = {"description": "what is wrong", "content": _json({"$ref": "#/components/schemas/Error"})}
    operation: JSON = {
        "operationId": f"{one.verb.lower()}{one.path.removeprefix('/admin/v1')}".replace("/", "_")
        .replace("{", "")
        .replace("}", ""),
        "summary": one.says,
        "parameters": parameters,
        "responses": {str(one.status): {"description": "done", **_answer(one)}, "4XX": refused, "5XX": refused},
    }
    if (body := _body(one)) is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _json(schema: JSON) -> JSON:
    return {"application/json": {"schema": schema}}


def _answer(one: Operation) -> JSON:
    match one.answer:
        case str() as kind:
            return {"content": {kind: {"schema": {"type": "string"}}}}
        case [shape]:
            schema: JSON = {"type": "array", "items": {"$ref": f"#/components/schemas/{shape.__name__}"}}
            return {
                "content": _json(
                    {"type": "object", "required": ["data", *one.more], "properties": {"data": schema, **one.more}}
                )
            }
        case None:
            return {"content": _json({"type": "object", "required": list(one.more), "properties": dict(one.more)})}
        case shape:
            return {"content": _json({"$ref": f"#/components/schemas/{shape.__name__}"})}


def _body(one: Operation) -> JSON | None:
    match one.body:
        case None:
            return None
        case "object":
            return _json({"type": "object"})
        case str() as kind:
            return {kind: {"schema": {"type": "string", "format": "binary"}}}
        case Mapping() as fields:
            needed = [name for name in fields if not name.endswith("?")]
            properties = {name.rstrip("?"): _type(kind) for name, kind in fields.items()}
            return _json(
                {"type": "object", "required": needed, "properties": properties, "additionalProperties": False}
            )
        case shape:
            return _json({"type": "object"} if one.verb == "PATCH" else _with_name(shape))


def _with_name(shape: type[Any]) -> JSON:
    """A shape's schema with the resource's name. `allOf` of the two could never be met: each refuses other fields."""
    _, schemas = msgspec.json.schema_components([shape], ref_template="#/components/schemas/{name}")
    own = schemas[shape.__name__]
    properties = {"name": {"type": "string"}, **own.get("properties", {})}
    return {**own, "properties": properties, "required": ["name", *own.get("required", ())]}


def _type(kind: str) -> JSON:
    if kind == "objects":
        return {"type": "array", "items": {"type": "object", "additionalProperties": True}}
    if kind == "array":
        return {"type": "array", "items": {"type": "string"}}
    return {"type": kind, "additionalProperties": True} if kind == "object" else {"type": kind}


def page() -> bytes:
    """The description to read: no script, nothing from elsewhere."""
    document = described()
    rows: list[str] = []
    for path, verbs in document["paths"].items():
        for verb, one in verbs.items():
            queries = [each for each in one["parameters"] if each["in"] == "query"]
            asked = "".join(
                f"<tr><td><code>{_safe(each['name'])}</code></td><td>{_safe(each['schema']['type'])}</td>"
                f"<td>{_safe(each['description'])}</td></tr>" for each in queries
            )  # fmt: skip
            body = _shown(one.get("requestBody", {}).get("content"))
            answer = _shown(next(iter(one["responses"].values())).get("content"))
            rows.append(
                f'<details id="{_safe(one["operationId"])}"><summary><b class="{verb}">{verb.upper()}</b> '
                f"<code>{_safe(path)}</code> <span>{_safe(one['summary'])}</span></summary>"
                f"<h3>Query</h3><table>{asked}</table>"
                f"{f'<h3>Send</h3>{body}' if body else ''}<h3>Answer</h3>{answer}</details>"
            )
    kinds = "".join(
        f'<details id="{_safe(name)}"><summary><code>{_safe(name)}</code></summary>'
        f"<pre>{_safe(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())}</pre></details>"
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Modelyard admin API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/console/api/docs/style.css"></head><body><main><h1>Modelyard admin API</h1>'
        f"<p>Version {_safe(__version__)}. Show a key as <code>Authorization: Bearer KEY</code>, or be signed in. "
        'For programs: <a href="/admin/openapi.json">the OpenAPI 3.1 description</a>.</p>'
        f"{''.join(rows)}<h2>Shapes</h2>{kinds}</main></body></html>"
    ).encode()


STYLE = b"""
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 1rem; }
details { border: 1px solid #8886; border-radius: 8px; padding: .4rem .8rem; margin: .3rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary b { display: inline-block; min-width: 4.5rem; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; } td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
pre { overflow-x: auto; padding: .6rem; border-radius: 8px; background: #8882; }
"""


def _safe(text: Any) -> str:
    return html.escape(str(text))


def _shown(content: Mapping[str, Any] | None) -> str:
    if not content:
        return ""
    kind, what = next(iter(content.items()))
    schema = what["schema"]
    named = schema.get("$ref") or schema.get("properties", {}).get("data", {}).get("items", {}).get("$ref")
    if named:
        name = named.rpartition("/")[2]
        return f'<p><a href="#{_safe(name)}"><code>{_safe(name)}</code></a> as {_safe(kind)}</p>'
    text = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() if kind == "application/json" else ""
    return f"<p>{_safe(kind)}</p>{f'<pre>{_safe(text)}</pre>' if text else ''}"
