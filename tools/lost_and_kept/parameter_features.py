"""Parameters, tools and cache marks of requests, each in the formats that have them."""

from collections.abc import Mapping
from typing import Any

from tools.lost_and_kept.features import MARKER, Feature
from tools.lost_and_kept.formats import (
    ANTHROPIC,
    BEDROCK,
    CHAT,
    COHERE,
    COMPLETIONS,
    DASHSCOPE,
    GEMINI,
    JSON,
    OLLAMA,
    RESPONSES,
)
from tools.lost_and_kept.request_features import (
    FUNCTION,
    TEXT,
    _at,
    _results,
    _turns,
)


def _fields(**requests: JSON) -> dict[str, JSON]:
    """Return requests by short names of the callers' formats."""
    names = {
        "chat": CHAT,
        "responses": RESPONSES,
        "anthropic": ANTHROPIC,
        "gemini": GEMINI,
        "cohere": COHERE,
        "completions": COMPLETIONS,
    }
    return {names[short_name]: fields for short_name, fields in requests.items()}


def _generation(**fields: Any) -> JSON:
    return {"generationConfig": fields}


def _only(caller: str, field_name: str, value: Any, path: str = "") -> Feature:
    """Return a feature that one format alone has: a field of its requests."""
    wanted = MARKER if isinstance(value, dict | list) else value
    return Feature(
        field_name,
        {caller: {field_name: value}},
        _at({caller: path or field_name}),
        wanted=wanted,
    )


def _number(
    name: str, value: Any, requests: Mapping[str, JSON], **places: str
) -> Feature:
    """Return a parameter with a number or a truth value."""
    names = {
        "chat": CHAT,
        "responses": RESPONSES,
        "anthropic": ANTHROPIC,
        "gemini": GEMINI,
        "cohere": COHERE,
        "bedrock": BEDROCK,
        "ollama": OLLAMA,
        "dashscope": DASHSCOPE,
    }
    own = {names[short_name]: path for short_name, path in places.items()}
    return Feature(name, requests, _at(own), wanted=value)


