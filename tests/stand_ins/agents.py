"""Small coding agents, one for each format that agents speak: each works in a folder in
memory with tools as the real ones have them, until the model answers without a call."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.stand_ins.pictures import PICTURE
from tests.stand_ins.session import NOTES

_PATH = {"type": "string", "description": "An absolute path"}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "Read": {"file_path": _PATH},
    "Write": {"file_path": _PATH, "content": {"type": "string"}},
    "Edit": {
        "file_path": _PATH,
        "old_string": {"type": "string"},
        "new_string": {"type": "string"},
    },
    "Bash": {
        "command": {"type": "string"},
        "timeout": {"type": "integer", "exclusiveMinimum": 0},
    },
}
_REQUIRED = {"Bash": ["command"]}


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of a tool, with the keys that real agents' schemas have."""
    properties = _SCHEMAS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": _REQUIRED.get(name, list(properties)),
        "additionalProperties": False,
    }


@dataclass
class Folder:
    """Files in memory, and the tools that work on them. `path` is the folder's."""

    path: str
    files: dict[str, str] = field(default_factory=lambda: {"notes.txt": NOTES})

    def run(self, name: str, arguments: dict[str, Any]) -> str | bytes:
        """Run a tool. Returns a text, or the bytes of a picture."""
        if name == "Bash":
            return self._shell(arguments["command"])
        file = arguments["file_path"].removeprefix(f"{self.path}/")
        if name == "Write":
            self.files[file] = arguments["content"]
        elif name == "Edit":
            old, new = arguments["old_string"], arguments["new_string"]
            self.files[file] = self.files[file].replace(old, new)
        elif file == "picture.png":
            return PICTURE
        return self.files[file]

    def _shell(self, command: str) -> str:
        """Do what the two commands of the session do."""
        if "made.txt" in command:
            self.files["made.txt"] = "made by a command\n"
            return "18\n"
        word = command.split()[1]
        self.files[f"{word}.txt"] = f"{word}\n"
        return f"{word}\n"


class Agent:
    """An agent: it sends its history, and adds the answer and the results to it."""

    path = ""

    def __init__(self, origin: str, model: str, folder: Folder) -> None:
        self.origin = origin
        self.model = model
        self.folder = folder
        self.history: list[Any] = []

    def run(self) -> str:
        """Run a session and return the final text. Raises HTTPStatusError if a call is
        refused, and AssertionError if the session does not end."""
        for _ in range(20):
            reply = httpx.post(
                self.origin + self.path.format(model=self.model),
                json=self.body(),
                headers=self.headers(),
                timeout=60,
            )
            assert reply.status_code == 200, reply.text
            lines = reply.text.splitlines()
            data = [line[6:] for line in lines if line.startswith("data: ")]
            text, calls = self.read([json.loads(d) for d in data if d != "[DONE]"])
            if not calls:
                return text
            outputs = [self.folder.run(name, arguments) for _, name, arguments in calls]
            self.add_results(list(zip(calls, outputs, strict=True)))
        raise AssertionError("The session does not end")

    def headers(self) -> dict[str, str]:
        """Return the headers of a call."""
        return {}

    def body(self) -> dict[str, Any]:
        """Return the body of the next call."""
        raise NotImplementedError

    def read(self, events: list[Any]) -> tuple[str, list[Any]]:
        """Add an answer to the history; return its text and its calls as (id, name,
        arguments)."""
        raise NotImplementedError

    def add_results(self, results: list[Any]) -> None:
        """Add the results of calls to the history, as (call, output)."""
        raise NotImplementedError


