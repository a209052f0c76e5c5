"""/plugin/TENANT/…: the interface of the plugins' usual daemon, for programs that speak to one.

Shown an internal key in `x-api-key`, from this machine unless the settings open it. Calls are the plugin's own, in its
own words: nothing here is counted or balanced, as the caller does that.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from modelyard.base.errors import InvokeBadRequestError, ModelyardError, NotFoundError, PluginError
from modelyard.base.fields import whole_number
from modelyard.gateway.auth import UnauthorizedError
from modelyard.gateway.errors import error_headers
from modelyard.gateway.forms import file_form
from modelyard.gateway.http import (
    RefusedError,
    Reply,
    Request,
    ServerBusyError,
    ServerStoppingError,
    StreamReply,
    encode,
    json_reply,
    sse_reply,
)
from modelyard.gateway.plugins.parts import PluginParts
from modelyard.gateway.table import ErrorShape, MethodNotAllowedError
from modelyard.gateway.tenant_content import FILE
from modelyard.models.types import JSON
from modelyard.plugins.identity import PluginIdentifier
from modelyard.runtime.caller import ForbiddenError
from modelyard.runtime.plugin_packages import Installer
from modelyard.runtime.plugins import Installed
from modelyard.runtime.tenancy import PluginEndpoint
from modelyard.storage.resources import Resource

PREFIX = "/plugin/"
ACTIONS: Mapping[str, tuple[str, str]] = {
    "tool/invoke": ("tool", "invoke_tool"),
    "tool/validate_credentials": ("tool", "validate_tool_credentials"),
    "tool/get_runtime_parameters": ("tool", "get_tool_runtime_parameters"),
    "agent_strategy/invoke": ("agent_strategy", "invoke_agent_strategy"),
    "llm/invoke": ("model", "invoke_llm"),
    "llm/num_tokens": ("model", "get_llm_num_tokens"),
    "text_embedding/invoke": ("model", "invoke_text_embedding"),
    "text_embedding/num_tokens": ("model", "get_text_embedding_num_tokens"),
    "multimodal_embedding/invoke": ("model", "invoke_multimodal_embedding"),
    "rerank/invoke": ("model", "invoke_rerank"),
    "multimodal_rerank/invoke": ("model", "invoke_multimodal_rerank"),
    "tts/invoke": ("model", "invoke_tts"),
    "tts/model/voices": ("model", "get_tts_model_voices"),
    "speech2text/invoke": ("model", "invoke_speech2text"),
    "moderation/invoke": ("model", "invoke_moderation"),
    "model/validate_provider_credentials": ("model", "validate_provider_credentials"),
    "model/validate_model_credentials": ("model", "validate_model_credentials"),
    "model/schema": ("model", "get_ai_model_schemas"),
    "model/polling/start": ("model", "start_polling"),
    "model/polling/check": ("model", "check_polling"),
    "oauth/get_authorization_url": ("oauth", "get_authorization_url"),
    "oauth/get_credentials": ("oauth", "get_credentials"),
    "oauth/refresh_credentials": ("oauth", "refresh_credentials"),
    "dynamic_select/fetch_parameter_options": ("dynamic_parameter", "fetch_parameter_options"),
    "datasource/validate_credentials": ("datasource", "validate_datasource_credentials"),
    "datasource/get_website_crawl": ("datasource", "invoke_website_datasource_get_crawl"),
    "datasource/get_online_document_pages": ("datasource", "invoke_online_document_datasource_get_pages"),
    "datasource/get_online_document_page_content": (
        "datasource",
        "invoke_online_document_datasource_get_page_content",
    ),
    "datasource/online_drive_browse_files": ("datasource", "invoke_online_drive_browse_files"),
    "datasource/online_drive_download_file": ("datasource", "invoke_online_drive_download_file"),
    "trigger/invoke_event": ("trigger", "invoke_trigger_event"),
    "trigger/validate_credentials": ("trigger", "validate_trigger_credentials"),
    "trigger/dispatch_event": ("trigger", "dispatch_trigger_event"),
    "trigger/subscribe": ("trigger", "subscribe_trigger"),
    "trigger/unsubscribe": ("trigger", "unsubscribe_trigger"),
    "trigger/refresh": ("trigger", "refresh_trigger"),
}
"""What stands behind `dispatch/` → type and action of the plugins' protocol."""
_WHOLE = ("start_polling", "check_polling")
"""Actions that are answered at once, not as events."""
_MODEL_TYPES = {
    "llm": "llm", "text_embedding": "text-embedding", "multimodal_embedding": "text-embedding", "rerank": "rerank",
    "multimodal_rerank": "rerank", "tts": "tts", "speech2text": "speech2text", "moderation": "moderation",
}  # fmt: skip
_CARRIED = ("conversation_id", "message_id", "app_id", "endpoint_id", "context")
_PART_OF = {
    "models": "model", "tools": "tool", "agent_strategies": "agent_strategy", "datasources": "datasource",
    "triggers": "trigger",
}  # fmt: skip
_ICONS = ("icon", "icon_dark", "icon_small", "icon_large", "icon_small_dark", "icon_large_dark")


