"""Drive the models of a plugin through the gateway, against played vendors: everything
that a caller does with a model, for each type that the plugin declares."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from modelyard.base.errors import (
    InvokeAuthorizationError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
    PluginError,
)
from modelyard.models.entities import AIModelEntity, ModelFeature
from modelyard.models.provider import CredentialFormSchema, FormType, ProviderEntity
from modelyard.models.types import ModelType
from modelyard.plugins.declaration import Declaration
from modelyard.plugins.model_errors import as_invoke_error
from tools.show.played_vendors import CITIES, THOUGHT

PLAYED_URL = "https://played.example/v1"
"""Where plugins whose address can be set find their vendor."""
GOOD_KEY = "good"
OWN_MODEL = "own"
"""The name of a model that only the tenant knows."""
_FAULTS: Mapping[str, type[InvokeError]] = {
    "bad": InvokeAuthorizationError,
    "limited": InvokeRateLimitError,
    "broken": InvokeServerUnavailableError,
}
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
_THINKING_RULES = ("thinking", "enable_thinking", "include_thoughts", "reasoning")


class Gateway(Protocol):
    """A running gateway in which the plugin is installed."""

    client: httpx.Client

    def call(
        self, plugin: str, call_type: str, action: str, **data: Any
    ) -> Sequence[Any]:
        """Call the plugin and return its answers. Raises PluginError."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """How a model plugin is driven. Everything that has a default is found out from
    the plugin's declaration."""

    folder: str
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    """Values of the credential form that differ from what its fields suggest."""
    llm: str = ""
    thinker: str = ""
    """The models to talk to, and to ask for thoughts."""
    thinking: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The parameters that turn thoughts on, if they are not switches."""
    lacks: tuple[str, ...] = ()
    """What the vendor or the plugin does not offer, by the name of the check."""


class Failure(AssertionError):
    """An answer is not what it should be."""


def expect(condition: object, text: object) -> None:
    """Raise Failure with the text unless the condition holds."""
    if not condition:
        raise Failure(str(text)[:300])


class ModelDriver:
    """Drives one plugin."""

    def __init__(
        self, case: ModelCase, gateway: Gateway, declared: Declaration, provider: str
    ) -> None:
        """`provider` is the name that the provider has in this tenant."""
        assert declared.model is not None
        self._case = case
        self._gateway = gateway
        self._plugin = declared.manifest.id
        self._entity: ProviderEntity = declared.model.entity
        self._provider = provider
        schema = self._entity.provider_credential_schema
        self._is_custom = schema is None or not schema.credential_form_schemas
        forms = self._entity.model_forms if self._is_custom else schema.credential_form_schemas  # pyright: ignore[reportOptionalMemberAccess]  # fmt: skip
        self._forms: Sequence[CredentialFormSchema] = forms

    # credentials

    def values(self, key: str = GOOD_KEY) -> dict[str, str]:
        """Return a filled-in credential form."""
        filled = {form.variable: _value_of(form, key) for form in self._forms}
        return {**filled, **self._case.values, **self._secrets(key)}

    def _secrets(self, key: str) -> dict[str, str]:
        secrets = [
            form.variable for form in self._forms if form.type == FormType.SECRET_INPUT
        ]
        return {name: key for name in secrets if name not in self._case.values}

    def model(self, model_type: ModelType) -> str:
        """Return the name of a model of a type: the one with the most features."""
        if self._is_custom:
            return OWN_MODEL
        if model_type is ModelType.LLM and self._case.llm:
            return self._case.llm
        models = self._entity.models
        listed = [entity for entity in models if entity.model_type == model_type]
        return max(listed, key=_usefulness).model if listed else ""

    def _thinker(self) -> tuple[str, dict[str, Any]]:
        """Return the model for thoughts, and the parameters that turn them on."""
        name = self._case.thinker
        if self._case.thinking:
            return name, dict(self._case.thinking)
        thinking = [
            entity
            for entity in self._entity.models
            if entity.model_type == ModelType.LLM
            and (entity.model == name if name else _switches(entity))
        ]
        if not thinking:
            return name or self.model(ModelType.LLM), {}
        return thinking[0].model, dict.fromkeys(_switches(thinking[0]), True)

    def check_good_credentials(self) -> None:
        """Good credentials are accepted, and stored."""
        for model_type in self._entity.supported_model_types:
            fields = self._model_fields(model_type)
            answered = self._check(self.values(), fields)
            expect(answered.get("works"), answered)
            body = {
                "name": f"{self._provider}-{model_type.value}",
                "provider": self._provider,
                "values": self.values(),
                **fields,
            }
            added = self._gateway.client.post("/admin/v1/credentials", json=body)
            expect(added.status_code == 201, added.text)
            if not fields:
                return

    def check_bad_credentials(self) -> None:
        """Credentials that the vendor refuses are refused."""
        fields = self._model_fields(self._entity.supported_model_types[0])
        answered = self._check(self.values("bad"), fields)
        expect(answered.get("works") is False, answered)

    def _model_fields(self, model_type: ModelType) -> dict[str, str]:
        """Return the fields that name a model, if credentials belong to one."""
        if not self._is_custom:
            return {}
        return {"model": OWN_MODEL, "model_type": model_type.value}

    def _check(self, values: Mapping[str, str], fields: Mapping[str, str]) -> Any:
        path = f"/admin/v1/providers/{self._provider}/check"
        response = self._gateway.client.post(path, json={"values": values, **fields})
        return response.json()

    # chat

    def _ask(self, messages: Any, model: str = "", **fields: Any) -> Any:
        """Return the choice of an answer in one piece."""
        response = self._gateway.client.post(
            "/v1/chat/completions", json=self._body(messages, model, **fields)
        )
        expect(response.status_code == 200, response.text)
        return response.json()["choices"][0] | {"usage": response.json().get("usage")}

    def _body(self, messages: Any, model: str, **fields: Any) -> dict[str, Any]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        name = model or self.model(ModelType.LLM)
        return {"model": f"{self._provider}/{name}", "messages": messages, **fields}

    def check_chat(self) -> None:
        """An answer in one piece has a text, a reason and the usage."""
        choice = self._ask("hello")
        expect(choice["message"]["content"] == "You said: hello", choice)
        expect(choice["finish_reason"] == "stop", choice)
        expect(choice["usage"]["completion_tokens"] > 0, choice)

    def _stream(self, messages: Any, model: str = "", **fields: Any) -> Any:
        """Return the choice that a stream adds up to."""
        body = self._body(messages, model, stream=True, **fields)
        body["stream_options"] = {"include_usage": True}
        with self._gateway.client.stream(
            "POST", "/v1/chat/completions", json=body
        ) as response:
            lines = list(response.iter_lines())
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        errors = [event["error"] for event in events if "error" in event]
        expect(response.status_code == 200 and not errors, errors or lines)
        return _folded(events)

    def check_stream(self) -> None:
        """A stream adds up to the same."""
        choice = self._stream("hello")
        expect(choice["message"]["content"] == "You said: hello", choice)
        expect(choice["finish_reason"] == "stop", choice)
        expect(choice["usage"]["completion_tokens"] > 0, choice)

    def check_tools(self) -> None:
        """Two parallel calls keep their arguments and ids, and their results go back."""
        for stream in (False, True):
            first = self._ask_for_calls(stream=stream)
            calls = first["tool_calls"]
            cities = [
                json.loads(call["function"]["arguments"])["city"] for call in calls
            ]
            expect(cities == list(CITIES), calls)
            expect(len({call["id"] for call in calls}) == len(calls), calls)
            results = [
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "content": f"sun in {city}",
                }
                for call, city in zip(calls, cities, strict=True)
            ]
            messages = [{"role": "user", "content": "tools"}, first, *results]
            answered = self._ask(messages, tools=[_WEATHER])["message"]["content"]
            expect(all(f"sun in {city}" in answered for city in CITIES), answered)

    def _ask_for_calls(self, *, stream: bool) -> dict[str, Any]:
        """Return the message with the calls of tools, whole or folded from a stream."""
        ask = self._stream if stream else self._ask
        choice = ask("tools", tools=[_WEATHER])
        expect(choice["finish_reason"] == "tool_calls", choice)
        expect(choice["message"].get("tool_calls"), choice)
        return choice["message"]

    def check_json(self) -> None:
        """JSON mode gives JSON, whether the model has a parameter for it or not."""
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        formats: Sequence[Any] = (
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
        )
        for response_format in formats:
            choice = self._ask("Answer with JSON.", response_format=response_format)
            document = json.loads(choice["message"]["content"])
            expect(document == {"city": "Paris"}, choice)

    def check_thoughts(self) -> None:
        """Thoughts are apart from the text, and the plugin gets them back."""
        model, parameters = self._thinker()
        # Not all plugins pass thoughts on without a stream.
        first = self._stream("think", model, **parameters)["message"]
        expect(THOUGHT in str(first.get("reasoning_content")), first)
        expect(first["content"] == "Thought.", first)
        messages = [
            {"role": "user", "content": "think"},
            first,
            {"role": "user", "content": "again"},
        ]
        second = self._stream(messages, model, **parameters)["message"]
        expect(second["content"] in ("with", "without"), second)
        self.returns_thoughts = second["content"]

    returns_thoughts = ""
    """Whether the vendor got the thoughts of the first answer with the second request;
    many plugins remove them, as their vendors ask for."""

    def check_faults(self) -> None:
        """Refusals, limits and failures of the vendor are told apart."""
        for key, expected in _FAULTS.items():
            for stream in (True, False):
                error = self._fault(key, stream=stream)
                expect(isinstance(error, expected), f"{key}: {error!r}")

    def _fault(self, key: str, *, stream: bool) -> InvokeError | None:
        data = {
            "provider": self._entity.provider,
            "model_type": "llm",
            "model": self.model(ModelType.LLM),
            "credentials": self.values(key),
            "prompt_messages": [{"role": "user", "content": "hello"}],
            "model_parameters": {},
            "tools": None,
            "stop": None,
            "stream": stream,
        }
        try:
            self._gateway.call(self._plugin, "model", "invoke_llm", **data)
        except PluginError as error:
            return as_invoke_error(error, self._provider)
        return None

    # the other types

    def check_embeddings(self) -> None:
        """Texts come back as vectors in their order, also more than one call takes."""
        texts = ["apple", "b", "avocado", "dd", "ee"] * 5
        body = {"model": self._name(ModelType.TEXT_EMBEDDING), "input": texts}
        answered = self._post("/v1/embeddings", body).json()
        vectors = [entry["embedding"] for entry in answered["data"]]
        expect(len(vectors) == len(texts), answered)
        # Plugins may scale vectors, or send tokens; equal texts have equal vectors.
        rounded = [tuple(round(value, 4) for value in vector) for vector in vectors]
        expect(rounded == rounded[:5] * 5, vectors)
        expect(len({*rounded[:5]}) == 5, vectors[:5])

    def check_rerank(self) -> None:
        """Documents are ordered by their scores."""
        docs = ["blue sky", "the cat sat", "a cat"]
        body = {
            "model": self._name(ModelType.RERANK),
            "query": "the cat",
            "documents": docs,
        }
        answered = self._post("/v1/rerank", body).json()
        order = [entry["index"] for entry in answered["results"]]
        expect(order == [1, 2, 0], answered)

    def check_speech(self) -> None:
        """A text becomes a sound."""
        body = {
            "model": self._name(ModelType.TTS),
            "input": "hello",
            "voice": "default",
        }
        answered = self._post("/v1/audio/speech", body)
        expect(answered.content, "no sound")

    def check_transcription(self) -> None:
        """A recording becomes a text."""
        answered = self._gateway.client.post(
            "/v1/audio/transcriptions",
            data={"model": self._name(ModelType.SPEECH2TEXT)},
            files={"file": ("a.mp3", b"RECORDING" * 100)},
        )
        expect(answered.status_code == 200, answered.text)
        expect(answered.json()["text"] == "transcribed", answered.text)

    def check_moderation(self) -> None:
        """A text is flagged, another is not."""
        body = {
            "model": self._name(ModelType.MODERATION),
            "input": ["a bad word", "fine"],
        }
        answered = self._post("/v1/moderations", body).json()
        verdicts = [entry["flagged"] for entry in answered["results"]]
        expect(verdicts == [True, False], answered)

    def _name(self, model_type: ModelType) -> str:
        return f"{self._provider}/{self.model(model_type)}"

    def _post(self, path: str, body: Any) -> httpx.Response:
        response = self._gateway.client.post(path, json=body)
        expect(response.status_code == 200, response.text)
        return response

    # the checks

    def checks(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of this plugin: those of the types that it declares."""
        yield "good credentials", self.check_good_credentials
        if "bad credentials" not in self._case.lacks:
            yield "bad credentials", self.check_bad_credentials
        for model_type in self._entity.supported_model_types:
            if not self.model(model_type):
                continue
            for name in _CHECKS.get(model_type, ()):
                if name not in self._case.lacks:
                    yield name, getattr(self, f"check_{name.replace(' ', '_')}")


