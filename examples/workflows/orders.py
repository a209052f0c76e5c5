"""A small order service, so that the example has something to ask: `python examples/workflows/orders.py [PORT]`."""  # noqa: E501

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = {
    "1042": {
        "order": "1042",
        "item": "desk lamp",
        "status": "shipped",
        "arrives": "Friday",
    },
    "1043": {
        "order": "1043",
        "item": "office chair",
        "status": "waiting for parts",
        "arrives": "next month",
    },
}


class Orders(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = ORDERS.get(self.path.rpartition("/")[2])
        body = json.dumps(found or {"error": "there is no such order"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *details: object) -> None: ...


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8795
    ThreadingHTTPServer(("127.0.0.1", port), Orders).serve_forever()
