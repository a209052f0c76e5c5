"""`modelyard agent` and `modelyard tools`: run a model with tools, and manage and try
tools."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.cli.output import (
    input_texts,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
)
from modelyard.cli.usage import tenant_option

if TYPE_CHECKING:
    from modelyard.app import Modelyard


# Characters of a tool's arguments and results that are printed.
_MAX_PRINTED = 600


@click.group()
def agent() -> None:
    """Agents: give a model tools, and watch what it does."""


@agent.command(name="run")
@click.argument("question", nargs=-1)
@click.option(
    "--model", default="default", show_default=True, help="As provider/model."
)
@click.option(
    "--tools",
    "names",
    default="",
    metavar="NAMES",
    help=(
        "Separated by commas: calculate, time/current_time, dataset:NAME,"
        " workflow:NAME, mcp:SERVER/TOOL, …."
    ),
)
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    help=(
        "function_calling, react, react_completion, chain_of_thought, plan_and_execute;"
        " or what the model is able to."
    ),
)
@click.option(
    "--instruction", default="", help="What the agent is told before anything else."
)
@click.option(
    "--iterations",
    default=10,
    show_default=True,
    type=click.IntRange(0, 99),
    help="Turns with tools.",
)
@click.option("--tokens", default=0, help="Tokens at most; 0 for no limit.")
@click.option("--cost", default=0.0, help="Money at most; 0 for no limit.")
@click.option("--seconds", default=0.0, help="Time at most; 0 for no limit.")
@click.option(
    "--schema",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON schema of the answer.",
)
@click.option("--yes", is_flag=True, help="Agree to every tool that asks for it.")
@tenant_option
@json_option
@click.pass_context
def run_agent(
    ctx: click.Context,
    question: tuple[str, ...],
    model: str,
    names: str,
    strategy: str,
    instruction: str,
    iterations: int,
    tokens: int,
    cost: float,
    seconds: float,
    schema: Path | None,
    yes: bool,
    tenant: str,
    as_json: bool,
) -> int:
    """Ask QUESTION and print the answer. Reasoning and tool calls are printed to
    standard error."""
    prompt = " ".join(input_texts([" ".join(question)] if question else [], "question"))
    answer_schema = _schema(schema)
    tool_names = [
        tool_name.strip() for tool_name in names.split(",") if tool_name.strip()
    ]

    async def approve(calls: Sequence[Any]) -> Mapping[str, str]:
        """Return call id → refusal for the model; an empty text approves the call."""
        answers: dict[str, str] = {}
        for tool_call in calls:
            # The prompt blocks, so it runs in a thread; it goes to stderr to keep
            # stdout for the answer.
            is_approved = yes or await asyncio.to_thread(
                click.confirm, f"Call {tool_call.name} {tool_call.arguments}?", err=True
            )
            answers[tool_call.id] = "" if is_approved else "the user said no"
        return answers

    async def work(yard: "Modelyard") -> int:
        """Run the agent and print its events."""
        # Imported here: other commands of this module should not load the agents.
        from modelyard.agents.state import AgentLimits

        limits = AgentLimits(
            iterations=iterations, tokens=tokens, cost=cost, seconds=seconds
        )
        created_agent = await yard.agent(
            model,
            tool_names,
            tenant=tenant,
            strategy=strategy,
            instruction=instruction,
            limits=limits,
            schema=answer_schema,
            approve=approve,
        )
        async with aclosing(created_agent.stream(prompt)) as events:
            return await _print_events(events, as_json=as_json)

    return run_with_modelyard(ctx, work)


def _schema(path: Path | None) -> Any:
    """Read the JSON schema of the answer. Raises ConfigError if the file is not a JSON
    object."""
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no JSON schema: {error}") from error


async def _print_events(events: Any, *, as_json: bool) -> int:
    """Print an agent's events as they arrive and return the exit code."""
    from modelyard.agents import events as told

    # Reasoning, tool lines and the answer share a terminal: track when a line break is
    # due.
    at_line_start, thinking = True, False
    async for event in events:
        if as_json:
            click.echo(told.dump_event(event).decode())
            continue
        match event:
            case told.ThoughtDelta():
                click.secho(event.text, nl=False, err=True, dim=True)
                thinking = not event.text.endswith("\n")
            case told.TextDelta():
                if thinking:
                    click.echo("", err=True)
                click.echo(event.text, nl=False)
                at_line_start, thinking = event.text.endswith("\n"), False
            case told.ToolStarted():
                if not at_line_start or thinking:
                    click.echo("", err=True)
                click.secho(
                    f"→ {event.call.name} {event.call.arguments[:_MAX_PRINTED]}",
                    err=True,
                    fg="cyan",
                )
                at_line_start, thinking = True, False
            case told.ToolFinished():
                color = "red" if event.error else "green"
                # White space is collapsed, so that a result takes one line.
                observation = " ".join(event.observation.split())
                text = (
                    observation
                    if len(observation) <= _MAX_PRINTED
                    else f"{observation[:_MAX_PRINTED]}…"
                )
                click.secho(
                    f"← {event.call.name} ({event.seconds:.2f} s) {text}",
                    err=True,
                    fg=color,
                )
            case told.AgentFinished():
                if not at_line_start:
                    click.echo("")
                # With a schema the structured value follows the text.
                if event.value is not None:
                    print_json(event.value)
                spent = (
                    f"{event.rounds} turns, {event.tool_calls} calls,"
                    f" {event.usage.total_tokens:,} tokens"
                )
                spent += f", {event.seconds:.1f} s"
                print_note(
                    spent
                    if event.reason == "answer"
                    else f"ended by its limit on {event.reason}: {spent}"
                )
            case _:
                pass
    return 0


