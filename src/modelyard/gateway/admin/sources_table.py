"""Route table of the sources of datasets."""

from collections.abc import Iterator

from modelyard.gateway.admin import source_shapes
from modelyard.gateway.admin.rows import global_row, row
from modelyard.gateway.admin.sources import SourceRoutes
from modelyard.gateway.table import ADMIN, Listed, Query, Row
from modelyard.knowledge.connectors.dataset_sources import (
    SourceChange,
    SourceDefinition,
)

_SOURCES = "/sources/{id}"
_SOURCE = f"{_SOURCES}/{{source}}"


def rows(routes: SourceRoutes) -> Iterator[Row]:
    """Yield the routes. The order is that of the documentation."""
    view = source_shapes.SourceView
    yield global_row("GET", "/connectors", ADMIN, routes.connectors,
                     "List the types of sources with their settings and credentials.",
                     Listed(source_shapes.ConnectorView))  # fmt: skip
    yield row("GET", _SOURCES, ADMIN, routes.list_sources,
              "List a dataset's sources with their last results.", Listed(view))  # fmt: skip
    yield row("POST", _SOURCES, ADMIN, routes.add,
              "Add a source; one with a schedule is synchronised at once.", view,
              request_body=SourceDefinition, status=201, errors=(409,))  # fmt: skip
    yield row("GET", _SOURCE, ADMIN, routes.show, "Get a source.", view)
    yield row("PATCH", _SOURCE, ADMIN, routes.change,
              "Change a source; a synchronisation under way starts again.", view,
              request_body=SourceChange, errors=(409,))  # fmt: skip
    yield row("POST", f"{_SOURCE}/sync", ADMIN, routes.synchronise,
              "Have a source synchronised now.", view)  # fmt: skip
    yield row("DELETE", _SOURCE, ADMIN, routes.remove,
              "Remove a source, and keep or delete its documents.", source_shapes.SourceRemoved,
              query=(Query("documents", "keep or delete."),))  # fmt: skip
