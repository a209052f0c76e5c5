"""Tests for encodings named by other parties: they cannot make decoding slow."""

import ast
import codecs
import encodings.aliases
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import modelyard
from modelyard.base.charsets import LABELS, charset_of, codec_of, decode, decode_async
from modelyard.base.settings import EgressSettings
from modelyard.testing import Answer, Upstream, UpstreamRequest
from modelyard.tools.openapi import DescriptionError, parse
from modelyard.transport.egress import FetchedResponse
from tests.gateway.conftest import Running, start_gateway
from tests.gateway.test_traffic import ask
from tests.workflow.building import app_of

__all__ = ["start_gateway"]
pytestmark = pytest.mark.anyio
Start = Callable[..., Running]
SOURCE = Path(modelyard.__file__).parent
HOSTILE = ("punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "zlib", "bz2", "hex", "base64", "rot13",
           "quopri", "uu", "undefined", "mbcs", "nobody", "x" * 1000, "\0", "../etc/passwd", "UTF-8\r\nx: y")  # fmt: skip
MEGABYTE = 1 << 20


@pytest.mark.parametrize("name", HOSTILE)
def test_an_unknown_encoding_is_read_as_utf_8(name: str):
    assert codec_of(name) == "utf-8"
    assert decode("grüß".encode() + b"\xff", name) == "grüß�"


def test_only_listed_encodings_are_used():
    """For every name that Python knows: no codec outside the list is used."""
    listed = {*LABELS.values()}
    for name in {
        *encodings.aliases.aliases,
        *encodings.aliases.aliases.values(),
        *HOSTILE,
    }:
        assert codec_of(name) in listed
    assert not {"punycode", "idna"} & listed
    assert all(codecs.lookup(codec) for codec in listed)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("utf-8", b"\xc3\xa9", "é"), ("UTF8", b"\xc3\xa9", "é"), ("latin1", b"\xe9\x93", "é“"), ("us-ascii", b"\xe9", "é"),
        ("Shift_JIS", b"\x93\xfa", "日"), ("gb2312", b"\xc4\xe3", "你"), ("big5", b"\xa7\x41", "你"), ("euc-kr", b"\xb0\xa1", "가"),
        ("windows-1251", b"\xcf", "П"), ("koi8-r", b"\xf0", "П"), ("utf-16", b"a\0", "a"),
        ("latin1", b"\xef\xbb\xbf\xc3\xa9", "é"), ("utf-8", b"\xff\xfea\0", "a"), ("", b"", ""),
    ],
)  # fmt: skip
def test_text_is_read_as_browsers_read_it(name: str, data: bytes, text: str):
    assert decode(data, name) == text


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        ("text/html; charset=utf-8", "utf-8"), ('text/html;CHARSET="Shift_JIS"; x=y', "Shift_JIS"),
        ("text/html; charset = 'koi8-r'", "koi8-r"), ("text/html", ""), ("", ""), ("charset=", ""),
        ("text/plain; charset=" + "x" * 100_000, "x" * 40),
    ],
)  # fmt: skip
def test_the_name_is_found_in_a_content_type(content_type: str, name: str):
    assert charset_of(content_type) == name


