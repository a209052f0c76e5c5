"""Route table of the knowledge API.

Older clients write underscores in paths where newer ones write dashes; both are served.
"""

from collections.abc import Awaitable, Callable, Iterator

from modelyard.gateway.knowledge import schemas
from modelyard.gateway.knowledge.access import AccessCalls
from modelyard.gateway.knowledge.authentication import (
    DatasetAuthenticator,
    DatasetGateway,
)
from modelyard.gateway.knowledge.calls import DatasetParts, DatasetRequest
from modelyard.gateway.knowledge.datasets import DatasetCalls
from modelyard.gateway.knowledge.documents import DocumentCalls
from modelyard.gateway.knowledge.external import ExternalCalls
from modelyard.gateway.knowledge.metadata import MetadataCalls
from modelyard.gateway.knowledge.pipelines import PipelineCalls
from modelyard.gateway.knowledge.retrieval import RetrievalCalls
from modelyard.gateway.knowledge.segments import SegmentCalls
from modelyard.gateway.knowledge.tags import TagCalls
from modelyard.gateway.service.calls import ERROR_SHAPE
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
    json_or_events,
)
from modelyard.models.types import JSON

Handler = Callable[[DatasetRequest], Awaitable[Answered]]
_DATASETS = "/v1/datasets"
_DATASET = f"{_DATASETS}/{{dataset}}"
_DOCUMENT = f"{_DATASET}/documents/{{document}}"
_SEGMENT = f"{_DOCUMENT}/segments/{{segment}}"
_CHILD = f"{_SEGMENT}/child_chunks/{{child}}"
_FORM = Content("multipart/form-data")
_PAGE = (
    Query("page", "Page number, from 1.", "integer"),
    Query("limit", "Page size, 1 to 100.", "integer"),
)
_KEYWORD = Query("keyword", "Text that the name or the content must contain.")


def api(parts: DatasetParts) -> Api:
    """Return the knowledge API. Callers present a dataset key of the tenant, or any key
    that may call models."""
    entrance = DatasetGateway(parts, DatasetAuthenticator(parts))
    rows = (
        *_dataset_rows(DatasetCalls(parts)),
        *_document_rows(DocumentCalls(parts)),
        *_access_rows(AccessCalls()),
        *_segment_rows(SegmentCalls()),
        *_retrieval_rows(RetrievalCalls(parts)),
        *_metadata_rows(MetadataCalls()),
        *_tag_rows(TagCalls()),
        *_pipeline_rows(PipelineCalls()),
    )  # fmt: skip
    return Api(name="knowledge", title="Knowledge API",
               about="Datasets, documents, segments, metadata, tags, retrieval.",
               prefixes=(_DATASETS, "/v1/workspaces"), errors=ERROR_SHAPE, rows=rows,
               enter=entrance.enter)  # fmt: skip


def external_api(parts: DatasetParts) -> Api:
    """Return the external knowledge API, by which other products search a dataset of
    this server."""
    calls = ExternalCalls(parts, DatasetAuthenticator(parts))
    # Clients append this fixed path to the endpoint that they are given.
    row = Row(method="POST", path="/retrieval", auth=DATASET_KEY, handler=calls.retrieve,
              errors=(403, 404), takes=Schema(schemas.EXTERNAL_REQUEST),
              answer=Schema(schemas.EXTERNAL), summary="Search a dataset.")  # fmt: skip
    return Api(
        name="external_knowledge",
        title="External knowledge",
        about="A dataset as an external knowledge source of another server.",
        prefixes=("/retrieval",),
        errors=ERROR_SHAPE,
        rows=(row,),
    )


def _row(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    answer: Body | JSON | None,
    *,
    request_body: Body | JSON | None = None,
    status: int = 200,
    errors: tuple[int, ...] = (),
    query: tuple[Query, ...] = (),
) -> Row:
    """Return a row of this API. Plain dictionaries are JSON schemas; without a response
    the status is 204."""
    return Row(
        method=method, path=path, auth=DATASET_KEY, handler=handler, summary=summary,
        takes=Schema(request_body) if isinstance(request_body, dict) else request_body,
        answer=Schema(answer) if isinstance(answer, dict) else answer,
        status=204 if answer is None else status, errors=errors, query=query,
    )  # fmt: skip


