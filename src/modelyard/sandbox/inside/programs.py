"""What a sandboxed process executes: Python or JavaScript code, a template, a document
parser. Data in, data out.

Untrusted text is never inserted into source code of ours.
"""
# This program imports nothing of ours, and the packages it uses have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import sys
import time
from typing import Any

import program_sockets  # pyright: ignore[reportMissingImports]

_MAX_TRACE_CHARS = 4000
# Python prints integers of up to 4,300 digits.
_MAX_INTEGER_BITS = 14_000


class ProgramError(Exception):
    """The program failed through its own fault; the message is shown to its author."""


# ------------------------------------------------------------------------------- Python


def python(task: Any) -> Any:
    """Run Python code and return the result of `main`.

    `main` gets the inputs as keyword arguments; if its only parameter has another name,
    it gets them as one dict. Raises Failed.
    """
    import inspect
    import types

    program_sockets.install(task)
    source, inputs = task["code"], task["inputs"]
    # A module object of its own, so that the code sees itself as `__main__`.
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "<code>", "exec"), module.__dict__)
        main = module.__dict__.get("main")
        if not callable(main):
            raise ProgramError("The code does not define a function named main")
        arguments, keyword_arguments = _arguments(inspect, main, inputs)
        result = main(*arguments, **keyword_arguments)
        if inspect.isawaitable(result):
            import asyncio

            result = asyncio.run(_await_result(result))
    except ProgramError:
        raise
    # Even SystemExit and KeyboardInterrupt from the code are its own failure, not ours.
    except BaseException as error:
        raise ProgramError(_trace(error)) from None
    return _named_outputs(result)


async def _await_result(result: Any) -> Any:
    """Return the result of an asynchronous `main`."""
    return await result


def _arguments(inspect: Any, main: Any, inputs: Any) -> Any:
    """Return (positional, keyword) arguments for `main`. Missing arguments without a
    default become None."""
    try:
        signature = inspect.signature(main)
    except (TypeError, ValueError):
        return (), inputs
    # If the names match, the inputs are passed by name; otherwise the signature
    # decides.
    try:
        signature.bind(**inputs)
    except TypeError:
        # Kinds 0, 1 and 3: positional, positional-or-keyword, keyword-only.
        parameters = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind in (0, 1, 3)
        ]
        if (
            inputs
            and len(parameters) == 1
            and parameters[0].name not in inputs
            and parameters[0].kind != 3
        ):
            return (inputs,), {}
        missing = {
            parameter.name: None
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.name not in inputs
        }
        return (), {**inputs, **missing}
    return (), inputs


def _trace(error: Any) -> Any:
    """Return the message for an exception that the user's code raised.

    It lists the last 12 frames of that code, then the exception; the last 4,000
    characters are kept.
    """
    import traceback

    if isinstance(error, MemoryError):
        return "MemoryError: the code exceeded the memory limit"
    lines = traceback.format_exception_only(type(error), error)
    # Only frames of the user's code are shown.
    steps = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<code>"
    ]
    where = "".join(
        "  line %d, in %s\n" % (frame.lineno, frame.name) for frame in steps[-12:]
    )
    return (where + "".join(lines)).strip()[-_MAX_TRACE_CHARS:]


def _named_outputs(result: Any) -> Any:
    """Convert a result to JSON types. The error of a value names its output."""
    if not isinstance(result, dict):
        return _to_json_types(result)
    outputs = {}
    for key, value in result.items():
        name = _key(key)
        try:
            outputs[name] = _to_json_types(value, 1)
        except ProgramError as error:
            raise ProgramError(f"Output {name}: {error}") from None
    return outputs


def _to_json_types(value: Any, depth: Any = 0) -> Any:
    """Convert a result to JSON types; arrays, dates and numbers of libraries are
    converted by their own methods."""
    if depth > 60:
        raise ProgramError("The result is nested too deeply")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return _json_number(value)
    if isinstance(value, dict):
        return {
            _key(key): _to_json_types(child, depth + 1) for key, child in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_json_types(element, depth + 1) for element in value]
    if isinstance(value, (bytes, bytearray)):
        raise ProgramError(
            "The result contains bytes; encode them as text, for example with base64"
        )
    return _to_json_types(_convert_object(value), depth + 1)


def _json_number(value: Any) -> Any:
    """Return a number. Raises ProgramError if JSON cannot express it, or if Python does
    not print it."""
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        raise ProgramError(f"The result contains {value}, which JSON cannot express")
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        bits = value.bit_length()
        raise ProgramError(f"The result contains an integer of {bits} bits")
    return value


