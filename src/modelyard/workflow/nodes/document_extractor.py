"""Document extractor node: the text of files. Formats that need a parser are read in
the sandbox."""

from collections.abc import Sequence
from typing import Any

from modelyard.base.errors import ModelyardError
from modelyard.base.json_types import is_array
from modelyard.workflow.file_types import extension_of, extension_of_content
from modelyard.workflow.guessed_encodings import encoding_warning
from modelyard.workflow.node import Node, NodeContext, NodeData, NodeError, NodeResult
from modelyard.workflow.variables import MISSING, File, to_object


class DocumentExtractorData(NodeData, kw_only=True):
    """Data of a document extractor node in a DSL file."""

    variable_selector: list[str] = []
    is_array_file: bool = False


class DocumentExtractorNode(Node):
    """Extracts the text of one file or of a list of files."""

    type = "document-extractor"
    Data = DocumentExtractorData

    async def run(self, context: NodeContext) -> NodeResult:
        """Return one text for a single file and a list of texts for a list. Raises
        NodeError."""
        selector = self.data.variable_selector
        value = context.pool.get(selector)
        if value is MISSING:
            raise NodeError(
                f"File variable not found for selector: {list(selector)}",
                error_type="DocumentExtractorError",
            )
        inputs = {"variable_selector": list(selector)}
        # Logged also if the extraction fails.
        process: dict[str, Any] = {
            "documents": to_object(value if is_array(value) else [value])
        }
        # An optional file that was not uploaded is not an error.
        if value is None or value == []:
            return NodeResult(inputs=inputs, process_data=process, outputs={"text": []})
        files = value if is_array(value) else [value]
        if not all(isinstance(file, File) for file in files):
            raise NodeError(
                f"Variable {list(selector)} is not a file",
                error_type="DocumentExtractorError",
                inputs=inputs,
            )
        try:
            texts = [await self._text(file, context, process) for file in files]
        except NodeError as error:
            error.inputs, error.process_data = inputs, process
            raise
        except ModelyardError as error:
            raise NodeError(
                str(error),
                error_type=type(error).__name__,
                inputs=inputs,
                process_data=process,
            ) from error
        return NodeResult(
            inputs=inputs,
            process_data=process,
            outputs={"text": texts if is_array(value) else texts[0]},
        )

    @staticmethod
    async def _text(file: File, context: NodeContext, process: dict[str, Any]) -> str:
        """Return the text of one file. A guessed encoding is a warning in `process`.
        Raises NodeError, or ModelyardError if it cannot be read."""
        services = context.services
        # Both services are needed: one loads the file, the other one parses it.
        if services.files is None or services.sandbox is None:
            raise NodeError(
                "Files are not available in this run", error_type="FileDownloadError"
            )
        data = await services.files.read(file)
        # Remote files often have no extension; their MIME type or their content then
        # shows the format.
        extension = (
            file.extension or extension_of(file.mime_type) or extension_of_content(data)
        )
        extracted = await services.sandbox.extract(extension.lower(), data)
        if extracted.guessed_codec:
            warning = encoding_warning(
                file.filename or "the file",
                extracted.guessed_codec,
                is_certain=extracted.is_certain,
            )
            process.setdefault("warnings", []).append(warning)
        for note in extracted.notes:
            warning = f"{file.filename or 'The file'}: {note}"
            process.setdefault("warnings", []).append(warning)
        return extracted.text

    def references(self) -> Sequence[tuple[str, ...]]:
        """Return the selector of the files."""
        return (
            [tuple(self.data.variable_selector)] if self.data.variable_selector else []
        )


NODES = {"document-extractor": DocumentExtractorNode}
