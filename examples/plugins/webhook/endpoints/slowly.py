import time
from collections.abc import Generator, Mapping

from dify_plugin import Endpoint
from werkzeug import Request, Response


class SlowlyEndpoint(Endpoint):
    def _invoke(self, r: Request, values: Mapping, settings: Mapping) -> Response:
        def pieces() -> Generator[bytes, None, None]:
            for word in ("one ", "two ", "three"):
                yield word.encode()
                time.sleep(0.02)

        return Response(pieces(), content_type="text/plain")
