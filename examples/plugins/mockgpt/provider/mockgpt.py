from collections.abc import Mapping
from typing import Any

from dify_plugin import ModelProvider
from dify_plugin.errors.model import CredentialsValidateFailedError


class MockGPTProvider(ModelProvider):
    def validate_provider_credentials(self, credentials: Mapping[str, Any]) -> None:
        if credentials.get("api_key") == "wrong":
            raise CredentialsValidateFailedError(
                "this key is refused; any other word is accepted"
            )