SAMPLING = (
    _number(
        "output limit",
        137,
        _fields(
            chat={"max_tokens": 137},
            responses={"max_output_tokens": 137},
            anthropic={"max_tokens": 137},
            gemini=_generation(maxOutputTokens=137),
            cohere={"max_tokens": 137},
            completions={"max_tokens": 137},
        ),
        chat="max_completion_tokens",
        responses="max_output_tokens",
        anthropic="max_tokens",
        gemini="generationConfig.maxOutputTokens",
        cohere="max_tokens",
        bedrock="inferenceConfig.maxTokens",
        ollama="options.num_predict",
        dashscope="parameters.max_tokens",
    ),
    _number(
        "temperature",
        0.375,
        _fields(
            chat={"temperature": 0.375},
            responses={"temperature": 0.375},
            anthropic={"temperature": 0.375},
            gemini=_generation(temperature=0.375),
            cohere={"temperature": 0.375},
            completions={"temperature": 0.375},
        ),
        chat="temperature",
        responses="temperature",
        anthropic="temperature",
        gemini="generationConfig.temperature",
        cohere="temperature",
        bedrock="inferenceConfig.temperature",
        ollama="options.temperature",
        dashscope="parameters.temperature",
    ),
    _number(
        "top p",
        0.625,
        _fields(
            chat={"top_p": 0.625},
            responses={"top_p": 0.625},
            anthropic={"top_p": 0.625},
            gemini=_generation(topP=0.625),
            cohere={"p": 0.625},
            completions={"top_p": 0.625},
        ),
        chat="top_p",
        responses="top_p",
        anthropic="top_p",
        gemini="generationConfig.topP",
        cohere="p",
        bedrock="inferenceConfig.topP",
        ollama="options.top_p",
        dashscope="parameters.top_p",
    ),
    _number(
        "top k",
        37,
        _fields(
            anthropic={"top_k": 37},
            gemini=_generation(topK=37),
            cohere={"k": 37},
        ),
        anthropic="top_k",
        gemini="generationConfig.topK",
        cohere="k",
        bedrock="additionalModelRequestFields.top_k",
        ollama="options.top_k",
        dashscope="parameters.top_k",
    ),
    Feature(
        "stop sequences",
        _fields(
            chat={"stop": [MARKER]},
            anthropic={"stop_sequences": [MARKER]},
            gemini=_generation(stopSequences=[MARKER]),
            cohere={"stop_sequences": [MARKER]},
            completions={"stop": [MARKER]},
        ),
        _at(
            {
                CHAT: "stop.*",
                ANTHROPIC: "stop_sequences.*",
                GEMINI: "generationConfig.stopSequences.*",
                COHERE: "stop_sequences.*",
                BEDROCK: "inferenceConfig.stopSequences.*",
                OLLAMA: "options.stop.*",
                DASHSCOPE: "parameters.stop.*",
            }
        ),
    ),
    _number(
        "seed",
        4217,
        _fields(
            chat={"seed": 4217},
            gemini=_generation(seed=4217),
            cohere={"seed": 4217},
            completions={"seed": 4217},
        ),
        chat="seed",
        gemini="generationConfig.seed",
        cohere="seed",
        ollama="options.seed",
        dashscope="parameters.seed",
    ),
    _number(
        "several choices",
        3,
        _fields(
            chat={"n": 3}, gemini=_generation(candidateCount=3), completions={"n": 3}
        ),
        chat="n",
        gemini="generationConfig.candidateCount",
        dashscope="parameters.n",
    ),
    _number(
        "presence penalty",
        0.375,
        _fields(
            chat={"presence_penalty": 0.375},
            gemini=_generation(presencePenalty=0.375),
            cohere={"presence_penalty": 0.375},
            completions={"presence_penalty": 0.375},
        ),
        chat="presence_penalty",
        gemini="generationConfig.presencePenalty",
        cohere="presence_penalty",
        ollama="options.presence_penalty",
        dashscope="parameters.presence_penalty",
    ),
    _number(
        "frequency penalty",
        0.375,
        _fields(
            chat={"frequency_penalty": 0.375},
            gemini=_generation(frequencyPenalty=0.375),
            cohere={"frequency_penalty": 0.375},
            completions={"frequency_penalty": 0.375},
        ),
        chat="frequency_penalty",
        gemini="generationConfig.frequencyPenalty",
        cohere="frequency_penalty",
        ollama="options.frequency_penalty",
    ),
    Feature(
        "logit bias",
        _fields(
            chat={"logit_bias": {"42": -7}}, completions={"logit_bias": {"42": -7}}
        ),
        _at({CHAT: "logit_bias.42"}),
        wanted=-7,
    ),
    Feature(
        "logprobs",
        _fields(
            chat={"logprobs": True},
            responses={"include": ["message.output_text.logprobs"]},
            gemini=_generation(responseLogprobs=True),
            cohere={"logprobs": True},
        ),
        _at(
            {
                CHAT: "logprobs",
                RESPONSES: (("include.*", "message.output_text.logprobs"),),
                GEMINI: "generationConfig.responseLogprobs",
                COHERE: "logprobs",
                OLLAMA: "logprobs",
                DASHSCOPE: "parameters.logprobs",
            }
        ),
        wanted=True,
    ),
    _number(
        "logprobs of other tokens",
        4,
        _fields(
            chat={"logprobs": True, "top_logprobs": 4},
            responses={"include": ["message.output_text.logprobs"], "top_logprobs": 4},
            gemini=_generation(responseLogprobs=True, logprobs=4),
        ),
        chat="top_logprobs",
        responses="top_logprobs",
        gemini="generationConfig.logprobs",
        ollama="top_logprobs",
        dashscope="parameters.top_logprobs",
    ),
)

