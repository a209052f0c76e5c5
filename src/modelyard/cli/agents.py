"""`modelyard agent` and `modelyard tools`: a model with tools, watched; and the tools by themselves."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.cli.show import json_option, note, print_json, print_table, run_with_yard, texts_given
from modelyard.cli.usage import tenant_option

_SHOWN = 600


@click.group()
def agent() -> None:
    """Agents: give a model tools, and watch what it does."""


@agent.command(name="run")
@click.argument("question", nargs=-1)
@click.option("--model", default="default", show_default=True, help="As provider/model.")
@click.option(
    "--tools", "names", default="", metavar="NAMES",
    help="Separated by commas: calculate, time/current_time, dataset:NAME, workflow:NAME, mcp:SERVER/TOOL, ….",
)  # fmt: skip
@click.option(
    "--strategy", default="auto", show_default=True,
    help="function_calling, react, react_completion, chain_of_thought, plan_and_execute; or what the model is able to.",
)  # fmt: skip
@click.option("--instruction", default="", help="What the agent is told before anything else.")
@click.option("--iterations", default=10, show_default=True, type=click.IntRange(0, 99), help="Turns with tools.")
@click.option("--tokens", default=0, help="Tokens at most; 0 for no limit.")
@click.option("--cost", default=0.0, help="Money at most; 0 for no limit.")
@click.option("--seconds", default=0.0, help="Time at most; 0 for no limit.")
@click.option(
    "--schema", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSON schema of the answer."
)
@click.option("--yes", is_flag=True, help="Agree to every tool that asks for it.")
@tenant_option
@json_option
@click.pass_context
def run_agent(
    ctx: click.Context, question: tuple[str, ...], model: str, names: str, strategy: str, instruction: str,
    iterations: int, tokens: int, cost: float, seconds: float, schema: Path | None, yes: bool, tenant: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Ask QUESTION; thoughts and calls stand beside the answer, on standard error."""
    asked = " ".join(texts_given([" ".join(question)] if question else [], "question"))
    wanted = _schema(schema)
    chosen = [one.strip() for one in names.split(",") if one.strip()]

    async def approve(calls: Sequence[Any]) -> Mapping[str, str]:
        answers: dict[str, str] = {}
        for one in calls:
            said = yes or await asyncio.to_thread(click.confirm, f"Call {one.name} {one.arguments}?", err=True)
            answers[one.id] = "" if said else "the user said no"
        return answers

    async def work(yard: Any) -> int:
        from modelyard.agents.state import AgentLimits

        limits = AgentLimits(iterations=iterations, tokens=tokens, cost=cost, seconds=seconds)
        made = await yard.agent(
            model, chosen, tenant=tenant, strategy=strategy, instruction=instruction, limits=limits, schema=wanted,
            approve=approve,
        )  # fmt: skip
        async with aclosing(made.stream(asked)) as events:
            return await _watched(events, as_json=as_json)

    return run_with_yard(ctx, work)


