"""`modelyard agent` and `modelyard tools`: run a model with tools, and manage and try
tools."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.base.errors import ConfigError
from modelyard.cli.assignments import assignments_option
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
    from modelyard.agents.events import (
        AgentCall,
        AgentFinished,
        AnyAgentEvent,
        ToolFinished,
    )
    from modelyard.app import Modelyard


# Characters of a tool's arguments and results that are printed.
_MAX_PRINTED = 600


@click.group()
def agent() -> None:
    """Run agents: models with tools."""


@agent.command(name="run")
@click.argument("question", nargs=-1)
@click.option(
    "--model",
    default="default",
    show_default=True,
    help="Model, as provider/model or an alias.",
)
@click.option(
    "--tools",
    "names",
    default="",
    metavar="NAMES",
    help=(
        "Tools, separated by commas: calculate, time/current_time, dataset:NAME,"
        " workflow:NAME, mcp:SERVER/TOOL, …. Default: none."
    ),
)
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    help=(
        "Agent strategy: function_calling, react, react_completion, chain_of_thought,"
        " plan_and_execute, or auto, which selects by model capability."
    ),
)
@click.option("--instruction", default="", help="System prompt.")
@click.option(
    "--iterations",
    default=10,
    show_default=True,
    type=click.IntRange(0, 99),
    help="Maximum number of tool-calling turns.",
)
@click.option(
    "--tokens",
    default=0,
    show_default=True,
    help="Maximum number of tokens; 0 for no limit.",
)
@click.option(
    "--cost", default=0.0, show_default=True, help="Maximum cost; 0 for no limit."
)
@click.option(
    "--seconds",
    default=0.0,
    show_default=True,
    help="Maximum duration in seconds; 0 for no limit.",
)
@click.option(
    "--schema",
    "schema_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the JSON schema of the answer.",
)
@click.option("--yes", "approves_all", is_flag=True, help="Approve all tool calls.")
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
    schema_path: Path | None,
    approves_all: bool,
    tenant: str,
    as_json: bool,
    **limits: Any,
) -> int:
    """Run an agent with tools on QUESTION and print the answer. Reasoning and tool calls
    go to standard error."""
    prompt = " ".join(input_texts([" ".join(question)] if question else [], "question"))
    schema = _schema(schema_path)

    async def answer_question(yard: "Modelyard") -> int:
        """Run the agent and print its events."""
        # Imported here: other commands of this module should not load the agents.
        from modelyard.agents.state import AgentLimits

        created_agent = await yard.agent(
            model,
            _split_names(names),
            tenant=tenant,
            strategy=strategy,
            instruction=instruction,
            limits=AgentLimits(**limits),
            schema=schema,
            approve=_approve_all if approves_all else _ask_for_approval,
        )
        async with aclosing(created_agent.stream(prompt)) as events:
            return await _print_events(events, as_json=as_json)

    return run_with_modelyard(ctx, answer_question)


def _split_names(names: str) -> list[str]:
    """Split a comma-separated list of names."""
    return [name.strip() for name in names.split(",") if name.strip()]


async def _approve_all(calls: Sequence[Any]) -> Mapping[str, str]:
    """Approve all tool calls. Returns call id → refusal, which is empty."""
    return {tool_call.id: "" for tool_call in calls}


async def _ask_for_approval(calls: Sequence[Any]) -> Mapping[str, str]:
    """Prompt the user for each tool call. Returns call id → refusal for the model; an
    empty text approves the call."""
    refusals: dict[str, str] = {}
    for tool_call in calls:
        # The prompt blocks, so it runs in a thread; it goes to stderr to keep stdout
        # for the answer.
        is_approved = await asyncio.to_thread(
            click.confirm, f"Call {tool_call.name} {tool_call.arguments}?", err=True
        )
        refusals[tool_call.id] = "" if is_approved else "the user said no"
    return refusals


def _schema(path: Path | None) -> Any:
    """Read the JSON schema of the answer. Raises ConfigError if the file is not a JSON
    object."""
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        problem = f"is not a JSON schema (a JSON object): {error}"
        raise ConfigError(f"File {str(path)!r} {problem}") from error


async def _print_events(
    events: "AsyncIterator[AnyAgentEvent]", *, as_json: bool
) -> int:
    """Print an agent's events as they arrive and return the exit code."""
    from modelyard.agents.events import dump_event

    printer = _AgentPrinter()
    async for event in events:
        if as_json:
            click.echo(dump_event(event).decode())
        else:
            printer.show(event)
    return 0


