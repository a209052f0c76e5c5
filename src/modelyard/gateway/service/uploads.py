"""Handlers for files that an app's callers upload and download."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelyard.base.errors import NotFoundError
from modelyard.gateway.forms import parse_form
from modelyard.gateway.http import Reply, json_reply
from modelyard.gateway.service.calls import Call, ServiceError, derived_id, end_user_id
from modelyard.gateway.service.shapes import FileShown
from modelyard.gateway.tenant_content import FILE_HEADERS, disposition, media_type
from modelyard.storage.files import FileStore, StoredFile
from modelyard.workflow.file_types import file_kind
from modelyard.workflow.services import stored_id, upload_id

MAX_MB: Mapping[str, int] = {
    "image": 10,
    "video": 100,
    "audio": 50,
    "document": 15,
    "custom": 15,
}
"""Kind of file → maximum size in MB."""
_LINK_SECONDS = 300.0
"""Seconds for which the signed address of an upload is valid."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """Handlers for uploads. A file belongs to the app and to the user for whom it was
    uploaded."""

    files: FileStore
    content_origin: Callable[[], str]

    async def add(self, call: Call) -> Reply:
        """POST /v1/files/upload."""
        body = await call.request.body()
        if not body:
            raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
        form = parse_form(
            call.request.header(b"content-type") or "",
            body,
            error_message="Send the file as multipart/form-data, in the field 'file'",
        )
        if form.file is None:
            raise ServiceError(400, "no_file_uploaded", "Please upload your file.")
        # One of several would be stored, and the others lost.
        if form.file_count > 1:
            raise ServiceError(
                400,
                "too_many_files",
                f"Only one file is allowed, not {form.file_count}.",
            )
        if not form.filename:
            raise ServiceError(
                400,
                "filename_not_exists_error",
                "The specified filename does not exist.",
            )
        # Visitors cannot upload in another user's name.
        user = call.visitor or form.fields.get("user") or ""
        stored_file = await self.files.add(
            call.tenant,
            form.filename,
            form.file,
            owner=user,
            app=call.found.id,
        )
        # The kind, and with it the limit, is known only after the store has detected
        # the type.
        max_mb = MAX_MB[file_kind(stored_file.extension, stored_file.mime_type)]
        if stored_file.size > max_mb << 20:
            await self.files.remove(call.tenant, stored_file.id)
            raise ServiceError(
                413,
                "file_too_large",
                f"File size exceeded: {max_mb} MB is the limit for this file type.",
            )
        return json_reply(self._file_view(stored_file, call, user), status=201)

    def _file_view(self, stored_file: StoredFile, call: Call, user: str) -> FileShown:
        """Return an uploaded file as the API's clients read it, with a temporary signed
        address."""
        end_user = end_user_id(call.tenant, call.found.id, user)
        signature = self.files.sign(
            "read", call.tenant, stored_file.id, seconds=_LINK_SECONDS
        )
        # Fields without a value are Dify's; its clients read them all the same.
        return FileShown(
            id=upload_id(stored_file.id),
            reference=upload_id(stored_file.id),
            name=stored_file.name,
            size=stored_file.size,
            extension=stored_file.extension.lstrip("."),
            mime_type=stored_file.mime_type,
            created_by=end_user,
            created_at=int(stored_file.created_at),
            preview_url=None,
            source_url=f"{self.content_origin()}/files/{stored_file.id}?{signature}",
            user_id=end_user,
            tenant_id=derived_id(call.tenant),
            conversation_id=None,
            file_key=None,
            original_url=None,
        )

    async def preview(self, call: Call) -> Reply:
        """GET /v1/files/ID/preview."""
        stored_file, content = await self._read_authorised(call)
        as_file = (call.request.query("as_attachment") or "").lower() == "true"
        disposition_type = (
            "attachment"
            if as_file or not _is_safe_to_show(stored_file.mime_type)
            else "inline"
        )
        headers = {
            **FILE_HEADERS,
            "content-disposition": disposition(
                disposition_type, f"{stored_file.id}{stored_file.extension}"
            ),
        }
        return Reply(
            content, content_type=media_type(stored_file.mime_type), headers=headers
        )

    async def _read_authorised(self, call: Call) -> tuple[StoredFile, bytes]:
        """Return the file in the path with its content. Raises ServiceError if the
        caller may not read it."""
        user = call.visitor or call.request.query("user") or ""
        missing = ServiceError(
            404, "file_not_found", "The requested file was not found."
        )
        try:
            stored_file, content = await self.files.get(
                call.tenant,
                stored_id(call.names["file_id"]),
            )
        except NotFoundError:
            raise missing from None
        # An app's key reads files uploaded to that app. Files with an owner also
        # require the owner's name.
        apps = ("", call.found.id) if stored_file.owner else (call.found.id,)
        if stored_file.app not in apps or (stored_file.owner and not user):
            raise missing
        if stored_file.owner and stored_file.owner != user:
            raise ServiceError(
                403, "file_access_denied", "Access to the requested file is denied."
            )
        return stored_file, content


def _is_safe_to_show(mime_type: str) -> bool:
    """Tell whether a browser may display the type inline. Types that can contain
    scripts are always downloads."""
    return (
        mime_type.startswith(("image/", "audio/", "video/")) and "svg" not in mime_type
    )
