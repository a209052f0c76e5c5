"""Tests for authentication at providers: API keys, AWS signatures, Google tokens."""

import asyncio
import base64
import datetime
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from modelyard.base.errors import ConfigError, InvokeAuthorizationError
from modelyard.providers.auth import (
    AwsAuth,
    GoogleAuth,
    KeyAuth,
    build_auth,
    read_account,
)
from modelyard.testing import Answer, FakeClock, Handler, Upstream, json_answer
from modelyard.transport.aws_signature import sign_v4
from modelyard.transport.http import HttpClient

Start = Callable[[Handler], Upstream]


def test_a_key_is_sent_in_its_header():
    def headers(style: dict[str, Any], **credentials: str) -> Any:
        return asyncio.run(
            build_auth(style, "api_key", HttpClient()).headers(
                "GET", "http://x/", credentials, []
            )
        )

    assert headers({}, api_key="k") == {"authorization": "Bearer k"}
    assert headers({"header": "x-api-key"}, api_key="k") == {"x-api-key": "k"}
    assert headers({"header": "authorization", "prefix": "Token "}, api_key="k") == {
        "authorization": "Token k"
    }
    assert headers({}) == {}
    with pytest.raises(ConfigError, match="key, aws or google"):
        build_auth({"style": "smoke"}, None, HttpClient())
    assert isinstance(build_auth({}, "api_key", HttpClient()), KeyAuth)


def test_the_signature_of_the_aws_test_case():
    """The case `get-vanilla-query-order-key-case` of AWS's Signature V4 test suite."""
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    signed = sign_v4(
        "GET",
        "https://example.amazonaws.com/?Param2=value2&Param1=value1",
        headers,
        [],
        access_key="AKIDEXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        region="us-east-1",
        service="service",
        moment=datetime.datetime(2015, 8, 30, 12, 36, tzinfo=datetime.UTC),
    )
    assert signed.endswith(
        "Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
    )
    assert "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request" in signed


def test_aws_accepts_keys_or_a_token_and_names_missing_fields():
    auth = AwsAuth("bedrock", FakeClock())

    def headers(**credentials: str) -> Any:
        url = "https://bedrock.example/model/a%3A0/converse"
        return asyncio.run(auth.headers("POST", url, credentials, [b"{}"]))

    assert headers(api_key="k") == {"authorization": "Bearer k"}
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "s"}
    assert headers(**keys)["authorization"].startswith("AWS4-HMAC-SHA256 Credential=a/")
    with_token = headers(**keys, aws_session_token="t")
    assert with_token["x-amz-security-token"] == "t"
    assert "x-amz-security-token" in with_token["authorization"]
    with pytest.raises(ConfigError, match="aws_secret_access_key"):
        headers(aws_access_key_id="a")


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def account(key: rsa.RSAPrivateKey, token_uri: str) -> str:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return json.dumps(
        {
            "client_email": "a@b",
            "private_key": pem,
            "private_key_id": "1",
            "token_uri": token_uri,
        }
    )


def test_google_exchanges_an_assertion_for_a_token_and_caches_it(
    upstream: Start, key: rsa.RSAPrivateKey
):
    server = upstream(
        lambda request: json_answer(
            {"access_token": f"t{len(server.requests)}", "expires_in": 3600}
        )
    )
    clock = FakeClock()

    async def work() -> list[str]:
        client = HttpClient()
        auth = GoogleAuth(client, clock)
        account_json = account(key, server.url + "/token")
        authorizations = [
            (
                await auth.headers(
                    "POST", "http://x/", {"service_account_key": account_json}, []
                )
            )["authorization"]
        ]
        authorizations.append(
            (
                await auth.headers(
                    "POST", "http://x/", {"service_account_key": account_json}, []
                )
            )["authorization"]
        )
        clock.advance(3600)
        authorizations.append(
            (
                await auth.headers(
                    "POST", "http://x/", {"service_account_key": account_json}, []
                )
            )["authorization"]
        )
        await client.aclose()
        return authorizations

    assert asyncio.run(work()) == ["Bearer t1", "Bearer t1", "Bearer t2"]
    form_fields = parse_qs(server.requests[0].body.decode())
    head, claims, signature = form_fields["assertion"][0].split(".")
    padded = base64.urlsafe_b64decode(signature + "==")
    key.public_key().verify(
        padded, f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    decoded_claims = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert (
        decoded_claims["iss"],
        decoded_claims["aud"],
        decoded_claims["exp"] - decoded_claims["iat"],
    ) == ("a@b", server.url + "/token", 3600)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (
            json_answer(
                {"error": "invalid_grant", "error_description": "Invalid JWT"},
                status=400,
            ),
            "Invalid JWT",
        ),
        (Answer(body=b"<html>"), "not JSON"),
        (json_answer([]), "no token"),
    ],
)
def test_google_refusing_is_an_authorisation_error(
    upstream: Start, key: rsa.RSAPrivateKey, answer: Answer, part: str
):
    server = upstream(lambda request: answer)

    async def work() -> None:
        client = HttpClient()
        try:
            await GoogleAuth(client).headers(
                "GET",
                "http://x/",
                {"service_account_key": account(key, server.url)},
                [],
            )
        finally:
            await client.aclose()

    with pytest.raises(InvokeAuthorizationError, match=part):
        asyncio.run(work())


def test_an_invalid_key_is_named_but_not_shown(key: rsa.RSAPrivateKey):
    for invalid_account in ("nonsense!", "{}", "[]", base64.b64encode(b"{}").decode()):
        with pytest.raises(ConfigError, match="service_account_key"):
            read_account(invalid_account)
    text = account(key, "http://x/")
    assert read_account(base64.b64encode(text.encode()).decode()) == json.loads(text)
    broken = json.dumps({"client_email": "a", "private_key": "canary"})
    with pytest.raises(ConfigError, match="Invalid private_key") as caught:
        asyncio.run(
            GoogleAuth(HttpClient()).headers(
                "GET", "http://x/", {"service_account_key": broken}, []
            )
        )
    assert "canary" not in str(caught.value)
    assert asyncio.run(
        GoogleAuth(HttpClient()).headers("GET", "http://x/", {"api_key": "k"}, [])
    ) == {"x-goog-api-key": "k"}
