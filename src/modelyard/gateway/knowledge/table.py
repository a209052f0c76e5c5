"""The knowledge API: what is served of it, and by whom.

Paths are those that clients know; older ones write underscores where newer ones write dashes.
"""

from collections.abc import Awaitable, Callable, Iterator

from modelyard.gateway.knowledge import schemas
from modelyard.gateway.knowledge.calls import Asked, DatasetParts
from modelyard.gateway.knowledge.datasets import DatasetCalls
from modelyard.gateway.knowledge.documents import DocumentCalls
from modelyard.gateway.knowledge.entrance import Callers, Entrance
from modelyard.gateway.knowledge.external import ExternalCalls
from modelyard.gateway.knowledge.metadata import MetadataCalls
from modelyard.gateway.knowledge.pipelines import PipelineCalls
from modelyard.gateway.knowledge.retrieval import RetrievalCalls
from modelyard.gateway.knowledge.segments import SegmentCalls
from modelyard.gateway.knowledge.tags import TagCalls
from modelyard.gateway.service.calls import PROBLEM
from modelyard.gateway.table import (
    DATASET_KEY,
    EVENTS,
    Answered,
    Api,
    Body,
    Content,
    OneOf,
    Query,
    Row,
    Schema,
    whole_or_events,
)
from modelyard.models.types import JSON

Handler = Callable[[Asked], Awaitable[Answered]]
_DATASETS = "/v1/datasets"
_DATASET = f"{_DATASETS}/{{dataset}}"
_DOCUMENT = f"{_DATASET}/documents/{{document}}"
_SEGMENT = f"{_DOCUMENT}/segments/{{segment}}"
_CHILD = f"{_SEGMENT}/child_chunks/{{child}}"
_FORM = Content("multipart/form-data")
_PAGE = (Query("page", "Which page, from 1.", "integer"), Query("limit", "How many a page has, 1 to 100.", "integer"))
_KEYWORD = Query("keyword", "Words that the name or the text has.")


def api(parts: DatasetParts) -> Api:
    """Callers show a key of the tenant's datasets, or any key of the tenant's that may call models."""
    entrance = Entrance(parts, Callers(parts))
    rows = (
        *_datasets(DatasetCalls(parts)), *_documents(DocumentCalls(parts)), *_segments(SegmentCalls()),
        *_retrieval(RetrievalCalls(parts)), *_metadata(MetadataCalls()), *_tags(TagCalls()),
        *_pipelines(PipelineCalls()),
    )  # fmt: skip
    return Api(
        name="knowledge", title="Knowledge API", about="Datasets, documents, segments, metadata, tags, retrieval.",
        prefixes=(_DATASETS, "/v1/workspaces"), errors=PROBLEM, rows=rows, enter=entrance.enter,
    )  # fmt: skip


def external_api(parts: DatasetParts) -> Api:
    """What other servers ask of a dataset that is their external knowledge."""
    calls = ExternalCalls(parts, Callers(parts))
    row = Row(
        method="POST", path="/retrieval", auth=DATASET_KEY, handler=calls.retrieve, errors=(403, 404),
        takes=Schema(schemas.EXTERNAL_REQUEST), answer=Schema(schemas.EXTERNAL), summary="Search in a dataset.",
    )  # fmt: skip
    return Api(
        name="external_knowledge", title="External knowledge", about="A dataset as another server's knowledge.",
        prefixes=("/retrieval",), errors=PROBLEM, rows=(row,),
    )  # fmt: skip


def _row(
    method: str, path: str, handler: Handler, summary: str, answer: Body | JSON | None, *,
    takes: Body | JSON | None = None, status: int = 200, errors: tuple[int, ...] = (), query: tuple[Query, ...] = (),
) -> Row:  # fmt: skip
    """A row of this API; plain dictionaries are schemas. 204 where there is no answer."""
    return Row(
        method=method, path=path, auth=DATASET_KEY, handler=handler, summary=summary,
        takes=Schema(takes) if isinstance(takes, dict) else takes,
        answer=Schema(answer) if isinstance(answer, dict) else answer,
        status=204 if answer is None else status, errors=errors, query=query,
    )  # fmt: skip


