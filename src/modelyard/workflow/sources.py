"""Sources of pipeline documents: datasources of plugins, and web pages that are fetched
directly."""

from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.base.json_types import is_array, is_mapping
from modelyard.knowledge.sources import SourceReader, name_with_extension
from modelyard.models.types import JSON
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.plugins import Installed, Plugins
from modelyard.tools.observation import ToolOutputCollector
from modelyard.workflow.node import Files, NodeError
from modelyard.workflow.nodes.datasource import DatasourceData

_MAX_FILES = 1000
"""Maximum files of one folder on a drive."""
# Names of the plugin protocol.
_ACTIONS = {
    "website_crawl": "invoke_website_datasource_get_crawl",
    "online_document": "invoke_online_document_datasource_get_pages",
    "online_drive": "invoke_online_drive_browse_files",
}


@dataclass(frozen=True, slots=True)
class _Provider:
    """A datasource provider of an installed plugin."""

    plugin: Installed
    name: str

    @property
    def key(self) -> str:
        """The name under which the provider's credentials are stored."""
        return f"{self.plugin.plugin_id}/{self.name}"


@dataclass(slots=True)
class _FolderListing:
    """Files of a drive folder that were listed so far, and subfolders to visit."""

    bucket: Any
    """Bucket of the folder; used for entries that name none."""
    pending_folders: deque[str]
    files: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of files is reached."""
        return len(self.files) >= _MAX_FILES

    def add(self, bucket: Mapping[str, Any]) -> None:
        """Add the entries of one bucket in a page of the plugin's listing."""
        for file_entry in bucket.get("files") or ():
            if file_entry.get("type") == "folder":
                self.pending_folders.append(str(file_entry.get("id")))
                continue
            bucket_name = bucket.get("bucket") or self.bucket
            self.files.append({**file_entry, "bucket": bucket_name})


