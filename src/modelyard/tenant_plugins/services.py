"""What is done for plugins that ask their host: models, tools, two kinds of workflow nodes, files, summaries. Each call
is the tenant's, goes through every policy, and stands in the ledger."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.base.errors import NotFoundError, PluginError
from modelyard.models.embedding import EmbeddingInputType, TextEmbeddingRequest
from modelyard.models.llm import LLMRequest, LLMResult
from modelyard.models.messages import PromptMessageTool, SystemPromptMessage, UserPromptMessage
from modelyard.models.moderation import ModerationRequest
from modelyard.models.rerank import RerankRequest
from modelyard.models.speech2text import Speech2TextRequest
from modelyard.models.tts import TTSRequest
from modelyard.models.types import JSON, ModelType
from modelyard.plugins import shapes
from modelyard.plugins.conversation import PluginCall
from modelyard.runtime.model_instance import ModelInstance
from modelyard.runtime.model_manager import ModelManager
from modelyard.storage.files import FileStore
from modelyard.tenancy.caller import Caller
from modelyard.tenant_plugins.credentials import PluginCredentials
from modelyard.tenant_plugins.models import PluginModels
from modelyard.tenant_plugins.plugins import Plugins

UPLOAD = "/files/plugins/upload"
_UPLOAD_SECONDS = 600.0
_MOST_DEPTH = 8
"""Plugins that call plugins that call plugins: beyond that it is a circle."""


CallTool = Callable[[PluginCall, str, str, str, JSON, int], AsyncGenerator[JSON, None]]
"""(call, kind, provider, tool, request, depth) → its messages."""
CallApp = Callable[[PluginCall, JSON], AsyncGenerator[JSON, None]]
"""An app's answer: events where they are asked for; what it is where `response_mode` is `about`."""


