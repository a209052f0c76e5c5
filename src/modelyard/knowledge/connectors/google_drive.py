"""A drive of Google Drive as a source, with the permissions of its files.

Source: Google Drive API, version 3, developers.google.com/drive/api/reference/rest/v3;
tokens for service accounts: developers.google.com/identity/protocols/oauth2. The first
pass lists all files, later ones ask for the changes since.
"""

import mimetypes
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from modelyard.base.bounded_json import BodyError, decode_body
from modelyard.base.errors import ConfigError
from modelyard.knowledge.access import AccessList
from modelyard.knowledge.connectors.base import (
    ItemError,
    SourceError,
    SourceItem,
    SourcePage,
)
from modelyard.models.types import JSON
from modelyard.providers.auth import read_account, signed_jwt
from modelyard.transport.egress import EgressClient, EgressError, FetchedResponse

AnswerT = TypeVar("AnswerT")

API_URL = "https://www.googleapis.com"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105
_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SCOPE = "https://www.googleapis.com/auth/drive.readonly"
_FOLDER = "application/vnd.google-apps.folder"
_NATIVE_PREFIX = "application/vnd.google-apps."
_OFFICE = "application/vnd.openxmlformats-officedocument."
# Documents of Google's own editors have no bytes: they are exported.
_EXPORTS = {
    "application/vnd.google-apps.document": (
        ".docx",
        f"{_OFFICE}wordprocessingml.document",
    ),
    "application/vnd.google-apps.spreadsheet": (
        ".xlsx",
        f"{_OFFICE}spreadsheetml.sheet",
    ),
    "application/vnd.google-apps.presentation": (
        ".pptx",
        f"{_OFFICE}presentationml.presentation",
    ),
}
_FILE_FIELDS = "id,name,mimeType,trashed,md5Checksum,modifiedTime,webViewLink"
_FILES_PER_PAGE = 100
_MAX_FILES = 100_000
_MAX_LISTING_BYTES = 8 << 20
_MAX_BYTES = 256 << 20
_TOKEN_RESERVE_SECONDS = 120.0


class _File(msgspec.Struct, frozen=True):
    id: str
    name: str = ""
    mimeType: str = ""  # noqa: N815  as the API writes it
    trashed: bool = False
    md5Checksum: str = ""  # noqa: N815
    modifiedTime: str = ""  # noqa: N815
    webViewLink: str = ""  # noqa: N815


class _Files(msgspec.Struct, frozen=True):
    files: list[_File]
    nextPageToken: str = ""  # noqa: N815


class _Change(msgspec.Struct, frozen=True):
    fileId: str = ""  # noqa: N815
    removed: bool = False
    file: _File | None = None


class _Changes(msgspec.Struct, frozen=True):
    changes: list[_Change]
    nextPageToken: str = ""  # noqa: N815
    newStartPageToken: str = ""  # noqa: N815


class _StartToken(msgspec.Struct, frozen=True):
    startPageToken: str  # noqa: N815


class _Permission(msgspec.Struct, frozen=True):
    """A permission. The type is required: one that is not known grants nothing."""

    type: str
    emailAddress: str = ""  # noqa: N815
    domain: str = ""
    deleted: bool = False
    view: str = ""


class _Permissions(msgspec.Struct, frozen=True):
    permissions: list[_Permission]
    nextPageToken: str = ""  # noqa: N815


