"""Request and response bodies of the service API. Field names are those that its
clients know; times are seconds since 1970."""

from typing import Any, Literal

import msgspec

# ------------------------------------------------------------ requests

ResponseMode = Literal["streaming", "blocking"]


class FileInput(msgspec.Struct, frozen=True, kw_only=True):
    """A file that accompanies a question: by URL, or by the id of an upload."""

    type: str = ""
    transfer_method: str = ""
    url: str = ""
    upload_file_id: str = ""


class UserInput(msgspec.Struct, frozen=True, kw_only=True):
    """A request that states for whom the app is called."""

    # Declared with an empty default, because handlers also accept the user from the
    # query string.
    user: str = ""
    """End user of the app; may be in the query string instead. Not needed for visitors
    of the app's page."""


class ChatInput(UserInput, frozen=True, kw_only=True):
    """A message to a chat app."""

    query: str
    inputs: dict[str, Any] = {}
    response_mode: ResponseMode = "blocking"
    conversation_id: str = ""
    """Conversation to continue; empty to start a new one."""
    files: list[FileInput] = []
    auto_generate_name: bool = True
    workflow_id: str = ""
    """A published version of a chatflow to run; empty for the current one."""


class CompletionInput(UserInput, frozen=True, kw_only=True):
    """The inputs of a completion app."""

    inputs: dict[str, Any] = {}
    query: str = ""
    response_mode: ResponseMode = "blocking"
    files: list[FileInput] = []


class WorkflowInput(UserInput, frozen=True, kw_only=True):
    """The inputs of a workflow app."""

    inputs: dict[str, Any] = {}
    response_mode: ResponseMode = "blocking"
    files: list[FileInput] = []


class AnotherAnswerInput(UserInput, frozen=True, kw_only=True):
    """A request for another answer to the same question."""

    response_mode: ResponseMode = "blocking"


class AgUiInput(msgspec.Struct, frozen=True, kw_only=True):
    """AG-UI's `RunAgentInput`. Fields that are not listed are ignored."""

    threadId: str = ""  # noqa: N815
    runId: str = ""  # noqa: N815
    messages: list[dict[str, Any]] = []
    state: Any = None
    forwardedProps: Any = None  # noqa: N815


class FeedbackInput(UserInput, frozen=True, kw_only=True):
    """A rating of a message; null removes it."""

    rating: Literal["like", "dislike"] | None = None
    content: str = ""


class RenameInput(UserInput, frozen=True, kw_only=True):
    """A new name for a conversation, or a request to generate one."""

    name: str = ""
    auto_generate: bool = False


class VariableInput(UserInput, frozen=True, kw_only=True):
    """A new value for a conversation variable."""

    value: Any


class FilledFormInput(UserInput, frozen=True, kw_only=True):
    """A submitted human-input form."""

    action: str
    inputs: dict[str, Any] = {}


class SpeechInput(UserInput, frozen=True, kw_only=True):
    """A text, or a message, to convert to speech."""

    text: str = ""
    message_id: str = ""
    voice: str = ""
    streaming: bool = False
    """Ignored: speech is always streamed as it is generated."""


