"""`modelyard workflow` and `modelyard app`: run exported apps, draw and check them, import and serve them."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.files import read_file
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard
from modelyard.cli.usage import tenant_option
from modelyard.workflow.draw import mermaid, svg
from modelyard.workflow.dsl import App, AppMapping, DslError, load, load_mapping
from modelyard.workflow.engine import Status
from modelyard.workflow.events import (
    AnyEvent,
    GraphRunFailed,
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
from modelyard.workflow.nodes.start import form_of
from modelyard.workflow.services import file_kind
from modelyard.workflow.single_run import outcome_of, stream
from modelyard.workflow.variables import File

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_mapping_options = (
    click.option("--map", "mapping", type=_FILE, help="A YAML file: models, tools, datasets → what stands in."),
    click.option("--model", help="Stands in for every model that the file names, as local/qwen3."),
)


def _with_mapping(command: Any) -> Any:
    for option in reversed(_mapping_options):
        command = option(command)
    return command


def _mapping(path: Path | None, model: str | None) -> AppMapping | None:
    found = load_mapping(path) if path is not None else None
    if model:
        found = found or AppMapping()
        found = msgspec.structs.replace(found, models={**found.models, "*": model})
    return found


# ------------------------------------------------------------------------------------------------ workflow


@click.group()
def workflow() -> None:
    """Workflows: run an exported app, draw it, check it. No server is needed."""


@workflow.command()
@click.argument("file", type=_FILE)
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="NAME=@FILE hands a file over.")
@click.option("--query", "-q", default="", help="What the user says, for a chat.")
@click.option("--quiet", is_flag=True, help="Show the answer alone, not the nodes.")
@_with_mapping
@json_option
@click.pass_context
def run(
    ctx: click.Context, file: Path, inputs: tuple[str, ...], query: str, quiet: bool, mapping: Path | None,
    model: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Run FILE and watch it: nodes with their times on the side, what it says as it says it."""
    app = load(file, _mapping(mapping, model))

    async def work(yard: Any) -> int:
        view = _View(quiet=quiet or as_json)
        last: AnyEvent | None = None
        given = await _inputs(yard, app, inputs)
        async with aclosing(stream(app, yard, inputs=given, query=query)) as events:
            async for event in events:
                last = event
                view.show(event)
        outcome = outcome_of(last)
        if as_json:
            print_json({"status": outcome.status, "outputs": outcome.outputs, "error": outcome.error or None})
        else:
            view.end(outcome.outputs)
        if outcome.status in (Status.FAILED, Status.STOPPED) and not as_json:
            click.echo(click.style("error: ", fg="red", bold=True) + outcome.error, err=True)
            if isinstance(last, GraphRunFailed) and "mapping" in outcome.error and not model:
                note("`--model default` runs it on the model that is here")
        return 0 if outcome.status in (Status.SUCCEEDED, Status.PARTIAL) else 1

    return run_with_yard(ctx, work)


