"""Texts whose encoding is not stated: responses of HTTP nodes, and documents."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelyard.sandbox.inside.text_encodings as text_encodings
from modelyard.sandbox.inside.text_encodings import declared_label, guess
from modelyard.workflow.engine import Status
from modelyard.workflow.variables import File
from tests.workflow.building import app_of
from tests.workflow.conftest import Bench

pytestmark = pytest.mark.proof("workflow-cases")

SHORT_TEXTS = [
    ("gbk", "姓名,电话\n张三,123\n李四,456\n"),
    ("gbk", "客户编号,产品名称,数量\n1,螺丝刀,20\n"),
    ("gbk", "张伟"),
    ("gb18030", "今天的天气很好，我们去公园。"),
    ("big5", "姓名,電話\n張三,123\n李四,456\n"),
    ("big5", "陳怡君,林志豪"),
    ("euc_kr", "이름,전화\n김철수,123\n"),
    ("euc_kr", "서울특별시 강남구"),
    ("cp932", "名前,電話\n山田太郎,123\n"),
    ("cp932", "こんにちは"),
    ("euc_jp", "商品の名前と価格"),
    ("iso2022_jp", "こんにちは"),
    ("cp1251", "Имя,Телефон\nИван,123\n"),
    ("cp1251", "Иванов Иван Иванович, директор"),
    ("koi8_r", "Привет мир"),
    ("cp866", "Привет мир"),
    ("cp1253", "Καλημέρα κόσμε"),
    ("cp1255", "שם הלקוח וכתובת המשרד"),
    ("cp1256", "مرحبا بالعالم"),
    ("cp874", "สวัสดีชาวโลก"),
    ("cp1252", "Name,Straße\nMüller,Köln\n"),
    ("cp1252", "Année,Prénom\nRené\n"),
    ("cp1252", "Señor Núñez"),
    ("cp1250", "Jméno,Telefon\nJiří Dvořák"),
    ("cp1250", "Zażółć gęślą jaźń"),
    ("cp1254", "Adı,Soyadı\nŞükrü"),
    ("utf-16-le", "name,phone\nann,1\n"),
    ("utf-16-be", "name,phone\nann,1\n"),
]


@pytest.fixture(scope="module")
def document_text() -> Any:
    """The decoder of the sandbox's documents; its program imports by plain names."""
    folder = str(Path(text_encodings.__file__).parent)
    sys.path.insert(0, folder)
    try:
        import document_formats  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(folder)
    return document_formats.text


@pytest.mark.parametrize(("encoding", "text"), SHORT_TEXTS)
def test_short_texts_keep_their_script(encoding: str, text: str, document_text: Any):
    data = text.encode(encoding)
    assert data.decode(guess(data)[0]) == text
    if not data.isascii():
        assert document_text(data) == text


def test_a_guess_says_whether_it_is_certain():
    assert guess("姓名,电话\n张三,123\n李四,456\n".encode("gbk")) == ("gb18030", True)
    assert guess("张伟".encode("gbk")) == ("gb18030", False)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_guessed(data: bytes):
    codec, _ = guess(data)
    data.decode(codec, "replace")


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (b"<meta charset=gb2312>", "gb2312"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">', "shift_jis"),
        (b'<?xml version="1.0" encoding="windows-1251"?>', "windows-1251"),
        (b"<?xml version='1.0' encoding='UTF-16'?>", "utf-8"),
        (b"<p>charset=gb2312</p>", ""),
        (b"x" * 5000 + b"<meta charset=gb2312>", ""),
    ],
)  # fmt: skip
def test_pages_declare_their_encoding(data: bytes, label: str):
    assert declared_label(data) == label


