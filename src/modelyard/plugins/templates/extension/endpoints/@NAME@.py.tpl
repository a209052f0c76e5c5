from collections.abc import Mapping

from dify_plugin import Endpoint
from werkzeug import Request, Response


class @CLASS@Endpoint(Endpoint):
    def _invoke(self, r: Request, values: Mapping, settings: Mapping) -> Response:
        """Greets. Answer your callers here."""
        return Response(f"{settings['greeting']}, {values['name']}.", content_type="text/plain; charset=utf-8")