# -------------------------------------------------------------------------------- tools


@click.group()
def tools() -> None:
    """Tools: list them, look at one, try it; add APIs and MCP servers."""


@tools.command(name="list")
@click.option(
    "--kind", default="", help="builtin, plugin, api, mcp, workflow or function."
)
@tenant_option
@json_option
@click.pass_context
def list_tools(ctx: click.Context, kind: str, tenant: str, as_json: bool) -> None:
    """List the tools that models can be given."""

    async def work(yard: "Modelyard") -> None:
        """Print the tools as a table or JSON."""
        listed_tools = await yard.tools.list(tenant, kind)
        if as_json:
            print_json(listed_tools)
            return
        rows = [
            # Only the first line of a description fits a table.
            (
                f"{tool.provider}/{tool.name}" if tool.provider else tool.name,
                tool.kind,
                tool.description.split("\n")[0][:100],
            )
            for tool in listed_tools
        ]
        print_table("", ("tool", "kind", "what it does"), rows)

    run_with_modelyard(ctx, work)


@tools.command(name="show")
@click.argument("name")
@tenant_option
@click.pass_context
def show_tool(ctx: click.Context, name: str, tenant: str) -> None:
    """Show a tool's description and parameters as a model receives them."""

    async def work(yard: "Modelyard") -> None:
        """Print the tool as JSON."""
        tool = await yard.tools.get_by_name(tenant, name)
        print_json(
            {
                "name": tool.name,
                "kind": tool.entity.kind,
                "provider": tool.entity.provider,
                "description": tool.entity.description,
                "parameters": tool.schema,
                "needs_approval": tool.entity.needs_approval,
                "seconds": tool.entity.seconds,
            }
        )

    run_with_modelyard(ctx, work)