def _schema(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no JSON schema: {error}") from error


async def _watched(events: Any, *, as_json: bool) -> int:
    from modelyard.agents import events as told

    at_line_start, thinking = True, False
    async for one in events:
        if as_json:
            click.echo(told.dump_event(one).decode())
            continue
        match one:
            case told.ThoughtDelta():
                click.secho(one.text, nl=False, err=True, dim=True)
                thinking = not one.text.endswith("\n")
            case told.TextDelta():
                if thinking:
                    click.echo("", err=True)
                click.echo(one.text, nl=False)
                at_line_start, thinking = one.text.endswith("\n"), False
            case told.ToolStarted():
                if not at_line_start or thinking:
                    click.echo("", err=True)
                click.secho(f"→ {one.call.name} {one.call.arguments[:_SHOWN]}", err=True, fg="cyan")
                at_line_start, thinking = True, False
            case told.ToolFinished():
                color = "red" if one.error else "green"
                shown = " ".join(one.observation.split())
                text = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
                click.secho(f"← {one.call.name} ({one.seconds:.2f} s) {text}", err=True, fg=color)
            case told.AgentFinished():
                if not at_line_start:
                    click.echo("")
                if one.value is not None:
                    print_json(one.value)
                spent = f"{one.rounds} turns, {one.tool_calls} calls, {one.usage.total_tokens:,} tokens"
                spent += f", {one.seconds:.1f} s"
                note(spent if one.reason == "answer" else f"ended by its limit on {one.reason}: {spent}")
            case _:
                pass
    return 0


# ---------------------------------------------------------------------------------------------- tools


@click.group()
def tools() -> None:
    """Tools: list them, look at one, try it; add APIs and MCP servers."""


@tools.command(name="list")
@click.option("--kind", default="", help="builtin, plugin, api, mcp, workflow or function.")
@tenant_option
@json_option
@click.pass_context
def list_tools(ctx: click.Context, kind: str, tenant: str, as_json: bool) -> None:
    """What models may be given here."""

    async def work(yard: Any) -> None:
        found = await yard.tools.list(tenant, kind)
        if as_json:
            print_json(found)
            return
        rows = [
            (f"{one.provider}/{one.name}" if one.provider else one.name, one.kind, one.description.split("\n")[0][:100])
            for one in found
        ]
        print_table("", ("tool", "kind", "what it does"), rows)

    run_with_yard(ctx, work)


@tools.command(name="show")
@click.argument("name")
@tenant_option
@click.pass_context
def show_tool(ctx: click.Context, name: str, tenant: str) -> None:
    """A tool as a model is told of it."""

    async def work(yard: Any) -> None:
        one = await yard.tools.named(tenant, name)
        print_json({
            "name": one.name, "kind": one.entity.kind, "provider": one.entity.provider,
            "description": one.entity.description, "parameters": one.schema,
            "needs_approval": one.entity.needs_approval, "seconds": one.entity.seconds,
        })  # fmt: skip

    run_with_yard(ctx, work)


@tools.command(name="call")
@click.argument("name")
@click.argument("arguments", nargs=-1)
@tenant_option
@json_option
@click.pass_context
def call_tool(ctx: click.Context, name: str, arguments: tuple[str, ...], tenant: str, as_json: bool) -> int:
    """Call a tool: ARGUMENTS are name=value, or one JSON object."""
    given = _given(arguments)

    async def work(yard: Any) -> int:
        from modelyard.tools.entities import ToolContext

        one = await yard.tools.named(tenant, name)
        context = ToolContext(tenant=tenant, app="cli")
        found = await yard.tools.observe(one, one.name, msgspec.json.encode(given).decode(), context)
        if as_json:
            print_json({
                "text": found.text, "error": found.error, "values": found.gathered.values,
                "files": [{"mime_type": each.mime_type, "bytes": len(each.data)} for each in found.gathered.blobs],
                "seconds": round(found.seconds, 4),
            })  # fmt: skip
        else:
            click.echo(found.text, err=bool(found.error))
            for each in found.gathered.blobs:
                note(f"a file of {len(each.data):,} bytes, {each.mime_type}")
        return 1 if found.error else 0

    return run_with_yard(ctx, work)


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        try:
            return msgspec.json.decode(arguments[0], type=dict)
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"that is no JSON object: {error}") from error
    found: dict[str, Any] = {}
    for one in arguments:
        name, sign, value = one.partition("=")
        if not sign:
            raise click.UsageError(f"{one!r} is not name=value")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found


