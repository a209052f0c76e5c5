"""Multipart forms with files, as browsers and clients upload them."""

from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from modelyard.base.errors import InvokeBadRequestError

# Limits against forms that cost more to parse than they contain.
_MAX_PARTS = 64
# Fields other than the file are held in memory as a whole.
_MAX_FIELD = 1 << 20
# RFC 2046 allows 70 characters; some clients send more.
_MAX_BOUNDARY = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file."""

    filename: str
    data: bytes


@dataclass(slots=True)
class Form:
    """A parsed form: text fields and files."""

    fields: dict[str, str]
    """Text fields; of a field that occurs more than once, the last value."""
    lists: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """All values of the fields whose names end with `[]`, in their order."""
    file: bytes | None = None
    filename: str = ""
    file_lists: dict[str, list[Upload]] = field(default_factory=dict[str, list[Upload]])
    """All files by field, in their order, if the form was parsed without one particular
    file field."""
    file_count: int = 0
    """Parts that are files: those with a file name, in any field."""

    @property
    def files(self) -> dict[str, Upload]:
        """Return `file_lists` with the last file of each field alone."""
        return {name: uploads[-1] for name, uploads in self.file_lists.items()}


def parse_form(
    content_type: str, body: bytes, *, error_message: str, file: str | None = "file"
) -> Form:
    """Parse a multipart form with one file in the field `file`; with None, files may be
    in any field.

    Raises InvokeBadRequestError: with `error_message` if it is not a multipart form,
    otherwise with what is wrong.
    """
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if (
        media_type != b"multipart/form-data"
        or not boundary
        or len(boundary) > _MAX_BOUNDARY
    ):
        raise InvokeBadRequestError(error_message)
    reader = _FormReader(file)
    parser = MultipartParser(boundary, reader.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvokeBadRequestError(f"Invalid multipart form: {error}") from error
    # A body that was cut off parses without an error, but has no closing boundary.
    if not reader.is_complete:
        raise InvokeBadRequestError("Truncated multipart body")
    return reader.form


def file_form(
    content_type: str, body: bytes, *, description: str = "the file", file: str = "file"
) -> tuple[Upload, dict[str, str]]:
    """Return the file in the field `file` and the other fields.

    Raises InvokeBadRequestError if the file is missing; `description` names what it
    should be.
    """
    form = parse_form(
        content_type,
        body,
        error_message=f"Send {description} as multipart/form-data, in the field {file!r}",
        file=file,
    )
    if form.file is None:
        raise InvokeBadRequestError(f"{file!r} is missing: {description}", param=file)
    return Upload(form.filename, form.file), form.fields


class _FormReader:
    """Collects the parts of a form from the parser's callbacks."""

    def __init__(self, file: str | None) -> None:
        self.form = Form({})
        self._file = file
        self.is_complete = False
        self._parts = 0
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        """Return the callbacks under the names that the parser expects."""
        names = (
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "end",
        )
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_part_begin(self) -> None:
        """Start a part; refuse forms with too many parts."""
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvokeBadRequestError(f"The form has more than {_MAX_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Append to a header's name. The parser may deliver it in several chunks."""
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Append to a header's value."""
        self._value += data[start:end]

    def on_header_end(self) -> None:
        """Remember the Content-Disposition; other headers of a part do not matter."""
        # Names of headers do not depend on upper and lower case.
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Append to the content of a part."""
        self._data += data[start:end]

    def on_part_end(self) -> None:
        """Store a completed part as a file or as a field."""
        _, options = parse_options_header(self._disposition)
        # Browsers write names in the encoding of their page, which may not be UTF-8. A
        # name with replacement characters does less harm than a refusal.
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        self.form.file_count += bool(filename)
        # The file field is the only part that may be large.
        if name == self._file:
            self.form.file, self.form.filename = bytes(self._data), filename
        elif self._file is None and name and filename:
            # Without a particular file field, every part with a file name is a file.
            upload = Upload(filename, bytes(self._data))
            self.form.file_lists.setdefault(name, []).append(upload)
        elif len(self._data) > _MAX_FIELD:
            raise InvokeBadRequestError(
                f"Field {name[:40]!r} of the form is longer than {_MAX_FIELD:,} bytes"
            )
        elif name:
            # Parts without a name are ignored.
            value = self._data.decode("utf-8", "replace")
            self.form.fields[name] = value
            if name.endswith("[]"):
                self.form.lists.setdefault(name, []).append(value)

    def on_end(self) -> None:
        """Mark the form as complete: the closing boundary was read."""
        self.is_complete = True
