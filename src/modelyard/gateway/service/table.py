"""Route table of the service API: apps for their callers, each with its own keys
(`app-…`).

Paths are those of Dify's API, plus `/v1/messages/ID/more-like-this` and `/v1/ag-ui`.
"""

from dataclasses import dataclass

from modelyard.gateway.service import shapes
from modelyard.gateway.service.agui import AgUiRuns
from modelyard.gateway.service.annotations import AnnotationHandlers
from modelyard.gateway.service.app_info import AppInfoHandlers
from modelyard.gateway.service.authentication import AppAuthenticator
from modelyard.gateway.service.calls import ERROR_SHAPE
from modelyard.gateway.service.chat import Questions
from modelyard.gateway.service.conversations import ConversationHandlers
from modelyard.gateway.service.dependencies import ServiceDependencies
from modelyard.gateway.service.forms import Forms
from modelyard.gateway.service.messages import Messages
from modelyard.gateway.service.run_table import (
    LIMITED,
    PAGE,
    PAGED,
    USER,
    all_run_rows,
    form_rows,
    own_run_rows,
    question_rows,
)
from modelyard.gateway.service.runs import AppRuns
from modelyard.gateway.service.speech import Speech
from modelyard.gateway.service.suggestions import Suggestions
from modelyard.gateway.service.uploads import Uploads
from modelyard.gateway.service.versions import Versions
from modelyard.gateway.service.workflows import WorkflowHandlers
from modelyard.gateway.table import (
    APP_KEY,
    EVENTS,
    Api,
    Content,
    Listed,
    Query,
    Row,
)

# Used only to choose the error format for requests that reach no route.
_PREFIXES = (
    "/v1/chat-messages",
    "/v1/completion-messages",
    "/v1/workflows",
    "/v1/workflow",
    "/v1/form",
    "/v1/app",
    "/v1/apps",
    "/v1/info",
    "/v1/parameters",
    "/v1/meta",
    "/v1/site",
    "/v1/end-users",
    "/v1/audio-to-text",
    "/v1/text-to-audio",
    "/v1/ag-ui",
)
"""Prefixes used by no other vendor's clients.

Messages, conversations and files are also paths of Anthropic's and OpenAI's APIs; for
those the kind of key decides.
"""
_LIMIT = Query("limit", "Page size, at most 100.", "integer")
_FORM = Content("multipart/form-data")


@dataclass(frozen=True, slots=True)
class AppRows:
    """The routes, grouped by who may call them."""

    for_visitors: tuple[Row, ...]
    """For callers with an app key and for visitors of the app's page. Each user sees
    only their own data."""
    for_callers: tuple[Row, ...]
    """For callers with an app key only: these return data of all users, or internals of
    the app."""


def rows(parts: ServiceDependencies) -> AppRows:
    """Return all routes of the service API, with handlers built on these services.

    They are grouped by who may call them: visitors of an app's page as well, or only
    callers with a key of the app.
    """
    # Shared between handler groups, so they are built once.
    runs, versions = AppRuns(parts.runs), Versions(parts.apps)
    agui = AgUiRuns(parts.chats, runs, parts.conversations)
    questions = Questions(parts.chats, runs, versions, parts.conversations)
    workflows = WorkflowHandlers(parts.chats, runs, versions, agui, parts.runs.journal)
    messages = Messages(parts.conversations, parts.chats)
    uploads = Uploads(parts.files, parts.content_origin)
    app_info = AppInfoHandlers(parts.runs.journal, parts.library, parts.features)
    return AppRows(
        for_visitors=(
            *question_rows(questions),
            *own_run_rows(workflows),
            *form_rows(Forms(runs, parts.form_answers)),
            *_messages(messages, Suggestions(parts.conversations, parts.services)),
            *_conversations(ConversationHandlers(parts.conversations, parts.features)),
            *_uploads(uploads),
            *_speech(Speech(parts.models, parts.conversations)),
            *_app_info(app_info),
        ),
        for_callers=(
            *all_run_rows(workflows),
            *_ag_ui(agui),
            *_annotations(AnnotationHandlers(parts.features)),
            *_about_users(app_info, messages),
        ),
    )


def api(app_rows: AppRows, entrance: AppAuthenticator) -> Api:
    """Return the service API with these routes, authenticated by app keys."""
    return Api(
        name="service",
        title="Service API",
        about="Apps, for their API clients.",
        prefixes=_PREFIXES,
        errors=ERROR_SHAPE,
        rows=(*app_rows.for_visitors, *app_rows.for_callers),
        enter=entrance.enter,
    )


