"""Route table of apps: files, versions, keys, runs, conversations; and of dataset
evaluations."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs
from modelyard.gateway.admin.app_runs import AppRuns, AppTriggers
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.conversations import AppAnnotations, AppConversations
from modelyard.gateway.admin.dependencies import AdminParts
from modelyard.gateway.admin.evaluations import DatasetEvaluations
from modelyard.gateway.admin.node_tests import NodeTests
from modelyard.gateway.admin.rows import LIMIT, OFFSET, global_row, row
from modelyard.gateway.admin.runs import RunCalls
from modelyard.gateway.admin.shapes import ActionResult, Removed
from modelyard.gateway.admin.splitting import SplitPreview
from modelyard.gateway.schemas import FLAG, INTEGER
from modelyard.gateway.table import (
    ADMIN,
    DEVELOPER,
    EVENTS,
    Content,
    Listed,
    Query,
    Row,
)

_APPS, _APP, _RUN, _EVALUATIONS = (
    "/apps",
    "/apps/{id}",
    "/runs/{id}",
    "/evaluations/{id}",
)
_HAS_MORE = {"has_more": FLAG}
_VERSION = Query("version", "Digest of a version; the draft if omitted.")
_DRAFT = Query("draft", "true for the draft.", "boolean")
_ROOT = Query("root", "Start node of the run; the first one if omitted.")
_STATUS = Query("status", "Only runs with this status.")


def rows(parts: AdminParts) -> Iterator[Row]:
    """Yield the routes of apps and of what belongs to them. The order is that of the
    documentation."""
    apps, service, manage = parts.apps.apps, parts.service, parts.manage
    yield from _app_rows(parts.apps)
    yield from _version_rows(parts.apps)
    yield from _app_run_rows(AppRuns(apps, service.chats, service.runs, service.files))
    yield row("GET", f"{_APP}/triggers", ADMIN,
              AppTriggers(apps, manage.clock, service.content_origin).list_triggers,
              "List an app's triggers.",
              Listed(app_shapes.TriggerView))  # fmt: skip
    yield row("POST", f"{_APP}/test-node", ADMIN,
              NodeTests(apps, manage.services, manage.clock).run, "Run a single node of a file.",
              app_shapes.NodeTest, request_body=inputs.NodeTestInput,
              changes_nothing=True)  # fmt: skip
    yield from _conversation_rows(AppConversations(apps, service.conversations))
    yield from _annotation_rows(AppAnnotations(apps, manage.annotations))
    yield from _run_rows(RunCalls(service.runs))
    yield from _evaluation_rows(DatasetEvaluations(parts.datasets))
    segments = Listed(app_shapes.SplitSegment, {"total": INTEGER})
    yield global_row("POST", "/split", DEVELOPER, SplitPreview(parts.datasets).show,
                      "Preview how a splitting rule divides a text; nothing is stored.", segments,
                      request_body=inputs.SplitInput, changes_nothing=True)  # fmt: skip


def _app_rows(apps: ImportedApps) -> Iterator[Row]:
    """Yield the routes that import, list, change and delete apps, and manage their
    keys."""
    app_view = app_shapes.AppView
    yield row(
        "GET", _APPS, ADMIN, apps.list_apps, "List apps.", Listed(app_view, _HAS_MORE)
    )
    yield row("POST", _APPS, ADMIN, apps.import_app, "Import an app.", app_shapes.ImportedAppView,
              request_body=inputs.AppInput, status=201)  # fmt: skip
    yield row("POST", f"{_APPS}/check", ADMIN, apps.check,
              "Validate a file and list what it requires.", app_shapes.FileCheck,
              request_body=inputs.AppFileInput, changes_nothing=True)  # fmt: skip
    yield row(
        "GET", _APP, ADMIN, apps.get_app, "Get an app with its versions.", app_view
    )
    yield row("PATCH", _APP, ADMIN, apps.change, "Enable or disable an app or its page.", app_view,
              request_body=inputs.AppChangeInput)  # fmt: skip
    yield row("DELETE", _APP, ADMIN, apps.remove, "Remove an app.", Removed)
    yield row("GET", f"{_APP}/keys", ADMIN, apps.keys, "List the API keys of an app.",
              Listed(app_shapes.AppKeyView, _HAS_MORE))  # fmt: skip
    yield row("POST", f"{_APP}/keys", ADMIN, apps.make_key,
              "Create an API key of an app.", app_shapes.CreatedAppKey,
              status=201)  # fmt: skip
    yield row(
        "DELETE",
        f"{_APP}/keys/{{key}}",
        ADMIN,
        apps.revoke_key,
        "Revoke an API key of an app.",
        Removed,
    )


def _version_rows(apps: ImportedApps) -> Iterator[Row]:
    """Yield the routes for drafts and published versions."""
    app_view = app_shapes.AppView
    yield row("GET", f"{_APP}/file", ADMIN, apps.file, "Get an app's file.",
              Content("application/yaml"), query=(_VERSION,))  # fmt: skip
    yield row("PUT", f"{_APP}/file", ADMIN, apps.save,
              "Save the draft, unless it was changed in the meantime.", app_shapes.ImportedAppView,
              request_body=inputs.DraftInput, errors=(409,))  # fmt: skip
    yield row("POST", f"{_APP}/publish", ADMIN, apps.publish, "Publish the draft.", app_view,
              request_body=inputs.PublicationInput, needs_body=False)  # fmt: skip
    yield row("POST", f"{_APP}/restore", ADMIN, apps.restore, "Restore a version as the draft.",
              app_view, request_body=inputs.VersionInput)  # fmt: skip


def _app_run_rows(runs: AppRuns) -> Iterator[Row]:
    """Yield the routes that start and list the runs of an app."""
    yield row("GET", f"{_APP}/form", ADMIN, runs.form, "Get the input form of an app.",
              Listed(app_shapes.InputForm, {"is_chat": FLAG}), query=(_DRAFT, _ROOT))  # fmt: skip
    yield row("GET", f"{_APP}/runs", ADMIN, runs.list_runs, "List an app's runs, newest first.",
              app_shapes.RunPage, query=(_STATUS, LIMIT, OFFSET))  # fmt: skip
    yield row("POST", f"{_APP}/runs", ADMIN, runs.start_run,
              "Run an app and stream its events.", EVENTS,
              request_body=inputs.RunInput)  # fmt: skip
    yield row("POST", f"{_APP}/files", ADMIN, runs.upload,
              "Upload a file for runs, as the form field 'file'.", app_shapes.UploadedFile,
              request_body=Content("multipart/form-data"), status=201, errors=(413,))  # fmt: skip


def _conversation_rows(conversations: AppConversations) -> Iterator[Row]:
    """Yield the routes for conversations and rated messages."""
    message = Listed(app_shapes.MessageView)
    yield row("GET", f"{_APP}/conversations", ADMIN, conversations.list_conversations,
              "List the conversations of an app.", Listed(app_shapes.ConversationView))  # fmt: skip
    yield row("GET", f"{_APP}/conversations/{{conversation}}", ADMIN, conversations.messages,
              "List a conversation's messages.", message)  # fmt: skip
    yield row(
        "GET",
        f"{_APP}/feedback",
        ADMIN,
        conversations.feedback,
        "List rated messages.",
        message,
    )


def _annotation_rows(annotations: AppAnnotations) -> Iterator[Row]:
    """Yield the routes for annotations."""
    path, annotation_view = f"{_APP}/annotations", app_shapes.AnnotationView
    yield row("GET", path, ADMIN, annotations.listed,
              "List annotations.", Listed(annotation_view),
              query=(LIMIT,))  # fmt: skip
    yield row("POST", path, ADMIN, annotations.add, "Add an annotation.",
              annotation_view, request_body=inputs.AnnotationInput, status=201)  # fmt: skip
    yield row("DELETE", f"{path}/{{annotation}}", ADMIN, annotations.remove,
              "Remove an annotation.", Removed)  # fmt: skip


def _run_rows(runs: RunCalls) -> Iterator[Row]:
    """Yield the routes of single runs."""
    yield row("GET", _RUN, ADMIN, runs.get_run, "Get a run.", app_shapes.RunView)
    yield row(
        "GET",
        f"{_RUN}/events",
        ADMIN,
        runs.events,
        "Stream a run's events, past ones first.",
        EVENTS,
        query=(Query("after", "Number of the last received event.", "integer"),),
    )
    yield row("POST", f"{_RUN}/stop", ADMIN, runs.stop, "Stop a run.", ActionResult)
    yield row("POST", f"{_RUN}/pause", ADMIN, runs.pause, "Pause a run.", ActionResult)
    yield row(
        "POST",
        f"{_RUN}/resume",
        ADMIN,
        runs.resume,
        "Resume a paused run.",
        ActionResult,
    )


def _evaluation_rows(evaluations: DatasetEvaluations) -> Iterator[Row]:
    """Yield the routes of dataset evaluations."""
    path, evaluation_view = f"{_EVALUATIONS}/{{evaluation}}", app_shapes.EvaluationView
    yield row("GET", _EVALUATIONS, DEVELOPER, evaluations.listed,
              "List a dataset's evaluations, newest first.", Listed(evaluation_view))  # fmt: skip
    yield row("POST", _EVALUATIONS, DEVELOPER, evaluations.run,
              "Evaluate retrieval with labelled questions; streams the progress.",
              EVENTS, request_body=inputs.EvaluationInput)  # fmt: skip
    yield row("POST", f"{_EVALUATIONS}/questions", DEVELOPER, evaluations.write_questions,
              "Generate questions with a model, one per document.", Listed(app_shapes.QuestionView),
              request_body=inputs.WritingInput, changes_nothing=True)  # fmt: skip
    yield row(
        "GET",
        path,
        DEVELOPER,
        evaluations.get_evaluation,
        "Get an evaluation with the result of each question.",
        evaluation_view,
    )
    yield row(
        "DELETE", path, DEVELOPER, evaluations.remove, "Remove an evaluation.", Removed
    )
