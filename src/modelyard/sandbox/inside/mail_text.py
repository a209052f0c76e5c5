"""Read messages of email and of Outlook, with their attachments. Runs only inside the
sandbox.

Source: RFC 5322, RFC 2183; [MS-OXMSG], section 2.2; [MS-OXPROPS].
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
from typing import Any

import document_formats  # pyright: ignore[reportMissingImports]
import html_text  # pyright: ignore[reportMissingImports]

_MAX_ATTACHMENTS = 50
# Messages within messages.
_MAX_DEPTH = 3
_depth: Any = [0]


def eml(data: Any) -> Any:
    """Return (subject, [(0, text)]) of an email message: the message, and each attachment
    that can be read.

    The text has the headers, the names of attachments and the body, plain text
    preferred; an HTML body is converted to Markdown.
    """
    import email
    import email.policy

    message = email.message_from_bytes(
        document_formats.with_safe_charsets(data), policy=email.policy.default
    )
    lines = [
        "%s: %s" % (name, message[name])
        for name in ("From", "To", "Cc", "Subject", "Date")
        if message[name]
    ]
    body = message.get_body(preferencelist=("plain", "html"))
    body_text = document_formats.part_text(body) if body is not None else ""
    if body is not None and body.get_content_type() == "text/html":
        body_text = html_text.page(body_text.encode("utf-8"))[1][0][1]
    attachments = [_attachment(part) for part in message.iter_attachments()]
    texts = _with_attachments(lines, body_text, attachments)
    return str(message["Subject"] or ""), texts


def _attachment(part: Any) -> Any:
    """Return (name, bytes) of an attachment; a message has no bytes of its own."""
    name = part.get_filename() or ""
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        return name or "message.eml", inner[0].as_bytes() if inner else b""
    return name, part.get_payload(decode=True) or b""


def _with_attachments(lines: Any, body: Any, attachments: Any) -> Any:
    """Return the parts of a message: its head with its body, and its attachments."""
    names = [name for name, _ in attachments if name]
    if names:
        lines = [*lines, "Attachments: %s" % ", ".join(names)]
    parts = [(0, "\n".join([*lines, "", body]))]
    if len(attachments) > _MAX_ATTACHMENTS:
        document_formats.notes.append(
            "Attachments after the first %d were not read" % _MAX_ATTACHMENTS
        )
    for name, data in attachments[:_MAX_ATTACHMENTS]:
        parts += [(0, text) for text in _attachment_texts(name, data)]
    return parts


def _attachment_texts(name: Any, data: Any) -> Any:
    """Return the texts of an attachment. One that cannot be read is named in the notes: the
    message can be read without it."""
    # That module needs this one.
    import document_reader  # pyright: ignore[reportMissingImports]

    label = name or "without a name"
    if _depth[0] >= _MAX_DEPTH:
        document_formats.notes.append("Attachment %s was not read: nested" % label)
        return []
    _depth[0] += 1
    try:
        found = document_reader.read(name, data)
    except MemoryError:
        raise
    except Exception as error:
        document_formats.notes.append(
            "Attachment %s was not read: %s" % (label, str(error)[:200])
        )
        return []
    finally:
        _depth[0] -= 1
    if found["scanned"]:
        document_formats.notes.append("Pictures in attachment %s were not read" % label)
    texts = [part["text"] for part in found["parts"]]
    return ["Attachment %s:\n\n%s" % (label, texts[0]), *texts[1:]] if texts else []


def msg(data: Any) -> Any:
    """Return (subject, [(0, text)]) of an Outlook message, as `eml` does. Its properties are
    streams of an OLE compound file."""
    import olefile

    with olefile.OleFileIO(io.BytesIO(data)) as file:
        subject = _property(file, "", "0037")
        sender = _sender(_property(file, "", "0C1A"), _property(file, "", "0C1F"))
        head = [
            ("From", sender),
            ("To", _property(file, "", "0E04")),
            ("Cc", _property(file, "", "0E03")),
            ("Subject", subject),
        ]
        body = _property(file, "", "1000")
        # 0x1013 is the HTML body.
        if not body and file.exists("__substg1.0_10130102"):
            markup = file.openstream("__substg1.0_10130102").read()
            body = html_text.page(markup)[1][0][1]
        attachments = list(_msg_attachments(file))
    lines = ["%s: %s" % header for header in head if header[1]]
    return subject, _with_attachments(lines, body, attachments)


def _sender(name: Any, address: Any) -> Any:
    """Return a sender as email programs show it."""
    if name and "@" in address and name != address:
        return "%s <%s>" % (name, address)
    return address if name == address else " ".join(filter(None, (name, address)))


def _msg_attachments(file: Any) -> Any:
    """Yield (name, bytes) of the attachments, each of which is a storage."""
    folders = {path[0] for path in file.listdir() if len(path) > 1}
    for folder in sorted(folders):
        if not folder.startswith("__attach_version1.0_"):
            continue
        # The long name, the short one, the shown one.
        names = (_property(file, folder + "/", tag) for tag in ("3707", "3704", "3001"))
        name = next(filter(None, names), "")
        stream = folder + "/__substg1.0_37010102"
        yield name, file.openstream(stream).read() if file.exists(stream) else b""


def _property(file: Any, folder: Any, number: Any) -> Any:
    """Return a property's text by its MAPI tag; "" if it is missing. `folder` is "" or
    ends with a slash."""
    for type_code, encoding in (("001F", "utf-16-le"), ("001E", "cp1252")):
        # Strings are stored as UTF-16 or in the ANSI code page, depending on the
        # property type.
        name = "%s__substg1.0_%s%s" % (folder, number, type_code)
        if file.exists(name):
            return file.openstream(name).read().decode(encoding, "replace").rstrip("\0")
    return ""
