"""A space of Confluence as a source, with the restrictions of its pages.

Source: Confluence's REST API, version 1, developer.atlassian.com/cloud/confluence/rest/v1.
A page is visible to whoever its own restriction names, if all restricted pages above it
name them too.
"""

import base64
from collections.abc import AsyncGenerator, Mapping
from functools import reduce
from html import escape
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import (
    AccessRules,
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)
from modelyard.transport.egress import EgressClient, EgressError, FetchedResponse

AnswerT = TypeVar("AnswerT")

_LISTED = (
    "version,ancestors,"
    "restrictions.read.restrictions.user,restrictions.read.restrictions.group"
)
_MAX_BYTES = 32 << 20
_PAGES_PER_REQUEST = 100
_MAX_PAGES = 100_000


class _User(msgspec.Struct, frozen=True):
    accountId: str = ""  # noqa: N815  as the API writes it
    email: str | None = None


class _Users(msgspec.Struct, frozen=True):
    results: list[_User]


class _Group(msgspec.Struct, frozen=True):
    name: str


class _Groups(msgspec.Struct, frozen=True):
    results: list[_Group]


class _Restrictions(msgspec.Struct, frozen=True):
    user: _Users
    group: _Groups


class _Operation(msgspec.Struct, frozen=True):
    restrictions: _Restrictions


class _Operations(msgspec.Struct, frozen=True):
    read: _Operation


class _Version(msgspec.Struct, frozen=True):
    number: int


class _Reference(msgspec.Struct, frozen=True):
    id: str


class _PageLinks(msgspec.Struct, frozen=True):
    webui: str = ""


class _Page(msgspec.Struct, frozen=True, rename={"links": "_links"}):
    """A page in a listing. Restrictions are required: a page whose restrictions are
    missing is not one without restrictions."""

    id: str
    version: _Version
    ancestors: list[_Reference]
    restrictions: _Operations
    title: str = ""
    links: _PageLinks = _PageLinks()


class _ListingLinks(msgspec.Struct, frozen=True):
    next: str = ""


class _Listing(msgspec.Struct, frozen=True, rename={"links": "_links"}):
    results: list[_Page]
    links: _ListingLinks = _ListingLinks()


class _View(msgspec.Struct, frozen=True):
    value: str = ""


class _Body(msgspec.Struct, frozen=True):
    export_view: _View


class _Content(msgspec.Struct, frozen=True):
    body: _Body
    title: str = ""


