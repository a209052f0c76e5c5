"""Route table of the service API: apps for their callers, each with its own keys
(`app-…`).

Paths are those of Dify's API, plus `/v1/messages/ID/more-like-this` and `/v1/ag-ui`.
"""

from dataclasses import dataclass

from modelyard.gateway.schemas import FLAG, INTEGER, OBJECT
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
    OneOf,
    Query,
    Row,
    Schema,
)

# Used only to choose the error format for requests that reach no route.
_PREFIXES = (
    "/v1/chat-messages", "/v1/completion-messages", "/v1/workflows", "/v1/workflow", "/v1/form",
    "/v1/app", "/v1/apps", "/v1/info", "/v1/parameters", "/v1/meta", "/v1/site", "/v1/end-users",
    "/v1/audio-to-text", "/v1/text-to-audio", "/v1/ag-ui",
)  # fmt: skip
"""Prefixes used by no other vendor's clients.

Messages, conversations and files are also paths of Anthropic's and OpenAI's APIs; for
those the kind of key decides.
"""
_USER = Query("user", "Id of the end user.")
_PAGE = (
    Query("page", "Page number, from 1.", "integer"),
    Query("limit", "Page size, at most 100.", "integer"),
)
_LIMIT = Query("limit", "Page size, at most 100.", "integer")
_LIMITED = {"limit": INTEGER, "has_more": FLAG}
_PAGED = {**_LIMITED, "page": INTEGER, "total": INTEGER}
_FORM = Content("multipart/form-data")
_CHAT = OneOf((shapes.ChatAnswer, EVENTS))
_COMPLETION = OneOf((shapes.CompletionAnswer, EVENTS))
_WORKFLOW = OneOf((shapes.WorkflowAnswer, EVENTS))


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
            *_questions(questions),
            *_own_runs(workflows),
            *_forms(Forms(runs, parts.form_answers)),
            *_messages(messages, Suggestions(parts.conversations, parts.services)),
            *_conversations(ConversationHandlers(parts.conversations, parts.features)),
            *_uploads(uploads),
            *_speech(Speech(parts.models, parts.conversations)),
            *_app_info(app_info),
        ),
        for_callers=(
            *_all_runs(workflows),
            *_ag_ui(agui),
            *_annotations(AnnotationHandlers(parts.features)),
            *_about_users(app_info, messages),
        ),
    )


def api(app_rows: AppRows, entrance: AppAuthenticator) -> Api:
    """Return the service API with these routes, authenticated by app keys."""
    return Api(name="service", title="Service API", about="Apps, for their API clients.",
               prefixes=_PREFIXES, errors=ERROR_SHAPE,
               rows=(*app_rows.for_visitors, *app_rows.for_callers),
               enter=entrance.enter)  # fmt: skip


def _questions(questions: Questions) -> list[Row]:
    """Return the routes that send a message to a chat or completion app."""
    return [
        Row(method="POST", path="/v1/chat-messages", auth=APP_KEY, handler=questions.chat,
            takes=shapes.ChatInput, answer=_CHAT, errors=(403, 404, 429),
            summary="Send a message to a chat app."),
        Row(method="POST", path="/v1/chat-messages/{task_id}/stop", auth=APP_KEY,
            handler=questions.stop_chat, takes=shapes.UserInput, answer=shapes.Result,
            summary="Stop the answer of a chat app."),
        Row(method="POST", path="/v1/completion-messages", auth=APP_KEY,
            handler=questions.complete, takes=shapes.CompletionInput, answer=_COMPLETION,
            errors=(429,), summary="Send inputs to a completion app."),
        Row(method="POST", path="/v1/completion-messages/{task_id}/stop", auth=APP_KEY,
            answer=shapes.Result, handler=questions.stop_completion, takes=shapes.UserInput,
            summary="Stop the answer of a completion app."),
        Row(method="POST", path="/v1/messages/{message_id}/more-like-this", auth=APP_KEY,
            answer=_COMPLETION, handler=questions.more_like_this, takes=shapes.AnotherAnswerInput,
            errors=(404, 429),
            summary="Generate another answer of a completion app to the same inputs."),
    ]  # fmt: skip


def _own_runs(workflows: WorkflowHandlers) -> list[Row]:
    """Return the routes that run and stop a workflow and stream its events."""
    watched = (
        _USER,
        Query("after",
            "Number of the last received event; same as the header `Last-Event-ID`.",
            "integer"),
        Query("continue_on_pause", "Keep the stream open while the run waits for input.",
            "boolean"),
        Query("format", "`ag-ui` for AG-UI events."),
    )  # fmt: skip
    return [
        Row(method="POST", path="/v1/workflows/run", auth=APP_KEY, handler=workflows.run,
            takes=shapes.WorkflowInput, answer=_WORKFLOW, errors=(429,),
            summary="Run a workflow app."),
        Row(method="POST", path="/v1/workflows/tasks/{task_id}/stop", auth=APP_KEY,
            handler=workflows.stop, takes=shapes.UserInput, answer=shapes.Result,
            summary="Stop a run of a workflow app."),
        Row(method="GET", path="/v1/workflow/{workflow_run_id}/events", auth=APP_KEY,
            handler=workflows.watch, query=watched, answer=EVENTS, errors=(404,),
            summary="Stream the events of a run, from the start or a later event."),
    ]  # fmt: skip


