"""Trigger webhooks (`/t/ID`): a platform reports events, a trigger plugin verifies and
understands the call, and apps that listen to the events are started.

Callers show no API key: the id in the address and what the plugin verifies, such as a
signature, authorise the call.
"""

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesParser
from typing import Any

from modelyard.base.errors import (
    InvokeBadRequestError,
    ModelyardError,
    PluginError,
)
from modelyard.base.fields import short_repr
from modelyard.base.json_types import is_array, is_object
from modelyard.gateway.http import Reply, Request
from modelyard.gateway.plugins.hooks import decode_hex
from modelyard.gateway.raw_requests import raw_request
from modelyard.gateway.tenant_content import ContentRules, outgoing, response_status
from modelyard.models.types import JSON
from modelyard.tenant_plugins.plugins import Plugins
from modelyard.tenant_plugins.subscriptions import PluginSubscriptions
from modelyard.workflow.triggers import Listener, Triggers

logger = logging.getLogger("modelyard.triggers")

EventListener = Callable[[str, str, str, JSON], Awaitable[None]]
"""Called with (tenant, subscription, event, variables)."""
_DELIVERY_HEADERS = (
    b"idempotency-key",
    b"webhook-id",
    b"x-github-delivery",
    b"linear-delivery",
    b"x-wc-webhook-delivery-id",
    b"x-zendesk-webhook-invocation-id",
)
"""Headers with which platforms identify a delivery that they repeat."""
_IGNORED = "EventIgnoreError"


class RejectedWebhookError(ModelyardError):
    """A trigger plugin does not accept the signature or the credentials of a call."""

    status = 401
    code = "webhook_rejected"


@dataclass(frozen=True, slots=True)
class TriggerRoute:
    """Handler of ANY /t/ID: a trigger plugin decides which events a webhook call stands
    for and how to answer it."""

    plugins: Plugins
    subscriptions: PluginSubscriptions
    triggers: Triggers
    on_event: Callable[[], EventListener | None]
    """Returns the additional listener, or None if there is none."""
    rules: ContentRules

    async def __call__(self, request: Request) -> Reply:
        """Answer a call of a platform.

        Raises RejectedWebhookError if the plugin rejects its signature,
        InvokeBadRequestError if the plugin does not understand it, and PluginError if
        the plugin fails, so that the platform repeats the call.
        """
        name, subpath = request.names["subscription"], request.names.get("rest", "")
        tenant, subscription, secret_fields = self.subscriptions.subscription(name)
        # First call: the plugin verifies the request and names the events that it
        # contains.
        raw = raw_request(
            request, f"/{subpath}", await request.body(), {}, self.rules
        ).hex()
        common = {
            "provider": subscription.provider,
            "raw_http_request": raw,
            **secret_fields,
        }
        with _client_errors(name):
            dispatch_result = await self.plugins.call_once(
                tenant, subscription.plugin, "trigger", "dispatch_trigger_event", common
            )
        webhook_call = _WebhookCall(
            plugins=self.plugins,
            tenant=tenant,
            subscription=name,
            plugin=subscription.plugin,
            provider=f"{subscription.plugin}/{subscription.provider}",
            common={
                "credentials": {},
                "credential_type": "unauthorized",
                **common,
                "payload": _object_in(dispatch_result, "payload", subscription.plugin),
            },
            delivery=_delivery(request),
        )
        # One call may report several events, or none, such as a platform's question
        # whether the address answers.
        for event in _event_names(dispatch_result, subscription.plugin):
            await self._start_listeners(webhook_call, event)
            await self._notify_additional_listener(webhook_call, event)
        return _reply_from_raw(dispatch_result.get("response"), subscription.plugin)

    async def _start_listeners(self, call: "_WebhookCall", event: str) -> None:
        """Start the runs of all nodes that listen to an event."""
        # Second call, once per event and listener: each listening node has its own
        # parameters.
        for listener in self.triggers.listeners(
            call.tenant, call.subscription, call.provider, event
        ):
            with call.logged_failure(event):
                await self._start_listener(call, event, listener)

    async def _start_listener(
        self, call: "_WebhookCall", event: str, listener: Listener
    ) -> None:
        """Start the run of a listening node, unless its parameters filter the event
        out. A repeated delivery starts no second run."""
        variables = await call.variables(event, listener.trigger.parameters)
        if variables is None:
            return
        # Without an id, each call is an event of its own.
        key = (
            f"event {call.subscription} {event} {call.delivery}"
            if call.delivery
            else ""
        )
        await self.triggers.start_listener(listener, variables, key=key)

    async def _notify_additional_listener(
        self, call: "_WebhookCall", event: str
    ) -> None:
        """Pass an event to the additional listener, if there is one. It gets the event
        without parameters."""
        listen = self.on_event()
        if listen is None:
            return
        with call.logged_failure(event):
            variables = await call.variables(event, {})
            if variables is not None:
                await listen(call.tenant, call.subscription, event, variables)


