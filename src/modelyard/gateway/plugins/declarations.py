"""Plugin declarations, with asset ids in place of their icon files."""

import hashlib
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall
from modelyard.gateway.tenant_content import FILE_HEADERS
from modelyard.models.types import JSON

_ICONS = (
    "icon",
    "icon_dark",
    "icon_small",
    "icon_large",
    "icon_small_dark",
    "icon_large_dark",
)


def with_asset_ids(identifier: str, document: JSON) -> JSON:
    """Return a declaration with its icon files replaced by asset ids."""
    return {
        name: _with_icons(value, identifier)
        if name in _ICONS or isinstance(value, dict)
        else value
        for name, value in document.items()
    }


async def asset(call: DaemonCall) -> Reply:
    """GET asset/ID: return an icon of an installed plugin.

    Raises NotFoundError.
    """
    name = call.request.names["asset"]
    for plugin in call.parts.plugins.installed(call.tenant):
        # An id is a digest and cannot be reversed, so all icons of the tenant's plugins
        # are compared.
        for file in _icons(plugin.declaration.document):
            if asset_id(plugin.identifier, file) == name:
                content_type = (
                    b"image/svg+xml"
                    if file.endswith(".svg")
                    else b"application/octet-stream"
                )
                return Reply(
                    call.parts.plugins.asset(call.tenant, plugin.plugin_id, file),
                    content_type=content_type,
                    headers=FILE_HEADERS,
                )
    raise NotFoundError(f"asset {name!r} does not exist")


def asset_id(identifier: str, name: str) -> str:
    """Return the id of an asset: a digest of plugin and file name, with the file's
    extension."""
    digest = hashlib.sha256(f"{identifier}\n{name}".encode()).hexdigest()
    return digest + (f".{name.rpartition('.')[2]}" if "." in name else "")


def _with_icons(value: Any, identifier: str, *, is_icon: bool = True) -> Any:
    """Replace icon files in a value by asset ids, recursively. URLs stay as they are."""
    if isinstance(value, str):
        return (
            asset_id(identifier, value)
            if is_icon and value and not value.startswith("http")
            else value
        )
    if isinstance(value, list):
        return [_with_icons(element, identifier, is_icon=False) for element in value]
    if isinstance(value, dict):
        return {
            # An icon is a file name, or an object with a file for each variant;
            # everything else is searched further.
            name: _with_icons(member, identifier, is_icon=True)
            if name in _ICONS and isinstance(member, str)
            else {
                variant: asset_id(identifier, str(file))
                for variant, file in member.items()
                if file
            }
            if name in _ICONS and isinstance(member, dict)
            else _with_icons(member, identifier, is_icon=False)
            for name, member in value.items()
        }
    return value


def _icons(document: Any) -> list[str]:
    """Return the files that a declaration names as icons."""
    if isinstance(document, list):
        return [name for element in document for name in _icons(element)]
    if not isinstance(document, dict):
        return []
    files: list[str] = []
    for name, value in document.items():
        if name in _ICONS and value:
            files += (
                [str(file_name) for file_name in value.values()]
                if isinstance(value, dict)
                else [str(value)]
            )
        else:
            files += _icons(value)
    return files
