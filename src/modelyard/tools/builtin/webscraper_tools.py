"""The web scraper tool: returns a page's text as Markdown."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from modelyard.sandbox.runner import SandboxError
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolInvokeError
from modelyard.tools.function import FunctionTool
from modelyard.transport.egress import EgressError

_MAX_PAGE_BYTES = 10 << 20
_NAMES = {
    "text/html": ".html",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "application/json": ".json",
}


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the web scraper; none without an egress client and a sandbox."""
    if (egress := parts.egress) is None or (sandbox := parts.sandbox) is None:
        return []

    async def webscraper(context: ToolContext, url: str) -> str:
        """The text of a web page or of a document on the web, as Markdown.

        url: beginning with https:// or http://
        """
        try:
            page = await egress.fetch(
                "GET",
                url,
                headers=[("accept", "text/html, */*")],
                max_bytes=_MAX_PAGE_BYTES,
            )
        except EgressError as error:
            raise ToolInvokeError(str(error)) from error
        if page.status >= 400:
            raise ToolInvokeError(f"{url[:200]} answers with status {page.status}")
        mime_type = (
            page.headers.get("content-type", "").partition(";")[0].strip().lower()
        )
        # The sandbox chooses the document reader by the file name's extension.
        name = (urlsplit(page.url).path.rpartition("/")[2] or "page") + _NAMES.get(
            mime_type, ""
        )
        try:
            document = await sandbox.read(name, page.body, tenant=context.tenant)
        except SandboxError as error:
            raise ToolInvokeError(f"{url[:200]}: {error}") from error
        text = "\n\n".join(part["text"] for part in document["parts"])
        # Many pages repeat their title as the first heading.
        return (
            f"# {document['title']}\n\n{text}"
            if document["title"] and document["title"] not in text[:300]
            else text
        )

    return [
        FunctionTool(
            webscraper,
            provider="webscraper",
            kind="builtin",
            is_repeatable=True,
            cache_seconds=60.0,
        )
    ]
