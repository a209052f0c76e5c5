from collections.abc import Generator
from typing import Any

from dify_plugin import Tool
from dify_plugin.entities import I18nObject, ParameterOption
from dify_plugin.entities.tool import ToolInvokeMessage


class DrawTool(Tool):
    def _invoke(
        self, tool_parameters: dict[str, Any]
    ) -> Generator[ToolInvokeMessage, None, None]:
        data = bytes(place % 256 for place in range(int(tool_parameters["size"])))
        yield self.create_blob_message(
            data, meta={"mime_type": "application/octet-stream"}
        )

    def _fetch_parameter_options(self, parameter: str) -> list[ParameterOption]:
        return [
            ParameterOption(value=one, label=I18nObject(en_US=one.title()))
            for one in ("red", "green")
        ]
