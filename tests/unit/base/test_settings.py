from pathlib import Path

import pytest

from modelyard.base.errors import ConfigError
from modelyard.base.settings import load_settings


def write(folder: Path, text: str) -> dict[str, str]:
    (folder / "modelyard.yaml").write_text(text, "utf-8")
    return {"MODELYARD_HOME": str(folder)}


def test_defaults_without_settings(tmp_path: Path):
    settings = load_settings({"MODELYARD_HOME": str(tmp_path)})
    assert (settings.host, settings.port, settings.api_keys) == ("127.0.0.1", 8790, [])


def test_all_errors_are_reported_with_their_lines(tmp_path: Path):
    environ = write(
        tmp_path,
        "port: many\nhots: 0.0.0.0\nproviders:\n  - name: openai\n    credentials:\n      - values: {api_key: 5}\n"
        "  - name: b\n    colour: red\nlocal:\n  threads: x\napi_keys: ['${NOT_SET}']\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    message = str(caught.value)
    for part in (
        "yaml:1: port: Expected `int`",
        "yaml:2: Unknown setting 'hots'; did you mean 'host'",
        "yaml:6: providers[0].credentials[0].values",
        "yaml:8: providers[1]",
        "yaml:10: local.threads",
        "yaml:11: api_keys[0] refers to ${NOT_SET}, which is not set",
    ):
        assert part in message, message


def test_variables_override_the_file_and_nested_fields(tmp_path: Path):
    environ = write(tmp_path, "port: 1\nlocal: {threads: 1, queue: 7}\n")
    settings = load_settings(
        environ
        | {
            "MODELYARD_PORT": "2",
            "MODELYARD_LOCAL__THREADS": "3",
            "MODELYARD_API_KEYS": "a,b",
        }
    )
    assert (settings.port, settings.local.threads, settings.local.queue) == (2, 3, 7)
    assert settings.api_keys == ["a", "b"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "ninety", "Invalid value 'ninety': Expected `int`, got `str`"),
        ("PORT", "-1", "Invalid value '-1': Expected a finite number from 0 to"),
        (
            "PORT__NUMBER",
            "1",
            "'port' is a single setting without fields; set MODELYARD_PORT",
        ),
        (
            "API_KEYS__0",
            "a",
            "'api_keys' is a single setting without fields; set MODELYARD_API_KEYS",
        ),
        (
            "PROVIDERS__NAME",
            "a",
            "Lists of objects and mappings are set in the settings file",
        ),
        (
            "PROVIDERS",
            "openai",
            "Lists of objects and mappings are set in the settings file",
        ),
        ("ROUTES", "{}", "Lists of objects and mappings are set in the settings file"),
        (
            "TOOLS__MCP_STDIO",
            "{}",
            "Lists of objects and mappings are set in the settings file",
        ),
        ("LOCAL", "1", "'local' is a section; set one of its fields, for example"),
        ("LOCAL__", "1", "'local' is a section; set one of its fields, for example"),
        ("LOCAL__COLOUR", "red", "'local' has no field 'colour'; available: "),
        ("LOCAL__THREAD", "1", "'local' has no field 'thread'; did you mean 'threads'"),
        ("LOCAL__THREADS", "x", "Invalid value 'x': Expected `int`, got `str`"),
        ("CACHE__STORE", "disk", "Invalid value 'disk': Invalid enum value 'disk'"),
        ("EGRESS__PORTS", "80,x", "Invalid value '80,x': Expected `int`, got `str`"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, variable: str, value: str, message: str
):
    name = f"MODELYARD_{variable}"
    with pytest.raises(ConfigError) as caught:
        load_settings({"MODELYARD_HOME": str(tmp_path), name: value})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"  {name}: {message}")
    assert "$" not in lines[1]


def test_lists_in_variables_are_separated_by_commas(tmp_path: Path):
    environ = {
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_EGRESS__PORTS": "80, 8080",
        "MODELYARD_EGRESS__PRIVATE": " a , b,",
        "MODELYARD_API_KEYS": "",
    }
    settings = load_settings(environ)
    assert settings.egress.ports == [80, 8080]
    assert settings.egress.private == ["a", "b"]
    assert settings.api_keys == []


def test_references_are_filled_in_with_fallbacks(tmp_path: Path):
    environ = write(
        tmp_path,
        "providers: [{name: openai, credentials: [{values: {api_key: '${KEY}'}}], base_url: '${URL:-http://x}'}]",
    )
    settings = load_settings(environ | {"KEY": "secret"})
    assert settings.providers[0].credentials[0].values == {"api_key": "secret"}
    assert settings.providers[0].base_url == "http://x"


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "\tx"])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ConfigError):
        load_settings(write(tmp_path, text))


def test_a_named_file_must_exist(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(
            {"MODELYARD_HOME": str(tmp_path)}, config=str(tmp_path / "no.yaml")
        )
