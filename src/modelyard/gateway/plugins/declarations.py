"""Plugin declarations, with asset ids in place of their icon files."""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any

from modelyard.base.errors import NotFoundError
from modelyard.base.json_types import is_array, is_object
from modelyard.gateway.http import Reply
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


_MAX_PACKAGES = 200
"""Packages that are searched for an icon, the newest ones."""


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
                return Reply(
                    call.parts.plugins.asset(call.tenant, plugin.plugin_id, file),
                    content_type=_media_type(file),
                    headers=FILE_HEADERS,
                )
    # Clients show the icon of a package before it is installed.
    if (icon := await asyncio.to_thread(_icon_of_package, call, name)) is not None:
        return icon
    raise NotFoundError(f"Asset {name!r} does not exist")


def _icon_of_package(call: DaemonCall, name: str) -> Reply | None:
    """Return an icon of a stored package by its asset id; None if there is none."""
    packages = call.parts.host.packages
    for identifier in packages.identifiers()[:_MAX_PACKAGES]:
        for file in _icons(packages.declaration(identifier).document):
            data = packages.package(identifier).files.get(f"_assets/{file}")
            if asset_id(identifier, file) == name and data is not None:
                return Reply(data, content_type=_media_type(file), headers=FILE_HEADERS)
    return None


def _media_type(file: str) -> bytes:
    """Return the content type of an icon file."""
    return b"image/svg+xml" if file.endswith(".svg") else b"application/octet-stream"


def asset_id(identifier: str, name: str) -> str:
    """Return the id of an asset: a digest of plugin and file name, with the file's
    extension."""
    digest = hashlib.sha256(f"{identifier}\n{name}".encode()).hexdigest()
    return digest + (f".{name.rpartition('.')[2]}" if "." in name else "")


def _with_icons(value: Any, identifier: str, *, is_icon: bool = True) -> Any:
    """Replace icon files in a value by asset ids, recursively. URLs stay as they are."""
    if isinstance(value, str):
        is_file = is_icon and value and not value.startswith("http")
        return asset_id(identifier, value) if is_file else value
    if is_array(value):
        return [_with_icons(element, identifier, is_icon=False) for element in value]
    if is_object(value):
        return {
            name: _member_with_icons(name, member, identifier)
            for name, member in value.items()
        }
    return value


def _member_with_icons(name: str, member: Any, identifier: str) -> Any:
    """Replace the icon files in one member of an object.

    An icon is a file name, or an object with a file for each variant; everything else
    is searched further.
    """
    if name in _ICONS and is_object(member):
        files = {variant: str(file) for variant, file in member.items() if file}
        return {variant: asset_id(identifier, files[variant]) for variant in files}
    is_icon = name in _ICONS and isinstance(member, str)
    return _with_icons(member, identifier, is_icon=is_icon)


def _icons(document: Any) -> list[str]:
    """Return the files that a declaration names as icons."""
    if is_array(document):
        return [name for element in document for name in _icons(element)]
    if not is_object(document):
        return []
    files: list[str] = []
    for name, value in document.items():
        if name in _ICONS and value:
            files += _icon_files(value)
        else:
            files += _icons(value)
    return files


def _icon_files(icon: Any) -> list[str]:
    """Return the files of one icon: one for each variant if it is an object."""
    variants: Iterable[Any] = icon.values() if is_object(icon) else (icon,)
    return [str(file) for file in variants]
