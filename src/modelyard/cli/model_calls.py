"""`modelyard embed`, `rerank`, `transcribe`, `speak` and `moderate`: one model call
each."""

import sys
from pathlib import Path
from typing import Any

import click

from modelyard.base.errors import ConfigError
from modelyard.cli.output import (
    failure_text,
    input_texts,
    json_option,
    print_json,
    print_note,
    print_table,
    run_with_modelyard,
    success_text,
)
from modelyard.models.tts import AUDIO_TYPES


def model_option(default: str) -> Any:
    """Return the `--model` option with this default."""
    return click.option(
        "--model",
        "-m",
        default=default,
        show_default=True,
        help="Model: provider/model, a model name or an alias.",
    )


@click.command()
@click.argument("texts", nargs=-1)
@model_option("default-text-embedding")
@click.option(
    "--dimensions",
    type=click.IntRange(1),
    help="Number of dimensions of the vectors. Default: the model's.",
)
@json_option
@click.pass_context
def embed(
    ctx: click.Context,
    texts: tuple[str, ...],
    model: str,
    dimensions: int | None,
    as_json: bool,
) -> None:
    """Embed TEXTS. Prints the cosine similarity to the first text if there are several.
    Without TEXTS, reads one text from a pipe."""
    inputs = input_texts(texts, "text")
    result = run_with_modelyard(
        ctx, lambda yard: yard.embed(inputs, model=model, dimensions=dimensions)
    )
    if as_json:
        print_json(
            {
                "model": result.model,
                "embeddings": result.embeddings,
                "tokens": result.usage.tokens,
            }
        )
        return
    # Vectors are too long for a table: print their beginning and the similarity.
    first = result.embeddings[0]
    rows = [
        (
            text[:50],
            len(vector),
            " ".join(f"{number:+.3f}" for number in vector[:4]) + " …",
            f"{_cosine(first, vector):.3f}",
        )
        for text, vector in zip(inputs, result.embeddings, strict=True)
    ]
    print_table(
        f"{result.model}",
        ("text", "dimensions", "vector", "similarity"),
        rows,
        right_aligned=("dimensions",),
    )


def _cosine(left: list[float], right: list[float]) -> float:
    """Return the cosine similarity of two vectors; 0 if one of them is zero."""
    product = sum(x * y for x, y in zip(left, right, strict=True))
    lengths = (sum(x * x for x in left) * sum(y * y for y in right)) ** 0.5
    return product / lengths if lengths else 0.0


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1)
@model_option("default-rerank")
@click.option(
    "--top-n",
    type=click.IntRange(1),
    help="Number of documents to return. Default: all.",
)
@json_option
@click.pass_context
def rerank(
    ctx: click.Context,
    query: str,
    documents: tuple[str, ...],
    model: str,
    top_n: int | None,
    as_json: bool,
) -> None:
    """Order DOCUMENTS by relevance to QUERY. Documents may be piped in, one per line."""
    candidates = list(documents) or [
        line for line in input_texts((), "document")[0].splitlines() if line.strip()
    ]
    result = run_with_modelyard(
        ctx, lambda yard: yard.rerank(query, candidates, model=model, top_n=top_n)
    )
    if as_json:
        print_json({"model": result.model, "docs": result.docs})
    else:
        rows = [(f"{doc.score:.3f}", doc.index + 1, doc.text) for doc in result.docs]
        # Indexes are zero-based in the result and counted from 1 for people.
        print_table(
            result.model,
            ("score", "number", "document"),
            rows,
            right_aligned=("score", "number"),
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@model_option("default-speech2text")
@click.option(
    "--language",
    "-l",
    help="Language as an ISO 639-1 code, for example en or zh; detected if omitted.",
)
@click.option("--segments", is_flag=True, help="Print segments with timestamps.")
@json_option
@click.pass_context
def transcribe(
    ctx: click.Context,
    file: Path,
    model: str,
    language: str | None,
    segments: bool,
    as_json: bool,
) -> None:
    """Transcribe the audio file FILE."""
    result = run_with_modelyard(
        ctx, lambda yard: yard.transcribe(file, model=model, language=language)
    )
    if as_json:
        print_json(
            {
                "model": result.model,
                "language": result.language,
                "text": result.text,
                "segments": result.segments,
            }
        )
    elif segments:
        for segment in result.segments:
            click.echo(f"{segment.start:7.2f} – {segment.end:7.2f}  {segment.text}")
    else:
        click.echo(result.text)


@click.command()
@click.argument("text", nargs=-1)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    required=True,
    help="File to write; - for standard output.",
)
@model_option("default-tts")
@click.option(
    "--voice",
    "-v",
    default="default",
    show_default=True,
    help="Voice: a name of the model's, one of OpenAI's voices, or default.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(list(AUDIO_TYPES)),
    help="Audio format. Default: from the file name, otherwise wav.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.25, 4),
    default=1.0,
    show_default=True,
    help="Speech rate; 1 is normal.",
)
@json_option
@click.pass_context
def speak(
    ctx: click.Context,
    text: tuple[str, ...],
    output: str,
    model: str,
    voice: str,
    output_format: str | None,
    speed: float,
    as_json: bool,
) -> None:
    """Convert TEXT to speech and write it to a file. Without TEXT, reads it from a
    pipe."""
    spoken_text = " ".join(input_texts(text, "text"))
    # `.ogg` is a container; its usual codec is Opus, which is how the format is named
    # here.
    suffix = Path(output).suffix.lstrip(".").lower()
    audio_format = output_format or (
        "opus" if suffix == "ogg" else suffix if suffix in AUDIO_TYPES else "wav"
    )
    audio = run_with_modelyard(
        ctx,
        lambda yard: yard.speak(
            spoken_text, model=model, voice=voice, format=audio_format, speed=speed
        ),
    )
    # Raw bytes only, so that the output can be piped into a player.
    if output == "-":
        sys.stdout.buffer.write(audio)
        return
    try:
        Path(output).write_bytes(audio)
    except OSError as error:
        raise ConfigError(
            f"File {output!r} cannot be written: {error.strerror}"
        ) from error
    if as_json:
        print_json({"file": output, "format": audio_format, "bytes": len(audio)})
    else:
        print_note(f"{output}: {len(audio):,} bytes of {audio_format}")


@click.command()
@click.argument("texts", nargs=-1)
@model_option("default-moderation")
@json_option
@click.pass_context
def moderate(
    ctx: click.Context, texts: tuple[str, ...], model: str, as_json: bool
) -> None:
    """Classify TEXTS for harmful content. Without TEXTS, reads one text from a pipe."""
    inputs = input_texts(texts, "text")
    result = run_with_modelyard(ctx, lambda yard: yard.moderate(inputs, model=model))
    if as_json:
        print_json(
            {
                "model": result.model,
                "flagged": result.flagged,
                "verdicts": result.verdicts,
            }
        )
        return
    rows: list[tuple[Any, ...]] = []
    for text, verdict in zip(inputs, result.verdicts, strict=True):
        # Only the three highest scores fit a table row.
        top = sorted(
            verdict.category_scores.items(), key=lambda score_pair: -score_pair[1]
        )[:3]
        scores = ", ".join(f"{name} {score:.2f}" for name, score in top)
        rows.append(
            (
                failure_text("flagged") if verdict.flagged else success_text("ok"),
                text[:60],
                scores,
            )
        )
    print_table(result.model, ("verdict", "text", "highest scores"), rows)