def _messages(messages: Messages, suggestions: Suggestions) -> list[Row]:
    """Return the routes that list and rate messages and suggest next questions."""
    thread = (
        Query("conversation_id", "Conversation of the messages.", is_required=True),
        USER,
        Query("first_id", "Return messages before this one."),
        _LIMIT,
    )
    return [
        Row(
            method="GET",
            path="/v1/messages",
            auth=APP_KEY,
            handler=messages.list,
            query=thread,
            errors=(404,),
            answer=Listed(shapes.MessageShown, LIMITED),
            summary="List a conversation's messages.",
        ),
        Row(
            method="GET",
            path="/v1/messages/{message_id}/suggested",
            auth=APP_KEY,
            handler=suggestions.suggested,
            query=(USER,),
            answer=shapes.SuggestedQuestions,
            errors=(404,),
            summary="Suggest next questions after a message.",
        ),
        Row(
            method="POST",
            path="/v1/messages/{message_id}/feedbacks",
            auth=APP_KEY,
            handler=messages.rate,
            takes=shapes.FeedbackInput,
            answer=shapes.Result,
            errors=(404,),
            summary="Rate a message.",
        ),
    ]


def _conversations(conversations: ConversationHandlers) -> list[Row]:
    """Return the routes for conversations and their variables."""
    order = Query(
        "sort_by",
        "`created_at` or `updated_at`; prefix `-` for descending order.",
    )
    last, limit = Query("last_id", "Return items after this one."), _LIMIT
    path = "/v1/conversations/{conversation_id}"
    return [
        Row(
            method="GET",
            path="/v1/conversations",
            auth=APP_KEY,
            handler=conversations.list,
            errors=(404,),
            query=(USER, last, limit, order),
            answer=Listed(shapes.ConversationShown, LIMITED),
            summary="List a user's conversations.",
        ),
        Row(
            method="DELETE",
            path=path,
            auth=APP_KEY,
            handler=conversations.remove,
            takes=shapes.UserInput,
            needs_body=False,
            query=(USER,),
            status=204,
            errors=(404,),
            summary="Delete a conversation.",
        ),
        Row(
            method="POST",
            path=f"{path}/name",
            auth=APP_KEY,
            handler=conversations.rename,
            takes=shapes.RenameInput,
            answer=shapes.ConversationShown,
            errors=(404,),
            summary="Rename a conversation.",
        ),
        Row(
            method="GET",
            path=f"{path}/variables",
            auth=APP_KEY,
            handler=conversations.variables,
            query=(USER, last, limit, Query("variable_name", "Only this variable.")),
            errors=(404,),
            answer=Listed(shapes.VariableShown, LIMITED),
            summary="List the variables of a conversation.",
        ),
        Row(
            method="PUT",
            path=f"{path}/variables/{{variable_id}}",
            auth=APP_KEY,
            takes=shapes.VariableInput,
            handler=conversations.change_variable,
            answer=shapes.VariableShown,
            errors=(404,),
            summary="Change a variable of a conversation.",
        ),
    ]


def _uploads(uploads: Uploads) -> list[Row]:
    """Return the routes that add a file and show it again."""
    preview_query = (
        USER,
        Query(
            "as_attachment",
            "Send as an attachment, so that browsers download the file.",
            "boolean",
        ),
    )
    return [
        Row(
            method="POST",
            path="/v1/files/upload",
            auth=APP_KEY,
            handler=uploads.add,
            takes=_FORM,
            answer=shapes.FileShown,
            status=201,
            errors=(413, 415),
            summary="Upload a file.",
        ),
        Row(
            method="GET",
            path="/v1/files/{file_id}/preview",
            auth=APP_KEY,
            handler=uploads.preview,
            query=preview_query,
            answer=Content("*/*"),
            errors=(403, 404),
            summary="Get an uploaded file.",
        ),
    ]