_CHECKS: Mapping[ModelType, Sequence[str]] = {
    ModelType.LLM: ("chat", "stream", "tools", "json", "thoughts", "faults"),
    ModelType.TEXT_EMBEDDING: ("embeddings",),
    ModelType.RERANK: ("rerank",),
    ModelType.TTS: ("speech",),
    ModelType.SPEECH2TEXT: ("transcription",),
    ModelType.MODERATION: ("moderation",),
}


def _value_of(form: CredentialFormSchema, key: str) -> str:
    """Return the value of a field of a credential form, by its name and type."""
    name = form.variable.lower()
    if form.options:
        return _chosen(form)
    markers = ("url", "base", "endpoint", "host", "server")
    if any(marker in name for marker in markers):
        return PLAYED_URL
    if any(marker in name for marker in ("context", "token", "chunks")):
        return form.default or "4096"
    return key if "key" in name else form.default or ""


def _chosen(form: CredentialFormSchema) -> str:
    """Return an option of a field: the default, or the one that offers the most."""
    if form.default and "function" not in form.variable.lower():
        return form.default
    values = [option.value for option in form.options or ()]
    wanted = ("tool_call", "support", "supported", "chat", "openai")
    return next((value for value in wanted if value in values), values[0])


def _usefulness(entity: AIModelEntity) -> tuple[bool, bool, int]:
    """Return how suitable a model is to be driven: with tools, and many features."""
    tools = {ModelFeature.TOOL_CALL, ModelFeature.MULTI_TOOL_CALL}
    has_tools = bool(tools & set(entity.features))
    polls = ModelFeature.POLLING in entity.features
    return (not polls, has_tools, len(entity.features))