class TenantDatasources:
    """A tenant's datasources, for the datasource node."""

    def __init__(
        self,
        plugins: Plugins,
        credentials: PluginCredentials,
        reader: SourceReader,
        files: Files,
        tenant: str,
        user: str,
    ) -> None:
        self._plugins = plugins
        self._credentials = credentials
        self._reader = reader
        self._files = files
        self._tenant = tenant
        self._user = user

    def provider(self, data: DatasourceData) -> _Provider:
        """Return a node's provider.

        Raises NotFoundError if the plugin is not installed, InvokeBadRequestError if it
        has no such datasource.
        """
        name = (
            f"{data.plugin_id}/{data.provider_name}"
            if data.plugin_id
            else data.provider_name
        )
        plugin, provider_name = self._plugins.provider(self._tenant, name)
        # A plugin may provide other things than datasources.
        declared = plugin.declaration.datasource
        if declared is None or declared.identity.name != provider_name:
            raise InvokeBadRequestError(
                f"Plugin {plugin.plugin_id!r} has no datasource provider {provider_name!r}"
            )
        return _Provider(plugin, provider_name)

    def credentials(self, data: DatasourceData) -> list[dict[str, Any]]:
        """Return the provider's credentials without their secrets; empty if the plugin
        is not installed."""
        try:
            key = self.provider(data).key
        except (NotFoundError, InvokeBadRequestError):
            return []
        # The first credential is the one that is used if none is named.
        stored_credentials = self._credentials.usable(self._tenant, key)
        return [
            {
                "id": credential.id,
                "name": details.label or credential.name,
                "type": details.type,
                "is_default": index == 0,
            }
            for index, (credential, details) in enumerate(stored_credentials)
        ]

    async def call(
        self,
        data: DatasourceData,
        action: str,
        arguments: Mapping[str, Any],
        credential: str = "",
    ) -> AsyncGenerator[JSON, None]:
        """Call a datasource of a plugin and yield its messages. Raises NotFoundError or
        PluginError."""
        provider = self.provider(data)
        # Without an id the default credential is used.
        credentials, _ = await self._credentials.find(
            self._tenant, provider.key, credential, self._user
        )
        request_data = {
            "provider": provider.name,
            "datasource": data.datasource_name,
            "credentials": credentials,
            **arguments,
        }
        plugin = provider.plugin.plugin_id
        async with aclosing(
            self._plugins.call(
                self._tenant,
                plugin,
                "datasource",
                action,
                request_data,
                user=self._user,
            )
        ) as answers:
            async for message in answers:
                yield message

    # Browsing

    async def browse(
        self,
        data: DatasourceData,
        source_type: str,
        inputs: Mapping[str, Any],
        credential: str = "",
    ) -> AsyncGenerator[JSON, None]:
        """Yield what a source offers, as its plugin returns it. Raises
        InvokeBadRequestError for other sources."""
        if source_type not in _ACTIONS:
            raise InvokeBadRequestError(
                f"Datasource type {source_type[:40]!r} cannot be browsed; expected one"
                f" of {', '.join(_ACTIONS)}"
            )
        # Drives have a request of their own; other sources take plain parameters. Without
        # a prefix, the SDK refuses it: the top is an empty one.
        if source_type == "online_drive":
            arguments: dict[str, Any] = {
                "request": {"prefix": "", "max_keys": 20, **inputs}
            }
        else:
            arguments = {"datasource_parameters": dict(inputs)}
        async with aclosing(
            self.call(data, _ACTIONS[source_type], arguments, credential)
        ) as answers:
            async for message in answers:
                yield message.get("result", message)

    async def expand_folder(
        self, data: DatasourceData, entry: Mapping[str, Any], credential: str = ""
    ) -> list[dict[str, Any]]:
        """Return a drive file as a list, or all files in a folder and its subfolders."""
        # Only folders need to be listed.
        if entry.get("type") != "folder":
            return [dict(entry)]
        root_folder = str(entry.get("id") or "")
        listing = _FolderListing(entry.get("bucket"), deque([root_folder]))
        visited: set[str] = set()
        # Breadth first, so that the limit keeps the upper levels complete.
        while listing.pending_folders and not listing.is_full:
            folder = listing.pending_folders.popleft()
            # Links between folders may form a cycle.
            if folder in visited:
                continue
            visited.add(folder)
            await self._list_folder(data, folder, listing, credential)
        return listing.files[:_MAX_FILES]

    async def _list_folder(
        self,
        data: DatasourceData,
        folder: str,
        listing: _FolderListing,
        credential: str,
    ) -> None:
        """Add the entries of one folder to the listing, without its subfolders."""
        next_page: Any = None
        # Large folders come in pages; each page has the parameters of the next one.
        while True:
            arguments: dict[str, Any] = {
                "bucket": listing.bucket,
                "prefix": folder,
                "max_keys": 100,
            }
            if next_page:
                arguments["next_page_parameters"] = next_page
            next_page = await self._list_page(data, arguments, listing, credential)
            # The limit also ends the paging within one folder.
            if not next_page or listing.is_full:
                return

    async def _list_page(
        self,
        data: DatasourceData,
        arguments: Mapping[str, Any],
        listing: _FolderListing,
        credential: str,
    ) -> Any:
        """Add one page of a folder to the listing; return the parameters of the next
        page, None after the last one."""
        next_page: Any = None
        async with aclosing(
            self.browse(data, "online_drive", arguments, credential)
        ) as pages:
            page: Any
            async for page in pages:
                for bucket in page if is_array(page) else [page]:
                    listing.add(bucket)
                    if bucket.get("is_truncated"):
                        next_page = bucket.get("next_page_parameters")
        return next_page

    # Fetching

    async def fetch(
        self, data: DatasourceData, source_type: str, source_info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a datasource node's outputs for one page or one drive file. Raises
        ModelyardError."""
        credential = str(source_info.get("credential_id") or "")
        match source_type:
            case "website_crawl":
                return await self._page(source_info)
            case "online_document":
                return await self._online_document(data, source_info, credential)
            case "online_drive":
                return await self._drive_file(data, source_info, credential)
            case _:
                raise NodeError(
                    f"Unknown datasource type {source_type!r}; expected one of"
                    f" {', '.join(_ACTIONS)}",
                    error_type="DatasourceNodeError",
                )

    async def _online_document(
        self, data: DatasourceData, source_info: Mapping[str, Any], credential: str
    ) -> dict[str, Any]:
        """Return a page of an online document with its text."""
        declared_page = source_info.get("page")
        # Clients send the page nested or as top-level fields.
        page: Mapping[str, Any] = (
            declared_page if is_mapping(declared_page) else source_info
        )
        page_reference = {
            "workspace_id": source_info.get("workspace_id") or "",
            "page_id": page.get("page_id") or "",
            "type": page.get("type") or "page",
        }
        # The plugin returns the page as text and variables.
        output = await self._collect(
            data,
            "invoke_online_document_datasource_get_page_content",
            {"page": page_reference},
            credential,
        )
        return {
            **page_reference,
            "title": page.get("page_name") or "",
            "content": "".join(output.texts),
            **output.variables,
        }

    async def _drive_file(
        self, data: DatasourceData, source_info: Mapping[str, Any], credential: str
    ) -> dict[str, Any]:
        """Download a file of a drive and store it. Raises NodeError if the drive
        returns no content."""
        request = {"bucket": source_info.get("bucket"), "id": source_info.get("id")}
        output = await self._collect(
            data, "invoke_online_drive_download_file", {"request": request}, credential
        )
        # A drive that returns nothing would otherwise give an empty document.
        if not output.blobs:
            raise NodeError(
                "The online drive returned no file",
                error_type="DatasourceNodeError",
                inputs=dict(source_info),
            )
        blob = output.blobs[0]
        name = str(
            source_info.get("name") or blob.name or source_info.get("id") or "file"
        )
        return {
            "file": await self._files.save(name, blob.data, blob.mime_type),
            **output.variables,
        }

    async def _collect(
        self,
        data: DatasourceData,
        action: str,
        arguments: Mapping[str, Any],
        credential: str,
    ) -> ToolOutputCollector:
        """Call a datasource and collect its messages."""
        output = ToolOutputCollector()
        async with aclosing(self.call(data, action, arguments, credential)) as answers:
            async for message in answers:
                output.add(message)
        return output

    async def _page(self, source_info: Mapping[str, Any]) -> dict[str, Any]:
        """Return a crawled page; a page without content is fetched now."""
        url = str(source_info.get("url") or source_info.get("source_url") or "")
        page_fields = {
            "source_url": url,
            "title": source_info.get("title") or "",
            "description": source_info.get("description") or "",
        }
        # Crawlers usually deliver the content with the address.
        if source_info.get("content"):
            return {**page_fields, "content": source_info["content"]}
        page = await self._reader.fetch(url)
        read = await self._reader.parse(
            name_with_extension(page), page.body, tenant=self._tenant
        )
        text = "\n\n".join(part.text for part in read.parts)
        return {
            **page_fields,
            "title": page_fields["title"] or read.title,
            "content": text,
        }


def datasource_nodes(nodes: Sequence[Any]) -> list[Any]:
    """Return the datasource nodes among the nodes."""
    return [node for node in nodes if isinstance(node.data, DatasourceData)]