def _dataset_rows(calls: DatasetCalls) -> Iterator[Row]:
    """Yield the rows of datasets."""
    listing = (
        *_PAGE,
        _KEYWORD,
        Query("tag_ids", "Only datasets with all of these tags."),
    )
    yield _row("POST", _DATASETS, calls.create, "Create a dataset.", schemas.DATASET,
               request_body=schemas.DATASET_REQUEST, errors=(409,))  # fmt: skip
    yield _row(
        "GET",
        _DATASETS,
        calls.list_datasets,
        "List datasets.",
        schemas.page_schema(schemas.DATASET),
        query=listing,
    )
    yield _row("GET", _DATASET, calls.get_dataset, "Get a dataset.", schemas.DATASET)
    yield _row("PATCH", _DATASET, calls.change, "Change a dataset.", schemas.DATASET,
               request_body=schemas.DATASET_REQUEST, errors=(409,))  # fmt: skip
    yield _row(
        "DELETE",
        _DATASET,
        calls.delete,
        "Delete a dataset and its documents.",
        None,
    )
    models = "/v1/workspaces/current/models/model-types/{type}"
    yield _row(
        "GET", models, calls.models, "List the models of a type.", schemas.MODELS
    )


def _document_rows(calls: DocumentCalls) -> Iterator[Row]:
    """Yield the rows of documents."""
    yield from _document_upload_rows(calls)
    yield from _document_reading_rows(calls)
    yield from _document_file_rows(calls)
    yield from _document_status_rows(calls)


def _document_upload_rows(calls: DocumentCalls) -> Iterator[Row]:
    """Yield the rows that create documents or replace their content."""
    answer = schemas.DOCUMENT_HANDED_IN
    # Both spellings of these paths are in use.
    for dash in ("-", "_"):
        create = f"{_DATASET}/document/create{dash}by{dash}"
        update = f"{_DOCUMENT}/update{dash}by{dash}"
        yield _row(
            "POST",
            f"{create}text",
            calls.create_by_text,
            "Create a document from a text.",
            answer,
            request_body=schemas.TEXT_REQUEST,
        )
        yield _row(
            "POST",
            f"{create}file",
            calls.create_by_file,
            "Create a document from a file.",
            answer,
            request_body=_FORM,
            errors=(413,),
        )
        yield _row(
            "POST",
            f"{update}text",
            calls.update_by_text,
            "Replace the text of a document.",
            answer,
            request_body=schemas.TEXT_REQUEST,
        )
        yield _row(
            "POST",
            f"{update}file",
            calls.update_by_file,
            "Replace the file of a document.",
            answer,
            request_body=_FORM,
            errors=(413,),
        )
    yield _row(
        "PATCH",
        _DOCUMENT,
        calls.update_by_file,
        "Replace the file of a document.",
        answer,
        request_body=_FORM,
    )


def _document_reading_rows(calls: DocumentCalls) -> Iterator[Row]:
    """Yield the rows that list, read and delete documents."""
    listing = (
        *_PAGE,
        _KEYWORD,
        Query("status", "Only documents with this indexing status."),
    )
    yield _row("GET", f"{_DATASET}/documents", calls.documents, "List documents.",
               schemas.page_schema(schemas.DOCUMENT), query=listing)  # fmt: skip
    yield _row(
        "GET",
        _DOCUMENT,
        calls.document,
        "Get a document.",
        schemas.DOCUMENT_OR_METADATA,
        query=(
            Query(
                "metadata",
                "Which fields to return: all, only (metadata alone) or without (metadata).",
            ),
        ),
    )
    yield _row(
        "DELETE",
        _DOCUMENT,
        calls.delete_document,
        "Delete a document.",
        None,
        errors=(403,),
    )


def _document_file_rows(calls: DocumentCalls) -> Iterator[Row]:
    """Yield the rows that download the files of documents."""
    yield _row(
        "GET",
        f"{_DOCUMENT}/download",
        calls.download,
        "Get the download URL of a document's file.",
        schemas.ADDRESS,
    )
    # Kept for clients of an older version of the API.
    yield _row("GET", f"{_DOCUMENT}/upload-file", calls.uploaded_file,
               "Get the details of a document's file.", schemas.UPLOADED)  # fmt: skip
    yield _row(
        "POST",
        f"{_DATASET}/documents/download-zip",
        calls.download_zip,
        "Download the files of several documents as a ZIP archive.",
        Content("application/zip"),
        request_body=schemas.IDS_REQUEST,
    )


