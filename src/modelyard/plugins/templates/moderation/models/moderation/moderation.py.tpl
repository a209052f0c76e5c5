from dify_plugin import ModerationModel
from dify_plugin.errors.model import (
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeServerUnavailableError,
)


class @CLASS@Moderation(ModerationModel):
    def _invoke(self, model: str, credentials: dict, text: str, user: str | None = None) -> bool:
        """Flags one word. Call your model here."""
        return "bad" in text.lower().split()

    def validate_credentials(self, model: str, credentials: dict) -> None:
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
