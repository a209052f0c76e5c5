"""`modelyard knowledge`: index documents, search them and ask questions, without a
running server."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.ids import new_uuid
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
from modelyard.cli.usage import tenant_option

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.app.knowledge import KnowledgeServices
    from modelyard.knowledge.crawl import CrawlReport, SourceLoader
    from modelyard.knowledge.rows import Dataset


_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_METHODS = ("hybrid_search", "semantic_search", "full_text_search", "keyword_search")


def _search_options(command: Any) -> Any:
    """Add the options of a search to a command."""
    # Reversed, because decorators apply from the inside out and help lists options in
    # order.
    for option in reversed(
        (
            click.option(
                "--top",
                "top_k",
                default=5,
                show_default=True,
                type=click.IntRange(1, 1000),
                help="How many.",
            ),
            click.option(
                "--method",
                type=click.Choice(_METHODS),
                default="hybrid_search",
                show_default=True,
            ),
            click.option(
                "--rerank/--no-rerank",
                default=False,
                help="Order them by the default rerank model.",
            ),
            click.option(
                "--threshold", type=click.FloatRange(0, 1), help="Least score: 0 to 1."
            ),
        )
    ):
        command = option(command)
    return command


def _settings(top_k: int, method: str, rerank: bool, threshold: float | None) -> Any:
    """Return retrieval settings for the options of a search."""
    from modelyard.knowledge.entities import RetrievalSettings, SearchMethod

    return RetrievalSettings(
        top_k=top_k,
        search_method=SearchMethod(method),
        reranking_enable=rerank,
        score_threshold=threshold,
        score_threshold_enabled=threshold is not None,
    )


@click.group()
def knowledge() -> None:
    """Knowledge: add documents, search them, ask them, measure what is found. No server
    is needed."""


@knowledge.command()
@click.argument("dataset")
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--model",
    "embedding",
    default="",
    help="Embedding model of a new dataset, as provider/model.",
)
@click.option(
    "--economy", is_flag=True, help="A new dataset of words alone: no model is called."
)
@click.option(
    "--form",
    type=click.Choice(["text", "hierarchical", "qa"]),
    default="text",
    show_default=True,
    help=(
        "Of a new dataset: segments; children that lead to their parents; questions"
        " with answers."
    ),
)
@click.option(
    "--crawl", is_flag=True, help="Follow addresses to the pages of the same site."
)
@click.option("--sitemap", is_flag=True, help="Addresses are sitemaps.")
@click.option("--feed", is_flag=True, help="Addresses are RSS or Atom feeds.")
@click.option("--most", default=100, show_default=True, help="Pages at most.")
@click.option(
    "--sql",
    metavar="QUERY",
    help="SOURCES are databases; a document a row of this SELECT.",
)
@click.option(
    "--key",
    default="id",
    show_default=True,
    help="The column, or the field, that says which is which.",
)
@click.option(
    "--json-path",
    metavar="PATH",
    help="SOURCES are HTTP APIs; a document a value at PATH, as $.items[*].",
)
@click.option(
    "--watch", is_flag=True, help="Go on: take up what changes in the folders."
)
@tenant_option
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    dataset: str,
    sources: tuple[str, ...],
    embedding: str,
    economy: bool,
    form: str,
    crawl: bool,
    sitemap: bool,
    feed: bool,
    most: int,
    sql: str | None,
    key: str,
    json_path: str | None,
    watch: bool,
    tenant: str,
    as_json: bool,
) -> int:
    """Add SOURCES (files, folders, URLs) to DATASET. The dataset is created if it does
    not exist.

    Adding again skips unchanged documents, indexes changed ones again, and deletes
    those that no longer exist in a folder.
    """

    async def work(yard: "Modelyard") -> int:
        """Add all sources, wait for indexing, and repeat with --watch."""
        parts = yard.knowledge
        dataset_record = await _dataset(
            yard, tenant, dataset, embedding, economy=economy, form=form
        )
        while True:
            from modelyard.knowledge.crawl import CrawlReport

            totals = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
            # One batch id per round, so that the documents of a round can be told
            # apart.
            batch, report = new_uuid(), CrawlReport()
            for source in sources:
                gatherer, page_source = parts.gatherer, None
                # The options decide how a source is read; otherwise its form does: URL,
                # folder or file.
                if sql:
                    page_source = ("sql", gatherer.rows(source, sql, key=key))
                elif json_path:
                    page_source = ("api", gatherer.values(source, json_path, key=key))
                elif source.startswith(("http://", "https://")):
                    source_type = _source_type(crawl=crawl, sitemap=sitemap, feed=feed)
                    memory = await _previous_crawl(
                        parts, dataset_record, source_type, source
                    )
                    page_source = (
                        source_type,
                        _pages(gatherer, source_type, source, most, memory, report),
                    )
                # Without a page source the source is a local path.
                counts = await _sync_source(
                    parts, dataset_record, source, page_source, batch, report
                )
                totals = {name: totals[name] + counts[name] for name in totals}
            failed = await _wait_for_indexing(parts, dataset_record, quiet=as_json)
            if as_json:
                left_out = {
                    "count": report.count,
                    "first": [
                        msgspec.to_builtins(omission) for omission in report.first
                    ],
                }
                errors = [{"name": d.name, "error": d.error} for d in failed]
                print_json(
                    {
                        "dataset": dataset_record.id,
                        **totals,
                        "failed": errors,
                        "left_out": left_out,
                    }
                )
            else:
                summary = (
                    ", ".join(
                        f"{count} {name}" for name, count in totals.items() if count
                    )
                    or "nothing to do"
                )
                click.echo(f"{dataset_record.name}: {summary}")
                for document in failed:
                    click.echo(
                        click.style(f"  {document.name}: ", fg="red") + document.error,
                        err=True,
                    )
                _show_left_out(report)
            if not watch:
                return 1 if failed else 0
            # Folders are polled; there is no portable way to be notified.
            await asyncio.sleep(2)

    return run_with_modelyard(ctx, work)


async def _dataset(
    yard: "Modelyard",
    tenant: str,
    name: str,
    embedding: str,
    *,
    economy: bool,
    form: str,
) -> Any:
    """Return the dataset, creating it with these settings if it does not exist."""
    from modelyard.knowledge.entities import DatasetSettings, DocForm, Technique

    datasets = yard.knowledge.datasets
    try:
        return await datasets.get_by_id_or_name(tenant, name)
    except NotFoundError:
        provider, _, model = embedding.rpartition("/")
        settings = DatasetSettings(
            indexing_technique=Technique.ECONOMY if economy else Technique.HIGH_QUALITY,
            embedding_model=model,
            embedding_model_provider=provider,
            doc_form=DocForm(f"{form}_model"),
        )
        print_note(f"made dataset {name!r}")
        return await datasets.create(tenant, name, settings=settings)


def _show_left_out(report: "CrawlReport") -> None:
    """Print which pages were left out, and why."""
    if not report.count:
        return
    click.echo(click.style(f"  {report.count:,} left out", fg="yellow"), err=True)
    for omission in report.first:
        click.echo(f"    {omission.url}: {omission.reason}", err=True)
    if report.count > len(report.first):
        click.echo(f"    … and {report.count - len(report.first):,} more", err=True)
    # After an incomplete crawl a missing page may still exist, so nothing was deleted.
    if not report.is_complete:
        click.echo(
            "    Nothing was deleted: some of it may come another time.", err=True
        )


def _source_type(*, crawl: bool, sitemap: bool, feed: bool) -> str:
    """Return how a URL is read: sitemap, feed, site or single page."""
    if sitemap:
        return "sitemap"
    if feed:
        return "feed"
    return "site" if crawl else "page"


async def _previous_crawl(
    parts: "KnowledgeServices", dataset: "Dataset", source_type: str, source: str
) -> Any:
    """Return what the previous crawl recorded about a source, so that unchanged pages
    can be skipped."""
    from modelyard.knowledge.crawl import remembered_pages

    return await remembered_pages(parts.datasets, dataset, f"{source_type} {source}")


def _pages(
    gatherer: "SourceLoader",
    source_type: str,
    url: str,
    max_pages: int,
    memory: Any,
    report: "CrawlReport",
) -> AsyncGenerator[Any, None]:
    """Return the stream of pages of a URL."""
    match source_type:
        case "sitemap":
            return gatherer.sitemap(
                url, max_pages=max_pages, memory=memory, report=report
            )
        case "feed":
            return gatherer.feed(url, max_pages=max_pages, memory=memory, report=report)
        case "site":
            return gatherer.pages(
                url, max_pages=max_pages, memory=memory, report=report
            )
        case _:
            # A single page is a crawl of depth 0.
            return gatherer.pages(
                url, max_pages=1, depth=0, memory=memory, report=report
            )


async def _sync_source(
    parts: "KnowledgeServices",
    dataset: "Dataset",
    source: str,
    page_source: tuple[str, AsyncGenerator[Any, None]] | None,
    batch: str,
    report: "CrawlReport",
) -> dict[str, int]:
    """Add one source to the dataset and return the counts by outcome. Raises
    ConfigError for an unknown path."""
    from modelyard.knowledge.crawl import sync_sources

    if page_source is not None:
        source_type, pages = page_source
        # Sources that list everything they have: what is missing there was deleted. A
        # feed shows only recent entries.
        deletes = source_type in ("site", "sitemap", "sql", "api")
        return await sync_sources(
            parts.datasets,
            dataset,
            f"{source_type} {source}",
            pages,
            deletes=deletes,
            report=report,
        )
    path = Path(source)
    if not path.exists():  # noqa: ASYNC240
        raise ConfigError(f"{source!r} is no file, no folder and no address")
    return await parts.datasets.sync_folder(dataset, path, batch=batch)


async def _wait_for_indexing(
    parts: "KnowledgeServices", dataset: "Dataset", *, quiet: bool
) -> list[Any]:
    """Wait until all documents are indexed, with a progress bar at a terminal, and
    return those that failed."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    store = parts.stored
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task("indexing", total=None)
        while True:
            counts = (await store.documents.counts(dataset.tenant, dataset.id)).get(
                dataset.id
            )
            # One row each is enough: `listed` also returns the total.
            _, waiting = await store.documents.list_page(
                dataset.tenant, dataset.id, state="queuing", limit=1
            )
            _, working = await store.documents.list_page(
                dataset.tenant, dataset.id, state="indexing", limit=1
            )
            total = int(counts["documents"]) if counts else 0
            bar.update(task, total=total, completed=total - waiting - working)
            if not waiting + working:
                break
            await asyncio.sleep(0.1)
    failed, _ = await store.documents.list_page(
        dataset.tenant, dataset.id, state="error", limit=1000
    )
    return failed