async def _inputs(yard: Any, app: App, given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE as the form has them. Raises UsageError."""
    node = app.graph().nodes[app.roots[0]]
    forms = {one.variable: one for one in form_of(node)}
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise click.UsageError(f"{one!r} is no input; write NAME=VALUE")
        if forms and name not in forms:
            raise click.UsageError(f"{name!r} is no input of {app.name!r}; it takes {', '.join(forms) or 'none'}")
        kind = forms[name].type if name in forms else ""
        value: Any = text
        if text.startswith("@"):
            value = await _file(yard, Path(text[1:]))
        elif kind in ("json_object", "") or kind == "checkbox":
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = text
        if kind == "file-list":
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


async def _file(yard: Any, path: Path) -> File:
    data = await asyncio.to_thread(read_file, path)
    file = await yard.services.workflows.files("default").save(path.name, data)
    return msgspec.structs.replace(file, transfer_method="local_file", type=file_kind(file.extension, file.mime_type))


class _View:
    """Nodes on standard error with their times, text on standard output as it comes."""

    def __init__(self, *, quiet: bool) -> None:
        self._is_quiet = quiet
        self._began: dict[str, float] = {}
        self._said: list[str] = []
        self._is_at_start = True

    def show(self, event: AnyEvent) -> None:
        match event:
            case NodeRunStarted():
                self._began[event.id] = time.monotonic()
            case NodeRunSucceeded():
                self._line("✓", "green", event)
            case NodeRunException() | NodeRunFailed():
                self._line("✗", "red", event, event.error)
            case NodeRunRetry():
                self._line("↻", "yellow", event, f"try {event.retry_index}: {event.error}")
            case NodeRunIterationNext() | NodeRunLoopNext():
                self._note(f"    {event.title} · round {event.round + 1}")
            case NodeRunStreamChunk():
                self._say(event.chunk)
            case TextReplaced():
                self._said = [event.text]
            case _:
                pass

    def _line(self, sign: str, colour: str, event: Any, more: str = "") -> None:
        seconds = time.monotonic() - self._began.get(event.id, time.monotonic())
        shown = f"{seconds * 1000:8.1f} ms" if seconds < 1 else f"{seconds:8.2f} s "
        tokens = event.metadata.get("total_tokens")
        extra = f"  {tokens} tokens" if tokens else ""
        inside = "    " if event.in_iteration_id or event.in_loop_id else ""
        text = (
            f"{inside}{click.style(sign, fg=colour)} {shown}  {event.title}  {click.style(event.node_type, dim=True)}"
        )
        self._note(f"{text}{extra}{f'  {more}' if more else ''}")

    def _note(self, text: str) -> None:
        if self._is_quiet:
            return
        if not self._is_at_start:
            click.echo("", err=True)
            self._is_at_start = True
        click.echo(text, err=True)

    def _say(self, text: str) -> None:
        self._said.append(text)
        if sys.stdout.isatty() and not self._is_quiet and text:
            click.echo(text, nl=False)
            self._is_at_start = text.endswith("\n")

    def end(self, outputs: dict[str, Any]) -> None:
        """What came of it, where it was not said already."""
        if not self._is_at_start:
            click.echo("")
        said = "".join(self._said)
        texts = [value for value in outputs.values() if isinstance(value, str)]
        if sys.stdout.isatty() and not self._is_quiet and len(outputs) == 1 and texts and texts[0] == said:
            return
        if set(outputs) <= {"answer", "files"}:
            click.echo(outputs.get("answer", ""))
        elif outputs:
            print_json(outputs)


@workflow.command()
@click.argument("file", type=_FILE)
@click.option("--format", "form", type=click.Choice(["svg", "mermaid"]), help="[from the output's name; svg]")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where to; else it is printed.")
def draw(file: Path, form: str | None, output: Path | None) -> None:
    """Draw FILE as SVG, or as a Mermaid flowchart."""
    app = load(file)
    form = form or ("mermaid" if output is not None and output.suffix in (".mmd", ".md", ".mermaid") else "svg")
    text = svg(app) if form == "svg" else mermaid(app)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{str(output)!r} cannot be written: {error.strerror}") from error
    note(f"{output}: {app.graph().size()} nodes")


@workflow.command()
@click.argument("files", type=_FILE, nargs=-1, required=True)
@_with_mapping
@json_option
@click.pass_context
def check(ctx: click.Context, files: tuple[Path, ...], mapping: Path | None, model: str | None, as_json: bool) -> int:
    """Say what is wrong with FILES, and what they need that may not be here."""
    given = _mapping(mapping, model)
    reports: list[dict[str, Any]] = []
    for file in files:
        try:
            app = load(file, given)
        except DslError as error:
            reports.append({"file": str(file), "ok": False, "problems": [str(one) for one in error.problems]})
            continue
        reports.append({
            "file": str(file), "ok": True, "mode": app.mode, "version": app.version,
            "nodes": sum(len(level.nodes) for level in app.levels.values()),
            "warnings": [str(one) for one in app.warnings],
            "needs": [f"{one.kind} {one.name}" for one in app.needs],
        })  # fmt: skip
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _show_report(report)
    return 0 if all(one["ok"] for one in reports) else 1


def _show_report(report: dict[str, Any]) -> None:
    if not report["ok"]:
        click.echo(f"{click.style('✗', fg='red')} {report['file']}")
        for problem in report["problems"]:
            click.echo(f"    {problem}")
        return
    click.echo(
        f"{click.style('✓', fg='green')} {report['file']}  {report['mode']}, version {report['version']}, "
        f"{report['nodes']} nodes"
    )
    for warning in report["warnings"]:
        click.echo(f"    {click.style('!', fg='yellow')} {warning}")
    for need in report["needs"]:
        click.echo(f"    needs {need}")


# ------------------------------------------------------------------------------------------------ app


@click.group()
def app() -> None:
    """Apps: import exported files, list and export them, make keys for their callers."""


@app.command("import")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--key/--no-key", default=True, help="Make a key for an app that has none.  [yes]")
@click.option("--draft", is_flag=True, help="Keep it as a draft: callers get what they got before.")
@_with_mapping
@tenant_option
@json_option
@click.pass_context
def import_(
    ctx: click.Context, files: tuple[Path, ...], key: bool, draft: bool, mapping: Path | None, model: str | None,
    tenant: str, as_json: bool,
) -> int:  # fmt: skip
    """Import FILES: what has the name of an app takes its place. A running server serves them within a second."""
    given = _mapping(mapping, model)

    async def work(yard: Any) -> int:
        shown: list[dict[str, Any]] = []
        for file in files:
            text = _text(file)
            try:
                found, read, was_there = await yard.apps.add(
                    tenant, text, file=file.name, mapping=given, publishes=not draft
                )
                dataset = None
                if read.kind == "rag_pipeline":
                    dataset = (await yard.services.workflows.pipelines.dataset_for(found, read)).id
            except DslError as error:
                shown.append({"file": str(file), "error": str(error)})
                continue
            made = (await yard.apps.make_key(found))[1] if key and not yard.apps.keys(found) else None
            shown.append({
                "file": str(file), "id": found.id, "name": found.name, "mode": found.stored.mode,
                "replaced": was_there, "draft": draft, "dataset": dataset, "key": made,
                "warnings": [str(one) for one in read.warnings],
                "needs": [f"{one.kind} {one.name}" for one in read.needs],
            })  # fmt: skip
        if as_json:
            print_json(shown)
        else:
            for one in shown:
                _show_import(one)
        return 1 if any("error" in one for one in shown) else 0

    return run_with_yard(ctx, work)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {str(file)!r} cannot be read: {error}") from error


def _show_import(one: dict[str, Any]) -> None:
    if "error" in one:
        click.echo(f"{click.style('✗', fg='red')} {one['error']}", err=True)
        return
    said = "updated" if one["replaced"] else "imported"
    if one["draft"]:
        said += " as a draft,"
    click.echo(f"{click.style('✓', fg='green')} {one['name']}  {one['mode']}, {said} as {one['id']}")
    if one["key"]:
        click.echo(f"    key  {one['key']}")
    if one["dataset"]:
        click.echo(f"    fills dataset {one['dataset']}")
    for warning in one["warnings"]:
        click.echo(f"    {click.style('!', fg='yellow')} {warning}")
    if one["needs"]:
        click.echo(f"    needs {', '.join(one['needs'])}")


@app.command("list")
@tenant_option
@json_option
@click.pass_context
def list_(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """The apps that are here."""

    async def work(yard: Any) -> list[dict[str, Any]]:
        return [
            {"id": one.id, "name": one.name, "mode": one.stored.mode, "enabled": one.stored.is_enabled,
             "keys": [key.hint for _, key in yard.apps.keys(one)]}
            for one in yard.apps.all(tenant)
        ]  # fmt: skip

    found = run_with_yard(ctx, work)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["name"],
            one["mode"],
            one["id"],
            ", ".join(one["keys"]) or "none",
            _on(is_on=one["enabled"]),
        )
        for one in found
    ]
    print_table("", ("name", "mode", "id", "keys", ""), rows)


def _on(*, is_on: bool) -> Any:
    return good("on") if is_on else bad("off")


@app.command()
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where to; else it is printed.")
@click.option("--secrets", is_flag=True, help="With the values of secret variables.")
@tenant_option
@click.pass_context
def export(ctx: click.Context, name: str, output: Path | None, secrets: bool, tenant: str) -> None:
    """The app NAME as a file that can be imported."""

    async def work(yard: Any) -> str:
        return await yard.apps.export(yard.apps.find(tenant, name), with_secrets=secrets)

    text = run_with_yard(ctx, work)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")


@app.command()
@click.argument("name")
@tenant_option
@click.pass_context
def remove(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove the app NAME and its keys."""

    async def work(yard: Any) -> str:
        found = yard.apps.find(tenant, name)
        await yard.apps.remove(found)
        return found.name

    click.echo(f"removed {run_with_yard(ctx, work)}")


@app.command()
@click.argument("name")
@click.option("--revoke", metavar="ID", help="A key's id, as --list shows it.")
@click.option("--list", "is_list", is_flag=True, help="The keys that there are.")
@tenant_option
@json_option
@click.pass_context
def key(ctx: click.Context, name: str, revoke: str | None, is_list: bool, tenant: str, as_json: bool) -> None:
    """Make a key for callers of the app NAME; or list, or revoke them."""

    async def work(yard: Any) -> Any:
        found = yard.apps.find(tenant, name)
        if is_list:
            return [{"id": one.id, "hint": stored.hint} for one, stored in yard.apps.keys(found)]
        if revoke:
            await yard.apps.revoke_key(found, revoke)
            return {"revoked": revoke}
        row, made = await yard.apps.make_key(found)
        return {"id": row, "key": made}

    shown = run_with_yard(ctx, work)
    if as_json:
        print_json(shown)
    elif is_list:
        print_table("", ("id", "key"), [(one["id"], one["hint"]) for one in shown])
    elif revoke:
        click.echo(f"revoked {revoke}")
    else:
        click.echo(shown["key"])
        note("shown this once; callers send it as 'Authorization: Bearer KEY'")


@app.command()
@click.argument("name")
@click.option("--name", "version", default="", help="What to call this version.")
@click.option("--note", default="", help="What is new in it.")
@tenant_option
@click.pass_context
def publish(ctx: click.Context, name: str, version: str, note: str, tenant: str) -> None:
    """Give callers of the app NAME its draft. Runs that have begun go on with what they began with."""

    async def work(yard: Any) -> Any:
        return await yard.apps.publish(yard.apps.find(tenant, name), name=version, note=note)

    done = run_with_yard(ctx, work)
    click.echo(f"published {done.name} {version or done.stored.digest[:8]}")


@app.command()
@click.argument("name")
@tenant_option
@json_option
@click.pass_context
def versions(ctx: click.Context, name: str, tenant: str, as_json: bool) -> None:
    """What was published of the app NAME, the newest first."""

    async def work(yard: Any) -> Any:
        stored = yard.apps.find(tenant, name).stored
        kept = [
            {"digest": one.digest, "name": one.name, "note": one.note, "published_at": one.at,
             "is_current": one.digest == stored.digest}
            for one in reversed(stored.versions)
        ]  # fmt: skip
        return {"draft": stored.draft or None, "versions": kept}

    shown = run_with_yard(ctx, work)
    if as_json:
        print_json(shown)
        return
    rows = [
        (one["digest"][:8], one["name"], time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["published_at"])),
         one["note"][:60], good("published") if one["is_current"] else "")
        for one in shown["versions"]
    ]  # fmt: skip
    if shown["draft"]:
        rows.insert(0, (shown["draft"][:8], "", "", "", "draft"))
    print_table("", ("version", "name", "published", "note", ""), rows)