def _document_status_rows(calls: DocumentCalls) -> Iterator[Row]:
    """Yield the rows of the status and the indexing of documents."""
    yield _row("PATCH", f"{_DATASET}/documents/status/{{action}}", calls.set_status,
               "Enable, disable or archive documents.", schemas.DONE,
               request_body=schemas.IDS_REQUEST)  # fmt: skip
    yield _row("GET", f"{_DATASET}/documents/{{batch}}/indexing-status", calls.indexing_status,
               "Get the indexing progress of a batch.", schemas.INDEXING)  # fmt: skip
    yield _row("POST", f"{_DOCUMENT}/{{command}}-indexing", calls.command,
               "Pause, resume, retry or cancel indexing.", schemas.DONE)  # fmt: skip


def _access_rows(calls: AccessCalls) -> Iterator[Row]:
    """Yield the rows of access lists."""
    access = f"{_DOCUMENT}/access"
    yield _row("GET", access, calls.get, "Get the access list of a document.",
               schemas.ACCESS_ANSWER, errors=(403,))  # fmt: skip
    yield _row("PUT", access, calls.set, "Set the access list of a document.",
               schemas.ACCESS_ANSWER, request_body=schemas.ACCESS, errors=(403,))  # fmt: skip
    yield _row("DELETE", access, calls.remove, "Remove the access list of a document.",
               None, errors=(403,))  # fmt: skip
    yield _row("POST", f"{_DATASET}/documents/access", calls.set_many,
               "Set the access lists of several documents.", schemas.DONE,
               request_body=schemas.ACCESS_CHANGES, errors=(403,))  # fmt: skip


def _segment_rows(calls: SegmentCalls) -> Iterator[Row]:
    """Yield the rows of segments and child chunks."""
    listing = (*_PAGE, _KEYWORD)
    yield _row("GET", f"{_DOCUMENT}/segments", calls.segments, "List a document's segments.",
               schemas.page_schema(schemas.SEGMENT), query=listing)  # fmt: skip
    yield _row("POST", f"{_DOCUMENT}/segments", calls.add_segments, "Add segments.",
               schemas.SEGMENTS, request_body=schemas.SEGMENTS_REQUEST)  # fmt: skip
    yield _row("POST", f"{_DOCUMENT}/segments/batch_import", calls.import_segments,
               "Add the rows of a CSV file as segments.", schemas.SEGMENT_IMPORT,
               request_body=_FORM)  # fmt: skip
    yield _row("GET", f"{_DOCUMENT}/segments/batch_import/{{job}}", calls.import_status,
               "Get the progress of an import of segments.", schemas.SEGMENT_IMPORT)  # fmt: skip
    yield _row("GET", _SEGMENT, calls.segment, "Get a segment.", schemas.SEGMENT_ANSWER)
    yield _row("POST", _SEGMENT, calls.change_segment, "Change a segment.", schemas.SEGMENT_ANSWER,
               request_body=schemas.SEGMENT_REQUEST)  # fmt: skip
    yield _row("DELETE", _SEGMENT, calls.delete_segment, "Delete a segment.", None)
    yield _row(
        "GET",
        f"{_SEGMENT}/child_chunks",
        calls.children,
        "List the child chunks of a segment.",
        schemas.CHILDREN,
        query=listing,
    )
    yield _row(
        "POST",
        f"{_SEGMENT}/child_chunks",
        calls.add_child,
        "Add a child chunk to a segment.",
        schemas.CHILD_ANSWER,
        request_body=schemas.CHILD_REQUEST,
    )
    yield _row("PATCH", _CHILD, calls.change_child, "Change a child chunk of a segment.",
               schemas.CHILD_ANSWER, request_body=schemas.CHILD_REQUEST)  # fmt: skip
    yield _row(
        "DELETE", _CHILD, calls.delete_child, "Delete a child chunk of a segment.", None
    )


def _retrieval_rows(calls: RetrievalCalls) -> Iterator[Row]:
    """Yield the rows that search a dataset and answer from it."""
    # hit-testing is an older name of retrieve.
    for name in ("retrieve", "hit-testing"):
        yield _row("POST", f"{_DATASET}/{name}", calls.retrieve, "Search a dataset.",
                   schemas.FOUND, request_body=schemas.QUERY_REQUEST)  # fmt: skip
    yield _row("POST", f"{_DATASET}/ask", calls.ask,
               "Answer a question from a dataset, with citations.",
               json_or_events(schemas.ANSWERED), request_body=schemas.ASK_REQUEST)  # fmt: skip
    # Only the latest queries are listed, so there is a limit but no page.
    yield _row("GET", f"{_DATASET}/queries", calls.queries, "List the recent queries of a dataset.",
               schemas.QUERIES, query=_PAGE[1:])  # fmt: skip


