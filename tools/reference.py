"""Write the reference pages that are generated from code. A test compares them with the
files in the repository.

python -m tools.reference
"""

import ast
import asyncio
import inspect
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
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
from modelyard.gateway.table import Api, Row
from modelyard.providers.definition import ProviderDefinition
from modelyard.providers.factory import catalog_definition, catalog_names
from modelyard.tenancy.caller import Role

_SETTINGS_HEAD = """\
# Settings

`modelyard.yaml` in the home folder (`~/.modelyard`, or `MODELYARD_HOME`), or the file that `--config` or
`MODELYARD_CONFIG` names. Every field has a default. A variable wins over the file: `MODELYARD_PORT`, and
`MODELYARD_LOCAL__THREADS` for a field of a part. `${NAME}` and `${NAME:-fallback}` in the file stand for variables.
Every mistake is reported at once, with its line.
"""
_CLI_HEAD = """\
# Command line

Commands that print results take `--json`, and then print errors as JSON too. Exit codes: 0 done, 1 it could not be
done, 2 the command line was wrong, 70 an internal error, 130 interrupted; 128 and the signal's number where a second
one ended `serve` at once.

Shell completion: `eval "$(_MODELYARD_COMPLETE=bash_source modelyard)"` (or `zsh_source`, `fish_source`).
"""
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def settings_page() -> str:
    """Return the Markdown page of all settings."""
    parts = [_SETTINGS_HEAD]
    for settings_class, title in (
        (settings.Settings, "The file"),
        (settings.LocalSettings, "`local`"),
        (settings.TimeoutSettings, "`timeouts`"),
        (settings.ConnectionSettings, "`connections`"),
        (settings.CacheSettings, "`cache`"),
        (settings.QueueSettings, "`queue`"),
        (settings.UnpricedSettings, "`unpriced`"),
        (settings.TelemetrySettings, "`telemetry`"),
        (settings.FileSettings, "`files`"),
        (settings.PluginSettings, "`plugins`"),
        (settings.WorkflowSettings, "`workflows`"),
        (settings.DbosSettings, "`workflows.dbos`"),
        (settings.TemporalSettings, "`workflows.temporal`"),
        (settings.CodeOutputSettings, "`workflows.code_output`"),
        (settings.KnowledgeSettings, "`knowledge`"),
        (settings.ToolSettings, "`tools`"),
        (settings.McpStdioSettings, "Each of `tools.mcp_stdio`"),
        (settings.NetworkSettings, "`network`"),
        (settings.EgressSettings, "`egress`"),
        (settings.OidcSettings, "`oidc`"),
        (settings.ContentSettings, "`content`"),
        (settings.MailSettings, "`mail`"),
        (settings.ProviderSettings, "Each of `providers`"),
        (settings.CredentialSettings, "Each of `credentials`"),
    ):
        parts += [f"## {title}", "", *_table(settings_class), ""]
    return "\n".join(parts)


def _table(settings_class: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the lines of a settings class's table: field, type, default and
    description."""
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    docs, hints = _field_docs(settings_class), get_type_hints(settings_class)
    for field in msgspec.structs.fields(settings_class):
        name = _type_name(hints[field.name])
        description = docs.get(field.name, "")
        yield f"| `{field.name}` | {name} | {_default_text(field)} | {description} |"


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    """Return the default of a field as it is shown in the table."""
    default: Any = field.default if field.default is not msgspec.NODEFAULT else None
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    # Nested settings have a table of their own, so their default is not shown.
    if isinstance(default, msgspec.Struct):
        return ""
    return "required" if default is None else f"`{default!r}`"


def _type_name(hint: Any) -> str:
    """Return the name of a field's type without the prefixes of its modules."""
    is_plain_class = isinstance(hint, type) and not hasattr(hint, "__args__")
    name = hint.__name__ if is_plain_class else str(hint)
    return name.replace("modelyard.base.settings.", "").replace("typing.", "")


def _field_docs(settings_class: type) -> dict[str, str]:
    """Return the description of each field: the string literal that follows it in the
    source."""
    # Docstrings of fields exist in the source only, so it is parsed again.
    (definition,) = ast.parse(inspect.getsource(settings_class)).body
    assert isinstance(definition, ast.ClassDef)
    docs_by_field: dict[str, str] = {}
    for statement, next_statement in zip(
        definition.body, definition.body[1:], strict=False
    ):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(next_statement, ast.Expr)
            and isinstance(next_statement.value, ast.Constant)
        ):
            assert isinstance(statement.target, ast.Name)
            docs_by_field[statement.target.id] = " ".join(
                str(next_statement.value.value).split()
            )
    return docs_by_field


def cli_page() -> str:
    """Return the Markdown page of all commands, from their help texts."""
    # With the root's own settings: click caches a command's help option with the names
    # of the first context that asks for it, so another context would make the page
    # depend on what ran before. A fixed width, not the terminal's.
    context = click.Context(
        root, info_name="modelyard", terminal_width=78, **root.context_settings
    )
    parts = [_CLI_HEAD]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command
        parts += _command(command, f"modelyard {name}", context)
    return "\n".join(parts)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """Yield the lines of a command and, recursively, of its subcommands."""
    context = click.Context(command, info_name=name.split()[-1], parent=parent)
    yield from (f"## {name}", "", "```", command.get_help(context).strip(), "```", "")
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            subcommand = command.get_command(context, inner)
            if subcommand:
                yield from _command(subcommand, f"{name} {inner}", context)