_SCHEMA: JSON = {
    "type": "object",
    "properties": {"ok": {"type": "integer", "description": MARKER}},
    "required": ["ok"],
    "additionalProperties": False,
}
OUTPUT = (
    Feature(
        "JSON object",
        _fields(
            chat={"response_format": {"type": "json_object"}},
            responses={"text": {"format": {"type": "json_object"}}},
            gemini=_generation(responseMimeType="application/json"),
            cohere={"response_format": {"type": "json_object"}},
        ),
        {
            CHAT: ("response_format.type",),
            RESPONSES: ("text.format.type",),
            GEMINI: (("generationConfig.responseMimeType", "application/json"),),
            COHERE: ("response_format.type",),
            OLLAMA: (("format", "json"),),
            DASHSCOPE: ("parameters.response_format.type",),
        },
        {ANTHROPIC: (("system", "JSON"),), BEDROCK: (("system.*.text", "JSON"),)},
        wanted="json_object",
    ),
    Feature(
        "JSON schema",
        _fields(
            chat={
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": _SCHEMA, "strict": True},
                }
            },
            responses={
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "x",
                        "schema": _SCHEMA,
                        "strict": True,
                    }
                }
            },
            anthropic={
                "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}}
            },
            gemini=_generation(
                responseMimeType="application/json", responseJsonSchema=_SCHEMA
            ),
            cohere={"response_format": {"type": "json_object", "json_schema": _SCHEMA}},
        ),
        _at(
            {
                CHAT: "response_format.json_schema.schema.**",
                RESPONSES: "text.format.schema.**",
                ANTHROPIC: "output_config.format.schema.**",
                GEMINI: "generationConfig.responseJsonSchema.**",
                COHERE: "response_format.json_schema.**",
                BEDROCK: "outputConfig.textFormat.structure.jsonSchema.schema",
                OLLAMA: "format.**",
                DASHSCOPE: "parameters.response_format.json_schema.schema.**",
            }
        ),
    ),
    Feature(
        "verbosity",
        _fields(chat={"verbosity": "low"}, responses={"text": {"verbosity": "low"}}),
        _at({CHAT: "verbosity", RESPONSES: "text.verbosity"}),
        wanted="low",
    ),
    Feature(
        "spoken answers",
        _fields(
            chat={
                "modalities": ["text", "audio"],
                "audio": {"voice": MARKER, "format": "wav"},
            },
            gemini=_generation(
                responseModalities=["AUDIO"],
                speechConfig={
                    "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": MARKER}}
                },
            ),
        ),
        _at(
            {
                CHAT: "audio.voice",
                GEMINI: (
                    "generationConfig.speechConfig.voiceConfig.prebuiltVoiceConfig.voiceName"
                ),
            }
        ),
    ),
    Feature(
        "image answers",
        _fields(gemini=_generation(responseModalities=["TEXT", "IMAGE"])),
        _at(
            {
                CHAT: (("modalities.*", "image"),),
                GEMINI: "generationConfig.responseModalities.*",
            }
        ),
        wanted="IMAGE",
    ),
    Feature(
        "predicted answer",
        _fields(chat={"prediction": {"type": "content", "content": MARKER}}),
        _at({CHAT: "prediction.content"}),
    ),
)

