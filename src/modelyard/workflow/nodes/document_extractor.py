"""document-extractor: the text of files. What needs a parser is read in the jail."""

import mimetypes
from collections.abc import Sequence

from modelyard.base.errors import ModelyardError
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.variables import MISSING, File, to_object


class DocumentExtractorData(NodeData, kw_only=True):
    variable_selector: list[str] = []
    is_array_file: bool = False


class DocumentExtractorNode(Node):
    type = "document-extractor"
    Data = DocumentExtractorData

    async def run(self, context: NodeContext) -> NodeResult:
        selector = self.data.variable_selector
        value = context.pool.get(selector)
        if value is MISSING:
            raise NodeError(f"File variable not found for selector: {list(selector)}", kind="DocumentExtractorError")
        inputs = {"variable_selector": list(selector)}
        process = {"documents": to_object(value if isinstance(value, list) else [value])}
        if value is None or value == []:
            return NodeResult(inputs=inputs, process_data=process, outputs={"text": []})
        files = value if isinstance(value, list) else [value]
        if not all(isinstance(one, File) for one in files):
            raise NodeError(f"Variable {list(selector)} is not a file", kind="DocumentExtractorError", inputs=inputs)
        try:
            texts = [await self._text(one, context) for one in files]
        except NodeError as error:
            error.inputs, error.process_data = inputs, process
            raise
        except ModelyardError as error:
            raise NodeError(str(error), kind=type(error).__name__, inputs=inputs, process_data=process) from error
        return NodeResult(
            inputs=inputs, process_data=process, outputs={"text": texts if isinstance(value, list) else texts[0]}
        )

    @staticmethod
    async def _text(file: File, context: NodeContext) -> str:
        services = context.services
        if services.files is None or services.sandbox is None:
            raise NodeError("files cannot be read here", kind="FileDownloadError")
        data = await services.files.read(file)
        extension = file.extension or mimetypes.guess_extension(file.mime_type or "") or ""
        return await services.sandbox.extract(extension.lower(), data)

    def references(self) -> Sequence[tuple[str, ...]]:
        return [tuple(self.data.variable_selector)] if self.data.variable_selector else []


NODES = {"document-extractor": DocumentExtractorNode}
