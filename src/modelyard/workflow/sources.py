"""Where pipelines' documents come from: datasources of plugins, and pages of websites that nobody has read yet."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.knowledge.sources import SourceReader, name_of
from modelyard.models.types import JSON
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.plugins import Installed, Plugins
from modelyard.tools.observation import Gathering
from modelyard.workflow.node import Files, NodeError
from modelyard.workflow.nodes.datasource import DatasourceData

_MOST_FILES = 1000
"""Of one folder on a drive."""
_ACTIONS = {
    "website_crawl": "invoke_website_datasource_get_crawl",
    "online_document": "invoke_online_document_datasource_get_pages",
    "online_drive": "invoke_online_drive_browse_files",
}


@dataclass(frozen=True, slots=True)
class _Provider:
    plugin: Installed
    name: str

    @property
    def key(self) -> str:
        return f"{self.plugin.plugin_id}/{self.name}"


class TenantSources:
    """A tenant's datasources, as the datasource node sees them."""

    def __init__(
        self, plugins: Plugins, credentials: PluginCredentials, reader: SourceReader, files: Files, tenant: str,
        user: str,
    ) -> None:  # fmt: skip
        self._plugins = plugins
        self._credentials = credentials
        self._reader = reader
        self._files = files
        self._tenant = tenant
        self._user = user

    def provider(self, data: DatasourceData) -> _Provider:
        """Raises NotFoundError where the tenant lacks the plugin, InvokeBadRequestError where it is none of these."""
        name = f"{data.plugin_id}/{data.provider_name}" if data.plugin_id else data.provider_name
        one, bare = self._plugins.provider(self._tenant, name)
        declared = one.declaration.datasource
        if declared is None or declared.identity.name != bare:
            raise InvokeBadRequestError(f"plugin {one.plugin_id!r} has no datasource provider {bare!r}")
        return _Provider(one, bare)

    def credentials(self, data: DatasourceData) -> list[dict[str, Any]]:
        """Which credentials there are for it, without what they hold; none where the plugin is not here."""
        try:
            key = self.provider(data).key
        except (NotFoundError, InvokeBadRequestError):
            return []
        found = self._credentials.listed(self._tenant, key)
        return [
            {"id": one.id, "name": one.name, "type": stored.type, "is_default": at == 0}
            for at, (one, stored) in enumerate(found)
        ]

    async def call(
        self, data: DatasourceData, action: str, given: Mapping[str, Any], credential: str = ""
    ) -> AsyncGenerator[JSON, None]:
        """Raises NotFoundError, PluginError."""
        provider = self.provider(data)
        credentials, _ = await self._credentials.find(self._tenant, provider.key, credential, self._user)
        asked = {
            "provider": provider.name, "datasource": data.datasource_name, "credentials": credentials, **given,
        }  # fmt: skip
        plugin = provider.plugin.plugin_id
        async with aclosing(
            self._plugins.call(self._tenant, plugin, "datasource", action, asked, user=self._user)
        ) as answers:
            async for one in answers:
                yield one

    # looking

    async def browse(
        self, data: DatasourceData, kind: str, inputs: Mapping[str, Any], credential: str = ""
    ) -> AsyncGenerator[JSON, None]:
        """What a source offers: what its plugin says, piece by piece."""
        if kind not in _ACTIONS:
            raise InvokeBadRequestError(f"a source of type {kind[:40]!r} offers nothing to choose from")
        if kind == "online_drive":
            asked: dict[str, Any] = {"request": {"max_keys": 20, **inputs}}
        else:
            asked = {"datasource_parameters": dict(inputs)}
        async with aclosing(self.call(data, _ACTIONS[kind], asked, credential)) as answers:
            async for one in answers:
                yield one.get("result", one)

    async def expanded(
        self, data: DatasourceData, about: Mapping[str, Any], credential: str = ""
    ) -> list[dict[str, Any]]:
        """A file of a drive as it is; a folder's files, and those of the folders in it."""
        if about.get("type") != "folder":
            return [dict(about)]
        found: list[dict[str, Any]] = []
        waiting = [str(about.get("id") or "")]
        seen: set[str] = set()
        while waiting and len(found) < _MOST_FILES:
            prefix = waiting.pop(0)
            if prefix in seen:
                continue
            seen.add(prefix)
            more: Any = None
            while True:
                asked: dict[str, Any] = {"bucket": about.get("bucket"), "prefix": prefix, "max_keys": 100}
                if more:
                    asked["next_page_parameters"] = more
                more = None
                async with aclosing(self.browse(data, "online_drive", asked, credential)) as pages:
                    page: Any
                    async for page in pages:
                        for bucket in page if isinstance(page, list) else [page]:
                            for one in bucket.get("files") or ():
                                if one.get("type") == "folder":
                                    waiting.append(str(one.get("id")))
                                else:
                                    found.append({**one, "bucket": bucket.get("bucket") or about.get("bucket")})
                            if bucket.get("is_truncated"):
                                more = bucket.get("next_page_parameters")
                if not more or len(found) >= _MOST_FILES:
                    break
        return found[:_MOST_FILES]

    # fetching

    async def fetch(self, data: DatasourceData, kind: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """What a datasource node gives of one page, or of one file on a drive. Raises ModelyardError."""
        credential = str(about.get("credential_id") or "")
        match kind:
            case "website_crawl":
                return await self._page(about)
            case "online_document":
                named = about.get("page")
                page: Mapping[str, Any] = named if isinstance(named, Mapping) else about
                wanted = {
                    "workspace_id": about.get("workspace_id") or "", "page_id": page.get("page_id") or "",
                    "type": page.get("type") or "page",
                }  # fmt: skip
                asked = {"page": wanted}
                got = await self._gathered(
                    data, "invoke_online_document_datasource_get_page_content", asked, credential
                )
                return {**wanted, "title": page.get("page_name") or "", "content": "".join(got.texts), **got.variables}
            case "online_drive":
                asked = {"request": {"bucket": about.get("bucket"), "id": about.get("id")}}
                got = await self._gathered(data, "invoke_online_drive_download_file", asked, credential)
                if not got.blobs:
                    raise NodeError("the drive gave no file", kind="DatasourceNodeError", inputs=dict(about))
                blob = got.blobs[0]
                name = str(about.get("name") or blob.name or about.get("id") or "file")
                return {"file": await self._files.save(name, blob.data, blob.mime_type), **got.variables}
            case _:
                raise NodeError(f"{kind!r} is no kind of datasource", kind="DatasourceNodeError")

    async def _gathered(
        self, data: DatasourceData, action: str, asked: Mapping[str, Any], credential: str
    ) -> Gathering:
        found = Gathering()
        async with aclosing(self.call(data, action, asked, credential)) as answers:
            async for one in answers:
                found.take(one)
        return found

    async def _page(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """A page as it was crawled; one of which the address alone is known is read now."""
        url = str(about.get("url") or about.get("source_url") or "")
        shown = {"source_url": url, "title": about.get("title") or "", "description": about.get("description") or ""}
        if about.get("content"):
            return {**shown, "content": about["content"]}
        page = await self._reader.fetch(url)
        read = await self._reader.parse(name_of(page), page.body, tenant=self._tenant)
        text = "\n\n".join(one.text for one in read.parts)
        return {**shown, "title": shown["title"] or read.title, "content": text}


def listed(nodes: Sequence[Any]) -> list[Any]:
    """The datasource nodes among them."""
    return [one for one in nodes if isinstance(one.data, DatasourceData)]