def succeeded(data: Any) -> Reply:
    return json_reply({"code": 0, "message": "success", "data": data})


def failure(error: ModelyardError) -> JSON:
    """An error in the daemon's words: JSON in JSON."""
    if isinstance(error, PluginError) and error.kind:
        told = {"args": {}, "error_type": error.kind, "message": _bare(error)}
        return _failed(-500, _json(told), "PluginInvokeError")
    code, kind = next(
        (pair for one, pair in _KINDS.items() if isinstance(error, one)), (-500, "PluginDaemonInternalServerError")
    )
    return _failed(code, str(error), kind)


_KINDS: Mapping[type[ModelyardError], tuple[int, str]] = {
    UnauthorizedError: (-401, "PluginDaemonUnauthorizedError"),
    ForbiddenError: (-403, "PluginPermissionDeniedError"),
    NotFoundError: (-404, "PluginDaemonNotFoundError"),
    InvokeBadRequestError: (-400, "PluginDaemonBadRequestError"),
    ServerBusyError: (-500, "PluginDaemonInternalServerError"),
    ServerStoppingError: (-500, "PluginDaemonInternalServerError"),
    RefusedError: (-400, "PluginDaemonBadRequestError"),
    PluginError: (-500, "PluginInvokeError"),
    MethodNotAllowedError: (-400, "PluginDaemonBadRequestError"),
}


def _installer(allows_unsigned: bool) -> Installer:
    """Who shows the key of the interface is a program of the operator's, for whichever tenant it acts."""
    return Installer(is_operator=True, allows_unsigned=allows_unsigned)


def _bare(error: PluginError) -> str:
    return str(error).removeprefix(f"plugin {error.plugin!r}: ")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _failed(code: int, message: str, kind: str) -> JSON:
    return {"code": code, "message": _json({"message": message, "error_type": kind, "args": None}), "data": None}


_STATUS = {-401: 401, -403: 403, -404: 404, -400: 400}


def failure_reply(error: ModelyardError, request_id: str = "") -> Reply:
    """An error as callers of the daemon read it."""
    del request_id  # it stands in a header; the body has no place for it
    document = failure(error)
    stated = getattr(error, "status", None)
    status = stated if isinstance(stated, int) else _STATUS.get(document["code"], 500)
    return json_reply(document, status=status, headers=error_headers(error))


DAEMON = ErrorShape(
    failure_reply,
    {
        "type": "object",
        "required": ["code", "message", "data"],
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "data": {"type": "null"}},
    },
)


@dataclass(frozen=True, slots=True)
class Route:
    """All of it; what comes after the tenant decides."""

    admits_itself: ClassVar[bool] = True
    parts: PluginParts
    key: str
    is_open: bool
    origin: Callable[[], str]

    async def __call__(self, request: Request) -> Reply | StreamReply:
        try:
            self._admit(request)
            tenant, _, path = request.path.removeprefix(PREFIX).partition("/")
            self.parts.plugins.check_tenant(tenant)
            if path.startswith("dispatch/"):
                return await self._dispatch(request, tenant, path.removeprefix("dispatch/"))
            return await _Management(self.parts, tenant, request, self.origin()).answer(path)
        except ModelyardError as error:
            return failure_reply(error)

    def _admit(self, request: Request) -> None:
        """Raises UnauthorizedError."""
        client = request.scope.get("client")
        if not self.is_open and client is not None and not ipaddress.ip_address(client[0]).is_loopback:
            raise UnauthorizedError("the plugins' interface answers this machine alone; see plugins.open_interface")
        shown = request.header(b"x-api-key") or ""
        if not hmac.compare_digest(shown.encode(), self.key.encode()):
            raise UnauthorizedError("'x-api-key' does not hold the key of the plugins' interface")
        request.payer = request.path.removeprefix(PREFIX).partition("/")[0]

    async def _dispatch(self, request: Request, tenant: str, path: str) -> Reply | StreamReply:
        """One action of a plugin, its answers as events. Raises NotFoundError."""
        found = ACTIONS.get(path)
        if found is None:
            raise NotFoundError(f"there is no action {path!r}; there are {', '.join(ACTIONS)}")
        kind, action = found
        plugin = request.header(b"x-plugin-id")
        if not plugin:
            raise InvokeBadRequestError("'x-plugin-id' must name the plugin as author/name")
        self.parts.plugins.find(tenant, plugin)
        body = await request.json()
        data = body.get("data")
        if not isinstance(data, dict):
            raise InvokeBadRequestError("'data' must hold the action's fields", param="data")
        data = _checked(path, data)
        more = {name: body[name] for name in _CARRIED if body.get(name) is not None}
        user = str(body.get("user_id") or "")
        answers = self.parts.plugins.call(tenant, plugin, kind, action, data, user=user, more=more)
        if action in _WHOLE:
            async with aclosing(answers):
                return succeeded(await anext(answers, {}))
        return sse_reply(_events(answers), lambda error: _event(failure(error)))


