"""`modelyard workflow` and `modelyard app`: run, draw and check exported apps; import
and manage apps."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.files import read_file
from modelyard.cli import app_library
from modelyard.cli.assignments import Assignment
from modelyard.cli.output import (
    failure_text,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    settings_of,
    success_text,
)
from modelyard.cli.secret_options import secret_option
from modelyard.cli.usage import tenant_option
from modelyard.workflow.diagram import mermaid, svg
from modelyard.workflow.dsl import App, AppMapping, DslError, load, load_mapping
from modelyard.workflow.engine import Outcome, Status
from modelyard.workflow.events import (
    AnyEvent,
    NodeRunException,
    NodeRunFailed,
    NodeRunIterationNext,
    NodeRunLoopNext,
    NodeRunRetry,
    NodeRunStarted,
    NodeRunStreamChunk,
    NodeRunSucceeded,
    TextReplaced,
)
from modelyard.workflow.file_types import file_kind
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.prompts import MODEL_NOT_FOUND
from modelyard.workflow.single_run import outcome_of, stream
from modelyard.workflow.variables import File

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.tenancy.resource_types import AppTrigger, StoredApp
    from modelyard.workflow.apps import AppRecord


_Command = TypeVar("_Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_mapping_options = (
    click.option(
        "--map",
        "mapping",
        type=_FILE,
        help="YAML file that maps models, tools, datasets and agents of the file to local"
        " ones.",
    ),
    click.option(
        "--model",
        help="Use this model instead of all models in the file, for example local/qwen3.",
    ),
)


def _with_mapping(command: _Command) -> _Command:
    """Add the mapping options to a command."""
    # Reversed, because decorators apply from the inside out and help lists options in
    # order.
    for option in reversed(_mapping_options):
        command = option(command)
    return command


def _mapping(path: Path | None, model: str | None) -> AppMapping | None:
    """Return the mapping from the options, or None if there is none. `model` replaces
    every model of the app."""
    app_mapping = load_mapping(path) if path is not None else None
    if model:
        app_mapping = app_mapping or AppMapping()
        app_mapping = msgspec.structs.replace(
            app_mapping, models={**app_mapping.models, "*": model}
        )
    return app_mapping


# ----------------------------------------------------------------------------- workflow


@click.group()
def workflow() -> None:
    """Run, draw and validate exported apps; works without a server."""


@workflow.command()
@click.argument("file", type=_FILE)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    type=Assignment(),
    help="Input value; repeatable. NAME=@FILE passes a file.",
)
@click.option("--query", "-q", default="", help="User message, for a chat app.")
@click.option("--quiet", is_flag=True, help="Print only the answer.")
@_with_mapping
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    file: Path,
    inputs: tuple[tuple[str, str], ...],
    query: str,
    quiet: bool,
    mapping: Path | None,
    model: str | None,
    as_json: bool,
) -> int:
    """Run FILE and stream its output; node timings go to standard error. Exit code 1:
    the run failed or was stopped."""
    # Loaded before the library opens, so that an invalid file is reported at once.
    app = load(file, _mapping(mapping, model))

    async def run_app(yard: "Modelyard") -> int:
        """Run the app, print its events and return the exit code."""
        # JSON output must not be mixed with progress.
        printer = _RunPrinter(quiet=quiet or as_json)
        last_event: AnyEvent | None = None
        input_values = await _inputs(yard, app, inputs)
        async with aclosing(
            stream(app, yard, inputs=input_values, query=query)
        ) as events:
            async for event in events:
                last_event = event
                printer.show(event)
        outcome = outcome_of(last_event)
        if as_json:
            print_json(_outcome_as_dict(outcome))
        else:
            printer.end(outcome.outputs)
            if outcome.status in (Status.FAILED, Status.STOPPED):
                is_model_missing = outcome.error_type == MODEL_NOT_FOUND
                # Whoever has used --model already is not helped by the hint.
                _print_run_error(
                    outcome.error, suggests_model=is_model_missing and not model
                )
        return 0 if outcome.status in (Status.SUCCEEDED, Status.PARTIAL) else 1

    return run_with_modelyard(ctx, run_app)


def _outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the result of a run as printed with --json."""
    return {
        "status": outcome.status,
        "outputs": outcome.outputs,
        "error": outcome.error or None,
    }


