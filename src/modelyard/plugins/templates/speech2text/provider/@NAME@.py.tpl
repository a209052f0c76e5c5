from collections.abc import Mapping
from typing import Any

from dify_plugin import ModelProvider


class @CLASS@Provider(ModelProvider):
    def validate_provider_credentials(self, credentials: Mapping[str, Any]) -> None:
        """Raise CredentialsValidateFailedError where the key is refused: call something that costs nothing."""
