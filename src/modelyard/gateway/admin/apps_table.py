"""Route table of apps: files, versions, keys, tags, conversations and annotations."""

from collections.abc import Iterator

from modelyard.gateway.admin import app_shapes, inputs
from modelyard.gateway.admin.app_library import AppCopies, AppTags
from modelyard.gateway.admin.app_network import AppNetwork
from modelyard.gateway.admin.app_runs import AppRuns, AppTriggers
from modelyard.gateway.admin.app_statistics import StatisticsRoute
from modelyard.gateway.admin.app_traces import AppTraces
from modelyard.gateway.admin.apps import ImportedApps
from modelyard.gateway.admin.conversations import AppAnnotations, AppConversations
from modelyard.gateway.admin.dependencies import AdminParts
from modelyard.gateway.admin.evaluations import DatasetEvaluations
from modelyard.gateway.admin.generators import GeneratorRoutes
from modelyard.gateway.admin.node_tests import NodeTests
from modelyard.gateway.admin.rows import LIMIT, OFFSET, SPAN, global_row, row
from modelyard.gateway.admin.runs import RunCalls
from modelyard.gateway.admin.runs_table import evaluation_rows, generator_rows, run_rows
from modelyard.gateway.admin.shapes import Removed
from modelyard.gateway.admin.splitting import SplitPreview
from modelyard.gateway.schemas import FLAG, INTEGER
from modelyard.gateway.table import (
    ADMIN,
    DEVELOPER,
    EDITOR,
    EVENTS,
    VIEWER,
    Content,
    Listed,
    OneOf,
    Query,
    Row,
)

_APPS, _APP = "/apps", "/apps/{id}"
_HAS_MORE = {"has_more": FLAG}
_VERSION = Query("version", "Digest of a version; the draft if omitted.")
_DRAFT = Query("draft", "true for the draft.", "boolean")
_ROOT = Query("root", "Start node of the run; the first one if omitted.")
_OFFSET_MINUTES = Query(
    "offset", "Minutes by which the caller's time is ahead of UTC.", "integer"
)
_STATISTICS_FORMAT = Query("format", "json or csv.")
_TAG_PATH = "/app-tags"
_TAGS = Query("tags", "Only apps with any of these tags: ids or names with commas.")
_STATUS = Query("status", "Only runs with this status.")


def rows(parts: AdminParts) -> Iterator[Row]:
    """Yield the routes of apps and of what belongs to them. The order is that of the
    documentation."""
    apps, service, manage = parts.apps.apps, parts.service, parts.manage
    yield from _app_rows(parts.apps)
    yield from _version_rows(parts.apps)
    yield from _library_rows(
        AppCopies(parts.apps, parts.datasets.datasets), AppTags(parts.apps.library)
    )
    yield from _app_run_rows(
        AppRuns(
            apps,
            service.chats,
            service.runs,
            service.files,
        )
    )
    yield row(
        "GET",
        f"{_APP}/statistics",
        VIEWER,
        StatisticsRoute(apps, parts.app_statistics).show,
        "Show messages, users, tokens, cost and ratings of an app by day.",
        OneOf((app_shapes.StatisticsPage, Content("text/csv"))),
        query=(*SPAN, _OFFSET_MINUTES, _STATISTICS_FORMAT),
    )
    yield from _trace_rows(parts.app_traces)
    yield from _network_rows(parts.app_network)
    yield row(
        "GET",
        f"{_APP}/triggers",
        EDITOR,
        AppTriggers(apps, manage.clock, service.content_origin).list_triggers,
        "List an app's triggers.",
        Listed(app_shapes.TriggerView),
    )
    yield row(
        "POST",
        f"{_APP}/test-node",
        EDITOR,
        NodeTests(apps, manage.services, manage.clock).run,
        "Run a single node of a file.",
        app_shapes.NodeTest,
        request_body=inputs.NodeTestInput,
        changes_nothing=True,
    )
    yield from _conversation_rows(AppConversations(apps, service.conversations))
    yield from _annotation_rows(AppAnnotations(apps, service.features))
    yield from run_rows(RunCalls(service.runs))
    yield from generator_rows(GeneratorRoutes(parts.generators))
    yield from evaluation_rows(DatasetEvaluations(parts.datasets))
    segments = Listed(app_shapes.SplitSegment, {"total": INTEGER})
    yield global_row(
        "POST",
        "/split",
        DEVELOPER,
        SplitPreview(parts.datasets).show,
        "Preview how a splitting rule divides a text; nothing is stored.",
        segments,
        request_body=inputs.SplitInput,
        changes_nothing=True,
    )


