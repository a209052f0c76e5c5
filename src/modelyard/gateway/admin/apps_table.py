"""The rows of apps: files, versions, keys, runs, what people said; and of what datasets are tried with."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs
from modelyard.gateway.admin.app_runs import AppRuns, AppTriggers
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.conversations import AppAnnotations, AppConversations
from modelyard.gateway.admin.evaluations import DatasetEvaluations
from modelyard.gateway.admin.node_tests import NodeTests
from modelyard.gateway.admin.parts import AdminParts
from modelyard.gateway.admin.rows import LIMIT, OFFSET, row, row_for_all
from modelyard.gateway.admin.runs import RunCalls
from modelyard.gateway.admin.shapes import Done, Removed
from modelyard.gateway.admin.splitting import SplitPreview
from modelyard.gateway.schemas import FLAG, INTEGER
from modelyard.gateway.table import ADMIN, DEVELOPER, EVENTS, Content, Listed, Query, Row

_APPS, _APP, _RUN, _EVALUATIONS = "/apps", "/apps/{id}", "/runs/{id}", "/evaluations/{id}"
_HAS_MORE = {"has_more": FLAG}
_VERSION = Query("version", "A version's digest; the draft without it.")
_DRAFT = Query("draft", "true for what is not published yet.", "boolean")
_ROOT = Query("root", "The node that begins the run; the first where nothing is said.")
_STATUS = Query("status", "Those alone of this status.")


def rows(parts: AdminParts) -> Iterator[Row]:
    """Apps first."""
    apps, service, manage = parts.apps.apps, parts.service, parts.manage
    yield from _imported(parts.apps)
    yield from _versions(parts.apps)
    yield from _app_runs(AppRuns(apps, service.chats, service.runs, service.files))
    yield row("GET", f"{_APP}/triggers", ADMIN, AppTriggers(apps, manage.clock, service.content_origin).listed,
              "List what begins an app's runs without a caller.", Listed(app_shapes.TriggerShown))  # fmt: skip
    yield row("POST", f"{_APP}/test-node", ADMIN, NodeTests(apps, manage.services, manage.clock).run,
              "Run one node of a file alone.", app_shapes.NodeTest, takes=inputs.NodeTestInput, asks=True)  # fmt: skip
    yield from _conversations(AppConversations(apps, service.conversations))
    yield from _annotations(AppAnnotations(apps, manage.annotations))
    yield from _runs(RunCalls(service.runs))
    yield from _evaluations(DatasetEvaluations(parts.datasets))
    pieces = Listed(app_shapes.SplitPiece, {"total": INTEGER})
    yield row_for_all("POST", "/split", DEVELOPER, SplitPreview(parts.datasets).show,
                      "Show what a rule makes of a text; nothing is kept.", pieces,
                      takes=inputs.SplitInput, asks=True)  # fmt: skip


def _imported(apps: ImportedApps) -> Iterator[Row]:
    shown = app_shapes.AppShown
    yield row("GET", _APPS, ADMIN, apps.listed, "List apps.", Listed(shown, _HAS_MORE))
    yield row("POST", _APPS, ADMIN, apps.add, "Import an app.", app_shapes.AppImported, takes=inputs.AppInput,
              status=201)  # fmt: skip
    yield row("POST", f"{_APPS}/check", ADMIN, apps.check, "Say what is wrong with a file, and what it needs.",
              app_shapes.FileCheck, takes=inputs.AppFileInput, asks=True)  # fmt: skip
    yield row("GET", _APP, ADMIN, apps.one, "Get an app, with its versions.", shown)
    yield row("PATCH", _APP, ADMIN, apps.change, "Switch an app or its page on or off.", shown,
              takes=inputs.AppChangeInput)  # fmt: skip
    yield row("DELETE", _APP, ADMIN, apps.remove, "Remove an app.", Removed)
    yield row("GET", f"{_APP}/keys", ADMIN, apps.keys, "List the keys of an app's callers.",
              Listed(app_shapes.AppKeyShown, _HAS_MORE))  # fmt: skip
    yield row("POST", f"{_APP}/keys", ADMIN, apps.make_key, "Make a key for an app's callers; it is told once.",
              app_shapes.AppKeyMade, status=201)  # fmt: skip
    yield row("DELETE", f"{_APP}/keys/{{key}}", ADMIN, apps.revoke_key, "Take a key away.", Removed)


def _versions(apps: ImportedApps) -> Iterator[Row]:
    shown = app_shapes.AppShown
    yield row("GET", f"{_APP}/file", ADMIN, apps.file, "Get an app's file.", Content("application/yaml"),
              query=(_VERSION,))  # fmt: skip
    yield row("PUT", f"{_APP}/file", ADMIN, apps.save, "Keep a draft, where nobody has kept another since.",
              app_shapes.AppImported, takes=inputs.DraftInput, errors=(409,))  # fmt: skip
    yield row("POST", f"{_APP}/publish", ADMIN, apps.publish, "Publish the draft.", shown,
              takes=inputs.PublicationInput, needs_body=False)  # fmt: skip
    yield row("POST", f"{_APP}/restore", ADMIN, apps.restore, "Make an old version the draft.", shown,
              takes=inputs.VersionInput)  # fmt: skip


def _app_runs(runs: AppRuns) -> Iterator[Row]:
    yield row("GET", f"{_APP}/form", ADMIN, runs.form, "Say what an app asks for.",
              Listed(app_shapes.InputForm, {"is_chat": FLAG}), query=(_DRAFT, _ROOT))  # fmt: skip
    yield row("GET", f"{_APP}/runs", ADMIN, runs.page, "List an app's runs, newest first.", app_shapes.RunPage,
              query=(_STATUS, LIMIT, OFFSET))  # fmt: skip
    yield row("POST", f"{_APP}/runs", ADMIN, runs.begin, "Run an app, and send its events as they come.", EVENTS,
              takes=inputs.RunInput)  # fmt: skip
    yield row("POST", f"{_APP}/files", ADMIN, runs.upload, "Hand in a file for runs, as a form's field 'file'.",
              app_shapes.UploadedFile, takes=Content("multipart/form-data"), status=201, errors=(413,))  # fmt: skip


def _conversations(conversations: AppConversations) -> Iterator[Row]:
    message = Listed(app_shapes.MessageShown)
    yield row("GET", f"{_APP}/conversations", ADMIN, conversations.listed, "List what people talked about.",
              Listed(app_shapes.ConversationShown))  # fmt: skip
    yield row("GET", f"{_APP}/conversations/{{conversation}}", ADMIN, conversations.messages,
              "List a conversation's messages.", message)  # fmt: skip
    yield row("GET", f"{_APP}/feedback", ADMIN, conversations.feedback, "List messages that people rated.", message)


def _annotations(annotations: AppAnnotations) -> Iterator[Row]:
    path, shown = f"{_APP}/annotations", app_shapes.AnnotationShown
    yield row("GET", path, ADMIN, annotations.listed, "List answers that are given as they stand.", Listed(shown),
              query=(LIMIT,))  # fmt: skip
    yield row("POST", path, ADMIN, annotations.add, "Add an answer that is given as it stands.", shown,
              takes=inputs.AnnotationInput, status=201)  # fmt: skip
    yield row("DELETE", f"{path}/{{annotation}}", ADMIN, annotations.remove,
              "Remove an answer that is given as it stands.", Removed)  # fmt: skip


def _runs(runs: RunCalls) -> Iterator[Row]:
    yield row("GET", _RUN, ADMIN, runs.one, "Get a run.", app_shapes.RunShown)
    yield row("GET", f"{_RUN}/events", ADMIN, runs.events, "Send a run's events, past ones first.", EVENTS,
              query=(Query("after", "From the event after this one's number on.", "integer"),))  # fmt: skip
    yield row("POST", f"{_RUN}/stop", ADMIN, runs.stop, "Stop a run.", Done)
    yield row("POST", f"{_RUN}/pause", ADMIN, runs.pause, "Pause a run.", Done)
    yield row("POST", f"{_RUN}/resume", ADMIN, runs.resume, "Go on with a run that was paused.", Done)


def _evaluations(evaluations: DatasetEvaluations) -> Iterator[Row]:
    path, shown = f"{_EVALUATIONS}/{{evaluation}}", app_shapes.EvaluationShown
    yield row("GET", _EVALUATIONS, DEVELOPER, evaluations.listed, "List a dataset's evaluations, newest first.",
              Listed(shown))  # fmt: skip
    yield row("POST", _EVALUATIONS, DEVELOPER, evaluations.run,
              "Ask questions whose documents are known, in each way; told as it goes, and kept.", EVENTS,
              takes=inputs.EvaluationInput)  # fmt: skip
    yield row("POST", f"{_EVALUATIONS}/questions", DEVELOPER, evaluations.write_questions,
              "Have a model write questions, one a document.", Listed(app_shapes.QuestionShown),
              takes=inputs.WritingInput, asks=True)  # fmt: skip
    yield row("GET", path, DEVELOPER, evaluations.one, "Get an evaluation, question by question.", shown)
    yield row("DELETE", path, DEVELOPER, evaluations.remove, "Remove an evaluation.", Removed)
