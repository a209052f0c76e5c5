"""`modelyard knowledge`: documents that can be asked, from the command line and without a server."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.cli.show import bad, good, json_option, note, print_json, print_table, run_with_yard, texts_given
from modelyard.cli.usage import tenant_option

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_METHODS = ("hybrid_search", "semantic_search", "full_text_search", "keyword_search")


def _search_options(command: Any) -> Any:
    for option in reversed((
        click.option("--top", "top_k", default=5, show_default=True, type=click.IntRange(1, 1000), help="How many."),
        click.option("--method", type=click.Choice(_METHODS), default="hybrid_search", show_default=True),
        click.option("--rerank/--no-rerank", default=False, help="Order them by the default rerank model."),
        click.option("--threshold", type=click.FloatRange(0, 1), help="Least score: 0 to 1."),
    )):  # fmt: skip
        command = option(command)
    return command


def _settings(top_k: int, method: str, rerank: bool, threshold: float | None) -> Any:
    from modelyard.knowledge.entities import RetrievalSettings, SearchMethod

    return RetrievalSettings(
        top_k=top_k, search_method=SearchMethod(method), reranking_enable=rerank, score_threshold=threshold,
        score_threshold_enabled=threshold is not None,
    )  # fmt: skip


@click.group()
def knowledge() -> None:
    """Knowledge: add documents, search them, ask them, measure what is found. No server is needed."""


@knowledge.command()
@click.argument("dataset")
@click.argument("sources", nargs=-1, required=True)
@click.option("--model", "embedding", default="", help="Embedding model of a new dataset, as provider/model.")
@click.option("--economy", is_flag=True, help="A new dataset of words alone: no model is called.")
@click.option(
    "--form", type=click.Choice(["text", "hierarchical", "qa"]), default="text", show_default=True,
    help="Of a new dataset: segments; children that lead to their parents; questions with answers.",
)  # fmt: skip
@click.option("--crawl", is_flag=True, help="Follow addresses to the pages of the same site.")
@click.option("--sitemap", is_flag=True, help="Addresses are sitemaps.")
@click.option("--feed", is_flag=True, help="Addresses are RSS or Atom feeds.")
@click.option("--most", default=100, show_default=True, help="Pages at most.")
@click.option("--sql", metavar="QUERY", help="SOURCES are databases; a document a row of this SELECT.")
@click.option("--key", default="id", show_default=True, help="The column, or the field, that says which is which.")
@click.option("--json-path", metavar="PATH", help="SOURCES are HTTP APIs; a document a value at PATH, as $.items[*].")
@click.option("--watch", is_flag=True, help="Go on: take up what changes in the folders.")
@tenant_option
@json_option
@click.pass_context
def add(
    ctx: click.Context, dataset: str, sources: tuple[str, ...], embedding: str, economy: bool, form: str, crawl: bool,
    sitemap: bool, feed: bool, most: int, sql: str | None, key: str, json_path: str | None, watch: bool, tenant: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Put SOURCES into DATASET: files, folders, addresses. The dataset is made when it is not there.

    Added again, what did not change is left alone, what changed is indexed anew, and what is gone from a folder is
    deleted.
    """

    async def work(yard: Any) -> int:
        parts = yard.knowledge
        one = await _dataset(yard, tenant, dataset, embedding, economy=economy, form=form)
        while True:
            from modelyard.knowledge.crawl import Report

            told = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
            batch, report = new_uuid(), Report()
            for source in sources:
                gatherer, found = parts.gatherer, None
                if sql:
                    found = ("sql", gatherer.rows(source, sql, key=key))
                elif json_path:
                    found = ("api", gatherer.values(source, json_path, key=key))
                elif source.startswith(("http://", "https://")):
                    kind = _kind(crawl=crawl, sitemap=sitemap, feed=feed)
                    memory = await _remembered(parts, one, kind, source)
                    found = (kind, _pages(gatherer, kind, source, most, memory, report))
                counts = await _gathered(parts, one, source, found, batch, report)
                told = {name: told[name] + counts[name] for name in told}
            failed = await _shown(parts, one, quiet=as_json)
            if as_json:
                left_out = {"count": report.count, "first": [msgspec.to_builtins(each) for each in report.first]}
                errors = [{"name": d.name, "error": d.error} for d in failed]
                print_json({"dataset": one.id, **told, "failed": errors, "left_out": left_out})
            else:
                said = ", ".join(f"{count} {name}" for name, count in told.items() if count) or "nothing to do"
                click.echo(f"{one.name}: {said}")
                for each in failed:
                    click.echo(click.style(f"  {each.name}: ", fg="red") + each.error, err=True)
                _show_left_out(report)
            if not watch:
                return 1 if failed else 0
            await asyncio.sleep(2)

    return run_with_yard(ctx, work)


