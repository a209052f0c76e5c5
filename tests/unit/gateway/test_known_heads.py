"""Heads that are recognised by their bytes."""

import pytest

from modelyard.gateway.known_heads import KnownHeads

LINES = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\n"
BODY = b'{"model": "m"}'


def request(length: int | str, body: bytes, name: str = "Content-Length") -> bytes:
    return f"{LINES}{name}: {length}\r\nAccept: */*\r\n\r\n".encode() + body


def known(name: str = "Content-Length") -> KnownHeads[str]:
    """Heads of which one is stored."""
    heads = KnownHeads[str]()
    length = str(len(BODY)).encode()
    heads.store(
        request(len(BODY), BODY, name), [(b"content-length", length)], "meaning"
    )
    return heads


@pytest.mark.parametrize("name", ["Content-Length", "content-length"])
@pytest.mark.parametrize("body", [BODY, b"{}", b"", b"x" * 99_999])
def test_a_head_is_known_whatever_the_length_of_the_body(name: str, body: bytes):
    assert known(name).find(request(len(body), body, name)) == ("meaning", body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        request(len(BODY), BODY)[:-1],
        request(len(BODY), BODY) + b"P",
        request(len(BODY), BODY) * 2,
        request(len(BODY), BODY).partition(b"\r\n\r\n")[0],
        request("", b""),
        request("+2", b"{}"),
        request("2 ", b"{}"),
        request("\u0662".encode().decode("latin-1"), b"{}"),
        request(100_000, b"x" * 100_000),
        request(len(BODY), BODY, "CONTENT-LENGTH"),
        request(len(BODY), BODY).replace(b"Bearer k", b"Bearer j"),
        request(len(BODY), BODY).replace(b"Accept: */*", b"Content-Length: 1"),
        request(len(BODY), BODY).replace(b"Accept: */*", b"Expect: 100-continue"),
        request(len(BODY), BODY).replace(b"POST", b"GET"),
    ],
)
def test_anything_else_has_to_be_parsed(data: bytes):
    assert known().find(data) is None


@pytest.mark.parametrize(
    "lengths", [[], [b"2"], [b"14", b"14"], [b"014"]], ids=["none", "other", "2", "0"]
)
def test_a_head_whose_length_the_parser_has_read_differently_is_not_stored(
    lengths: list[bytes],
):
    heads = KnownHeads[str]()
    headers = [(b"content-length", length) for length in lengths]
    heads.store(request(len(BODY), BODY), headers, "meaning")
    assert heads.find(request(len(BODY), BODY)) is None


def test_the_heads_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("modelyard.gateway.known_heads._MAX_HEADS", 2)
    heads = KnownHeads[int]()
    requests = [
        request(2, b"{}").replace(b"Bearer k", f"Bearer {number}".encode())
        for number in range(3)
    ]
    for number, data in enumerate(requests):
        heads.store(data, [(b"content-length", b"2")], number)
    assert [heads.find(data) for data in requests] == [None, None, (2, b"{}")]


def test_heads_are_forgotten():
    heads = known()
    heads.clear()
    assert heads.find(request(len(BODY), BODY)) is None


def test_no_credential_is_kept():
    assert b"Bearer" not in repr(vars(known())).encode()
