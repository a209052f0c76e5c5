"""Tests for the warnings of `modelyard doctor` about unsafe settings."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from modelyard.base.settings import Settings
from modelyard.cli.doctor import doctor
from modelyard.cli.unsafe_settings import UNSAFE, Facts, findings
from modelyard.gateway.http import finish_headers


def settings(**values: Any) -> Settings:
    return msgspec.convert(values, Settings)


def finding_names(server_settings: Settings, facts: Facts | None = None) -> set[str]:
    return {
        finding.name
        for finding in findings(server_settings, facts or Facts())
        if not finding.is_information
    }


KEY = "kT9vQ2xLr8WbZ4nYc7JdM3pH"
OPEN = {
    "host": "0.0.0.0",
    "trusted_proxies": ["10.0.0.0/8"],
    "plugins": {"debug_port": 0, "must_be_signed": True},
}
CASES: list[tuple[str, dict[str, Any], Facts]] = [
    ("plain network", {**OPEN, "trusted_proxies": []}, Facts()),
    ("every address is a trusted proxy", {"trusted_proxies": ["0.0.0.0/0"]}, Facts()),
    ("every address is a trusted proxy", {"trusted_proxies": ["::/0"]}, Facts()),
    ("weak API key", {"api_keys": ["short"]}, Facts()),
    ("weak API key", {"api_keys": ["a" * 40]}, Facts()),
    ("weak API key", {"api_keys": ["my-password-for-the-server-of-us"]}, Facts()),
    ("readable secrets", {"api_keys": [KEY]}, Facts(settings_file="m", is_file_readable=True, text=f"- {KEY}")),
    (
        "readable secrets", {"database": "postgresql://me:pw9@localhost/a"},
        Facts(settings_file="m", is_file_readable=True, text="me:pw9@"),
    ),
    ("database without TLS", {"database": "postgresql://me:pw@db.example/a"}, Facts()),
    ("Valkey without a password", {"shared": "valkeys://cache.example:6379"}, Facts()),
    ("Valkey without TLS", {"shared": "valkey://:pw@cache.example:6379"}, Facts()),
    ("mail without TLS", {"mail": {"host": "smtp.example", "tls": "none"}}, Facts()),
    ("private addresses", {"egress": {"private": ["10.0.0.1:80"]}}, Facts()),
    ("unusual ports", {"egress": {"ports": [80, 25]}}, Facts()),
    ("prompts in traces", {"telemetry": {"content": True}}, Facts()),
    ("prompts are recorded", {"telemetry": {"record": True}}, Facts()),
    ("credentials passed on", {"content": {"pass_authorization": True}}, Facts()),
    ("shared origin", {}, Facts(tenants=("acme",))),
    ("unsigned plugins", {**OPEN, "plugins": {"debug_port": 0}}, Facts()),
    (
        "plugin debug port",
        {**OPEN, "plugins": {"must_be_signed": True, "debug_host": "0.0.0.0"}},
        Facts(),
    ),
    ("plugin interface", {"plugins": {"open_interface": True}}, Facts()),
    ("root", {}, Facts(is_root=True)),
    ("sandbox", {}, Facts(sandbox="")),
    ("sandbox", {}, Facts(sandbox="namespaces")),
    ("no limit on connections", {"connections": {"head_seconds": 1e6}}, Facts()),
    ("tenants without limits", {"content": {"origin": "https://c.example"}}, Facts(unlimited_tenants=("acme",))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "configured", "facts"), CASES)
def test_each_unsafe_setting_is_said_and_nothing_else(
    name: str, configured: dict[str, Any], facts: Facts
):
    assert finding_names(settings(**configured), facts) == {name}


def test_default_settings_are_safe():
    assert finding_names(settings()) == set()
    assert finding_names(settings(**OPEN)) == set()
    local = {
        "database": "postgresql://me:pw@127.0.0.1/a",
        "shared": "valkey://localhost:6379",
    }
    assert finding_names(settings(**local)) == set()
    away = {
        "database": "postgresql://me:pw@db.example/a?sslmode=verify-full",
        "shared": "valkeys://:pw@c.example",
    }
    assert finding_names(settings(**away)) == set()
    assert (
        finding_names(settings(api_keys=[KEY]), Facts(is_file_readable=True)) == set()
    )


def test_possibly_intended_settings_are_information():
    reported = list(
        findings(settings(upgrade_database=False), Facts(has_master_key_file=True))
    )
    assert {finding.name for finding in reported} == {
        "unsigned plugins",
        "manual upgrades",
        "master key",
    }
    assert all(finding.is_information for finding in reported)


def test_the_table_names_real_settings_and_every_finding():
    for name, paths in UNSAFE.items():
        for path in paths:
            value: Any = settings()
            for part in path.split("."):
                assert part in value.__struct_fields__, (name, path)
                value = getattr(value, part)
    tested = {name for name, _, _ in CASES} | {"manual upgrades", "master key"}
    assert tested == set(UNSAFE)
    for _, configured, facts in CASES:
        for finding in findings(settings(**configured), facts):
            assert finding.name in UNSAFE
            assert finding.why
            assert finding.remedy


def test_the_doctor_reports_findings(tmp_path: Path):
    config = tmp_path / "modelyard.yaml"
    config.write_text('api_keys: ["short"]\nworkflows: {code: false}\n')
    config.chmod(0o644)
    environ = {
        "MODELYARD_HOME": str(tmp_path / "home"),
        "MODELYARD_CONFIG": str(config),
    }
    result = CliRunner().invoke(doctor, ["--json"], env=environ, standalone_mode=False)
    unsafe = {
        doctor_check["what"]
        for doctor_check in json.loads(result.stdout)
        if doctor_check["kind"] == "unsafe"
    }
    assert {"weak API key", "readable secrets"} <= unsafe
    assert "short" not in {
        token
        for doctor_check in json.loads(result.stdout)
        for token in doctor_check["detail"].split()
    }


def test_answers_that_do_not_say_how_long_are_kept_by_nobody():
    headers = [(b"content-type", b"text/plain")]
    finish_headers(headers)
    assert (b"cache-control", b"no-store") in headers
    caching_headers = [(b"cache-control", b"no-cache")]
    finish_headers(caching_headers)
    assert [value for name, value in caching_headers if name == b"cache-control"] == [
        b"no-cache"
    ]
