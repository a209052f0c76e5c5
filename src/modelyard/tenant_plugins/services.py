"""Services that the host provides to plugins: models, tools, apps, two workflow nodes,
file uploads and summaries.

Each call is made for the tenant, passes through every policy, and appears in the
ledger.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.messages import (
    PromptMessageTool,
    SystemPromptMessage,
    UserPromptMessage,
)
from modelyard.models.moderation import ModerationRequest
from modelyard.models.rerank import RerankRequest
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON, ModelType
from modelyard.plugins import conversions
from modelyard.plugins.connection import PluginCall
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import Caller
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.host_answers import (
    HostAnswer,
    keep_thoughts,
    with_thoughts,
)
from modelyard.tenant_plugins.models import PluginModels
from modelyard.tenant_plugins.plugins import Plugins, require_tool
from modelyard.tenant_plugins.tool_files import ToolFiles

UPLOAD = "/files/plugins/upload"
_UPLOAD_SECONDS = 600.0
_MAX_DEPTH = 8
"""The maximum depth of plugins that call plugins; beyond it, they probably call each
other in a cycle."""


CallTool = Callable[[PluginCall, str, str, str, JSON, int], AsyncGenerator[JSON, None]]
"""(call, tool type, provider, tool, request, depth) to the tool's messages."""
CallApp = Callable[[PluginCall, JSON], AsyncGenerator[JSON, None]]
"""The answers of an app: events if the request asks for a stream, its description if
`response_mode` is `about`."""