THINKING = (
    Feature(
        "effort",
        _fields(
            chat={"reasoning_effort": "high"},
            responses={"reasoning": {"effort": "high"}},
            anthropic={
                "thinking": {"type": "adaptive"},
                "output_config": {"effort": "high"},
            },
            gemini=_generation(thinkingConfig={"thinkingLevel": "high"}),
        ),
        _at(
            {
                CHAT: "reasoning_effort",
                RESPONSES: "reasoning.effort",
                ANTHROPIC: "output_config.effort",
                GEMINI: "generationConfig.thinkingConfig.thinkingLevel",
                OLLAMA: "think",
            }
        ),
        {
            ANTHROPIC: (("thinking.type", "enabled"),),
            COHERE: (("thinking.type", "enabled"),),
            BEDROCK: (("additionalModelRequestFields.thinking.type", "enabled"),),
            DASHSCOPE: (("parameters.enable_thinking", True),),
        },
        wanted="high",
    ),
    Feature(
        "thinking budget",
        _fields(
            anthropic={"thinking": {"type": "enabled", "budget_tokens": 2345}},
            gemini=_generation(thinkingConfig={"thinkingBudget": 2345}),
            cohere={"thinking": {"type": "enabled", "token_budget": 2345}},
        ),
        _at(
            {
                ANTHROPIC: "thinking.budget_tokens",
                COHERE: "thinking.token_budget",
                BEDROCK: "additionalModelRequestFields.thinking.budget_tokens",
                DASHSCOPE: "parameters.thinking_budget",
            }
        ),
        {
            CHAT: (("reasoning_effort", "medium"),),
            RESPONSES: (("reasoning.effort", "medium"),),
            GEMINI: (("generationConfig.thinkingConfig.thinkingLevel", "high"),),
            OLLAMA: (("think", True),),
        },
        wanted=2345,
    ),
    Feature(
        "no thinking",
        _fields(
            chat={"reasoning_effort": "none"},
            responses={"reasoning": {"effort": "none"}},
            anthropic={"thinking": {"type": "disabled"}},
            cohere={"thinking": {"type": "disabled"}},
        ),
        {
            CHAT: (("reasoning_effort", "none"),),
            RESPONSES: (("reasoning.effort", "none"),),
            ANTHROPIC: (("thinking.type", "disabled"),),
            COHERE: (("thinking.type", "disabled"),),
            BEDROCK: (("additionalModelRequestFields.thinking.type", "disabled"),),
            OLLAMA: (("think", False),),
            DASHSCOPE: (("parameters.enable_thinking", False),),
        },
        # The least that the model can do.
        {GEMINI: (("generationConfig.thinkingConfig.thinkingLevel", "low"),)},
    ),
    Feature(
        "thoughts in the answer",
        _fields(
            responses={"reasoning": {"effort": "high", "summary": "auto"}},
            gemini=_generation(
                thinkingConfig={"thinkingLevel": "high", "includeThoughts": True}
            ),
        ),
        {
            RESPONSES: (("reasoning.summary", "auto"),),
            GEMINI: (("generationConfig.thinkingConfig.includeThoughts", True),),
        },
        # They think aloud whenever they think.
        {
            ANTHROPIC: (("thinking.type", "enabled"),),
            COHERE: (("thinking.type", "enabled"),),
            BEDROCK: (("additionalModelRequestFields.thinking.type", "enabled"),),
            OLLAMA: (("think", "high"),),
            DASHSCOPE: (("parameters.enable_thinking", True),),
        },
    ),
)