async def _dataset(yard: Any, tenant: str, name: str, embedding: str, *, economy: bool, form: str) -> Any:
    from modelyard.knowledge.entities import DatasetSettings, DocForm, Technique

    datasets = yard.knowledge.datasets
    try:
        return await datasets.find(tenant, name)
    except NotFoundError:
        provider, _, model = embedding.rpartition("/")
        settings = DatasetSettings(
            indexing_technique=Technique.ECONOMY if economy else Technique.HIGH_QUALITY, embedding_model=model,
            embedding_model_provider=provider, doc_form=DocForm(f"{form}_model"),
        )  # fmt: skip
        note(f"made dataset {name!r}")
        return await datasets.create(tenant, name, settings=settings)


def _show_left_out(report: Any) -> None:
    if not report.count:
        return
    click.echo(click.style(f"  {report.count:,} left out", fg="yellow"), err=True)
    for each in report.first:
        click.echo(f"    {each.url}: {each.reason}", err=True)
    if report.count > len(report.first):
        click.echo(f"    … and {report.count - len(report.first):,} more", err=True)
    if not report.is_whole:
        click.echo("    Nothing was deleted: some of it may come another time.", err=True)


def _kind(*, crawl: bool, sitemap: bool, feed: bool) -> str:
    if sitemap:
        return "sitemap"
    if feed:
        return "feed"
    return "site" if crawl else "page"


async def _remembered(parts: Any, dataset: Any, kind: str, source: str) -> Any:
    from modelyard.knowledge.crawl import remembered

    return await remembered(parts.datasets, dataset, f"{kind} {source}")


def _pages(gatherer: Any, kind: str, url: str, most: int, memory: Any, report: Any) -> AsyncGenerator[Any, None]:
    match kind:
        case "sitemap":
            return gatherer.sitemap(url, most=most, memory=memory, report=report)
        case "feed":
            return gatherer.feed(url, most=most, memory=memory, report=report)
        case "site":
            return gatherer.pages(url, most=most, memory=memory, report=report)
        case _:
            return gatherer.pages(url, most=1, depth=0, memory=memory, report=report)


async def _gathered(
    parts: Any, dataset: Any, source: str, found: tuple[str, AsyncGenerator[Any, None]] | None, batch: str, report: Any
) -> dict[str, int]:
    from modelyard.knowledge.crawl import gather

    if found is not None:
        kind, pages = found
        deletes = kind in ("site", "sitemap", "sql", "api")
        return await gather(parts.datasets, dataset, f"{kind} {source}", pages, deletes=deletes, report=report)
    path = Path(source)
    if not path.exists():  # noqa: ASYNC240
        raise ConfigError(f"{source!r} is no file, no folder and no address")
    return await parts.datasets.sync_folder(dataset, path, batch=batch)