@app.command()
@click.argument("name")
@click.argument("version")
@tenant_option
@click.pass_context
def restore(ctx: click.Context, name: str, version: str, tenant: str) -> None:
    """Make VERSION the draft of the app NAME again; `publish` gives it to callers."""

    async def work(yard: Any) -> Any:
        return await yard.apps.restore(yard.apps.find(tenant, name), version)

    done = run_with_yard(ctx, work)
    click.echo(f"{done.name}: {version} is " + ("the draft" if done.stored.draft else "what is published already"))


@app.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="Take the page away; its address stays reserved.")
@click.option(
    "--origin", "origins", multiple=True, help="A site that may embed it, as https://shop.example; repeat it."
)
@tenant_option
@json_option
@click.pass_context
def page(ctx: click.Context, name: str, off: bool, origins: tuple[str, ...], tenant: str, as_json: bool) -> None:
    """Let people use the app NAME on a page of its own."""

    async def work(yard: Any) -> Any:
        found = await yard.apps.set_page(
            yard.apps.find(tenant, name), is_on=not off, origins=list(origins) if origins else None
        )
        token = found.stored.page.token
        return {
            "url": f"{yard.services.addresses.server()}/chat/{token}",
            "token": token,
            "is_on": not off,
            "origin": yard.services.addresses.server(),
        }

    shown = run_with_yard(ctx, work)
    if as_json:
        print_json(shown)
    elif off:
        click.echo(f"the page of {name} is off")
    else:
        click.echo(shown["url"])
        note(f'embed it: <script src="{shown["origin"]}/chat/-/embed.js" data-token="{shown["token"]}" defer></script>')