async def _events(answers: AsyncGenerator[JSON, None]) -> AsyncGenerator[bytes, None]:
    """Errors are events too, the first included: the caller reads a stream whatever happens."""
    try:
        async with aclosing(answers):
            async for answer in answers:
                yield _event({"code": 0, "message": "success", "data": answer})
    except ModelyardError as error:
        yield _event(failure(error))


def _event(document: JSON) -> bytes:
    return b"data: " + encode(document) + b"\n\n"


def _checked(path: str, data: JSON) -> JSON:
    """The fields with the plugin's own word for its provider. Raises InvokeBadRequestError."""
    provider = data.get("provider")
    if isinstance(provider, str):
        data = {**data, "provider": provider.rpartition("/")[2]}
    wanted = _MODEL_TYPES.get(path.partition("/")[0])
    if wanted is not None:
        given = data.get("model_type", wanted)
        if given != wanted:
            raise InvokeBadRequestError(f"'model_type' is {given!r}; at {path!r} it is {wanted!r}", param="model_type")
        data = {**_UNSAID.get(path, {}), **data, "model_type": wanted}
    return data


_UNSAID: Mapping[str, JSON] = {
    "llm/invoke": {"model_parameters": {}, "tools": None, "stop": None, "stream": True},
    "llm/num_tokens": {"tools": None},
    "rerank/invoke": {"score_threshold": None, "top_n": None},
    "multimodal_rerank/invoke": {"score_threshold": None, "top_n": None},
    "tts/model/voices": {"language": None},
}
"""What plugins insist on and callers leave out."""


# ------------------------------------------------------------------------------------------------ management