@knowledge.command("list")
@click.argument("dataset", required=False)
@tenant_option
@json_option
@click.pass_context
def list_(ctx: click.Context, dataset: str | None, tenant: str, as_json: bool) -> None:
    """List the datasets, or the documents of one dataset with their status."""

    async def work(yard: "Modelyard") -> None:
        """Print datasets or documents."""
        store = yard.knowledge.stored
        if dataset is None:
            counts = await store.documents.counts(tenant)
            rows = [
                (
                    dataset_record.name,
                    counts.get(dataset_record.id, {"documents": 0})["documents"],
                    counts.get(dataset_record.id, {"words": 0})["words"],
                    dataset_record.model
                    or dataset_record.settings.indexing_technique.value,
                    dataset_record.id,
                )
                for dataset_record in await store.datasets.list(tenant)
            ]
            if as_json:
                print_json(
                    [
                        dict(
                            zip(
                                ("name", "documents", "characters", "model", "id"),
                                row,
                                strict=True,
                            )
                        )
                        for row in rows
                    ]
                )
                return
            print_table(
                "",
                ("dataset", "documents", "characters", "model", "id"),
                rows,
                right_aligned=("documents", "characters"),
            )
            return
        dataset_record = await yard.knowledge.datasets.get_by_id_or_name(
            tenant, dataset
        )
        documents, _ = await store.documents.list_page(
            tenant, dataset_record.id, limit=100_000
        )
        if as_json:
            print_json([msgspec.to_builtins(document) for document in documents])
            return
        rows = [
            (
                document.name,
                (
                    failure_text("error")
                    if document.error
                    else success_text(document.status.value)
                ),
                document.segments,
                document.hits,
                document.error[:80],
                document.id,
            )
            # Oldest first, unlike the store's order.
            for document in reversed(documents)
        ]
        print_table(
            "",
            ("document", "status", "segments", "hits", "why", "id"),
            rows,
            right_aligned=("segments", "hits"),
        )

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@_search_options
@tenant_option
@json_option
@click.pass_context
def search(
    ctx: click.Context,
    dataset: str,
    query: tuple[str, ...],
    top_k: int,
    method: str,
    rerank: bool,
    threshold: float | None,
    tenant: str,
    as_json: bool,
) -> None:
    """Search DATASET for QUERY and print the hits, best first, with the score of each
    stage."""
    query_text = " ".join(input_texts(query, "query"))

    async def work(yard: "Modelyard") -> None:
        """Search and print the hits."""
        datasets = yard.knowledge.datasets
        dataset_record = await datasets.get_by_id_or_name(tenant, dataset)
        retrieval = await datasets.search(
            tenant,
            [dataset_record.id],
            query_text,
            settings=_settings(top_k, method, rerank, threshold),
        )
        if as_json:
            hits = [
                {
                    "score": hit.score,
                    "scores": hit.scores,
                    "document": hit.document.name,
                    "page": hit.segment.page,
                    "start": hit.segment.start,
                    "stop": hit.segment.stop,
                    "text": hit.text,
                }
                for hit in retrieval.hits
            ]
            print_json(
                {
                    "hits": hits,
                    "notes": retrieval.notes,
                    "milliseconds": retrieval.milliseconds,
                }
            )
            return
        for index, hit in enumerate(retrieval.hits):
            page = f", page {hit.segment.page}" if hit.segment.page else ""
            scores = "  ".join(
                f"{name} {score:.3f}" for name, score in hit.scores.items()
            )
            click.echo(
                click.style(
                    f"{index + 1}  {hit.score:.3f}  {hit.document.name}{page}",
                    bold=True,
                )
                + f"   {scores}"
            )
            click.echo("   " + " ".join(hit.text.split())[:300])
        for line in retrieval.notes:
            print_note(line)
        print_note(f"{retrieval.milliseconds['whole']:.0f} ms")

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@click.option(
    "--model", default="default", show_default=True, help="The model that answers."
)
@click.option(
    "--check",
    type=click.Choice(["off", "words", "model"]),
    default="words",
    show_default=True,
    help=(
        "Hold each sentence against its sources: by words, or by the model's judgement"
        " too."
    ),
)
@tenant_option
@json_option
@click.pass_context
def ask(
    ctx: click.Context,
    dataset: str,
    query: tuple[str, ...],
    model: str,
    check: str,
    tenant: str,
    as_json: bool,
) -> int:
    """Answer a question from DATASET's documents, with citations. Exits with 3 if they
    do not contain the answer."""
    question = " ".join(input_texts(query, "question"))

    async def work(yard: "Modelyard") -> int:
        """Stream the answer, then print its citations and unsupported claims."""
        from modelyard.knowledge.answer import AnswerOptions
        from modelyard.knowledge.retrieve import SearchRequest

        dataset_record = await yard.knowledge.datasets.get_by_id_or_name(
            tenant, dataset
        )
        manner = AnswerOptions(model=model, checks=check)  # pyright: ignore[reportArgumentType]  click holds it to the choices
        answer: Any = None
        stream = yard.knowledge.answerer.stream(
            [dataset_record.id],
            SearchRequest(tenant=tenant, query=question, source="app"),
            manner,
        )
        # aclosing cancels the model call if the output pipe is closed.
        async with aclosing(stream) as events:
            async for event_type, value in events:
                if event_type == "text" and not as_json:
                    click.echo(value, nl=False)
                elif event_type == "answer":
                    answer = value
        if as_json:
            print_json(msgspec.to_builtins(answer))
            return 0 if answer.is_found else 3
        click.echo()
        # Extractive answers were printed in full; repeat the quoted sentence.
        if answer.notes and "the sentence is a quotation" in answer.notes[-1]:
            click.echo(f"→ {answer.text}")
        for citation in answer.citations:
            page = f", page {citation.page}" if citation.page else ""
            click.echo(
                click.style(
                    f"  [{citation.number}] {citation.document_name}{page}, characters"
                    f" {citation.start} to {citation.stop}",
                    dim=True,
                )
            )
        for claim in answer.claims:
            if not claim.is_supported:
                click.echo(
                    click.style(
                        f"  not supported ({claim.score:.2f}): {claim.text} –"
                        f" {claim.reason}",
                        fg="yellow",
                    )
                )
        return 0 if answer.is_found else 3

    return run_with_modelyard(ctx, work)


