"""`modelyard knowledge`: index documents, search them and ask questions, without a
running server."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from modelyard.base.errors import ConfigError, NotFoundError
from modelyard.base.ids import new_uuid
from modelyard.cli.knowledge_access import access
from modelyard.cli.knowledge_sources import dataset_source
from modelyard.cli.knowledge_sync import sync
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
    from modelyard.knowledge.answer import Answer
    from modelyard.knowledge.crawl import CrawlReport
    from modelyard.knowledge.entities import Document, RetrievalSettings
    from modelyard.knowledge.evaluate import Collection, Scores
    from modelyard.knowledge.retrieve import Retrieval
    from modelyard.knowledge.rows import Dataset
    from modelyard.tenancy.reader import Reader


_Command = TypeVar("_Command", bound=Callable[..., Any])

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_METHODS = ("hybrid_search", "semantic_search", "full_text_search", "keyword_search")


def _search_options(command: _Command) -> _Command:
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
                help="Number of results.",
            ),
            click.option(
                "--method",
                type=click.Choice(_METHODS),
                default="hybrid_search",
                show_default=True,
                help="Search method.",
            ),
            click.option(
                "--rerank/--no-rerank",
                default=False,
                help="Rerank with the default model. Default: no.",
            ),
            click.option(
                "--threshold",
                type=click.FloatRange(0, 1),
                help="Minimum score, 0 to 1. Default: no minimum.",
            ),
        )
    ):
        command = option(command)
    return command


def _reader_options(command: _Command) -> _Command:
    """Add the options that name the person on whose behalf a command searches."""
    user = click.option(
        "--as-user",
        metavar="USER",
        help="Find only what this user may read. Default: everything.",
    )
    groups = click.option(
        "--as-group",
        "as_groups",
        multiple=True,
        metavar="GROUP",
        help="Group of the user, in addition to those of its entry; repeatable.",
    )
    return user(groups(command))


def _reader(as_user: str | None, as_groups: tuple[str, ...]) -> "Reader":
    """Return on whose behalf a command searches: whoever can run the command line reads
    everything."""
    from modelyard.tenancy.reader import UNRESTRICTED, reader_of

    if as_user is None and not as_groups:
        return UNRESTRICTED
    # Groups alone restrict the search too, even if no user is named.
    return reader_of(as_user or "", as_groups)


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
    """Manage and search documents; works without a server."""


knowledge.add_command(access)
knowledge.add_command(sync)
knowledge.add_command(dataset_source)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceOptions:
    """The options of `add` that determine how a source is read."""

    crawl: bool
    sitemap: bool
    feed: bool
    max_pages: int
    sql: str | None
    key: str
    json_path: str | None

    @property
    def url_type(self) -> str:
        """How a URL is read: `sitemap`, `feed`, `site` or, by default, `page`."""
        if self.sitemap:
            return "sitemap"
        if self.feed:
            return "feed"
        return "site" if self.crawl else "page"


@dataclass(frozen=True, slots=True)
class _AddResult:
    """What one round of `add` did to a dataset."""

    dataset: "Dataset"
    totals: dict[str, int]
    """Outcome → number of documents."""
    failed: list[Any]
    report: "CrawlReport"

    def print(self, *, as_json: bool) -> None:
        """Print the counts, the failed documents and the skipped pages."""
        if as_json:
            print_json(self._as_dict())
            return
        counts = [f"{count} {name}" for name, count in self.totals.items() if count]
        click.echo(f"{self.dataset.name}: {', '.join(counts) or 'no changes'}")
        for document in self.failed:
            label = click.style(f"  {document.name}: ", fg="red")
            click.echo(label + document.error, err=True)
        _print_omissions(self.report)

    def _as_dict(self) -> dict[str, Any]:
        """Return the result as printed with --json."""
        omissions = [msgspec.to_builtins(omission) for omission in self.report.first]
        return {
            "dataset": self.dataset.id,
            **self.totals,
            "failed": [
                {"name": document.name, "error": document.error}
                for document in self.failed
            ],
            "left_out": {"count": self.report.count, "first": omissions},
        }


@knowledge.command()
@click.argument("dataset")
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--model",
    "embedding",
    default="",
    help=(
        "Embedding model of a new dataset, as provider/model. Default: the default"
        " embedding model."
    ),
)
@click.option(
    "--economy",
    is_flag=True,
    help="Create a new dataset with a keyword index only, without an embedding model.",
)
@click.option(
    "--form",
    type=click.Choice(["text", "hierarchical", "qa"]),
    default="text",
    show_default=True,
    help=(
        "Segment type of a new dataset: plain text, hierarchical (child segments that"
        " return their parents), or questions with answers."
    ),
)
@click.option(
    "--crawl", is_flag=True, help="Follow links of each URL to pages of the same site."
)
@click.option("--sitemap", is_flag=True, help="Read each URL as a sitemap.")
@click.option("--feed", is_flag=True, help="Read each URL as an RSS or Atom feed.")
@click.option(
    "--max-pages",
    default=100,
    show_default=True,
    help="Maximum number of pages per URL.",
)
@click.option(
    "--sql",
    metavar="QUERY",
    help="SOURCES are databases. Add one document per row of this SELECT.",
)
@click.option(
    "--key",
    default="id",
    show_default=True,
    help="Column or field that identifies a document, for --sql and --json-path.",
)
@click.option(
    "--json-path",
    metavar="PATH",
    help="SOURCES are HTTP APIs. Add one document per value at PATH, for example"
    " $.items[*].",
)
@click.option(
    "--watch",
    is_flag=True,
    help="Watch the sources for changes, checking every 2 seconds until interrupted.",
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
    watch: bool,
    tenant: str,
    as_json: bool,
    **source_options: Any,
) -> int:
    """Add SOURCES (files, folders, URLs) to DATASET. The dataset is created if it does
    not exist.

    Adding again skips unchanged documents, reindexes changed ones, and deletes
    documents that are missing from the folder. Exit code 1: a document could not be
    indexed.
    """
    options = _SourceOptions(**source_options)

    async def add_sources(yard: "Modelyard") -> int:
        """Add all sources, and repeat with --watch. Returns the exit code."""
        dataset_record = await _dataset(
            yard, tenant, dataset, embedding, economy=economy, form=form
        )
        while True:
            result = await _add_once(
                yard.knowledge, dataset_record, sources, options, quiet=as_json
            )
            result.print(as_json=as_json)
            if not watch:
                return 1 if result.failed else 0
            # Folders are polled; there is no portable way to be notified.
            await asyncio.sleep(2)

    return run_with_modelyard(ctx, add_sources)


async def _add_once(
    parts: "KnowledgeServices",
    dataset: "Dataset",
    sources: Sequence[str],
    options: _SourceOptions,
    *,
    quiet: bool,
) -> _AddResult:
    """Add all sources and wait until they are indexed."""
    from modelyard.knowledge.crawl import CrawlReport

    totals = {"added": 0, "changed": 0, "deleted": 0, "same": 0}
    # One batch id per round, so that the documents of a round can be distinguished.
    batch, report = new_uuid(), CrawlReport()
    for source in sources:
        page_source = await _page_source(parts, dataset, source, options, report)
        counts = await _sync_source(parts, dataset, source, page_source, batch, report)
        totals = {name: totals[name] + counts[name] for name in totals}
    failed = await _wait_for_indexing(parts, dataset, quiet=quiet)
    return _AddResult(dataset, totals, failed, report)


async def _page_source(
    parts: "KnowledgeServices",
    dataset: "Dataset",
    source: str,
    options: _SourceOptions,
    report: "CrawlReport",
) -> tuple[str, AsyncGenerator[Any, None]] | None:
    """Return the type of a source with its stream of pages, or None for a local path.

    The options determine how a source is read; otherwise its form does.
    """
    loader = parts.gatherer
    if options.sql:
        return "sql", loader.rows(source, options.sql, key=options.key)
    if options.json_path:
        return "api", loader.values(source, options.json_path, key=options.key)
    if source.startswith(("http://", "https://")):
        pages = await _url_pages(parts, dataset, source, options, report)
        return options.url_type, pages
    return None


async def _url_pages(
    parts: "KnowledgeServices",
    dataset: "Dataset",
    url: str,
    options: _SourceOptions,
    report: "CrawlReport",
) -> AsyncGenerator[Any, None]:
    """Return the stream of pages of a URL."""
    from modelyard.knowledge.crawl import remembered_pages

    loader, url_type, max_pages = parts.gatherer, options.url_type, options.max_pages
    # What the previous crawl recorded, so that unchanged pages can be skipped.
    memory = await remembered_pages(parts.datasets, dataset, f"{url_type} {url}")
    match url_type:
        case "sitemap":
            return loader.sitemap(
                url,
                max_pages=max_pages,
                memory=memory,
                report=report,
            )
        case "feed":
            return loader.feed(
                url,
                max_pages=max_pages,
                memory=memory,
                report=report,
            )
        case "site":
            return loader.pages(
                url,
                max_pages=max_pages,
                memory=memory,
                report=report,
            )
        case _:
            # A single page is a crawl of depth 0.
            return loader.pages(
                url,
                max_pages=1,
                depth=0,
                memory=memory,
                report=report,
            )


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
        # The note reveals a mistyped name, which creates a dataset instead of an error.
        print_note(f"created dataset {name!r}")
        return await datasets.create(tenant, name, settings=settings)


def _print_omissions(report: "CrawlReport") -> None:
    """Print which pages or rows were skipped, and why."""
    if not report.count:
        return
    click.echo(click.style(f"  {report.count:,} skipped", fg="yellow"), err=True)
    for omission in report.first:
        click.echo(f"    {omission.url}: {omission.reason}", err=True)
    if report.count > len(report.first):
        click.echo(f"    … and {report.count - len(report.first):,} more", err=True)
    # After an incomplete crawl a missing page may still exist, so nothing was deleted.
    if not report.is_complete:
        click.echo(
            "    Incomplete crawl: missing documents were not deleted.", err=True
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
        raise ConfigError(
            f"Source {source!r} not found; expected an existing file or folder, or an"
            " http:// or https:// URL"
        )
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
            # Paused documents count as neither, so they are not waited for.
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
    """List datasets, or the documents and indexing status of one."""

    async def print_list(yard: "Modelyard") -> None:
        """Print datasets or documents."""
        if dataset is None:
            await _list_datasets(yard.knowledge, tenant, as_json=as_json)
        else:
            await _list_documents(yard.knowledge, tenant, dataset, as_json=as_json)

    run_with_modelyard(ctx, print_list)


async def _list_datasets(
    parts: "KnowledgeServices", tenant: str, *, as_json: bool
) -> None:
    """Print the tenant's datasets with their sizes."""
    counts = await parts.stored.documents.counts(tenant)
    # Datasets without documents are absent from the counts.
    empty = {"documents": 0, "words": 0}
    rows = [
        {
            "name": dataset.name,
            "documents": counts.get(dataset.id, empty)["documents"],
            "characters": counts.get(dataset.id, empty)["words"],
            "model": dataset.model or dataset.settings.indexing_technique.value,
            "id": dataset.id,
        }
        for dataset in await parts.stored.datasets.list(tenant)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "",
        ("dataset", "documents", "characters", "model", "id"),
        [tuple(row.values()) for row in rows],
        right_aligned=("documents", "characters"),
    )