class ConfluenceSource:
    """The current pages of a space."""

    def __init__(
        self,
        egress: EgressClient,
        url: str,
        space: str,
        *,
        user: str,
        token: str,
        rules: AccessRules | None = None,
        is_operators: bool = False,
        page_size: int = _PAGES_PER_REQUEST,
    ) -> None:
        """Create the source. `url` is Confluence's address, such as
        `https://example.atlassian.net/wiki`; the token is that of an account that may
        see all pages. `rules` say who may read pages without restrictions, by the
        space's key: whoever may see the space.
        """
        self._egress = egress
        self._url = url.rstrip("/")
        self._space = space
        credential = base64.b64encode(f"{user}:{token}".encode()).decode()
        self._headers = [
            ("authorization", f"Basic {credential}"),
            ("accept", "application/json"),
        ]
        self._rules = rules or AccessRules()
        self._operators = self._url if is_operators else ""
        self._page_size = page_size

    @property
    def name(self) -> str:
        """The address of the space."""
        return f"{self._url}/spaces/{self._space}"

    async def changes(self, cursor: str) -> AsyncGenerator[SourcePage, None]:
        """Yield all pages in the order of their ids, after the one in the cursor.

        A changed restriction is no new version of a page, so the restrictions of all
        pages are read in each pass; contents only of new versions. Raises SourceError.
        """
        pages = {page.id: page async for page in self._listed()}
        # In an order of their own: that of the server changes while pages are edited.
        keys = sorted(key for key in pages if key > cursor)
        items = [self._item(pages[key], pages) for key in keys]
        # An empty space is one page too, so that its last documents are deleted.
        for position in range(0, max(1, len(items)), self._page_size):
            part = items[position : position + self._page_size]
            is_last = position + self._page_size >= len(items)
            end = None if is_last else part[-1].key
            yield SourcePage(items=part, covers=(cursor, end), cursor=end or "")
            cursor = end or ""

    async def _listed(self) -> AsyncGenerator[_Page, None]:
        """Yield the pages of the space without their contents. Raises SourceError."""
        start = 0
        while True:
            query = {
                "spaceKey": self._space,
                "type": "page",
                "status": "current",
                "expand": _LISTED,
                "limit": self._page_size,
                "start": start,
            }
            reply = await self._get(f"/rest/api/content?{urlencode(query)}")
            if reply.status != 200:
                raise SourceError(
                    f"{self.name} cannot be listed: status {reply.status}"
                )
            listing = self._decoded(reply, _Listing)
            for page in listing.results:
                yield page
            # The server may return fewer pages than were asked for.
            start += len(listing.results)
            if not listing.results or not listing.links.next:
                return
            if start > _MAX_PAGES:
                raise SourceError(f"{self.name} has more than {_MAX_PAGES:,} pages")

    def _item(self, page: _Page, pages: Mapping[str, _Page]) -> SourceItem:
        path = page.links.webui
        return SourceItem(
            key=page.id,
            name=f"{page.title or page.id}.html",
            revision=str(page.version.number),
            url=f"{self._url}{path}" if path else "",
            access=self._access(page, pages),
        )

    def _access(self, page: _Page, pages: Mapping[str, _Page]) -> AccessList | None:
        """Return who may read a page: whom all restrictions on the way to it name."""
        lists: list[AccessList] = []
        for key in [*(above.id for above in page.ancestors), page.id]:
            # Restrictions that are not known may be any: nobody reads what is below.
            if key not in pages:
                return AccessList()
            if (restriction := _restriction(pages[key])) is not None:
                lists.append(restriction)
        # Whoever may see the space may see it, which only the operator can say.
        if not lists:
            return self._rules.find(f"{self._space}/")
        return reduce(_intersection, lists)

    async def fetch(self, item: SourceItem) -> bytes:
        """Return a page as HTML. Raises SourceError, or ItemError if it is gone."""
        reply = await self._get(f"/rest/api/content/{item.key}?expand=body.export_view")
        if reply.status in (403, 404):
            raise ItemError(f"Status {reply.status}")
        if reply.status != 200:
            raise SourceError(f"Page {item.key} of {self.name}: status {reply.status}")
        page = self._decoded(reply, _Content)
        head = f"<head><title>{escape(page.title)}</title></head>"
        return f"<html>{head}<body>{page.body.export_view.value}</body></html>".encode()

    async def _get(self, path: str) -> FetchedResponse:
        """Send a request. Raises SourceError if it fails."""
        try:
            # A redirect would carry the credential elsewhere.
            return await self._egress.fetch(
                "GET",
                f"{self._url}{path}",
                headers=self._headers,
                max_bytes=_MAX_BYTES,
                max_redirects=0,
                operators=self._operators,
            )
        except EgressError as error:
            raise SourceError(f"{self.name} cannot be reached: {error}") from error

    def _decoded(self, reply: FetchedResponse, answer_type: type[AnswerT]) -> AnswerT:
        """Return an answer as its type. Raises SourceError if it is another one."""
        try:
            # Another form may hide a restriction, so it is no answer.
            return msgspec.convert(decode_body(reply.body), answer_type)
        except (BodyError, msgspec.ValidationError) as error:
            raise SourceError(
                f"{self.name} sent an unexpected answer: {error}"
            ) from error


def _restriction(page: _Page) -> AccessList | None:
    """Return the restriction of a page itself; None if it has none."""
    restrictions = page.restrictions.read.restrictions
    users, groups = restrictions.user.results, restrictions.group.results
    if not users and not groups:
        return None
    # Addresses are hidden unless their owners show them; the account's id never is.
    return AccessList(
        users=[user.email or user.accountId for user in users],
        groups=[group.name for group in groups],
    )


def _intersection(first: AccessList, second: AccessList) -> AccessList:
    """Return whom both lists name. A member of a group of one list whom the other one
    names is left out: too few people read the page, never too many."""
    return AccessList(
        users=[user for user in first.users if user in second.users],
        groups=[group for group in first.groups if group in second.groups],
    )
