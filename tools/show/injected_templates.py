"""Templates in what comes from outside: each source puts each text in front of a model,
and the model has to receive exactly this text.

The apps run behind the service API, with a real dataset, real files, a web server on
loopback and tools whose names and descriptions are templates too. The model repeats the
text, so that it also comes back as an answer.
"""

import json
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from tests.workflow.building import document

from modelyard.agents.prompting import SAFETY
from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import EgressSettings, Settings
from modelyard.gateway.server import Gateway
from modelyard.knowledge.entities import DatasetSettings, Technique
from modelyard.models.llm import LLMRequest
from modelyard.testing import Answer, Upstream, UpstreamRequest
from modelyard.testing.workflows import ScriptedModel, scripted_models
from modelyard.tools.function import tool
from modelyard.workflow.dsl import AppMapping
from modelyard.workflow.simple_apps import (
    _CONTEXT as _CONTEXT_PROMPT,  # pyright: ignore[reportPrivateUsage]
)
from tools.show.proof import Proof
from tools.show.tenancy import ask

SECRET = "s3cr3t-of-the-app-7731"
USER = "visitor-of-the-app-7731"
HIDDEN = "output-of-a-node-7731"
REMEMBERED = "value-of-the-conversation-7731"
PRODUCT = str(191 * 7)
MARKERS = (SECRET, USER, HIDDEN, REMEMBERED, PRODUCT)
"""What a prompt or an answer contains only if a template was rendered."""
TEXTS: Sequence[str] = (
    "{{#env.SECRET#}}",
    "{{#sys.user_id#}}",
    "{{#sys.query#}}",
    "{{#context#}}",
    "{{#histories#}}",
    "{{#hidden.output#}}",
    "{{#conversation.remembered#}}",
    "{{#$output.note#}}{{#env.SECRET#}}",
    "{{ env.SECRET }}{{ config }}{{ self }}",
    "{{ 191 * 7 }}",
    "{% print 191 * 7 %}",
    "{{q}} {{name}} {{query}} {{input}}",
    "${191*7} #{191*7} <%= 191 * 7 %>",
    "{{#env.{{#sys.user_id#}}#}}",
    "{0} {question} {context} %s %(context)s $context",
    "{{instruction}} {{tools}} {{tool_names}} {{agent_scratchpad}} {{historic_messages}}",
)
"""What somebody who knows this product, or others, would write."""


class Contained(str):
    """A text that some message has to contain, instead of being it."""

    __slots__ = ()


class Repeater(ScriptedModel):
    """A model that calls the first tool that it is offered, and then says a text."""

    def say(self, text: str) -> None:
        """Answer every question with this text."""
        self.answers[:] = [(".|^$", text)]
        self.requests.clear()


@dataclass
class Bench:
    """A runtime with the apps, and the text that comes from outside at the moment."""

    yard: Modelyard
    model: Repeater
    origin: str
    gateway: Gateway
    text: str = ""
    keys: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Name of a source to (app, API key)."""

    async def post(self, source: str, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request with the key of a source's app, and return the JSON document.
        Raises ValueError if it is refused."""
        response = await ask(self.gateway, "POST", path, self.keys[source][1], body)
        if response.status >= 400:
            raise ValueError(response.body.decode()[:300])
        return json.loads(response.body)

    async def run(self, source: str, **inputs: Any) -> Any:
        """Run the workflow of a source and return the response."""
        body = {"inputs": inputs, "user": USER, "response_mode": "blocking"}
        return await self.post(source, "/v1/workflows/run", body)

    async def chat(self, source: str, query: str, **fields: Any) -> Any:
        """Ask the chat of a source and return the response."""
        body = {"query": query, "user": USER, "response_mode": "blocking"}
        return await self.post(source, "/v1/chat-messages", {"inputs": {}, **body, **fields})  # fmt: skip

    def prompts(self) -> list[list[str]]:
        """Return the texts of each prompt that the model has received."""
        return [[message.text for message in request.messages] for request in self.model.requests]  # fmt: skip