def _app_rows(apps: ImportedApps) -> Iterator[Row]:
    """Yield the routes that import, list, change and delete apps, and manage their
    keys."""
    app_view = app_shapes.AppView
    yield row(
        "GET",
        _APPS,
        EDITOR,
        apps.list_apps,
        "List apps.",
        Listed(app_view, _HAS_MORE),
        query=(_TAGS,),
    )
    yield row(
        "POST",
        _APPS,
        EDITOR,
        apps.import_app,
        "Import an app.",
        app_shapes.ImportedAppView,
        request_body=inputs.AppInput,
        status=201,
    )
    yield row(
        "POST",
        f"{_APPS}/check",
        EDITOR,
        apps.check,
        "Validate a file and list what it requires.",
        app_shapes.FileCheck,
        request_body=inputs.AppFileInput,
        changes_nothing=True,
    )
    yield row(
        "GET", _APP, EDITOR, apps.get_app, "Get an app with its versions.", app_view
    )
    yield row(
        "PATCH",
        _APP,
        EDITOR,
        apps.change,
        "Change an app's name, icon, tags, page or state.",
        app_view,
        request_body=inputs.AppChangeInput,
    )
    yield row("DELETE", _APP, EDITOR, apps.remove, "Remove an app.", Removed)
    yield row(
        "GET",
        f"{_APP}/keys",
        EDITOR,
        apps.keys,
        "List the API keys of an app.",
        Listed(app_shapes.AppKeyView, _HAS_MORE),
    )
    yield row(
        "POST",
        f"{_APP}/keys",
        EDITOR,
        apps.make_key,
        "Create an API key of an app.",
        app_shapes.CreatedAppKey,
        request_body=inputs.AppKeyInput,
        needs_body=False,
        status=201,
    )
    yield row(
        "DELETE",
        f"{_APP}/keys/{{key}}",
        # Other people's programs may use the key, so its end is the admins' decision.
        ADMIN,
        apps.revoke_key,
        "Revoke an API key of an app.",
        Removed,
    )


def _version_rows(apps: ImportedApps) -> Iterator[Row]:
    """Yield the routes for drafts and published versions."""
    app_view = app_shapes.AppView
    yield row(
        "GET",
        f"{_APP}/file",
        EDITOR,
        apps.file,
        "Get an app's file.",
        Content("application/yaml"),
        query=(_VERSION,),
    )
    yield row(
        "PUT",
        f"{_APP}/file",
        EDITOR,
        apps.save,
        "Save the draft, unless it was changed in the meantime.",
        app_shapes.ImportedAppView,
        request_body=inputs.DraftInput,
        errors=(409,),
    )
    yield row(
        "POST",
        f"{_APP}/publish",
        EDITOR,
        apps.publish,
        "Publish the draft.",
        app_view,
        request_body=inputs.PublicationInput,
        needs_body=False,
    )
    yield row(
        "POST",
        f"{_APP}/restore",
        EDITOR,
        apps.restore,
        "Restore a version as the draft.",
        app_view,
        request_body=inputs.VersionInput,
    )


def _library_rows(copies: AppCopies, tags: AppTags) -> Iterator[Row]:
    """Yield the routes for copies, templates and tags."""
    imported, tag_view = app_shapes.ImportedAppView, app_shapes.AppTagView
    yield row(
        "POST",
        f"{_APP}/duplicate",
        EDITOR,
        copies.duplicate,
        "Copy an app.",
        imported,
        request_body=inputs.AppCopyInput,
        needs_body=False,
        status=201,
    )
    yield row(
        "GET",
        "/app-templates",
        EDITOR,
        copies.templates,
        "List the templates that apps can be created from.",
        Listed(app_shapes.AppTemplateView),
    )
    yield row(
        "POST",
        "/app-templates/{template}/apps",
        EDITOR,
        copies.create,
        "Create an app from a template.",
        imported,
        request_body=inputs.AppTemplateInput,
        needs_body=False,
        status=201,
    )
    yield row(
        "GET",
        _TAG_PATH,
        EDITOR,
        tags.listed,
        "List the tags of apps.",
        Listed(tag_view),
    )
    yield row(
        "POST",
        _TAG_PATH,
        EDITOR,
        tags.add,
        "Create a tag for apps.",
        tag_view,
        request_body=inputs.AppTagInput,
        status=201,
    )
    yield row(
        "PATCH",
        f"{_TAG_PATH}/{{tag}}",
        EDITOR,
        tags.rename,
        "Rename a tag of apps.",
        tag_view,
        request_body=inputs.AppTagInput,
    )
    yield row(
        "DELETE",
        f"{_TAG_PATH}/{{tag}}",
        EDITOR,
        tags.remove,
        "Remove a tag from the tenant and its apps.",
        Removed,
    )