def _print_run_error(error: str, *, suggests_model: bool) -> None:
    """Print why a run failed. `suggests_model` adds the hint to use --model."""
    click.echo(click.style("Error: ", fg="red", bold=True) + error, err=True)
    # Models that are not available here are the most common reason for a failure.
    if suggests_model:
        print_note("use `--model default` to run it with your default model")


async def _inputs(
    yard: "Modelyard", app: App, assignments: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the input values for (name, text) pairs, converted as the app's form
    declares. Raises UsageError for an unknown name."""
    node = app.graph().nodes[app.roots[0]]
    # An app without a form accepts any input.
    forms = {field.variable: field for field in form_of(node)}
    input_values: dict[str, Any] = {}
    for name, text in assignments:
        # A mistyped name must not leave the intended input empty without a message.
        if forms and name not in forms:
            raise click.UsageError(
                f"App {app.name!r} has no input {name!r}; expected one of"
                f" {', '.join(forms)}"
            )
        field_type = forms[name].type if name in forms else ""
        value = await _input_value(yard, field_type, text)
        # A file list is filled by repeating the option.
        if field_type == "file-list":
            input_values.setdefault(name, []).append(value)
        else:
            input_values[name] = value
    return input_values


async def _input_value(yard: "Modelyard", field_type: str, text: str) -> Any:
    """Return the value of an option: a file for @PATH, JSON if the field may hold it,
    otherwise the text."""
    if text.startswith("@"):
        return await _file(yard, Path(text[1:]))
    # Without a declared type the value may be JSON; otherwise text is what the field
    # expects.
    if field_type not in ("json_object", "", "checkbox"):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


async def _file(yard: "Modelyard", path: Path) -> File:
    """Store a local file and return its reference."""
    data = await asyncio.to_thread(read_file, path)
    file = await yard.services.workflows.files("default").save(path.name, data)
    # The app must treat it as an upload, and the type decides which nodes accept it.
    file_type = file_kind(file.extension, file.mime_type)
    return msgspec.structs.replace(file, transfer_method="local_file", type=file_type)


class _RunPrinter:
    """Prints a run: nodes with times on standard error, text on standard output as it
    arrives."""

    def __init__(self, *, quiet: bool) -> None:
        self._is_quiet = quiet
        self._started_at: dict[str, float] = {}
        self._text_chunks: list[str] = []
        self._is_at_start = True

    def show(self, event: AnyEvent) -> None:
        """Print one event."""
        match event:
            case NodeRunStarted():
                self._started_at[event.id] = time.monotonic()
            case NodeRunSucceeded():
                self._line("✓", "green", event)
            case NodeRunException() | NodeRunFailed():
                self._line("✗", "red", event, event.error)
            case NodeRunRetry():
                self._line(
                    "↻",
                    "yellow",
                    event,
                    f"try {event.retry_index}: {event.error}",
                )
            case NodeRunIterationNext() | NodeRunLoopNext():
                self._note(f"    {event.title} · round {event.round + 1}")
            case NodeRunStreamChunk():
                self._print_chunk(event.chunk)
            case TextReplaced():
                # Replaced text cannot be removed from a terminal; the final text is
                # compared in `end`.
                self._text_chunks = [event.text]
            case _:
                pass

    def _line(
        self,
        symbol: str,
        colour: str,
        event: NodeRunSucceeded | NodeRunFailed | NodeRunException | NodeRunRetry,
        detail: str = "",
    ) -> None:
        """Print a node's end with its duration."""
        seconds = time.monotonic() - self._started_at.get(event.id, time.monotonic())
        duration = f"{seconds * 1000:8.1f} ms" if seconds < 1 else f"{seconds:8.2f} s "
        tokens = event.metadata.get("total_tokens")
        extra = f"  {tokens} tokens" if tokens else ""
        # Nodes inside an iteration or loop are indented.
        indent = "    " if event.in_iteration_id or event.in_loop_id else ""
        text = (
            f"{indent}{click.style(symbol, fg=colour)} {duration}  {event.title} "
            f" {click.style(event.node_type, dim=True)}"
        )
        self._note(f"{text}{extra}{f'  {detail}' if detail else ''}")

    def _note(self, text: str) -> None:
        """Print a line to standard error; ends an unfinished line of output first."""
        if self._is_quiet:
            return
        if not self._is_at_start:
            click.echo("", err=True)
            self._is_at_start = True
        click.echo(text, err=True)

    def _print_chunk(self, text: str) -> None:
        """Print a text chunk. Into a pipe, only the final outputs are printed."""
        self._text_chunks.append(text)
        if sys.stdout.isatty() and not self._is_quiet and text:
            click.echo(text, nl=False)
            self._is_at_start = text.endswith("\n")

    def end(self, outputs: dict[str, Any]) -> None:
        """Print the outputs unless they were streamed already."""
        if not self._is_at_start:
            click.echo("")
        streamed_text = "".join(self._text_chunks)
        texts = [value for value in outputs.values() if isinstance(value, str)]
        if (
            sys.stdout.isatty()
            and not self._is_quiet
            and len(outputs) == 1
            and texts
            and texts[0] == streamed_text
        ):
            return
        # Chat apps have only an answer: print it as text instead of JSON.
        if set(outputs) <= {"answer", "files"}:
            click.echo(outputs.get("answer", ""))
        elif outputs:
            print_json(outputs)


@workflow.command()
@click.argument("file", type=_FILE)
@click.option(
    "--format",
    "diagram_format",
    type=click.Choice(["svg", "mermaid"]),
    help="Diagram format. Default: from the output file's name, otherwise svg.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Output file. Default: standard output.",
)
def draw(file: Path, diagram_format: str | None, output: Path | None) -> None:
    """Draw FILE as SVG, or as a Mermaid flowchart."""
    app = load(file)
    # Without --format the name of the output file decides.
    diagram_format = diagram_format or (
        "mermaid"
        if output is not None and output.suffix in (".mmd", ".md", ".mermaid")
        else "svg"
    )
    text = svg(app) if diagram_format == "svg" else mermaid(app)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(
            f"File {str(output)!r} cannot be written: {error.strerror}"
        ) from error
    print_note(f"{output}: {app.graph().size()} nodes")


@workflow.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@_with_mapping
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    files: tuple[Path, ...],
    mapping: Path | None,
    model: str | None,
    as_json: bool,
) -> int:
    """Validate FILES and list missing models, tools and datasets. Exit code 1: a file
    is invalid."""
    app_mapping = _mapping(mapping, model)
    mail_problem = settings_of(ctx).mail.problem
    reports = [_check_report(file, app_mapping, mail_problem) for file in files]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _show_report(report)
    return 0 if all(report["ok"] for report in reports) else 1


