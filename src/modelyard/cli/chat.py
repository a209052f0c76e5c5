"""`modelyard chat`: a single question, a piped text, or an interactive conversation."""

import asyncio
import base64
import mimetypes
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from modelyard.app import Modelyard
from modelyard.base.errors import ConfigError, ModelyardError
from modelyard.base.files import read_file
from modelyard.cli.output import (
    json_option,
    piped_input,
    print_json,
    print_note,
    run_with_modelyard,
)
from modelyard.models.llm import LLMResult, LLMResultChunk, LLMUsage, fold
from modelyard.models.messages import (
    AnyPromptMessage,
    ImagePromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)


@click.command()
@click.argument("prompt", nargs=-1)
@click.option(
    "--model",
    "-m",
    default="default",
    show_default=True,
    help="Model: provider/model, a model name or an alias.",
)
@click.option("--system", "-s", help="System prompt.")
@click.option(
    "--image",
    "-i",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Image file to attach (png, jpeg, webp or gif); repeatable.",
)
@click.option(
    "--temperature",
    "-t",
    type=float,
    help="Sampling temperature. Default: the model's.",
)
@click.option(
    "--max-tokens",
    type=int,
    help="Maximum number of tokens of the answer. Default: the model's.",
)
@click.option(
    "--no-stream",
    is_flag=True,
    help="Print the complete answer instead of streaming.",
)
@json_option
@click.pass_context
def chat(ctx: click.Context, prompt: tuple[str, ...], **options: Any) -> None:
    """Chat with a model. Piped text is appended to PROMPT.

    \b
      modelyard chat "Name three rivers"
      cat report.txt | modelyard chat "Summarise this in one sentence"
      modelyard chat                      start a conversation; Ctrl-D ends it
    """
    piped = piped_input()
    # A prompt and a piped text are combined: the instruction first, then the material.
    text = "\n\n".join(
        segment for segment in (" ".join(prompt), piped.strip()) if segment
    )
    if text:
        run_with_modelyard(ctx, lambda yard: _once(yard, text, options))
    # A conversation needs a terminal to type at.
    elif piped or not sys.stdin.isatty():
        raise click.UsageError(
            "No prompt. Pass one as an argument or through standard input."
        )
    else:
        run_with_modelyard(ctx, lambda yard: _converse(yard, options))


async def _once(yard: Modelyard, text: str, options: dict[str, Any]) -> None:
    """Send one message and print the answer."""
    messages = [*_system(options["system"]), _question(text, options["image"])]
    if not options["as_json"]:
        await _answer(yard, messages, options)
        return
    parameters = _parameters(options)
    result = await yard.chat(messages, model=options["model"], **parameters)
    print_json(_document(result))


async def _converse(yard: Modelyard, options: dict[str, Any]) -> None:
    """Run an interactive conversation until an empty line or end of file, then print
    the usage."""
    instance = yard.model(options["model"])
    print_note(
        f"{instance.name}. Empty line or Ctrl-D to end; /clear starts a new conversation."
    )
    messages: list[AnyPromptMessage] = _system(options["system"])
    images: tuple[Path, ...] = options["image"]
    usage = LLMUsage.empty_usage()
    while text := await _next_question():
        if text == "/clear":
            messages = _system(options["system"])
            continue
        messages.append(_question(text, images))
        # Images accompany the first question only.
        images = ()
        try:
            result = await _answer(yard, messages, options)
        except ModelyardError as error:
            # A failed question is removed, so that the next one does not repeat it.
            messages.pop()
            click.echo(click.style("Error: ", fg="red") + str(error), err=True)
            continue
        messages.append(result.message)
        usage = usage.plus(result.usage)
    print_note(_usage_text(usage))


async def _next_question() -> str:
    """Return the next line that the user types; empty to end the conversation."""
    try:
        # `input` blocks, so it runs in a thread; the event loop keeps serving the
        # runtime.
        return (await asyncio.to_thread(input, "\n> ")).strip()
    except EOFError:
        return ""


def _usage_text(usage: LLMUsage) -> str:
    """Return the tokens and the cost of a conversation as a line."""
    price = usage.total_price
    cost = f"{price or 0} {usage.currency}"
    if price is None and usage.total_tokens:
        cost = "cost unknown"
    return f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out, {cost}"


async def _answer(
    yard: Modelyard, messages: list[AnyPromptMessage], options: dict[str, Any]
) -> LLMResult:
    """Print the answer, streamed unless --no-stream is set, and return the complete
    result."""
    chunks: list[LLMResultChunk] = []
    async with aclosing(
        yard.stream(messages, model=options["model"], **_parameters(options))
    ) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if not options["no_stream"] and chunk.text:
                click.echo(chunk.text, nl=False)
    result = fold(chunks)
    click.echo(result.text if options["no_stream"] else "")
    return result


def _parameters(options: dict[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that were set on the command line."""
    return {
        name: options[name]
        for name in ("temperature", "max_tokens")
        if options[name] is not None
    }


def _system(text: str | None) -> list[AnyPromptMessage]:
    """Return the system message, if there is one."""
    return [SystemPromptMessage(content=text)] if text else []


def _question(text: str, images: tuple[Path, ...]) -> UserPromptMessage:
    """Return a user message with text and images."""
    if not images:
        return UserPromptMessage(content=text)
    return UserPromptMessage(
        content=[TextPromptMessageContent(data=text), *map(_image, images)]
    )


def _image(path: Path) -> ImagePromptMessageContent:
    """Return an image file as message content. Raises ConfigError if its name is not
    that of an image."""
    media_type = mimetypes.guess_type(path.name)[0] or ""
    if not media_type.startswith("image/"):
        raise ConfigError(f"{path}: unsupported image type; use png, jpeg, webp or gif")
    data = base64.b64encode(read_file(path)).decode()
    return ImagePromptMessageContent(
        base64_data=data,
        mime_type=media_type,
        format=media_type.partition("/")[2],
        filename=path.name,
    )


def _document(result: LLMResult) -> dict[str, Any]:
    """Return the result as printed with --json."""
    usage = result.usage
    return {
        "model": result.model,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_price": usage.total_price,
            "currency": usage.currency,
            "latency": usage.latency,
            "time_to_first_token": usage.time_to_first_token,
        },
    }
