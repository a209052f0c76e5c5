"""Tools that run code written by a model, in the sandbox."""

from collections.abc import Sequence
from typing import Any, Literal

from modelyard.sandbox.runner import Sandbox, SandboxError
from modelyard.tools.builtin import BuiltinDependencies
from modelyard.tools.entities import ToolContext, ToolInvokeError
from modelyard.tools.function import FunctionTool

_NOTEBOOK = """
def _run(code):
    import ast, contextlib, io, traceback
    out, names, error = io.StringIO(), {"__name__": "__main__"}, ""
    try:
        tree = ast.parse(code, "<code>")
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            exec(compile(tree, "<code>", "exec"), names)
            if last is not None:
                value = eval(compile(last, "<code>", "eval"), names)
                if value is not None:
                    print(repr(value))
    except BaseException as problem:
        lines = traceback.format_exception_only(type(problem), problem)
        frames = traceback.extract_tb(problem.__traceback__)
        numbers = [frame.lineno for frame in frames if frame.filename == "<code>"]
        error = "".join(lines).strip() + (f" (line {numbers[-1]})" if numbers else "")
    return {"logs": out.getvalue()[:200000], "error": error}
"""
"""Runs a program inside the sandbox and returns what it printed, even if it fails."""


def make(parts: BuiltinDependencies) -> Sequence[FunctionTool]:
    """Return the code tools; none without a sandbox."""
    if (sandbox := parts.sandbox) is None:
        return []
    tools = _CodeTools(sandbox)
    common_fields = {
        "provider": "code",
        "kind": "builtin",
        "is_repeatable": True,
        "seconds": 30.0,
    }
    return [
        FunctionTool(function, **common_fields)
        for function in (tools.simple_code, tools.python)
    ]


class _CodeTools:
    """The tools as methods. Their docstrings are sent to models as descriptions."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def simple_code(
        self,
        context: ToolContext,
        code: str,
        language: Literal["python3", "javascript"] = "python3",
    ) -> Any:
        """Run a program that defines a function `main()`, and give what that returns.
        There is no network, and files do not stay.

        code: as def main(): return {"sum": 1 + 2}
        """
        try:
            return await self._sandbox.run_code(
                language, code, {}, tenant=context.tenant
            )
        except SandboxError as error:
            raise ToolInvokeError(str(error)) from error

    async def python(self, context: ToolContext, code: str) -> str:
        """Run a Python program. What it prints is the result, and the value of its last
        line, as in a notebook. There is no network, and files and names do not stay.

        code: as print(6 * 7)
        """
        try:
            result = await self._sandbox.run_code(
                "python3",
                f"{_NOTEBOOK}\ndef main(code):\n    return _run(code)",
                {"code": code},
                tenant=context.tenant,
            )
        except SandboxError as error:
            raise ToolInvokeError(str(error)) from error
        # The output up to the error helps the model to correct its program.
        if result.get("error"):
            raise ToolInvokeError(f"{result.get('logs') or ''}{result['error']}")
        return str(result.get("logs") or "Nothing was printed.")