@contextmanager
def _client_errors(subscription: str) -> Generator[None]:
    """Turn a plugin's refusal of a call into an error of the caller, whose status is
    4xx: platforms repeat a call that ends with another one.

    The plugin's words stay in the log, since the caller may be anybody.
    """
    try:
        yield
    except PluginError as error:
        fields = {"subscription": subscription, "why": str(error)[:500]}
        if error.kind == "TriggerValidationError":
            logger.warning("webhook call rejected", extra={"fields": fields})
            raise RejectedWebhookError(
                "The trigger rejected the signature or credentials of this call"
            ) from error
        if error.kind == "TriggerDispatchError":
            logger.warning("webhook call not understood", extra={"fields": fields})
            raise InvokeBadRequestError(
                "The trigger did not understand this call"
            ) from error
        raise


def _delivery(request: Request) -> str:
    """Return the id that the platform gave to this delivery; empty if it gave none."""
    for name in _DELIVERY_HEADERS:
        if value := request.header(name):
            return value[:200]
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _WebhookCall:
    """A webhook call that a trigger plugin has verified."""

    plugins: Plugins
    tenant: str
    subscription: str
    plugin: str
    provider: str
    """The plugin with the name of its provider, as PLUGIN/PROVIDER."""
    common: JSON
    """Data that the plugin needs for each event of the call."""
    delivery: str
    """The platform's id of the delivery; empty if it gave none."""

    async def variables(self, event: str, parameters: JSON) -> JSON | None:
        """Return the variables of an event for these parameters, or None if the plugin
        filters the event out."""
        data = {**self.common, "event": event, "parameters": parameters}
        try:
            event_result = await self.plugins.call_once(
                self.tenant, self.plugin, "trigger", "invoke_trigger_event", data
            )
        except PluginError as error:
            # The SDK reports it as `cancelled`, plugins without it as their error.
            if error.kind == _IGNORED:
                return None
            raise
        if event_result.get("cancelled"):
            return None
        return _object_in(event_result, "variables", self.plugin)

    @contextmanager
    def logged_failure(self, event: str) -> Generator[None]:
        """Log the failure of one listener. The others are still started, and the
        platform does not repeat the call, which would start them twice."""
        try:
            yield
        except ModelyardError as error:
            fields = {
                "tenant": self.tenant,
                "subscription": self.subscription,
                "event": event,
                "error": str(error)[:500],
            }
            logger.error("event not handled", extra={"fields": fields})


def _object_in(result: JSON, name: str, plugin: str) -> JSON:
    """Return a field of a plugin's result that must be an object, empty if it is
    missing. Raises PluginError."""
    value: object = result.get(name) or {}
    if not is_object(value):
        problem = _type_problem(name, "an object", value)
        raise PluginError(problem, plugin=plugin)
    return dict(value)


def _event_names(result: JSON, plugin: str) -> list[str]:
    """Return the events that a plugin has found in a call. Raises PluginError."""
    names: object = result.get("events") or []
    if not is_array(names) or not all(isinstance(name, str) for name in names):
        problem = _type_problem("events", "a list of names", names)
        raise PluginError(problem, plugin=plugin)
    return list(names)


def _type_problem(field: str, expected: str, value: object) -> str:
    """Return what is wrong with a field of a plugin's result."""
    must = f"must be {expected}, not {short_repr(value)}"
    return f"'{field}' of the plugin's result {must}"


def _reply_from_raw(raw: Any, plugin: str) -> Reply:
    """Parse a raw HTTP response in hexadecimal and return it as a reply. An absent one
    means an empty 200."""
    data = decode_hex(raw) if raw else b"HTTP/1.1 200 OK\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, header_block = head.partition(b"\r\n")
    _, _, status_text = line.partition(b" ")
    status = response_status(status_text.split(b" ", 1)[0].decode("latin-1"), plugin)
    sent = outgoing(
        BytesParser().parsebytes(header_block + b"\r\n\r\n").items(), plugin
    )
    headers = {name.decode(): value.decode("latin-1") for name, value in sent}
    # `outgoing` always sets a content type; Reply takes it separately from the other
    # headers.
    content_type = headers.pop("content-type")
    return Reply(
        body,
        status=status,
        content_type=content_type.encode("latin-1"),
        headers=headers,
    )