async def _list_documents(
    parts: "KnowledgeServices", tenant: str, name: str, *, as_json: bool
) -> None:
    """Print the documents of a dataset with their status."""
    dataset = await parts.datasets.get_by_id_or_name(tenant, name)
    # The command has no option for further pages, so one page must hold them all.
    documents, _ = await parts.stored.documents.list_page(
        tenant, dataset.id, limit=100_000
    )
    if as_json:
        print_json([msgspec.to_builtins(document) for document in documents])
        return
    print_table(
        "",
        ("document", "status", "segments", "hits", "error", "id"),
        # Oldest first, unlike the store's order.
        [_document_row(document) for document in reversed(documents)],
        right_aligned=("segments", "hits"),
    )


def _document_row(document: "Document") -> tuple[Any, ...]:
    """Return a document as a row of the table."""
    status = (
        failure_text("error") if document.error else success_text(document.status.value)
    )
    return (
        document.name,
        status,
        document.segments,
        document.hits,
        document.error[:80],
        document.id,
    )


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@_search_options
@_reader_options
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
    as_user: str | None,
    as_groups: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> None:
    """Search a dataset. Prints the hits for QUERY, best first, with the score of each
    search stage."""
    # Read before the library opens, so that a missing query fails at once.
    query_text = " ".join(input_texts(query, "query"))

    async def search_dataset(yard: "Modelyard") -> None:
        """Search and print the hits."""
        datasets = yard.knowledge.datasets
        dataset_record = await datasets.get_by_id_or_name(tenant, dataset)
        retrieval = await datasets.search(
            tenant,
            [dataset_record.id],
            query_text,
            settings=_settings(top_k, method, rerank, threshold),
            reader=_reader(as_user, as_groups),
        )
        if as_json:
            print_json(_retrieval_as_dict(retrieval))
        else:
            _print_retrieval(retrieval)

    run_with_modelyard(ctx, search_dataset)