class MessagesAgent(Agent):
    """Like Claude Code: Anthropic's format, thinking, cache marks, a beta field, and
    reminders of the system in the middle of the session."""

    path = "/v1/messages?beta=true"
    betas = "context-management-2025-06-27,mid-conversation-system-2026-04-07"

    def headers(self) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01", "anthropic-beta": self.betas}

    def body(self) -> dict[str, Any]:
        mark = {"type": "ephemeral"}
        task = {"type": "text", "text": "Do the steps", "cache_control": mark}
        system = {"type": "text", "text": "You are an agent. " * 300}
        tools = [{"name": n, "input_schema": schema_of(n)} for n in _SCHEMAS]
        tools[-1]["cache_control"] = mark
        edits = [{"type": "clear_thinking_20251015", "keep": "all"}]
        user = {"device_id": "d" * 64, "account_uuid": "", "session_id": "s-1"}
        return {
            "model": self.model,
            "max_tokens": 32_000,
            "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 31_999},
            "system": [{**system, "cache_control": mark}],
            "tools": tools,
            "metadata": {"user_id": json.dumps(user)},
            "context_management": {"edits": edits},
            "messages": [{"role": "user", "content": [task]}, *self.history],
        }

    def read(self, events: list[Any]) -> tuple[str, list[Any]]:
        blocks = _blocks_of(events)
        # Claude Code keeps no thoughts without a text.
        returned = [b for b in blocks if b["type"] != "thinking" or b["thinking"]]
        self.history.append({"role": "assistant", "content": returned})
        text = "".join(b["text"] for b in blocks if b["type"] == "text")
        uses = [b for b in blocks if b["type"] == "tool_use"]
        return text, [(b["id"], b["name"], b["input"]) for b in uses]

    def add_results(self, results: list[Any]) -> None:
        blocks: list[Any] = []
        for (call_id, _, _), output in results:
            content: Any = output
            if isinstance(output, bytes):
                data = base64.b64encode(output).decode()
                source = {"type": "base64", "media_type": "image/png", "data": data}
                content = [{"type": "image", "source": source}]
            result = {"type": "tool_result", "tool_use_id": call_id}
            blocks.append({**result, "content": content})
        self.history.append({"role": "user", "content": blocks})
        if len(results) > 1:
            reminder = "The task tools haven't been used recently."
            self.history.append({"role": "system", "content": reminder})


def _blocks_of(events: list[Any]) -> list[Any]:
    """Return the content blocks of a stream."""
    blocks: list[Any] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            _extend_block(blocks[-1], event["delta"])
    for block in blocks:
        if text := block.pop("json"):
            block["input"] = json.loads(text)
    return blocks


def _extend_block(block: Any, delta: Any) -> None:
    """Add a delta of a stream to its block."""
    for name, value in delta.items():
        key = "json" if name == "partial_json" else name
        if name != "type":
            block[key] = block.get(key, "") + value


class ResponsesAgent(Agent):
    """Like Codex: the Responses format without storage, with tools of all kinds."""

    path = "/v1/responses"

    def body(self) -> dict[str, Any]:
        functions = [
            {
                "type": "function",
                "name": name,
                "strict": False,
                "parameters": schema_of(name),
            }
            for name in _SCHEMAS
        ]
        spawn = {**functions[0], "name": "spawn"}
        group = {"type": "namespace", "name": "multi_agent_v1", "description": "d"}
        search = {"type": "web_search", "external_web_access": True}
        task = {"type": "input_text", "text": "Do the steps"}
        rules = {"type": "input_text", "text": "You are an agent. " * 300}
        return {
            "model": self.model,
            "stream": True,
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "prompt_cache_key": "session-1",
            "client_metadata": {"session_id": "session-1"},
            "reasoning": {"summary": "auto"},
            "tools": [*functions, {**group, "tools": [spawn]}, search],
            "input": [
                {"type": "message", "role": "developer", "content": [rules]},
                {"type": "message", "role": "user", "content": [task]},
                *self.history,
            ],
        }

    def read(self, events: list[Any]) -> tuple[str, list[Any]]:
        items = [
            event["item"]
            for event in events
            if event["type"] == "response.output_item.done"
        ]
        assert events[-1]["type"] == "response.completed", events[-1]
        self.history += items
        messages = [item for item in items if item["type"] == "message"]
        text = "".join(part["text"] for m in messages for part in m["content"])
        calls = [item for item in items if item["type"] == "function_call"]
        return text, [
            (item["call_id"], item["name"], json.loads(item["arguments"]))
            for item in calls
        ]

    def add_results(self, results: list[Any]) -> None:
        for (call_id, _, _), output in results:
            content: Any = output
            if isinstance(output, bytes):
                data = base64.b64encode(output).decode()
                url = f"data:image/png;base64,{data}"
                content = [{"type": "input_image", "image_url": url}]
            result = {"type": "function_call_output", "call_id": call_id}
            self.history.append({**result, "output": content})