def _metadata_rows(calls: MetadataCalls) -> Iterator[Row]:
    """Yield the rows of metadata."""
    fields, field = f"{_DATASET}/metadata", f"{_DATASET}/metadata/{{field}}"
    yield _row(
        "GET",
        fields,
        calls.fields,
        "List the metadata fields of a dataset.",
        schemas.FIELDS,
    )
    yield _row(
        "POST",
        fields,
        calls.add_field,
        "Add a metadata field.",
        schemas.FIELD,
        request_body=schemas.FIELD_REQUEST,
        status=201,
    )
    yield _row(
        "PATCH",
        field,
        calls.rename_field,
        "Rename a metadata field.",
        schemas.FIELD,
        request_body=schemas.FIELD_REQUEST,
    )
    yield _row(
        "DELETE",
        field,
        calls.delete_field,
        "Delete a metadata field and its values.",
        None,
    )
    yield _row("GET", f"{fields}/built-in", calls.built_in,
               "List the built-in metadata fields.", schemas.BUILT_IN_FIELDS)  # fmt: skip
    # Clients use either method.
    for method in ("POST", "DELETE"):
        yield _row(method, f"{fields}/built-in/{{action}}", calls.set_built_in,
                   "Enable or disable the built-in metadata fields.", schemas.DONE)  # fmt: skip
    yield _row("POST", f"{_DATASET}/documents/metadata", calls.set_metadata,
               "Set the metadata values of documents.", schemas.DONE,
               request_body=schemas.METADATA_REQUEST)  # fmt: skip


def _tag_rows(calls: TagCalls) -> Iterator[Row]:
    """Yield the rows of tags."""
    # The path has no tag id, so changing and deleting name the tag in the body.
    tags = f"{_DATASETS}/tags"
    yield _row(
        "POST",
        tags,
        calls.add_tag,
        "Create a tag.",
        schemas.TAG,
        request_body=schemas.TAG_REQUEST,
    )
    yield _row("GET", tags, calls.tags, "List tags.", schemas.TAGS)
    yield _row(
        "PATCH",
        tags,
        calls.rename_tag,
        "Rename a tag.",
        schemas.TAG,
        request_body=schemas.TAG_REQUEST,
    )
    yield _row(
        "DELETE",
        tags,
        calls.delete_tag,
        "Delete a tag.",
        None,
        request_body=schemas.object_schema({"tag_id": schemas.TEXT}),
    )
    yield _row(
        "POST",
        f"{tags}/binding",
        calls.bind,
        "Add tags to a dataset.",
        None,
        request_body=schemas.BINDING_REQUEST,
    )
    yield _row("POST", f"{tags}/unbinding", calls.unbind, "Remove tags from a dataset.", None,
               request_body=schemas.BINDING_REQUEST)  # fmt: skip
    # POST is answered like GET here and changes nothing.
    for method in ("GET", "POST"):
        yield _row(
            method,
            f"{_DATASET}/tags",
            calls.tags_of,
            "List a dataset's tags.",
            schemas.TAGS_OF,
        )


def _pipeline_rows(calls: PipelineCalls) -> Iterator[Row]:
    """Yield the rows of knowledge pipelines."""
    pipeline = f"{_DATASET}/pipeline"
    yield _row("POST", f"{_DATASETS}/pipeline/file-upload", calls.upload,
               "Upload a file for a pipeline.", schemas.PIPELINE_FILE, request_body=_FORM,
               status=201, errors=(413, 415))  # fmt: skip
    yield _row("GET", f"{pipeline}/datasource-plugins", calls.sources,
               "List the datasources of a pipeline.", schemas.list_of(schemas.OBJECT),
               query=(Query("is_published", "false to read the draft.", "boolean"),))  # fmt: skip
    yield _row("POST", f"{pipeline}/datasource/nodes/{{node}}/run", calls.browse,
               "Browse a datasource.", EVENTS,
               request_body=schemas.RUN_REQUEST)  # fmt: skip
    yield _row("POST", f"{pipeline}/run", calls.run, "Run a pipeline.",
               OneOf((Schema(schemas.PIPELINE_RUN), EVENTS)),
               request_body=schemas.RUN_REQUEST)  # fmt: skip