_TIER_PLACES = {
    CHAT: "service_tier",
    RESPONSES: "service_tier",
    GEMINI: "serviceTier",
    BEDROCK: "serviceTier.type",
}
ACCOUNT = (
    Feature(
        "end user",
        _fields(
            chat={"user": MARKER},
            responses={"user": MARKER},
            anthropic={"metadata": {"user_id": MARKER}},
            completions={"user": MARKER},
        ),
        _at({CHAT: "user", RESPONSES: "user", ANTHROPIC: "metadata.user_id"}),
    ),
    Feature(
        "metadata",
        _fields(
            chat={"metadata": {"k": MARKER}}, responses={"metadata": {"k": MARKER}}
        ),
        _at(
            {CHAT: "metadata.k", RESPONSES: "metadata.k", BEDROCK: "requestMetadata.k"}
        ),
    ),
    Feature(
        "service tier flex",
        _fields(
            chat={"service_tier": "flex"},
            responses={"service_tier": "flex"},
            gemini={"serviceTier": "flex"},
        ),
        _at(_TIER_PLACES),
        wanted="flex",
    ),
    Feature(
        "service tier priority",
        _fields(
            chat={"service_tier": "priority"},
            responses={"service_tier": "priority"},
            gemini={"serviceTier": "priority"},
        ),
        _at(_TIER_PLACES),
        wanted="priority",
    ),
    Feature(
        "standard service tier",
        _fields(
            chat={"service_tier": "default"},
            responses={"service_tier": "default"},
            anthropic={"service_tier": "standard_only"},
            gemini={"serviceTier": "standard"},
        ),
        {
            CHAT: (("service_tier", "default"),),
            RESPONSES: (("service_tier", "default"),),
            ANTHROPIC: (("service_tier", "standard_only"),),
            GEMINI: (("serviceTier", "standard"),),
            BEDROCK: (("serviceTier.type", "default"),),
        },
    ),
    Feature(
        "safety identifier",
        _fields(
            chat={"safety_identifier": MARKER}, responses={"safety_identifier": MARKER}
        ),
        _at({CHAT: "safety_identifier", RESPONSES: "safety_identifier"}),
    ),
    Feature(
        "cache key",
        _fields(
            chat={"prompt_cache_key": MARKER}, responses={"prompt_cache_key": MARKER}
        ),
        _at({CHAT: "prompt_cache_key", RESPONSES: "prompt_cache_key"}),
    ),
    Feature(
        "cache retention",
        _fields(
            chat={"prompt_cache_retention": "24h"},
            responses={"prompt_cache_retention": "24h"},
        ),
        _at({CHAT: "prompt_cache_retention", RESPONSES: "prompt_cache_retention"}),
        wanted="24h",
    ),
    Feature(
        "stored answers",
        _fields(chat={"store": True}, responses={"store": True}),
        _at({CHAT: "store", RESPONSES: "store"}),
        # The gateway stores them itself, for callers of the Responses API.
        wanted=True,
        stands_in=(RESPONSES,),
    ),
    _only(
        CHAT, "web_search_options", {"user_location": MARKER}, "web_search_options.**"
    ),
    _only(RESPONSES, "truncation", "auto"),
    _only(RESPONSES, "max_tool_calls", 3),
    Feature(
        "additional output",
        _fields(responses={"include": ["web_search_call.action.sources"]}),
        _at({RESPONSES: "include.*"}),
        wanted="web_search_call.action.sources",
    ),
    _only(RESPONSES, "prompt", {"id": MARKER}, "prompt.id"),
    _only(RESPONSES, "context_management", [{"type": MARKER}], "context_management.**"),
    _only(ANTHROPIC, "container", MARKER),
    _only(ANTHROPIC, "inference_geo", MARKER),
    _only(GEMINI, "cachedContent", f"cachedContents/{MARKER}"),
    Feature(
        "safety settings",
        _fields(
            gemini={"safetySettings": [{"category": MARKER, "threshold": "BLOCK_NONE"}]}
        ),
        _at({GEMINI: "safetySettings.*.category"}),
    ),
    Feature(
        "media resolution",
        _fields(gemini=_generation(mediaResolution=MARKER)),
        _at({GEMINI: "generationConfig.mediaResolution"}),
    ),
    _only(GEMINI, "labels", {"k": MARKER}, "labels.k"),
    _only(COHERE, "safety_mode", "STRICT"),
    _only(COHERE, "citation_options", {"mode": MARKER}, "citation_options.mode"),
    Feature(
        "priority", _fields(cohere={"priority": 7}), _at({COHERE: "priority"}), wanted=7
    ),
    Feature("echo", _fields(completions={"echo": True}), {}),
    Feature("suffix", _fields(completions={"suffix": MARKER}), {}),
    Feature("best of", _fields(completions={"best_of": 3}), {}),
    Feature("completion logprobs", _fields(completions={"logprobs": 3}), {}),
    Feature(
        "unknown field",
        _fields(
            chat={"future_field": MARKER},
            responses={"future_field": MARKER},
            anthropic={"future_field": MARKER},
            gemini={"futureField": MARKER},
            cohere={"future_field": MARKER},
            completions={"future_field": MARKER},
        ),
        _at(
            {
                CHAT: "future_field",
                RESPONSES: "future_field",
                ANTHROPIC: "future_field",
                GEMINI: "futureField",
                COHERE: "future_field",
            }
        ),
    ),
)


# ------------------------------------------------------------------------------- tools


def _with_tools(**choices: JSON) -> dict[str, JSON]:
    """Return requests with the functions `f` and `g`, and some fields."""
    requests: dict[str, JSON] = {}
    for caller, fields in _fields(**choices).items():
        requests[caller] = {"tools": [FUNCTION[caller], _second(caller)], **fields}
    return requests


def _second(caller: str) -> JSON:
    """Return the function `g`."""
    tool = dict(FUNCTION[caller])
    if caller == GEMINI:
        (declaration,) = tool["functionDeclarations"]
        return {"functionDeclarations": [{**declaration, "name": "g"}]}
    if "function" in tool:
        return {**tool, "function": {**tool["function"], "name": "g"}}
    return {**tool, "name": "g"}


def _tool(caller: str, **fields: Any) -> JSON:
    """Return a request with one function that has further fields."""
    tool = dict(FUNCTION[caller])
    if caller == GEMINI:
        (declaration,) = tool["functionDeclarations"]
        tool = {"functionDeclarations": [{**declaration, **fields}]}
    elif "function" in tool:
        tool = {**tool, "function": {**tool["function"], **fields}}
    else:
        tool = {**tool, **fields}
    return {"tools": [tool]}