def _check_report(
    file: Path, app_mapping: AppMapping | None, mail_problem: str
) -> dict[str, Any]:
    """Return the report of one file: its problems, or its mode, size, warnings and
    requirements."""
    try:
        app = load(file, app_mapping)
    except DslError as error:
        return {
            "file": str(file),
            "ok": False,
            "problems": [str(problem) for problem in error.problems],
        }
    return {
        "file": str(file),
        "ok": True,
        "mode": app.mode,
        "version": app.version,
        "nodes": sum(len(level.nodes) for level in app.levels.values()),
        **_warnings_and_needs(app, mail_problem),
    }


def _warnings_and_needs(app: App, mail_problem: str) -> dict[str, list[str]]:
    """Return the warnings and requirements of an app as texts."""
    return {
        "warnings": [str(warning) for warning in app.warnings_with(mail_problem)],
        "needs": [
            *(f"{needed.kind} {needed.name}" for needed in app.requirements),
            *(f"secret {name}" for name in app.missing_secrets),
        ],
    }


def _show_report(report: dict[str, Any]) -> None:
    """Print the report of one file."""
    if not report["ok"]:
        click.echo(f"{click.style('✗', fg='red')} {report['file']}")
        for problem in report["problems"]:
            click.echo(f"    {problem}")
        return
    click.echo(
        f"{click.style('✓', fg='green')} {report['file']}  {report['mode']}, version"
        f" {report['version']}, {report['nodes']} nodes"
    )
    for warning in report["warnings"]:
        click.echo(f"    {click.style('!', fg='yellow')} {warning}")
    for requirement in report["needs"]:
        click.echo(f"    needs {requirement}")


