"""A stand-in for a Qdrant server: its REST interface, as far as it is used here, before Qdrant's own embedded engine
(`qdrant-edge-py`). What is stored and found is the engine's; the HTTP around it is ours."""

import json
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

edge: Any = import_module("qdrant_edge")


class _Collections:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._shards)

    def shard(self, name: str) -> Any:
        return self._shards.get(name)

    def make(self, name: str, body: dict[str, Any]) -> None:
        vectors = {
            key: edge.EdgeVectorParams(size=one["size"], distance=edge.Distance.Cosine)
            for key, one in body.get("vectors", {}).items()
        }
        sparse = {key: edge.EdgeSparseVectorParams() for key in body.get("sparse_vectors", {})}
        with self._lock:
            path = self._folder / name
            path.mkdir(exist_ok=True)
            config = edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)
            self._shards[name] = edge.EdgeShard.create(str(path), config)

    def close(self) -> None:
        for one in self._shards.values():
            one.close()


def _filter(body: dict[str, Any] | None) -> Any:
    if not body:
        return None
    conditions: list[Any] = []
    for one in body.get("must", []):
        if "has_id" in one:
            conditions.append(edge.HasIdCondition(point_ids=set(one["has_id"])))
        elif "any" in one["match"]:
            conditions.append(edge.FieldCondition(key=one["key"], match=edge.MatchAny(any=one["match"]["any"])))
        else:
            conditions.append(edge.FieldCondition(key=one["key"], match=edge.MatchValue(value=one["match"]["value"])))
    return edge.Filter(must=conditions)


def _vector(given: Any) -> Any:
    return edge.SparseVector(indices=given["indices"], values=given["values"]) if isinstance(given, dict) else given


def _answer(collections: _Collections, method: str, path: str, body: Any) -> tuple[int, Any]:
    parts = path.strip("/").split("/")
    if parts == ["collections"]:
        return 200, {"collections": [{"name": one} for one in collections.names()]}
    name, rest = parts[1], "/".join(parts[2:])
    if not rest and method == "PUT":
        collections.make(name, body)
        return 200, True
    shard = collections.shard(name)
    if shard is None:
        return 404, None
    match method, rest:
        case "GET", "":
            return 200, {"status": "green"}
        case "PUT", "index":
            return 200, {}
        case "PUT", "points":
            points = [
                edge.Point(
                    id=one["id"], vector={key: _vector(value) for key, value in one["vector"].items()},
                    payload=one["payload"],
                )
                for one in body["points"]
            ]  # fmt: skip
            shard.update(edge.UpdateOperation.upsert_points(points))
        case "POST", "points/delete" if "points" in body:
            shard.update(edge.UpdateOperation.delete_points(body["points"]))
        case "POST", "points/delete":
            shard.update(edge.UpdateOperation.delete_points_by_filter(_filter(body["filter"])))
        case "POST", "points/query":
            query = edge.Query.Nearest(_vector(body["query"]), using=body["using"])
            found = shard.query(edge.QueryRequest(limit=body["limit"], query=query, filter=_filter(body.get("filter"))))
            return 200, {"points": [{"id": one.id, "score": one.score} for one in found]}
        case "POST", "points/count":
            return 200, {"count": shard.count(edge.CountRequest(exact=True, filter=_filter(body.get("filter"))))}
        case _:
            return 404, None
    return 200, {"status": "completed"}


@contextmanager
def qdrant_server() -> Generator[str]:
    """Its address, while it runs."""
    with tempfile.TemporaryDirectory() as folder:
        collections = _Collections(Path(folder))
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                with lock:
                    status, result = _answer(
                        collections, self.command, urlsplit(self.path).path, json.loads(data) if data else None
                    )
                answer = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = _do  # noqa: N815  what the base class looks for

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's word
                """Nothing is said."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            collections.close()