def _app_run_rows(runs: AppRuns) -> Iterator[Row]:
    """Yield the routes that start and list the runs of an app."""
    yield row(
        "GET",
        f"{_APP}/form",
        EDITOR,
        runs.form,
        "Get the input form of an app.",
        Listed(app_shapes.InputForm, {"is_chat": FLAG}),
        query=(_DRAFT, _ROOT),
    )
    yield row(
        "GET",
        f"{_APP}/runs",
        EDITOR,
        runs.list_runs,
        "List an app's runs, newest first.",
        app_shapes.RunPage,
        query=(_STATUS, LIMIT, OFFSET),
    )
    yield row(
        "POST",
        f"{_APP}/runs",
        EDITOR,
        runs.start_run,
        "Run an app and stream its events.",
        EVENTS,
        request_body=inputs.RunInput,
    )
    yield row(
        "POST",
        f"{_APP}/files",
        EDITOR,
        runs.upload,
        "Upload a file for runs, as the form field 'file'.",
        app_shapes.UploadedFile,
        request_body=Content("multipart/form-data"),
        status=201,
        errors=(413,),
    )


def _conversation_rows(conversations: AppConversations) -> Iterator[Row]:
    """Yield the routes for conversations and rated messages."""
    message = Listed(app_shapes.MessageView)
    yield row(
        "GET",
        f"{_APP}/conversations",
        EDITOR,
        conversations.list_conversations,
        "List the conversations of an app.",
        Listed(app_shapes.ConversationView),
    )
    yield row(
        "GET",
        f"{_APP}/conversations/{{conversation}}",
        EDITOR,
        conversations.messages,
        "List a conversation's messages.",
        message,
    )
    yield row(
        "GET",
        f"{_APP}/feedback",
        EDITOR,
        conversations.feedback,
        "List rated messages.",
        message,
    )


def _trace_rows(traces: AppTraces) -> Iterator[Row]:
    """Yield the routes for the trace destinations of an app."""
    path, view = f"{_APP}/traces", app_shapes.TraceDestinationView
    yield row(
        "GET",
        path,
        ADMIN,
        traces.list_destinations,
        "List where an app's traces are sent, and the known services.",
        app_shapes.TraceDestinationList,
    )
    yield row(
        "PUT",
        f"{path}/{{name}}",
        ADMIN,
        traces.save,
        "Set where an app's traces are sent.",
        view,
        request_body=inputs.TraceDestinationInput,
    )
    yield row(
        "POST",
        f"{path}/{{name}}/test",
        ADMIN,
        traces.test,
        "Send a trace of one span to a destination.",
        app_shapes.TraceTestView,
    )
    yield row(
        "DELETE",
        f"{path}/{{name}}",
        ADMIN,
        traces.remove,
        "Remove a trace destination.",
        Removed,
    )


def _network_rows(network: AppNetwork) -> Iterator[Row]:
    """Yield the routes for the network access of an app's code nodes."""
    path, view = f"{_APP}/code-network", app_shapes.CodeNetworkView
    yield row(
        "GET",
        path,
        EDITOR,
        network.show,
        "Get whether an app's code nodes have network access.",
        view,
    )
    # Editors write the code; what it may reach is the admins' decision.
    yield row(
        "PUT",
        path,
        ADMIN,
        network.change,
        "Set whether an app's code nodes have network access.",
        view,
        request_body=inputs.CodeNetworkInput,
    )


def _annotation_rows(annotations: AppAnnotations) -> Iterator[Row]:
    """Yield the routes for annotations."""
    path, annotation_view = f"{_APP}/annotations", app_shapes.AnnotationView
    yield row(
        "GET",
        path,
        EDITOR,
        annotations.listed,
        "List annotations.",
        Listed(annotation_view),
        query=(LIMIT,),
    )
    yield row(
        "POST",
        path,
        EDITOR,
        annotations.add,
        "Add an annotation.",
        annotation_view,
        request_body=inputs.AnnotationInput,
        status=201,
    )
    yield row(
        "PATCH",
        f"{path}/{{annotation}}",
        EDITOR,
        annotations.change,
        "Change an annotation.",
        annotation_view,
        request_body=inputs.AnnotationInput,
    )
    reply_path, reply_view = f"{_APP}/annotation-reply", app_shapes.AnnotationReplyView
    yield row(
        "GET",
        reply_path,
        EDITOR,
        annotations.settings,
        "Get whether an app answers from annotations.",
        reply_view,
    )
    yield row(
        "PUT",
        reply_path,
        EDITOR,
        annotations.change_settings,
        "Change whether an app answers from annotations.",
        reply_view,
        request_body=inputs.AnnotationReplyInput,
    )
    yield row(
        "DELETE",
        f"{path}/{{annotation}}",
        EDITOR,
        annotations.remove,
        "Remove an annotation.",
        Removed,
    )