async def _shown(parts: Any, dataset: Any, *, quiet: bool) -> list[Any]:
    """A bar while documents are indexed; those that failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    stored = parts.stored
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        disable=quiet or not sys.stderr.isatty(), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("indexing", total=None)
        while True:
            counts = (await stored.documents.counts(dataset.tenant, dataset.id)).get(dataset.id)
            _, waiting = await stored.documents.listed(dataset.tenant, dataset.id, state="queuing", most=1)
            _, working = await stored.documents.listed(dataset.tenant, dataset.id, state="indexing", most=1)
            total = int(counts["documents"]) if counts else 0
            bar.update(task, total=total, completed=total - waiting - working)
            if not waiting + working:
                break
            await asyncio.sleep(0.1)
    failed, _ = await stored.documents.listed(dataset.tenant, dataset.id, state="error", most=1000)
    return failed


@knowledge.command("list")
@click.argument("dataset", required=False)
@tenant_option
@json_option
@click.pass_context
def list_(ctx: click.Context, dataset: str | None, tenant: str, as_json: bool) -> None:
    """Datasets; or one's documents, and how far each is."""

    async def work(yard: Any) -> None:
        stored = yard.knowledge.stored
        if dataset is None:
            counts = await stored.documents.counts(tenant)
            rows = [
                (one.name, counts.get(one.id, {"documents": 0})["documents"], counts.get(one.id, {"words": 0})["words"],
                 one.model or one.settings.indexing_technique.value, one.id)
                for one in await stored.datasets.of(tenant)
            ]  # fmt: skip
            if as_json:
                print_json(
                    [dict(zip(("name", "documents", "characters", "model", "id"), row, strict=True)) for row in rows]
                )
                return
            print_table(
                "", ("dataset", "documents", "characters", "model", "id"), rows, right=("documents", "characters")
            )
            return
        one = await yard.knowledge.datasets.find(tenant, dataset)
        documents, _ = await stored.documents.listed(tenant, one.id, most=100_000)
        if as_json:
            print_json([msgspec.to_builtins(each) for each in documents])
            return
        rows = [
            (
                each.name,
                bad("error") if each.error else good(each.status.value),
                each.segments,
                each.hits,
                each.error[:80],
                each.id,
            )
            for each in reversed(documents)
        ]
        print_table("", ("document", "status", "segments", "hits", "why", "id"), rows, right=("segments", "hits"))

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@_search_options
@tenant_option
@json_option
@click.pass_context
def search(
    ctx: click.Context, dataset: str, query: tuple[str, ...], top_k: int, method: str, rerank: bool,
    threshold: float | None, tenant: str, as_json: bool,
) -> None:  # fmt: skip
    """What DATASET holds on QUERY, best first, with each stage's score."""
    asked = " ".join(texts_given(query, "query"))

    async def work(yard: Any) -> None:
        datasets = yard.knowledge.datasets
        one = await datasets.find(tenant, dataset)
        found = await datasets.search(tenant, [one.id], asked, settings=_settings(top_k, method, rerank, threshold))
        if as_json:
            hits = [
                {"score": hit.score, "scores": hit.scores, "document": hit.document.name, "page": hit.segment.page,
                 "start": hit.segment.start, "stop": hit.segment.stop, "text": hit.text}
                for hit in found.hits
            ]  # fmt: skip
            print_json({"hits": hits, "notes": found.notes, "milliseconds": found.milliseconds})
            return
        for place, hit in enumerate(found.hits):
            page = f", page {hit.segment.page}" if hit.segment.page else ""
            scores = "  ".join(f"{name} {score:.3f}" for name, score in hit.scores.items())
            click.echo(
                click.style(f"{place + 1}  {hit.score:.3f}  {hit.document.name}{page}", bold=True) + f"   {scores}"
            )
            click.echo("   " + " ".join(hit.text.split())[:300])
        for line in found.notes:
            note(line)
        note(f"{found.milliseconds['whole']:.0f} ms")

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@click.option("--model", default="default", show_default=True, help="The model that answers.")
@click.option("--check", type=click.Choice(["off", "words", "model"]), default="words", show_default=True,
              help="Hold each sentence against its sources: by words, or by the model's judgement too.")  # fmt: skip
@tenant_option
@json_option
@click.pass_context
def ask(
    ctx: click.Context, dataset: str, query: tuple[str, ...], model: str, check: str, tenant: str, as_json: bool
) -> int:
    """An answer out of DATASET's documents, with its sources; 3 is the exit code where they do not say."""
    asked = " ".join(texts_given(query, "question"))

    async def work(yard: Any) -> int:
        from modelyard.knowledge.answer import Manner
        from modelyard.knowledge.retrieve import Asking

        one = await yard.knowledge.datasets.find(tenant, dataset)
        manner = Manner(model=model, checks=check)  # pyright: ignore[reportArgumentType]  click holds it to the choices
        answer: Any = None
        stream = yard.knowledge.answerer.stream([one.id], Asking(tenant=tenant, query=asked, source="app"), manner)
        async with aclosing(stream) as events:
            async for kind, value in events:
                if kind == "text" and not as_json:
                    click.echo(value, nl=False)
                elif kind == "answer":
                    answer = value
        if as_json:
            print_json(msgspec.to_builtins(answer))
            return 0 if answer.is_found else 3
        click.echo()
        if answer.notes and "the sentence is a quotation" in answer.notes[-1]:
            click.echo(f"→ {answer.text}")
        for each in answer.citations:
            page = f", page {each.page}" if each.page else ""
            click.echo(
                click.style(
                    f"  [{each.number}] {each.document_name}{page}, characters {each.start} to {each.stop}", dim=True
                )
            )
        for claim in answer.claims:
            if not claim.is_supported:
                click.echo(
                    click.style(f"  not supported ({claim.score:.2f}): {claim.text} – {claim.reason}", fg="yellow")
                )
        return 0 if answer.is_found else 3

    return run_with_yard(ctx, work)


