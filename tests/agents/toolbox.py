"""Tools for agents: valid ones, and some that raise, hang, flood or return garbage."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

from modelyard.base.errors import PluginError
from modelyard.tools.entities import (
    Tool,
    ToolContext,
    ToolCredentialsError,
    blob_message,
    json_message,
    link_message,
    text_message,
    variable_message,
)
from modelyard.tools.function import tool


@tool(is_repeatable=True)
async def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """The weather of a city.

    city: as Paris
    """
    return f"{city}: sunny, {20 if unit == 'C' else 68} {unit}" + (
        f" for {days} days" if days > 1 else ""
    )


@tool(is_repeatable=True)
def add(one: float, other: float) -> float:
    """The sum of two numbers."""
    return one + other


@tool(is_repeatable=True)
async def slow(seconds: float = 0.05, name: str = "slow") -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return f"{name} is done"


@tool(seconds=0.05)
async def hang() -> str:
    """Never ends."""
    await asyncio.sleep(3600)
    return "never"


@tool
def boom(message: str = "it broke") -> str:
    """Raises."""
    raise ValueError(message)


@tool
async def locked() -> str:
    """Has no credentials."""
    raise ToolCredentialsError("no key for the weather service")


@tool
async def broken_plugin() -> str:
    """Dies like a plugin."""
    raise PluginError("the process ended", plugin="a/b")


@tool(is_repeatable=True)
async def flood(lines: int = 5000) -> AsyncIterator[str]:
    """Says more than anybody can read."""
    for line_index in range(lines):
        yield f"line {line_index} of a very long answer\n"


@tool
async def endless() -> AsyncIterator[str]:
    """Never stops talking."""
    while True:
        yield "and on it goes. " * 4096


@tool
async def picture() -> Any:
    """Draws."""
    return [
        blob_message(b"\x89PNG not really", "image/png", "a.png"),
        text_message("A picture."),
    ]


@tool
async def raw() -> Any:
    """Sends bytes, a link, values, variables, and rubbish."""
    return [
        blob_message(bytes(range(256)), "application/octet-stream", "raw.bin"), link_message("https://example.org/x"),
        json_message({"a": 1}), variable_message("b", [2]), {"type": "nonsense", "message": None},
    ]  # fmt: skip


@tool
async def nothing() -> None:
    """Says nothing."""


@tool(needs_approval=True)
async def refund(order: str, amount: float) -> str:
    """Pays money back."""
    return f"{amount} paid back for {order}"


@tool(is_repeatable=True)
async def whoami(context: ToolContext) -> str:
    """For whom this is called."""
    return f"{context.tenant}/{context.user}/{context.app}"


TOOLS: dict[str, Tool] = {
    registered_tool.name: registered_tool
    for registered_tool in (
        weather, add, slow, hang, boom, locked, broken_plugin, flood, endless, picture, raw, nothing, refund, whoami,
    )
}  # fmt: skip
