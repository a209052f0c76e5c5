"""Drive tools, agent strategies, endpoints and datasources of real plugins."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from modelyard.base.errors import PluginError
from tools.show.driven_models import GOOD_KEY, expect
from tools.show.played_services import CONTENT
from tools.show.real_plugins import filled_fields

SEARX_URL = "https://searx.example/search"


class Gateway(Protocol):
    """A running gateway."""

    client: httpx.Client

    def call(
        self, plugin: str, call_type: str, action: str, **data: Any
    ) -> Sequence[Any]:
        """Call a plugin and return its answers. Raises PluginError."""
        ...

    def install(self, folder: Path) -> Any:
        """Pack and install a plugin."""
        ...

    def uninstall(self, plugin: str) -> None:
        """Remove a plugin."""
        ...

    def serve(self, plugin: str, settings: Mapping[str, Any]) -> str:
        """Set up the endpoints of a plugin and return their address."""
        ...


@dataclass(frozen=True, kw_only=True)
class ToolCase:
    """A call of a tool."""

    tool: str
    parameters: Mapping[str, Any]
    types: tuple[str, ...]
    """The types of the messages that it answers with."""
    contains: str = ""
    """A text that the messages contain."""
    credentials: Mapping[str, Any] = field(default_factory=dict[str, Any])


_NEWS: Any = {"limit": 1, "story_type": "top"}
TOOLS: Mapping[str, ToolCase] = {
    "tools/maths": ToolCase(
        tool="eval_expression",
        parameters={"expression": "6*7"},
        types=("text",),
        contains="42",
    ),
    "tools/json_process": ToolCase(
        tool="parse",
        parameters={"content": '{"a": {"b": 5}}', "json_filter": "$.a.b"},
        types=("text",),
        contains="5",
    ),
    "tools/regex": ToolCase(
        tool="regex_extract",
        parameters={"content": "a12b", "expression": "[0-9]+"},
        types=("text",),
        contains="12",
    ),
    "tools/qrcode": ToolCase(
        tool="qrcode_generator",
        parameters={"content": "hi", "error_correction": "M", "border": 2},
        types=("blob_chunk",),
    ),
    "tools/chart": ToolCase(
        tool="bar_chart",
        parameters={"data": "1;2;3", "x_axis": "a;b;c"},
        types=("blob_chunk",),
    ),
    "tools/general_chunk": ToolCase(
        tool="general_chunker",
        parameters={
            "input_variable": "one. two. three.",
            "delimiter": ".",
            "max_chunk_length": 10,
            "chunk_overlap_length": 1,
        },
        types=("variable",),
        contains="two",
    ),
    "tools/searxng": ToolCase(
        tool="searxng_search",
        parameters={"query": "fountain", "search_type": "general"},
        types=("json",),
        contains=CONTENT,
        credentials={"searxng_base_url": SEARX_URL},
    ),
    "tools/tavily": ToolCase(
        tool="tavily_search",
        parameters={"query": "fountain"},
        types=("text", "json"),
        contains=CONTENT,
    ),
    "tools/serper": ToolCase(
        tool="serper",
        parameters={"query": "fountain"},
        types=("json",),
        contains=CONTENT,
    ),
    "tools/hackernews": ToolCase(
        tool="get_top_stories",
        parameters=_NEWS,
        types=("log", "json", "text"),
        contains="The fountain",
    ),
    "tools/telegraph": ToolCase(
        tool="telegraph",
        parameters={"p_title": "The fountain", "p_content": "It is old."},
        types=("link",),
        contains="https://page.example/one",
    ),
    "tools/siliconflow": ToolCase(
        tool="image_generate",
        parameters={"prompt": "a fountain", "model": "kolors"},
        types=("image",),
        contains="picture.png",
    ),
    "tools/stability": ToolCase(
        tool="stability_text2image",
        parameters={"prompt": "a fountain", "model": "core", "aspect_ratio": "1:1"},
        types=("blob_chunk",),
    ),
}
_REFUSES = ("tools/tavily", "tools/stability")
"""Tools whose check of credentials asks the service."""


class OtherDriver:
    """Drives plugins that are no models; each check installs what it needs."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway = gateway
        self._folder = folder

    # tools

    def tool(
        self, name: str, case: ToolCase
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of a tool plugin."""
        with _installed(self._gateway, self._folder / name) as installed:
            provider = installed.declaration.tool
            plugin, provider_name = installed.plugin_id, provider.identity.name
            filled = filled_fields(provider.credentials_schema)
            secrets = [
                item.name for item in provider.credentials_schema if item.is_secret
            ]
            good = {**filled, **dict.fromkeys(secrets, GOOD_KEY), **case.credentials}

            def credentials() -> None:
                """Credentials are tried, and refused if the service refuses them."""
                self._validate(plugin, "tool", provider_name, good)
                if name in _REFUSES:
                    self._is_refused(plugin, "tool", provider_name, good, secrets)

            def call() -> None:
                """The tool answers with messages of the expected types."""
                messages = self._invoke(plugin, provider_name, case, good)
                types = {message["type"] for message in messages}
                expect(set(case.types) <= types, types)
                expect(
                    case.contains in json.dumps(messages, ensure_ascii=False), messages
                )

            if filled:
                yield "credentials", credentials
            yield ", ".join(case.types), call

    def _invoke(
        self, plugin: str, provider: str, case: ToolCase, credentials: Mapping[str, Any]
    ) -> Sequence[Any]:
        return self._gateway.call(
            plugin,
            "tool",
            "invoke_tool",
            provider=provider,
            tool=case.tool,
            credentials=dict(credentials),
            credential_type="api-key",
            tool_parameters=dict(case.parameters),
        )

    def _validate(
        self, plugin: str, kind: str, provider: str, values: Mapping[str, Any]
    ) -> None:
        """Let a plugin try credentials. Raises PluginError if they are refused."""
        action = f"validate_{kind}_credentials"
        data = {"provider": provider, "credentials": dict(values)}
        (answered,) = self._gateway.call(plugin, kind, action, **data)
        expect(answered["result"] is True, answered)

    def _is_refused(
        self,
        plugin: str,
        kind: str,
        provider: str,
        values: Mapping[str, Any],
        secrets: Sequence[str],
    ) -> None:
        bad = {**values, **dict.fromkeys(secrets, "bad")}
        try:
            self._validate(plugin, kind, provider, bad)
        except PluginError:
            return
        expect(False, "bad credentials are accepted")

    # agents

    def agents(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of the strategies: tools that are called with the model's
        arguments, and files that a tool returns."""
        folders = (
            "models/openai",
            "tools/maths",
            "tools/qrcode",
            "agent-strategies/cot_agent",
        )
        with ExitStack() as stack:
            installed = [
                stack.enter_context(_installed(self._gateway, self._folder / name))
                for name in folders
            ]
            self._add_model_credential(installed[0])
            agent = installed[-1].plugin_id
            for strategy in ("function_calling", "ReAct"):

                def answers(strategy: str = strategy) -> None:
                    """A strategy without tools answers with the model's text."""
                    text = self._agent_text(agent, strategy, "hello", [])
                    expect("You said: hello" in text, text)

                yield f"{strategy} answers", answers

            def calls() -> None:
                """The strategy calls a tool, and the model gets its result."""
                tool = _agent_tool(
                    "langgenius/maths/maths", "eval_expression", "expression"
                )
                text = self._agent_text(agent, "function_calling", "tools", [tool])
                expect(text, "no answer")

            def files() -> None:
                """A file that a tool returns comes out of the strategy."""
                tool = _agent_tool(
                    "langgenius/qrcode/qrcode", "qrcode_generator", "content"
                )
                tool["runtime_parameters"] = {"error_correction": "M", "border": 2}
                messages = self._agent(agent, "function_calling", "tools", [tool])
                types = {message["type"] for message in messages}
                expect(types & {"image_link", "blob_chunk", "image", "file"}, types)

            yield "function_calling calls tools", calls
            yield "function_calling passes files on", files

    def _add_model_credential(self, model_plugin: Any) -> None:
        """Store a good credential for the models that agents and endpoints use."""
        values = {
            "openai_api_key": GOOD_KEY,
            "openai_api_base": "https://played.example",
            "api_protocol": "chat",
        }
        provider = model_plugin.installation.provider
        body = {"name": "agents", "provider": provider, "values": values}
        added = self._gateway.client.post("/admin/v1/credentials", json=body)
        expect(added.status_code == 201, added.text)

    def _agent(
        self, plugin: str, strategy: str, query: str, tools: Sequence[Any]
    ) -> Sequence[Any]:
        model = {
            "provider": "langgenius/openai/openai",
            "model": "gpt-4o-mini",
            "model_type": "llm",
            "mode": "chat",
            "completion_params": {},
            "history_prompt_messages": [],
        }
        return self._gateway.call(
            plugin,
            "agent_strategy",
            "invoke_agent_strategy",
            agent_strategy_provider="agent",
            agent_strategy=strategy,
            agent_strategy_params={
                "model": model,
                "tools": list(tools),
                "query": query,
                "instruction": "Be brief.",
                "maximum_iterations": 3,
            },
        )

    def _agent_text(
        self, plugin: str, strategy: str, query: str, tools: Sequence[Any]
    ) -> str:
        messages = self._agent(plugin, strategy, query, tools)
        texts = [entry["message"] for entry in messages if entry["type"] == "text"]
        return "".join(str(text.get("text", "")) for text in texts)

    # endpoints

    def endpoint(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of an endpoint that serves a model of another plugin."""
        folders = ("models/openai", "extensions/oaicompat_dify_model")
        with ExitStack() as stack:
            installed = [
                stack.enter_context(_installed(self._gateway, self._folder / name))
                for name in folders
            ]
            self._add_model_credential(installed[0])
            settings = {
                "api_key": "hook-key",
                "llm": "langgenius/openai/openai/gpt-4o-mini",
            }

            def serves() -> None:
                """Its address answers as the model does, and refuses other keys."""
                address = self._gateway.serve(installed[1].plugin_id, settings)
                url = f"{address}/v1/chat/completions"
                chat = {"messages": [{"role": "user", "content": "hello"}]}
                served = httpx.post(
                    url,
                    json=chat,
                    headers={"authorization": "Bearer hook-key"},
                    timeout=60,
                )
                expect("You said: hello" in served.text, served.text)
                refused = httpx.post(url, json=chat, timeout=60)
                expect(refused.status_code == 401, refused.status_code)

            yield "an address serves a model", serves

    # datasources

    def crawl(
        self, name: str, parameters: Mapping[str, Any]
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of a datasource that crawls."""
        with _installed(self._gateway, self._folder / name) as installed:
            provider = installed.declaration.datasource
            plugin, provider_name = installed.plugin_id, provider.identity.name
            secrets = [
                item.name for item in provider.credentials_schema if item.is_secret
            ]
            good = {
                **filled_fields(provider.credentials_schema, ""),
                **dict.fromkeys(secrets, GOOD_KEY),
            }
            datasource = provider.datasources[0].identity.name

            def credentials() -> None:
                """Good credentials are accepted and bad ones refused."""
                self._validate(plugin, "datasource", provider_name, good)
                self._is_refused(plugin, "datasource", provider_name, good, secrets)

            def crawls() -> None:
                """Pages arrive with their text."""
                messages = self._gateway.call(
                    plugin,
                    "datasource",
                    "invoke_website_datasource_get_crawl",
                    provider=provider_name,
                    datasource=datasource,
                    credentials=good,
                    datasource_parameters=dict(parameters),
                )
                pages = messages[-1]["result"]["web_info_list"]
                expect(CONTENT in json.dumps(pages, ensure_ascii=False), messages)

            yield "credentials", credentials
            yield "pages", crawls

    def documents(self, name: str) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the checks of a datasource of online documents."""
        with _installed(self._gateway, self._folder / name) as installed:
            provider = installed.declaration.datasource
            plugin, provider_name = installed.plugin_id, provider.identity.name
            secrets = [
                item.name for item in provider.credentials_schema if item.is_secret
            ]
            common = {
                "provider": provider_name,
                "datasource": provider.datasources[0].identity.name,
                "credentials": dict.fromkeys(secrets, GOOD_KEY),
            }

            def reads() -> None:
                """A page is listed, and its text arrives."""
                action = "invoke_online_document_datasource_get_pages"
                (listed,) = self._gateway.call(
                    plugin, "datasource", action, datasource_parameters={}, **common
                )
                (page,) = listed["result"][0]["pages"]
                chosen = {
                    "workspace_id": "w1",
                    "page_id": page["page_id"],
                    "type": page["type"],
                }
                action = "invoke_online_document_datasource_get_page_content"
                messages = self._gateway.call(
                    plugin, "datasource", action, page=chosen, **common
                )
                expect(CONTENT in json.dumps(messages, ensure_ascii=False), messages)

            yield "pages and their text", reads


class _installed:  # noqa: N801 - used as a function
    """Installs a plugin for a block."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self._gateway, self._folder = gateway, folder

    def __enter__(self) -> Any:
        self._plugin = self._gateway.install(self._folder)
        return self._plugin

    def __exit__(self, *details: object) -> None:
        self._gateway.uninstall(self._plugin.plugin_id)


def _agent_tool(provider: str, name: str, parameter: str) -> dict[str, Any]:
    """Return a tool as strategies get it."""
    identity = {"author": "langgenius", "name": name, "label": {"en_US": name}}
    schema = {
        "name": parameter,
        "label": {"en_US": parameter},
        "human_description": {"en_US": parameter},
        "type": "string",
        "form": "llm",
        "llm_description": parameter,
        "required": True,
    }
    return {
        "identity": {**identity, "provider": provider},
        "parameters": [schema],
        "description": {"human": {"en_US": name}, "llm": name},
        "provider_type": "builtin",
        "runtime_parameters": {},
    }


Checks = Iterator[tuple[str, Callable[[], None]]]


def _tool_checks(name: str, case: ToolCase) -> Callable[[OtherDriver], Checks]:
    return lambda driver: driver.tool(name, case)


OTHERS: Mapping[str, Callable[[OtherDriver], Checks]] = {
    **{name: _tool_checks(name, case) for name, case in TOOLS.items()},
    "agent-strategies/cot_agent": OtherDriver.agents,
    "extensions/oaicompat_dify_model": OtherDriver.endpoint,
    "datasources/firecrawl_datasource": lambda driver: driver.crawl(
        "datasources/firecrawl_datasource", {"url": "https://page.example", "limit": 1}
    ),
    "datasources/tavily_datasource": lambda driver: driver.crawl(
        "datasources/tavily_datasource", {"query": "fountain"}
    ),
    "datasources/notion_datasource": lambda driver: driver.documents(
        "datasources/notion_datasource"
    ),
}
"""Plugins that are no models, with their checks."""
