"""A bucket of S3, or of a server that speaks its protocol, as a source.

Sources: ListObjectsV2 and GetObject, docs.aws.amazon.com/AmazonS3/latest/API. Keys are
listed in the order of their UTF-8 bytes, which is that of Python's strings.
"""

from collections.abc import AsyncGenerator, Callable
from html import unescape
from urllib.parse import unquote_plus, urlsplit

from modelyard.knowledge.connectors.base import (
    AccessRules,
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)
from modelyard.transport.egress import EgressClient, EgressError, FetchedResponse
from modelyard.transport.s3 import (
    S3Credentials,
    element_text,
    elements,
    encoded_path,
    encoded_query,
    error_code,
    signed_headers,
)

_MAX_LISTING_BYTES = 8 << 20


class S3Source:
    """The objects of a bucket below a prefix. A bucket has no permissions of people, so
    rules say who may read."""

    def __init__(
        self,
        egress: EgressClient,
        bucket: str,
        prefix: str = "",
        *,
        credentials: S3Credentials,
        get_time: Callable[[], float],
        endpoint: str = "",
        is_operators: bool = False,
        rules: AccessRules | None = None,
        page_size: int = 1000,
        max_bytes: int = 256 << 20,
    ) -> None:
        """Create the source. `endpoint` is the server's URL; empty for AWS. It may be
        a private address only if the operator has chosen it (`is_operators`)."""
        self._egress = egress
        self._bucket = bucket
        self._prefix = prefix
        self._credentials = credentials
        self._now = get_time
        region = credentials.region
        self._endpoint = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
        self._operators = self._endpoint if is_operators else ""
        self._rules = rules or AccessRules()
        self._page_size = page_size
        self._max_bytes = max_bytes

    @property
    def name(self) -> str:
        """The bucket and the prefix, with the server if it is not AWS."""
        host = urlsplit(self._endpoint).netloc
        server = "" if host.endswith(".amazonaws.com") else f"{host}/"
        return f"s3://{server}{self._bucket}/{self._prefix}"

    async def changes(
        self,
        cursor: str,
    ) -> AsyncGenerator[SourcePage, None]:
        """Yield all objects in the order of their keys, after the one in the cursor.

        S3 cannot say what has changed, so each pass lists everything; unchanged
        objects are not read. Raises SourceError.
        """
        start = cursor
        while True:
            listing = await self._list(start)
            items = [self._item(entry) for entry in elements(listing, "Contents")]
            # A server that says there is more and lists nothing would be asked forever.
            is_last = element_text(listing, "IsTruncated") != "true" or not items
            end = None if is_last else items[-1].key
            # Names that end with a slash are folders of file managers.
            files = [item for item in items if item.name]
            yield SourcePage(items=files, covers=(start, end), cursor=end or "")
            if end is None:
                return
            start = end

    def _item(
        self,
        entry: str,
    ) -> SourceItem:
        # Keys are percent-encoded on request: they may contain what XML cannot.
        key = unquote_plus(element_text(entry, "Key"))
        return SourceItem(
            key=key,
            name=key.rpartition("/")[2],
            revision=unescape(element_text(entry, "ETag")).strip('"'),
            access=self._rules.find(key.removeprefix(self._prefix)),
        )

    async def _list(
        self,
        start: str,
    ) -> str:
        """Return a page of the bucket's listing. Raises SourceError."""
        query = {
            "encoding-type": "url",
            "list-type": "2",
            "max-keys": str(self._page_size),
            "prefix": self._prefix,
            "start-after": start,
        }
        reply = await self._get(
            f"{encoded_path(self._bucket)}?{encoded_query(query)}", _MAX_LISTING_BYTES
        )
        if reply.status != 200:
            raise SourceError(
                f"{self.name} cannot be listed: status {reply.status}"
                f" {error_code(reply.body)}".rstrip()
            )
        listing = reply.body.decode("utf-8", "replace")
        # A proxy's page with status 200 must not look like an empty bucket.
        if "<ListBucketResult" not in listing:
            raise SourceError(f"{self.name} returned no listing")
        return listing

    async def fetch(
        self,
        item: SourceItem,
    ) -> bytes:
        """Return the bytes of an object. Raises ItemError if it is gone, archived or
        not to be read, SourceError if the server does not answer."""
        path = encoded_path(self._bucket, item.key)
        reply = await self._get(path, self._max_bytes)
        # Archived objects are refused too, until somebody restores them.
        if reply.status in (403, 404):
            raise ItemError(f"Status {reply.status} {error_code(reply.body)}".rstrip())
        if reply.status != 200:
            raise SourceError(f"{self.name}{item.key} returned status {reply.status}")
        return reply.body

    async def _get(
        self,
        path: str,
        max_bytes: int,
    ) -> FetchedResponse:
        """Send a signed request. Raises SourceError if it fails."""
        url = f"{self._endpoint}{path}"
        headers = signed_headers("GET", url, self._credentials, now=self._now())
        try:
            # The signature is for this host: a redirect would carry it elsewhere.
            return await self._egress.fetch(
                "GET",
                url,
                headers=list(headers.items()),
                max_bytes=max_bytes,
                max_redirects=0,
                operators=self._operators,
            )
        except EgressError as error:
            raise SourceError(f"{self.name} cannot be reached: {error}") from error