PAGE = "<html><meta charset=gb2312><p>价格</p></html>"


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        pytest.param("text/html", PAGE.encode("gbk"), PAGE, id="meta"),
        pytest.param("text/html", PAGE.encode(), PAGE, id="meta that is wrong"),
        pytest.param(
            "text/html; charset=gbk", "价格".encode("gbk"), "价格", id="header"
        ),
        pytest.param(
            "application/json", b"\xef\xbb\xbf" + '{"价": 1}'.encode(), '{"价": 1}', id="mark"
        ),
        pytest.param(
            "application/json", '{"姓名": "张三"}'.encode("gbk"), '{"姓名": "张三"}', id="guess"
        ),
        pytest.param(
            "text/xml",
            '<?xml version="1.0" encoding="windows-1251"?><a>Да</a>'.encode("cp1251"),
            '<?xml version="1.0" encoding="windows-1251"?><a>Да</a>',
            id="xml",
        ),
        pytest.param(
            "text/html",
            "<meta charset=iso-2022-jp>こんにちは".encode("iso2022_jp"),
            "<meta charset=iso-2022-jp>こんにちは",
            id="seven bits",
        ),
        pytest.param("text/html", b"<meta charset=punycode>a-b", "<meta charset=punycode>a-b", id="no text encoding"),
    ],
)  # fmt: skip
def test_an_http_node_reads_the_text_of_a_response(
    bench: Bench, content_type: str, body: bytes, text: str, document_text: Any
):
    bench.http.answers.append((".", 200, {"content-type": content_type}, body))
    app = app_of(
        {
            "start": {"type": "start"},
            "h": {"type": "http-request", "method": "get", "url": "http://x.example/"},
            "end": {"type": "end", "outputs": [{"variable": "b", "value_selector": ["h", "body"]}]},
        },
        ["start > h", "h > end"],
    )  # fmt: skip
    outcome, _ = bench.run(app)
    assert outcome.outputs == {"b": text}
    # Documents are read by the same rules.
    assert document_text(body) == text


def test_a_guessed_encoding_is_noted(bench: Bench):
    body = '{"姓名": "张三"}'.encode("gbk")
    bench.http.answers.append((".", 200, {"content-type": "application/json"}, body))
    app = app_of(
        {"start": {"type": "start"}, "h": {"type": "http-request", "method": "get", "url": "http://x.example/"}},
        ["start > h"],
    )  # fmt: skip
    _, events = bench.run(app)
    process = events[-2].process_data  # type: ignore[union-attr]
    assert process["encoding"] == {"guessed": "gb18030", "certain": True}
    assert process["warnings"] == [
        "The encoding of the response is not stated; it was read as gb18030"
    ]


@pytest.mark.parametrize(
    ("name", "content", "warnings"),
    [
        ("a.txt", "张三和李四在北京见面".encode("gbk"), ["The encoding of a.txt is not stated; it was read as gb18030"]),
        ("a.csv", b"caf\xe9", ["The encoding of a.csv is not stated; it was read as CODEC, and the guess is uncertain"]),
        ("a.txt", "姓名".encode(), None),
        ("a.txt", "姓名".encode("utf-8-sig"), None),
        ("a.html", "<meta charset=gbk><p>姓名</p>".encode("gbk"), None),
        ("a.json", b"{}", None),
    ],
)  # fmt: skip
def test_the_extractor_warns_of_a_guessed_encoding(
    bench: Bench, name: str, content: bytes, warnings: list[str] | None
):
    bench.files.contents["f"] = content
    extension = name[name.index(".") :]
    file = File(type="document", related_id="f", filename=name, extension=extension)
    extract = {"type": "document-extractor", "variable_selector": ["sys", "files"]}
    app = app_of({"start": {"type": "start"}, "x": extract}, ["start > x"])
    outcome, events = bench.run(app, files=[file])
    assert outcome.status is Status.SUCCEEDED, outcome.error
    process = events[-2].process_data  # type: ignore[union-attr]
    codec = guess(content)[0]
    expected = warnings and [text.replace("CODEC", codec) for text in warnings]
    assert process.get("warnings") == expected


def test_the_extractor_reads_a_short_list_of_names(bench: Bench):
    bench.files.contents["f"] = "姓名,电话\n张三,123\n".encode("gbk")
    file = File(type="document", related_id="f", filename="names.csv", extension=".csv")
    app = app_of(
        {
            "start": {"type": "start"},
            "x": {"type": "document-extractor", "variable_selector": ["sys", "files"]},
            "end": {"type": "end", "outputs": [{"variable": "r", "value_selector": ["x", "text"]}]},
        },
        ["start > x", "x > end"],
    )  # fmt: skip
    outcome, _ = bench.run(app, files=[file])
    assert outcome.status is Status.SUCCEEDED, outcome.error
    assert "张三" in outcome.outputs["r"][0]
