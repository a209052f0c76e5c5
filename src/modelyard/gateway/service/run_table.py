"""Routes of the service API that start runs, follow them, and fill in their forms."""

from modelyard.gateway.schemas import FLAG, INTEGER, OBJECT
from modelyard.gateway.service import shapes
from modelyard.gateway.service.chat import Questions
from modelyard.gateway.service.forms import Forms
from modelyard.gateway.service.workflows import WorkflowHandlers
from modelyard.gateway.table import APP_KEY, EVENTS, Listed, OneOf, Query, Row, Schema

USER = Query("user", "Id of the end user.")
PAGE = (
    Query("page", "Page number, from 1.", "integer"),
    Query("limit", "Page size, at most 100.", "integer"),
)
LIMITED = {"limit": INTEGER, "has_more": FLAG}
PAGED = {**LIMITED, "page": INTEGER, "total": INTEGER}
_CHAT = OneOf((shapes.ChatAnswer, EVENTS))
_COMPLETION = OneOf((shapes.CompletionAnswer, EVENTS))
_WORKFLOW = OneOf((shapes.WorkflowAnswer, EVENTS))


def question_rows(questions: Questions) -> list[Row]:
    """Return the routes that send a message to a chat or completion app."""
    return [
        Row(
            method="POST",
            path="/v1/chat-messages",
            starts_run=True,
            auth=APP_KEY,
            handler=questions.chat,
            takes=shapes.ChatInput,
            answer=_CHAT,
            errors=(403, 404, 429),
            summary="Send a message to a chat app.",
        ),
        Row(
            method="POST",
            path="/v1/chat-messages/{task_id}/stop",
            auth=APP_KEY,
            handler=questions.stop_chat,
            takes=shapes.UserInput,
            answer=shapes.Result,
            summary="Stop the answer of a chat app.",
        ),
        Row(
            method="POST",
            path="/v1/completion-messages",
            starts_run=True,
            auth=APP_KEY,
            handler=questions.complete,
            takes=shapes.CompletionInput,
            answer=_COMPLETION,
            errors=(429,),
            summary="Send inputs to a completion app.",
        ),
        Row(
            method="POST",
            path="/v1/completion-messages/{task_id}/stop",
            auth=APP_KEY,
            answer=shapes.Result,
            handler=questions.stop_completion,
            takes=shapes.UserInput,
            summary="Stop the answer of a completion app.",
        ),
        Row(
            method="POST",
            path="/v1/messages/{message_id}/more-like-this",
            starts_run=True,
            auth=APP_KEY,
            answer=_COMPLETION,
            handler=questions.more_like_this,
            takes=shapes.AnotherAnswerInput,
            errors=(404, 429),
            summary="Generate another answer of a completion app to the same inputs.",
        ),
    ]


def own_run_rows(workflows: WorkflowHandlers) -> list[Row]:
    """Return the routes that run and stop a workflow and stream its events."""
    watched = (
        USER,
        Query(
            "after",
            "Number of the last received event; same as the header `Last-Event-ID`.",
            "integer",
        ),
        Query(
            "continue_on_pause",
            "Keep the stream open while the run waits for input.",
            "boolean",
        ),
        Query("format", "`ag-ui` for AG-UI events."),
    )
    return [
        Row(
            method="POST",
            path="/v1/workflows/run",
            starts_run=True,
            auth=APP_KEY,
            handler=workflows.run,
            takes=shapes.WorkflowInput,
            answer=_WORKFLOW,
            errors=(429,),
            summary="Run a workflow app.",
        ),
        Row(
            method="POST",
            path="/v1/workflows/tasks/{task_id}/stop",
            auth=APP_KEY,
            handler=workflows.stop,
            takes=shapes.UserInput,
            answer=shapes.Result,
            summary="Stop a run of a workflow app.",
        ),
        Row(
            method="GET",
            path="/v1/workflow/{workflow_run_id}/events",
            auth=APP_KEY,
            handler=workflows.watch,
            query=watched,
            answer=EVENTS,
            errors=(404,),
            summary="Stream the events of a run, from the start or a later event.",
        ),
    ]


def all_run_rows(workflows: WorkflowHandlers) -> list[Row]:
    """Return the routes for an app's versions, runs and logs.

    They show the runs of all users, so only callers with an app key may use them.
    """
    log_query = (
        *PAGE,
        Query(
            "status",
            "`succeeded`, `failed`, `stopped`, `partial-succeeded`, `running` or `paused`.",
        ),
        Query("created_at__before", "ISO 8601."),
        Query("created_at__after", "ISO 8601."),
        Query("created_by_end_user_session_id", "Only runs of this end user."),
    )
    return [
        Row(
            method="POST",
            path="/v1/workflows/{workflow_id}/run",
            starts_run=True,
            auth=APP_KEY,
            handler=workflows.run_version,
            takes=shapes.WorkflowInput,
            answer=_WORKFLOW,
            errors=(403, 404, 429),
            summary="Run a version of a workflow app.",
        ),
        Row(
            method="GET",
            path="/v1/workflows/run/{workflow_run_id}",
            auth=APP_KEY,
            handler=workflows.detail,
            answer=shapes.RunShown,
            errors=(404,),
            summary="Get one run.",
        ),
        Row(
            method="GET",
            path="/v1/workflows/logs",
            auth=APP_KEY,
            handler=workflows.logs,
            query=log_query,
            answer=Listed(shapes.LogShown, PAGED),
            summary="List the app's runs, newest first.",
        ),
    ]


def form_rows(forms: Forms) -> list[Row]:
    """Return the routes for forms that paused runs wait for."""
    path = "/v1/form/human_input/{form_token}"
    return [
        Row(
            method="GET",
            path=path,
            auth=APP_KEY,
            handler=forms.show,
            answer=shapes.FormShown,
            errors=(404, 412),
            summary="Get the form that a paused run waits for.",
        ),
        Row(
            method="POST",
            path=path,
            auth=APP_KEY,
            handler=forms.fill,
            takes=shapes.FilledFormInput,
            answer=Schema(OBJECT),
            errors=(404, 412),
            summary="Submit a form and resume its run.",
        ),
    ]