def _switches(entity: AIModelEntity) -> list[str]:
    """Return the parameters of a model that turn thoughts on."""
    return [
        rule.name
        for rule in entity.parameter_rules
        if rule.name in _THINKING_RULES and rule.type == "boolean"
    ]


def _folded(events: Sequence[Any]) -> dict[str, Any]:
    """Return the choice that the events of a stream add up to, with the usage."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[Any] = []
    parts = [part for event in events for part in event.get("choices") or ()]
    for part in parts:
        _add_delta(message, part["delta"])
        _fold(calls, part["delta"].get("tool_calls") or ())
    if calls:
        message["tool_calls"] = calls
    reasons = [part["finish_reason"] for part in parts if part.get("finish_reason")]
    usages = [event["usage"] for event in events if event.get("usage")]
    return {
        "message": message,
        "finish_reason": reasons[-1] if reasons else None,
        "usage": usages[-1] if usages else None,
    }


def _add_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add the texts and thoughts of a chunk to a message."""
    for name in ("content", "reasoning_content", "reasoning_details"):
        value = delta.get(name)
        if value:
            message[name] = message[name] + value if message.get(name) else value


def _fold(calls: list[Any], fragments: Sequence[Any]) -> None:
    """Add the fragments of calls in a chunk to the calls."""
    for fragment in fragments:
        if fragment["index"] == len(calls):
            function = {"name": "", "arguments": ""}
            calls.append(
                {"id": fragment["id"], "type": "function", "function": function}
            )
        function = calls[fragment["index"]]["function"]
        for name in ("name", "arguments"):
            function[name] += (fragment.get("function") or {}).get(name) or ""
