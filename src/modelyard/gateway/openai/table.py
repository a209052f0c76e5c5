"""Route table of OpenAI's API."""

from modelyard.base.clock import Clock
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.openai import (
    audio,
    chat_completions,
    completions,
    embeddings,
    models,
    moderations,
    responses,
    schemas,
)
from modelyard.gateway.openai.hosted_tools import HostedTools
from modelyard.gateway.table import (
    DEVELOPER,
    Api,
    Content,
    OneOf,
    Row,
    Schema,
    json_or_events,
)
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.response_store import ResponseStore


def api(
    manager: ModelManager, store: ResponseStore, clock: Clock, hosted: HostedTools
) -> Api:
    """Return OpenAI's API for the models of `manager`. Responses are stored in `store`."""
    rows = (
        *_completion_rows(manager, clock),
        *_response_rows(manager, store, clock, hosted),
        *_text_model_rows(manager),
        *_audio_rows(manager),
        *_model_list_rows(manager),
    )
    return Api(
        name="openai",
        title="OpenAI's API",
        about="Chat, responses, embeddings, audio, moderation: for OpenAI's clients.",
        prefixes=("/v1",),
        errors=OPENAI,
        rows=rows,
    )


def _completion_rows(manager: ModelManager, clock: Clock) -> tuple[Row, ...]:
    """Return the rows of chat and text completions."""
    return (
        Row(
            method="POST",
            path="/v1/chat/completions",
            auth=DEVELOPER,
            summary="Create a chat completion.",
            takes=Schema(schemas.CHAT_REQUEST),
            answer=json_or_events(schemas.CHAT_ANSWER),
            handler=chat_completions.Route(manager, clock),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/completions",
            auth=DEVELOPER,
            summary="Complete a text.",
            takes=Schema(schemas.COMPLETION_REQUEST),
            answer=json_or_events(schemas.COMPLETION_ANSWER),
            handler=completions.Route(manager, clock),
            calls_model=True,
        ),
    )


def _response_rows(
    manager: ModelManager, store: ResponseStore, clock: Clock, hosted: HostedTools
) -> tuple[Row, ...]:
    """Return the rows of the Responses API."""
    stored_responses = responses.StoredResponses(store)
    return (
        Row(
            method="POST",
            path="/v1/responses",
            auth=DEVELOPER,
            summary="Create a response, and store it unless `store` is false.",
            takes=Schema(schemas.RESPONSE_REQUEST),
            answer=json_or_events(schemas.RESPONSE_ANSWER),
            handler=responses.CreateRoute(manager, clock, store, hosted),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/responses/input_tokens",
            auth=DEVELOPER,
            summary="Count the input tokens of a request.",
            takes=Schema(schemas.RESPONSE_REQUEST),
            answer=Schema(schemas.INPUT_TOKENS),
            handler=responses.CountRoute(manager),
        ),
        Row(
            method="GET",
            path="/v1/responses/{response}",
            auth=DEVELOPER,
            summary="Get a stored response.",
            answer=Schema(schemas.RESPONSE_ANSWER),
            handler=stored_responses.get,
        ),
        Row(
            method="DELETE",
            path="/v1/responses/{response}",
            auth=DEVELOPER,
            summary="Delete a stored response.",
            answer=Schema(schemas.RESPONSE_REMOVED),
            handler=stored_responses.remove,
        ),
        Row(
            method="GET",
            path="/v1/responses/{response}/input_items",
            auth=DEVELOPER,
            summary="List the input items of a stored response.",
            answer=Schema(schemas.INPUT_ITEMS),
            handler=stored_responses.input_items,
        ),
    )


def _text_model_rows(manager: ModelManager) -> tuple[Row, ...]:
    """Return the rows of embeddings and moderation."""
    return (
        Row(
            method="POST",
            path="/v1/embeddings",
            auth=DEVELOPER,
            summary="Create embeddings of texts.",
            takes=Schema(schemas.EMBEDDING_REQUEST),
            answer=Schema(schemas.EMBEDDING_ANSWER),
            handler=embeddings.Route(manager),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/moderations",
            auth=DEVELOPER,
            summary="Classify texts for harmful content.",
            takes=Schema(schemas.MODERATION_REQUEST),
            answer=Schema(schemas.MODERATION_ANSWER),
            handler=moderations.Route(manager),
            calls_model=True,
        ),
    )


def _audio_rows(manager: ModelManager) -> tuple[Row, ...]:
    """Return the rows of speech synthesis and transcription."""
    # Both routes differ only in the task.
    transcription = audio.TranscriptionRoute(manager)
    translation = audio.TranscriptionRoute(manager, task="translate")
    return (
        Row(
            method="POST",
            path="/v1/audio/speech",
            auth=DEVELOPER,
            summary="Synthesize speech from a text.",
            takes=Schema(schemas.SPEECH_REQUEST),
            answer=Content("audio/*"),
            handler=audio.SpeechRoute(manager),
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/audio/transcriptions",
            auth=DEVELOPER,
            summary="Transcribe an audio file.",
            takes=Content("multipart/form-data"),
            answer=OneOf((Schema(schemas.TRANSCRIPTION), Content("text/plain"))),
            handler=transcription,
            calls_model=True,
        ),
        Row(
            method="POST",
            path="/v1/audio/translations",
            auth=DEVELOPER,
            takes=Content("multipart/form-data"),
            answer=OneOf((Schema(schemas.TRANSCRIPTION), Content("text/plain"))),
            handler=translation,
            calls_model=True,
            summary="Translate an audio file into English text.",
        ),
    )


def _model_list_rows(manager: ModelManager) -> tuple[Row, ...]:
    """Return the rows that list models."""
    return (
        Row(
            method="GET",
            path="/v1/models",
            auth=DEVELOPER,
            summary="List the models that the caller may call.",
            answer=Schema(schemas.MODELS),
            is_of_several_vendors=True,
            handler=models.ListRoute(manager),
        ),
        Row(
            method="GET",
            path="/v1/models/{model:path}",
            auth=DEVELOPER,
            summary="Get one model.",
            answer=Schema(schemas.ANY_MODEL),
            is_of_several_vendors=True,
            handler=models.OneRoute(manager),
        ),
    )