# ---------------------------------------------------------------------------------- app


@click.group()
def app() -> None:
    """Manage apps: create, import, publish, export; keys, pages and triggers."""


@app.command("import")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option(
    "--key/--no-key",
    "creates_key",
    default=True,
    help="Create a key for an app that has none. Default: yes.",
)
@click.option(
    "--draft",
    is_flag=True,
    help="Import as a draft; the published version stays.",
)
@secret_option
@_with_mapping
@tenant_option
@json_option
@click.pass_context
def import_(
    ctx: click.Context,
    files: tuple[Path, ...],
    creates_key: bool,
    draft: bool,
    secrets: tuple[tuple[str, str], ...],
    mapping: Path | None,
    model: str | None,
    tenant: str,
    as_json: bool,
) -> int:
    """Import FILES. An app with the same name is replaced and keeps its secrets.

    Takes effect within one second on running servers. Exported files have no values of
    secret variables: the output names those that lack one. Exit code 1: a file is
    invalid; the others are imported.
    """
    _check_single_file(files, secrets)
    app_mapping = _mapping(mapping, model)

    async def import_files(yard: "Modelyard") -> int:
        """Import the files and return the exit code."""
        importer = _AppImporter(
            yard,
            tenant,
            app_mapping,
            dict(secrets),
            creates_key=creates_key,
            is_draft=draft,
        )
        import_reports = [await importer.import_file(file) for file in files]
        if as_json:
            print_json(import_reports)
        else:
            for import_report in import_reports:
                _show_import(import_report)
        return 1 if any("error" in report for report in import_reports) else 0

    return run_with_modelyard(ctx, import_files)


def _check_single_file(
    files: Sequence[Path], secrets: Sequence[tuple[str, str]]
) -> None:
    """Raise click.UsageError for secrets of several apps: two apps may use one name for
    two secrets."""
    if secrets and len(files) > 1:
        raise click.UsageError("--secret needs a single FILE")


@dataclass(frozen=True, slots=True)
class _AppImporter:
    """Imports files as apps of one tenant."""

    yard: "Modelyard"
    tenant: str
    mapping: AppMapping | None
    secrets: Mapping[str, str]
    creates_key: bool
    is_draft: bool

    async def import_file(self, file: Path) -> dict[str, Any]:
        """Import one file and return the report. A report with `error` means that the
        file is invalid, which does not keep the others from being imported."""
        # An unreadable file ends the whole command, unlike an invalid one.
        text = _text(file)
        try:
            app_version, parsed_app, was_replaced = await self.yard.apps.add(
                self.tenant,
                text,
                file=file.name,
                mapping=self.mapping,
                publishes=not self.is_draft,
                secrets=self.secrets,
            )
            dataset = await self._dataset_id(app_version, parsed_app)
        except DslError as error:
            return {"file": str(file), "error": str(error)}
        return {
            "file": str(file),
            "id": app_version.id,
            "name": app_version.name,
            "mode": app_version.stored.mode,
            "replaced": was_replaced,
            "draft": self.is_draft,
            "dataset": dataset,
            "key": await self._new_key(app_version),
            "missing_secrets": parsed_app.missing_secrets,
            **_warnings_and_needs(
                parsed_app, self.yard.services.settings.current.mail.problem
            ),
        }

    async def _dataset_id(self, app_version: "AppRecord", app: App) -> str | None:
        """Return the dataset that a RAG pipeline fills, which is created with it; None
        for other apps."""
        if app.kind != "rag_pipeline":
            return None
        pipelines = self.yard.services.workflows.pipelines
        return (await pipelines.dataset_for(app_version, app)).id

    async def _new_key(self, app_version: "AppRecord") -> str | None:
        """Create a key, unless the app has one: reimporting must not create a second."""
        if not self.creates_key or self.yard.apps.keys(app_version):
            return None
        _, new_key = await self.yard.apps.make_key(app_version)
        return new_key