def _retrieval_as_dict(retrieval: "Retrieval") -> dict[str, Any]:
    """Return a search result as printed with --json."""
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
    return {
        "hits": hits,
        "notes": retrieval.notes,
        "milliseconds": retrieval.milliseconds,
    }


def _print_retrieval(retrieval: "Retrieval") -> None:
    """Print the hits with their scores, and the notes and duration of the search."""
    for number, hit in enumerate(retrieval.hits, start=1):
        page = f", page {hit.segment.page}" if hit.segment.page else ""
        title = f"{number}  {hit.score:.3f}  {hit.document.name}{page}"
        scores = "  ".join(f"{name} {score:.3f}" for name, score in hit.scores.items())
        click.echo(click.style(title, bold=True) + f"   {scores}")
        click.echo("   " + " ".join(hit.text.split())[:300])
    for line in retrieval.notes:
        print_note(line)
    print_note(f"{retrieval.milliseconds['whole']:.0f} ms")


@knowledge.command()
@click.argument("dataset")
@click.argument("query", nargs=-1)
@click.option(
    "--model",
    default="default",
    show_default=True,
    help="Model that writes the answer, as provider/model or an alias.",
)
@click.option(
    "--check",
    type=click.Choice(["off", "words", "model"]),
    default="words",
    show_default=True,
    help=(
        "Verify each sentence against its sources: by its words, or additionally by a"
        " model."
    ),
)
@_reader_options
@tenant_option
@json_option
@click.pass_context
def ask(
    ctx: click.Context,
    dataset: str,
    query: tuple[str, ...],
    model: str,
    check: str,
    as_user: str | None,
    as_groups: tuple[str, ...],
    tenant: str,
    as_json: bool,
) -> int:
    """Answer from DATASET with citations. Exit code 3: no answer in the documents."""
    question = " ".join(input_texts(query, "question"))

    async def answer_question(yard: "Modelyard") -> int:
        """Stream the answer, then print its citations and unsupported claims."""
        from modelyard.knowledge.answer import AnswerOptions
        from modelyard.knowledge.retrieve import SearchRequest

        dataset_record = await yard.knowledge.datasets.get_by_id_or_name(
            tenant, dataset
        )
        events = yard.knowledge.answerer.stream(
            [dataset_record.id],
            SearchRequest(
                tenant=tenant,
                query=question,
                source="app",
                reader=_reader(as_user, as_groups),
            ),
            AnswerOptions(model=model, checks=check),  # pyright: ignore[reportArgumentType]  click validates it
        )
        answer = await _stream_answer(events, quiet=as_json)
        if as_json:
            print_json(msgspec.to_builtins(answer))
        else:
            _print_answer_details(answer)
        return 0 if answer.is_found else 3

    return run_with_modelyard(ctx, answer_question)