_FUNCTION_NAMES = {
    OLLAMA: "tools.*.function.name",
    COHERE: "tools.*.function.name",
    ANTHROPIC: "tools.*.name",
    BEDROCK: "toolConfig.tools.*.toolSpec.name",
    GEMINI: "tools.*.functionDeclarations.*.name",
    DASHSCOPE: "parameters.tools.*.function.name",
}
_DESCRIPTIONS = {
    CHAT: "tools.*.function.description",
    RESPONSES: "tools.*.description",
    ANTHROPIC: "tools.*.description",
    GEMINI: "tools.*.functionDeclarations.*.description",
    COHERE: "tools.*.function.description",
    BEDROCK: "toolConfig.tools.*.toolSpec.description",
    OLLAMA: "tools.*.function.description",
    DASHSCOPE: "parameters.tools.*.function.description",
}
TOOLS = (
    Feature(
        "description of a tool",
        {caller: _tool(caller, description=MARKER) for caller in FUNCTION},
        _at(_DESCRIPTIONS),
    ),
    Feature(
        "schema of a tool",
        {
            CHAT: _tool(CHAT, parameters=_SCHEMA),
            RESPONSES: _tool(RESPONSES, parameters=_SCHEMA),
            ANTHROPIC: _tool(ANTHROPIC, input_schema=_SCHEMA),
            GEMINI: _tool(GEMINI, parametersJsonSchema=_SCHEMA),
            COHERE: _tool(COHERE, parameters=_SCHEMA),
        },
        _at(
            {
                CHAT: "tools.*.function.parameters.**",
                RESPONSES: "tools.*.parameters.**",
                ANTHROPIC: "tools.*.input_schema.**",
                GEMINI: "tools.*.functionDeclarations.*.parametersJsonSchema.**",
                COHERE: "tools.*.function.parameters.**",
                BEDROCK: "toolConfig.tools.*.toolSpec.inputSchema.json.**",
                OLLAMA: "tools.*.function.parameters.**",
                DASHSCOPE: "parameters.tools.*.function.parameters.**",
            }
        ),
    ),
    Feature(
        "strict tool",
        {
            CHAT: _tool(CHAT, strict=True),
            RESPONSES: _tool(RESPONSES, strict=True),
            ANTHROPIC: _tool(ANTHROPIC, strict=True),
            COHERE: {**_tool(COHERE), "strict_tools": True},
        },
        _at(
            {
                CHAT: "tools.*.function.strict",
                RESPONSES: "tools.*.strict",
                ANTHROPIC: "tools.*.strict",
                COHERE: "strict_tools",
                BEDROCK: "toolConfig.tools.*.toolSpec.strict",
            }
        ),
        wanted=True,
    ),
    Feature(
        "examples of a tool's input",
        {ANTHROPIC: _tool(ANTHROPIC, input_examples=[{"a": MARKER}])},
        _at({ANTHROPIC: "tools.*.input_examples.**"}),
    ),
    Feature(
        "tool that is loaded later",
        {
            ANTHROPIC: _tool(ANTHROPIC, defer_loading=True),
            RESPONSES: _tool(RESPONSES, defer_loading=True),
        },
        _at({ANTHROPIC: "tools.*.defer_loading", RESPONSES: "tools.*.defer_loading"}),
        wanted=True,
    ),
    Feature(
        "schema of a tool's result",
        {GEMINI: _tool(GEMINI, responseJsonSchema={"description": MARKER})},
        _at({GEMINI: "tools.*.functionDeclarations.*.responseJsonSchema.**"}),
    ),
    Feature(
        "forced tool",
        _with_tools(
            chat={"tool_choice": {"type": "function", "function": {"name": "g"}}},
            responses={"tool_choice": {"type": "function", "name": "g"}},
            anthropic={"tool_choice": {"type": "tool", "name": "g"}},
            gemini={
                "toolConfig": {
                    "functionCallingConfig": {
                        "mode": "ANY",
                        "allowedFunctionNames": ["g"],
                    }
                }
            },
        ),
        _at(
            {
                CHAT: "tool_choice.function.name",
                RESPONSES: "tool_choice.name",
                ANTHROPIC: "tool_choice.name",
                GEMINI: "toolConfig.functionCallingConfig.allowedFunctionNames.*",
                BEDROCK: "toolConfig.toolChoice.tool.name",
                DASHSCOPE: "parameters.tool_choice.function.name",
            }
        ),
        # The other tool is not sent, and some tool has to be called.
        {COHERE: (("tool_choice", "REQUIRED"),)},
        wanted="g",
    ),
    Feature(
        "a call of any tool",
        _with_tools(
            chat={"tool_choice": "required"},
            responses={"tool_choice": "required"},
            anthropic={"tool_choice": {"type": "any"}},
            gemini={"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
            cohere={"tool_choice": "REQUIRED"},
        ),
        {
            CHAT: (("tool_choice", "required"),),
            RESPONSES: (("tool_choice", "required"),),
            ANTHROPIC: (("tool_choice.type", "any"),),
            GEMINI: (("toolConfig.functionCallingConfig.mode", "ANY"),),
            COHERE: (("tool_choice", "REQUIRED"),),
            BEDROCK: (("toolConfig.toolChoice.any", {}),),
        },
    ),
    Feature(
        "no call of a tool",
        _with_tools(
            chat={"tool_choice": "none"},
            responses={"tool_choice": "none"},
            anthropic={"tool_choice": {"type": "none"}},
            gemini={"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
            cohere={"tool_choice": "NONE"},
        ),
        {
            CHAT: (("tool_choice", "none"),),
            RESPONSES: (("tool_choice", "none"),),
            ANTHROPIC: (("tool_choice.type", "none"),),
            GEMINI: (("toolConfig.functionCallingConfig.mode", "NONE"),),
            COHERE: (("tool_choice", "NONE"),),
            DASHSCOPE: (("parameters.tool_choice", "none"),),
        },
        # Without tools there is nothing to call.
        {BEDROCK: (("without", "toolConfig"),), OLLAMA: (("without", "tools"),)},
    ),
    Feature(
        "choice among some tools",
        _with_tools(
            chat={
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "g"}}],
                    },
                }
            },
            responses={
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "g"}],
                }
            },
        ),
        _at(
            {
                CHAT: "tool_choice.allowed_tools.tools.*.function.name",
                RESPONSES: "tool_choice.tools.*.name",
            }
        ),
        # The others are not sent.
        {
            target: (("only", (path, ["g"])),)
            for target, path in _FUNCTION_NAMES.items()
        },
        wanted="g",
    ),
    Feature(
        "one call at a time",
        _with_tools(
            chat={"parallel_tool_calls": False},
            responses={"parallel_tool_calls": False},
            anthropic={
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
            },
        ),
        {
            CHAT: (("parallel_tool_calls", False),),
            RESPONSES: (("parallel_tool_calls", False),),
            ANTHROPIC: (("tool_choice.disable_parallel_tool_use", True),),
            DASHSCOPE: (("parameters.parallel_tool_calls", False),),
        },
    ),
    Feature(
        "freeform tool",
        {
            CHAT: {
                "tools": [
                    {
                        "type": "custom",
                        "custom": {
                            "name": "f",
                            "description": "d",
                            "format": {
                                "type": "grammar",
                                "grammar": {"syntax": "lark", "definition": MARKER},
                            },
                        },
                    }
                ]
            },
            RESPONSES: {
                "tools": [
                    {
                        "type": "custom",
                        "name": "f",
                        "description": "d",
                        "format": {
                            "type": "grammar",
                            "syntax": "lark",
                            "definition": MARKER,
                        },
                    }
                ]
            },
        },
        _at(
            {
                CHAT: "tools.*.custom.format.grammar.definition",
                RESPONSES: "tools.*.format.definition",
            }
        ),
        _at(_DESCRIPTIONS),
    ),
    Feature(
        "web search",
        {
            RESPONSES: {"tools": [{"type": "web_search"}]},
            ANTHROPIC: {
                "tools": [{"type": "web_search_20250305", "name": "web_search"}]
            },
            GEMINI: {"tools": [{"googleSearch": {}}]},
        },
        {
            RESPONSES: (("tools.*.type", "web_search"),),
            ANTHROPIC: (("tools.*.type", "web_search_"),),
            GEMINI: (("tools.*.googleSearch", {}),),
        },
    ),
    Feature(
        "code execution",
        {
            RESPONSES: {
                "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]
            },
            ANTHROPIC: {
                "tools": [{"type": "code_execution_20250825", "name": "code_execution"}]
            },
            GEMINI: {"tools": [{"codeExecution": {}}]},
        },
        {
            RESPONSES: (("tools.*.type", "code_interpreter"),),
            ANTHROPIC: (("tools.*.type", "code_execution_"),),
            GEMINI: (("tools.*.codeExecution", {}),),
        },
        # The gateway runs the code itself, for callers of the Responses API.
        {
            target: ((path, "code_interpreter"),)
            for target, path in {
                **_FUNCTION_NAMES,
                CHAT: "tools.*.function.name",
            }.items()
        },
    ),
    Feature(
        "tools of an MCP server",
        {
            RESPONSES: {
                "tools": [
                    {
                        "type": "mcp",
                        "server_label": MARKER,
                        "server_url": "https://example.com",
                    }
                ]
            }
        },
        _at({RESPONSES: "tools.*.server_label"}),
    ),
)

