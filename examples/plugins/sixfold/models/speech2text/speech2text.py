from typing import IO

from dify_plugin import Speech2TextModel
from dify_plugin.errors.model import InvokeBadRequestError, InvokeError


class Length(Speech2TextModel):
    """Says how many bytes it was given."""

    def _invoke(
        self, model: str, credentials: dict, file: IO[bytes], user: str | None = None
    ) -> str:
        return f"{len(file.read())} bytes"

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Needs none."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {InvokeBadRequestError: [ValueError]}
