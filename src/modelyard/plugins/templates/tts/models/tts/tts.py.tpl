import io
import wave
from collections.abc import Generator

from dify_plugin import TTSModel
from dify_plugin.errors.model import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)


class @CLASS@Speech(TTSModel):
    def _invoke(
        self,
        model: str,
        tenant_id: str,
        credentials: dict,
        content_text: str,
        voice: str,
        user: str | None = None,
    ) -> Generator[bytes, None, None]:
        """Silence, as long as the text. Call your model here."""
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(160 * len(content_text)))
        yield out.getvalue()

    def validate_credentials(self, model: str, credentials: dict, user: str | None = None) -> None:
        """Raise CredentialsValidateFailedError where the model may not be called."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        """What your client raises, as what the caller can act on."""
        return {
            InvokeConnectionError: [ConnectionError],
            InvokeServerUnavailableError: [TimeoutError],
            InvokeAuthorizationError: [PermissionError],
            InvokeBadRequestError: [ValueError],
        }