class ChatAgent(Agent):
    """Like opencode: chat completions with effort and the legacy name of the limit."""

    path = "/v1/chat/completions"

    def body(self) -> dict[str, Any]:
        tools = [
            {"type": "function", "function": {"name": n, "parameters": schema_of(n)}}
            for n in _SCHEMAS
        ]
        return {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 32_000,
            "reasoning_effort": "medium",
            "tools": tools,
            "tool_choice": "auto",
            "messages": [
                {"role": "system", "content": "You are an agent. " * 300},
                {"role": "user", "content": "Do the steps"},
                *self.history,
            ],
        }

    def read(self, events: list[Any]) -> tuple[str, list[Any]]:
        calls: dict[int, Any] = {}
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        for piece in (p for delta in deltas for p in delta.get("tool_calls") or ()):
            _extend_call(calls.setdefault(piece["index"], {"type": "function"}), piece)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = list(calls.values())
        self.history.append(message)
        return text, [
            (
                call["id"],
                call["function"]["name"],
                json.loads(call["function"]["arguments"]),
            )
            for call in calls.values()
        ]

    def add_results(self, results: list[Any]) -> None:
        pictures: list[Any] = []
        for (call_id, _, _), output in results:
            content = output if isinstance(output, str) else "The picture follows."
            if isinstance(output, bytes):
                url = f"data:image/png;base64,{base64.b64encode(output).decode()}"
                pictures.append({"type": "image_url", "image_url": {"url": url}})
            result = {"role": "tool", "tool_call_id": call_id, "content": content}
            self.history.append(result)
        if pictures:
            self.history.append({"role": "user", "content": pictures})


def _extend_call(call: Any, piece: Any) -> None:
    """Add a piece of a stream to its call."""
    call["id"] = piece.get("id") or call["id"]
    function = call.setdefault("function", {})
    for name, value in piece["function"].items():
        function[name] = function.get(name, "") + (value or "")


class GeminiAgent(Agent):
    """Like Gemini CLI: Google's format, ids of its own, and Google's placeholder where
    no signature came."""

    path = "/v1beta/models/{model}:streamGenerateContent?alt=sse"

    def headers(self) -> dict[str, str]:
        return {"x-goog-api-key": "none"}

    def body(self) -> dict[str, Any]:
        declarations = [
            {"name": n, "description": "d", "parametersJsonSchema": schema_of(n)}
            for n in _SCHEMAS
        ]
        thinking = {"includeThoughts": True, "thinkingLevel": "HIGH"}
        sampling = {"temperature": 1, "topP": 0.95, "topK": 64}
        return {
            "systemInstruction": {
                "role": "user",
                "parts": [{"text": "You are an agent. " * 300}],
            },
            "contents": [
                {"role": "user", "parts": [{"text": "Do the steps"}]},
                *self.history,
            ],
            "tools": [{"functionDeclarations": declarations}],
            "generationConfig": {**sampling, "thinkingConfig": thinking},
        }

    def read(self, events: list[Any]) -> tuple[str, list[Any]]:
        parts = list(_parts_of(events))
        texts = [p for p in parts if p.get("text") and not p.get("thought")]
        text = "".join(part["text"] for part in texts)
        calls: list[Any] = []
        for part in parts:
            if call := part.get("functionCall"):
                call["id"] = (
                    f"{call['name']}_1796034206577_{len(self.history)}_{len(calls)}"
                )
                calls.append(part)
        if calls:
            calls[0].setdefault("thoughtSignature", "skip_thought_signature_validator")
        returned = [*([{"text": text}] if text else []), *calls]
        self.history.append({"role": "model", "parts": returned})
        functions = [part["functionCall"] for part in calls]
        return text, [(call["id"], call["name"], call["args"]) for call in functions]

    def add_results(self, results: list[Any]) -> None:
        parts: list[Any] = []
        for (call_id, name, _), output in results:
            response: dict[str, Any] = {"id": call_id, "name": name}
            if isinstance(output, bytes):
                data = base64.b64encode(output).decode()
                picture = {"inlineData": {"mimeType": "image/png", "data": data}}
                response["response"] = {"output": "Binary content provided."}
                response["parts"] = [picture]
            else:
                response["response"] = {"output": output}
            parts.append({"functionResponse": response})
        self.history.append({"role": "user", "parts": parts})


def _parts_of(events: list[Any]) -> Iterator[Any]:
    """Yield the parts of all events."""
    for event in events:
        for candidate in event.get("candidates") or ():
            yield from (candidate.get("content") or {}).get("parts") or ()


AGENTS: dict[str, type[Agent]] = {
    "messages": MessagesAgent,
    "responses": ResponsesAgent,
    "chat": ChatAgent,
    "gemini": GeminiAgent,
}
