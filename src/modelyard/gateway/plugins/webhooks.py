"""/triggers/webhook/TOKEN and /triggers/webhook-debug/TOKEN: start a run of an app by
an HTTP call.

The token in the address authorises the call. The webhook node behind it declares
method, content type, required parameters, and whether the call is answered at once or
with the result of the run.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.gateway.tenant_content import (
    CREDENTIALS,
    ISOLATION_HEADERS,
    WEBHOOK_OF_DRAFT,
    ContentRules,
)
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.journal import RunRecord
from modelyard.workflow.nodes.trigger import WebhookData, declared_values
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.triggers import USER, Triggers
from modelyard.workflow.variables import to_object

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_IDEMPOTENCY_HEADERS = (b"idempotency-key", b"webhook-id")
"""Headers that identify a repeated delivery. The second one is that of
standardwebhooks.com."""
# Upper bound, in seconds, for waiting on a run before the caller gets 504.
_MAX_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class WebhookRoute:
    """Handler of webhook calls: validates the request against its node, starts the run
    and answers."""

    triggers: Triggers
    runs: Runs
    files: Callable[[str, str], TenantFiles]
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply:
        """Start a run of the app whose webhook was called."""
        is_draft = request.path.startswith(WEBHOOK_OF_DRAFT)
        token = request.names["token"]
        app_version, app, node, data = await self.triggers.webhook(
            token, is_draft=is_draft
        )
        # A wrong method does not start a run; the token's existence may be shown, since
        # the caller has it.
        if request.method != data.method.upper():
            return _method_refused(request.method, data.method.upper())
        request.payer = app_version.tenant
        inputs = await self._inputs(request, data, app_version.tenant)
        # Check required parameters before the run starts, so that the sender gets the
        # error.
        declared_values(data, inputs)
        run = await self.triggers.fire(
            app_version,
            app,
            node,
            inputs,
            key=_idempotency_key(request),
            is_draft=is_draft,
        )
        # Asynchronous mode: the node's configured response is sent while the run
        # continues.
        if data.async_mode:
            return _node_response(data, run.id)
        try:
            # The wait ends early if the caller disconnects; the run itself continues in
            # any case.
            limit = min(max(data.timeout, 1.0), _MAX_WAIT_SECONDS)
            ended = await asyncio.wait_for(
                request.cancel_on_disconnect(
                    self.runs.wait_until_ended(app_version.tenant, run.id)
                ),
                limit,
            )
        except TimeoutError:
            return json_reply({"run_id": run.id, "status": "running"}, status=504)
        return _run_response(data, ended)

    async def _inputs(self, request: Request, data: WebhookData, tenant: str) -> JSON:
        """Return the declared parameters by name, and the complete request as
        `_webhook_raw`."""
        # The server's own credentials and internal headers are removed first.
        sent = self.rules.incoming(request.scope["headers"])
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in sent
        }
        query = dict(
            parse_qsl(
                request.scope.get("query_string", b"").decode("latin-1"),
                keep_blank_values=True,
            )
        )
        body = await self._body(request, data, tenant)
        # Same-named parameters: body fields override headers, headers override the
        # query.
        values: JSON = {param.name: query.get(param.name) for param in data.params}
        values |= {
            header.name: headers.get(header.name.lower()) for header in data.headers
        }
        values |= {field.name: body.get(field.name) for field in data.body}
        credentials = {name.decode() for name in CREDENTIALS}
        # Credentials reach a node only if it declares the header by name.
        visible_headers = {
            name: value for name, value in headers.items() if name not in credentials
        }
        values["_webhook_raw"] = {
            "method": request.method,
            "headers": visible_headers,
            "query_params": query,
            "body": body,
        }
        return {name: value for name, value in values.items() if value is not None}

    async def _body(self, request: Request, data: WebhookData, tenant: str) -> JSON:
        """Return the body's fields. A text or a file becomes the declared field, or
        `raw` if none is declared.

        Raises InvokeBadRequestError if the content type is not the declared one.
        """
        sent = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        content = await request.body()
        if not content:
            return {}
        if data.content_type and sent != data.content_type:
            raise InvokeBadRequestError(
                f"Unsupported content type {sent!r}; expected {data.content_type}"
            )
        text_field = data.body[0].name if data.body else "raw"
        match sent:
            case "application/json":
                return read_json(content)
            case "application/x-www-form-urlencoded":
                return dict(
                    parse_qsl(
                        content.decode("utf-8", "replace"), keep_blank_values=True
                    )
                )
            case "multipart/form-data":
                form = parse_form(
                    request.header(b"content-type") or "",
                    content,
                    error_message="Send multipart/form-data",
                    file=None,
                )
                # Uploaded files are stored for the tenant; the run receives references
                # to them.
                files = self.files(tenant, USER)
                saved = {
                    name: to_object(await files.save(upload.filename, upload.data))
                    for name, upload in form.files.items()
                }
                return {**form.fields, **saved}
            case kind if kind.startswith("text/"):
                return {text_field: content.decode("utf-8", "replace")}
            case _:
                file = await self.files(tenant, USER).save("body", content, sent)
                return {text_field: to_object(file)}


def _idempotency_key(request: Request) -> str:
    """Return the key of a delivery, or an empty string. A repeated delivery with the
    same key returns the run that the first one started."""
    for name in _IDEMPOTENCY_HEADERS:
        if sender_key := request.header(name):
            return f"call {sender_key}"
    return ""


def _run_response(data: WebhookData, run: RunRecord) -> Reply:
    """Return the result of a run that has ended or paused."""
    document = {
        "run_id": run.id,
        "status": run.status.value,
        "outputs": run.outputs,
        "error": run.error,
    }
    if run.status in (Status.SUCCEEDED, Status.PARTIAL):
        status = data.status_code
    else:
        # A paused run was accepted and is not finished yet: 202.
        status = 202 if run.status is Status.PAUSED else 500
    return json_reply(document, status=status, headers=ISOLATION_HEADERS)


def _node_response(data: WebhookData, run: str) -> Reply:
    """Return the node's configured response: JSON if its text is JSON, otherwise plain
    text, or the run's id if it is empty."""
    text = data.response_body.strip()
    # 204 must not have a body (RFC 9110, 15.3.5).
    if data.status_code == 204:
        return Reply(b"", status=204, headers=ISOLATION_HEADERS)
    if not text:
        return json_reply(
            {"run_id": run}, status=data.status_code, headers=ISOLATION_HEADERS
        )
    try:
        # Only validity matters: the text is sent unchanged.
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return Reply(
            text.encode(),
            status=data.status_code,
            content_type=b"text/plain; charset=utf-8",
            headers=ISOLATION_HEADERS,
        )
    return Reply(text.encode(), status=data.status_code, headers=ISOLATION_HEADERS)


def _method_refused(method: str, expected_method: str) -> Reply:
    """Return the error response for a wrong method."""
    document = {
        "error": {
            "message": f"This webhook requires method {expected_method}, got {method}",
            "type": "invalid_request_error",
            "code": "method_not_allowed",
        }
    }
    headers = {**ISOLATION_HEADERS, "allow": expected_method}
    return json_reply(document, status=405, headers=headers)