def test_each_encoding_decodes_in_linear_time():
    """CPU time must grow with the length only.

    Four times the bytes may take only a bit more than four times as long.
    """
    samples = [
        os.urandom(4096) * 64,
        b"\x81" * (MEGABYTE // 4),
        b"a-" * (MEGABYTE // 8),
        b"\x1b$B" * (MEGABYTE // 12),
    ]
    for name in {codec: label for label, codec in LABELS.items()}.values():
        for sample in samples:
            cpu_start = time.process_time()
            decode(sample, name)
            assert time.process_time() - cpu_start < 1.0, name


async def test_large_texts_are_decoded_off_the_event_loop():
    assert await decode_async(b"a" * MEGABYTE, "punycode") == "a" * MEGABYTE
    assert await decode_async(b"a", "latin1") == "a"


@pytest.fixture
def hostile() -> Iterator[Upstream]:
    def answer(request: UpstreamRequest) -> Answer:
        name = request.path.rpartition("/")[2]
        return Answer(
            headers={"content-type": f"text/plain; charset={name}"},
            body=b"a-" * (MEGABYTE // 4),
        )

    with Upstream(answer) as server:
        yield server


def test_an_answer_in_punycode_does_not_block(start_gateway: Start, hostile: Upstream):
    host = hostile.url.removeprefix("http://").removesuffix("/v1")
    gateway = start_gateway(egress=EgressSettings(private=[host]))
    description = {
        "openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "servers": [{"url": hostile.url}],
        "paths": {"/punycode": {"get": {"operationId": "puny", "responses": {}}}},
    }  # fmt: skip
    provider_fields = {
        "name": "slow",
        "type": "api",
        "description": json.dumps(description),
    }
    assert ask(gateway, "POST", "/admin/tool-providers", provider_fields).status == 201
    calls = [("slow/puny", {}), ("http/http_request", {"url": f"{hostile.url}/punycode"}),
             ("http/http_request", {"url": f"{hostile.url}/idna"})]  # fmt: skip
    for tool, arguments in calls:
        # With the named codec the call would take a minute; `ask` times out after ten
        # seconds.
        response = ask(
            gateway, "POST", "/admin/tools/call", {"tool": tool, "arguments": arguments}
        )
        assert (response.status, response.json["error"]) == (200, None), response.body[
            :300
        ]


async def test_a_workflow_reads_an_answer_in_punycode_as_utf_8():
    request = {"type": "http-request", "method": "get", "url": "http://a.example"}
    nodes = {"start": {"type": "start", "variables": []}, "get": request}
    node: Any = app_of(nodes, ["start > get"]).graph().nodes["get"]
    for name in ("punycode", "idna", "nobody"):
        headers = {"content-type": f"text/plain; charset={name}"}
        answer = FetchedResponse(
            status=200,
            headers=headers,
            body=b"a-" * (MEGABYTE // 4),
            url="http://a.example",
        )
        outputs = await node._outputs(answer, answer.url, None, {})
        assert outputs["body"] == "a-" * (MEGABYTE // 4)


def test_email_messages_use_only_listed_encodings():
    """The sandbox parser may be killed, but no call may wait for it."""
    sys.path.insert(0, str(SOURCE / "sandbox" / "inside"))
    try:
        import document_formats  # pyright: ignore[reportMissingImports]
        import mail_text  # noqa: F401 # pyright: ignore
    finally:
        sys.path.pop(0)
    encoded_word = b"=?punycode?q?" + b"a-" * 5000 + b"?="
    message = (b"From: a@b.example\r\nSubject: " + encoded_word + b" =?koi8-r?q?=F0?= =?idna*en?q?x?=\r\n"
               b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"a-" * (MEGABYTE // 4))  # fmt: skip
    cpu_start = time.process_time()
    text = document_formats._eml(message)
    assert time.process_time() - cpu_start < 5.0
    assert "П" in text
    assert text.endswith("a-")
    assert [
        document_formats.is_charset(charset) for charset in ("idna", "\0", "iso-8859-1")
    ] == [False, False, True]


def test_a_description_that_expands_through_references_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    bomb = "\n".join(["openapi: 3.0.0", "info: {title: x, version: '1'}", *lines,
                      "paths: {/x: {get: {operationId: x, description: *a9}}}"])  # fmt: skip
    for text in (bomb, "openapi: 3.0.0\npaths: &p {/x: *p}"):
        with pytest.raises(
            DescriptionError, match="circular, nested too deeply, or expands"
        ):
            parse(text)
    twice = "openapi: 3.0.0\ninfo: &i {title: x, version: '1'}\nmore: *i\npaths: {/x: {get: {operationId: x}}}"
    assert parse(twice).title == "x"


# ------------------------------------------------------------- property over the source

_WRITTEN_OUT = {
    ("base/charsets.py", "codec"): "a byte order mark's",
    ("base/charsets.py", "codec_of(label)"): "of the list",
    ("base/content_disposition.py", "codec_of(charset or 'utf-8')"): "of the list",
    ("base/content_disposition.py", "codec_of(charset or '')"): "of the list",
    ("sandbox/inside/document_formats.py", "encoding"): "written out above",
    (
        "sandbox/inside/document_formats.py",
        "_WIDER.get(declared, declared)",
    ): "of the list: `is_charset` is asked first",
    (
        "sandbox/inside/document_formats.py",
        "codec",
    ): "one of the candidates, which are written out",
    ("sandbox/inside/rich_text.py", "self.codec()"): "a code page, or written out",
    ("sandbox/inside/text_encodings.py", "codec"): "a candidate, written out",
    ("sandbox/inside/mail_text.py", "encoding"): "written out above",
    (
        "sandbox/inside/web_pages.py",
        "charset",
    ): "of the list: it is looked up before it is handed in",
    ("sandbox/inside/web_pages.py", "encoding"): "a byte order mark's",
    (
        "sandbox/inside/web_pages.py",
        "'utf-16-be' if data[:1] == b'\\x00' else 'utf-16-le'",
    ): "written out",
    (
        "knowledge/split.py",
        "separator.encode('latin-1', 'backslashreplace')",
    ): "what is decoded: the codec is written out",
}
"""(file, expression) of each decoding whose encoding is not a literal"""
_OTHERS = ("json", "msgspec", "jwt", "base64", "tokenizer", "decoder", "_vector", "_any", "_rule", "_parts", "_settings",
           "_envelope", "_request")  # fmt: skip


def _decodings() -> Iterator[tuple[str, int, str]]:
    """Yield (file, line, source of the encoding) of each decoding.

    These are `….decode(x)` and `str(…, x)` whose x is not a literal.
    """
    for path in SOURCE.rglob("*.py"):
        name = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                for argument in _variable_encodings(node):
                    yield name, node.lineno, ast.unparse(argument)


def _variable_encodings(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call that are a text encoding and not a literal."""
    return [
        argument
        for argument in _encoding_arguments(call)
        if not isinstance(argument, ast.Constant)
    ]


def _encoding_arguments(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call that are a text encoding."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr == "decode":
        owner = ast.unparse(function.value).lower()
        last_name = owner.rpartition(".")[2]
        is_other = any(owner_part in last_name for owner_part in _OTHERS)
        if is_other or owner.startswith(("msgspec", "_decoders")):
            return []
        keywords = [word.value for word in call.keywords if word.arg == "encoding"]
        return call.args[:1] + keywords
    if isinstance(function, ast.Name) and function.id == "str":
        return call.args[1:2]
    return []


def test_every_decoding_uses_a_listed_encoding():
    decodings = {(name, encoding) for name, _, encoding in _decodings()}
    assert decodings <= set(_WRITTEN_OUT), sorted(decodings - set(_WRITTEN_OUT))
    assert set(_WRITTEN_OUT) <= decodings, "the list names what is gone"