class AnnotationInput(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared answer to a question."""

    question: str
    answer: str


class AnnotationReplyInput(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the annotation reply; omitted ones keep their value."""

    score_threshold: float | None = None
    embedding_provider_name: str = ""
    embedding_model_name: str = ""


# ------------------------------------------------------------ results of runs


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's models used. Prices are decimal numbers as text."""

    prompt_tokens: int
    prompt_unit_price: str
    prompt_price_unit: str
    prompt_price: str
    completion_tokens: int
    completion_unit_price: str
    completion_price_unit: str
    completion_price: str
    total_tokens: int
    total_price: str
    currency: str
    latency: float


class AnswerMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Details of how an answer was produced."""

    usage: Usage
    retriever_resources: list[dict[str, Any]]
    """The retrieved segments that the answer is based on."""
    annotation_reply: dict[str, Any] = {}
    """The annotation that answered instead of the model."""
    reasoning: dict[str, str] = {}


class CompletionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The complete answer of a completion app."""

    event: str
    task_id: str
    id: str
    message_id: str
    mode: str
    answer: str
    metadata: AnswerMetadata
    created_at: int


class ChatAnswer(CompletionAnswer, frozen=True, kw_only=True):
    """The complete answer of a chat app."""

    conversation_id: str


class FinishedWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a workflow run."""

    id: str
    workflow_id: str | None
    status: str
    outputs: dict[str, Any]
    error: str | None
    elapsed_time: float
    total_tokens: int
    total_steps: int
    created_by: dict[str, str]
    created_at: int
    finished_at: int
    exceptions_count: int
    files: list[dict[str, Any]]


class WorkflowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The complete response of a workflow app."""

    task_id: str
    workflow_run_id: str
    data: FinishedWorkflow


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation of a request without other content."""

    result: str = "success"


class RunShown(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a workflow or chatflow."""

    id: str
    workflow_id: str | None
    status: str
    inputs: str
    """The inputs as JSON text."""
    outputs: dict[str, Any]
    error: str | None
    total_steps: int
    total_tokens: int
    created_at: int
    finished_at: int | None
    elapsed_time: float


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the log lists it."""

    id: str
    version: str
    status: str
    error: str | None
    elapsed_time: float
    total_tokens: int
    total_steps: int
    created_at: int
    finished_at: int | None
    exceptions_count: int
    triggered_from: str = "app-run"


class EndUserSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The end user that a run was started for."""

    id: str
    type: str
    is_anonymous: bool
    session_id: str
    """The name under which the app's caller knows the user."""


class LogShown(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the log of workflow runs."""

    id: str
    workflow_run: RunSummary
    created_from: str
    created_by_role: str
    created_by_account: None
    created_by_end_user: EndUserSummary
    created_at: int
    details: None


class FormShown(msgspec.Struct, frozen=True, kw_only=True):
    """A human-input form that a run waits for."""

    form_content: str
    inputs: list[dict[str, Any]]
    user_actions: list[dict[str, Any]]
    resolved_default_values: dict[str, Any]
    expiration_time: int


# ------------------------------------------------------------ stored records


class MessageFileShown(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a message."""

    id: str
    filename: str | None
    type: str | None
    url: str | None
    mime_type: str | None
    size: int | None
    transfer_method: str | None
    belongs_to: str
    upload_file_id: str | None


class Rating(msgspec.Struct, frozen=True, kw_only=True):
    """The rating of a message: like or dislike."""

    rating: str


class MessageShown(msgspec.Struct, frozen=True, kw_only=True):
    """A question with its answer."""

    id: str
    conversation_id: str
    parent_message_id: str
    inputs: dict[str, Any]
    query: str
    answer: str
    status: str
    error: str | None
    message_files: list[MessageFileShown]
    feedback: Rating | None
    retriever_resources: list[dict[str, Any]]
    agent_thoughts: list[dict[str, Any]]
    created_at: int
    extra_contents: list[dict[str, Any]]
    total_tokens: int
    message_tokens: int
    answer_tokens: int
    provider_response_latency: float
    total_price: str
    currency: str


class FeedbackShown(msgspec.Struct, frozen=True, kw_only=True):
    """A rating with the user's comment."""

    id: str
    app_id: str
    conversation_id: str
    message_id: str
    rating: str
    content: str
    from_source: str
    from_end_user_id: str
    from_account_id: None
    created_at: str | None
    """ISO 8601, as is `updated_at`."""
    updated_at: str | None


class SuggestedQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """Questions that the user may ask next."""

    data: list[str]
    result: str = "success"


class ConversationShown(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation of one user."""

    id: str
    name: str
    inputs: dict[str, Any]
    status: str
    introduction: str
    created_at: int
    updated_at: int


class VariableShown(msgspec.Struct, frozen=True, kw_only=True):
    """A variable of a conversation."""

    id: str | None
    name: str
    value_type: str | None
    value: str
    """Text as it is; any other value as JSON."""
    description: str
    created_at: int
    updated_at: int


class AnnotationShown(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared answer, with the number of times it was used."""

    id: str
    question: str
    answer: str
    hit_count: int
    created_at: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A background job and its status."""

    job_id: str
    job_status: str


class JobStatus(Job, frozen=True, kw_only=True):
    """A job with its error message; empty if it succeeded."""

    error_msg: str


# ------------------------------------------------------------ the app itself


class FileShown(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded file."""

    id: str
    reference: str
    name: str
    size: int
    extension: str
    mime_type: str
    created_by: str
    created_at: int
    preview_url: None
    source_url: str
    user_id: str
    tenant_id: str
    conversation_id: None
    file_key: None
    original_url: None


class EndUserShown(msgspec.Struct, frozen=True, kw_only=True):
    """A user of the app."""

    id: str
    tenant_id: str
    app_id: str
    type: str
    external_user_id: str
    name: None
    is_anonymous: bool
    session_id: str
    created_at: str | None
    """ISO 8601, as is `updated_at`."""
    updated_at: str | None


class AppInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Name and kind of an app."""

    name: str
    description: str
    tags: list[str]
    mode: str
    author_name: str


class SystemParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of uploads: file sizes in MB, and the number of files."""

    file_size_limit: int
    image_file_size_limit: int
    audio_file_size_limit: int
    video_file_size_limit: int
    workflow_file_upload_limit: int


class AppParameters(msgspec.Struct, frozen=True, kw_only=True):
    """An app's features as its file configures them, and its input form."""

    opening_statement: str
    suggested_questions: list[str]
    suggested_questions_after_answer: dict[str, Any]
    speech_to_text: dict[str, Any]
    text_to_speech: dict[str, Any]
    retriever_resource: dict[str, Any]
    annotation_reply: dict[str, Any]
    more_like_this: dict[str, Any]
    sensitive_word_avoidance: dict[str, Any]
    file_upload: dict[str, Any]
    user_input_form: list[dict[str, Any]]
    """One object per control, keyed by the control's type."""
    system_parameters: SystemParameters


class AppMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Presentation data of the app's tools."""

    tool_icons: dict[str, Any]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Appearance of the app's page."""

    title: str
    chat_color_theme: None
    chat_color_theme_inverted: bool
    icon_type: str
    icon: str
    icon_background: str
    icon_url: None
    description: str
    copyright: None
    privacy_policy: None
    input_placeholder: None
    custom_disclaimer: str
    default_language: str
    show_workflow_steps: bool
    use_icon_as_answer_icon: bool


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a recording."""

    text: str