@tools.command(name="call")
@click.argument("name")
@click.argument("arguments", nargs=-1)
@tenant_option
@json_option
@click.pass_context
def call_tool(
    ctx: click.Context,
    name: str,
    arguments: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> int:
    """Call a tool. ARGUMENTS are name=value pairs, or one JSON object. Exits with 1 if
    the tool fails."""
    tool_arguments = _parse_arguments(arguments)

    async def work(yard: "Modelyard") -> int:
        """Call the tool and print its result."""
        from modelyard.tools.entities import ToolContext

        tool = await yard.tools.get_by_name(tenant, name)
        context = ToolContext(tenant=tenant, app="cli")
        result = await yard.tools.observe(
            tool, tool.name, msgspec.json.encode(tool_arguments).decode(), context
        )
        if as_json:
            print_json(
                {
                    "text": result.text,
                    "error": result.error,
                    "values": result.gathered.values,
                    "files": [
                        {"mime_type": blob.mime_type, "bytes": len(blob.data)}
                        for blob in result.gathered.blobs
                    ],
                    "seconds": round(result.seconds, 4),
                }
            )
        else:
            # Errors go to standard error, results to standard output.
            click.echo(result.text, err=bool(result.error))
            for blob in result.gathered.blobs:
                print_note(f"a file of {len(blob.data):,} bytes, {blob.mime_type}")
        return 1 if result.error else 0

    return run_with_modelyard(ctx, work)


def _parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse name=value pairs or a JSON object. Raises click.UsageError."""
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        try:
            return msgspec.json.decode(arguments[0], type=dict)
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"that is no JSON object: {error}") from error
    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            raise click.UsageError(f"{argument!r} is not name=value")
        # A value that is valid JSON keeps its type; anything else is text.
        try:
            parsed[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            parsed[name] = value
    return parsed


@tools.command(name="providers")
@tenant_option
@json_option
@click.pass_context
def list_providers(ctx: click.Context, tenant: str, as_json: bool) -> None:
    """List the APIs and MCP servers that were added."""

    async def work(yard: "Modelyard") -> None:
        """Print the providers as a table or JSON."""
        tool_providers = yard.services.tools.providers.all(tenant)
        if as_json:
            print_json(
                [
                    {
                        "id": resource.id,
                        "name": resource.name,
                        **_without_secret(provider),
                    }
                    for resource, provider in tool_providers
                ]
            )
            return
        rows = [
            (
                resource.name,
                provider.type,
                provider.count,
                provider.url or provider.stdio or provider.title,
            )
            for resource, provider in tool_providers
        ]
        print_table(
            "", ("provider", "kind", "tools", "where"), rows, right_aligned=("tools",)
        )

    run_with_modelyard(ctx, work)


def _without_secret(provider: Any) -> dict[str, Any]:
    """Return a provider without its secret."""
    return {
        name: value
        for name, value in msgspec.to_builtins(provider).items()
        if name != "secret"
    }


# The values that Auth accepts.
_AUTHS = (
    "none",
    "auto",
    "bearer",
    "basic",
    "api_key_header",
    "api_key_query",
    "api_key_cookie",
    "oauth2",
)


@tools.command(name="add-api")
@click.argument("name")
@click.argument("description")
@click.option(
    "--server",
    default="",
    help="Where the API is, in the place of what its description says.",
)
@click.option(
    "--auth", "auth_type", type=click.Choice(_AUTHS), default="none", show_default=True
)
@click.option(
    "--header", "auth_name", default="", help="Name of the header, parameter or cookie."
)
@click.option("--user", default="", help="For basic, and the client id for oauth2.")
@click.option(
    "--key",
    "from_prompt",
    is_flag=True,
    help="Ask for the key, or the secret, without showing it.",
)
@click.option(
    "--key-env",
    default="",
    metavar="VARIABLE",
    help="Read the key from the environment.",
)
@tenant_option
@json_option
@click.pass_context
def add_api(
    ctx: click.Context,
    name: str,
    description: str,
    server: str,
    auth_type: str,
    auth_name: str,
    user: str,
    from_prompt: bool,
    key_env: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Add the operations of an HTTP API as tools. DESCRIPTION is the file or URL of an
    OpenAPI 3 or Swagger 2 document."""
    # Before anything is loaded, so that a missing key fails at once.
    value = _read_secret(from_prompt, key_env)

    async def work(yard: "Modelyard") -> None:
        """Register the API and print its tools."""
        from modelyard.tools.api import Auth

        is_url = description.startswith(("http://", "https://"))
        text = b"" if is_url else _read_file(description)
        auth = Auth(type=auth_type, name=auth_name, value=value, user=user)
        row, api = await yard.services.tools.providers.add_api(
            tenant,
            name,
            text,
            url=description if is_url else "",
            server=server,
            auth=auth,
        )
        if as_json:
            print_json(
                {
                    "id": row,
                    "server": api.server,
                    "tools": [operation.name for operation in api.operations],
                    "left_out": api.left_out,
                }
            )
            return
        click.echo(
            f"{name}: {len(api.operations)} tools of {api.title}, at"
            f" {api.server or 'no server yet'}"
        )
        # Operations that cannot become tools are reported with the reason, ten at most.
        for omitted in api.left_out[:10]:
            print_note(f"left out: {omitted}")

    run_with_modelyard(ctx, work)


@tools.command(name="add-mcp")
@click.argument("name")
@click.argument("url", default="")
@click.option(
    "--stdio",
    default="",
    help="A program that is registered in the settings under tools.mcp_stdio.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sent with each request.",
)
@click.option(
    "--key-env",
    default="",
    metavar="VARIABLE",
    help="Send this variable's value as a bearer key.",
)
@tenant_option
@json_option
@click.pass_context
def add_mcp(
    ctx: click.Context,
    name: str,
    url: str,
    stdio: str,
    headers: tuple[str, ...],
    key_env: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Add an MCP server by its URL or by the name of a registered program."""
    request_headers: dict[str, str] = {}
    for header in headers:
        title, _, value = header.partition("=")
        request_headers[title] = value
    # Overrides an Authorization header given by --header.
    if key_env:
        request_headers["Authorization"] = f"Bearer {_read_secret(False, key_env)}"

    async def work(yard: "Modelyard") -> None:
        """Register the server and print its tools."""
        row, listing = await yard.services.tools.providers.add_mcp(
            tenant, name, url=url, stdio=stdio, headers=request_headers
        )
        if as_json:
            print_json(
                {
                    "id": row,
                    "version": listing.version,
                    "tools": [tool["name"] for tool in listing.tools],
                }
            )
            return
        click.echo(f"{name}: {len(listing.tools)} tools, revision {listing.version}")

    run_with_modelyard(ctx, work)


@tools.command(name="add-extension")
@click.argument("name")
@click.argument("url")
@click.option(
    "--key-env",
    default="",
    metavar="VARIABLE",
    help="Send this variable's value as a bearer key.",
)
@tenant_option
@click.pass_context
def add_extension(
    ctx: click.Context, name: str, url: str, key_env: str, tenant: str
) -> None:
    """Add an API extension for apps' moderation and external data. It must answer a
    ping."""
    key = _read_secret(False, key_env) if key_env else ""

    async def work(yard: "Modelyard") -> None:
        """Ping and register the extension."""
        await yard.services.tools.providers.extensions.add(tenant, name, url, key)
        click.echo(f"{name} answers.")

    run_with_modelyard(ctx, work)


@tools.command(name="refresh")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Take the changes that are shown.")
@click.option(
    "--confirm-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Calls may go to this server too.",
)
@tenant_option
@json_option
@click.pass_context
def refresh_provider(
    ctx: click.Context,
    name: str,
    yes: bool,
    origins: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Fetch a provider's current tools and show the changes. They apply only with
    --yes."""

    async def work(yard: "Modelyard") -> None:
        """Fetch and print the changes; accept them with --yes."""
        providers = yard.services.tools.providers
        # A changed server address needs a separate confirmation: credentials would be
        # sent there.
        changes, is_accepted = await providers.refresh(
            tenant, name, accept=yes, confirm_origins=origins
        )
        if as_json:
            print_json(
                {"changes": msgspec.to_builtins(changes), "accepted": is_accepted}
            )
            return
        for line in changes.lines():
            click.echo(line)
        _, provider = providers.find(tenant, name)
        click.echo(
            f"{name}: {provider.count} tools"
            if is_accepted
            else "Nothing was taken; --yes takes it."
        )

    run_with_modelyard(ctx, work)


@tools.command(name="remove")
@click.argument("name")
@tenant_option
@click.pass_context
def remove_provider(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove an API or an MCP server with its tools."""

    async def work(yard: "Modelyard") -> None:
        """Remove the provider."""
        await yard.services.tools.providers.remove(tenant, name)
        click.echo(f"{name} is gone.")

    run_with_modelyard(ctx, work)


def _read_secret(from_prompt: bool, variable: str) -> str:
    """Return the key from the environment or a hidden prompt; empty if neither was
    requested."""
    # Keys are not accepted as arguments: those are visible in the process list.
    if variable:
        if not (value := os.environ.get(variable, "")):
            raise click.UsageError(f"the environment has no {variable}")
        return value
    return str(click.prompt("Key", hide_input=True)) if from_prompt else ""


def _read_file(path: str) -> bytes:
    """Read a file. Raises ConfigError if that is not possible."""
    from modelyard.base.files import read_file

    return read_file(Path(path))


# ---------------------------------------------------------------------------------------------- MCP


@click.group()
def mcp() -> None:
    """MCP: offer tools, apps and datasets to other programs' models."""


@mcp.command(name="serve")
@click.option(
    "--tools",
    "names",
    default="",
    metavar="NAMES",
    help="Only these, separated by commas.",
)
@tenant_option
@click.pass_context
def serve_mcp(ctx: click.Context, names: str, tenant: str) -> None:
    """Serve MCP over standard input and output, for clients that start programs.
    `modelyard serve` offers it at /mcp."""
    tool_names = [
        tool_name.strip() for tool_name in names.split(",") if tool_name.strip()
    ]

    async def work(yard: "Modelyard") -> None:
        """Serve until standard input is closed."""
        from modelyard.tools.entities import ToolContext
        from modelyard.tools.mcp.server import McpServer, serve_lines

        loop = asyncio.get_running_loop()
        # 16 MiB for one message: the default of 64 KiB is too small for tool arguments
        # with files.
        reader = asyncio.StreamReader(limit=16 << 20)
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        lock = asyncio.Lock()

        async def write(data: bytes) -> None:
            """Write one message; concurrent answers must not interleave."""
            async with lock:
                await asyncio.to_thread(_write_stdout, data)

        server = McpServer(yard.tools)
        context = ToolContext(tenant=tenant, app="mcp")
        await serve_lines(
            server,
            lambda: yard.services.named_tools.build_catalog(tenant, tool_names),
            context,
            reader,
            write,
        )

    run_with_modelyard(ctx, work)


def _write_stdout(data: bytes) -> None:
    """Write and flush: the client waits for complete lines."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
