from collections.abc import Mapping
from typing import Any

from dify_plugin import ModelProvider


class SixfoldProvider(ModelProvider):
    def validate_provider_credentials(self, credentials: Mapping[str, Any]) -> None:
        """Needs none."""