Play = Callable[[Bench], Awaitable[Any]]
"""Brings the text to the model, and returns the response that a caller gets."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A way on which text comes from outside: an app, how it is played, and the texts
    that the model has to receive."""

    file: Callable[[str], str]
    """Returns the app's file for the address of the web server."""
    play: Play
    received: Callable[[str], Sequence[str]]
    """The text → texts, each of which is a complete message of some prompt, or is
    contained in one."""


# ------------------------------------------------------------------------------- apps

_START = {"type": "start", "variables": [{"variable": name, "type": kind} for name, kind in (("q", "paragraph"), ("doc", "file"))]}  # fmt: skip
_HIDDEN: Mapping[str, Any] = {
    "type": "template-transform",
    "template": HIDDEN,
    "variables": [],
}
_FIELDS: Mapping[str, Any] = {
    "environment_variables": [{"name": "SECRET", "value_type": "secret", "value": SECRET}],
    "conversation_variables": [{"name": "remembered", "value_type": "string", "value": REMEMBERED}],
}  # fmt: skip


def _workflow(
    prompt: str,
    *,
    mode: str = "workflow",
    root: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **nodes: Mapping[str, Any],
) -> Callable[[str], str]:
    """Return what writes an app: its first node, `nodes`, then a model with a prompt."""
    x = {"type": "llm", "prompt_template": [{"role": "user", "text": prompt}], **(model or {})}  # fmt: skip
    end = {"type": "answer", "answer": "{{#x.text#}}"}
    if mode == "workflow":
        end = {"type": "end", "outputs": [{"variable": "answer", "value_selector": ["x", "text"]}]}  # fmt: skip

    def file(origin: str) -> str:
        """Return the file; `ORIGIN` stands for the address of the web server."""
        graph: dict[str, Any] = {"start": root or _START, "hidden": _HIDDEN, **nodes, "x": x, "end": end}  # fmt: skip
        names = list(graph)
        # A form is left through its only button.
        edges = [
            f"{first}:yes > {second}" if graph[first]["type"] == "human-input" else f"{first} > {second}"
            for first, second in pairwise(names)
        ]  # fmt: skip
        written = json.dumps(document(graph, edges, mode=mode, **_FIELDS))
        return written.replace("ORIGIN", origin)

    return file


def _model_config(mode: str, **config: Any) -> Callable[[str], str]:
    """Return what writes an app that is only settings of a model."""
    model = {"provider": "openai", "name": "gpt-4o", "mode": "chat"}
    form = [{"paragraph": {"variable": "name", "label": "name"}}]
    app: dict[str, Any] = {
        "kind": "app",
        "version": "0.6.0",
        "app": {"name": "a", "mode": mode},
        "model_config": {"model": model, "user_input_form": form, **config},
    }
    return lambda origin: json.dumps(app)


def _template(source: str, *selector: str) -> dict[str, Any]:
    """Return a template node with one variable, `e`."""
    variables = [{"variable": "e", "value_selector": list(selector)}]
    return {"type": "template-transform", "template": source, "variables": variables}


_DATASETS = {"dataset_configs": {"datasets": {"datasets": [{"dataset": {"enabled": True, "id": "papers"}}]}}}  # fmt: skip
_TOOL = {"enabled": True, "provider_type": "builtin", "provider_id": "function", "tool_name": "outside"}  # fmt: skip
_RETRIEVAL = {"type": "knowledge-retrieval", "query_variable_selector": ["hidden", "output"], "dataset_ids": ["papers"]}  # fmt: skip
_CONTEXT = {"context": {"enabled": True, "variable_selector": ["r", "result"]}}
_HTTP = {"type": "http-request", "method": "get", "url": "ORIGIN/page"}
_FORM = {
    "type": "human-input",
    "form_content": "Say {{#$output.note#}} to {{#hidden.output#}}",
    "inputs": [{"type": "paragraph", "output_variable_name": "note"}],
    "user_actions": [{"id": "yes", "title": "Yes"}],
}
_HOOK = {
    "type": "trigger-webhook",
    "method": "post",
    "content_type": "application/json",
    "async_mode": False,
    "body": [{"name": "note", "type": "string"}],
}
_MEMORY = {"memory": {"window": {"enabled": False}, "query_prompt_template": "{{#sys.query#}}"}}  # fmt: skip
_AGENT = {
    "type": "agent",
    "agent_strategy_name": "function_calling",
    "agent_parameters": {
        "model": {"type": "constant", "value": {"provider": "openai", "model": "gpt-4o"}},
        "tools": {"type": "constant", "value": [_TOOL]},
        "query": {"type": "mixed", "value": "Do {{#start.q#}}."},
        "instruction": {"type": "mixed", "value": "Be {{#start.q#}}."},
    },
}  # fmt: skip


