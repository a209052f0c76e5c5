"""Triggers of real plugins: subscriptions by hand and by construction, and signed and
unsigned calls of their webhooks."""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx

from tools.show.driven_models import GOOD_KEY, expect
from tools.show.played_services import webhook_secrets

GITHUB = "triggers/github_trigger"
_SECRET = "shared-by-hand"
_OPENED = {
    "action": "opened",
    "issue": {"number": 1, "title": "The fountain is dry"},
    "repository": {"full_name": "ada/town"},
    "sender": {"id": 1, "login": "ada"},
}


class Gateway(Protocol):
    """A running gateway."""

    client: httpx.Client

    def install(self, folder: Path) -> Any:
        """Pack and install a plugin."""
        ...

    def uninstall(self, plugin: str) -> None:
        """Remove a plugin."""
        ...


def trigger_checks(
    gateway: Gateway, folder: Path
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of GitHub's trigger."""
    installed = gateway.install(folder / GITHUB)
    plugin = installed.plugin_id

    def by_hand() -> None:
        """A person enters the address and the secret at the service."""
        fields: dict[str, Any] = {"properties": {"webhook_secret": _SECRET}}
        address = _subscribe(gateway, plugin, "by hand", fields)
        _call_webhook(gateway, address, _SECRET)

    def by_construction() -> None:
        """The plugin creates the webhook at the service, with a secret of its own."""
        fields = {
            "parameters": {"repository": "ada/town", "events": ["issues"]},
            "credentials": {"access_tokens": GOOD_KEY},
        }
        address = _subscribe(gateway, plugin, "constructed", fields)
        _call_webhook(gateway, address, webhook_secrets[-1])

    try:
        yield "subscription by hand", by_hand
        yield "subscription by construction", by_construction
    finally:
        gateway.uninstall(plugin)


def _subscribe(
    gateway: Gateway, plugin: str, name: str, fields: Mapping[str, Any]
) -> str:
    """Subscribe and return the address of the webhook."""
    body = {"plugin": plugin, "name": name, **fields}
    created = gateway.client.post("/admin/v1/subscriptions", json=body)
    expect(created.status_code == 201, created.text)
    return str(created.json()["address"])


def _call_webhook(gateway: Gateway, address: str, secret: str) -> None:
    """Deliver an event with the right signature, a wrong one and none."""
    content = json.dumps(_OPENED).encode()
    digest = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    expected = {f"sha256={digest}": 200, f"sha256={'0' * 64}": 401, "": 401}
    for signature, status in expected.items():
        headers = {"x-github-event": "issues", "content-type": "application/json"}
        headers |= {"x-hub-signature-256": signature} if signature else {}
        sent = gateway.client.post(address, content=content, headers=headers)
        expect(sent.status_code == status, f"{sent.status_code} {sent.text}")
