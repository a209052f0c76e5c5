"""Tests for the route to providers.

Settings, environment variables, a provider's own proxy, and addresses set by tenants.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from modelyard.app import Modelyard
from modelyard.app.maintenance import HealthChecks
from modelyard.app.network import network_of
from modelyard.base.errors import ConfigError, InvokeError
from modelyard.base.log import TextFormatter
from modelyard.base.settings import (
    CredentialSettings,
    NetworkSettings,
    ProviderSettings,
    Settings,
)
from modelyard.base.settings_file import mask_secrets, unmask_secrets
from modelyard.testing import Upstream, UpstreamRequest, chat_answer

Start = Callable[..., Upstream]
PASSWORD = "hush-hush-9"


def said(text: str) -> Callable[[UpstreamRequest], object]:
    return lambda request: chat_answer(text)


def at(server: Upstream, user: str = "") -> str:
    return server.url.removesuffix("/v1").replace("//", f"//{user}@" if user else "//")


def provider(name: str, base_url: str, **extra_settings: str) -> ProviderSettings:
    credential = CredentialSettings(values={"api_key": "sk"})
    return ProviderSettings(
        name=name, base_url=base_url, credentials=[credential], **extra_settings
    )


async def answers(
    settings: Settings, environ: Mapping[str, str], *models: str
) -> list[str]:
    async with Modelyard(settings, environ=environ) as yard:
        return [(await yard.chat("hi", model=model)).text for model in models]


def test_proxies_are_set_for_all_providers_or_for_one(upstream: Start, tmp_path: Path):
    general, own_proxy, direct = (
        upstream(said("general")),
        upstream(said("own")),
        upstream(said("direct")),
    )
    settings = Settings(
        home=str(tmp_path),
        network=NetworkSettings(proxy=at(general, f"me:{PASSWORD}")),
        providers=[
            provider("one", "http://api.one.test/v1"),
            provider("two", "http://api.two.test/v1", proxy=at(own_proxy)),
            provider("three", direct.url, proxy="none"),
        ],
    )
    assert asyncio.run(answers(settings, {}, "one/m", "two/m", "three/m")) == [
        "general",
        "own",
        "direct",
    ]
    assert general.requests[0].path == "http://api.one.test/v1/chat/completions"
    assert general.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert "proxy-authorization" not in own_proxy.requests[0].headers


def test_proxy_variables_apply_if_the_settings_have_no_proxy(
    upstream: Start, tmp_path: Path
):
    proxy, direct = upstream(said("by proxy")), upstream(said("direct"))
    environ = {"HTTP_PROXY": at(proxy), "NO_PROXY": "127.0.0.1"}
    providers = [provider("one", "http://api.one.test/v1"), provider("two", direct.url)]
    settings = Settings(home=str(tmp_path), providers=providers)
    assert asyncio.run(answers(settings, environ, "one/m", "two/m")) == [
        "by proxy",
        "direct",
    ]
    no_proxy = Settings(
        home=str(tmp_path), providers=providers, network=NetworkSettings(proxy="none")
    )
    with pytest.raises(InvokeError, match=r"api\.one\.test cannot be reached"):
        asyncio.run(answers(no_proxy, environ, "one/m"))
    own_network = NetworkSettings(proxy=at(proxy), no_proxy=["127.0.0.0/8"])
    assert asyncio.run(
        answers(
            Settings(home=str(tmp_path), providers=providers, network=own_network),
            {},
            "two/m",
        )
    ) == ["direct"]


def test_a_reload_applies_a_valid_proxy_and_ignores_an_invalid_one(
    upstream: Start, tmp_path: Path
):
    old, new = upstream(said("old")), upstream(said("new"))

    def by(proxy: str) -> Settings:
        network = NetworkSettings(proxy=proxy)
        return Settings(
            home=str(tmp_path),
            providers=[provider("one", "http://a.test/v1")],
            network=network,
        )

    async def chat_across_reloads() -> list[str]:
        async with Modelyard(by(at(old)), environ={}) as yard:
            first = (await yard.chat("hi", model="one/m")).text
            with pytest.raises(
                ConfigError, match=r"network\.proxy: unsupported proxy scheme 'socks5'"
            ):
                yard.reload(by("socks5://p:1"))
            second = (await yard.chat("hi", model="one/m")).text
            yard.reload(by(at(new)))
            return [first, second, (await yard.chat("hi", model="one/m")).text]

    assert asyncio.run(chat_across_reloads()) == ["old", "old", "new"]


def test_a_health_check_uses_the_providers_own_proxy(upstream: Start, tmp_path: Path):
    own_proxy = upstream(said("fine"))
    provider_settings = provider(
        "one",
        "http://a.test/v1",
        proxy=at(own_proxy),
        health_url="http://a.test/health",
    )

    async def ask() -> None:
        async with Modelyard(
            Settings(home=str(tmp_path), providers=[provider_settings]), environ={}
        ) as yard:
            await HealthChecks(
                yard.services.network.clients, yard.services.providers.manager
            ).check(provider_settings)

    asyncio.run(ask())
    assert own_proxy.requests[0].path == "http://a.test/health"


@pytest.mark.parametrize("proxy", ["socks5://p:1", "http://[::1", "ftp://p"])
def test_an_invalid_proxy_is_reported_at_startup(tmp_path: Path, proxy: str):
    with pytest.raises(ConfigError, match="ALL_PROXY"):
        Modelyard(Settings(home=str(tmp_path)), environ={"ALL_PROXY": proxy})
    with pytest.raises(ConfigError, match="A provider's 'proxy'"):
        Modelyard(
            Settings(
                home=str(tmp_path),
                providers=[provider("a", "http://a/v1", proxy=proxy)],
            ),
            environ={},
        )


def test_a_missing_certificate_file_is_reported_at_startup(tmp_path: Path):
    bad_settings = Settings(network=NetworkSettings(ca_file=str(tmp_path / "none.pem")))
    with pytest.raises(ConfigError, match=r"network\.ca_file .* does not exist"):
        network_of(bad_settings, {})


def test_a_proxy_password_is_never_shown(
    upstream: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    settings = Settings(
        home=str(tmp_path),
        network=NetworkSettings(proxy=f"http://me:{PASSWORD}@127.0.0.1:1"),
        providers=[provider("one", "http://a.test/v1")],
    )
    with pytest.raises(InvokeError) as raised:
        asyncio.run(answers(settings, {}, "one/m"))
    logging.getLogger("modelyard").warning(f"as it stands: {PASSWORD}")
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert any("providers are reached through a proxy" in line for line in lines)
    assert PASSWORD not in "\n".join([str(raised.value), *lines])


@pytest.mark.parametrize(
    "proxy_url", ["http://me:hush@p.test:1", "http://token@p.test", "me:hush@p.test"]
)
def test_the_settings_file_is_shown_without_a_proxys_password(proxy_url: str):
    text = f'network: {{proxy: "{proxy_url}"}}\nproviders:\n  - {{name: a, proxy: "{proxy_url}"}}\n'
    masked = mask_secrets(text)
    assert "hush" not in masked
    assert "token" not in masked
    assert unmask_secrets(masked, text).replace('"', "") == text.replace('"', "")