async def _stream_answer(
    stream: AsyncGenerator[tuple[str, Any], None], *, quiet: bool
) -> Any:
    """Print the text as it arrives, unless quiet, and return the complete answer."""
    answer: Any = None
    # aclosing cancels the model call if the output pipe is closed.
    async with aclosing(stream) as events:
        async for event_type, value in events:
            if event_type == "text" and not quiet:
                click.echo(value, nl=False)
            elif event_type == "answer":
                answer = value
    return answer


def _print_answer_details(answer: "Answer") -> None:
    """Print the citations and the unsupported claims below a streamed answer."""
    click.echo()
    # The model's own text was printed; the sentence replaces it.
    if answer.is_quotation:
        click.echo(f"→ {answer.text}")
    for citation in answer.citations:
        page = f", page {citation.page}" if citation.page else ""
        text = (
            f"  [{citation.number}] {citation.document_name}{page}, characters"
            f" {citation.start} to {citation.stop}"
        )
        click.echo(click.style(text, dim=True))
    for claim in answer.claims:
        if not claim.is_supported:
            text = f"  not supported ({claim.score:.2f}): {claim.text} – {claim.reason}"
            click.echo(click.style(text, fg="yellow"))


@knowledge.command("eval")
@click.argument("folder", type=_FOLDER)
@click.option(
    "--model",
    "embedding",
    default="",
    help="Embedding model, as provider/model. Default: the default embedding model.",
)
@click.option(
    "--questions",
    "max_questions",
    default=0,
    show_default=True,
    help="Number of questions; 0 for all.",
)
@click.option(
    "--only",
    "preset_names",
    metavar="NAME",
    multiple=True,
    help="Setting to evaluate; repeatable. Default: all.",
)
@click.option(
    "--shares",
    "has_shares",
    is_flag=True,
    help="Evaluate five shares of the vector score in hybrid searches too, and print the"
    " best.",
)
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    folder: Path,
    embedding: str,
    max_questions: int,
    preset_names: tuple[str, ...],
    has_shares: bool,
    as_json: bool,
) -> None:
    """Evaluate retrieval on a BEIR collection and compare settings.

    FOLDER contains the collection. Prints nDCG, recall, MRR, hit rates, time in
    milliseconds and cost of each setting.
    """

    async def evaluate_collection(yard: "Modelyard") -> None:
        """Evaluate the presets and print their results."""
        from modelyard.knowledge.evaluate import PRESETS, best_share, load_collection

        # Checked first, because indexing the collection may take long and cost money.
        if unknown := [name for name in preset_names if name not in PRESETS]:
            raise click.UsageError(
                f"--only: unknown setting {unknown[0]!r}; expected one of"
                f" {', '.join(PRESETS)}"
            )
        collection = load_collection(folder)
        evaluations = await _evaluate_presets(
            yard.knowledge,
            collection,
            embedding,
            _selected_presets(preset_names, has_shares=has_shares),
            max_questions,
        )
        if as_json:
            print_json([msgspec.to_builtins(evaluation) for evaluation in evaluations])
        else:
            _print_evaluations(collection.name, evaluations)
            if (best := best_share(evaluations)) is not None:
                click.echo(f"Best share of vectors: {best[0]} (nDCG {best[1]:.3f})")

    run_with_modelyard(ctx, evaluate_collection)


