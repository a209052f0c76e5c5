from collections.abc import Mapping

from dify_plugin import Endpoint
from werkzeug import Request, Response


class HelloEndpoint(Endpoint):
    def _invoke(self, r: Request, values: Mapping, settings: Mapping) -> Response:
        said = f"{settings['greeting']}, {values['name']}{r.args.get('mark', '.')}"
        return Response(
            said,
            status=200,
            content_type="text/plain; charset=utf-8",
            headers={"x-by": "webhook"},
        )
