from collections.abc import Mapping
from typing import Any

from dify_plugin.errors.tool import DatasourceCredentialValidationError
from dify_plugin.interfaces.datasource import DatasourceProvider


class @CLASS@Provider(DatasourceProvider):
    def _validate_credentials(self, credentials: Mapping[str, Any]) -> None:
        if credentials.get("token") == "wrong":
            raise DatasourceCredentialValidationError("this token is refused")
