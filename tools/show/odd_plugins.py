"""Generate plugins that misbehave in one specific way each: they crash, hang, flood,
fork or leak.

They implement the plugin protocol by hand, without the SDK, so that each of them can
violate it.
"""

from collections.abc import Mapping
from pathlib import Path

_MANIFEST = """version: 0.0.1
type: plugin
author: odd
name: {name}
label: {{en_US: {name}}}
description: {{en_US: Does what it should not.}}
icon: icon.svg
created_at: 2026-11-21T00:00:00Z
resource:
  memory: 1048576
  permission: {permission}
plugins:
  {kind}: [provider/odd.yaml]
meta:
  version: 0.0.1
  arch: [amd64, arm64]
  runner: {{language: python, version: "3.12", entrypoint: main}}
"""
_TOOLS = """identity:
  {{author: odd, name: {name}, label: {{en_US: {name}}}, description: {{en_US: Odd.}}, icon: icon.svg}}
tools: [provider/tool.yaml]
extra: {{python: {{source: provider/odd.py}}}}
"""
_TOOL = """identity: {author: odd, name: odd, label: {en_US: Odd}}
description: {human: {en_US: Odd.}, llm: Odd.}
extra: {python: {source: provider/odd.py}}
parameters: """
_MODELS = """provider: {name}
label: {{en_US: {name}}}
supported_model_types: [llm, text-embedding]
configurate_methods: [predefined-model, customizable-model]
{forms}models: {{llm: {{predefined: [provider/model/*.yaml]}}}}
extra: {{python: {{provider_source: provider/odd.py, model_sources: [provider/odd.py]}}}}
"""
_MODEL = """model: {name}
model_type: llm
model_properties: {{mode: chat, context_size: 4096}}
pricing: {{input: "1", output: "1", unit: "0.001", currency: USD}}
"""
# Runs inside the plugin process: helpers that read requests from stdin and write
# protocol messages to stdout.
_PROLOGUE = """import json
import os
import signal
import sys
import threading
import time

try:
    from gevent.os import tp_read as read  # where the SDK was loaded, a plain read would stop everything else
except ImportError:
    read = os.read


writing = threading.Lock()


def write(text):
    data = text.encode()
    with writing:  # a long message is written in pieces, and heartbeats must not come between
        while data:
            data = data[os.write(1, data):]


def say(message):
    write(json.dumps(message) + "\\n\\n")


def heartbeat():
    say({"event": "heartbeat", "session_id": None, "data": {}})


def send(session, kind, data):
    say({"event": "session", "session_id": session, "data": {"type": kind, "data": data}})


def text(session, words):
    send(session, "stream", {"type": "text", "message": {"text": words}})


def chunk(session, words, **more):
    delta = {"index": 0, "message": {"role": "assistant", "content": words, "tool_calls": []}, "usage": None,
             "finish_reason": None, **more}
    send(session, "stream", {"model": "odd", "prompt_messages": [], "delta": delta})


def end(session):
    send(session, "end", {})


def beat_on():
    def beat():
        while True:
            heartbeat()
            time.sleep(0.2)

    threading.Thread(target=beat, daemon=True).start()


def requests():
    buffer = b""
    while True:
        data = read(0, 65536)
        if not data:
            time.sleep(0.05)
            continue
        *lines, buffer = (buffer + data).split(b"\\n")
        for line in lines:
            if line.strip():
                message = json.loads(line)
                if message["event"] == "request":
                    yield message["session_id"], message["data"]


"""
# Every request gets its own thread; the body of the behaviour is indented into `work`.
_SERVE = """beat_on()
for session, asked in requests():
    def work(session=session, asked=asked):
{body}
    threading.Thread(target=work, daemon=True).start()
"""