class PluginServices:
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

    def use(self, tools: "CallTool", apps: "CallApp") -> None:
        """What lies above: tools of other kinds, and apps."""
        self._tools = tools
        self._apps = apps

    async def serve(self, call: PluginCall, kind: str, request: JSON) -> AsyncGenerator[JSON, None]:
        """Raises ModelyardError; a request that lacks what it needs is a PluginError that names it."""
        serve = getattr(self, f"_{kind}")
        try:
            async with aclosing(serve(call, request)) as answers:
                async for answer in answers:
                    yield answer
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, KeyError):
                raise PluginError(f"{kind}: {error.args[0]!r} is missing", plugin=call.plugin) from error
            raise PluginError(f"{kind}: {error}", plugin=call.plugin) from error

    def _model(self, call: PluginCall, request: JSON, kind: ModelType) -> ModelInstance:
        caller = Caller(tenant=call.tenant, user=call.user or None)
        provider, model = str(request["provider"]), str(request["model"])
        if not provider:
            return self._models.find(caller, model, kind)
        return self._models.find(caller, self._plugin_models.model_name(call.tenant, provider, model), kind)

    # models

    async def _llm(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        model = self._model(call, request, ModelType.LLM)
        asked = _llm_request(request, stream=bool(request.get("stream", True)))
        place = 0
        async with aclosing(model.stream_llm(asked)) as chunks:
            async for chunk in chunks:
                yield shapes.dump_chunk(chunk, place)
                place += 1

    async def _llm_structured_output(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        schema = request["structured_output_schema"]
        result = await self._structured(self._model(call, request, ModelType.LLM), _llm_request(request), schema)
        for place, chunk in enumerate(result.as_chunks()):
            yield {**shapes.dump_chunk(chunk, place), "structured_output": msgspec.json.decode(result.text)}

    @staticmethod
    async def _structured(model: ModelInstance, asked: LLMRequest, schema: Any) -> LLMResult:
        """An answer that is JSON and satisfies a schema."""
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        parameters = {**asked.model_parameters, "response_format": form}
        return await model.invoke_llm(msgspec.structs.replace(asked, model_parameters=parameters, stream=False))

    async def _text_embedding(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        kind = EmbeddingInputType(request.get("input_type") or "document")
        asked = TextEmbeddingRequest(texts=[str(one) for one in request["texts"]], input_type=kind)
        model = self._model(call, request, ModelType.TEXT_EMBEDDING)
        yield shapes.dump_embedding_result(await model.invoke_text_embedding(asked))

    async def _multimodal_embedding(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        texts = [_text_alone(one) for one in request["documents"]]
        async for answer in self._text_embedding(call, {**request, "texts": texts}):
            yield answer

    async def _rerank(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        asked = RerankRequest(
            query=str(request["query"]),
            docs=[str(one) for one in request["docs"]],
            top_n=request.get("top_n"),
            score_threshold=request.get("score_threshold"),
        )
        yield shapes.dump_rerank_result(await self._model(call, request, ModelType.RERANK).invoke_rerank(asked))

    async def _multimodal_rerank(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        query, docs = _text_alone(request["query"]), [_text_alone(one) for one in request["docs"]]
        async for answer in self._rerank(call, {**request, "query": query, "docs": docs}):
            yield answer

    async def _tts(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        asked = TTSRequest(text=str(request["content_text"]), voice=str(request.get("voice") or "default"))
        async with aclosing(self._model(call, request, ModelType.TTS).invoke_tts(asked)) as chunks:
            async for chunk in chunks:
                if chunk.audio:
                    yield {"result": chunk.audio.hex()}

    async def _speech2text(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        asked = Speech2TextRequest(audio=bytes.fromhex(request["file"]))
        result = await self._model(call, request, ModelType.SPEECH2TEXT).invoke_speech2text(asked)
        yield {"result": result.text}

    async def _moderation(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        asked = ModerationRequest(texts=[str(request["text"])])
        result = await self._model(call, request, ModelType.MODERATION).invoke_moderation(asked)
        yield {"result": result.flagged}

    async def _system_summary(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        told = str(request.get("instruction") or "Summarise the text in a few sentences, in its own language.")
        model = self._models.find(Caller(tenant=call.tenant, user=call.user or None), "default", ModelType.LLM)
        messages = [SystemPromptMessage(content=told), UserPromptMessage(content=str(request["text"]))]
        yield {"summary": (await model.invoke_llm(LLMRequest(messages=[*messages]))).text}

    # tools

    async def _tool(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        kind = str(request.get("tool_type") or "builtin")
        try:
            one, bare = self._plugins.provider(call.tenant, str(request["provider"]))
        except NotFoundError:
            one, bare = None, ""
        if one is None or kind not in ("builtin", "plugin"):
            async for answer in self._other_tool(call, kind, request):
                yield answer
            return
        name = f"{one.plugin_id}/{bare}"
        credentials, credential_type = await self._credentials.find(
            call.tenant, name, str(request.get("credential_id") or ""), call.user
        )
        depth = int((call.context or {}).get("depth", 0)) + 1
        if depth > _MOST_DEPTH:
            raise PluginError(f"tools that call tools go {depth} deep: this is a circle", plugin=call.plugin)
        data = {
            "provider": bare,
            "tool": str(request["tool"]),
            "credentials": credentials,
            "credential_type": credential_type,
            "tool_parameters": request.get("tool_parameters") or {},
        }
        answers = self._plugins.call(
            call.tenant,
            one.plugin_id,
            "tool",
            "invoke_tool",
            data,
            user=call.user,
            more={"context": {**(call.context or {}), "depth": depth}},
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    # apps

    async def _other_tool(self, call: PluginCall, kind: str, request: JSON) -> AsyncGenerator[JSON, None]:
        """A tool that is no plugin's: ours, an API's, an MCP server's, an app."""
        if self._tools is None:
            raise PluginError(f"tools of the type {kind!r} cannot be called here", plugin=call.plugin)
        depth = int((call.context or {}).get("depth", 0)) + 1
        if depth > _MOST_DEPTH:
            raise PluginError(f"tools that call tools go {depth} deep: this is a circle", plugin=call.plugin)
        answers = self._tools(call, kind, str(request["provider"]), str(request["tool"]), request, depth)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def _app(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        if self._apps is None:
            raise PluginError("there are no apps here", plugin=call.plugin)
        answers = self._apps(call, request)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def _fetch_app(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        async for answer in self._app(call, {**request, "response_mode": "about"}):
            yield answer

    # nodes

    async def _node_parameter_extractor(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        parameters: Sequence[JSON] = request["parameters"]
        schema = {
            "type": "object",
            "properties": {one["name"]: _property(one) for one in parameters},
            "required": [one["name"] for one in parameters if one.get("required")],
        }
        told = "Find the values of the parameters in the text. Leave out those that it does not say."
        instruction = str(request.get("instruction") or "")
        result = await self._asked_for(call, request, f"{told} {instruction}".strip(), str(request["query"]), schema)
        outputs = msgspec.json.decode(result.text)
        yield _node(request, result, {"__is_success": 1, "__reason": "", **outputs})

    async def _node_question_classifier(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        classes: Sequence[JSON] = request["classes"]
        names = [str(one["name"]) for one in classes]
        schema = {
            "type": "object",
            "properties": {"class": {"type": "string", "enum": names}},
            "required": ["class"],
        }
        listed = "\n".join(f"- {name}" for name in names)
        told = f"Say which of these classes the text belongs to:\n{listed}\n{request.get('instruction') or ''}".strip()
        result = await self._asked_for(call, request, told, str(request["query"]), schema)
        chosen = msgspec.json.decode(result.text)["class"]
        found = next(one for one in classes if one["name"] == chosen)
        yield _node(request, result, {"class_name": chosen, "class_id": str(found.get("id", ""))})

    async def _asked_for(self, call: PluginCall, request: JSON, told: str, text: str, schema: JSON) -> LLMResult:
        named = request["model"]
        model = self._model(call, {"provider": named["provider"], "model": named["name"]}, ModelType.LLM)
        messages = [SystemPromptMessage(content=told), UserPromptMessage(content=text)]
        asked = LLMRequest(messages=[*messages], model_parameters=dict(named.get("completion_params") or {}))
        return await self._structured(model, asked, schema)

    # files

    async def _upload_file(self, call: PluginCall, request: JSON) -> AsyncGenerator[JSON, None]:
        """An address that takes the file, once and for a while."""
        name = str(request["filename"])
        signed = self._files.sign("upload", call.tenant, f"{call.plugin}\n{name}", seconds=_UPLOAD_SECONDS)
        from urllib.parse import urlencode

        query = urlencode({"plugin": call.plugin, "name": name, "mimetype": str(request.get("mimetype") or "")})
        yield {"url": f"{self._address()}{UPLOAD}?{query}&{signed}"}


def _llm_request(request: JSON, *, stream: bool = False) -> LLMRequest:
    tools = [
        PromptMessageTool(
            name=str(one["name"]), description=one.get("description") or "", parameters=one.get("parameters") or {}
        )
        for one in request.get("tools") or ()
    ]
    return LLMRequest(
        messages=shapes.read_messages(request["prompt_messages"]),
        model_parameters=dict(request.get("completion_params") or {}),
        tools=tools,
        stop=[str(one) for one in request.get("stop") or ()],
        stream=stream,
    )


def _text_alone(document: Any) -> str:
    if isinstance(document, str):
        return document
    if document.get("content_type", "text") != "text":
        raise ValueError(f"{document['content_type']} documents cannot be embedded here; only text can")
    return str(document["content"])


def _property(one: JSON) -> JSON:
    kind = str(one.get("type") or "string")
    described = {"description": str(one.get("description") or "")}
    if kind in ("select", "string", "secret-input"):
        options = [str(each) for each in one.get("options") or ()]
        return {"type": "string", **described, **({"enum": options} if options else {})}
    if kind.startswith("array"):
        inner = kind.partition("[")[2].rstrip("]") or "string"
        return {"type": "array", "items": {"type": inner if inner in _PLAIN else "object"}, **described}
    return {"type": {"bool": "boolean"}.get(kind, kind if kind in _PLAIN else "string"), **described}


_PLAIN = ("string", "number", "boolean", "object", "integer")


def _node(request: JSON, result: LLMResult, outputs: JSON) -> JSON:
    usage = shapes.dump_usage(result.usage)
    return {
        "process_data": {"model_mode": "chat", "usage": usage, "model_name": result.model},
        "inputs": {"query": request["query"]},
        "outputs": {**outputs, "usage": usage},
    }