@dataclass(slots=True)
class _Management:
    parts: PluginParts
    tenant: str
    request: Request
    origin: str

    async def answer(self, path: str) -> Reply:
        """Raises NotFoundError for what is none of the interface's addresses."""
        if path.startswith("asset/"):
            return self._asset(path.removeprefix("asset/"))
        act = _PATHS.get((self.request.method, path.rstrip("/")))
        if act is not None:
            return await act(self)
        for prefix, handle in _BELOW.items():
            if path.startswith(prefix):
                return await handle(self, path.removeprefix(prefix))
        raise NotFoundError(f"there is nothing at {path!r} of the plugins' interface")

    def _query(self, name: str) -> str:
        value = self.request.query(name)
        if not value:
            raise InvokeBadRequestError(f"{name!r} is missing in the address", param=name)
        return value

    def _page(self, items: Sequence[Any]) -> Sequence[Any]:
        page, size = max(1, self._number("page", 1)), min(256, max(1, self._number("page_size", 256)))
        return items[(page - 1) * size : page * size]

    def _number(self, name: str, default: int) -> int:
        text = self.request.query(name) or str(default)
        value = whole_number(text, maximum=999_999_999)
        if value is None:
            raise InvokeBadRequestError(f"{name!r} must be a number, not {text[:40]!r}", param=name)
        return value

    # packages

    async def _uploaded(self, field: str, what: str) -> tuple[bytes, Mapping[str, str]]:
        """(file, the form's other fields)."""
        sent, fields = file_form(
            self.request.header(b"content-type") or "", await self.request.body(), what=what, file=field
        )
        return sent.data, fields

    async def upload_package(self) -> Reply:
        data, fields = await self._uploaded("dify_pkg", "the package")
        must = fields.get("verify_signature") == "true"
        by = _installer(fields.get("unsigned") == "true")
        package, verification = await self.parts.packages.upload(data, by, verify_signature=must)
        declaration = self.parts.host.declaration(str(package.identifier))
        return succeeded({
            "unique_identifier": str(package.identifier),
            "manifest": self._shown(str(package.identifier), declaration.document),
            "verification": {"authorized_category": verification.category} if verification else None,
        })  # fmt: skip

    async def upload_bundle(self) -> Reply:
        data, fields = await self._uploaded("dify_bundle", "the bundle")
        must = fields.get("verify_signature") == "true"
        by = _installer(fields.get("unsigned") == "true")
        packages = await self.parts.packages.upload_bundle(data, by, verify_signature=must)
        return succeeded([
            {
                "type": "package",
                "value": {
                    "unique_identifier": str(one.identifier),
                    "manifest": self.parts.host.declaration(str(one.identifier)).document,
                },
            }
            for one in packages
        ])  # fmt: skip

    async def install(self) -> Reply:
        body = await self.request.json()
        identifiers = _names(body, "plugin_unique_identifiers")
        metas = body.get("metas") or []
        if metas and len(metas) != len(identifiers):
            raise InvokeBadRequestError("'metas' must be as many as the plugins", param="metas")
        task, is_done = await self.parts.installations.install(
            self.tenant, identifiers, _installer(body.get("unsigned") is True),
            source=str(body.get("source") or "package"), metas=metas,
        )  # fmt: skip
        return succeeded({"all_installed": is_done, "task_id": task})

    async def upgrade(self) -> Reply:
        body = await self.request.json()
        task = await self.parts.installations.upgrade(
            self.tenant,
            _text(body, "original_plugin_unique_identifier"),
            _text(body, "new_plugin_unique_identifier"),
            _installer(body.get("unsigned") is True),
            source=str(body.get("source") or "package"),
            meta=body.get("meta") or {},
        )
        return succeeded({"all_installed": False, "task_id": task})

    async def tasks(self) -> Reply:
        return succeeded([_task(*pair) for pair in self._page(await self.parts.installations.tasks(self.tenant))])

    async def delete_tasks(self) -> Reply:
        for resource, _ in await self.parts.installations.tasks(self.tenant):
            await self.parts.installations.forget_task(self.tenant, resource.id)
        return succeeded(True)

    async def one_task(self, rest: str) -> Reply:
        name, _, what = rest.partition("/")
        if what.startswith("delete"):
            await self.parts.installations.forget_task(self.tenant, name)
            return succeeded(True)
        return succeeded(_task(*await self.parts.installations.task(self.tenant, name)))

    async def uninstall(self) -> Reply:
        body = await self.request.json()
        await self.parts.installations.uninstall(self.tenant, _text(body, "plugin_installation_id"))
        return succeeded(True)

    # what there is

    async def listed(self) -> Reply:
        found = self.parts.plugins.installed(self.tenant)
        return succeeded({"list": [self._installation(one) for one in self._page(found)], "total": len(found)})

    async def ids(self) -> Reply:
        return succeeded([one.identifier for one in self.parts.plugins.installed(self.tenant)])

    async def batch(self) -> Reply:
        wanted = _names(await self.request.json(), "plugin_ids")
        found = [one for one in self.parts.plugins.installed(self.tenant) if one.plugin_id in wanted]
        return succeeded([self._installation(one) for one in found])

    async def missing(self) -> Reply:
        wanted = _names(await self.request.json(), "plugin_unique_identifiers")
        present = {one.identifier for one in self.parts.plugins.installed(self.tenant)}
        return succeeded([
            {"plugin_unique_identifier": one, "current_identifier": None} for one in wanted if one not in present
        ])  # fmt: skip

    async def manifest(self) -> Reply:
        identifier = self._query("plugin_unique_identifier")
        return succeeded(self._shown(identifier, self.parts.host.declaration(identifier).document))

    async def identifier(self) -> Reply:
        wanted = self._query("plugin_unique_identifier")
        return succeeded(any(one.identifier == wanted for one in self.parts.plugins.installed(self.tenant)))

    async def readme(self) -> Reply:
        package = self.parts.host.package(self._query("plugin_unique_identifier"))
        language = (self.request.query("language") or "en_US").replace("-", "_")
        text = package.files.get(f"readme/README_{language}.md", package.files.get("README.md", b""))
        return succeeded({"content": text.decode("utf-8", "replace"), "language": language})

    async def providers(self, kind: str) -> Reply:
        key = _PART_OF[kind]
        found = [one for one in self.parts.plugins.installed(self.tenant) if key in one.declaration.document]
        return succeeded([self._provider(one, key) for one in self._page(found)])

    async def one_provider(self, key: str) -> Reply:
        one = self.parts.plugins.find(self.tenant, self._query("plugin_id"))
        if key not in one.declaration.document:
            raise NotFoundError(f"{one.plugin_id!r} has no {key.replace('_', ' ')} provider")
        return succeeded(self._provider(one, key))

    async def tools_exist(self) -> Reply:
        asked = (await self.request.json()).get("provider_ids") or []
        present = {(one.plugin_id, name) for one in self.parts.plugins.installed(self.tenant)
                   for name in one.declaration.providers}  # fmt: skip
        return succeeded([(one.get("plugin_id"), one.get("provider_name")) in present for one in asked])

    async def by_category(self, category: str) -> Reply:
        name, _, word = category.partition("/")
        if word != "list":
            raise NotFoundError(f"there is nothing at {category!r} of the plugins' interface")
        found = [one for one in self.parts.plugins.installed(self.tenant) if one.declaration.manifest.category == name]
        return succeeded({"list": [self._installation(one) for one in self._page(found)], "has_more": False})

    async def debugging_key(self) -> Reply:
        return succeeded({"key": self.parts.debugged.key(self.tenant)})

    # endpoints

    async def set_up_endpoint(self) -> Reply:
        body = await self.request.json()
        plugin = PluginIdentifier.parse(_text(body, "plugin_unique_identifier")).id
        await self.parts.endpoints.set_up(
            self.tenant, plugin, _text(body, "name"), _object(body, "settings"), user=str(body.get("user_id") or "")
        )
        return succeeded(True)

    async def update_endpoint(self) -> Reply:
        body = await self.request.json()
        name = _text(body, "endpoint_id")
        known = next((one for one in self.parts.endpoints.all(self.tenant) if one[0] == name), None)
        if known is None:
            raise NotFoundError(f"endpoint {name!r} does not exist")
        await self.parts.endpoints.set_up(
            self.tenant, known[2].plugin, str(body.get("name") or known[1]), _object(body, "settings"), id=name
        )
        return succeeded(True)

    async def remove_endpoint(self) -> Reply:
        body = await self.request.json()
        await self.parts.endpoints.remove(self.tenant, _text(body, "endpoint_id"))
        return succeeded(True)

    async def enable_endpoint(self) -> Reply:
        body = await self.request.json()
        await self.parts.endpoints.enable(self.tenant, _text(body, "endpoint_id"), is_on=True)
        return succeeded(True)

    async def disable_endpoint(self) -> Reply:
        body = await self.request.json()
        await self.parts.endpoints.enable(self.tenant, _text(body, "endpoint_id"), is_on=False)
        return succeeded(True)

    async def endpoints(self) -> Reply:
        plugin = self.request.query("plugin_id")
        found = [one for one in self.parts.endpoints.all(self.tenant) if plugin in (None, one[2].plugin)]
        return succeeded({"endpoints": [self._endpoint(*one) for one in self._page(found)], "total": len(found)})

    # shapes

    def _endpoint(self, id: str, name: str, one: PluginEndpoint) -> JSON:  # noqa: A002
        declaration = self.parts.plugins.find(self.tenant, one.plugin).declaration
        return {
            "id": id,
            "name": name,
            "plugin_id": one.plugin,
            "tenant_id": self.tenant,
            "enabled": one.is_enabled,
            "hook_id": id,
            "url": f"{self.origin}/e/{id}",
            "declaration": declaration.document.get("endpoint") or {},
        }

    def _installation(self, one: Installed) -> JSON:
        manifest = one.declaration.manifest
        endpoints = [each for _, _, each in self.parts.endpoints.all(self.tenant) if each.plugin == one.plugin_id]
        return {
            "id": one.id,
            "installation_id": one.id,
            "name": manifest.name,
            "plugin_id": one.plugin_id,
            "tenant_id": self.tenant,
            "plugin_unique_identifier": one.identifier,
            "endpoints_active": sum(each.is_enabled for each in endpoints),
            "endpoints_setups": len(endpoints),
            "declaration": self._shown(one.identifier, one.declaration.document),
            "runtime_type": one.runtime,
            "version": manifest.version,
            "source": one.installation.source,
            "checksum": PluginIdentifier.parse(one.identifier).checksum,
            "meta": one.installation.meta,
        }

    def _provider(self, one: Installed, key: str) -> JSON:
        document = self._shown(one.identifier, one.declaration.document)[key]
        name = document.get("provider") or (document.get("identity") or {}).get("name")
        return {
            "provider": name,
            "plugin_id": one.plugin_id,
            "plugin_unique_identifier": one.identifier,
            "tenant_id": self.tenant,
            "declaration": document,
        }

    def _shown(self, identifier: str, document: JSON) -> JSON:
        """With the addresses of icons in the place of their files' names."""
        return {name: _with_icons(value, identifier) if name in _ICONS or isinstance(value, dict) else value
                for name, value in document.items()}  # fmt: skip

    def _asset(self, name: str) -> Reply:
        for one in self.parts.plugins.installed(self.tenant):
            for file in _icons(one.declaration.document):
                if asset_id(one.identifier, file) == name:
                    kind = b"image/svg+xml" if file.endswith(".svg") else b"application/octet-stream"
                    return Reply(
                        self.parts.plugins.asset(self.tenant, one.plugin_id, file), content_type=kind, headers=FILE
                    )
        raise NotFoundError(f"asset {name!r} does not exist")

    async def extracted(self, rest: str) -> Reply:
        package = self.parts.host.package(self._query("plugin_unique_identifier"))
        path = self._query("file_path")
        if path not in package.files:
            raise NotFoundError(f"{path!r} is not in the package")
        return Reply(package.files[path], content_type=b"application/octet-stream", headers=FILE)

    async def decoded(self) -> Reply:
        identifier = self._query("plugin_unique_identifier")
        declaration = self.parts.host.declaration(identifier)
        return succeeded({"unique_identifier": identifier, "manifest": self._shown(identifier, declaration.document)})


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


