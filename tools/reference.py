"""Writes the reference pages that follow from code. A test compares them with what is there.

python -m tools.reference
"""

import ast
import asyncio
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

import click
import msgspec

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base import settings
from modelyard.cli import root
from modelyard.gateway.openapi import describe
from modelyard.gateway.table import Api
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import catalog_definition, catalog_names

_SETTINGS_HEAD = """\
# Settings

`modelyard.yaml` in the home folder (`~/.modelyard`, or `MODELYARD_HOME`), or the file that `--config` or
`MODELYARD_CONFIG` names. Every field has a default. A variable wins over the file: `MODELYARD_PORT`, and
`MODELYARD_LOCAL__THREADS` for a field of a part. `${NAME}` and `${NAME:-fallback}` in the file stand for variables.
Every mistake is reported at once, with its line.
"""
_CLI_HEAD = """\
# Command line

Every command takes `--json`, and then prints errors as JSON too. Exit codes: 0 done, 1 it could not be done, 2 the
command line was wrong, 130 interrupted; 128 and the signal's number where a second one ended `serve` at once.

Shell completion: `eval "$(_MODELYARD_COMPLETE=bash_source modelyard)"` (or `zsh_source`, `fish_source`).
"""
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def settings_page() -> str:
    parts = [_SETTINGS_HEAD]
    for kind, title in (
        (settings.Settings, "The file"),
        (settings.LocalSettings, "`local`"),
        (settings.TimeoutSettings, "`timeouts`"),
        (settings.ConnectionSettings, "`connections`"),
        (settings.CacheSettings, "`cache`"),
        (settings.QueueSettings, "`queue`"),
        (settings.TelemetrySettings, "`telemetry`"),
        (settings.PluginSettings, "`plugins`"),
        (settings.WorkflowSettings, "`workflows`"),
        (settings.KnowledgeSettings, "`knowledge`"),
        (settings.ToolSettings, "`tools`"),
        (settings.McpStdioSettings, "Each of `tools.mcp_stdio`"),
        (settings.NetworkSettings, "`network`"),
        (settings.EgressSettings, "`egress`"),
        (settings.OidcSettings, "`oidc`"),
        (settings.ContentSettings, "`content`"),
        (settings.ProviderSettings, "Each of `providers`"),
        (settings.CredentialSettings, "Each of `credentials`"),
    ):
        parts += [f"## {title}", "", *_table(kind), ""]
    return "\n".join(parts)


def _table(kind: type[msgspec.Struct]) -> Iterator[str]:
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    docs, hints = _field_docs(kind), get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        default: Any = field.default if field.default is not msgspec.NODEFAULT else None
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = "" if isinstance(default, msgspec.Struct) else f"`{default!r}`" if default is not None else "required"
        hint = hints[field.name]
        name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
        name = name.replace("modelyard.base.settings.", "").replace("typing.", "")
        yield f"| `{field.name}` | {name} | {shown} | {docs.get(field.name, '')} |"


def _field_docs(kind: type) -> dict[str, str]:
    """The string that stands behind each field."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            assert isinstance(before.target, ast.Name)
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def cli_page() -> str:
    context = click.Context(root, info_name="modelyard")
    parts = [_CLI_HEAD]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command
        parts += _command(command, f"modelyard {name}", context)
    return "\n".join(parts)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name.split()[-1], parent=parent, max_content_width=110)
    yield from (f"## {name}", "", "```", command.get_help(context).strip(), "```", "")
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found:
                yield from _command(found, f"{name} {inner}", context)


_CATALOGUE_HEAD = """\
# Catalogue

Every provider that comes with Modelyard, from the files in `src/modelyard/providers/catalog/`. A number is how many
models are listed with what they can do and cost; *any* means that every model of the provider can be called by its
name, listed or not. `modelyard providers show NAME` shows one, `modelyard prices show MODEL` what a model costs.
"""
_TYPES = ("llm", "text-embedding", "rerank", "speech2text", "tts", "moderation")
_SHOWN = ("tool-call", "vision", "document", "audio", "video", "structured-output", "agent-thought")


def catalogue_page() -> str:
    """Providers by model type, then what the listed chat models can do."""
    every = [catalog_definition(name) for name in catalog_names()]
    parts = [_CATALOGUE_HEAD, "## Model types", "", f"| provider | speaks | {' | '.join(_TYPES)} |"]
    parts.append("|---|---|" + "---|" * len(_TYPES))
    for one in every:
        cells = [_types_cell(one, kind) for kind in _TYPES]
        wires = dict.fromkeys(wire.name for kind in one.entity.supported_model_types for wire in one.wires_of(kind))
        parts.append(f"| {one.entity.label.en_us} (`{one.name}`) | {', '.join(wires)} | {' | '.join(cells)} |")
    parts += ["", "## Features of the listed chat models", "", f"| provider | models | {' | '.join(_SHOWN)} |"]
    parts.append("|---|---|" + "---|" * len(_SHOWN))
    for one in every:
        chat = [model for model in one.entity.models if model.model_type.value == "llm"]
        if chat:
            counts = [sum(name in [feature.value for feature in model.features] for model in chat) for name in _SHOWN]
            parts.append(f"| `{one.name}` | {len(chat)} | {' | '.join(str(count or '') for count in counts)} |")
    return "\n".join(parts)


def _types_cell(one: ProviderDefinition, kind: str) -> str:
    if kind not in [served.value for served in one.entity.supported_model_types]:
        return ""
    listed = sum(model.model_type.value == kind for model in one.entity.models)
    words = [str(listed)] if listed else []
    return ", ".join([*words, *(["any"] if one.entity.is_customizable else [])])


def pages() -> dict[str, str]:
    return {
        "settings.md": settings_page(), "cli.md": cli_page(), "catalogue.md": catalogue_page(),
        **descriptions(),
    }  # fmt: skip


def descriptions() -> dict[str, str]:
    """The OpenAPI document of every API: what is served follows from the same tables."""
    return {f"openapi/{api.name}.json": _document(describe(api)) for api in apis()}


@lru_cache(1)
def apis() -> tuple[Api, ...]:
    """The APIs of a server with everything on."""
    with TemporaryDirectory() as home:
        oidc = settings.OidcSettings(issuer="https://identity.example", client_id="modelyard", client_secret="secret")
        yard = Modelyard(settings.Settings(home=home, oidc=oidc), environ={})
        tables = gateway_for(yard.services).router.apis
        asyncio.run(yard.aclose())
    return tables


def _document(document: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1).decode()


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for file, text in pages().items():
        (REFERENCE / file).parent.mkdir(exist_ok=True)
        (REFERENCE / file).write_text(text.rstrip() + "\n", "utf-8")