@app.command()
@click.argument("name")
@tenant_option
@json_option
@click.pass_context
def triggers(ctx: click.Context, name: str, tenant: str, as_json: bool) -> None:
    """What begins runs of the app NAME without a caller: webhooks' addresses, times, events."""
    from modelyard.gateway.tenant_content import WEBHOOK
    from modelyard.workflow.trigger_nodes import next_times

    async def work(yard: Any) -> Any:
        stored, hooks = yard.apps.find(tenant, name).stored, f"{yard.services.addresses.content()}{WEBHOOK}"
        return [
            {"node": one.title, "type": one.type, "cron": one.cron, "timezone": one.timezone,
             "next": next_times(one, yard.services.clock.time()) if one.type == "schedule" else [],
             "address": hooks + stored.webhooks.get(one.node, "") if one.type == "webhook" else "",
             "provider": one.provider, "event": one.event}
            for one in stored.triggers
        ]  # fmt: skip

    shown = run_with_yard(ctx, work)
    if as_json:
        print_json(shown)
        return
    for one in shown:
        match one["type"]:
            case "webhook":
                said = one["address"]
            case "schedule":
                times = ", ".join(time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in one["next"])
                said = f"{one['cron']} ({one['timezone']}), next {times} of this machine's time"
            case _:
                said = f"{one['event']} of {one['provider']}"
        click.echo(f"{one['node']}: {said}")
    if not shown:
        note(f"nothing of what is published of {name} begins runs by itself")


@app.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@tenant_option
@json_option
@click.pass_context
def runs(ctx: click.Context, name: str, limit: int, tenant: str, as_json: bool) -> None:
    """The newest runs of the app NAME."""

    async def work(yard: Any) -> Any:
        found, _ = await yard.runs.journal.list(tenant, yard.apps.find(tenant, name).id, most=limit)
        return [
            {"id": one.id, "status": one.status.value, "created_at": one.created_at, "elapsed": round(one.elapsed, 3),
             "steps": one.total_steps, "tokens": one.total_tokens, "error": one.error}
            for one in found
        ]  # fmt: skip

    shown = run_with_yard(ctx, work)
    if as_json:
        print_json(shown)
        return
    rows = [
        (one["id"], one["status"], time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["created_at"])),
         f"{one['elapsed']:.2f} s", one["steps"], one["tokens"], one["error"][:60])
        for one in shown
    ]  # fmt: skip
    print_table("", ("run", "status", "started", "took", "steps", "tokens", "error"), rows, right=("took", "steps"))