# ------------------------------------------------------------------------------ plays


async def _run_with_text(bench: Bench, source: str) -> Any:
    return await bench.run(source, q=bench.text)


async def _chat_twice(bench: Bench, source: str) -> Any:
    """Ask twice: question and answer of the first turn are the history of the second."""
    first = await bench.chat(source, bench.text)
    return await bench.chat(source, "and now?", conversation_id=first["conversation_id"])  # fmt: skip


async def _run_with_file(bench: Bench, source: str) -> Any:
    """Upload a file whose name and content have the text."""
    files = bench.yard.services.storage.files
    name, content = f"{bench.text}.txt", bench.text.encode()
    stored = await files.add("default", name, content)
    reference = {"type": "document", "transfer_method": "local_file", "upload_file_id": stored.id}  # fmt: skip
    return await bench.run(source, doc=reference)


async def _run_with_segment(bench: Bench, source: str, *, is_chat: bool) -> Any:
    """Store a document with the text, so that the dataset's only segment has it."""
    datasets = bench.yard.knowledge.datasets
    papers = await datasets.get_by_id_or_name("default", "papers")
    added = await datasets.add_texts(papers, [(bench.text, _paper(bench.text))])
    await datasets.wait(papers, added[0].batch)
    try:
        if is_chat:
            return await bench.chat(source, "node-7731?", inputs={"name": bench.text})
        return await bench.run(source)
    finally:
        await datasets.delete_documents(papers, [added[0].id])


def _file_name(text: str) -> str:
    """Return the name under which a file is stored: without most signs."""
    return f"{re.sub(r'[^a-zA-Z0-9_ .()-]', '_', text)}.txt"


def _paper(text: str) -> str:
    """Return a document that is found by the words of the hidden output."""
    return f"The output of a node 7731: {text} is all."


async def _call_webhook(bench: Bench, source: str) -> Any:
    """Start a run by a webhook."""
    app = bench.keys[source][0]
    listed = await ask(bench.gateway, "GET", f"/admin/v1/apps/{app}/triggers", "")
    path = urlsplit(str(json.loads(listed.body)["data"][0]["address"])).path
    response = await ask(bench.gateway, "POST", path, "", {"note": bench.text})
    return json.loads(response.body)


async def _submit_form(bench: Bench, source: str) -> Any:
    """Start a run that waits for a person, and submit the text."""
    run = (await bench.run(source))["workflow_run_id"]
    record = await bench.yard.runs.find("default", run)
    path = f"/v1/form/human_input/{record.reasons[0]['form_token']}"
    body = {"action": "yes", "user": USER, "inputs": {"note": bench.text}}
    await bench.post(source, path, body)
    await bench.yard.runs.resume_soon("default", run)
    ended = await bench.yard.runs.wait_until_ended("default", run)
    return {"answer": ended.outputs}


def _named(play: Callable[[Bench, str], Awaitable[Any]], source: str) -> Play:
    """Return a play for the app of a source."""
    return lambda bench: play(bench, source)


def _chat_with_text(bench: Bench, source: str) -> Awaitable[Any]:
    return bench.chat(source, bench.text, inputs={"name": bench.text, "q": bench.text})


def _retrieve(bench: Bench, source: str) -> Awaitable[Any]:
    return _run_with_segment(bench, source, is_chat=False)


def _retrieve_in_chat(bench: Bench, source: str) -> Awaitable[Any]:
    return _run_with_segment(bench, source, is_chat=True)


