"""Code that a model wrote, in the jail."""

from collections.abc import Sequence
from typing import Any, Literal

from modelyard.jail.sandbox import JailError
from modelyard.tools.builtin import Parts
from modelyard.tools.entities import ToolInvokeError
from modelyard.tools.function import FunctionTool


def make(parts: Parts) -> Sequence[FunctionTool]:
    if (jail := parts.jail) is None:
        return []

    async def simple_code(code: str, language: Literal["python3", "javascript"] = "python3") -> Any:
        """Run a program that defines a function `main()`, and give what that returns. There is no network, and files
        do not stay.

        code: as def main(): return {"sum": 1 + 2}
        """
        try:
            return await jail.run_code(language, code, {})
        except JailError as error:
            raise ToolInvokeError(str(error)) from error

    return [FunctionTool(simple_code, provider="code", kind="builtin", is_repeatable=True, seconds=30.0)]