class _AgentPrinter:
    """Prints an agent's run: the answer on standard output; reasoning and tool calls on
    standard error."""

    def __init__(self) -> None:
        # Reasoning, tool lines and the answer share a terminal: these track when a line
        # break is due.
        self._is_at_line_start = True
        self._is_in_reasoning = False

    def show(self, event: "AnyAgentEvent") -> None:
        """Print one event."""
        from modelyard.agents import events

        match event:
            case events.ThoughtDelta():
                click.secho(event.text, nl=False, err=True, dim=True)
                self._is_in_reasoning = not event.text.endswith("\n")
            case events.TextDelta():
                self._print_text(event.text)
            case events.ToolStarted():
                self._print_tool_call(event.call)
            case events.ToolFinished():
                self._print_tool_result(event)
            case events.AgentFinished():
                self._print_end(event)
            case _:
                pass

    def _print_text(self, text: str) -> None:
        """Print a chunk of the answer."""
        if self._is_in_reasoning:
            click.echo("", err=True)
        click.echo(text, nl=False)
        self._is_at_line_start, self._is_in_reasoning = text.endswith("\n"), False

    def _print_tool_call(self, call: "AgentCall") -> None:
        """Print the name and the arguments of a tool call."""
        if not self._is_at_line_start or self._is_in_reasoning:
            click.echo("", err=True)
        arguments = call.arguments[:_MAX_PRINTED]
        click.secho(f"→ {call.name} {arguments}", err=True, fg="cyan")
        self._is_at_line_start, self._is_in_reasoning = True, False

    def _print_tool_result(self, event: "ToolFinished") -> None:
        """Print the duration and the result of a tool call, shortened to one line."""
        # White space is collapsed, so that a result takes one line.
        text = " ".join(event.observation.split())
        if len(text) > _MAX_PRINTED:
            text = f"{text[:_MAX_PRINTED]}…"
        click.secho(
            f"← {event.call.name} ({event.seconds:.2f} s) {text}",
            err=True,
            fg="red" if event.error else "green",
        )

    def _print_end(self, event: "AgentFinished") -> None:
        """End the answer and print the run's usage."""
        if not self._is_at_line_start:
            click.echo("")
        # With a schema the structured value follows the text.
        if event.value is not None:
            print_json(event.value)
        usage = (
            f"{event.rounds} turns, {event.tool_calls} calls,"
            f" {event.usage.total_tokens:,} tokens, {event.seconds:.1f} s"
        )
        is_complete = event.reason == "answer"
        print_note(usage if is_complete else f"stopped, {event.reason} limit: {usage}")


# -------------------------------------------------------------------------------- tools


@click.group()
def tools() -> None:
    """Manage tools: list, show and call them; add APIs and MCP servers."""


@tools.command(name="list")
@click.option(
    "--kind",
    "tool_kind",
    default="",
    help="Only tools of this kind: builtin, plugin, api, mcp, workflow or function.",
)
@tenant_option
@json_option
@click.pass_context
def list_tools(ctx: click.Context, tool_kind: str, tenant: str, as_json: bool) -> None:
    """List available tools."""

    async def work(yard: "Modelyard") -> None:
        """Print the tools as a table or JSON."""
        listed_tools = await yard.tools.list(tenant, tool_kind)
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
        print_table("", ("tool", "kind", "description"), rows)

    run_with_modelyard(ctx, work)


@tools.command(name="show")
@click.argument("name")
@tenant_option
@click.pass_context
def show_tool(ctx: click.Context, name: str, tenant: str) -> None:
    """Show the definition of the tool NAME that is sent to the model."""

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
    """Call the tool NAME and print its result.

    ARGUMENTS are name=value pairs, or one JSON object. Exit code 1: the tool failed.
    """
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
                print_note(f"file: {len(blob.data):,} bytes, {blob.mime_type}")
        return 1 if result.error else 0

    return run_with_modelyard(ctx, work)


def _parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse name=value pairs or a JSON object. Raises click.UsageError."""
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        try:
            return msgspec.json.decode(arguments[0], type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise click.UsageError(
                f"ARGUMENTS: invalid JSON object {arguments[0][:80]!r}: {error}"
            ) from error
    parsed: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(
                f"ARGUMENTS: expected name=value or a JSON object, got {argument!r}"
            )
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
    """List added APIs and MCP servers."""

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
            "", ("provider", "kind", "tools", "source"), rows, right_aligned=("tools",)
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
    help="Base URL that overrides the one in the document.",
)
@click.option(
    "--auth",
    "auth_type",
    type=click.Choice(_AUTHS),
    default="none",
    show_default=True,
    help="Authentication of the API.",
)
@click.option(
    "--header",
    "auth_name",
    default="",
    help="Name of the header, query parameter or cookie that carries the key.",
)
@click.option("--user", default="", help="User name for basic, client id for oauth2.")
@click.option("--key", "from_prompt", is_flag=True, help="Prompt for the key.")
@click.option(
    "--key-env",
    default="",
    metavar="VARIABLE",
    help="Environment variable that contains the key.",
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
    """Create tools from an OpenAPI document. DESCRIPTION is the file or URL of an
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
            f"{name}: {len(api.operations)} tools of {api.title}, base URL"
            f" {api.server or 'not set'}"
        )
        # Operations that cannot become tools are reported with the reason, ten at most.
        for omitted in api.left_out[:10]:
            print_note(f"skipped: {omitted}")

    run_with_modelyard(ctx, work)


