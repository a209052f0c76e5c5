"""The web scraper tool: returns a page's text as Markdown."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from modelyard.sandbox.runner import Sandbox, SandboxError
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolInvokeError
from modelyard.tools.function import FunctionTool
from modelyard.transport.egress import EgressClient, EgressError

# Beyond that a page is a file, whose text is not worth its parsing.
_MAX_PAGE_BYTES = 10 << 20
_NAMES = {
    "text/html": ".html",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "application/json": ".json",
}


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the web scraper; none without an egress client and a sandbox."""
    if parts.egress is None or parts.sandbox is None:
        return []
    tools = _WebScraperTools(parts.egress, parts.sandbox)
    return [
        FunctionTool(
            tools.webscraper,
            provider="webscraper",
            kind="builtin",
            is_repeatable=True,
            cache_seconds=60.0,
        )
    ]


class _WebScraperTools:
    """The tool as a method. Its docstring is sent to models as its description."""

    def __init__(self, egress: EgressClient, sandbox: Sandbox) -> None:
        self._egress = egress
        self._sandbox = sandbox

    async def webscraper(self, context: ToolContext, url: str) -> str:
        """The text of a web page or of a document on the web, as Markdown.

        url: beginning with https:// or http://
        """
        try:
            page = await self._egress.fetch(
                "GET",
                url,
                headers=[("accept", "text/html, */*")],
                max_bytes=_MAX_PAGE_BYTES,
            )
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        if page.status >= 400:
            raise ToolInvokeError(f"{url[:200]} returned status {page.status}")
        mime_type = (
            page.headers.get("content-type", "").partition(";")[0].strip().lower()
        )
        # The sandbox chooses the document reader by the file name's extension.
        name = (urlsplit(page.url).path.rpartition("/")[2] or "page") + _NAMES.get(
            mime_type, ""
        )
        try:
            document = await self._sandbox.read(name, page.body, tenant=context.tenant)
        except SandboxError as error:
            raise ToolInvokeError(f"{url[:200]}: {error}") from error
        text = "\n\n".join(part["text"] for part in document["parts"])
        # Many pages repeat their title as the first heading.
        if document["title"] and document["title"] not in text[:300]:
            return f"# {document['title']}\n\n{text}"
        return text
