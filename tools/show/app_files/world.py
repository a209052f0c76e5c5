"""What a run meets outside: models, addresses, tools, datasets, people. Each answers with
a text that depends on what it was asked, so that an output shows where it comes from, and
each records what it was asked.

The functions in the first half say what is answered. The reader of the files calls them
with what the file says; the doubles in the second half with what the product asks.
"""

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from modelyard.models.base import LargeLanguageModel
from modelyard.models.llm import (
    LLMRequest,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from modelyard.models.messages import (
    AssistantPromptMessage,
    ToolCall,
    ToolCallFunction,
    ToolPromptMessage,
)
from modelyard.models.types import Credentials
from modelyard.testing.workflows import StubAgents, StubDatasets, StubHttp, StubTools
from modelyard.transport.egress import FetchedResponse
from modelyard.workflow.node import Turn as StoredTurn
from modelyard.workflow.variables import to_object
from tools.show.app_files.values import without_run_ids

OWN_HEADERS = ("content-type", "idempotency-key")
"""Headers that the product may add to a request."""
_AGENT = re.compile(r"\[agent:(\w+)\]")
_SCHEMA_MARKS = (
    "as a JSON schema:\n",
    "fits this JSON schema, and with nothing else:\n",
)
"""Before the schema in prompts that the product words itself."""
_DIGEST = "<<digest>>"
_LIKE_A_TEMPLATE = "{{#sys.query#}}"
"""In what models, tools and datasets say: none of it is read as a template."""
_TOP = "value"
"""The name of the outermost value in a sample document."""


class Message(NamedTuple):
    """One message to a model."""

    role: str
    text: str
    files: int
    """The number of files with the text."""


class Call(NamedTuple):
    """One call of a run to the outside. `asked` is a JSON value; the calls of a run are
    compared without their order, because branches run at the same time."""

    target: str
    """model, http, tool, dataset, index or agent."""
    asked: Any


@dataclass(slots=True)
class Script:
    """Answers for one file, for which the general answer is not sufficient."""

    model: Sequence[Sequence[str]] = ()
    """(pattern of the last question, answer), tried in order."""
    http: Sequence[Sequence[str]] = ()
    """(pattern of the URL, body of the response)."""
    tools: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The messages of a tool by its name."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    query: str = "What is {{this}}?"
    turns: Sequence[str] = ()
    """What the user of a chat says after the first answer."""
    files: Sequence[str] = ()
    """The types of the files that come with the first message."""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The values that a model finds for parameters, by their names."""
    category: int = -1
    """Which category of a question classifier the model chooses. By default the last
    one, since the first is what a classifier falls back to."""
    action: Mapping[str, str] = field(default_factory=dict)
    """The action that a person chooses, by the form's node. By default the first one;
    `timeout` lets the form expire."""
    plugins: bool = False
    """Whether stand-ins replace the tools and agent strategies of plugins."""
    seconds: float = 0.0
    """How long the app's own code sleeps."""
    root: str = ""
    """The node with which the run starts, if an app has several."""


def digest(*asked: Any) -> str:
    """Return eight characters that stand for what was asked."""
    text = json.dumps(
        without_run_ids(asked), ensure_ascii=False, sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]


def sample(schema: Mapping[str, Any], mark: str, name: str = _TOP) -> Any:
    """Return a document that fits a JSON schema, with the name of each value in it."""
    if schema.get("enum"):
        return schema["enum"][-1]
    match schema.get("type"):
        case "object":
            properties: Mapping[str, Any] = schema.get("properties") or {
                "value": {"type": "string"}
            }
            prefix = "" if name == _TOP else f"{name} "
            return {
                key: sample(properties[key], mark, f"{prefix}{key}")
                for key in properties
            }
        case "array":
            items = schema.get("items") or {"type": "string"}
            return [sample(items, mark, f"{name} {number}") for number in (1, 2)]
        case "number" | "integer":
            return int(digest(mark, name)[:4], 16)
        case "boolean":
            return True
        case _:
            return f"{name} {mark}"


def model_text(
    messages: Sequence[Message], script: Script, schema: Mapping[str, Any] | None = None
) -> str:
    """Return the text with which a model answers these messages."""
    question = messages[-1].text
    # An agent's messages are the product's own words; the agent's name is the file's.
    name = agent_name("\n".join(message.text for message in messages))
    mark = digest(name) if name else digest(*messages)
    for pattern, text in script.model:
        if re.search(pattern, question):
            return text.replace(_DIGEST, mark)
    if schema is not None:
        return json.dumps(sample(schema, mark), ensure_ascii=False)
    return agent_text(name) if name else f"Model answer {mark}. {_LIKE_A_TEMPLATE}"


def agent_text(name: str) -> str:
    """Return the answer of a model to the agent whose instruction has `[agent:NAME]`."""
    return f"Answer of the agent {name}."


def agent_values(name: str, schema: Mapping[str, Any]) -> Any:
    """Return the structured answer to such an agent."""
    return sample(schema, digest(name))


def agent_name(instruction: str) -> str:
    """Return the name that an instruction has in `[agent:NAME]`, or an empty text."""
    match = _AGENT.search(instruction)
    return match[1] if match else ""


def extracted_values(
    query: str, schema: Mapping[str, Any], script: Script
) -> dict[str, Any]:
    """Return the values that a model finds in a text for a parameter extractor."""
    values: dict[str, Any] = sample(schema, digest(query))
    return {name: script.values.get(name, values[name]) for name in values}


def chosen_category(count: int, script: Script) -> int:
    """Return the index of the category that the model chooses."""
    return script.category % count


def tool_messages(
    tool: str, parameters: Mapping[str, Any], script: Script
) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a tool."""
    mark = digest(parameters)
    if tool in script.tools:
        text = json.dumps(script.tools[tool], ensure_ascii=False)
        return json.loads(text.replace(_DIGEST, mark))
    return [
        {
            "type": "text",
            "message": {"text": f"{tool} result {mark} {_LIKE_A_TEMPLATE}"},
        }
    ]


def http_body(request: Mapping[str, Any], script: Script) -> str:
    """Return the body of the response to a request."""
    mark = digest(request)
    for pattern, body in script.http:
        if re.search(pattern, request["address"]):
            return body.replace(_DIGEST, mark)
    return json.dumps({"page": mark})


def request_of(
    method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    """Return a request that was sent in the form in which the reader notes it."""
    types = [value for name, value in headers if name.lower() == "content-type"]
    text = body.decode("utf-8", "replace")
    is_form = any("urlencoded" in value for value in types)
    is_multipart = any("multipart" in value for value in types)
    return {
        "method": method,
        "address": url.partition("?")[0],
        "query": _pairs(urlsplit(url).query),
        "headers": sorted(
            f"{name.lower()}: {value}"
            for name, value in headers
            if name.lower() not in OWN_HEADERS
        ),
        "body": _multipart_fields(types[0], body)
        if is_multipart
        else (_pairs(text) if is_form else comparable_body(text)),
    }


def _multipart_fields(content_type: str, body: bytes) -> list[list[str]]:
    """Return the fields of a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    parts: Any = message_from_bytes(head + body).get_payload()
    return [
        [
            str(part.get_param("name", header="content-disposition")),
            part.get_payload(decode=True).decode("utf-8", "replace"),
        ]
        for part in parts
    ]


def _pairs(query: str) -> list[list[str]]:
    """Return the fields of a query or of a form."""
    return [list(pair) for pair in parse_qsl(query, keep_blank_values=True)]


def comparable_body(text: str) -> Any:
    """Return a text as the JSON value that it holds; otherwise the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def segments(query: str) -> list[dict[str, Any]]:
    """Return the segments that datasets hold about a query."""
    mark = digest(query)
    metadata = {
        "_source": "knowledge",
        "position": 1,
        "dataset_id": "dataset",
        "dataset_name": "dataset",
        "document_id": "document",
        "document_name": "document",
        "segment_id": f"segment {mark}",
        "score": 1.0,
        "retriever_from": "workflow",
    }
    return [
        {
            "title": "document",
            "content": f"Segment {mark}. {_LIKE_A_TEMPLATE}",
            "metadata": metadata,
        },
    ]


def indexed(chunks: Any) -> dict[str, Any]:
    """Return what a dataset says about chunks that it got."""
    return {"indexed": digest(chunks)}


def strategy_text(parameters: Mapping[str, Any]) -> str:
    """Return the text of an agent strategy that a plugin provides."""
    return f"Strategy answer {digest(parameters.get('query'), parameters.get('instruction'))}."


def filled_form(
    node: Mapping[str, Any], script: Script, node_id: str
) -> dict[str, Any]:
    """Return what a person answers to the form of a node's data."""
    action = script.action.get(node_id)
    if action == "timeout":
        return {"expired": 1.0}
    names = [
        str(form_input.get("output_variable_name") or "")
        for form_input in node.get("inputs") or ()
    ]
    actions = node.get("user_actions") or [{"id": ""}]
    return {
        "inputs": {name: f"{name} as filled in" for name in names},
        "action": action or actions[0]["id"],
    }


@dataclass(frozen=True, slots=True)
class Turn:
    """What a run begins with: a message, and what a conversation has brought so far."""

    query: str
    number: int = 1
    files: Sequence[Mapping[str, Any]] = ()
    conversation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The values of conversation variables; those that are missing are the file's."""
    history: Sequence[tuple[str, str]] = ()
    """Earlier messages with their answers, oldest first."""


# ------------------------------------------------------------------------ the doubles


_script: ContextVar[Script] = ContextVar("script")
_calls: ContextVar[list[Call]] = ContextVar("calls")


class WorldModel(LargeLanguageModel):
    """A chat model that answers as the functions above say.

    Its state belongs to the task that runs a file, so that several can run at a time.
    """

    @staticmethod
    def begin(script: Script) -> list[Call]:
        """Answer with a script from now on; return the list of the calls to come."""
        _script.set(script)
        calls: list[Call] = []
        _calls.set(calls)
        return calls

    async def invoke(
        self, model: str, credentials: Credentials, request: LLMRequest
    ) -> AsyncGenerator[LLMResultChunk, None]:
        """Record the request and yield the answer, word by word."""
        messages = [
            Message(message.role.value, message.text, len(message.files))
            for message in request.messages
        ]
        script = _script.get()
        _calls.get().append(Call("model", messages))
        usage = LLMUsage.of(len(messages), 5)
        if (call := _tool_call(request, messages, script)) is not None:
            message = AssistantPromptMessage(tool_calls=[call])
            delta = LLMResultChunkDelta(
                message=message, finish_reason="tool_calls", usage=usage
            )
            yield LLMResultChunk(model=model, delta=delta)
            return
        for word in re.findall(r"\s*\S+|\s+", _text(request, messages, script)):
            delta = LLMResultChunkDelta(message=AssistantPromptMessage(content=word))
            yield LLMResultChunk(model=model, delta=delta)
        delta = LLMResultChunkDelta(finish_reason="stop", usage=usage)
        yield LLMResultChunk(model=model, delta=delta)


def _tool_call(
    request: LLMRequest, messages: Sequence[Message], script: Script
) -> ToolCall | None:
    """Return the model's call of the first tool; None if there is none, or if it has
    been called."""
    if not request.tools or isinstance(request.messages[-1], ToolPromptMessage):
        return None
    tool = request.tools[0]
    arguments = extracted_values(messages[-1].text, tool.parameters, script)
    function = ToolCallFunction(
        name=tool.name, arguments=json.dumps(arguments, ensure_ascii=False)
    )
    return ToolCall(id="call_1", function=function, index=0)


def _text(request: LLMRequest, messages: Sequence[Message], script: Script) -> str:
    """Return the text for a request, also for those that the product words itself."""
    response_format: Any = request.model_parameters.get("response_format")
    if isinstance(response_format, Mapping) and "json_schema" in response_format:
        return model_text(messages, script, response_format["json_schema"]["schema"])
    # A model that is to extract parameters without a tool gets their schema as text.
    if (schema := _schema_in(messages[0].text)) is not None:
        if name := agent_name(messages[0].text):
            return json.dumps(agent_values(name, schema), ensure_ascii=False)
        values = extracted_values(messages[-1].text, schema, script)
        return json.dumps(values, ensure_ascii=False)
    if (categories := _categories(messages[-1].text)) is not None:
        category = categories[chosen_category(len(categories), script)]
        return json.dumps({"keywords": [], **category}, ensure_ascii=False)
    return model_text(messages, script)


def _schema_in(system: str) -> dict[str, Any] | None:
    """Return the JSON schema in a system message; None if it has none."""
    for mark in _SCHEMA_MARKS:
        if mark in system:
            text = system.partition(mark)[2]
            schema, _ = json.JSONDecoder().raw_decode(text)
            return schema
    return None


def _categories(question: str) -> list[dict[str, Any]] | None:
    """Return the categories in a question classifier's request; None in any other."""
    try:
        document = json.loads(question)
    except ValueError:
        return None
    return document.get("categories") if isinstance(document, dict) else None


class WorldHttp(StubHttp):
    """Addresses that answer as `http_body` says."""

    script = Script()

    async def fetch(self, method: str, url: str, **options: Any) -> FetchedResponse:
        """Record the request and return the response."""
        body = options.get("body") or b""
        headers = options.get("headers") or ()
        self.seen.append((method, url, headers, body))
        request = request_of(method, url, headers, body)
        return FetchedResponse(
            status=200,
            headers={"content-type": "application/json"},
            body=http_body(request, self.script).encode(),
            url=url,
        )


class WorldDatasets(StubDatasets):
    """Datasets that answer as `segments` and `indexed` say."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    async def retrieve(
        self, query: str, data: Any, *, files: Sequence[Any] = ()
    ) -> list[dict[str, Any]]:
        """Record the query and return its segments."""
        self.calls.append(Call("dataset", [query, list(data.dataset_ids)]))
        return segments(query)

    async def index(
        self, segments: Any, data: Any, target: Any = None
    ) -> dict[str, Any]:
        """Record the chunks and return what the dataset says about them."""
        self.calls.append(Call("index", to_object(segments)))
        return indexed(to_object(segments))


class WorldTools(StubTools):
    """Tools that answer as `tool_messages` says."""

    script = Script()

    async def invoke(
        self,
        provider_type: str,
        provider: str,
        tool: str,
        parameters: Mapping[str, Any],
        **options: Any,
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Record the call and yield the tool's messages."""
        asked = to_object(dict(parameters))
        self.seen.append((provider, tool, asked))
        for message in tool_messages(tool, asked, self.script):
            yield message


class WorldAgents(StubAgents):
    """Agent strategies of plugins that answer as `strategy_text` says."""

    async def run(
        self, strategy: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Record the call and yield the answer."""
        self.seen.append((strategy, parameters))
        yield {"type": "text", "message": {"text": strategy_text(parameters)}}


class History:
    """The conversation that the product remembers."""

    def __init__(self, turn: Turn) -> None:
        self._turns = [
            StoredTurn(query=query, answer=answer, id=str(index))
            for index, (query, answer) in enumerate(turn.history)
        ]

    async def turns(self, limit: int) -> list[StoredTurn]:
        """Return the newest turns, oldest first."""
        return self._turns[-limit:]

    async def recap(self) -> None:
        """Return None: these conversations are short."""

    async def save_recap(self, recap: Any) -> None:
        """Refuse a recap, which only a long conversation needs."""
        raise AssertionError(f"a short conversation is summarised: {recap}")


class People:
    """People who answer every form as `filled_form` says."""

    def __init__(self, forms: Mapping[str, Mapping[str, Any]], script: Script) -> None:
        self._forms = forms
        self._script = script

    async def answer(self, key: str) -> dict[str, Any] | None:
        """Return the answer to the form of a node; None if it has no form."""
        node_id = key.rpartition("/")[2]
        node = self._forms.get(node_id)
        return None if node is None else filled_form(node, self._script, node_id)

    async def publish(
        self, key: str, form: Mapping[str, Any], expires_at: float
    ) -> dict[str, Any]:
        """Accept a form; it has been answered before."""
        return {}