def _program_for(body: str, prologue: str = "") -> str:
    """Return a program that runs `body` for each request; `prologue` is code that runs
    once, ahead of the loop."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    return prologue + _SERVE.format(body=lines)


BEHAVIOURS: dict[str, str] = {
    "fine": _program_for("text(session, 'fine')\nend(session)"),
    # Answers with the parameters that it received.
    "told": _program_for(
        "text(session, json.dumps(asked.get('tool_parameters')))\nend(session)"
    ),
    "crash": "sys.exit('I will not start')\n",
    "silent": "time.sleep(3600)\n",
    # Writes bytes that are not protocol messages, then a valid response: the host must
    # skip the invalid lines.
    "garbage": _program_for(
        "print_me()\ntext(session, 'still here')\nend(session)",
        "def print_me():\n    write('this is no JSON\\n{\"half\": \\n\\x00\\xff\\n')\n\n\n",
    ),
    "stranger": _program_for(
        "text('somebody-elses', 'boo')\nend('somebody-elses')\ntext(session, 'mine')\nend(session)"
    ),
    "flood": _program_for("while True:\n    text(session, 'x' * 1_000_000)"),
    "long": _program_for("text(session, 'y' * 30_000_000)\nend(session)"),
    "hang": _program_for("time.sleep(3600)"),
    "dies": _program_for(
        "chunk(session, 'half a ')\nchunk(session, 'sentence')\ntime.sleep(0.2)\nos._exit(3)"
    ),
    # A model that is polled: its first three checks report "running", the state travels
    # in `plugin_state`.
    "polled": _program_for(
        """turns = asked.get("plugin_state", {}).get("turns", 0)
if asked["action"] == "start_polling" or turns < 2:
    send(session, "stream", {"status": "running", "plugin_state": {"turns": turns + 1}, "next_check_after_seconds": 0})
else:
    message = {"role": "assistant", "content": "done after %d" % turns}
    send(session, "stream", {"status": "succeeded", "result": {"model": "odd", "message": message, "usage": {
        "prompt_tokens": 3, "completion_tokens": 4}}})
end(session)"""
    ),
    # Plays what the last message asks for: chunks with these deltas, then an error. For
    # any other text, it answers with the parts of the request that it received.
    "played": _program_for(
        """if asked["action"].startswith("validate") and asked["credentials"].get("api_key") == "wrong":
    send(session, "error", {"error_type": "CredentialsValidateFailedError", "message": "refused", "args": {}})
    end(session)
    return
if asked["action"].startswith("validate"):
    # Some plugins complete the form, and expect that in their calls.
    completed = {**asked["credentials"], "mode": "chat"} if asked["credentials"].get("api_key") == "complete" else {}
    send(session, "stream", {"result": True, "credentials": completed})
    end(session)
    return
if asked["action"] == "get_ai_model_schemas":
    send(session, "stream", {"model_schema": describe(asked)})
    end(session)
    return
if asked["action"] == "invoke_text_embedding":
    send(session, "stream", {"model": asked["model"], "embeddings": [[float(len(asked["texts"]))] for _ in asked["texts"]],
                             "usage": {"tokens": 1}})
    end(session)
    return
messages = asked.get("prompt_messages") or []
text = messages[-1]["content"] if messages else ""
try:
    script = json.loads(text)
except ValueError:
    names = ("model_parameters", "prompt_messages", "tools", "stop", "stream", "json_schema", "credentials")
    script = {"deltas": [{"message": {"content": json.dumps({n: asked.get(n) for n in names})}}]}
for delta in script.get("deltas", []):
    send(session, "stream", {"model": asked["model"], "prompt_messages": [], "delta": {"index": 0, **delta}})
if "error" in script:
    kind, words = script["error"]
    send(session, "error", {"error_type": kind, "message": words, "args": {}})
