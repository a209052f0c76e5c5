from collections.abc import Generator
from typing import Any

from dify_plugin import Tool
from dify_plugin.entities.tool import ToolInvokeMessage


class RememberTool(Tool):
    def _invoke(
        self, tool_parameters: dict[str, Any]
    ) -> Generator[ToolInvokeMessage, None, None]:
        storage, key = self.session.storage, tool_parameters["key"]
        match tool_parameters["opt"]:
            case "set":
                storage.set(key, str(tool_parameters.get("value") or "").encode())
                yield self.create_text_message("kept")
            case "get":
                yield self.create_text_message(storage.get(key).decode())
            case "delete":
                storage.delete(key)
                yield self.create_text_message("gone")
            case "exist":
                yield self.create_text_message(str(storage.exist(key)))
