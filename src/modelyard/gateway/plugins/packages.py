"""Packages of plugins: handed in, installed, upgraded, removed."""

from collections.abc import Mapping
from typing import Any

from modelyard.base.errors import InvokeBadRequestError
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import (
    Reply,
)
from modelyard.gateway.plugins.daemon_calls import DaemonCall, names_in, succeeded, text_in
from modelyard.gateway.plugins.declarations import shown
from modelyard.models.types import JSON
from modelyard.storage.resources import Resource
from modelyard.tenant_plugins.packages import Installer


def _installer(allows_unsigned: bool) -> Installer:
    """Who shows the key of the interface is a program of the operator's, for whichever tenant it acts."""
    return Installer(is_operator=True, allows_unsigned=allows_unsigned)


async def _uploaded(call: DaemonCall, field: str, what: str) -> tuple[bytes, Mapping[str, str]]:
    """(file, the form's other fields)."""
    sent, fields = file_form(
        call.request.header(b"content-type") or "", await call.request.body(), what=what, file=field
    )
    return sent.data, fields


async def upload_package(call: DaemonCall) -> Reply:
    data, fields = await _uploaded(call, "dify_pkg", "the package")
    must = fields.get("verify_signature") == "true"
    by = _installer(fields.get("unsigned") == "true")
    package, verification = await call.parts.packages.upload(data, by, verify_signature=must)
    declaration = call.parts.host.packages.declaration(str(package.identifier))
    return succeeded({
        "unique_identifier": str(package.identifier),
        "manifest": shown(str(package.identifier), declaration.document),
        "verification": {"authorized_category": verification.category} if verification else None,
    })  # fmt: skip


async def upload_bundle(call: DaemonCall) -> Reply:
    data, fields = await _uploaded(call, "dify_bundle", "the bundle")
    must = fields.get("verify_signature") == "true"
    by = _installer(fields.get("unsigned") == "true")
    packages = await call.parts.packages.upload_bundle(data, by, verify_signature=must)
    return succeeded([
        {
            "type": "package",
            "value": {
                "unique_identifier": str(one.identifier),
                "manifest": call.parts.host.packages.declaration(str(one.identifier)).document,
            },
        }
        for one in packages
    ])  # fmt: skip


async def install(call: DaemonCall) -> Reply:
    body = await call.request.json()
    identifiers = names_in(body, "plugin_unique_identifiers")
    metas = body.get("metas") or []
    if metas and len(metas) != len(identifiers):
        raise InvokeBadRequestError("'metas' must be as many as the plugins", param="metas")
    task, is_done = await call.parts.installations.install(
        call.tenant, identifiers, _installer(body.get("unsigned") is True),
        source=str(body.get("source") or "package"), metas=metas,
    )  # fmt: skip
    return succeeded({"all_installed": is_done, "task_id": task})


async def upgrade(call: DaemonCall) -> Reply:
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


async def tasks(call: DaemonCall) -> Reply:
    return succeeded([_task(*pair) for pair in call.page(await call.parts.installations.tasks(call.tenant))])


async def delete_tasks(call: DaemonCall) -> Reply:
    for resource, _ in await call.parts.installations.tasks(call.tenant):
        await call.parts.installations.forget_task(call.tenant, resource.id)
    return succeeded(True)


async def one_task(call: DaemonCall) -> Reply:
    return succeeded(_task(*await call.parts.installations.task(call.tenant, call.request.names["task"])))


async def delete_task(call: DaemonCall) -> Reply:
    await call.parts.installations.forget_task(call.tenant, call.request.names["task"])
    return succeeded(True)


async def uninstall(call: DaemonCall) -> Reply:
    body = await call.request.json()
    await call.parts.installations.uninstall(call.tenant, text_in(body, "plugin_installation_id"))
    return succeeded(True)


def _task(resource: Resource, task: Any) -> JSON:
    done = [one for one in task.plugins if one["status"] in ("success", "failed")]
    return {
        "id": resource.id,
        "status": task.status,
        "total_plugins": len(task.plugins),
        "completed_plugins": len(done),
        "plugins": task.plugins,
        "created_at": resource.created_at,
        "updated_at": resource.updated_at,
    }