_MARK = {"type": "ephemeral"}
_MARKED_PLACES = {
    ANTHROPIC: (("messages.*.content.*.cache_control.type", "ephemeral"),),
    BEDROCK: (("messages.*.content.*.cachePoint.type", "default"),),
}
CACHE = (
    Feature(
        "cache mark on a text",
        _turns(
            {
                CHAT: {"type": "text", "text": "x", "cache_control": _MARK},
                ANTHROPIC: {"type": "text", "text": "x", "cache_control": _MARK},
            }
        ),
        _MARKED_PLACES,
    ),
    Feature(
        "cache mark on a search result",
        _turns(
            {
                ANTHROPIC: {
                    "type": "search_result",
                    "source": "https://example.com",
                    "title": "t",
                    "content": [{"type": "text", "text": "x"}],
                    "cache_control": _MARK,
                }
            }
        ),
        _MARKED_PLACES,
    ),
    Feature(
        "cache mark on a message",
        {
            CHAT: {
                "messages": [{"role": "user", "content": "hi", "cache_control": _MARK}]
            }
        },
        _MARKED_PLACES,
    ),
    Feature(
        "cache mark on a system message",
        {
            CHAT: {
                "messages": [
                    {
                        "role": "system",
                        "content": [
                            {"type": "text", "text": "x", "cache_control": _MARK}
                        ],
                    },
                    {"role": "user", "content": "hi"},
                ]
            },
            ANTHROPIC: {
                "system": [{"type": "text", "text": "x", "cache_control": _MARK}]
            },
        },
        {
            ANTHROPIC: (("system.*.cache_control.type", "ephemeral"),),
            BEDROCK: (("system.*.cachePoint.type", "default"),),
        },
    ),
    Feature(
        "cache mark on a tool",
        {
            CHAT: {"tools": [{**FUNCTION[CHAT], "cache_control": _MARK}]},
            ANTHROPIC: {"tools": [{**FUNCTION[ANTHROPIC], "cache_control": _MARK}]},
        },
        {
            ANTHROPIC: (("tools.*.cache_control.type", "ephemeral"),),
            BEDROCK: (("toolConfig.tools.*.cachePoint.type", "default"),),
        },
    ),
    Feature(
        "cache mark inside of a function",
        {CHAT: _tool(CHAT, cache_control=_MARK)},
        {
            ANTHROPIC: (("tools.*.cache_control.type", "ephemeral"),),
            BEDROCK: (("toolConfig.tools.*.cachePoint.type", "default"),),
        },
    ),
    Feature(
        "cache mark on a tool call",
        _results(
            {
                CHAT: {"call": {"cache_control": _MARK}},
                ANTHROPIC: {"call": {"cache_control": _MARK}},
            }
        ),
        _MARKED_PLACES,
    ),
    Feature(
        "cache mark on a tool result",
        _results({CHAT: {"cache_control": _MARK}, ANTHROPIC: {"cache_control": _MARK}}),
        _MARKED_PLACES,
    ),
    Feature(
        "cache mark on the request",
        {ANTHROPIC: {"cache_control": _MARK}},
        {ANTHROPIC: (("cache_control.type", "ephemeral"),)},
    ),
)

__all__ = ["TEXT"]
