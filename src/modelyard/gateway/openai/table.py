"""OpenAI's API: what is served of it, and by whom."""

from modelyard.base.clock import Clock
from modelyard.gateway.errors import OPENAI
from modelyard.gateway.openai import audio, chat_completions, completions, embeddings, models, moderations, responses
from modelyard.gateway.openai.hosted_tools import HostedTools
from modelyard.gateway.table import DEVELOPER, Api, Row
from modelyard.runtime.model_manager import ModelManager
from modelyard.runtime.response_store import ResponseStore


def api(manager: ModelManager, store: ResponseStore, clock: Clock, hosted: HostedTools) -> Api:
    """The API on these models; responses are kept in `store`."""
    stored = responses.StoredResponses(store)
    transcription = audio.TranscriptionRoute(manager)
    translation = audio.TranscriptionRoute(manager, task="translate")
    rows = (
        Row(method="POST", path="/v1/chat/completions", auth=DEVELOPER, summary="Answer a chat.",
            handler=chat_completions.Route(manager, clock)),
        Row(method="POST", path="/v1/completions", auth=DEVELOPER, summary="Go on with a text.",
            handler=completions.Route(manager, clock)),
        Row(method="POST", path="/v1/responses", auth=DEVELOPER, summary="Answer a chat with items, and keep it.",
            handler=responses.CreateRoute(manager, clock, store, hosted)),
        Row(method="POST", path="/v1/responses/input_tokens", auth=DEVELOPER, summary="Count a request's tokens.",
            handler=responses.CountRoute(manager)),
        Row(method="GET", path="/v1/responses/{response}", auth=DEVELOPER, summary="Get a response that was kept.",
            handler=stored.get),
        Row(method="DELETE", path="/v1/responses/{response}", auth=DEVELOPER, summary="Remove a response.",
            handler=stored.remove),
        Row(method="GET", path="/v1/responses/{response}/input_items", auth=DEVELOPER,
            summary="List what a response answered.", handler=stored.input_items),
        Row(method="POST", path="/v1/embeddings", auth=DEVELOPER, summary="Turn texts into vectors.",
            handler=embeddings.Route(manager)),
        Row(method="POST", path="/v1/moderations", auth=DEVELOPER, summary="Say what in a text may do harm.",
            handler=moderations.Route(manager)),
        Row(method="POST", path="/v1/audio/speech", auth=DEVELOPER, summary="Speak a text.",
            handler=audio.SpeechRoute(manager)),
        Row(method="POST", path="/v1/audio/transcriptions", auth=DEVELOPER, summary="Write down what is spoken.",
            handler=transcription),
        Row(method="POST", path="/v1/audio/translations", auth=DEVELOPER, handler=translation,
            summary="Write down what is spoken, in English."),
        Row(method="GET", path="/v1/models", auth=DEVELOPER, summary="List the models that the caller may call.",
            handler=models.ListRoute(manager)),
        Row(method="GET", path="/v1/models/{model:path}", auth=DEVELOPER, summary="Get one model.",
            handler=models.OneRoute(manager)),
    )  # fmt: skip
    about = "Chat, responses, embeddings, audio, moderation: for OpenAI's clients."
    return Api(
        name="openai", title="OpenAI's API", about=about,
        prefixes=("/v1",), errors=OPENAI, rows=rows,
    )  # fmt: skip