def _datasets(calls: DatasetCalls) -> Iterator[Row]:
    listing = (*_PAGE, _KEYWORD, Query("tag_ids", "Those that have all of these tags."))
    yield _row("POST", _DATASETS, calls.create, "Make a dataset.", schemas.DATASET, takes=schemas.DATASET_REQUEST,
               errors=(409,))  # fmt: skip
    yield _row("GET", _DATASETS, calls.listed, "List datasets.", schemas.page_of(schemas.DATASET), query=listing)
    yield _row("GET", _DATASET, calls.one, "Get a dataset.", schemas.DATASET)
    yield _row("PATCH", _DATASET, calls.change, "Change a dataset.", schemas.DATASET, takes=schemas.DATASET_REQUEST,
               errors=(409,))  # fmt: skip
    yield _row("DELETE", _DATASET, calls.delete, "Delete a dataset and all that is in it.", None)
    models = "/v1/workspaces/current/models/model-types/{type}"
    yield _row("GET", models, calls.models, "List the models of a type.", schemas.MODELS)


def _documents(calls: DocumentCalls) -> Iterator[Row]:
    handed_in = schemas.DOCUMENT_HANDED_IN
    for dash in ("-", "_"):
        create, update = f"{_DATASET}/document/create{dash}by{dash}", f"{_DOCUMENT}/update{dash}by{dash}"
        yield _row("POST", f"{create}text", calls.create_by_text, "Add a text.", handed_in, takes=schemas.TEXT_REQUEST)
        yield _row("POST", f"{create}file", calls.create_by_file, "Add a file.", handed_in, takes=_FORM, errors=(413,))
        yield _row("POST", f"{update}text", calls.update_by_text, "Give a document another text.", handed_in,
                   takes=schemas.TEXT_REQUEST)  # fmt: skip
        yield _row("POST", f"{update}file", calls.update_by_file, "Give a document another file.", handed_in,
                   takes=_FORM, errors=(413,))  # fmt: skip
    yield _row("PATCH", _DOCUMENT, calls.update_by_file, "Give a document another file.", handed_in, takes=_FORM)
    listing = (*_PAGE, _KEYWORD, Query("status", "How far they are."))
    yield _row("GET", f"{_DATASET}/documents", calls.documents, "List documents.", schemas.page_of(schemas.DOCUMENT),
               query=listing)  # fmt: skip
    yield _row("GET", _DOCUMENT, calls.document, "Get a document.", schemas.DOCUMENT_OR_METADATA,
               query=(Query("metadata", "all, only or without."),))  # fmt: skip
    yield _row("DELETE", _DOCUMENT, calls.delete_document, "Delete a document.", None, errors=(403,))
    yield _row("GET", f"{_DOCUMENT}/download", calls.download, "Get where a document's file is.", schemas.ADDRESS)
    yield _row("GET", f"{_DOCUMENT}/upload-file", calls.uploaded, "Get what is known of a document's file.",
               schemas.UPLOADED)  # fmt: skip
    yield _row("POST", f"{_DATASET}/documents/download-zip", calls.zipped, "Get documents' files in one archive.",
               Content("application/zip"), takes=schemas.IDS_REQUEST)  # fmt: skip
    yield _row("PATCH", f"{_DATASET}/documents/status/{{action}}", calls.set_status,
               "Switch documents on or off, or archive them.", schemas.DONE, takes=schemas.IDS_REQUEST)  # fmt: skip
    yield _row("GET", f"{_DATASET}/documents/{{batch}}/indexing-status", calls.indexing, "Say how far a batch is.",
               schemas.INDEXING)  # fmt: skip
    yield _row("POST", f"{_DOCUMENT}/{{command}}-indexing", calls.command, "Pause, resume, retry or cancel indexing.",
               schemas.DONE)  # fmt: skip


def _segments(calls: SegmentCalls) -> Iterator[Row]:
    listing = (*_PAGE, _KEYWORD)
    yield _row("GET", f"{_DOCUMENT}/segments", calls.segments, "List a document's segments.",
               schemas.page_of(schemas.SEGMENT), query=listing)  # fmt: skip
    yield _row("POST", f"{_DOCUMENT}/segments", calls.add_segments, "Add segments.", schemas.SEGMENTS,
               takes=schemas.SEGMENTS_REQUEST)  # fmt: skip
    yield _row("GET", _SEGMENT, calls.segment, "Get a segment.", schemas.SEGMENT_ANSWER)
    yield _row("POST", _SEGMENT, calls.change_segment, "Change a segment.", schemas.SEGMENT_ANSWER,
               takes=schemas.SEGMENT_REQUEST)  # fmt: skip
    yield _row("DELETE", _SEGMENT, calls.delete_segment, "Delete a segment.", None)
    yield _row("GET", f"{_SEGMENT}/child_chunks", calls.children, "List a segment's children.", schemas.CHILDREN,
               query=listing)  # fmt: skip
    yield _row("POST", f"{_SEGMENT}/child_chunks", calls.add_child, "Add a child to a segment.", schemas.CHILD_ANSWER,
               takes=schemas.CHILD_REQUEST)  # fmt: skip
    yield _row("PATCH", _CHILD, calls.change_child, "Change a child of a segment.", schemas.CHILD_ANSWER,
               takes=schemas.CHILD_REQUEST)  # fmt: skip
    yield _row("DELETE", _CHILD, calls.delete_child, "Delete a child of a segment.", None)


