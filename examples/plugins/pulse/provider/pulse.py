import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

from dify_plugin.entities.provider_config import CredentialType
from dify_plugin.entities.trigger import EventDispatch, Subscription, UnsubscribeResult
from dify_plugin.errors.trigger import (
    SubscriptionError,
    TriggerDispatchError,
    TriggerProviderCredentialValidationError,
    TriggerValidationError,
)
from dify_plugin.interfaces.trigger import Trigger, TriggerSubscriptionConstructor
from werkzeug import Request, Response


class PulseTrigger(Trigger):
    def _dispatch_event(
        self, subscription: Subscription, request: Request
    ) -> EventDispatch:
        self._verify(subscription.properties.get("secret"), request)
        body = request.get_json(force=True, silent=True)
        if isinstance(body, dict) and "challenge" in body:
            # The sender asks whether the address is the right one.
            return EventDispatch(events=[], response=Response(body["challenge"]))
        if not isinstance(body, dict) or "beat" not in body:
            raise TriggerDispatchError("the body must hold a beat")
        answer = Response("heard", status=202, content_type="text/plain")
        return EventDispatch(events=["beat"], response=answer, payload=body)

    def _verify(self, secret: str | None, request: Request) -> None:
        if not secret:
            return
        expected = hmac.new(secret.encode(), request.get_data(), hashlib.sha256)
        sent = request.headers.get("X-Pulse-Signature", "")
        if not hmac.compare_digest(sent, expected.hexdigest()):
            raise TriggerValidationError("the signature is not that of the secret")


class PulseConstructor(TriggerSubscriptionConstructor):
    def _validate_api_key(self, credentials: Mapping[str, Any]) -> None:
        if credentials.get("token") == "wrong":
            raise TriggerProviderCredentialValidationError("this token is refused")

    def _create_subscription(
        self,
        endpoint: str,
        parameters: Mapping[str, Any],
        credentials: Mapping[str, Any],
        credential_type: CredentialType,
    ) -> Subscription:
        if credentials.get("token") == "wrong":
            raise SubscriptionError("this token is refused", error_code="REFUSED")
        return Subscription(
            expires_at=int(time.time()) + 86_400,
            endpoint=endpoint,
            parameters=parameters,
            properties={"room": parameters.get("room")},
        )

    def _delete_subscription(
        self,
        subscription: Subscription,
        credentials: Mapping[str, Any],
        credential_type: CredentialType,
    ) -> UnsubscribeResult:
        return UnsubscribeResult(success=True, message="gone")

    def _refresh_subscription(
        self,
        subscription: Subscription,
        credentials: Mapping[str, Any],
        credential_type: CredentialType,
    ) -> Subscription:
        return subscription.model_copy(update={"expires_at": int(time.time()) + 86_400})
