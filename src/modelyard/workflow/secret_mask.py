"""Masks an app's secrets in what is recorded of a run.

A secret reaches prompts and requests in the clear, because that is what it is for. The
inputs, the process data and the errors of nodes are read by people and by clients.
"""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

from modelyard.base.json_types import is_array, is_mapping
from modelyard.workflow.events import AnyEvent
from modelyard.workflow.variables import Secret, VariablePool, masked

_MIN_LENGTH = 4
"""Shorter secrets are part of too many words to be replaced everywhere."""


class SecretMask:
    """Replaces the secrets of one run in texts, also where they are written as part of
    a URL or of JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        masks: dict[str, str] = {}
        for secret in secrets:
            if len(secret) >= _MIN_LENGTH:
                masks |= dict.fromkeys(_forms(secret), masked(secret))
        # Longer ones first: one secret may be the start of another.
        self._masks = sorted(masks.items(), key=lambda pair: len(pair[0]), reverse=True)

    @classmethod
    def of(cls, pool: VariablePool) -> "SecretMask":
        """Return the mask for the secret variables of a pool."""
        return cls(
            str.__str__(value)
            for _, _, value in pool.items()
            if isinstance(value, Secret)
        )

    def text(self, text: str) -> str:
        """Return a text with masked secrets."""
        for secret, mask in self._masks:
            if secret in text:
                text = text.replace(secret, mask)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with masked secrets in its texts."""
        if not self._masks:
            return value
        if isinstance(value, str):
            return self.text(value)
        if is_mapping(value):
            return {key: self.value(element) for key, element in value.items()}
        if is_array(value):
            return [self.value(element) for element in value]
        return value

    def event(self, event: AnyEvent) -> AnyEvent:
        """Return an event with masked secrets in all its fields."""
        if not self._masks:
            return event
        fields = {
            name: self.value(getattr(event, name)) for name in event.__struct_fields__
        }
        return msgspec.structs.replace(event, **fields)


def _forms(secret: str) -> set[str]:
    """Return the ways in which a secret is written in texts, URLs and JSON."""
    return {
        secret,
        # Paths keep a slash, queries do not, and forms write a blank as `+`.
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        # The quotes are left out, since a secret may be part of a longer text.
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }
