from collections.abc import Generator
from typing import Any

from dify_plugin import Tool
from dify_plugin.entities.tool import ToolInvokeMessage


class AddTool(Tool):
    def _invoke(
        self, tool_parameters: dict[str, Any]
    ) -> Generator[ToolInvokeMessage, None, None]:
        total = tool_parameters["a"] + tool_parameters["b"]
        yield self.create_text_message(f"{total:g}")
        yield self.create_json_message({"sum": total})
        yield self.create_variable_message("sum", total)
