"""Tests for the network that a plugin's manifest asks for and a tenant grants."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from tools.show.plugin_attacks import attacker

from modelyard.base.errors import PackageError
from modelyard.base.settings import EgressSettings
from modelyard.plugins.manifest import read_manifest
from modelyard.plugins.package import package_folder
from modelyard.tenant_plugins.grants import Grant
from modelyard.transport.egress import EgressRefusedError, EgressRules
from modelyard.transport.egress_proxy import EgressProxy
from modelyard.transport.origins import Origin
from tests.gateway.conftest import start_gateway  # noqa: F401
from tests.plugins.conftest import PluginGateway, environments, plugged  # noqa: F401
from tests.security.test_plugins import Prisoner, wheels  # noqa: F401

pytestmark = pytest.mark.proof("plugin-escape")
LABELS = st.from_regex(r"[a-z]([a-z0-9]{0,5}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join)


def is_allowed(host: str, *hosts: str) -> bool:
    proxy = EgressProxy(EgressRules, lambda: "http://127.0.0.1:1", hosts=hosts)
    try:
        proxy._check_host(Origin("https", host, 443))
    except EgressRefusedError:
        return False
    return True


@given(name=NAMES, second_name=NAMES)
def test_a_name_allows_itself_and_a_pattern_all_names_below(
    name: str, second_name: str
):
    # Below, `x` is what is added to a name.
    assume("x" not in name.split("."))
    assert is_allowed(name, name)
    assert is_allowed(f"{name.upper()}.", name)
    assert is_allowed(second_name, name) == (second_name == name)
    assert is_allowed(f"{second_name}.{name}", f"*.{name}")
    assert not is_allowed(name, f"*.{name}")
    # Neither an ending nor a beginning of the name is enough.
    assert not is_allowed(f"x{name}", f"*.{name}")
    assert not is_allowed(f"{name}.x", f"*.{name}")
    assert not is_allowed(name)


def manifest_with(network: Any) -> Any:
    permission = {} if network is None else {"network": network}
    document = {
        "version": "0.0.1", "author": "me", "name": "x", "plugins": {"tools": ["x.yaml"]},
        "resource": {"permission": permission},
    }  # fmt: skip
    return read_manifest(document, "manifest.yaml").permissions


def test_a_manifest_asks_for_any_host_for_some_or_for_none():
    assert manifest_with(None).hosts is None
    assert manifest_with({"hosts": ["b.example", "*.a.example"]}).hosts == (
        "*.a.example",
        "b.example",
    )
    assert manifest_with({"enabled": False, "hosts": ["a.example"]}).hosts == ()
    assert manifest_with(None).without_network().hosts == ()


@pytest.mark.parametrize(
    "host", ["*", "*.", "https://a.example", "a.example:443", "a_b", "*a.example", ""]
)
def test_a_host_that_is_no_name_is_refused_with_its_field(host: str):
    with pytest.raises(PackageError, match="network"):
        manifest_with({"hosts": [host]})


@pytest.fixture
def service() -> Iterator[str]:
    """A server on this machine that the operator lets tenants reach."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"canary"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def install_with(
    prisoner: Prisoner, name: str, network: Any, grant: Grant | None = None
) -> None:
    """Install a plugin for acme whose manifest asks for a network."""
    folder = attacker(prisoner.folder, name)
    path = folder / "manifest.yaml"
    document = yaml.safe_load(path.read_text())
    permission = document.setdefault("resource", {}).setdefault("permission", {})
    permission["network"] = network
    path.write_text(yaml.safe_dump(document))
    prisoner.gateway.run_on_loop(
        prisoner.gateway.parts.installations.add(
            "acme", package_folder(folder), grant=grant
        )
    )


def test_a_plugin_connects_only_where_its_manifest_and_the_grant_permit(
    plugged: Callable[..., PluginGateway],  # noqa: F811
    tmp_path: Path,
    wheels: Path,  # noqa: F811
    service: str,
):
    """The plugins share an environment and a tenant, but no network."""
    prisoner = Prisoner(
        plugged, tmp_path / "odd", wheels, egress=EgressSettings(private=[service])
    )
    get = f"found = proxied('GET http://{service}/ HTTP/1.1\\r\\nHost: x\\r\\n')"
    install_with(prisoner, "named", {"hosts": ["127.0.0.1"]})
    install_with(prisoner, "elsewhere", {"hosts": ["api.example"]})
    install_with(prisoner, "silent", {"enabled": False})
    install_with(prisoner, "refused", {}, Grant(permissions=[], has_network=False))
    for plugin in ("attacker", "named"):
        assert "canary" in prisoner.run_code(get, plugin=plugin)["got"]
    reason = prisoner.refusal_of(get, plugin="elsewhere")
    assert "does not name the host '127.0.0.1'" in reason
    assert "api.example" in reason
    for plugin in ("silent", "refused"):
        assert "no permission 'network'" in prisoner.refusal_of(get, plugin=plugin)

    # A change applies to a running plugin, and to that one alone.
    installations = prisoner.gateway.parts.installations

    def set_network(plugin: str, *, is_on: bool) -> None:
        prisoner.gateway.run_on_loop(
            installations.grant("acme", f"odd/{plugin}", None, has_network=is_on)
        )
        prisoner.gateway.run_on_loop(installations.wait_until_idle())

    set_network("refused", is_on=True)
    set_network("attacker", is_on=False)
    assert "canary" in prisoner.run_code(get, plugin="refused")["got"]
    assert "no permission 'network'" in prisoner.refusal_of(get)
    assert "canary" in prisoner.run_code(get, plugin="named")["got"]
    # The other tenant has granted it itself.
    assert "canary" in prisoner.run_code(get, "globex")["got"]