def _all_runs(workflows: WorkflowHandlers) -> list[Row]:
    """Return the routes for an app's versions, runs and logs.

    They show the runs of all users, so only callers with an app key may use them.
    """
    log_query = (
        *_PAGE,
        Query("status",
            "`succeeded`, `failed`, `stopped`, `partial-succeeded`, `running` or `paused`."),
        Query("created_at__before", "ISO 8601."),
        Query("created_at__after", "ISO 8601."),
        Query("created_by_end_user_session_id", "Only runs of this end user."),
    )  # fmt: skip
    return [
        Row(method="POST", path="/v1/workflows/{workflow_id}/run", auth=APP_KEY,
            handler=workflows.run_version, takes=shapes.WorkflowInput, answer=_WORKFLOW,
            errors=(403, 404, 429), summary="Run a version of a workflow app."),
        Row(method="GET", path="/v1/workflows/run/{workflow_run_id}", auth=APP_KEY,
            handler=workflows.detail, answer=shapes.RunShown, errors=(404,),
            summary="Get one run."),
        Row(method="GET", path="/v1/workflows/logs", auth=APP_KEY, handler=workflows.logs,
            query=log_query, answer=Listed(shapes.LogShown, _PAGED),
            summary="List the app's runs, newest first."),
    ]  # fmt: skip


def _forms(forms: Forms) -> list[Row]:
    """Return the routes for forms that paused runs wait for."""
    path = "/v1/form/human_input/{form_token}"
    return [
        Row(method="GET", path=path, auth=APP_KEY, handler=forms.show, answer=shapes.FormShown,
            errors=(404, 412), summary="Get the form that a paused run waits for."),
        Row(method="POST", path=path, auth=APP_KEY, handler=forms.fill,
            takes=shapes.FilledFormInput, answer=Schema(OBJECT), errors=(404, 412),
            summary="Submit a form and resume its run."),
    ]  # fmt: skip


def _messages(messages: Messages, suggestions: Suggestions) -> list[Row]:
    """Return the routes that list and rate messages and suggest next questions."""
    thread = (
        Query("conversation_id", "Conversation of the messages.", is_required=True), _USER,
        Query("first_id", "Return messages before this one."), _LIMIT,
    )  # fmt: skip
    return [
        Row(method="GET", path="/v1/messages", auth=APP_KEY, handler=messages.list, query=thread,
            errors=(404,), answer=Listed(shapes.MessageShown, _LIMITED),
            summary="List a conversation's messages."),
        Row(method="GET", path="/v1/messages/{message_id}/suggested", auth=APP_KEY,
            handler=suggestions.suggested, query=(_USER,), answer=shapes.SuggestedQuestions,
            errors=(404,), summary="Suggest next questions after a message."),
        Row(method="POST", path="/v1/messages/{message_id}/feedbacks", auth=APP_KEY,
            handler=messages.rate, takes=shapes.FeedbackInput, answer=shapes.Result,
            errors=(404,), summary="Rate a message."),
    ]  # fmt: skip


def _conversations(conversations: ConversationHandlers) -> list[Row]:
    """Return the routes for conversations and their variables."""
    order = Query(
        "sort_by",
        "`created_at` or `updated_at`; prefix `-` for descending order.",
    )
    last, limit = Query("last_id", "Return items after this one."), _LIMIT
    path = "/v1/conversations/{conversation_id}"
    return [
        Row(method="GET", path="/v1/conversations", auth=APP_KEY, handler=conversations.list,
            errors=(404,), query=(_USER, last, limit, order),
            answer=Listed(shapes.ConversationShown, _LIMITED),
            summary="List a user's conversations."),
        Row(method="DELETE", path=path, auth=APP_KEY, handler=conversations.remove,
            takes=shapes.UserInput, needs_body=False, query=(_USER,), status=204, errors=(404,),
            summary="Delete a conversation."),
        Row(method="POST", path=f"{path}/name", auth=APP_KEY, handler=conversations.rename,
            takes=shapes.RenameInput, answer=shapes.ConversationShown, errors=(404,),
            summary="Rename a conversation."),
        Row(method="GET", path=f"{path}/variables", auth=APP_KEY, handler=conversations.variables,
            query=(_USER, last, limit, Query("variable_name", "Only this variable.")),
            errors=(404,), answer=Listed(shapes.VariableShown, _LIMITED),
            summary="List the variables of a conversation."),
        Row(method="PUT", path=f"{path}/variables/{{variable_id}}", auth=APP_KEY,
            takes=shapes.VariableInput, handler=conversations.change_variable,
            answer=shapes.VariableShown, errors=(404,),
            summary="Change a variable of a conversation."),
    ]  # fmt: skip