_RULE = f"\n\n{SAFETY}"
"""What an agent's instructions end with."""
_Row = tuple[
    Callable[[str], str],
    Callable[[Bench, str], Awaitable[Any]],
    Callable[[str], Sequence[str]],
]
_ROWS: Mapping[str, _Row] = {
    "input of a workflow": (_workflow("Say: {{#start.q#}}!"), _run_with_text, lambda text: [f"Say: {text}!"]),
    "input, through a template": (_workflow("Say: {{#t.output#}}!", t=_template("<{{ e }}>", "start", "q")), _run_with_text, lambda text: [f"Say: <{text}>!"]),
    "input, in a Jinja prompt": (_workflow("", model={"prompt_template": [{"role": "user", "text": "", "edition_type": "jinja2", "jinja2_text": "Say: {{ q }}!"}], "prompt_config": {"jinja2_variables": [{"variable": "q", "value_selector": ["start", "q"]}]}}), _run_with_text, lambda text: [f"Say: {text}!"]),
    "retrieved document": (_workflow("Use {{#context#}}!", r=_RETRIEVAL, model=_CONTEXT), _retrieve, lambda text: [f"Use {_paper(text)}!"]),
    "text and name of a file": (_workflow("Read {{#d.text#}} of {{#n.output#}}!", d={"type": "document-extractor", "variable_selector": ["start", "doc"]}, n=_template("{{ e.filename }}", "start", "doc")), _run_with_file, lambda text: [f"Read {text} of {_file_name(text)}!"]),
    "body of a page": (_workflow("Page: {{#h.body#}}!", h=_HTTP), _run_with_text, lambda text: [f"Page: {text}!"]),
    "header of a page": (_workflow("Head: {{#t.output#}}!", h=_HTTP, t=_template("{{ e['x-outside'] }}", "h", "headers")), _run_with_text, lambda text: [f"Head: {text}!"]),
    "result of a tool": (_workflow("Tool: {{#t.text#}}!", t={"type": "tool", "provider_type": "builtin", "provider_id": "function", "tool_name": "outside", "tool_parameters": {}}), _run_with_text, lambda text: [f"Tool: {text}!"]),
    "webhook": (_workflow("Hook: {{#start.note#}}!", root=_HOOK), _call_webhook, lambda text: [f"Hook: {text}!"]),
    "form of a person": (_workflow("Form: {{#f.note#}} {{#f.__rendered_content#}}!", f=_FORM), _submit_form, lambda text: [f"Form: {text} Say {text} to {HIDDEN}!"]),
    "history of a conversation": (_workflow("Talk.", mode="advanced-chat", model=_MEMORY), _chat_twice, lambda text: [text, "and now?"]),
    "question of a model app": (_model_config("chat", pre_prompt="Help {{name}}!"), _chat_with_text, lambda text: [f"Help {text}!", text]),
    "document of a model app": (_model_config("chat", pre_prompt="Help {{name}}!", **_DATASETS), _retrieve_in_chat, lambda text: [_CONTEXT_PROMPT.replace("{{#context#}}", _paper(text)) + f"\nHelp {text}!"]),
    "agent of a workflow": (_workflow("Agent: {{#a.text#}}!", a=_AGENT), _run_with_text, lambda text: [f"Be {text}.{_RULE}", f"Do {text}.", text, f"Agent: {text}!"]),
    "agent app with ReAct": (_model_config("agent-chat", pre_prompt="Help {{name}}!", agent_mode={"enabled": True, "strategy": "react", "tools": [_TOOL]}), _chat_with_text, lambda text: [Contained(f"Help {text}!"), text]),
    "agent app": (_model_config("agent-chat", pre_prompt="Help {{name}}!", agent_mode={"enabled": True, "strategy": "function_call", "tools": [_TOOL]}), _chat_with_text, lambda text: [f"Help {text}!{_RULE}", text]),
}  # fmt: skip
SOURCES: Mapping[str, Source] = {
    name: Source(file=file, play=_named(play, name), received=received)
    for name, (file, play, received) in _ROWS.items()
}


# -------------------------------------------------------------------------- the proof


async def _install(bench: Bench) -> None:
    """Add the dataset, the tool and the apps."""

    @tool(name="outside", description="Does {{#env.SECRET#}} {{ 191 * 7 }}")
    async def outside() -> str:
        return bench.text

    bench.yard.tools.functions.add(outside)
    economy = DatasetSettings(indexing_technique=Technique.ECONOMY)
    await bench.yard.knowledge.datasets.create("default", "papers", settings=economy)
    mapping = AppMapping(models={"*": "scripted/model"})
    for name, source in SOURCES.items():
        app, _, _ = await bench.yard.apps.add("default", source.file(bench.origin), name=name, mapping=mapping)  # fmt: skip
        _, key = await bench.yard.apps.make_key(app)
        bench.keys[name] = (app.id, key)