class _Token(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float = 3600.0


class _Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a pass continues. `token` is where the changes after the listing begin."""

    token: str
    after: str | None = None
    """The last listed key of a listing that is not complete; None for changes."""


class GoogleDriveSource:
    """The files that a service account can read, of one shared drive or of all."""

    def __init__(
        self,
        egress: EgressClient,
        *,
        service_account_key: str,
        get_time: Callable[[], float],
        drive: str = "",
        subject: str = "",
        api_url: str = API_URL,
        token_url: str = TOKEN_URL,
        operators: str = "",
        page_size: int = _FILES_PER_PAGE,
    ) -> None:
        """Create the source. `drive` is the id of a shared drive, empty for all files
        of the account; `subject` is the user for whom a service account with
        domain-wide delegation reads. Raises ConfigError for an invalid key."""
        self._egress = egress
        self._account = read_account(service_account_key)
        self._now = get_time
        self._drive = drive
        self._subject = subject
        self._api_url = api_url
        self._token_url = token_url
        self._operators = operators
        self._page_size = page_size
        self._token = ""
        self._token_ends_at = 0.0

    @property
    def name(self) -> str:
        """The shared drive, or the account whose files are read."""
        owner = self._drive or self._subject or str(self._account["client_email"])
        return f"google-drive://{owner}"

    async def changes(self, cursor: str) -> AsyncGenerator[SourcePage, None]:
        """Yield all files in the first pass, and what has changed in later ones.

        Raises SourceError.
        """
        # Cursors are our own, and stored with the dataset.
        position = msgspec.json.decode(cursor, type=_Cursor) if cursor else None
        if position is not None and position.after is None:
            is_complete = False
            async for page in self._changed(position.token):
                is_complete = page is None
                if page is not None:
                    yield page
            # What a changed folder grants applies to all that it contains.
            if is_complete:
                return
            position = None
        async for page in self._listed(position):
            yield page

    # The complete listing

    async def _listed(
        self, position: _Cursor | None
    ) -> AsyncGenerator[SourcePage, None]:
        """Yield all files in the order of their ids. Raises SourceError."""
        # The token comes before the listing: what changes meanwhile is a change then.
        start = position or _Cursor(await self._start_token(), "")
        files = {file.id: file for file in await self._all_files()}
        after = start.after or ""
        keys = sorted(key for key in files if key > after)
        # An empty drive is one page too, so that its last documents are deleted.
        for index in range(0, max(1, len(keys)), self._page_size):
            part = keys[index : index + self._page_size]
            is_last = index + self._page_size >= len(keys)
            end = None if is_last else part[-1]
            items = [await self._item(files[key]) for key in part]
            following = _Cursor(start.token, end)
            yield SourcePage(items=items, covers=(after, end), cursor=_text(following))
            after = end or ""

    async def _start_token(self) -> str:
        # Each shared drive has a log of its own.
        query = {"supportsAllDrives": "true", **self._drive_query()}
        path = f"/drive/v3/changes/startPageToken?{urlencode(query)}"
        return (await self._answer(path, _StartToken)).startPageToken

    async def _all_files(self) -> list[_File]:
        """Return the documents that the account can read. Raises SourceError."""
        query = {
            "q": "trashed = false",
            "pageSize": self._page_size,
            "fields": f"nextPageToken,files({_FILE_FIELDS})",
            "supportsAllDrives": "true",
            "includeItemsFromAllDrives": "true",
            **self._drive_query(),
        }
        # A listing of one drive needs the corpus to be named.
        # Without it Google searches the account's own files alone.
        if self._drive:
            query["corpora"] = "drive"
        # Only what describes the files: a hundred thousand take some 30 MB.
        files: list[_File] = []
        while True:
            page = await self._answer(f"/drive/v3/files?{urlencode(query)}", _Files)
            files += [file for file in page.files if _is_document(file)]
            if not page.nextPageToken:
                return files
            if len(files) > _MAX_FILES:
                raise SourceError(f"{self.name} has more than {_MAX_FILES:,} files")
            query["pageToken"] = page.nextPageToken

    # Changes

    async def _changed(self, token: str) -> AsyncGenerator[SourcePage | None, None]:
        """Yield the changes since a token, and None after the last one; nothing more if
        a folder has changed. Raises SourceError."""
        while True:
            page = await self._answer(self._changes_path(token), _Changes)
            # A change of a folder may be one of what everybody may read in it, and the
            # files in it are not named: everything is listed again.
            files = [change.file for change in page.changes if change.file]
            if any(file.mimeType == _FOLDER for file in files):
                return
            token = page.nextPageToken or page.newStartPageToken or token
            yield await self._page_of(page, token)
            if not page.nextPageToken:
                yield None
                return

    def _changes_path(self, token: str) -> str:
        query = {
            "pageToken": token,
            "pageSize": self._page_size,
            "includeRemoved": "true",
            "supportsAllDrives": "true",
            "includeItemsFromAllDrives": "true",
            "fields": "nextPageToken,newStartPageToken,"
            f"changes(fileId,removed,file({_FILE_FIELDS}))",
            **self._drive_query(),
        }
        return f"/drive/v3/changes?{urlencode(query)}"

    async def _page_of(self, page: _Changes, token: str) -> SourcePage:
        """Return changes as a page. Raises SourceError."""
        # A file that has changed twice is listed twice: its last state counts.
        latest = {change.fileId: change for change in page.changes}
        documents = {
            key: change.file
            for key, change in latest.items()
            if change.file is not None
            and not change.removed
            and not change.file.trashed
            and _is_document(change.file)
        }
        return SourcePage(
            items=[await self._item(file) for file in documents.values()],
            removed=[key for key in latest if key not in documents],
            cursor=_text(_Cursor(token)),
        )

    # Files

    async def _item(self, file: _File) -> SourceItem:
        """Return a file with its access list. Raises SourceError."""
        return SourceItem(
            key=file.id,
            name=_name(file),
            # Documents of Google's editors have no checksum.
            revision=file.md5Checksum or file.modifiedTime,
            url=file.webViewLink,
            access=await self._access(file.id),
        )

    async def _access(self, key: str) -> AccessList:
        """Return who may read a file. Raises SourceError.

        Listings leave permissions out for shared drives, so each file is asked for
        its own. A file that is gone in between is read by nobody.
        """
        query = {
            "supportsAllDrives": "true",
            "pageSize": 100,
            "fields": "nextPageToken,"
            "permissions(type,emailAddress,domain,deleted,view)",
        }
        permissions: list[_Permission] = []
        path = f"/drive/v3/files/{quote(key, safe='')}/permissions"
        while True:
            reply = await self._get(f"{path}?{urlencode(query)}", _MAX_LISTING_BYTES)
            # Whoever may not see the permissions of a file cannot know its readers.
            if reply.status in (403, 404) and not _is_rate_limit(reply):
                return AccessList()
            page = self._decoded(reply, _Permissions)
            permissions += page.permissions
            if not page.nextPageToken:
                return _access_list(permissions)
            query["pageToken"] = page.nextPageToken

    async def fetch(self, item: SourceItem) -> bytes:
        """Return the bytes of a file; documents of Google's editors as Office files.
        Raises ItemError if it is gone, not to be read or too large to export,
        SourceError if Google does not answer."""
        path = f"/drive/v3/files/{quote(item.key, safe='')}"
        # Asked for again: a cursor that is continued has no types of files.
        reply = await self._get(
            f"{path}?supportsAllDrives=true&fields={_FILE_FIELDS}", _MAX_LISTING_BYTES
        )
        if reply.status in (403, 404) and not _is_rate_limit(reply):
            raise ItemError(f"Status {reply.status} {_reason(reply)}".rstrip())
        file = self._decoded(reply, _File)
        if file.mimeType in _EXPORTS:
            media_type = _EXPORTS[file.mimeType][1]
            path += f"/export?{urlencode({'mimeType': media_type})}"
        else:
            path += "?alt=media&supportsAllDrives=true"
        content = await self._get(path, _MAX_BYTES)
        if content.status in (403, 404) and not _is_rate_limit(content):
            raise ItemError(f"Status {content.status} {_reason(content)}".rstrip())
        if content.status != 200:
            raise SourceError(f"File {item.key} of {self.name}: {_failure(content)}")
        return content.body

    # Requests

    def _drive_query(self) -> dict[str, Any]:
        return {"driveId": self._drive} if self._drive else {}

    async def _answer(self, path: str, answer_type: type[AnswerT]) -> AnswerT:
        """Return the answer to a request. Raises SourceError."""
        return self._decoded(await self._get(path, _MAX_LISTING_BYTES), answer_type)

    async def _get(self, path: str, max_bytes: int) -> FetchedResponse:
        """Send a request with a valid token. Raises SourceError if it fails."""
        await self._renew_token()
        headers = [("authorization", f"Bearer {self._token}")]
        url = f"{self._api_url}{path}"
        return await self._fetch("GET", url, headers, b"", max_bytes)

    async def _renew_token(self) -> None:
        """Exchange a signed assertion for a token (RFC 7523), unless there is one.
        Raises SourceError."""
        now = self._now()
        if self._token and now < self._token_ends_at:
            return
        # Signed with the account's key, and exchanged for a token of an hour.
        claims: JSON = {
            "iss": self._account["client_email"],
            "scope": _SCOPE,
            "aud": self._token_url,
            "iat": int(now),
            "exp": int(now) + 3600,
        }
        # The account reads for a user then, whom an administrator of Google Workspace
        # has allowed it to stand for.
        if self._subject:
            claims["sub"] = self._subject
        try:
            assertion = signed_jwt(claims, self._account)
        except ConfigError as error:
            raise SourceError(str(error)) from error
        form = urlencode({"grant_type": _GRANT_TYPE, "assertion": assertion})
        headers = [("content-type", "application/x-www-form-urlencoded")]
        reply = await self._fetch(
            "POST", self._token_url, headers, form.encode(), _MAX_LISTING_BYTES
        )
        # Renewed early: a token must not end between a listing and its files.
        token = self._decoded(reply, _Token)
        self._token = token.access_token
        self._token_ends_at = now + token.expires_in - _TOKEN_RESERVE_SECONDS

    async def _fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        max_bytes: int,
    ) -> FetchedResponse:
        try:
            # A redirect would carry the token elsewhere.
            return await self._egress.fetch(
                method,
                url,
                headers=headers,
                body=body,
                max_bytes=max_bytes,
                max_redirects=0,
                operators=self._operators,
            )
        except EgressError as error:
            raise SourceError(f"{self.name} cannot be reached: {error}") from error

    def _decoded(self, reply: FetchedResponse, answer_type: type[AnswerT]) -> AnswerT:
        """Return an answer as its type. Raises SourceError if it is an error or another
        type."""
        if reply.status != 200:
            raise SourceError(f"{self.name} cannot be read: {_failure(reply)}")
        try:
            # Another form may hide a permission, so it is no answer.
            return msgspec.convert(decode_body(reply.body), answer_type)
        except (BodyError, msgspec.ValidationError) as error:
            raise SourceError(
                f"{self.name} sent an unexpected answer: {error}"
            ) from error


def _text(cursor: _Cursor) -> str:
    return msgspec.json.encode(cursor).decode()


def _name(file: _File) -> str:
    """Return a file's name with an extension, by which its format is known."""
    name = file.name or file.id
    if file.mimeType in _EXPORTS:
        return name + _EXPORTS[file.mimeType][0]
    # Drive knows the type of files whose names do not say it.
    if "." not in name:
        return name + (mimetypes.guess_extension(file.mimeType) or "")
    return name


def _is_document(file: _File) -> bool:
    """Return whether a file has content: no folder, shortcut, form or map."""
    return file.mimeType in _EXPORTS or not file.mimeType.startswith(_NATIVE_PREFIX)


def _access_list(permissions: Sequence[_Permission]) -> AccessList:
    """Return permissions as an access list. A domain counts as a group of its name."""
    # A permission for the metadata alone does not let anybody read the content.
    valid = [
        permission
        for permission in permissions
        if not permission.deleted and permission.view != "metadata"
    ]
    return AccessList(
        users=_addresses(valid, "user"),
        groups=[
            *_addresses(valid, "group"),
            *(permission.domain for permission in valid if permission.type == "domain"),
        ],
        everyone=any(permission.type == "anyone" for permission in valid),
    )


def _addresses(permissions: Sequence[_Permission], permission_type: str) -> list[str]:
    """Return the email addresses of the permissions of a type."""
    # Deleted accounts have none.
    return [
        permission.emailAddress
        for permission in permissions
        if permission.type == permission_type and permission.emailAddress
    ]


def _is_rate_limit(reply: FetchedResponse) -> bool:
    """Return whether Google refuses for now: it says so with status 403 too."""
    return _reason(reply) in ("rateLimitExceeded", "userRateLimitExceeded")


def _failure(reply: FetchedResponse) -> str:
    return f"status {reply.status} {_reason(reply)}".rstrip()


def _reason(reply: FetchedResponse) -> str:
    """Return the reason in an error of Google; empty if there is none."""
    try:
        body: Any = decode_body(reply.body)
        error = body["error"]
        # The token endpoint answers with a word, the API with a list of errors.
        if isinstance(error, str):
            return error[:100]
        errors: Sequence[Mapping[str, Any]] = error["errors"]
        return str(errors[0]["reason"])[:100]
    except (BodyError, KeyError, IndexError, TypeError):
        return ""
