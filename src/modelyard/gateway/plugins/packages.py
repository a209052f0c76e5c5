"""Handlers for plugin packages: upload, installation, upgrade and removal, and the
tasks that track them."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import (
    DaemonCall,
    names_in,
    succeeded,
    text_in,
)
from modelyard.gateway.plugins.daemon_documents import declaration_of, timestamp
from modelyard.gateway.plugins.declarations import asset_id
from modelyard.models.types import JSON
from modelyard.plugins.manifest import localized_text
from modelyard.storage.resources import Resource
from modelyard.tenancy.resource_types import PluginTask
from modelyard.tenant_plugins.grants import ALL_REQUESTS
from modelyard.tenant_plugins.packages import Installer


def _installer(allows_unsigned: bool) -> Installer:
    """Return the installer's rights: a client with the daemon's key acts as the
    operator, for any tenant."""
    return Installer(is_operator=True, allows_unsigned=allows_unsigned)


async def _uploaded(
    call: DaemonCall, field: str, description: str
) -> tuple[bytes, Mapping[str, str]]:
    """Return (file content, other form fields). `description` names the file in error
    messages."""
    sent, fields = file_form(
        call.request.header(b"content-type") or "",
        await call.request.body(),
        description=description,
        file=field,
    )
    return sent.data, fields


async def upload_package(call: DaemonCall) -> Reply:
    """Store an uploaded package and return its identifier and manifest. Does not
    install it."""
    data, fields = await _uploaded(call, "dify_pkg", "the package")
    # Forms carry text only; flags are the literal text "true".
    must = fields.get("verify_signature") == "true"
    by = _installer(fields.get("unsigned") == "true")
    package, verification = await call.parts.packages.upload(
        data, by, verify_signature=must
    )
    declaration = call.parts.host.packages.declaration(str(package.identifier))
    return succeeded(
        {
            "unique_identifier": str(package.identifier),
            "manifest": declaration_of(str(package.identifier), declaration.document),
            "verification": {"authorized_category": verification.category}
            if verification
            else None,
        }
    )


async def upload_bundle(call: DaemonCall) -> Reply:
    """Store all packages of an uploaded bundle and return their identifiers and
    manifests."""
    data, fields = await _uploaded(call, "dify_bundle", "the bundle")
    must = fields.get("verify_signature") == "true"
    by = _installer(fields.get("unsigned") == "true")
    packages = await call.parts.packages.upload_bundle(data, by, verify_signature=must)
    return succeeded(
        [
            {
                "type": "package",
                "value": {
                    "unique_identifier": str(package.identifier),
                    "manifest": declaration_of(
                        str(package.identifier),
                        call.parts.host.packages.declaration(
                            str(package.identifier)
                        ).document,
                    ),
                },
            }
            for package in packages
        ]
    )


async def install(call: DaemonCall) -> Reply:
    """Start installing packages and return the task that tracks it.

    `all_installed` is true if nothing was left to do. Raises InvokeBadRequestError if
    `metas` does not match the plugins.
    """
    body = await call.request.json()
    identifiers = names_in(body, "plugin_unique_identifiers")
    metas: list[Any] = body.get("metas") or []
    # `metas` are matched to the identifiers by position.
    if metas and len(metas) != len(identifiers):
        raise InvokeBadRequestError(
            "'metas' must have one entry per plugin", param="metas"
        )
    task, is_installed = await call.parts.installations.install(
        call.tenant,
        identifiers,
        _installer(body.get("unsigned") is True),
        source=str(body.get("source") or "package"),
        metas=metas,
        grant=ALL_REQUESTS,
    )
    return succeeded({"all_installed": is_installed, "task_id": task})


async def upgrade(call: DaemonCall) -> Reply:
    """Start upgrading a plugin from one package to another and return the task."""
    body = await call.request.json()
    task = await call.parts.installations.upgrade(
        call.tenant,
        text_in(body, "original_plugin_unique_identifier"),
        text_in(body, "new_plugin_unique_identifier"),
        _installer(body.get("unsigned") is True),
        source=str(body.get("source") or "package"),
        meta=body.get("meta") or {},
    )
    return succeeded({"all_installed": False, "task_id": task})


async def list_tasks(call: DaemonCall) -> Reply:
    """Return one page of the tenant's installation tasks."""
    return succeeded(
        [
            _task(*pair)
            for pair in call.page(await call.parts.installations.tasks(call.tenant))
        ]
    )


async def delete_tasks(call: DaemonCall) -> Reply:
    """Delete all installation tasks of the tenant. Installed plugins are not affected."""
    for resource, _ in await call.parts.installations.tasks(call.tenant):
        await call.parts.installations.forget_task(call.tenant, resource.id)
    return succeeded(True)


async def get_task(call: DaemonCall) -> Reply:
    """Return one installation task. Raises NotFoundError if it does not exist."""
    return succeeded(
        _task(
            *await call.parts.installations.task(
                call.tenant, call.request.names["task"]
            )
        )
    )


async def delete_task(call: DaemonCall) -> Reply:
    """Delete one installation task."""
    await call.parts.installations.forget_task(call.tenant, call.request.names["task"])
    return succeeded(True)


async def uninstall(call: DaemonCall) -> Reply:
    """Uninstall a plugin from the tenant by the id of its installation."""
    body = await call.request.json()
    await call.parts.installations.uninstall(
        call.tenant, text_in(body, "plugin_installation_id")
    )
    return succeeded(True)


def _task(resource: Resource, task: PluginTask) -> JSON:
    """Return a task as clients of the plugin daemon's API read it."""
    # A failed plugin counts as completed: no more work will be done for it.
    finished_plugins = [
        plugin for plugin in task.plugins if plugin["status"] in ("success", "failed")
    ]
    return {
        "id": resource.id,
        "status": task.status,
        "total_plugins": len(task.plugins),
        "completed_plugins": len(finished_plugins),
        "plugins": [_with_icon(plugin) for plugin in task.plugins],
        "created_at": timestamp(resource.created_at),
        "updated_at": timestamp(resource.updated_at),
    }


def _with_icon(step: JSON) -> JSON:
    """Return a step with the asset id of the plugin's icon, and its label in
    languages."""
    icon = str(step.get("icon") or "")
    identifier = str(step["plugin_unique_identifier"])
    return {
        **step,
        "icon": asset_id(identifier, icon) if icon else "",
        "labels": localized_text(step.get("labels")),
    }
