"""Open Office documents whatever edition of the format they have. Runs only inside the
sandbox.

Source: ECMA-376, part 1, annex A (namespaces), and part 4, annex A.
"""
# This program imports nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
import zipfile
from typing import Any

_STRICT = b"http://purl.oclc.org/ooxml/"
# Namespaces of strict files, and what other files have in their place.
_TRANSITIONAL = (
    (rb"http://purl.oclc.org/ooxml/officeDocument/", rb"http://schemas.openxmlformats.org/officeDocument/2006/"),
    (rb"http://purl.oclc.org/ooxml/wordprocessingml/", rb"http://schemas.openxmlformats.org/wordprocessingml/2006/"),
    (rb"http://purl.oclc.org/ooxml/drawingml/", rb"http://schemas.openxmlformats.org/drawingml/2006/"),
    (rb"http://purl.oclc.org/ooxml/presentationml/", rb"http://schemas.openxmlformats.org/presentationml/2006/"),
)  # fmt: skip


def transitional(data: Any) -> Any:
    """Return an Office document with the namespaces that most documents have; those of
    Strict Open XML mean the same."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        if "_rels/.rels" not in package.NameToInfo:
            return data
        if _STRICT not in package.read("_rels/.rels"):
            return data
        buffer = io.BytesIO()
        with zipfile.ZipFile(
            buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as copy:
            for entry in package.infolist():
                content = package.read(entry)
                if entry.filename.endswith((".xml", ".rels")):
                    for strict, usual in _TRANSITIONAL:
                        content = content.replace(strict, usual)
                copy.writestr(entry.filename, content)
    return buffer.getvalue()