async def _play(bench: Bench, name: str, text: str) -> list[str]:
    """Bring a text through a source to the model; return what is wrong."""
    bench.text = text
    bench.model.say(text)
    source = SOURCES[name]
    try:
        response = await source.play(bench)
    except ValueError as error:
        return [f"was refused: {error}"]
    received = [message for prompt in bench.prompts() for message in prompt]
    return [
        *_received_problems(source.received(text), received),
        *_shown_problems(name, text, received, _answer_of(response)),
        *_tool_problems(bench.model.requests),
    ]


def _received_problems(expected: Sequence[str], received: Sequence[str]) -> list[str]:
    """Return which texts the model has not received."""
    missing = [message for message in expected if not _is_received(message, received)]
    return [f"no message is {message!r}" for message in missing]


def _shown_problems(
    name: str, text: str, received: Sequence[str], answer: Any
) -> list[str]:
    """Return what was rendered in prompts and in the answer."""
    shown = json.dumps(answer, ensure_ascii=False)
    # The form's author shows the output of a node.
    allowed = HIDDEN if "form" in name else "\0"
    told = f"{' '.join(received)} {shown}".replace(allowed, "")
    problems = [f"{marker!r} was rendered" for marker in MARKERS if marker in told]
    if json.dumps(text, ensure_ascii=False)[1:-1] not in shown:
        problems.append("the answer is another one")
    return problems


def _is_received(expected: str, received: Sequence[str]) -> bool:
    """Return whether one of the received messages is as expected."""
    if isinstance(expected, Contained):
        return any(expected in message for message in received)
    return expected in received


def _answer_of(response: Any) -> Any:
    """Return the part of a response that was written by the app."""
    if "answer" in response:
        return response["answer"]
    return response.get("data", response)["outputs"]


def _tool_problems(requests: Sequence[LLMRequest]) -> list[str]:
    """Return what is wrong with the descriptions of the tools that were offered."""
    described = {tool.description for request in requests for tool in request.tools}
    expected = {"Does {{#env.SECRET#}} {{ 191 * 7 }}"} if described else set[str]()
    return [] if described == expected else [f"tools are described as {described}"]


def _page(bench: Bench) -> Callable[[UpstreamRequest], Answer]:
    """Return the web server, whose page and header are the text."""

    def answer(request: UpstreamRequest) -> Answer:
        del request
        headers = {"content-type": "text/plain", "x-outside": bench.text}
        return Answer(headers=headers, body=bench.text.encode())

    return answer


async def prove_templates(proof: Proof) -> None:
    """Bring each text through each source, and report the sources."""
    model = Repeater()
    definition, builder = scripted_models(model)
    with tempfile.TemporaryDirectory() as home, Upstream(lambda request: Answer()) as site:  # fmt: skip
        origin = site.url.removesuffix("/v1")
        settings = Settings(home=home, egress=EgressSettings(private=[origin.removeprefix("http://")]))  # fmt: skip
        async with Modelyard(settings, definitions=[definition], builders={"scripted": builder}, environ={}) as yard:  # fmt: skip
            bench = Bench(yard, model, origin, gateway_for(yard.services))
            site.handler = _page(bench)
            await _install(bench)
            rendered = 0
            for name in SOURCES:
                problems = {text: await _play(bench, name, text) for text in TEXTS}
                faulty = {text: found for text, found in problems.items() if found}
                rendered += len(faulty)
                proof.line(f"templates: {name}", f"{len(TEXTS) - len(faulty)} of {len(TEXTS)} are received as they are", not faulty)  # fmt: skip
                for text, found in list(faulty.items())[:3]:
                    proof.line(f"  {text}", str(found)[:600], ok=False)
    proof.figures |= {"templates": len(TEXTS) * len(SOURCES), "rendered": rendered}


__all__ = ["SOURCES", "TEXTS", "prove_templates"]
