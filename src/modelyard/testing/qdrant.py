"""Test double for a Qdrant server: the used part of its REST interface on top of
Qdrant's embedded engine (`qdrant-edge-py`).

Storage and search are the engine's; only the HTTP layer is a replacement.
"""

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
    """The collections of the server, one engine shard each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of the collections."""
        return sorted(self._shards)

    def shard(self, name: str) -> Any:
        """Return a collection's shard, or None."""
        return self._shards.get(name)

    def make(self, name: str, body: dict[str, Any]) -> None:
        """Create a collection with its dense and sparse vectors."""
        vectors = {
            key: edge.EdgeVectorParams(
                size=params["size"], distance=edge.Distance.Cosine
            )
            for key, params in body.get("vectors", {}).items()
        }
        sparse = {
            key: edge.EdgeSparseVectorParams() for key in body.get("sparse_vectors", {})
        }
        with self._lock:
            path = self._folder / name
            path.mkdir(exist_ok=True)
            config = edge.EdgeConfig(vectors=vectors, sparse_vectors=sparse)
            self._shards[name] = edge.EdgeShard.create(str(path), config)

    def close(self) -> None:
        """Close all shards."""
        for shard in self._shards.values():
            shard.close()


def _filter(body: dict[str, Any] | None) -> Any:
    """Convert a REST filter to the engine's. Only `must` with ids and values is
    supported."""
    if not body:
        return None
    conditions: list[Any] = []
    for condition in body.get("must", []):
        if "has_id" in condition:
            conditions.append(edge.HasIdCondition(point_ids=set(condition["has_id"])))
        elif "any" in condition["match"]:
            conditions.append(
                edge.FieldCondition(
                    key=condition["key"],
                    match=edge.MatchAny(any=condition["match"]["any"]),
                )
            )
        else:
            conditions.append(
                edge.FieldCondition(
                    key=condition["key"],
                    match=edge.MatchValue(value=condition["match"]["value"]),
                )
            )
    return edge.Filter(must=conditions)


def _vector(vector: Any) -> Any:
    """Convert a REST vector, dense or sparse, to the engine's."""
    return (
        edge.SparseVector(indices=vector["indices"], values=vector["values"])
        if isinstance(vector, dict)
        else vector
    )


def _point(point: dict[str, Any]) -> Any:
    """Convert a REST point to the engine's."""
    vectors = {key: _vector(value) for key, value in point["vector"].items()}
    return edge.Point(
        id=point["id"],
        vector=vectors,
        payload=point["payload"],
    )


def _nearest_points(shard: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points that are nearest to the query vector, with their scores."""
    query = edge.Query.Nearest(_vector(body["query"]), using=body["using"])
    scored_points = shard.query(
        edge.QueryRequest(
            limit=body["limit"], query=query, filter=_filter(body.get("filter"))
        )
    )
    return [
        {"id": scored_point.id, "score": scored_point.score}
        for scored_point in scored_points
    ]


def _answer(
    collections: _Collections, method: str, path: str, body: Any
) -> tuple[int, Any]:
    """Handle one request and return (status, result)."""
    parts = path.strip("/").split("/")
    if parts == ["collections"]:
        return 200, {
            "collections": [
                {"name": collection_name} for collection_name in collections.names()
            ]
        }
    name, subpath = parts[1], "/".join(parts[2:])
    if not subpath and method == "PUT":
        collections.make(name, body)
        return 200, True
    shard = collections.shard(name)
    if shard is None:
        return 404, None
    match method, subpath:
        case "GET", "":
            return 200, {"status": "green"}
        # Payload indexes only speed up real servers.
        case "PUT", "index":
            return 200, {}
        case "PUT", "points":
            points = [_point(point) for point in body["points"]]
            shard.update(edge.UpdateOperation.upsert_points(points))
        # Points are deleted by id or by filter; the body tells which.
        case "POST", "points/delete" if "points" in body:
            shard.update(edge.UpdateOperation.delete_points(body["points"]))
        case "POST", "points/delete":
            shard.update(
                edge.UpdateOperation.delete_points_by_filter(_filter(body["filter"]))
            )
        case "POST", "points/query":
            return 200, {"points": _nearest_points(shard, body)}
        case "POST", "points/count":
            return 200, {
                "count": shard.count(
                    edge.CountRequest(exact=True, filter=_filter(body.get("filter")))
                )
            }
        case _:
            return 404, None
    return 200, {"status": "completed"}


@contextmanager
def qdrant_server() -> Generator[str]:
    """Run the server and yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        collections = _Collections(Path(folder))
        # Shards are not safe for concurrent use: requests are handled one at a time.
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            """HTTP handler that passes all requests to `_answer`."""

            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                """Handle a request of any method."""
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                with lock:
                    status, result = _answer(
                        collections,
                        self.command,
                        urlsplit(self.path).path,
                        json.loads(data) if data else None,
                    )
                answer = json.dumps(
                    {"result": result, "status": "ok", "time": 0.0}
                ).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = _do  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                """Suppress the access log."""

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
