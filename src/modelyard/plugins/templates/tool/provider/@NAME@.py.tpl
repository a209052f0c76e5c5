from typing import Any

from dify_plugin import ToolProvider


class @CLASS@Provider(ToolProvider):
    def _validate_credentials(self, credentials: dict[str, Any]) -> None:
        """Raise ToolProviderCredentialValidationError where they are refused."""