@knowledge.command("eval")
@click.argument("folder", type=_FOLDER)
@click.option("--model", "embedding", default="", help="Embedding model, as provider/model.")
@click.option("--questions", "most", default=0, help="The first so many; all where 0.")
@click.option("--only", multiple=True, help="One of the settings that are compared; may be said again.")
@json_option
@click.pass_context
def evaluate(ctx: click.Context, folder: Path, embedding: str, most: int, only: tuple[str, ...], as_json: bool) -> None:
    """Measure retrieval on FOLDER, a collection in BEIR's layout: nDCG, recall, MRR and time, settings side by side."""

    async def work(yard: Any) -> None:
        from modelyard.knowledge.entities import DatasetSettings
        from modelyard.knowledge.evaluate import PRESETS, add_collection, evaluate, load_collection

        if unknown := [one for one in only if one not in PRESETS]:
            raise click.UsageError(f"{unknown[0]!r} is none of {', '.join(PRESETS)}")
        collection = load_collection(folder)
        datasets = yard.knowledge.datasets
        provider, _, model = embedding.rpartition("/")
        settings = DatasetSettings(embedding_model=model, embedding_model_provider=provider)
        one = await datasets.create("default", f"eval {new_uuid()[:23]}", settings=settings)
        began = time.monotonic()
        try:
            await add_collection(datasets, one, collection)
            note(f"{len(collection.corpus):,} documents in {time.monotonic() - began:.0f} s")
            rows = [
                await evaluate(
                    datasets, one, collection, preset, name=name, most=most, spent=lambda: yard.knowledge.models.cost
                )
                for name, preset in PRESETS.items()
                if not only or name in only
            ]
        finally:
            await datasets.delete("default", one.id)
        if as_json:
            print_json([msgspec.to_builtins(row) for row in rows])
            return
        columns = (
            "settings",
            "questions",
            "nDCG@10",
            "recall@10",
            "recall@100",
            "MRR@10",
            "hit@1",
            "hit@5",
            "ms",
            "p95",
            "cost",
        )
        shown = [
            (row.settings, row.questions, f"{row.ndcg:.4f}", f"{row.recall:.4f}", f"{row.recall_100:.4f}",
             f"{row.mrr:.4f}", f"{row.hit_1:.3f}", f"{row.hit_5:.3f}", f"{row.milliseconds:.1f}",
             f"{row.milliseconds_95:.1f}", f"{row.cost:.4f}")
            for row in rows
        ]  # fmt: skip
        print_table(collection.name, columns, shown, right=columns[1:])

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--questions", default=50, show_default=True, help="How many, one a document.")
@click.option("--model", default="default", show_default=True, help="The model that writes them.")
@tenant_option
@click.pass_context
def questions(ctx: click.Context, dataset: str, folder: Path, questions: int, model: str, tenant: str) -> None:
    """Have a model write a question a document of DATASET, as a collection in FOLDER to measure by."""

    async def work(yard: Any) -> None:
        from modelyard.knowledge.evaluate import questions_of, save_collection

        parts = yard.knowledge
        one = await parts.datasets.find(tenant, dataset)
        made = await questions_of(parts.datasets, one, parts.models, most=questions, model=model)
        save_collection(made, folder)
        click.echo(f"{len(made.queries)} questions in {folder}")

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@tenant_option
@click.pass_context
def export(ctx: click.Context, dataset: str, file: Path, tenant: str) -> None:
    """DATASET as one FILE, vectors and all."""

    async def work(yard: Any) -> None:
        from modelyard.knowledge.transfer import export_dataset

        datasets = yard.knowledge.datasets
        told = await export_dataset(datasets, await datasets.find(tenant, dataset), file)
        click.echo(f"{file}: " + ", ".join(f"{count:,} {name}" for name, count in told.items()))

    run_with_yard(ctx, work)