def _retrieval(calls: RetrievalCalls) -> Iterator[Row]:
    for name in ("retrieve", "hit-testing"):
        yield _row("POST", f"{_DATASET}/{name}", calls.retrieve, "Search in a dataset.", schemas.FOUND,
                   takes=schemas.QUERY_REQUEST)  # fmt: skip
    yield _row("POST", f"{_DATASET}/ask", calls.ask, "Answer a question from a dataset, with citations.",
               whole_or_events(schemas.ANSWERED), takes=schemas.ASK_REQUEST)  # fmt: skip
    yield _row("GET", f"{_DATASET}/queries", calls.queries, "List what was asked of a dataset.", schemas.QUERIES,
               query=_PAGE[1:])  # fmt: skip


def _metadata(calls: MetadataCalls) -> Iterator[Row]:
    fields, field = f"{_DATASET}/metadata", f"{_DATASET}/metadata/{{field}}"
    yield _row("GET", fields, calls.fields, "List a dataset's fields.", schemas.FIELDS)
    yield _row("POST", fields, calls.add_field, "Add a field.", schemas.FIELD, takes=schemas.FIELD_REQUEST, status=201)
    yield _row("PATCH", field, calls.rename_field, "Rename a field.", schemas.FIELD, takes=schemas.FIELD_REQUEST)
    yield _row("DELETE", field, calls.delete_field, "Delete a field, and its values.", None)
    yield _row("GET", f"{fields}/built-in", calls.built_in, "List the fields that every document has.",
               schemas.BUILT_IN_FIELDS)  # fmt: skip
    for method in ("POST", "DELETE"):
        yield _row(method, f"{fields}/built-in/{{action}}", calls.set_built_in, "Switch the built-in fields on or off.",
                   schemas.DONE)  # fmt: skip
    yield _row("POST", f"{_DATASET}/documents/metadata", calls.set_metadata, "Set values of documents' fields.",
               schemas.DONE, takes=schemas.METADATA_REQUEST)  # fmt: skip


def _tags(calls: TagCalls) -> Iterator[Row]:
    tags = f"{_DATASETS}/tags"
    yield _row("POST", tags, calls.add_tag, "Make a tag.", schemas.TAG, takes=schemas.TAG_REQUEST)
    yield _row("GET", tags, calls.tags, "List tags.", schemas.TAGS)
    yield _row("PATCH", tags, calls.rename_tag, "Rename a tag.", schemas.TAG, takes=schemas.TAG_REQUEST)
    yield _row("DELETE", tags, calls.delete_tag, "Delete a tag.", None, takes=schemas.thing({"tag_id": schemas.TEXT}))
    yield _row("POST", f"{tags}/binding", calls.bind, "Give a dataset tags.", None, takes=schemas.BINDING_REQUEST)
    yield _row("POST", f"{tags}/unbinding", calls.unbind, "Take tags off a dataset.", None,
               takes=schemas.BINDING_REQUEST)  # fmt: skip
    for method in ("GET", "POST"):
        yield _row(method, f"{_DATASET}/tags", calls.tags_of, "List a dataset's tags.", schemas.TAGS_OF)


def _pipelines(calls: PipelineCalls) -> Iterator[Row]:
    pipeline = f"{_DATASET}/pipeline"
    yield _row("POST", f"{_DATASETS}/pipeline/file-upload", calls.upload, "Hand in a file for a pipeline.",
               schemas.PIPELINE_FILE, takes=_FORM, status=201, errors=(413, 415))  # fmt: skip
    yield _row("GET", f"{pipeline}/datasource-plugins", calls.sources, "List where a pipeline's documents come from.",
               schemas.list_of(schemas.OBJECT),
               query=(Query("is_published", "false for the draft.", "boolean"),))  # fmt: skip
    yield _row("POST", f"{pipeline}/datasource/nodes/{{node}}/run", calls.browse, "Look into a source of documents.",
               EVENTS, takes=schemas.RUN_REQUEST)  # fmt: skip
    yield _row("POST", f"{pipeline}/run", calls.run, "Run a pipeline.",
               OneOf((Schema(schemas.PIPELINE_RUN), EVENTS)), takes=schemas.RUN_REQUEST)  # fmt: skip
