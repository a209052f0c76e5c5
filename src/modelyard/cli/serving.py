"""The gateway around a Modelyard, as `serve` runs it and as tests do."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelyard.app import Modelyard
from modelyard.gateway.auth import Gatekeeper
from modelyard.gateway.routes.service import ServiceParts
from modelyard.gateway.server import Gateway, Parts


def gateway_of(
    yard: Modelyard,
    *,
    on_start: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
    others: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
) -> Gateway:
    """Give it to any ASGI server."""

    def problem() -> str | None:
        if is_draining():
            return "the server is stopping"
        if yard.database.trouble is not None:
            return f"what calls cost cannot be written down: {yard.database.trouble}"
        return None if yard.upkeep.is_fresh else "changes to keys and limits are not heard of"

    parts = Parts(
        models=yard.models,
        responses=yard.responses,
        administration=yard.administration,
        ledger=yard.ledger,
        traces=yard.traces,
        metrics=yard.metrics,
        answers=yard.answers,
        clock=yard.clock,
        problem=problem,
        plugins=yard.plugins,
        files=yard.files,
        jail=lambda: yard.workflow_parts.jail.level,
        service=ServiceParts(
            apps=yard.apps,
            runs=yard.runs,
            chats=yard.workflow_parts.chats,
            conversations=yard.workflow_parts.conversations,
            files=yard.files,
            models=yard.models,
            origin=lambda: yard.origin,
        ),
        sessions=yard.plugin_parts.sessions,
        plugin_key=yard.plugin_parts.key,
        is_plugin_interface_open=yard.settings.plugins.open_interface,
        origin=lambda: yard.origin,
        on_event=yard.triggered,
        others=others,
    )
    keeper = Gatekeeper(yard.settings.api_keys, yard.directory, yard.keys, yard.clock)
    yard.on_reload(lambda settings: setattr(keeper, "keys", settings.api_keys))
    return Gateway(parts, keeper, max_body=yard.settings.max_body_mb << 20, on_start=on_start, on_close=yard.aclose)
