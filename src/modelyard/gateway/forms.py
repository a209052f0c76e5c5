"""Forms with files in them, as browsers and clients upload them."""

from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from modelyard.base.errors import InvokeBadRequestError

_MAX_PARTS = 64
_MAX_FIELD = 1 << 20
_MAX_BOUNDARY = 200


@dataclass(frozen=True, slots=True)
class Upload:
    filename: str
    data: bytes


@dataclass(slots=True)
class Form:
    fields: dict[str, str]
    file: bytes | None = None
    filename: str = ""
    files: dict[str, Upload] = field(default_factory=dict[str, Upload])
    """Where no field is the one for a file: all parts that have a file's name."""


def parse_form(content_type: str, body: bytes, *, wanted: str, file: str | None = "file") -> Form:
    """A multipart form with one file in it, in the field `file`; with None, with files in any of its fields.

    Raises InvokeBadRequestError, which says what is wanted, where it is none, or has too many parts.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > _MAX_BOUNDARY:
        raise InvokeBadRequestError(wanted)
    reader = _FormReader(file)
    parser = MultipartParser(boundary, reader.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvokeBadRequestError(f"the form cannot be read: {error}") from error
    if not reader.is_whole:
        raise InvokeBadRequestError("the form breaks off before its end")
    return reader.form


def file_form(
    content_type: str, body: bytes, *, what: str = "the file", file: str = "file"
) -> tuple[Upload, dict[str, str]]:
    """What the field `file` of a form holds, and its other fields. Raises InvokeBadRequestError where it is missing."""
    form = parse_form(
        content_type, body, wanted=f"send {what} as multipart/form-data, in the field {file!r}", file=file
    )
    if form.file is None:
        raise InvokeBadRequestError(f"{file!r} is missing: {what}", param=file)
    return Upload(form.filename, form.file), form.fields


class _FormReader:
    """Gathers the parts of a form as the parser finds them."""

    def __init__(self, file: str | None) -> None:
        self.form = Form({})
        self._file = file
        self.is_whole = False
        self._parts = 0
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvokeBadRequestError(f"the form has more than {_MAX_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if name == self._file:
            self.form.file, self.form.filename = bytes(self._data), filename
        elif self._file is None and name and filename:
            self.form.files[name] = Upload(filename, bytes(self._data))
        elif len(self._data) > _MAX_FIELD:
            raise InvokeBadRequestError(f"field {name[:40]!r} of the form is longer than {_MAX_FIELD:,} bytes")
        elif name:
            self.form.fields[name] = self._data.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.is_whole = True
