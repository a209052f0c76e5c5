"""Tests for parsing proxy settings and keep-alive headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import ConfigError
from modelyard.transport.http import keep_alive_seconds
from modelyard.transport.origins import parse_url
from modelyard.transport.proxies import Proxies, parse_exceptions, parse_proxy


@pytest.mark.parametrize(
    ("line", "seconds"),
    [("timeout=5", 4.0), ("max=100, timeout=60", 59.0), ('Timeout = "2"', 1.5), ("timeout=0", 0.0), ("max=3", float("inf")), ("xtimeout=1", float("inf")), ("", float("inf"))],
)  # fmt: skip
def test_keep_alive_seconds(line: str, seconds: float):
    assert keep_alive_seconds(line) == seconds


@pytest.mark.parametrize(
    "text", ["socks5://p:1", "http://", "http://p:99999", "http://[::1", "ftp://p"]
)
def test_an_invalid_proxy_error_does_not_show_the_password(text: str):
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as raised:
        parse_proxy(text.replace("//", "//user:hush-hush@"), "HTTPS_PROXY")
    assert "hush" not in str(raised.value)
    assert "hush" not in repr(parse_proxy("user:hush-hush@p:3128", "x"))


HOSTS = st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,3}", fullmatch=True)


@given(HOSTS, HOSTS, st.integers(1, 65_535))
def test_an_exception_covers_a_name_and_its_subdomains(
    entry: str, host: str, port: int
):
    exceptions, covers_all = parse_exceptions([f".{entry.upper()}"])
    proxies = Proxies(parse_proxy("p", "x"), None, exceptions, covers_all)
    is_direct = proxies.route_to(parse_url(f"http://{host}:{port}/")[0]).proxy is None
    labels, suffix_labels = host.split("."), entry.split(".")
    assert is_direct == (labels[-len(suffix_labels) :] == suffix_labels)