@tools.command(name="add-mcp")
@click.argument("name")
@click.argument("url", default="")
@click.option(
    "--stdio",
    default="",
    help="Name of a program from tools.mcp_stdio in the settings, instead of a URL.",
)
@assignments_option(
    "--header",
    "headers",
    help="Header to send with each request; repeatable.",
)
@click.option(
    "--key-env",
    default="",
    metavar="VARIABLE",
    help="Environment variable with the bearer token to send.",
)
@tenant_option
@json_option
@click.pass_context
def add_mcp(
    ctx: click.Context,
    name: str,
    url: str,
    stdio: str,
    headers: tuple[tuple[str, str], ...],
    key_env: str,
    tenant: str,
    as_json: bool,
) -> None:
    """Add the tools of an MCP server, by its URL or, with --stdio, as a program."""
    request_headers = dict(headers)
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
    help="Environment variable with the bearer token to send.",
)
@tenant_option
@click.pass_context
def add_extension(
    ctx: click.Context, name: str, url: str, key_env: str, tenant: str
) -> None:
    """Add an API extension for moderation or external data. The endpoint URL must answer
    `ping`."""
    key = _read_secret(False, key_env) if key_env else ""

    async def work(yard: "Modelyard") -> None:
        """Ping and register the extension."""
        await yard.services.tools.providers.extensions.add(tenant, name, url, key)
        click.echo(f"added {name}; it answered the ping")

    run_with_modelyard(ctx, work)


@tools.command(name="refresh")
@click.argument("name")
@click.option("--yes", "accepts", is_flag=True, help="Apply the changes.")
@click.option(
    "--confirm-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="New server origin that calls may be sent to; repeatable.",
)
@tenant_option
@json_option
@click.pass_context
def refresh_provider(
    ctx: click.Context,
    name: str,
    accepts: bool,
    origins: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Reload a provider's tools and show the changes. They are applied only with
    --yes."""

    async def work(yard: "Modelyard") -> None:
        """Fetch and print the changes; accept them with --yes."""
        providers = yard.services.tools.providers
        # A changed server address needs a separate confirmation: credentials would be
        # sent there.
        changes, is_accepted = await providers.refresh(
            tenant, name, accept=accepts, confirm_origins=origins
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
            else "Nothing was changed; use --yes to apply the changes."
        )

    run_with_modelyard(ctx, work)


@tools.command(name="remove")
@click.argument("name")
@tenant_option
@click.pass_context
def remove_provider(ctx: click.Context, name: str, tenant: str) -> None:
    """Remove an API or MCP server and its tools."""

    async def work(yard: "Modelyard") -> None:
        """Remove the provider."""
        await yard.services.tools.providers.remove(tenant, name)
        click.echo(f"removed {name}")

    run_with_modelyard(ctx, work)


def _read_secret(from_prompt: bool, variable: str) -> str:
    """Return the key from the environment or a hidden prompt; empty if neither was
    requested."""
    # Keys are not accepted as arguments: those are visible in the process list.
    if not variable:
        return str(click.prompt("Key", hide_input=True)) if from_prompt else ""
    value = os.environ.get(variable, "")
    if not value:
        raise click.UsageError(
            f"--key-env: environment variable {variable!r} is not set"
        )
    return value


def _read_file(path: str) -> bytes:
    """Read a file. Raises ConfigError if that is not possible."""
    from modelyard.base.files import read_file

    return read_file(Path(path))


# ---------------------------------------------------------------------------------------------- MCP


@click.group()
def mcp() -> None:
    """Serve tools, apps and datasets over MCP."""


@mcp.command(name="serve")
@click.option(
    "--tools",
    "names",
    default="",
    metavar="NAMES",
    help="Tools to serve, separated by commas. Default: all.",
)
@tenant_option
@click.pass_context
def serve_mcp(ctx: click.Context, names: str, tenant: str) -> None:
    """Serve MCP over stdio. `modelyard serve` serves it over HTTP at /mcp."""
    tool_names = _split_names(names)

    async def work(yard: "Modelyard") -> None:
        """Serve until standard input is closed."""
        from modelyard.tools.entities import ToolContext
        from modelyard.tools.mcp.server import McpServer, serve_lines

        # Standard output belongs to the protocol: anything else in it would break it.
        reader = await _stdin_reader()
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


async def _stdin_reader() -> asyncio.StreamReader:
    """Return a reader of standard input: a pipe, a socket, a terminal or a file."""
    # 16 MiB for one message: the default of 64 KiB is too small for tool arguments
    # with files.
    reader = asyncio.StreamReader(limit=16 << 20)
    if _is_regular_or_null(sys.stdin.fileno()):
        # An event loop cannot wait for these, and reading them never takes long.
        reader.feed_data(await asyncio.to_thread(sys.stdin.buffer.read))
        reader.feed_eof()
        return reader
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def _is_regular_or_null(descriptor: int) -> bool:
    """Return whether a descriptor is a regular file or the null device."""
    status = os.fstat(descriptor)
    null_device = Path(os.devnull).stat().st_rdev
    return stat.S_ISREG(status.st_mode) or status.st_rdev == null_device


def _write_stdout(data: bytes) -> None:
    """Write and flush: the client waits for complete lines."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
