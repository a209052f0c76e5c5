"""A dataset as one file: a ZIP of JSON lines with its documents, segments, children and vectors, to be read elsewhere
without any model being called."""

import asyncio
import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from modelyard.base.errors import ConfigError
from modelyard.base.ids import new_uuid
from modelyard.knowledge.datasets import Datasets
from modelyard.knowledge.entities import Child, Dataset, DatasetSettings, Document, Segment, Status
from modelyard.knowledge.rows import DocumentPart, Entry, Indexed, Ready
from modelyard.tenancy.caller import current_api_key

_FORMAT = 1
_MOST_LINE = 256 << 20


async def export_dataset(datasets: Datasets, dataset: Dataset, path: Path) -> dict[str, int]:
    """Raises ConfigError where the file cannot be written."""
    stored = datasets.stored
    documents, _ = await stored.documents.listed(dataset.tenant, dataset.id, state="completed", most=10_000_000)
    told = {"documents": 0, "segments": 0, "vectors": 0}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        head = {
            "format": _FORMAT, "name": dataset.name, "description": dataset.description, "settings": dataset.settings,
            "model": dataset.model, "dimensions": dataset.dimensions,
        }  # fmt: skip
        archive.writestr("dataset.json", msgspec.json.encode(head))
        with archive.open("documents.jsonl", "w", force_zip64=True) as lines:
            for document in reversed(documents):
                segments, _ = await stored.segments.listed(dataset.tenant, document.id, most=10_000_000)
                children = [
                    child for one in segments for child in (await stored.segments.children(dataset.tenant, one.id))[0]
                ]
                entries = await stored.entries.of(document.id, dataset.space)
                line = {
                    "document": document, "text": await stored.texts.get(document.id), "segments": segments,
                    "children": children,
                    "entries": [
                        {"segment": row["segment"], "child": row["child"], "digest": row["digest"],
                         "length": row["length"], "vector": base64.b64encode(row["vector"]).decode(),
                         "terms": base64.b64encode(row["terms"]).decode()}
                        for row in entries
                    ],
                }  # fmt: skip
                lines.write(msgspec.json.encode(line) + b"\n")
                told["documents"] += 1
                told["segments"] += len(segments)
                told["vectors"] += sum(bool(row["vector"]) for row in entries)
    try:
        await asyncio.to_thread(path.write_bytes, target.getvalue())
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return told


async def import_dataset(datasets: Datasets, tenant: str, path: Path, *, name: str = "") -> Dataset:
    """A new dataset with all that the file holds. Raises ConfigError, ConflictError."""
    try:
        archive = zipfile.ZipFile(path)
        head: dict[str, Any] = msgspec.json.decode(archive.read("dataset.json"))
        if head.get("format") != _FORMAT:
            raise ConfigError(f"{str(path)!r} is of format {head.get('format')!r}; this reads {_FORMAT}")
        settings = msgspec.convert(head["settings"], DatasetSettings)
    except (OSError, zipfile.BadZipFile, KeyError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{str(path)!r} is no exported dataset: {error}") from error
    dataset = await datasets.create(
        tenant, name or head["name"], description=head.get("description", ""), settings=settings
    )
    with archive, archive.open("documents.jsonl") as lines:
        while line := lines.readline(_MOST_LINE):
            await _restored(datasets, dataset, msgspec.json.decode(line), head)
    return await datasets.stored.datasets.get(tenant, dataset.id)


async def _restored(datasets: Datasets, dataset: Dataset, line: dict[str, Any], head: dict[str, Any]) -> None:
    """One document, under ids of its own: the same file may be read twice."""
    names: dict[str, str] = {"": ""}
    home = {"tenant": dataset.tenant, "dataset": dataset.id}
    one = msgspec.structs.replace(
        msgspec.convert(line["document"], Document),
        **home,
        id=new_uuid(),
        batch="import",
        status=Status.WAITING,
        api_key=current_api_key(dataset.tenant),
    )
    if one.source.get("kind") == "file":  # the file stays where it was; its text came along
        one = msgspec.structs.replace(one, source={"kind": "text", "size": 0})
    indexed = Indexed(metadata=one.metadata, digest=one.digest, dimensions=int(head["dimensions"]), model=head["model"])
    for given in msgspec.convert(line["segments"], list[Segment]):
        names[given.id] = new_uuid()
        indexed.segments.append(msgspec.structs.replace(given, **home, document=one.id, id=names[given.id]))
    for given in msgspec.convert(line["children"], list[Child]):
        names[given.id] = new_uuid()
        segment = names[given.segment]
        indexed.children.append(
            msgspec.structs.replace(given, **home, document=one.id, segment=segment, id=names[given.id])
        )
    indexed.entries = [
        Entry(
            names[each["segment"]], names[each["child"]], each["digest"], base64.b64decode(each["vector"]),
            base64.b64decode(each["terms"]), each["length"],
        )
        for each in line["entries"]
    ]  # fmt: skip
    if not any(each.vector for each in indexed.entries):
        indexed.dimensions = 0
    parts = msgspec.convert(line["text"] or [], list[DocumentPart])
    (placed,) = await datasets.stored.library.add([one], is_ours=True)
    if parts:
        await datasets.stored.texts.keep(placed.id, parts)
    await datasets.stored.publisher.publish([Ready(placed, 0, indexed)])