@knowledge.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="The dataset's name; else that which it had.")
@tenant_option
@click.pass_context
def import_(ctx: click.Context, file: Path, name: str, tenant: str) -> None:
    """A dataset out of a FILE that `export` wrote; no model is called."""

    async def work(yard: Any) -> None:
        from modelyard.knowledge.transfer import import_dataset

        one = await import_dataset(yard.knowledge.datasets, tenant, file, name=name)
        counts = (await yard.knowledge.stored.documents.counts(tenant, one.id)).get(one.id, {"documents": 0})
        click.echo(f"{one.name}: {counts['documents']} documents, {one.id}")

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.option("--document", help="One document by id, in the place of all of it.")
@tenant_option
@click.pass_context
def delete(ctx: click.Context, dataset: str, document: str | None, tenant: str) -> None:
    """DATASET and all that is in it, or one of its documents."""

    async def work(yard: Any) -> None:
        datasets = yard.knowledge.datasets
        one = await datasets.find(tenant, dataset)
        if document:
            found = await datasets.stored.documents.get(tenant, one.id, document)
            await datasets.delete_documents(one, [found.id])
            click.echo(f"deleted {found.name}")
            return
        await datasets.delete(tenant, one.id)
        click.echo(f"deleted {one.name}")

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--separator", help="Split by this, as Dify does; else by headings, tables and code.")
@click.option("--size", default=0, help="Characters of a segment.")
@click.option("--form", type=click.Choice(["text", "hierarchical"]), default="text", show_default=True)
@json_option
@click.pass_context
def preview(ctx: click.Context, file: Path, separator: str | None, size: int, form: str, as_json: bool) -> None:
    """How FILE would be split. Nothing is kept."""

    async def work(yard: Any) -> None:
        from modelyard.knowledge.entities import DocForm, ProcessRule, Rules, Segmentation

        mode = "custom" if separator is not None else "structure"
        cut = Segmentation(separator=separator or "\n", max_tokens=size or (500 if separator is not None else 2000))
        rule = ProcessRule(mode=mode, rules=Rules(segmentation=cut))
        data = await asyncio.to_thread(file.read_bytes)
        pieces = await yard.knowledge.datasets.preview(file.name, data, rule=rule, form=DocForm(f"{form}_model"))
        if as_json:
            print_json([msgspec.to_builtins(one) for one in pieces])
            return
        for place, one in enumerate(pieces):
            click.echo(click.style(f"{place + 1}  characters {one.start} to {one.stop}  {one.heading}", bold=True))
            click.echo(one.text)

    run_with_yard(ctx, work)


@knowledge.command()
@tenant_option
@click.pass_context
def key(ctx: click.Context, tenant: str) -> None:
    """A key for clients of the knowledge API (`dataset-…`); it is shown this once."""

    async def work(yard: Any) -> None:
        click.echo(await yard.services.tenancy.dataset_keys.make(tenant))

    run_with_yard(ctx, work)


@knowledge.command()
@click.argument("name", required=False)
@click.argument("endpoint", required=False)
@click.option("--knowledge-id", help="Make a dataset NAME of the knowledge that the server knows by this id.")
@click.option("--delete", "gone", metavar="ID", help="Forget a server.")
@tenant_option
@click.pass_context
def external(
    ctx: click.Context, name: str | None, endpoint: str | None, knowledge_id: str | None, gone: str | None, tenant: str
) -> None:
    """Other servers' knowledge (the external knowledge API): list them, or add NAME at ENDPOINT.

    The key is asked for, or read from a pipe.
    """
    from modelyard.cli.show import piped_input

    async def work(yard: Any) -> None:
        known = yard.knowledge.external
        if gone:
            await known.delete(tenant, gone)
            click.echo(f"forgot {gone}")
            return
        if name is None or endpoint is None:
            rows = [(one["name"], one["endpoint"], one["id"]) for one in await known.listed(tenant)]
            print_table("", ("name", "endpoint", "id"), rows)
            return
        secret = piped_input().strip() or click.prompt("Key", hide_input=True)
        api = await known.add(tenant, name, endpoint, secret)
        click.echo(api)
        if knowledge_id:
            from modelyard.knowledge.entities import DatasetSettings

            settings = DatasetSettings(
                provider="external", external_knowledge_api_id=api, external_knowledge_id=knowledge_id
            )
            one = await yard.knowledge.datasets.create(tenant, name, settings=settings)
            click.echo(f"dataset {one.name}: {one.id}")

    run_with_yard(ctx, work)