def _text(body: JSON, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvokeBadRequestError(f"{name!r} is missing", param=name)
    return value


def _object(body: JSON, name: str) -> JSON:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise InvokeBadRequestError(f"{name!r} must be an object", param=name)
    return value


def _names(body: JSON, name: str) -> list[str]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvokeBadRequestError(f"{name!r} must be a list of names", param=name)
    return value


_Act = Callable[[_Management], Awaitable[Reply]]
_M = "management/"
_PATHS: Mapping[tuple[str, str], _Act] = {
    ("POST", _M + "install/upload/package"): _Management.upload_package,
    ("POST", _M + "install/upload/bundle"): _Management.upload_bundle,
    ("POST", _M + "install/identifiers"): _Management.install,
    ("POST", _M + "install/upgrade"): _Management.upgrade,
    ("GET", _M + "install/tasks"): _Management.tasks,
    ("POST", _M + "install/tasks/delete_all"): _Management.delete_tasks,
    ("GET", _M + "decode/from_identifier"): _Management.decoded,
    ("GET", _M + "fetch/manifest"): _Management.manifest,
    ("GET", _M + "fetch/identifier"): _Management.identifier,
    ("GET", _M + "fetch/readme"): _Management.readme,
    ("POST", _M + "uninstall"): _Management.uninstall,
    ("GET", _M + "list"): _Management.listed,
    ("GET", _M + "installation/ids"): _Management.ids,
    ("POST", _M + "installation/fetch/batch"): _Management.batch,
    ("POST", _M + "installation/missing"): _Management.missing,
    **{("GET", _M + kind): (lambda it, kind=kind: it.providers(kind)) for kind in _PART_OF},
    **{
        ("GET", _M + key): (lambda it, key=key: it.one_provider(key))
        for key in ("tool", "agent_strategy", "datasource", "trigger")
    },
    ("POST", _M + "tools/check_existence"): _Management.tools_exist,
    ("POST", "debugging/key"): _Management.debugging_key,
    ("POST", "endpoint/setup"): _Management.set_up_endpoint,
    ("POST", "endpoint/update"): _Management.update_endpoint,
    ("POST", "endpoint/remove"): _Management.remove_endpoint,
    ("POST", "endpoint/enable"): _Management.enable_endpoint,
    ("POST", "endpoint/disable"): _Management.disable_endpoint,
    ("GET", "endpoint/list"): _Management.endpoints,
    ("GET", "endpoint/list/plugin"): _Management.endpoints,
}
_BELOW: Mapping[str, Callable[[_Management, str], Awaitable[Reply]]] = {
    "extract-asset": _Management.extracted,
    _M + "install/tasks/": _Management.one_task,
    _M: _Management.by_category,
}