_CATALOGUE_HEAD = """\
# Catalogue

Every provider that comes with Modelyard, from the files in `src/modelyard/providers/catalog/`. A number is how many
models are listed with what they can do and cost; *any* means that every model of the provider can be called by its
name, listed or not. `modelyard providers show NAME` shows one, `modelyard prices show MODEL` what a model costs.
"""
_TYPES = ("llm", "text-embedding", "rerank", "speech2text", "tts", "moderation")
_LISTED_FEATURES = (
    "tool-call",
    "vision",
    "document",
    "audio",
    "video",
    "structured-output",
    "agent-thought",
)


def catalogue_page() -> str:
    """Return the Markdown page of the catalogue: providers by model type, and features
    of the listed chat models."""
    definitions = [catalog_definition(name) for name in catalog_names()]
    parts = [_CATALOGUE_HEAD, "## Model types", ""]
    parts += _types_table(definitions)
    parts += ["", "## Features of the listed chat models", ""]
    parts += _features_table(definitions)
    return "\n".join(parts)


def _types_table(definitions: Sequence[ProviderDefinition]) -> Iterator[str]:
    """Yield the lines of the table of providers by model type."""
    yield f"| provider | speaks | {' | '.join(_TYPES)} |"
    yield "|---|---|" + "---|" * len(_TYPES)
    for definition in definitions:
        cells = [_types_cell(definition, model_type) for model_type in _TYPES]
        wires = dict.fromkeys(
            wire.name
            for model_type in definition.entity.supported_model_types
            for wire in definition.wires_of(model_type)
        )
        label = f"{definition.entity.label.en_us} (`{definition.name}`)"
        yield f"| {label} | {', '.join(wires)} | {' | '.join(cells)} |"


def _features_table(definitions: Sequence[ProviderDefinition]) -> Iterator[str]:
    """Yield the lines of the table of features, which counts chat models only."""
    yield f"| provider | models | {' | '.join(_LISTED_FEATURES)} |"
    yield "|---|---|" + "---|" * len(_LISTED_FEATURES)
    for definition in definitions:
        features_by_model = [
            [feature.value for feature in model.features]
            for model in definition.entity.models
            if model.model_type.value == "llm"
        ]
        if not features_by_model:
            continue
        counts = Counter(itertools.chain.from_iterable(features_by_model))
        cells = [str(counts[name] or "") for name in _LISTED_FEATURES]
        model_count = len(features_by_model)
        yield f"| `{definition.name}` | {model_count} | {' | '.join(cells)} |"


def _types_cell(definition: ProviderDefinition, model_type: str) -> str:
    """Return the cell of a provider and model type: the number of listed models, and
    "any" if others work too."""
    if model_type not in [
        served.value for served in definition.entity.supported_model_types
    ]:
        return ""
    listed = sum(
        model.model_type.value == model_type for model in definition.entity.models
    )
    labels = [str(listed)] if listed else []
    return ", ".join([*labels, *(["any"] if definition.entity.is_customizable else [])])


def lost_and_kept_page() -> str:
    """Return the Markdown page of what becomes of each feature between two formats, from
    the cells that were measured last."""
    # Imported here: it needs the stand-ins of the tests, and imports this module.
    from tools.lost_and_kept.page import page, published

    return page(published())


_ROLES_HEAD = """\
# Roles

Which role opens which route of the HTTP API. A role includes those after it: owner, admin, editor, developer, viewer.
The role is that of an API key, or of the account that is signed in to the console. Routes that this page does not list
need no role but something else: an app's key, a dataset's key (or the role developer), a session, a secret address.
"""


def roles_page() -> str:
    """Return the Markdown page of the minimum role of each route."""
    parts = [_ROLES_HEAD]
    for api in apis():
        rows = [row for row in api.rows if row.auth.role is not None]
        if rows:
            parts += [f"## {api.title}", "", *_roles_table(rows), ""]
    return "\n".join(parts)


def _roles_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table of routes by role."""
    roles = list(Role)
    yield f"| route | | {' | '.join(role.value for role in roles)} |"
    yield "|---|---|" + "---|" * len(roles)
    for row in rows:
        needed = row.auth.role
        cells = ["✓" if needed and role.covers(needed) else "" for role in roles]
        path = row.path.replace("{", "").replace("}", "").replace(":path", "")
        yield f"| `{row.method} {path}` | {row.summary} | {' | '.join(cells)} |"


def pages() -> dict[str, str]:
    """Return the text of each generated file, by its path below the reference folder."""
    return {
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "catalogue.md": catalogue_page(),
        "lost-and-kept.md": lost_and_kept_page(),
        "roles.md": roles_page(),
        **descriptions(),
    }


def descriptions() -> dict[str, str]:
    """Return the OpenAPI document of each API, by file name.

    It is generated from the same tables that the server uses for routing.
    """
    return {f"openapi/{api.name}.json": _document(describe(api)) for api in apis()}


@lru_cache(1)
def apis() -> tuple[Api, ...]:
    """Return the APIs of a server with all features on."""
    with TemporaryDirectory() as home:
        # Routes for single sign-on exist only if OIDC is configured.
        oidc = settings.OidcSettings(
            issuer="https://identity.example",
            client_id="modelyard",
            client_secret="secret",
        )
        yard = Modelyard(settings.Settings(home=home, oidc=oidc), environ={})
        tables = gateway_for(yard.services).router.apis
        asyncio.run(yard.aclose())
    return tables


def _document(document: Any) -> str:
    """Return the document as indented JSON with sorted keys."""
    return msgspec.json.format(
        msgspec.json.encode(document, order="sorted"), indent=1
    ).decode()


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for file, text in pages().items():
        (REFERENCE / file).parent.mkdir(exist_ok=True)
        (REFERENCE / file).write_text(text.rstrip() + "\n", "utf-8")
