"""`modelyard agent` and `modelyard tools`: a model with tools, watched; and the tools by themselves."""

import asyncio
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
        made = yard.agent(
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
        found = yard.tools.list(tenant, kind)
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
        one = yard.tools.named(tenant, name)
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

        one = yard.tools.named(tenant, name)
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
