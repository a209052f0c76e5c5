"""The work of `modelyard knowledge import-segments`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelyard.base.errors import NotFoundError
from modelyard.cli.output import print_json, print_note

if TYPE_CHECKING:
    from modelyard.app import Modelyard
    from modelyard.knowledge.entities import Dataset, Document
    from modelyard.knowledge.segment_imports import ImportJob


async def import_file(
    yard: "Modelyard",
    tenant: str,
    dataset_name: str,
    document_name: str,
    file: Path,
    *,
    encoding: str,
    has_header: bool,
    as_json: bool,
) -> int:
    """Add the rows of a file to a document, print the result, and return the exit code.
    Raises NotFoundError and InvokeBadRequestError."""
    # Imported here, so that other commands start without it.
    from modelyard.knowledge.segment_table import read_segment_table

    dataset = await yard.knowledge.datasets.get_by_id_or_name(tenant, dataset_name)
    document = await _document(yard, dataset, document_name)
    # A file on a network drive may block for long.
    data = await asyncio.to_thread(file.read_bytes)
    rows, errors = read_segment_table(
        data, document.form, encoding=encoding, has_header=has_header
    )
    imports = yard.services.knowledge.imports
    # Run here and not as a task: the command ends with the import.
    job = await imports.create(document, rows, errors)
    async for progress in imports.run(dataset, document, rows, job):
        job = progress
        if sys.stderr.isatty() and job.status == "processing":
            print_note(f"{job.added} of {len(rows)} rows added")
    _show(job, as_json=as_json)
    return 1 if job.failed or job.error else 0


async def _document(yard: "Modelyard", dataset: "Dataset", name: str) -> "Document":
    """Return a document by id or name. Raises NotFoundError."""
    documents = yard.knowledge.datasets.store.documents
    try:
        return await documents.get(dataset.tenant, dataset.id, name)
    except NotFoundError:
        # Names are not unique; the first one in the order of the list counts.
        listed, _ = await documents.list_page(
            dataset.tenant, dataset.id, keyword=name, limit=1000
        )
        document = next((match for match in listed if match.name == name), None)
        if document is None:
            raise
        return document


def _show(job: "ImportJob", *, as_json: bool) -> None:
    """Print how an import ended."""
    if as_json:
        result: dict[str, Any] = {
            "status": job.status,
            "total": job.total,
            "added": job.added,
            "failed": job.failed,
            "errors": job.errors,
            "error": job.error,
        }
        print_json(result)
        return
    click.echo(f"added {job.added} of {job.total} rows")
    for error in job.errors:
        click.echo(f"    line {error.line}: {error.message}", err=True)
    if job.failed > len(job.errors):
        click.echo(f"    and {job.failed - len(job.errors)} more", err=True)
    if job.error:
        click.echo(job.error, err=True)