def _convert_object(value: Any) -> Any:
    """Convert an array or scalar of NumPy or a date by its own method."""
    for name in ("tolist", "item", "isoformat"):
        if callable(convert := getattr(value, name, None)):
            return convert()
    raise ProgramError(
        f"The result contains a value of type {type(value).__name__}; use JSON types"
    )


def _key(key: Any) -> Any:
    """Return a key of the result as text, as `json.dumps` writes it. Raises ProgramError
    for a key that JSON cannot have."""
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise ProgramError(
        f"Keys of the result must be texts or numbers, not {type(key).__name__}"
    )


# --------------------------------------------------------------------------- JavaScript

_CALL_MAIN = """
(() => {
  const result = main(JSON.parse(globalThis.__inputs));
  delete globalThis.__inputs;
  const done = (value) => { globalThis.__result = JSON.stringify(value === undefined ? null : value); };
  const failed = (error) => {
    globalThis.__error = String(error && error.stack ? error + "\\n" + error.stack : error);
  };
  if (result && typeof result.then === "function") { result.then(done, failed); } else { done(result); }
})()
"""  # noqa: E501


# Timers run when no job is left; without the globals there are none.
_RUN_TIMER = "typeof __runTimer === 'function' && __runTimer()"


def javascript(task: Any) -> Any:
    """Run JavaScript code and return the result of `main(inputs)`.

    `task` has `code`, `inputs` and the memory limit in bytes. A promise is awaited;
    undefined becomes None. Raises ProgramError for an exception of the code, exceeded
    memory, or a promise that never resolves.
    """
    import quickjs

    program_sockets.install(task)
    context = quickjs.Context()
    # JavaScript gets three quarters of the memory; the rest is for Python itself.
    context.set_memory_limit(int(task["limits"]["memory"]) * 3 // 4)
    context.set_max_stack_size(512 * 1024)
    try:
        requests = _define_globals(context, task["code"])
        context.eval(task["code"])
        # Inputs are passed as a JSON string, never as source code.
        context.set("__inputs", json.dumps(task["inputs"]))
        context.eval(_CALL_MAIN)
        # Bounded, because a promise chain could enqueue jobs without end.
        for _ in range(100_000):
            if not (context.execute_pending_job() or _continue(context, requests)):
                break
        error, result = context.get("__error"), context.get("__result")
    except quickjs.JSException as error:
        raise ProgramError(str(error)[:_MAX_TRACE_CHARS]) from None
    except MemoryError:
        raise ProgramError("Out of memory") from None
    if error is not None:
        raise ProgramError(str(error)[:_MAX_TRACE_CHARS])
    if result is None:
        raise ProgramError("'main' returned a promise that never resolves")
    return json.loads(result)


def _define_globals(context: Any, code: Any) -> Any:
    """Define the names that the code uses and QuickJS lacks. Returns the requests of
    `fetch`, or None if the code has none."""
    import javascript_fetch  # pyright: ignore[reportMissingImports]
    import javascript_globals  # pyright: ignore[reportMissingImports]
    import javascript_modules  # pyright: ignore[reportMissingImports]

    import javascript_dates  # pyright: ignore[reportMissingImports]

    # QuickJS has no console, and much code logs.
    context.eval(
        "globalThis.console = {log() {}, info() {}, warn() {}, error() {}, debug() {}};"
    )
    has_dates, has_fetch = (
        module.is_needed(code) for module in (javascript_dates, javascript_fetch)
    )
    has_modules = has_dates or has_fetch or javascript_modules.is_needed(code)
    # The modules are built on the globals, `fetch` and dates on both.
    if has_modules or javascript_globals.is_needed(code):
        context.eval(javascript_globals.SOURCE)
    if has_modules:
        javascript_modules.install(context)
    if has_dates:
        javascript_dates.install(context)
    if not has_fetch:
        return None
    return javascript_fetch.install(context, program_sockets.refusal())


def _continue(context: Any, requests: Any) -> Any:
    """Do what comes next when no job is left: wait for a request, or run a timer.
    Returns False if there is neither."""
    if requests is None or not requests.pending:
        return context.eval(_RUN_TIMER)
    # A program that has returned waits for nothing more.
    if context.get("__result") is not None or context.get("__error") is not None:
        return False
    delay, started_at = context.eval("__timerDelay()"), time.monotonic()
    finished = requests.wait(None if delay < 0 else delay / 1000)
    milliseconds = (time.monotonic() - started_at) * 1000
    if finished is None:
        return context.eval(_RUN_TIMER)
    context.eval("__passTime")(milliseconds)
    context.eval("__settle")(*finished)
    return True


# ---------------------------------------------------------------------------- templates


def template(task: Any) -> Any:
    """Render a Jinja2 template in Jinja2's immutable sandbox.

    `task` has `template`, `inputs` (the variables) and `most`, the maximum number of
    characters. Raises ProgramError for an error of the template, and if its output or
    memory exceeds the limit.
    """
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    max_chars = int(task["most"])
    chunks, size = [], 0
    try:
        # Rendering in chunks allows the limit to be enforced before memory runs out.
        for chunk in (
            ImmutableSandboxedEnvironment()
            .from_string(task["template"])
            .generate(**task["inputs"])
        ):
            size += len(chunk)
            if size > max_chars:
                raise ProgramError(
                    "Output length exceeds maximum allowed length of %d characters"
                    % max_chars
                )
            chunks.append(chunk)
    except ProgramError:
        raise
    except MemoryError:
        raise ProgramError(
            "MemoryError: the template exceeded the memory limit"
        ) from None
    # These are the errors that a template itself can cause.
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ProgramError(
            f"{type(error).__name__}: {str(error)[:_MAX_TRACE_CHARS]}"
        ) from None
    return "".join(chunks)


# ------------------------------------------------------------------------------- probes


def probe(task: Any) -> Any:
    """Run one probe of the self-test and return its variable `result`.

    That is `blocked` if the sandbox prevented the attack. An exception that the probe
    does not expect is raised.
    """
    exec(compile(task["code"], "<probe>", "exec"), space := {})
    return space["result"]


def document(task: Any, data: Any) -> Any:
    """Read a document as text, as Markdown parts, or as page images.

    `data` is the file. `pages` in the task requests base64 PNG images of a PDF's pages,
    `name` parts as `document_reader.read` returns them, and otherwise `extension` the
    plain text as {"text", "guesses": the encodings that were guessed, "notes": what the
    text leaves out}. Raises ProgramError if the document cannot be read.
    """
    import document_formats  # pyright: ignore[reportMissingImports]
    import document_reader  # pyright: ignore[reportMissingImports]

    try:
        # The task's fields tell which of the three readings was requested.
        if "pages" in task:
            return document_reader.render_pages(data, task["pages"])
        if "name" in task:
            return document_reader.read(task["name"], data)
        text = document_formats.extract(task["extension"], data)
        return {
            "text": text,
            "guesses": document_formats.guesses,
            "notes": document_formats.notes[:20],
        }
    except document_formats.Unsupported as error:
        raise ProgramError(str(error)) from None
    except MemoryError:
        raise ProgramError("The document exceeded the memory limit") from None
    except Exception as error:
        raise ProgramError(
            f"The document cannot be read: {type(error).__name__}: {str(error)[:500]}"
        ) from None


def web(task: Any, data: Any) -> Any:
    """Parse a web page, sitemap, feed or robots.txt.

    `data` is the body; `of` in the task names the format and decides about the form of
    the result (see `web_pages`). Raises ProgramError if the data cannot be read or the
    parsers are not installed.
    """
    import document_formats  # pyright: ignore[reportMissingImports]

    try:
        import web_pages  # pyright: ignore[reportMissingImports]

        return web_pages.read(task, data)
    except document_formats.Unsupported as error:
        raise ProgramError(str(error)) from None
    except ImportError as error:
        raise ProgramError(
            "Pages cannot be read without %s: pip install 'modelyard[knowledge]'"
            % error.name
        ) from None
    except MemoryError:
        raise ProgramError("The memory limit was exceeded") from None
    except Exception as error:
        raise ProgramError(
            f"Reading failed: {type(error).__name__}: {str(error)[:500]}"
        ) from None


KINDS = {
    "python3": python,
    "javascript": javascript,
    "template": template,
    "probe": probe,
}


def run(task: Any, data: Any) -> Any:
    """Run the program that `task["kind"]` selects and return its result.

    `data` is the input file of kinds `document` and `web`, and not used by others.
    Raises ProgramError for a failure of the program itself, and KeyError for an unknown
    kind.
    """
    program_kind = task["kind"]
    if program_kind == "document":
        return document(task, data)
    if program_kind == "web":
        return web(task, data)
    return KINDS[program_kind](task)
