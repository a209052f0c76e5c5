"""What the jailed process does, by kind: code in two languages, a template, a document. Data in, data out; text that
others wrote is never put into a program of ours."""

import json
import sys
from typing import Any

_MOST_TRACE = 4000


class Failed(Exception):
    """The other side's own mistake, in its own words."""


# ------------------------------------------------------------------------------------------------ Python


def python(task: Any) -> Any:
    """`def main(a, b)` with keyword arguments; one that takes a single other name gets them as one object."""
    import inspect
    import types

    source, inputs = task["code"], task["inputs"]
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "<code>", "exec"), module.__dict__)
        main = module.__dict__.get("main")
        if not callable(main):
            raise Failed("the code defines no function main")
        arguments, named = _arguments(inspect, main, inputs)
        result = main(*arguments, **named)
        if inspect.isawaitable(result):
            import asyncio

            result = asyncio.run(_awaited(result))
    except Failed:
        raise
    except BaseException as error:
        raise Failed(_trace(error)) from None
    return _plain(result)


async def _awaited(result: Any) -> Any:
    return await result


def _arguments(inspect: Any, main: Any, inputs: Any) -> Any:
    """By name; a function of one other name gets all of them as one object, and what nobody gave is None."""
    try:
        signature = inspect.signature(main)
    except (TypeError, ValueError):
        return (), inputs
    try:
        signature.bind(**inputs)
    except TypeError:
        parameters = [one for one in signature.parameters.values() if one.kind in (0, 1, 3)]
        if inputs and len(parameters) == 1 and parameters[0].name not in inputs and parameters[0].kind != 3:
            return (inputs,), {}
        missing = {one.name: None for one in parameters if one.default is one.empty and one.name not in inputs}
        return (), {**inputs, **missing}
    return (), inputs


def _trace(error: Any) -> Any:
    import traceback

    if isinstance(error, MemoryError):
        return "MemoryError: the code took more memory than it may"
    lines = traceback.format_exception_only(type(error), error)
    steps = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == "<code>"]
    where = "".join("  line %d, in %s\n" % (one.lineno, one.name) for one in steps[-12:])
    return (where + "".join(lines)).strip()[-_MOST_TRACE:]


def _plain(value: Any, depth: Any = 0) -> Any:
    """As JSON can say it: other numbers and containers as those that it knows."""
    if depth > 60:
        raise Failed("the result is nested too deeply")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, dict):
        return {_key(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, (bytes, bytearray)):
        raise Failed("bytes cannot be given back; encode them as text, with base64 perhaps")
    for name in ("tolist", "item", "isoformat"):
        if callable(convert := getattr(value, name, None)):
            return _plain(convert(), depth + 1)
    raise Failed(f"a value of type {type(value).__name__} cannot be given back; use JSON's types")


def _key(key: Any) -> Any:
    if not isinstance(key, str):
        raise Failed(f"keys of the result must be strings, not {type(key).__name__}")
    return key


# ------------------------------------------------------------------------------------------------ JavaScript

_CALL = """
(() => {
  const result = main(JSON.parse(globalThis.__inputs));
  delete globalThis.__inputs;
  const done = (value) => { globalThis.__result = JSON.stringify(value === undefined ? null : value); };
  const failed = (error) => {
    globalThis.__error = String(error && error.stack ? error + "\\n" + error.stack : error);
  };
  if (result && typeof result.then === "function") { result.then(done, failed); } else { done(result); }
})()
"""


def javascript(task: Any) -> Any:
    import quickjs

    context = quickjs.Context()
    context.set_memory_limit(int(task["limits"]["memory"]) * 3 // 4)
    context.set_max_stack_size(512 * 1024)
    try:
        context.eval("globalThis.console = {log() {}, info() {}, warn() {}, error() {}, debug() {}};")
        context.eval(task["code"])
        context.set("__inputs", json.dumps(task["inputs"]))
        context.eval(_CALL)
        for _ in range(100_000):
            if not context.execute_pending_job():
                break
        error, result = context.get("__error"), context.get("__result")
    except quickjs.JSException as error:
        raise Failed(str(error)[:_MOST_TRACE]) from None
    except MemoryError:
        raise Failed("out of memory") from None
    if error is not None:
        raise Failed(str(error)[:_MOST_TRACE])
    if result is None:
        raise Failed("main gave back a promise that never ends")
    return json.loads(result)


# ------------------------------------------------------------------------------------------------ templates


def template(task: Any) -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    most = int(task["most"])
    pieces, size = [], 0
    try:
        for piece in ImmutableSandboxedEnvironment().from_string(task["template"]).generate(**task["inputs"]):
            size += len(piece)
            if size > most:
                raise Failed("Output length exceeds maximum allowed length of %d characters" % most)
            pieces.append(piece)
    except Failed:
        raise
    except MemoryError:
        raise Failed("MemoryError: the template took more memory than it may") from None
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Failed(f"{type(error).__name__}: {str(error)[:_MOST_TRACE]}") from None
    return "".join(pieces)


# ------------------------------------------------------------------------------------------------ probes


def probe(task: Any) -> Any:
    """What the self-test tries; it says what it got away with."""
    exec(compile(task["code"], "<probe>", "exec"), space := {})
    return space["result"]


def document(task: Any, data: Any) -> Any:
    import documents  # pyright: ignore[reportMissingImports]
    import reading  # pyright: ignore[reportMissingImports]

    try:
        if "pages" in task:
            return reading.pictures(data, task["pages"])
        if "name" in task:
            return reading.read(task["name"], data)
        return documents.extract(task["extension"], data)
    except documents.Unsupported as error:
        raise Failed(str(error)) from None
    except MemoryError:
        raise Failed("the document takes more memory than it may") from None
    except Exception as error:
        raise Failed(f"the document cannot be read: {type(error).__name__}: {str(error)[:500]}") from None


def web(task: Any, data: Any) -> Any:
    import documents  # pyright: ignore[reportMissingImports]

    try:
        import web  # pyright: ignore[reportMissingImports]

        return web.read(task, data)
    except documents.Unsupported as error:
        raise Failed(str(error)) from None
    except ImportError as error:
        raise Failed("pages cannot be read without %s: pip install 'modelyard[knowledge]'" % error.name) from None
    except MemoryError:
        raise Failed("it takes more memory than it may") from None
    except Exception as error:
        raise Failed(f"it cannot be read: {type(error).__name__}: {str(error)[:500]}") from None


KINDS = {"python3": python, "javascript": javascript, "template": template, "probe": probe}


def run(task: Any, data: Any) -> Any:
    kind = task["kind"]
    if kind == "document":
        return document(task, data)
    if kind == "web":
        return web(task, data)
    return KINDS[kind](task)
