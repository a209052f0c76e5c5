"""/triggers/webhook/TOKEN and /triggers/webhook-debug/TOKEN: what calls these begins a run of an app.

The token in the address is what admits. The node behind it says which verb and content type it takes, what has to come,
and what is answered: at once, or what the run came to.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, Request, json_reply, read_json
from modelyard.gateway.tenant_content import CREDENTIALS, SHUT_IN, WEBHOOK_OF_DRAFT, ContentRules
from modelyard.models.types import JSON
from modelyard.workflow.engine import Status
from modelyard.workflow.nodes.trigger import WebhookData, values_of
from modelyard.workflow.runs import Runs
from modelyard.workflow.services import TenantFiles
from modelyard.workflow.triggers import USER, Triggers
from modelyard.workflow.variables import to_object

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_KEYS = (b"idempotency-key", b"webhook-id")
"""Headers by which a sender says that it says the same again; the second is that of standardwebhooks.com."""
_MOST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class WebhookRoute:
    triggers: Triggers
    runs: Runs
    files: Callable[[str, str], TenantFiles]
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply:
        is_draft = request.path.startswith(WEBHOOK_OF_DRAFT)
        token = request.names["token"]
        found, app, node, data = await self.triggers.webhook(token, is_draft=is_draft)
        if request.method != data.method.upper():
            wanted = data.method.upper()
            document = _refusal(f"this webhook takes {wanted}, not {request.method}")
            return json_reply(document, status=405, headers={**SHUT_IN, "allow": wanted})
        request.payer = found.tenant
        given = await self._given(request, data, found.tenant)
        values_of(data, given)  # what is missing is said to whom it can still help
        key = next((f"call {one}" for name in _KEYS if (one := request.header(name))), "")
        run = await self.triggers.fire(found, app, node, given, key=key, is_draft=is_draft)
        if data.async_mode:
            return _said(data, run.id)
        try:
            limit = min(max(data.timeout, 1.0), _MOST_SECONDS)
            ended = await asyncio.wait_for(request.while_here(self.runs.ended(found.tenant, run.id)), limit)
        except TimeoutError:
            return json_reply({"run_id": run.id, "status": "running"}, status=504)
        document = {"run_id": run.id, "status": ended.status.value, "outputs": ended.outputs, "error": ended.error}
        if ended.status in (Status.SUCCEEDED, Status.PARTIAL):
            return json_reply(document, status=data.status_code, headers=SHUT_IN)
        return json_reply(document, status=202 if ended.status is Status.PAUSED else 500, headers=SHUT_IN)

    async def _given(self, request: Request, data: WebhookData, tenant: str) -> JSON:
        """What came, by the names that the node declares, and all of it as `_webhook_raw`."""
        sent = self.rules.incoming(request.scope["headers"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent}
        query = dict(parse_qsl(request.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
        body = await self._body(request, data, tenant)
        found: JSON = {one.name: query.get(one.name) for one in data.params}
        found |= {one.name: headers.get(one.name.lower()) for one in data.headers}
        found |= {one.name: body.get(one.name) for one in data.body}
        credentials = {name.decode() for name in CREDENTIALS}  # a node gets these where it declares them, by name
        shown = {name: value for name, value in headers.items() if name not in credentials}
        found["_webhook_raw"] = {
            "method": request.method, "headers": shown, "query_params": query, "body": body
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    async def _body(self, request: Request, data: WebhookData, tenant: str) -> JSON:
        """Its fields. A text, or a file, is the field that the node declares; `raw` where it declares none."""
        sent = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        content = await request.body()
        if not content:
            return {}
        if data.content_type and sent != data.content_type:
            raise InvokeBadRequestError(
                f"this webhook takes {data.content_type}, not {sent or 'a body without a type'}"
            )
        whole = data.body[0].name if data.body else "raw"
        match sent:
            case "application/json":
                return read_json(content)
            case "application/x-www-form-urlencoded":
                return dict(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True))
            case "multipart/form-data":
                form = parse_form(
                    request.header(b"content-type") or "", content, wanted="send multipart/form-data", file=None
                )
                files = self.files(tenant, USER)
                saved = {name: to_object(await files.save(one.filename, one.data)) for name, one in form.files.items()}
                return {**form.fields, **saved}
            case kind if kind.startswith("text/"):
                return {whole: content.decode("utf-8", "replace")}
            case _:
                file = await self.files(tenant, USER).save("body", content, sent)
                return {whole: to_object(file)}


def _said(data: WebhookData, run: str) -> Reply:
    """What the node says is answered: JSON where it is some, else a text; without any, the run."""
    text = data.response_body.strip()
    if data.status_code == 204:
        return Reply(b"", status=204, headers=SHUT_IN)
    if not text:
        return json_reply({"run_id": run}, status=data.status_code, headers=SHUT_IN)
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return Reply(text.encode(), status=data.status_code, content_type=b"text/plain; charset=utf-8", headers=SHUT_IN)
    return Reply(text.encode(), status=data.status_code, headers=SHUT_IN)


def _refusal(message: str) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": "method_not_allowed"}}