def _selected_presets(
    names: Sequence[str], *, has_shares: bool
) -> dict[str, "RetrievalSettings"]:
    """Return the presets with these names, all if there are none, and those of the
    shares if they are evaluated too."""
    from modelyard.knowledge.evaluate import PRESETS, SHARE_PRESETS

    presets = {
        name: preset for name, preset in PRESETS.items() if not names or name in names
    }
    if has_shares:
        # --only does not restrict the shares: the best is found by comparing them all.
        presets.update(SHARE_PRESETS)
    return presets


async def _evaluate_presets(
    parts: "KnowledgeServices",
    collection: "Collection",
    embedding: str,
    presets: Mapping[str, "RetrievalSettings"],
    max_questions: int,
) -> list["Scores"]:
    """Index the collection in a temporary dataset, evaluate the presets, and delete the
    dataset."""
    from modelyard.knowledge.entities import DatasetSettings
    from modelyard.knowledge.evaluate import add_collection, evaluate

    datasets = parts.datasets
    provider, _, model = embedding.rpartition("/")
    settings = DatasetSettings(embedding_model=model, embedding_model_provider=provider)
    # A unique name, so that parallel evaluations do not collide.
    dataset = await datasets.create(
        "default", f"eval {new_uuid()[:23]}", settings=settings
    )
    started_at = time.monotonic()
    try:
        await add_collection(datasets, dataset, collection)
        print_note(
            f"{len(collection.corpus):,} documents in"
            f" {time.monotonic() - started_at:.0f} s"
        )
        return [
            await evaluate(
                datasets,
                dataset,
                collection,
                preset,
                name=name,
                max_questions=max_questions,
                spent=lambda: parts.models.cost,
            )
            for name, preset in presets.items()
        ]
    finally:
        # The temporary dataset is removed even if the evaluation fails.
        await datasets.delete("default", dataset.id)