def _speech(speech: Speech) -> list[Row]:
    """Return the routes for transcription and speech synthesis."""
    return [
        Row(
            method="POST",
            path="/v1/audio-to-text",
            auth=APP_KEY,
            handler=speech.transcribe,
            takes=_FORM,
            answer=shapes.Transcript,
            errors=(413, 415),
            changes_nothing=True,
            summary="Transcribe an audio file.",
        ),
        Row(
            method="POST",
            path="/v1/text-to-audio",
            auth=APP_KEY,
            handler=speech.speak,
            takes=shapes.SpeechInput,
            answer=Content("audio/mpeg"),
            errors=(404,),
            changes_nothing=True,
            summary="Synthesize speech from a message or a text.",
        ),
    ]


def _app_info(app_info: AppInfoHandlers) -> list[Row]:
    """Return the routes about the app itself: name, features and page settings."""
    return [
        Row(
            method="GET",
            path="/v1/info",
            auth=APP_KEY,
            handler=app_info.info,
            answer=shapes.AppInfo,
            summary="Get the app's name and mode.",
        ),
        Row(
            method="GET",
            path="/v1/parameters",
            auth=APP_KEY,
            handler=app_info.parameters,
            answer=shapes.AppParameters,
            summary="Get the app's features and input form.",
        ),
        Row(
            method="GET",
            path="/v1/site",
            auth=APP_KEY,
            handler=app_info.site,
            answer=shapes.Site,
            errors=(403,),
            summary="Get the settings of the app's page.",
        ),
    ]


def _about_users(app_info: AppInfoHandlers, messages: Messages) -> list[Row]:
    """Return the routes about end users, ratings and the icons of tools."""
    return [
        Row(
            method="GET",
            path="/v1/meta",
            auth=APP_KEY,
            handler=app_info.meta,
            answer=shapes.AppMeta,
            summary="Get the icons of the app's tools.",
        ),
        Row(
            method="GET",
            path="/v1/end-users/{end_user_id}",
            auth=APP_KEY,
            handler=app_info.end_user,
            answer=shapes.EndUserShown,
            errors=(404,),
            summary="Get an end user of the app.",
        ),
        Row(
            method="GET",
            path="/v1/app/feedbacks",
            auth=APP_KEY,
            handler=messages.feedbacks,
            query=PAGE,
            answer=Listed(shapes.FeedbackShown),
            summary="List the ratings of messages.",
        ),
    ]


def _ag_ui(agui: AgUiRuns) -> list[Row]:
    """Return the route for front ends that use the AG-UI protocol."""
    return [
        Row(
            method="POST",
            path="/v1/ag-ui",
            starts_run=True,
            auth=APP_KEY,
            handler=agui.start,
            takes=shapes.AgUiInput,
            query=(USER,),
            answer=EVENTS,
            errors=(429,),
            summary="Run the app for an AG-UI front end.",
        ),
    ]


def _annotations(annotations: AnnotationHandlers) -> list[Row]:
    """Return the routes that manage annotations and annotation replies."""
    path, reply = "/v1/apps/annotations", "/v1/apps/annotation-reply/{action}"
    keyword = Query("keyword", "Text in the question or the answer.")
    return [
        Row(
            method="GET",
            path=path,
            auth=APP_KEY,
            handler=annotations.list,
            query=(*PAGE, keyword),
            answer=Listed(shapes.AnnotationShown, PAGED),
            summary="List annotations.",
        ),
        Row(
            method="POST",
            path=path,
            auth=APP_KEY,
            handler=annotations.add,
            takes=shapes.AnnotationInput,
            answer=shapes.AnnotationShown,
            status=201,
            summary="Add an annotation.",
        ),
        Row(
            method="PUT",
            path=f"{path}/{{annotation_id}}",
            auth=APP_KEY,
            handler=annotations.change,
            takes=shapes.AnnotationInput,
            answer=shapes.AnnotationShown,
            errors=(404,),
            summary="Change an annotation.",
        ),
        Row(
            method="DELETE",
            path=f"{path}/{{annotation_id}}",
            auth=APP_KEY,
            handler=annotations.remove,
            status=204,
            errors=(404,),
            summary="Delete an annotation.",
        ),
        Row(
            method="POST",
            path=reply,
            auth=APP_KEY,
            handler=annotations.configure,
            answer=shapes.Job,
            takes=shapes.AnnotationReplyInput,
            summary="Enable or disable annotation replies (`enable`, `disable`).",
        ),
        Row(
            method="GET",
            path=f"{reply}/status/{{job_id}}",
            auth=APP_KEY,
            handler=annotations.status,
            answer=shapes.JobStatus,
            errors=(404,),
            summary="Get the status of enabling or disabling annotation replies.",
        ),
    ]
