"""A double of Google Drive: files with permissions, and the log of their changes, in the
form of its API. Tokens are given for assertions that the account's key has signed."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from modelyard.testing import Answer, UpstreamRequest, json_answer

EMAIL = "reader@project.iam.gserviceaccount.com"
FOLDER = "application/vnd.google-apps.folder"
DOCUMENT = "application/vnd.google-apps.document"


@dataclass(slots=True, kw_only=True)
class PlayedFile:
    """A file with its permissions, as the API writes them."""

    name: str
    content: bytes = b""
    mime_type: str = "text/plain"
    permissions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    version: int = 1


@dataclass(slots=True)
class PlayedDrive:
    """The handler of an `Upstream`: the files of one shared drive by id, or those of an
    account if the drive has no name."""

    drive: str
    files: dict[str, PlayedFile] = field(default_factory=dict[str, PlayedFile])
    log: list[str] = field(default_factory=list[str])
    """The ids of changed and removed files, oldest first."""
    fetched: list[str] = field(default_factory=list[str])
    """The ids of files whose content was read."""
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(status, reason) of the next answers, instead of the right ones."""
    hidden: set[str] = field(default_factory=set[str])
    """The ids of files whose permissions the account may not see."""
    tokens: int = 0
    """How many tokens were given."""
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(65537, 2048)
    )

    @property
    def account_key(self) -> str:
        """The service account's key file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return json.dumps({"client_email": EMAIL, "private_key": pem.decode()})

    def put(self, key: str, file: PlayedFile) -> None:
        """Create or replace a file."""
        self.files[key] = file
        self.log.append(key)

    def remove(self, key: str) -> None:
        """Delete a file."""
        del self.files[key]
        self.log.append(key)

    def __call__(self, request: UpstreamRequest) -> Answer:
        if self.failures:
            status, reason = self.failures.pop(0)
            return _error(status, reason)
        if request.path.endswith("/token"):
            return self._token(request.body)
        if request.headers.get("authorization") != f"Bearer token-{self.tokens}":
            return _error(401, "authError")
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return self._answer(unquote(parts.path).partition("/drive/v3/")[2], query)

    def _answer(self, path: str, query: dict[str, str]) -> Answer:
        # Without this parameter Google knows nothing of shared drives.
        if query.get("supportsAllDrives") != "true" and not path.endswith("/export"):
            return _error(404, "notFound")
        if path == "changes/startPageToken":
            return json_answer({"startPageToken": str(len(self.log))})
        if path == "changes":
            return self._changes(query)
        if path == "files":
            return self._listing(query)
        key, _, rest = path.removeprefix("files/").partition("/")
        if key not in self.files:
            return _error(404, "notFound")
        if rest == "permissions" and key in self.hidden:
            return _error(403, "insufficientFilePermissions")
        if rest == "permissions":
            return self._permissions(self.files[key], query)
        if rest == "export" or query.get("alt") == "media":
            self.fetched.append(key)
            return Answer(body=self.files[key].content)
        return json_answer(self._view(key))

    def _token(self, body: bytes) -> Answer:
        """Return a token for an assertion with the right signature."""
        form = parse_qs(body.decode())
        text, _, signature = form["assertion"][0].rpartition(".")
        padded = signature + "=" * (-len(signature) % 4)
        # Raises if the signature is another key's.
        self._key.public_key().verify(
            base64.urlsafe_b64decode(padded),
            text.encode(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
        self.tokens += 1
        token = {"access_token": f"token-{self.tokens}", "expires_in": 3599}
        return json_answer({**token, "token_type": "Bearer"})

    def _listing(self, query: dict[str, str]) -> Answer:
        """Return a page of the files, the newest first."""
        # A shared drive is named together with the corpus; an account's files are not.
        expected = (self.drive, "drive") if self.drive else (None, None)
        if (query.get("driveId"), query.get("corpora")) != expected:
            return _error(404, "notFound")
        keys = list(reversed(self.files))
        start = int(query.get("pageToken", "0"))
        end = start + int(query["pageSize"])
        page: dict[str, Any] = {"files": [self._view(key) for key in keys[start:end]]}
        if end < len(keys):
            page["nextPageToken"] = str(end)
        return json_answer(page)

    def _changes(self, query: dict[str, str]) -> Answer:
        """Return a page of the log since a token."""
        start = int(query["pageToken"])
        end = start + int(query["pageSize"])
        page: dict[str, Any] = {
            "changes": [self._change(key) for key in self.log[start:end]]
        }
        following = "nextPageToken" if end < len(self.log) else "newStartPageToken"
        page[following] = str(min(end, len(self.log)))
        return json_answer(page)

    def _change(self, key: str) -> dict[str, Any]:
        if key not in self.files:
            return {"fileId": key, "removed": True}
        return {"fileId": key, "removed": False, "file": self._view(key)}

    def _permissions(self, file: PlayedFile, query: dict[str, str]) -> Answer:
        """Return the permissions one by one, so that paging is followed."""
        start = int(query.get("pageToken", "0"))
        page: dict[str, Any] = {"permissions": file.permissions[start : start + 1]}
        if start + 1 < len(file.permissions):
            page["nextPageToken"] = str(start + 1)
        return json_answer(page)

    def _view(self, key: str) -> dict[str, Any]:
        file = self.files[key]
        view: dict[str, Any] = {
            "id": key,
            "name": file.name,
            "mimeType": file.mime_type,
            "trashed": False,
            "modifiedTime": f"2026-01-01T00:00:{file.version:02}.000Z",
            "webViewLink": f"https://drive.google.com/file/d/{key}/view",
        }
        # Documents of Google's editors have no checksum.
        if not file.mime_type.startswith("application/vnd.google-apps."):
            view["md5Checksum"] = f"{hash(file.content) & 0xFFFFFFFF:08x}"
        return view


def _error(status: int, reason: str) -> Answer:
    errors = [{"domain": "global", "reason": reason, "message": reason}]
    error = {"code": status, "message": reason, "errors": errors}
    return json_answer({"error": error}, status=status)