# Column of the evaluation's table → format of the evaluation's value.
_EVALUATION_COLUMNS = {
    "settings": "{0.settings}",
    "questions": "{0.questions}",
    "nDCG@10": "{0.ndcg:.4f}",
    "recall@10": "{0.recall:.4f}",
    "recall@100": "{0.recall_100:.4f}",
    "MRR@10": "{0.mrr:.4f}",
    "hit@1": "{0.hit_1:.3f}",
    "hit@5": "{0.hit_5:.3f}",
    "ms": "{0.milliseconds:.1f}",
    "p95": "{0.milliseconds_95:.1f}",
    "cost": "{0.cost:.4f}",
}


def _print_evaluations(title: str, evaluations: Sequence["Scores"]) -> None:
    """Print the measures of each evaluation as a table."""
    columns = tuple(_EVALUATION_COLUMNS)
    rows = [
        [text_format.format(evaluation) for text_format in _EVALUATION_COLUMNS.values()]
        for evaluation in evaluations
    ]
    print_table(title, columns, rows, right_aligned=columns[1:])


@knowledge.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--questions",
    "max_questions",
    default=50,
    show_default=True,
    help="Maximum number of questions.",
)
@click.option(
    "--model",
    default="default",
    show_default=True,
    help="Model that writes the questions, as provider/model or an alias.",
)
@tenant_option
@click.pass_context
def questions(
    ctx: click.Context,
    dataset: str,
    folder: Path,
    max_questions: int,
    model: str,
    tenant: str,
) -> None:
    """Generate an evaluation set: one question per document of DATASET.

    A model writes the questions. They are saved in FOLDER as a BEIR collection for
    `modelyard knowledge eval`.
    """

    async def work(yard: "Modelyard") -> None:
        """Generate and save the questions."""
        from modelyard.knowledge.evaluate import generate_questions, save_collection

        parts = yard.knowledge
        dataset_record = await parts.datasets.get_by_id_or_name(tenant, dataset)
        collection = await generate_questions(
            parts.datasets,
            dataset_record,
            parts.models,
            max_questions=max_questions,
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
    """Export DATASET with its vectors to FILE, a ZIP archive."""

    async def work(yard: "Modelyard") -> None:
        """Export the dataset and print the counts."""
        from modelyard.knowledge.export import export_dataset

        datasets = yard.knowledge.datasets
        record_counts = await export_dataset(
            datasets,
            await datasets.get_by_id_or_name(tenant, dataset),
            file,
        )
        click.echo(
            f"{file}: "
            + ", ".join(f"{count:,} {name}" for name, count in record_counts.items())
        )

    run_with_modelyard(ctx, work)


@knowledge.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--name", default="", help="Name of the dataset. Default: the exported name."
)
@tenant_option
@click.pass_context
def import_(ctx: click.Context, file: Path, name: str, tenant: str) -> None:
    """Import a dataset from FILE, which `modelyard knowledge export` wrote. Calls no
    model."""

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
@click.option(
    "--document",
    metavar="ID",
    help="Delete only the document with this id, as in `list`.",
)
@tenant_option
@click.pass_context
def delete(ctx: click.Context, dataset: str, document: str | None, tenant: str) -> None:
    """Delete a dataset with all its documents, or one document of it."""

    async def work(yard: "Modelyard") -> None:
        """Delete the document or the dataset."""
        datasets = yard.knowledge.datasets
        dataset_record = await datasets.get_by_id_or_name(tenant, dataset)
        if document:
            # Read first, so that an unknown id is an error and the name can be printed.
            document_record = await datasets.store.documents.get(
                tenant, dataset_record.id, document
            )
            await datasets.delete_documents(dataset_record, [document_record.id])
            click.echo(f"deleted {document_record.name}")
            return
        await datasets.delete(tenant, dataset_record.id)
        click.echo(f"deleted {dataset_record.name}")

    run_with_modelyard(ctx, work)