@knowledge.command("eval")
@click.argument("folder", type=_FOLDER)
@click.option(
    "--model", "embedding", default="", help="Embedding model, as provider/model."
)
@click.option("--questions", "most", default=0, help="The first so many; all where 0.")
@click.option(
    "--only",
    multiple=True,
    help="One of the settings that are compared; may be said again.",
)
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    folder: Path,
    embedding: str,
    most: int,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure retrieval on FOLDER, a collection in BEIR's layout: nDCG, recall, MRR and
    time for each preset."""

    async def work(yard: "Modelyard") -> None:
        """Index the collection in a temporary dataset, evaluate the presets, and delete
        it."""
        from modelyard.knowledge.entities import DatasetSettings
        from modelyard.knowledge.evaluate import (
            PRESETS,
            add_collection,
            evaluate,
            load_collection,
        )

        if unknown := [
            preset_name for preset_name in only if preset_name not in PRESETS
        ]:
            raise click.UsageError(f"{unknown[0]!r} is none of {', '.join(PRESETS)}")
        collection = load_collection(folder)
        datasets = yard.knowledge.datasets
        provider, _, model = embedding.rpartition("/")
        settings = DatasetSettings(
            embedding_model=model, embedding_model_provider=provider
        )
        # A unique name, so that parallel evaluations do not collide.
        dataset_record = await datasets.create(
            "default", f"eval {new_uuid()[:23]}", settings=settings
        )
        started_at = time.monotonic()
        try:
            await add_collection(datasets, dataset_record, collection)
            print_note(
                f"{len(collection.corpus):,} documents in"
                f" {time.monotonic() - started_at:.0f} s"
            )
            rows = [
                await evaluate(
                    datasets,
                    dataset_record,
                    collection,
                    preset,
                    name=name,
                    max_questions=most,
                    spent=lambda: yard.knowledge.models.cost,
                )
                for name, preset in PRESETS.items()
                if not only or name in only
            ]
        finally:
            # The temporary dataset is removed even if the evaluation fails.
            await datasets.delete("default", dataset_record.id)
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
        table_rows = [
            (
                row.settings,
                row.questions,
                f"{row.ndcg:.4f}",
                f"{row.recall:.4f}",
                f"{row.recall_100:.4f}",
                f"{row.mrr:.4f}",
                f"{row.hit_1:.3f}",
                f"{row.hit_5:.3f}",
                f"{row.milliseconds:.1f}",
                f"{row.milliseconds_95:.1f}",
                f"{row.cost:.4f}",
            )
            for row in rows
        ]
        print_table(collection.name, columns, table_rows, right_aligned=columns[1:])

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--questions", default=50, show_default=True, help="How many, one a document."
)
@click.option(
    "--model", default="default", show_default=True, help="The model that writes them."
)
@tenant_option
@click.pass_context
def questions(
    ctx: click.Context,
    dataset: str,
    folder: Path,
    questions: int,
    model: str,
    tenant: str,
) -> None:
    """Generate one question per document of DATASET with a model, and save them in
    FOLDER as a collection for `eval`."""

    async def work(yard: "Modelyard") -> None:
        """Generate and save the questions."""
        from modelyard.knowledge.evaluate import generate_questions, save_collection

        parts = yard.knowledge
        dataset_record = await parts.datasets.get_by_id_or_name(tenant, dataset)
        collection = await generate_questions(
            parts.datasets,
            dataset_record,
            parts.models,
            max_questions=questions,
            model=model,
        )
        save_collection(collection, folder)
        click.echo(f"{len(collection.queries)} questions in {folder}")

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@tenant_option
@click.pass_context
def export(ctx: click.Context, dataset: str, file: Path, tenant: str) -> None:
    """Export DATASET to one FILE, including its vectors."""

    async def work(yard: "Modelyard") -> None:
        """Export the dataset and print the counts."""
        from modelyard.knowledge.export import export_dataset

        datasets = yard.knowledge.datasets
        record_counts = await export_dataset(
            datasets, await datasets.get_by_id_or_name(tenant, dataset), file
        )
        click.echo(
            f"{file}: "
            + ", ".join(f"{count:,} {name}" for name, count in record_counts.items())
        )

    run_with_modelyard(ctx, work)


@knowledge.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="The dataset's name; else that which it had.")
@tenant_option
@click.pass_context
def import_(ctx: click.Context, file: Path, name: str, tenant: str) -> None:
    """Import a dataset from a FILE written by `export`. Calls no model."""

    async def work(yard: "Modelyard") -> None:
        """Import the dataset and print its name."""
        from modelyard.knowledge.export import import_dataset

        dataset_record = await import_dataset(
            yard.knowledge.datasets, tenant, file, name=name
        )
        counts = (
            await yard.knowledge.stored.documents.counts(tenant, dataset_record.id)
        ).get(dataset_record.id, {"documents": 0})
        click.echo(
            f"{dataset_record.name}: {counts['documents']} documents,"
            f" {dataset_record.id}"
        )

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("dataset")
@click.option("--document", help="One document by id, in the place of all of it.")
@tenant_option
@click.pass_context
def delete(ctx: click.Context, dataset: str, document: str | None, tenant: str) -> None:
    """Delete DATASET with all its documents, or one document."""

    async def work(yard: "Modelyard") -> None:
        """Delete the document or the dataset."""
        datasets = yard.knowledge.datasets
        dataset_record = await datasets.get_by_id_or_name(tenant, dataset)
        if document:
            document_record = await datasets.store.documents.get(
                tenant, dataset_record.id, document
            )
            await datasets.delete_documents(dataset_record, [document_record.id])
            click.echo(f"deleted {document_record.name}")
            return
        await datasets.delete(tenant, dataset_record.id)
        click.echo(f"deleted {dataset_record.name}")

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--separator",
    help="Split by this, as Dify does; else by headings, tables and code.",
)
@click.option("--size", default=0, help="Characters of a segment.")
@click.option(
    "--form",
    type=click.Choice(["text", "hierarchical"]),
    default="text",
    show_default=True,
)
@json_option
@click.pass_context
def preview(
    ctx: click.Context,
    file: Path,
    separator: str | None,
    size: int,
    form: str,
    as_json: bool,
) -> None:
    """Show how FILE would be split into segments. Nothing is stored."""

    async def work(yard: "Modelyard") -> None:
        """Split the file and print the segments."""
        from modelyard.knowledge.entities import (
            DocForm,
            ProcessRule,
            Rules,
            Segmentation,
        )

        mode = "custom" if separator is not None else "structure"
        # Default size: 500 characters with a separator, 2000 for segments by structure.
        cut = Segmentation(
            separator=separator or "\n",
            max_tokens=size or (500 if separator is not None else 2000),
        )
        rule = ProcessRule(mode=mode, rules=Rules(segmentation=cut))
        data = await asyncio.to_thread(file.read_bytes)
        segments = await yard.knowledge.datasets.preview(
            file.name, data, rule=rule, form=DocForm(f"{form}_model")
        )
        if as_json:
            print_json([msgspec.to_builtins(segment) for segment in segments])
            return
        for index, segment in enumerate(segments):
            click.echo(
                click.style(
                    f"{index + 1}  characters {segment.start} to {segment.stop} "
                    f" {segment.heading}",
                    bold=True,
                )
            )
            click.echo(segment.text)

    run_with_modelyard(ctx, work)


@knowledge.command()
@tenant_option
@click.pass_context
def key(ctx: click.Context, tenant: str) -> None:
    """Create a key for clients of the knowledge API (`dataset-…`). It is shown only
    once."""

    async def work(yard: "Modelyard") -> None:
        """Print the new key."""
        click.echo(await yard.services.tenancy.dataset_keys.create(tenant))

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("name", required=False)
@click.argument("endpoint", required=False)
@click.option(
    "--knowledge-id",
    help="Make a dataset NAME of the knowledge that the server knows by this id.",
)
@click.option("--delete", "gone", metavar="ID", help="Forget a server.")
@tenant_option
@click.pass_context
def external(
    ctx: click.Context,
    name: str | None,
    endpoint: str | None,
    knowledge_id: str | None,
    gone: str | None,
    tenant: str,
) -> None:
    """Manage external knowledge servers (external knowledge API): list them, or add
    NAME at ENDPOINT.

    The key is prompted for, or read from a pipe.
    """
    from modelyard.cli.output import piped_input

    async def work(yard: "Modelyard") -> None:
        """Delete, list or add an external server."""
        external_store = yard.knowledge.external
        if gone:
            await external_store.delete(tenant, gone)
            click.echo(f"forgot {gone}")
            return
        if name is None or endpoint is None:
            rows = [
                (server["name"], server["endpoint"], server["id"])
                for server in await external_store.list(tenant)
            ]
            print_table("", ("name", "endpoint", "id"), rows)
            return
        # Keys are not accepted as arguments: those are visible in the process list.
        secret = piped_input().strip() or click.prompt("Key", hide_input=True)
        api = await external_store.add(tenant, name, endpoint, secret)
        click.echo(api)
        if knowledge_id:
            from modelyard.knowledge.entities import DatasetSettings

            settings = DatasetSettings(
                provider="external",
                external_knowledge_api_id=api,
                external_knowledge_id=knowledge_id,
            )
            dataset_record = await yard.knowledge.datasets.create(
                tenant, name, settings=settings
            )
            click.echo(f"dataset {dataset_record.name}: {dataset_record.id}")

    run_with_modelyard(ctx, work)
