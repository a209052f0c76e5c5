import json
from collections.abc import Mapping

from dify_plugin import Endpoint
from werkzeug import Request, Response


class CountEndpoint(Endpoint):
    def _invoke(self, r: Request, values: Mapping, settings: Mapping) -> Response:
        storage = self.session.storage
        count = int(storage.get("count")) + 1 if storage.exist("count") else 1
        storage.set("count", str(count).encode())
        return Response(
            json.dumps({"count": count, "body": r.get_data(as_text=True)}),
            content_type="application/json",
        )