class PluginServices:
    """Handles the requests of plugins to their host."""

    def __init__(
        self,
        models: ModelManager,
        plugins: Plugins,
        plugin_models: PluginModels,
        credentials: PluginCredentials,
        files: FileStore,
        address: Callable[[], str],
    ) -> None:
        self._models = models
        self._plugins = plugins
        self._plugin_models = plugin_models
        self._credentials = credentials
        self._files = files
        self._address = address
        self._tools: CallTool | None = None
        self._apps: CallApp | None = None

    def connect(self, tools: "CallTool", apps: "CallApp") -> None:
        """Set the services of higher layers: tools of other types, and apps."""
        self._tools = tools
        self._apps = apps

    async def serve(
        self, call: PluginCall, request_type: str, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a request and stream its answers. Raises ModelyardError; PluginError
        names a missing or invalid field."""
        # The host has checked the type against the plugin's permissions, so it is one
        # of the handlers below.
        serve = getattr(self, f"_{request_type}")
        try:
            async with aclosing(serve(call, request)) as answers:
                async for answer in answers:
                    yield answer
        # Requests come from plugin code and are not validated before; these errors mean
        # that a field is missing or wrong.
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, KeyError):
                raise PluginError(
                    f"{request_type}: {error.args[0]!r} is missing", plugin=call.plugin
                ) from error
            raise PluginError(f"{request_type}: {error}", plugin=call.plugin) from error

    def _model(
        self, call: PluginCall, request: JSON, model_type: ModelType
    ) -> ModelInstance:
        """Return the model that a request names; without a provider, any model of that
        name."""
        caller = Caller(tenant=call.tenant, user=call.user or None)
        provider, model = str(request["provider"]), str(request["model"])
        if not provider:
            return self._models.find(caller, model, model_type)
        return self._models.find(
            caller,
            self._plugin_models.model_name(call.tenant, provider, model),
            model_type,
        )

    # models

    async def _llm(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """Handle a chat completion."""
        model = self._model(call, request, ModelType.LLM)
        chat_request = _llm_request(request, stream=bool(request.get("stream", True)))
        answer = HostAnswer()
        chunks = model.stream_llm(with_thoughts(call, chat_request))
        async with aclosing(chunks):
            async for chunk in chunks:
                for document in answer.write(chunk):
                    yield document
        # Before the plugin gets the calls, which it may send back at once.
        keep_thoughts(call, answer.result.message)
        for document in answer.finish():
            yield document

    async def _llm_structured_output(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a chat completion whose answer satisfies a schema."""
        schema = request["structured_output_schema"]
        result = await self._structured_result(
            self._model(call, request, ModelType.LLM), _llm_request(request), schema
        )
        for index, chunk in enumerate(result.as_chunks()):
            yield {
                **conversions.dump_chunk(chunk, index),
                "structured_output": msgspec.json.decode(result.text),
            }

    @staticmethod
    async def _structured_result(
        model: ModelInstance, chat_request: LLMRequest, schema: Any
    ) -> LLMResult:
        """Return a complete answer that is JSON and satisfies a schema."""
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
        parameters = {
            **chat_request.model_parameters,
            "response_format": response_format,
        }
        return await model.invoke_llm(
            msgspec.structs.replace(
                chat_request, model_parameters=parameters, stream=False
            )
        )

    async def _text_embedding(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle text embeddings."""
        input_type = EmbeddingInputType(request.get("input_type") or "document")
        embedding_request = TextEmbeddingRequest(
            texts=[str(text) for text in request["texts"]], input_type=input_type
        )
        model = self._model(call, request, ModelType.TEXT_EMBEDDING)
        yield conversions.dump_embedding_result(
            await model.invoke_text_embedding(embedding_request)
        )

    async def _multimodal_embedding(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle multimodal embeddings; only text documents are supported."""
        texts = [_document_text(document) for document in request["documents"]]
        async for answer in self._text_embedding(call, {**request, "texts": texts}):
            yield answer

    async def _rerank(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle reranking."""
        rerank_request = RerankRequest(
            query=str(request["query"]),
            docs=[str(document) for document in request["docs"]],
            top_n=request.get("top_n"),
            score_threshold=request.get("score_threshold"),
        )
        yield conversions.dump_rerank_result(
            await self._model(call, request, ModelType.RERANK).invoke_rerank(
                rerank_request
            )
        )

    async def _multimodal_rerank(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle multimodal reranking; only text documents are supported."""
        query, docs = (
            _document_text(request["query"]),
            [_document_text(document) for document in request["docs"]],
        )
        async for answer in self._rerank(
            call, {**request, "query": query, "docs": docs}
        ):
            yield answer

    async def _tts(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """Handle speech synthesis."""
        tts_request = TTSRequest(
            text=str(request["content_text"]),
            voice=str(request.get("voice") or "default"),
        )
        async with aclosing(
            self._model(call, request, ModelType.TTS).invoke_tts(tts_request)
        ) as chunks:
            async for chunk in chunks:
                if chunk.audio:
                    # The protocol is JSON lines, so bytes are sent in hexadecimal.
                    yield {"result": chunk.audio.hex()}

    async def _speech2text(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle transcription."""
        speech_request = Speech2TextRequest(audio=bytes.fromhex(request["file"]))
        result = await self._model(
            call, request, ModelType.SPEECH2TEXT
        ).invoke_speech2text(speech_request)
        yield {"result": result.text}

    async def _moderation(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle moderation."""
        moderation_request = ModerationRequest(texts=[str(request["text"])])
        result = await self._model(
            call, request, ModelType.MODERATION
        ).invoke_moderation(moderation_request)
        yield {"result": result.flagged}

    async def _system_summary(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a summary, made with the tenant's default model."""
        instruction = str(
            request.get("instruction")
            or "Summarise the text in a few sentences, in its own language."
        )
        model = self._models.find(
            Caller(tenant=call.tenant, user=call.user or None), "default", ModelType.LLM
        )
        messages = [
            SystemPromptMessage(content=instruction),
            UserPromptMessage(content=str(request["text"])),
        ]
        yield {
            "summary": (await model.invoke_llm(LLMRequest(messages=[*messages]))).text
        }

    # tools

    async def _tool(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a tool call: of a plugin's tool here, of other types in `_other_tool`."""
        tool_type = str(request.get("tool_type") or "builtin")
        try:
            plugin, provider_name = self._plugins.provider(
                call.tenant, str(request["provider"])
            )
        except NotFoundError:
            plugin, provider_name = None, ""
        # Tools of APIs, MCP servers and apps are never a plugin's, even if a plugin has
        # a provider of that name.
        if plugin is None or tool_type not in ("builtin", "plugin"):
            async for answer in self._other_tool(call, tool_type, request):
                yield answer
            return
        require_tool(plugin.declaration, str(request["tool"]))
        name = f"{plugin.plugin_id}/{provider_name}"
        credentials, credential_type = await self._credentials.find(
            call.tenant, name, str(request.get("credential_id") or ""), call.user
        )
        # The depth travels with the call's context through every plugin.
        depth = int((call.context or {}).get("depth", 0)) + 1
        if depth > _MAX_DEPTH:
            raise PluginError(
                f"Tool call depth limit ({_MAX_DEPTH}) exceeded",
                plugin=call.plugin,
            )
        data = {
            "provider": provider_name,
            "tool": str(request["tool"]),
            "credentials": credentials,
            "credential_type": credential_type,
            "tool_parameters": request.get("tool_parameters") or {},
        }
        answers = self._plugins.call(
            call.tenant,
            plugin.plugin_id,
            "tool",
            "invoke_tool",
            data,
            user=call.user,
            extra={"context": {**(call.context or {}), "depth": depth}},
        )
        linked = self._with_links(call, answers)
        async with aclosing(linked):
            async for answer in linked:
                yield answer

    def _with_links(
        self, call: PluginCall, messages: AsyncGenerator[JSON, None]
    ) -> AsyncGenerator[JSON, None]:
        """Return a tool's messages with its files as links."""
        files = ToolFiles(self._files, self._address, call.tenant)
        return files.link(messages)

    # apps

    async def _other_tool(
        self, call: PluginCall, tool_type: str, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Call a tool that does not belong to a plugin: a built-in one, an API's, an
        MCP server's, or an app."""
        if self._tools is None:
            raise PluginError(
                f"Tools of type {tool_type!r} cannot be called by plugins",
                plugin=call.plugin,
            )
        # Counted through all calls: tools that call each other would go on forever.
        depth = int((call.context or {}).get("depth", 0)) + 1
        if depth > _MAX_DEPTH:
            raise PluginError(
                f"Tool call depth limit ({_MAX_DEPTH}) exceeded",
                plugin=call.plugin,
            )
        answers = self._tools(
            call,
            tool_type,
            str(request["provider"]),
            str(request["tool"]),
            request,
            depth,
        )
        linked = self._with_links(call, answers)
        async with aclosing(linked):
            async for answer in linked:
                yield answer

    async def _app(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """Handle a call of an app."""
        if self._apps is None:
            raise PluginError("Apps are not available", plugin=call.plugin)
        answers = self._apps(call, request)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def _fetch_app(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a request for the description of an app."""
        async for answer in self._app(call, {**request, "response_mode": "about"}):
            yield answer

    # nodes

    async def _node_parameter_extractor(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle the workflow node that extracts parameters from a text."""
        parameters: Sequence[JSON] = request["parameters"]
        schema = {
            "type": "object",
            "properties": {
                parameter["name"]: _parameter_schema(parameter)
                for parameter in parameters
            },
            "required": [
                parameter["name"]
                for parameter in parameters
                if parameter.get("required")
            ],
        }
        base_instruction = (
            "Find the values of the parameters in the text. Leave out those that it"
            " does not say."
        )
        instruction = str(request.get("instruction") or "")
        result = await self._ask_structured(
            call,
            request,
            f"{base_instruction} {instruction}".strip(),
            str(request["query"]),
            schema,
        )
        # Its fields are those that Dify's node has, since plugins read them.
        outputs = msgspec.json.decode(result.text)
        yield _node_result(
            request, result, {"__is_success": 1, "__reason": "", **outputs}
        )

    async def _node_question_classifier(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle the workflow node that classifies a question."""
        classes: Sequence[JSON] = request["classes"]
        names = [str(question_class["name"]) for question_class in classes]
        schema = {
            "type": "object",
            "properties": {"class": {"type": "string", "enum": names}},
            "required": ["class"],
        }
        listed = "\n".join(f"- {name}" for name in names)
        instruction = (
            "Say which of these classes the text belongs"
            f" to:\n{listed}\n{request.get('instruction') or ''}".strip()
        )
        result = await self._ask_structured(
            call, request, instruction, str(request["query"]), schema
        )
        class_name = msgspec.json.decode(result.text)["class"]
        # The schema allows only the listed names, so there is always a match.
        selected_class = next(
            question_class
            for question_class in classes
            if question_class["name"] == class_name
        )
        yield _node_result(
            request,
            result,
            {"class_name": class_name, "class_id": str(selected_class.get("id", ""))},
        )

    async def _ask_structured(
        self, call: PluginCall, request: JSON, instruction: str, text: str, schema: JSON
    ) -> LLMResult:
        """Ask the model that a node names and return an answer that satisfies the
        schema."""
        model_choice = request["model"]
        model = self._model(
            call,
            {"provider": model_choice["provider"], "model": model_choice["name"]},
            ModelType.LLM,
        )
        messages = [
            SystemPromptMessage(content=instruction),
            UserPromptMessage(content=text),
        ]
        chat_request = LLMRequest(
            messages=[*messages],
            model_parameters=dict(model_choice.get("completion_params") or {}),
        )
        return await self._structured_result(model, chat_request, schema)

    # files

    async def _upload_file(
        self, call: PluginCall, request: JSON
    ) -> AsyncGenerator[JSON, None]:
        """Handle a file upload: return a signed address that accepts the file for some
        minutes."""
        name = str(request["filename"])
        signed = self._files.sign(
            "upload", call.tenant, f"{call.plugin}\n{name}", seconds=_UPLOAD_SECONDS
        )
        from urllib.parse import urlencode

        query = urlencode(
            {
                "plugin": call.plugin,
                "name": name,
                "mimetype": str(request.get("mimetype") or ""),
            }
        )
        yield {"url": f"{self._address()}{UPLOAD}?{query}&{signed}"}


def _llm_request(request: JSON, *, stream: bool = False) -> LLMRequest:
    """Return the chat request in a plugin's request."""
    tools = [
        PromptMessageTool(
            name=str(tool["name"]),
            description=tool.get("description") or "",
            parameters=tool.get("parameters") or {},
        )
        for tool in request.get("tools") or ()
    ]
    return LLMRequest(
        messages=conversions.read_messages(request["prompt_messages"]),
        model_parameters=dict(request.get("completion_params") or {}),
        tools=tools,
        stop=[str(stop_text) for stop_text in request.get("stop") or ()],
        stream=stream,
    )


def _document_text(document: Any) -> str:
    """Return the text of a document. Raises ValueError for other content."""
    if isinstance(document, str):
        return document
    content_type = document.get("content_type", "text")
    if content_type != "text":
        problem = "documents are not supported; only text can be embedded"
        raise ValueError(f"{content_type} {problem}")
    return str(document["content"])


def _parameter_schema(parameter: JSON) -> JSON:
    """Return the JSON schema of a parameter in the plugin format."""
    parameter_type = str(parameter.get("type") or "string")
    described = {"description": str(parameter.get("description") or "")}
    if parameter_type in ("select", "string", "secret-input"):
        options = [str(option) for option in parameter.get("options") or ()]
        return {"type": "string", **described, **({"enum": options} if options else {})}
    if parameter_type.startswith("array"):
        # Array types are written `array[string]`; unknown item types count as objects.
        inner = parameter_type.partition("[")[2].rstrip("]") or "string"
        items = {"type": inner if inner in _JSON_TYPES else "object"}
        return {"type": "array", "items": items, **described}
    return {"type": _json_type(parameter_type), **described}


def _json_type(parameter_type: str) -> str:
    """Return the JSON type of a scalar parameter; unknown types count as strings."""
    if parameter_type == "bool":
        return "boolean"
    return parameter_type if parameter_type in _JSON_TYPES else "string"


_JSON_TYPES = ("string", "number", "boolean", "object", "integer")


def _node_result(request: JSON, result: LLMResult, outputs: JSON) -> JSON:
    """Return the outputs of a workflow node in the plugin format."""
    usage = conversions.dump_usage(result.usage)
    return {
        "process_data": {
            "model_mode": "chat",
            "usage": usage,
            "model_name": result.model,
        },
        "inputs": {"query": request["query"]},
        "outputs": {**outputs, "usage": usage},
    }
