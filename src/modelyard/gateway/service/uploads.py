"""Files that callers of an app hand in, and get back."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, end_user_id, made_id
from modelyard.gateway.service.shapes import FileShown
from modelyard.gateway.tenant_content import FILE, disposition, media_type
from modelyard.storage.files import FileStore, StoredFile
from modelyard.workflow.services import file_kind, stored_id, upload_id

MOST_MB: Mapping[str, int] = {"image": 10, "video": 100, "audio": 50, "document": 15, "custom": 15}
"""Kind of file → the most that one may have."""
_LINK_SECONDS = 300.0
"""For how long an upload's address holds."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """A file belongs to the app, and to the user for whom it was handed in."""

    files: FileStore
    content_origin: Callable[[], str]

    async def add(self, call: Call) -> Reply:
        """POST /v1/files/upload."""
        form = parse_form(
            call.request.header(b"content-type") or "", await call.request.body(),
            wanted="send the file as multipart/form-data, in the field 'file'",
        )  # fmt: skip
        if form.file is None:
            raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
        if not form.filename:
            raise ServiceError(400, "filename_not_exists_error", "The specified filename does not exist.")
        user = call.visitor or form.fields.get("user") or ""
        stored = await asyncio.to_thread(
            self.files.add, call.tenant, form.filename, form.file, owner=user, app=call.found.id
        )
        most = MOST_MB[file_kind(stored.extension, stored.mime_type)]
        if stored.size > most << 20:
            await asyncio.to_thread(self.files.remove, call.tenant, stored.id)
            raise ServiceError(413, "file_too_large", f"File size exceeded: {most} MB is the most for such a file.")
        return json_reply(self._shown(stored, call, user), status=201)

    def _shown(self, stored: StoredFile, call: Call, user: str) -> FileShown:
        end_user = end_user_id(call.tenant, call.found.id, user)
        signature = self.files.sign("read", call.tenant, stored.id, seconds=_LINK_SECONDS)
        return FileShown(
            id=upload_id(stored.id), reference=upload_id(stored.id), name=stored.name, size=stored.size,
            extension=stored.extension.lstrip("."), mime_type=stored.mime_type, created_by=end_user,
            created_at=int(stored.created_at), preview_url=None,
            source_url=f"{self.content_origin()}/files/{stored.id}?{signature}", user_id=end_user,
            tenant_id=made_id(call.tenant), conversation_id=None, file_key=None, original_url=None,
        )  # fmt: skip

    async def preview(self, call: Call) -> Reply:
        """GET /v1/files/ID/preview."""
        stored, content = await self._readable(call)
        as_file = (call.request.query("as_attachment") or "").lower() == "true"
        how = "attachment" if as_file or not _is_safe_to_show(stored.mime_type) else "inline"
        headers = {**FILE, "content-disposition": disposition(how, f"{stored.id}{stored.extension}")}
        return Reply(content, content_type=media_type(stored.mime_type), headers=headers)

    async def _readable(self, call: Call) -> tuple[StoredFile, bytes]:
        """The file that the address names. Raises ServiceError where the caller may not have it."""
        user = call.visitor or call.request.query("user") or ""
        missing = ServiceError(404, "file_not_found", "The requested file was not found.")
        try:
            stored, content = await asyncio.to_thread(self.files.get, call.tenant, stored_id(call.names["file_id"]))
        except NotFoundError:
            raise missing from None
        # An app's key reaches what was handed to that app: what has an owner by its owner's name alone.
        apps = ("", call.found.id) if stored.owner else (call.found.id,)
        if stored.app not in apps or (stored.owner and not user):
            raise missing
        if stored.owner and stored.owner != user:
            raise ServiceError(403, "file_access_denied", "Access to the requested file is denied.")
        return stored, content


def _is_safe_to_show(mime_type: str) -> bool:
    """What a browser could run is handed over, never shown."""
    return mime_type.startswith(("image/", "audio/", "video/")) and "svg" not in mime_type