@tools.command(name="providers")
@tenant_option
@json_option
@click.pass_context
def list_providers(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """APIs and MCP servers that were added."""

    async def work(yard: Any) -> None:
        found = yard.services.tools.providers.all(tenant)
        if as_json:
            print_json([{"id": one.id, "name": one.name, **_public(stored)} for one, stored in found])
            return
        rows = [
            (one.name, stored.type, stored.count, stored.url or stored.stdio or stored.title) for one, stored in found
        ]
        print_table("", ("provider", "kind", "tools", "where"), rows, right=("tools",))

    run_with_yard(ctx, work)


def _public(stored: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(stored).items() if name != "secret"}


_AUTHS = ("none", "auto", "bearer", "basic", "api_key_header", "api_key_query", "api_key_cookie", "oauth2")


@tools.command(name="add-api")
@click.argument("name")
@click.argument("description")
@click.option("--server", default="", help="Where the API is, in the place of what its description says.")
@click.option("--auth", "auth_type", type=click.Choice(_AUTHS), default="none", show_default=True)
@click.option("--header", "auth_name", default="", help="Name of the header, parameter or cookie.")
@click.option("--user", default="", help="For basic, and the client id for oauth2.")
@click.option("--key", "from_prompt", is_flag=True, help="Ask for the key, or the secret, without showing it.")
@click.option("--key-env", default="", metavar="VARIABLE", help="Read the key from the environment.")
@tenant_option
@json_option
@click.pass_context
def add_api(
    ctx: click.Context, name: str, description: str, server: str, auth_type: str, auth_name: str, user: str,
    from_prompt: bool, key_env: str, tenant: str, as_json: bool,
) -> None:  # fmt: skip
    """Make tools of an HTTP API: DESCRIPTION is a file or an address of an OpenAPI 3 or Swagger 2 document."""
    value = _secret_of(from_prompt, key_env)

    async def work(yard: Any) -> None:
        from modelyard.tools.api import Auth

        is_url = description.startswith(("http://", "https://"))
        text = b"" if is_url else _file_of(description)
        auth = Auth(type=auth_type, name=auth_name, value=value, user=user)
        row, api = await yard.services.tools.providers.add_api(
            tenant, name, text, url=description if is_url else "", server=server, auth=auth
        )
        if as_json:
            print_json({"id": row, "server": api.server, "tools": [one.name for one in api.operations],
                        "left_out": api.left_out})  # fmt: skip
            return
        click.echo(f"{name}: {len(api.operations)} tools of {api.title}, at {api.server or 'no server yet'}")
        for one in api.left_out[:10]:
            note(f"left out: {one}")

    run_with_yard(ctx, work)


@tools.command(name="add-mcp")
@click.argument("name")
@click.argument("url", default="")
@click.option("--stdio", default="", help="A program that is registered in the settings under tools.mcp_stdio.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Sent with each request.")
@click.option("--key-env", default="", metavar="VARIABLE", help="Send this variable's value as a bearer key.")
@tenant_option
@json_option
@click.pass_context
def add_mcp(
    ctx: click.Context, name: str, url: str, stdio: str, headers: tuple[str, ...], key_env: str, tenant: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Add an MCP server: its URL, or a registered program."""
    given: dict[str, str] = {}
    for one in headers:
        title, _, value = one.partition("=")
        given[title] = value
    if key_env:
        given["Authorization"] = f"Bearer {_secret_of(False, key_env)}"

    async def work(yard: Any) -> None:
        row, listing = await yard.services.tools.providers.add_mcp(tenant, name, url=url, stdio=stdio, headers=given)
        if as_json:
            print_json({"id": row, "version": listing.version, "tools": [one["name"] for one in listing.tools]})
            return
        click.echo(f"{name}: {len(listing.tools)} tools, revision {listing.version}")

    run_with_yard(ctx, work)


@tools.command(name="add-extension")
@click.argument("name")
@click.argument("url")
@click.option("--key-env", default="", metavar="VARIABLE", help="Send this variable's value as a bearer key.")
@tenant_option
@click.pass_context
def add_extension(ctx: click.Context, name: str, url: str, key_env: str, tenant: str) -> None:
    """Add an API extension: where apps' moderation and external data come from. It must answer a ping."""
    key = _secret_of(False, key_env) if key_env else ""

    async def work(yard: Any) -> None:
        await yard.services.tools.providers.extensions.add(tenant, name, url, key)
        click.echo(f"{name} answers.")

    run_with_yard(ctx, work)


@tools.command(name="refresh")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Take the changes that are shown.")
@click.option("--confirm-origin", "origins", multiple=True, metavar="URL", help="Calls may go to this server too.")
@tenant_option
@json_option
@click.pass_context
def refresh_provider(
    ctx: click.Context, name: str, yes: bool, origins: tuple[str, ...], tenant: str, as_json: bool
) -> None:
    """Ask a provider anew what it has, and show what changed. Its tools stay as they are until you take that."""

    async def work(yard: Any) -> None:
        providers = yard.services.tools.providers
        changes, is_taken = await providers.refresh(tenant, name, accept=yes, confirm_origins=origins)
        if as_json:
            print_json({"changes": msgspec.to_builtins(changes), "accepted": is_taken})
            return
        for line in changes.lines():
            click.echo(line)
        _, stored = providers.find(tenant, name)
        click.echo(f"{name}: {stored.count} tools" if is_taken else "Nothing was taken; --yes takes it.")

    run_with_yard(ctx, work)


@tools.command(name="remove")
@click.argument("name")
@tenant_option
@click.pass_context
def remove_provider(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove an API or an MCP server."""

    async def work(yard: Any) -> None:
        await yard.services.tools.providers.remove(tenant, name)
        click.echo(f"{name} is gone.")

    run_with_yard(ctx, work)


def _secret_of(from_prompt: bool, variable: str) -> str:
    if variable:
        if not (value := os.environ.get(variable, "")):
            raise click.UsageError(f"the environment has no {variable}")
        return value
    return str(click.prompt("Key", hide_input=True)) if from_prompt else ""


def _file_of(path: str) -> bytes:
    from modelyard.base.files import read_file

    return read_file(Path(path))


# ---------------------------------------------------------------------------------------------- MCP


@click.group()
def mcp() -> None:
    """MCP: offer tools, apps and datasets to other programs' models."""


@mcp.command(name="serve")
@click.option("--tools", "names", default="", metavar="NAMES", help="Only these, separated by commas.")
@tenant_option
@click.pass_context
def serve_mcp(ctx: click.Context, names: str, tenant: str) -> None:
    """Serve over standard input and output, for clients that start programs. `modelyard serve` has it at /mcp."""
    chosen = [one.strip() for one in names.split(",") if one.strip()]

    async def work(yard: Any) -> None:
        from modelyard.tools.entities import ToolContext
        from modelyard.tools.mcp.server import McpServer, serve_lines

        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=16 << 20)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        lock = asyncio.Lock()

        async def write(data: bytes) -> None:
            async with lock:
                await asyncio.to_thread(_written, data)

        server = McpServer(yard.tools)
        context = ToolContext(tenant=tenant, app="mcp")
        await serve_lines(server, lambda: yard.services.named_tools.offer(tenant, chosen), context, reader, write)

    run_with_yard(ctx, work)


def _written(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