def _uploads(uploads: Uploads) -> list[Row]:
    """Return the routes that add a file and show it again."""
    preview_query = (
        _USER,
        Query(
            "as_attachment",
            "Send as an attachment, so that browsers download the file.",
            "boolean",
        ),
    )
    return [
        Row(method="POST", path="/v1/files/upload", auth=APP_KEY, handler=uploads.add,
            takes=_FORM, answer=shapes.FileShown, status=201, errors=(413, 415),
            summary="Upload a file."),
        Row(method="GET", path="/v1/files/{file_id}/preview", auth=APP_KEY,
            handler=uploads.preview, query=preview_query, answer=Content("*/*"),
            errors=(403, 404), summary="Get an uploaded file."),
    ]  # fmt: skip


def _speech(speech: Speech) -> list[Row]:
    """Return the routes for transcription and speech synthesis."""
    return [
        Row(method="POST", path="/v1/audio-to-text", auth=APP_KEY, handler=speech.transcribe,
            takes=_FORM, answer=shapes.Transcript, errors=(413, 415), changes_nothing=True,
            summary="Transcribe an audio file."),
        Row(method="POST", path="/v1/text-to-audio", auth=APP_KEY, handler=speech.speak,
            takes=shapes.SpeechInput, answer=Content("audio/mpeg"), errors=(404,),
            changes_nothing=True, summary="Synthesize speech from a message or a text."),
    ]  # fmt: skip


def _app_info(app_info: AppInfoHandlers) -> list[Row]:
    """Return the routes about the app itself: name, features and page settings."""
    return [
        Row(method="GET", path="/v1/info", auth=APP_KEY, handler=app_info.info,
            answer=shapes.AppInfo, summary="Get the app's name and mode."),
        Row(method="GET", path="/v1/parameters", auth=APP_KEY, handler=app_info.parameters,
            answer=shapes.AppParameters,
            summary="Get the app's features and input form."),
        Row(method="GET", path="/v1/site", auth=APP_KEY, handler=app_info.site,
            answer=shapes.Site, errors=(403,), summary="Get the settings of the app's page."),
    ]  # fmt: skip


def _about_users(app_info: AppInfoHandlers, messages: Messages) -> list[Row]:
    """Return the routes about end users, ratings and the icons of tools."""
    return [
        Row(method="GET", path="/v1/meta", auth=APP_KEY, handler=app_info.meta,
            answer=shapes.AppMeta, summary="Get the icons of the app's tools."),
        Row(method="GET", path="/v1/end-users/{end_user_id}", auth=APP_KEY,
            handler=app_info.end_user, answer=shapes.EndUserShown, errors=(404,),
            summary="Get an end user of the app."),
        Row(method="GET", path="/v1/app/feedbacks", auth=APP_KEY, handler=messages.feedbacks,
            query=_PAGE, answer=Listed(shapes.FeedbackShown),
            summary="List the ratings of messages."),
    ]  # fmt: skip


def _ag_ui(agui: AgUiRuns) -> list[Row]:
    """Return the route for front ends that use the AG-UI protocol."""
    return [
        Row(method="POST", path="/v1/ag-ui", auth=APP_KEY, handler=agui.start,
            takes=shapes.AgUiInput, query=(_USER,), answer=EVENTS, errors=(429,),
            summary="Run the app for an AG-UI front end."),
    ]  # fmt: skip


def _annotations(annotations: AnnotationHandlers) -> list[Row]:
    """Return the routes that manage annotations and annotation replies."""
    path, reply = "/v1/apps/annotations", "/v1/apps/annotation-reply/{action}"
    keyword = Query("keyword", "Text in the question or the answer.")
    return [
        Row(method="GET", path=path, auth=APP_KEY, handler=annotations.list,
            query=(*_PAGE, keyword), answer=Listed(shapes.AnnotationShown, _PAGED),
            summary="List annotations."),
        Row(method="POST", path=path, auth=APP_KEY, handler=annotations.add,
            takes=shapes.AnnotationInput, answer=shapes.AnnotationShown, status=201,
            summary="Add an annotation."),
        Row(method="PUT", path=f"{path}/{{annotation_id}}", auth=APP_KEY,
            handler=annotations.change, takes=shapes.AnnotationInput,
            answer=shapes.AnnotationShown, errors=(404,), summary="Change an annotation."),
        Row(method="DELETE", path=f"{path}/{{annotation_id}}", auth=APP_KEY,
            handler=annotations.remove, status=204, errors=(404,),
            summary="Delete an annotation."),
        Row(method="POST", path=reply, auth=APP_KEY, handler=annotations.configure,
            answer=shapes.Job, takes=shapes.AnnotationReplyInput,
            summary="Enable or disable annotation replies (`enable`, `disable`)."),
        Row(method="GET", path=f"{reply}/status/{{job_id}}", auth=APP_KEY,
            handler=annotations.status, answer=shapes.JobStatus, errors=(404,),
            summary="Get the status of enabling or disabling annotation replies."),
    ]  # fmt: skip