def _text(file: Path) -> str:
    """Read a text file, with or without a byte-order mark. Raises ConfigError."""
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"File {str(file)!r} cannot be read: {error}") from error


def _show_import(import_report: dict[str, Any]) -> None:
    """Print the result of one import."""
    if "error" in import_report:
        click.echo(f"{click.style('✗', fg='red')} {import_report['error']}", err=True)
        return
    outcome = "updated" if import_report["replaced"] else "imported"
    if import_report["draft"]:
        outcome += " as a draft,"
    click.echo(
        f"{click.style('✓', fg='green')} {import_report['name']} "
        f" {import_report['mode']}, {outcome} as {import_report['id']}"
    )
    if import_report["key"]:
        click.echo(f"    key  {import_report['key']}")
    if import_report["dataset"]:
        click.echo(f"    fills dataset {import_report['dataset']}")
    for warning in import_report["warnings"]:
        click.echo(f"    {click.style('!', fg='yellow')} {warning}")
    if import_report["needs"]:
        click.echo(f"    needs {', '.join(import_report['needs'])}")
    if names := import_report["missing_secrets"]:
        options = " ".join(f"--secret {name}" for name in names)
        click.echo(
            f"    set them: modelyard app secrets {import_report['id']} {options}"
        )


@app.command("list")
@tenant_option
@json_option
@click.pass_context
def list_(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List a tenant's apps."""

    async def work(yard: "Modelyard") -> list[dict[str, Any]]:
        """Return the apps as rows for the table and for JSON."""
        return [
            {
                "id": app_version.id,
                "name": app_version.name,
                "mode": app_version.stored.mode,
                "enabled": app_version.stored.is_enabled,
                "tags": yard.services.workflows.library.tag_names(app_version),
                "keys": [key.hint for _, key in yard.apps.keys(app_version)],
            }
            for app_version in yard.apps.list_all(tenant)
        ]

    app_rows = run_with_modelyard(ctx, work)
    if as_json:
        print_json(app_rows)
        return
    rows = [
        (
            app_row["name"],
            app_row["mode"],
            app_row["id"],
            ", ".join(app_row["keys"]) or "none",
            ", ".join(app_row["tags"]),
            _state_text(is_on=app_row["enabled"]),
        )
        for app_row in app_rows
    ]
    print_table("", ("name", "mode", "id", "keys", "tags", ""), rows)


def _state_text(*, is_on: bool) -> Any:
    """Return the display form of an app's state."""
    return success_text("on") if is_on else failure_text("off")


@app.command("secrets")
@click.argument("name")
@secret_option
@tenant_option
@json_option
@click.pass_context
def app_secrets(
    ctx: click.Context,
    name: str,
    secrets: tuple[tuple[str, str], ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Set secret variables of the app NAME, and list which have a value.

    The published version gets the values at once; values are never printed.
    """

    async def set_and_list(yard: "Modelyard") -> dict[str, bool]:
        """Set the values, and return variable → whether it has a value."""
        app_record = yard.apps.get_by_id_or_name(tenant, name)
        if secrets:
            app_record = await yard.apps.set_secrets(app_record, dict(secrets))
        parsed_app = await yard.apps.draft(app_record)
        missing = parsed_app.missing_secrets
        # Only whether a value exists leaves this function, so none can be printed.
        return {
            variable.name: variable.name not in missing
            for variable in parsed_app.environment
            if variable.value_type == "secret"
        }

    has_value = run_with_modelyard(ctx, set_and_list)
    if as_json:
        print_json(has_value)
        return
    rows = [
        (variable, success_text("set") if is_set else failure_text("missing"))
        for variable, is_set in has_value.items()
    ]
    print_table("", ("variable", ""), rows)


@app.command()
@click.argument("name")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Output file. Default: standard output.",
)
@click.option("--secrets", is_flag=True, help="Include values of secret variables.")
@tenant_option
@click.pass_context
def export(
    ctx: click.Context, name: str, output: Path | None, secrets: bool, tenant: str
) -> None:
    """Export the app NAME as a YAML file that `modelyard app import` reads."""

    async def work(yard: "Modelyard") -> str:
        """Return the app's file."""
        return await yard.apps.export(
            yard.apps.get_by_id_or_name(tenant, name), with_secrets=secrets
        )

    text = run_with_modelyard(ctx, work)
    if output is None:
        # No newline is added, so that redirected output equals the file of --output.
        click.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")


@app.command()
@click.argument("name")
@tenant_option
@click.pass_context
def remove(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove the app NAME and its keys."""

    async def work(yard: "Modelyard") -> str:
        """Remove the app and return its name."""
        app_version = yard.apps.get_by_id_or_name(tenant, name)
        await yard.apps.remove(app_version)
        # The argument may be an id, so the name confirms which app was removed.
        return app_version.name

    click.echo(f"removed {run_with_modelyard(ctx, work)}")


@app.command()
@click.argument("name")
@click.option(
    "--revoke", "revoked_id", metavar="ID", help="Revoke the key with this id."
)
@click.option("--list", "is_list", is_flag=True, help="List the app's keys.")
@click.option(
    "--speaks-for-users",
    is_flag=True,
    help="Let callers name the user on whose behalf the app reads documents.",
)
@tenant_option
@json_option
@click.pass_context
def key(
    ctx: click.Context,
    name: str,
    revoked_id: str | None,
    is_list: bool,
    speaks_for_users: bool,
    tenant: str,
    as_json: bool,
) -> None:
    """Create a key for callers of the app NAME, or list or revoke its keys. A new key is
    printed once."""

    async def work(yard: "Modelyard") -> Any:
        """Create a key, unless the options ask for something else."""
        if is_list or revoked_id:
            # With both options the keys are listed, and none is revoked.
            ended_id = None if is_list else revoked_id
            return await _manage_keys(yard, tenant, name, ended_id)
        app_record = yard.apps.get_by_id_or_name(tenant, name)
        key_id, new_key = await yard.apps.make_key(
            app_record, speaks_for_users=speaks_for_users
        )
        return {"id": key_id, "key": new_key}

    result = run_with_modelyard(ctx, work)
    if as_json:
        print_json(result)
    elif is_list:
        rows = [(key_row["id"], key_row["hint"]) for key_row in result]
        print_table("", ("id", "key"), rows)
    elif revoked_id:
        click.echo(f"revoked {revoked_id}")
    else:
        # Only the key goes to standard output, so that scripts can capture it.
        click.echo(result["key"])
        print_note("printed only once; callers send it as 'Authorization: Bearer KEY'")


async def _manage_keys(
    yard: "Modelyard", tenant: str, name: str, revoked_id: str | None
) -> Any:
    """Revoke a key of an app, or list its keys. Returns the result as printed with
    --json."""
    app_record = yard.apps.get_by_id_or_name(tenant, name)
    if revoked_id:
        await yard.apps.revoke_key(app_record, revoked_id)
        return {"revoked": revoked_id}
    return [
        # Keys are stored as digests, so a hint is all that can be shown.
        {"id": resource.id, "hint": app_key.hint}
        for resource, app_key in yard.apps.keys(app_record)
    ]


@app.command()
@click.argument("name")
@click.option("--name", "version", default="", help="Name of the version.")
@click.option("--note", default="", help="Release note of the version.")
@tenant_option
@click.pass_context
def publish(
    ctx: click.Context, name: str, version: str, note: str, tenant: str
) -> None:
    """Publish the draft of NAME. Running executions keep their version."""

    async def work(yard: "Modelyard") -> Any:
        """Publish the draft and return the app."""
        return await yard.apps.publish(
            yard.apps.get_by_id_or_name(tenant, name),
            name=version,
            note=note,
        )

    published_app = run_with_modelyard(ctx, work)
    click.echo(
        f"published {published_app.name} {version or published_app.stored.digest[:8]}"
    )


@app.command()
@click.argument("name")
@tenant_option
@json_option
@click.pass_context
def versions(ctx: click.Context, name: str, tenant: str, as_json: bool) -> None:
    """List the published versions of the app NAME, newest first."""

    async def work(yard: "Modelyard") -> Any:
        """Return the versions and the draft."""
        app_record = yard.apps.get_by_id_or_name(tenant, name).stored
        version_rows = [
            {
                "digest": app_version.digest,
                "name": app_version.name,
                "note": app_version.note,
                "published_at": app_version.at,
                "is_current": app_version.digest == app_record.digest,
            }
            for app_version in reversed(app_record.versions)
        ]
        return {"draft": app_record.draft or None, "versions": version_rows}

    result = run_with_modelyard(ctx, work)
    if as_json:
        print_json(result)
        return
    rows = [
        (
            version_row["digest"][:8],
            version_row["name"],
            time.strftime(
                "%Y-%m-%d %H:%M:%S", time.localtime(version_row["published_at"])
            ),
            version_row["note"][:60],
            success_text("published") if version_row["is_current"] else "",
        )
        for version_row in result["versions"]
    ]
    # The draft is newer than every version, so it comes first.
    if result["draft"]:
        rows.insert(0, (result["draft"][:8], "", "", "", "draft"))
    print_table("", ("version", "name", "published", "note", ""), rows)


@app.command()
@click.argument("name")
@click.argument("version")
@tenant_option
@click.pass_context
def restore(ctx: click.Context, name: str, version: str, tenant: str) -> None:
    """Restore VERSION as the draft of the app NAME. `modelyard app publish` makes it
    available to callers."""

    async def work(yard: "Modelyard") -> Any:
        """Restore the version and return the app."""
        return await yard.apps.restore(
            yard.apps.get_by_id_or_name(tenant, name), version
        )

    restored_app = run_with_modelyard(ctx, work)
    # Restoring the published version leaves no draft.
    click.echo(
        f"{restored_app.name}: {version} is "
        + ("the draft" if restored_app.stored.draft else "the published version")
    )


@app.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="Unpublish the page and keep its address.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    help="Origin that may embed the page, for example https://shop.example; repeatable.",
)
@tenant_option
@json_option
@click.pass_context
def page(
    ctx: click.Context,
    name: str,
    off: bool,
    origins: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Publish the app NAME as a web page and print its address."""

    async def work(yard: "Modelyard") -> Any:
        """Change the page and return its address."""
        app_version = await yard.apps.set_page(
            # None leaves the allowed origins unchanged.
            yard.apps.get_by_id_or_name(tenant, name),
            is_on=not off,
            origins=list(origins) if origins else None,
        )
        token = app_version.stored.page.token
        return {
            "url": f"{yard.services.addresses.server()}/chat/{token}",
            "token": token,
            "is_on": not off,
            "origin": yard.services.addresses.server(),
        }

    result = run_with_modelyard(ctx, work)
    if as_json:
        print_json(result)
    elif off:
        click.echo(f"the page of {name} is off")
    else:
        click.echo(result["url"])
        print_note(
            f'embed it: <script src="{result["origin"]}/chat/-/embed.js"'
            f' data-token="{result["token"]}" defer></script>'
        )


@app.command()
@click.argument("name")
@tenant_option
@json_option
@click.pass_context
def triggers(ctx: click.Context, name: str, tenant: str, as_json: bool) -> None:
    """List the triggers of the app NAME: webhooks, schedules, plugin events. Only
    triggers of the published version are active."""

    async def list_triggers(yard: "Modelyard") -> Any:
        """Return the triggers of the published version."""
        app_record = yard.apps.get_by_id_or_name(tenant, name).stored
        return [
            _trigger_as_dict(yard, app_record, trigger)
            for trigger in app_record.triggers
        ]

    trigger_rows = run_with_modelyard(ctx, list_triggers)
    if as_json:
        print_json(trigger_rows)
        return
    for trigger_row in trigger_rows:
        click.echo(f"{trigger_row['node']}: {_describe_trigger(trigger_row)}")
    if not trigger_rows:
        print_note(f"the published version of {name} has no triggers")


def _trigger_as_dict(
    yard: "Modelyard", app_record: "StoredApp", trigger: "AppTrigger"
) -> dict[str, Any]:
    """Return a trigger as printed with --json, with its next times or its address."""
    # Imported here, so that the other commands do not load the gateway.
    from modelyard.gateway.tenant_content import WEBHOOK
    from modelyard.workflow.trigger_nodes import next_times

    times: Sequence[float] = []
    if trigger.type == "schedule":
        times = next_times(trigger, yard.services.clock.time())
    address = ""
    if trigger.type == "webhook":
        webhook_root = f"{yard.services.addresses.content()}{WEBHOOK}"
        address = webhook_root + app_record.webhooks.get(trigger.node, "")
    return {
        "node": trigger.title,
        "type": trigger.type,
        "cron": trigger.cron,
        "timezone": trigger.timezone,
        "next": times,
        "address": address,
        "provider": trigger.provider,
        "event": trigger.event,
    }


def _describe_trigger(trigger: dict[str, Any]) -> str:
    """Return what starts runs: an address, a schedule with its next times, or an
    event."""
    match trigger["type"]:
        case "webhook":
            return trigger["address"]
        case "schedule":
            times = ", ".join(
                time.strftime("%Y-%m-%d %H:%M", time.localtime(timestamp))
                for timestamp in trigger["next"]
            )
            return (
                f"{trigger['cron']} ({trigger['timezone']}), next runs in local time:"
                f" {times}"
            )
        case _:
            return f"{trigger['event']} of {trigger['provider']}"


@app.command()
@click.argument("name")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Maximum number of runs.",
)
@tenant_option
@json_option
@click.pass_context
def runs(ctx: click.Context, name: str, limit: int, tenant: str, as_json: bool) -> None:
    """List the runs of the app NAME, newest first."""

    async def work(yard: "Modelyard") -> Any:
        """Return the runs as rows for the table and for JSON."""
        run_records, _ = await yard.runs.journal.list(
            tenant, yard.apps.get_by_id_or_name(tenant, name).id, limit=limit
        )
        return [
            {
                "id": run_record.id,
                "status": run_record.status.value,
                "created_at": run_record.created_at,
                "elapsed": round(run_record.elapsed, 3),
                "steps": run_record.total_steps,
                "tokens": run_record.total_tokens,
                "error": run_record.error,
            }
            for run_record in run_records
        ]

    run_rows = run_with_modelyard(ctx, work)
    if as_json:
        print_json(run_rows)
        return
    rows = [
        (
            run_row["id"],
            run_row["status"],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run_row["created_at"])),
            f"{run_row['elapsed']:.2f} s",
            run_row["steps"],
            run_row["tokens"],
            run_row["error"][:60],
        )
        for run_row in run_rows
    ]
    print_table(
        "",
        ("run", "status", "started", "duration", "steps", "tokens", "error"),
        rows,
        right_aligned=("duration", "steps"),
    )


# The commands of the library of apps have a module of their own, to keep this one short.
for command_of_library in app_library.COMMANDS:
    app.add_command(command_of_library)
