"""What plugins declare, with the addresses of their pictures."""

import hashlib
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall
from modelyard.gateway.tenant_content import FILE
from modelyard.models.types import JSON

_ICONS = ("icon", "icon_dark", "icon_small", "icon_large", "icon_small_dark", "icon_large_dark")


def shown(identifier: str, document: JSON) -> JSON:
    """With the addresses of icons in the place of their files' names."""
    return {name: _with_icons(value, identifier) if name in _ICONS or isinstance(value, dict) else value
            for name, value in document.items()}  # fmt: skip


async def asset(call: DaemonCall) -> Reply:
    name = call.request.names["asset"]
    for one in call.parts.plugins.installed(call.tenant):
        for file in _icons(one.declaration.document):
            if asset_id(one.identifier, file) == name:
                kind = b"image/svg+xml" if file.endswith(".svg") else b"application/octet-stream"
                return Reply(
                    call.parts.plugins.asset(call.tenant, one.plugin_id, file), content_type=kind, headers=FILE
                )
    raise NotFoundError(f"asset {name!r} does not exist")


def asset_id(identifier: str, name: str) -> str:
    digest = hashlib.sha256(f"{identifier}\n{name}".encode()).hexdigest()
    return digest + (f".{name.rpartition('.')[2]}" if "." in name else "")


def _with_icons(value: Any, identifier: str, *, is_icon: bool = True) -> Any:
    if isinstance(value, str):
        return asset_id(identifier, value) if is_icon and value and not value.startswith("http") else value
    if isinstance(value, list):
        return [_with_icons(one, identifier, is_icon=False) for one in value]
    if isinstance(value, dict):
        return {
            name: _with_icons(one, identifier, is_icon=True) if name in _ICONS and isinstance(one, str)
            else {each: asset_id(identifier, str(file)) for each, file in one.items() if file}
            if name in _ICONS and isinstance(one, dict)
            else _with_icons(one, identifier, is_icon=False)
            for name, one in value.items()
        }  # fmt: skip
    return value


def _icons(document: Any) -> list[str]:
    """The files that a declaration names as icons."""
    if isinstance(document, list):
        return [name for one in document for name in _icons(one)]
    if not isinstance(document, dict):
        return []
    found: list[str] = []
    for name, value in document.items():
        if name in _ICONS and value:
            found += [str(one) for one in value.values()] if isinstance(value, dict) else [str(value)]
        else:
            found += _icons(value)
    return found
