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
    stored_responses = responses.StoredResponses(store)
    # Both routes differ only in the task.
    transcription = audio.TranscriptionRoute(manager)
    translation = audio.TranscriptionRoute(manager, task="translate")
    rows = (
        Row(
            method="POST",
            path="/v1/chat/completions",
            auth=DEVELOPER,
            summary="Answer a chat.",
            takes=Schema(schemas.CHAT_REQUEST),
            answer=json_or_events(schemas.CHAT_ANSWER),
            handler=chat_completions.Route(manager, clock),
        ),
        Row(
            method="POST",
            path="/v1/completions",
            auth=DEVELOPER,
            summary="Go on with a text.",
            takes=Schema(schemas.COMPLETION_REQUEST),
            answer=json_or_events(schemas.COMPLETION_ANSWER),
            handler=completions.Route(manager, clock),
        ),
        Row(
            method="POST",
            path="/v1/responses",
            auth=DEVELOPER,
            summary="Answer a chat with items, and keep it.",
            takes=Schema(schemas.RESPONSE_REQUEST),
            answer=json_or_events(schemas.RESPONSE_ANSWER),
            handler=responses.CreateRoute(manager, clock, store, hosted),
        ),
        Row(
            method="POST",
            path="/v1/responses/input_tokens",
            auth=DEVELOPER,
            summary="Count a request's tokens.",
            takes=Schema(schemas.RESPONSE_REQUEST),
            answer=Schema(schemas.INPUT_TOKENS),
            handler=responses.CountRoute(manager),
        ),
        Row(
            method="GET",
            path="/v1/responses/{response}",
            auth=DEVELOPER,
            summary="Get a response that was kept.",
            answer=Schema(schemas.RESPONSE_ANSWER),
            handler=stored_responses.get,
        ),
        Row(
            method="DELETE",
            path="/v1/responses/{response}",
            auth=DEVELOPER,
            summary="Remove a response.",
            answer=Schema(schemas.RESPONSE_REMOVED),
            handler=stored_responses.remove,
        ),
        Row(
            method="GET",
            path="/v1/responses/{response}/input_items",
            auth=DEVELOPER,
            summary="List what a response answered.",
            answer=Schema(schemas.INPUT_ITEMS),
            handler=stored_responses.input_items,
        ),
        Row(
            method="POST",
            path="/v1/embeddings",
            auth=DEVELOPER,
            summary="Turn texts into vectors.",
            takes=Schema(schemas.EMBEDDING_REQUEST),
            answer=Schema(schemas.EMBEDDING_ANSWER),
            handler=embeddings.Route(manager),
        ),
        Row(
            method="POST",
            path="/v1/moderations",
            auth=DEVELOPER,
            summary="Say what in a text may do harm.",
            takes=Schema(schemas.MODERATION_REQUEST),
            answer=Schema(schemas.MODERATION_ANSWER),
            handler=moderations.Route(manager),
        ),
        Row(
            method="POST",
            path="/v1/audio/speech",
            auth=DEVELOPER,
            summary="Speak a text.",
            takes=Schema(schemas.SPEECH_REQUEST),
            answer=Content("audio/*"),
            handler=audio.SpeechRoute(manager),
        ),
        Row(
            method="POST",
            path="/v1/audio/transcriptions",
            auth=DEVELOPER,
            summary="Write down what is spoken.",
            takes=Content("multipart/form-data"),
            answer=OneOf((Schema(schemas.TRANSCRIPTION), Content("text/plain"))),
            handler=transcription,
        ),
        Row(
            method="POST",
            path="/v1/audio/translations",
            auth=DEVELOPER,
            takes=Content("multipart/form-data"),
            answer=OneOf((Schema(schemas.TRANSCRIPTION), Content("text/plain"))),
            handler=translation,
            summary="Write down what is spoken, in English.",
        ),
        Row(
            method="GET",
            path="/v1/models",
            auth=DEVELOPER,
            summary="List the models that the caller may call.",
            answer=Schema(schemas.MODELS),
            handler=models.ListRoute(manager),
        ),
        Row(
            method="GET",
            path="/v1/models/{model:path}",
            auth=DEVELOPER,
            summary="Get one model.",
            answer=Schema(schemas.MODEL),
            handler=models.OneRoute(manager),
        ),
    )
    description = (
        "Chat, responses, embeddings, audio, moderation: for OpenAI's clients."
    )
    return Api(
        name="openai",
        title="OpenAI's API",
        about=description,
        prefixes=("/v1",),
        errors=OPENAI,
        rows=rows,
    )
