from dify_plugin import ModerationModel
from dify_plugin.errors.model import InvokeBadRequestError, InvokeError


class Words(ModerationModel):
    """Flags the word `bad`."""

    def _invoke(
        self, model: str, credentials: dict, text: str, user: str | None = None
    ) -> bool:
        return "bad" in text.lower().split()

    def validate_credentials(self, model: str, credentials: dict) -> None:
        """Needs none."""

    @property
    def _invoke_error_mapping(self) -> dict[type[InvokeError], list[type[Exception]]]:
        return {InvokeBadRequestError: [ValueError]}