end(session)""",
        """def describe(asked):
    properties = {"mode": "chat", "context_size": int(asked["credentials"].get("context_size", 0)), "max_chunks": 2}
    rules = [{"name": "response_format", "type": "string", "label": {"en_US": "F"}, "options": ["text", "json_object"]}]
    return {"model": asked["model"], "label": {"en_US": asked["model"]}, "model_type": asked["model_type"],
            "features": ["vision", "tool-call"], "fetch_from": "customizable-model", "model_properties": properties,
            "parameter_rules": rules, "deprecated": False,
            "pricing": {"input": "0", "output": "0", "unit": "0", "currency": "USD"}}


""",
    ),
    "unending": _program_for("text(session, 'never ends')"),
    # Sends a single heartbeat and then none, so the host must notice that the
    # heartbeats stopped.
    "mute": "heartbeat()\nfor session, asked in requests():\n    time.sleep(3600)\n",
    "deaf": _program_for(
        "time.sleep(3600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n",
    ),
    # The double fork with `setsid` detaches the grandchildren from the plugin's process
    # group.
    "forks": _program_for(
        """for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        time.sleep(3600)
text(session, 'forked')
end(session)"""
    ),
    "bomb": _program_for(
        "while True:\n    if os.fork() == 0:\n        time.sleep(3600)\n    time.sleep(0.005)"
    ),
    "leak": _program_for(
        "kept = []\nwhile True:\n    kept.append(bytearray(8 << 20))\n    time.sleep(0.02)"
    ),
    "spin": _program_for(
        "text(session, 'off')\nend(session)\ntime.sleep(0.3)\nos.nice(0)\nwhile True:\n    pass"
    ),
    "asks": _program_for(
        """say({"event": "session", "session_id": session, "data": {"type": "invoke", "data": {
    "type": asked.get("tool_parameters", {}).get("what", "storage"), "backwards_request_id": "a" * 32,
    "request": {"opt": "get", "key": "x"}}}})"""
    ),
    # Picks one of three resource attacks at random on every call: processes, memory or
    # CPU time.
    "menace": _program_for(
        """import random
kind = random.randrange(3)
if kind == 0:
    for _ in range(20):
        if os.fork() == 0:
            while True:
                pass
if kind == 1:
    kept = []
    while True:
        kept.append(bytearray(16 << 20))
        time.sleep(0.01)
while True:
    pass"""
    ),
}
"""Behaviour name to the part of the plugin's program that follows the prologue."""


def odd_plugin(
    folder: Path,
    behaviour: str,
    *,
    name: str = "",
    extension_type: str = "tools",
    permission: str = "{}",
    models: Mapping[str, str] | None = None,
    forms: str = "",
    parameters: str = "[]",
) -> Path:
    """Write a plugin with this behaviour below `folder` and return the plugin's folder.

    `extension_type` is the section of the manifest that declares it: "tools" or
    "models". `models` maps names to further lines of their YAML; without it there is
    one model, `odd`. `forms` is the YAML of the credential forms of its provider,
    `parameters` that of the parameters of its tool.
    """
    name = name or behaviour
    target = folder / name
    # All files are written for both kinds of plugin; the manifest decides which of them
    # are read.
    files = {
        "manifest.yaml": _MANIFEST.format(
            name=name, kind=extension_type, permission=permission
        ),
        "provider/odd.yaml": (_TOOLS if extension_type == "tools" else _MODELS).format(
            name=name, forms=forms
        ),
        "provider/tool.yaml": f"{_TOOL}{parameters}\n",
        "provider/odd.py": "",
        "main.py": _PROLOGUE + BEHAVIOURS[behaviour],
        "requirements.txt": "dify_plugin>=0.7.4,<0.11\n",
        "_assets/icon.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "README.md": f"# {name}\n",
    }
    features = "polling" if behaviour == "polled" else ""
    for model, lines in (models or {"odd": f"features: [{features}]\n"}).items():
        files[f"provider/model/{model}.yaml"] = _MODEL.format(name=model) + lines
    for path, text in files.items():
        where = target / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, "utf-8")
    return target
