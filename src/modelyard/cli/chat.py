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
    help="provider/model, a bare name or an alias.  [default]",
)
@click.option("--system", "-s", help="What the model should be or heed.")
@click.option(
    "--image",
    "-i",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A picture to send.",
)
@click.option("--temperature", "-t", type=float)
@click.option("--max-tokens", type=int)
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@json_option
@click.pass_context
def chat(ctx: click.Context, prompt: tuple[str, ...], **options: Any) -> None:
    """Chat with a model.

    \b
      modelyard chat "Name three rivers"
      cat report.txt | modelyard chat "Sum this up in a sentence"
      modelyard chat                      a conversation; Ctrl-D ends it
    """
    piped = piped_input()
    # A prompt and a piped text are combined: the instruction first, then the material.
    text = "\n\n".join(part for part in (" ".join(prompt), piped.strip()) if part)
    if text:
        run_with_modelyard(ctx, lambda yard: _once(yard, text, options))
    # Without a terminal nobody can type a conversation.
    elif piped or not sys.stdin.isatty():
        raise click.UsageError("there is nothing to say: give a prompt or pipe one in")
    else:
        run_with_modelyard(ctx, lambda yard: _converse(yard, options))


async def _once(yard: Modelyard, text: str, options: dict[str, Any]) -> None:
    """Send one message and print the answer."""
    messages = [*_system(options["system"]), _question(text, options["image"])]
    if options["as_json"]:
        result = await yard.chat(
            messages, model=options["model"], **_parameters(options)
        )
        print_json(_document(result))
    else:
        await _answer(yard, messages, options)


async def _converse(yard: Modelyard, options: dict[str, Any]) -> None:
    """Run an interactive conversation until an empty line or end of file, then print
    the usage."""
    instance = yard.model(options["model"])
    print_note(f"{instance.name}. Empty line or Ctrl-D to end; /clear forgets.")
    messages: list[AnyPromptMessage] = _system(options["system"])
    images: tuple[Path, ...] = options["image"]
    spent = LLMUsage.empty_usage()
    while True:
        try:
            # `input` blocks, so it runs in a thread; the event loop keeps serving the
            # runtime.
            text = (await asyncio.to_thread(input, "\n> ")).strip()
        except EOFError:
            text = ""
        if not text:
            price = spent.total_price
            cost = (
                "cost unknown"
                if price is None and spent.total_tokens
                else f"{price or 0} {spent.currency}"
            )
            print_note(
                f"{spent.prompt_tokens} tokens in, {spent.completion_tokens} out, {cost}"
            )
            return
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
            click.echo(click.style("error: ", fg="red") + str(error), err=True)
            continue
        messages.append(result.message)
        spent = spent.plus(result.usage)


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
        raise ConfigError(
            f"{str(path)!r} is no picture by its name; send png, jpeg, webp or gif"
        )
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