@knowledge.command("import-segments")
@click.argument("dataset")
@click.argument("document")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--no-header",
    is_flag=True,
    help="The first row is not a header: the columns are content and answer.",
)
@click.option(
    "--encoding", default="", help="Encoding, for example gb18030. Default: UTF-8."
)
@tenant_option
@json_option
@click.pass_context
def import_segments(
    ctx: click.Context,
    dataset: str,
    document: str,
    file: Path,
    no_header: bool,
    encoding: str,
    tenant: str,
    as_json: bool,
) -> int:
    """Add the rows of the CSV FILE to DOCUMENT (name or id) of DATASET.

    The columns are named content (or question) and answer, or are in this order. Exit
    code 1: some rows were not added; the others were.
    """
    from modelyard.cli.segment_import import import_file

    async def work(yard: "Modelyard") -> int:
        """Import the file and return the exit code."""
        return await import_file(
            yard,
            tenant,
            dataset,
            document,
            file,
            encoding=encoding,
            has_header=not no_header,
            as_json=as_json,
        )

    return run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--separator",
    help="Split at this text, as Dify does. Default: split by headings, tables and code.",
)
@click.option(
    "--size",
    default=0,
    help="Segment size in characters. Default: 500 with --separator, otherwise 2000.",
)
@click.option(
    "--form",
    type=click.Choice(["text", "hierarchical"]),
    default="text",
    show_default=True,
    help="Segment type: plain text, or child segments with their parents.",
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
    """Show how FILE is split into segments. Nothing is stored."""

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
@click.option(
    "--speaks-for-users",
    is_flag=True,
    help="Let callers name the user on whose behalf they search.",
)
@tenant_option
@click.pass_context
def key(ctx: click.Context, tenant: str, speaks_for_users: bool) -> None:
    """Create a key for clients of the knowledge API (`dataset-…`). The key is printed
    once."""

    async def work(yard: "Modelyard") -> None:
        """Print the new key."""
        dataset_keys = yard.services.tenancy.dataset_keys
        click.echo(await dataset_keys.create(tenant, speaks_for_users=speaks_for_users))

    run_with_modelyard(ctx, work)


@knowledge.command()
@click.argument("name", required=False)
@click.argument("endpoint", required=False)
@click.option(
    "--knowledge-id",
    help="Also create a dataset NAME for the server's knowledge base with this id.",
)
@click.option(
    "--delete", "deleted_id", metavar="ID", help="Remove the API with this id."
)
@tenant_option
@click.pass_context
def external(
    ctx: click.Context,
    name: str | None,
    endpoint: str | None,
    knowledge_id: str | None,
    deleted_id: str | None,
    tenant: str,
) -> None:
    """Manage external knowledge APIs: add NAME at the URL ENDPOINT. Lists them if NAME
    or ENDPOINT is missing.

    The API key is prompted for, or read from a pipe.
    """
    from modelyard.cli.output import piped_input

    async def manage_apis(yard: "Modelyard") -> None:
        """Delete, list or add an external knowledge API."""
        external_store = yard.knowledge.external
        if deleted_id:
            await external_store.delete(tenant, deleted_id)
            click.echo(f"removed {deleted_id}")
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
        api_id = await external_store.add(tenant, name, endpoint, secret)
        click.echo(api_id)
        if knowledge_id:
            await _create_external_dataset(yard, tenant, name, api_id, knowledge_id)

    run_with_modelyard(ctx, manage_apis)


async def _create_external_dataset(
    yard: "Modelyard", tenant: str, name: str, api_id: str, knowledge_id: str
) -> None:
    """Create a dataset that searches an external knowledge API, and print its id."""
    from modelyard.knowledge.entities import DatasetSettings

    settings = DatasetSettings(
        provider="external",
        external_knowledge_api_id=api_id,
        external_knowledge_id=knowledge_id,
    )
    dataset = await yard.knowledge.datasets.create(tenant, name, settings=settings)
    click.echo(f"dataset {dataset.name}: {dataset.id}")
