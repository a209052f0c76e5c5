"""Conformance checks for plugins: it loads, its declarations are valid, it starts,
answers, streams, survives an abandoned call, and maps its errors. The result is one
line per check, for the plugin's author."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from modelyard.base.errors import ModelyardError, PluginError
from modelyard.base.json_types import EMPTY_OBJECT, is_object
from modelyard.models.types import JSON, ModelType
from modelyard.plugins.connection import PluginCall
from modelyard.plugins.declaration import Declaration, Endpoint, Parameter

_TIMEOUT_SECONDS = 60.0
_KNOWN_ERRORS = frozenset(
    {
        "InvokeConnectionError",
        "InvokeServerUnavailableError",
        "InvokeRateLimitError",
        "InvokeAuthorizationError",
        "InvokeBadRequestError",
        "InvokeError",
        "CredentialsValidateFailedError",
        "ValidationError",
        "ValueError",
    }
)


class Finding(NamedTuple):
    """The result of one check."""

    check_name: str
    has_passed: bool | None
    """True if passed, False if failed, None if it could not be tried."""
    detail: str = ""


Ask = Callable[[PluginCall], AsyncGenerator[JSON, None]]


async def run_checks(
    declaration: Declaration, ask: Ask, credentials: JSON
) -> list[Finding]:
    """Run all checks that apply to the plugin and return their findings.

    `ask` sends a call to the plugin, `credentials` is the provider's filled-in form.
    Real requests are made, which may cost money. Failed checks are findings; an error
    is only raised if a language model fails during the streaming checks.
    """
    examiner = _CheckRunner(declaration, ask, credentials)
    await examiner.run()
    return examiner.findings


class _CheckRunner:
    def __init__(self, declaration: Declaration, ask: Ask, credentials: JSON) -> None:
        self._declaration = declaration
        self._ask = ask
        self._credentials = credentials
        # Reaching this point means that the declaration could be loaded.
        self.findings: list[Finding] = [
            Finding("its files are valid", True, ", ".join(declaration.providers))
        ]

    async def run(self) -> None:
        """Run the checks for each kind of provider that the plugin declares."""
        declaration = self._declaration
        if declaration.model is not None:
            await self._check_models()
        if declaration.tool is not None:
            await self._check_tools()
        if declaration.agent_strategy is not None:
            for strategy in declaration.agent_strategy.strategies:
                # A strategy calls models and tools, which this check does not have.
                self._add_finding(
                    f"strategy {strategy.identity.name}",
                    None,
                    "requires a model and tools; test it in an app",
                )
        if declaration.endpoint is not None:
            await self._check_endpoints()
        if declaration.datasource is not None:
            await self._check_call(
                "datasource credentials",
                "datasource",
                "validate_datasource_credentials",
                provider=declaration.datasource.identity.name,
            )
        if declaration.trigger is not None:
            await self._check_call(
                "trigger credentials",
                "trigger",
                "validate_trigger_credentials",
                provider=declaration.trigger.identity.name,
            )

    def _add_finding(
        self, check_name: str, is_good: bool | None, detail: str = ""
    ) -> None:
        self.findings.append(Finding(check_name, is_good, detail))

    def _call(
        self, call_type: str, action: str, **data: Any
    ) -> AsyncGenerator[JSON, None]:
        """Send a request to the plugin and return the stream of its answers.

        `data` has the fields of the action. The request is made for the tenant
        `default` with all permissions that the manifest requests. The caller must close
        the stream.
        """
        return self._ask(
            PluginCall(
                tenant="default",
                plugin=self._declaration.manifest.id,
                permissions=self._declaration.manifest.permissions,
                user="conformity",
                type=call_type,
                action=action,
                data=data,
            )
        )

    async def _collect_answers(
        self, call_type: str, action: str, **data: Any
    ) -> list[JSON]:
        """Send a request to the plugin and return all its answers.

        Raises TimeoutError if the answers have not ended within 60 seconds, and
        ModelyardError if the plugin reports an error or dies.
        """
        async with (
            asyncio.timeout(_TIMEOUT_SECONDS),
            aclosing(self._call(call_type, action, **data)) as answers,
        ):
            return [answer async for answer in answers]

    async def _check_call(
        self, check_name: str, call_type: str, action: str, **data: Any
    ) -> bool:
        """Record whether a call with the tested credentials gets an answer.

        Returns the verdict. An error of the plugin or a timeout fails the check, with
        its message as the detail, and is not raised.
        """
        try:
            answers = await self._collect_answers(
                call_type, action, credentials=self._credentials, **data
            )
        except (ModelyardError, TimeoutError) as error:
            self._add_finding(check_name, False, str(error) or "no response in time")
            return False
        self._add_finding(check_name, bool(answers), "" if answers else "no response")
        return bool(answers)

    # models

    async def _check_models(self) -> None:
        """Check the provider's credentials, its first eight models and its errors.

        Each model must answer a sample request of its type; language models are then
        checked for streaming. Errors of the streaming checks are not caught. Does
        nothing if the plugin has no model provider.
        """
        model = self._declaration.model
        if model is None:
            return
        await self._check_call(
            "provider credentials",
            "model",
            "validate_provider_credentials",
            provider=model.name,
        )
        # A few models are enough; each call may cost money.
        for model_entity in model.entity.models[:8]:
            common = {
                "provider": model.name,
                "model_type": model_entity.model_type.value,
                "model": model_entity.model,
                "credentials": self._credentials,
            }
            name = f"{model_entity.model_type.value} {model_entity.model}"
            action, data, count = _MODEL_CHECKS[model_entity.model_type]
            try:
                answers = await self._collect_answers("model", action, **common, **data)
                self._add_finding(
                    f"{name} answers",
                    bool(answers),
                    count(answers) if answers else "no response",
                )
            except (ModelyardError, TimeoutError) as error:
                self._add_finding(
                    f"{name} answers", False, str(error) or "no response in time"
                )
                continue
            # Streaming applies to language models only.
            if model_entity.model_type is ModelType.LLM:
                await self._check_chat(name, common)
        await self._check_error_types(model.name)

    async def _check_chat(self, name: str, common: JSON) -> None:
        """Check streaming, usage and cancellation of a language model.

        There must be more than one chunk, usage in exactly one of them, and a finish
        reason. `name` begins each finding; `common` has provider, model and
        credentials. Raises ModelyardError or TimeoutError if a call fails.
        """
        request_data = {**common, **_CHAT, "stream": True}
        chunks = await self._collect_answers("model", "invoke_llm", **request_data)
        usage = [
            chunk
            for chunk in chunks
            if ((chunk.get("delta") or EMPTY_OBJECT).get("usage"))
        ]
        reasons = [
            chunk
            for chunk in chunks
            if ((chunk.get("delta") or EMPTY_OBJECT).get("finish_reason"))
        ]
        # Streaming needs more than one chunk; usage must occur exactly once, or calls
        # are billed wrongly.
        self._add_finding(f"{name} streams", len(chunks) > 1, f"{len(chunks)} chunks")
        self._add_finding(
            f"{name} reports usage",
            len(usage) == 1,
            f"usage in {len(usage)} chunks; expected one",
        )
        self._add_finding(f"{name} reports a finish reason", bool(reasons))
        # Abandon a call after its first chunk; the plugin must serve the next one.
        stream = self._call("model", "invoke_llm", **request_data)
        await anext(stream, None)
        await stream.aclose()
        later_answers = await self._collect_answers(
            "model", "get_llm_num_tokens", **{**common, **_CHAT}
        )
        self._add_finding(
            f"{name} keeps working after a cancelled call", bool(later_answers)
        )

    async def _check_error_types(self, provider: str) -> None:
        """Check that an invalid request is reported as an error of a known type."""
        data: JSON = {
            "provider": provider,
            "model_type": "llm",
            "model": "",
            "credentials": {},
            **_CHAT,
            "stream": False,
        }
        try:
            await self._collect_answers(
                "model",
                "invoke_llm",
                **{**data, "prompt_messages": [{"role": "nobody"}]},
            )
        except PluginError as error:
            self._add_finding(
                "errors have types that callers know",
                error.kind in _KNOWN_ERRORS,
                error.kind,
            )
        except (ModelyardError, TimeoutError) as error:
            self._add_finding(
                "errors have types that callers know",
                False,
                str(error) or "no response in time",
            )
        else:
            self._add_finding(
                "errors have types that callers know",
                False,
                "a message with an unknown role was accepted",
            )

    # tools and endpoints

    async def _check_tools(self) -> None:
        """Check the tool provider's credentials and call each of its tools once.

        Parameters get their defaults, or a sample value if they are required. A tool
        passes if it sends any answer. Does nothing if the plugin has no tools.
        """
        provider = self._declaration.tool
        if provider is None:
            return
        name = provider.identity.name
        await self._check_call(
            "tool credentials", "tool", "validate_tool_credentials", provider=name
        )
        for tool in provider.tools:
            parameters = dict(_sample_values(tool.parameters))
            await self._check_call(
                f"tool {tool.identity.name}",
                "tool",
                "invoke_tool",
                provider=name,
                tool=tool.identity.name,
                credential_type="api-key",
                tool_parameters=parameters,
            )

    async def _check_endpoints(self) -> None:
        """Send one HTTP request to each endpoint of the plugin.

        Settings get their defaults, or `x` without one. Does nothing if the plugin has
        no endpoints.
        """
        group = self._declaration.endpoint
        if group is None:
            return
        settings = {field.name: field.default or "x" for field in group.settings}
        for endpoint in group.endpoints:
            await self._check_endpoint(endpoint, settings)

    async def _check_endpoint(
        self, endpoint: Endpoint, settings: Mapping[str, Any]
    ) -> None:
        """Send a request to an endpoint; any answer but a server error passes."""
        # A raw HTTP request is what endpoints receive in production.
        request = (
            f"{endpoint.method} {endpoint.path.replace('<', '').replace('>', '')}"
            " HTTP/1.1\r\nhost: localhost\r\n"
        )
        raw = f"{request}content-length: 0\r\n\r\n".encode().hex()
        check_name = f"endpoint {endpoint.method} {endpoint.path}"
        try:
            answers = await self._collect_answers(
                "endpoint", "invoke_endpoint", raw_http_request=raw, settings=settings
            )
            status = answers[0].get("status") if answers else None
            # A client error is acceptable, since the request is made up.
            self._add_finding(
                check_name,
                status is not None and int(status) < 500,
                f"status {status}",
            )
        except (ModelyardError, TimeoutError) as error:
            self._add_finding(check_name, False, str(error) or "no response in time")


def _sample_values(parameters: Iterable[Parameter]) -> Iterable[tuple[str, Any]]:
    """Yield (name, value) for each parameter that must have a value."""
    for parameter in parameters:
        if parameter.default is not None:
            yield parameter.name, parameter.default
        elif parameter.required:
            options = parameter.options
            # Any value of the right type will do: the tool only has to answer.
            first = (
                options[0].get("value") if options and is_object(options[0]) else None
            )
            samples: JSON = {"number": 1, "boolean": True, "array": [], "object": {}}
            yield parameter.name, first or samples.get(parameter.type, "text")


_CHAT: JSON = {
    "prompt_messages": [{"role": "user", "content": "Say hello to the world."}],
    "model_parameters": {},
    "tools": None,
    "stop": None,
}
# Model type → (action, request data, function that describes the answers).
_MODEL_CHECKS: dict[ModelType, tuple[str, JSON, Callable[[list[JSON]], str]]] = {
    ModelType.LLM: (
        "invoke_llm",
        {**_CHAT, "stream": False},
        lambda answers: f"{len(answers)} chunk",
    ),
    ModelType.TEXT_EMBEDDING: (
        "invoke_text_embedding",
        {"texts": ["one", "two"], "input_type": "document"},
        lambda answers: f"{len(answers[0].get('embeddings') or ())} vectors",
    ),
    ModelType.RERANK: (
        "invoke_rerank",
        {
            "query": "a cat",
            "docs": ["a dog", "a cat"],
            "score_threshold": None,
            "top_n": None,
        },
        lambda answers: f"{len(answers[0].get('docs') or ())} documents",
    ),
    ModelType.TTS: (
        "invoke_tts",
        {"content_text": "Hello.", "voice": "", "tenant_id": "default"},
        lambda answers: (
            f"{sum(len(answer.get('result') or '') for answer in answers) // 2:,} bytes"
        ),
    ),
    ModelType.SPEECH2TEXT: (
        "invoke_speech2text",
        {"file": "52494646"},
        lambda answers: str(answers[0].get("result")),
    ),
    ModelType.MODERATION: (
        "invoke_moderation",
        {"text": "Hello."},
        lambda answers: str(answers[0].get("result")),
    ),
}
