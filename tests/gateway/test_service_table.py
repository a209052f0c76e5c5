"""Tests for the service API's table: documented paths, and those open to visitors."""

import asyncio
from collections.abc import Iterator

import pytest
from tools.show.service_api import Description

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.gateway.openapi import describe
from modelyard.gateway.table import APP_KEY, NO_AUTH, OWN_SECRET, VISITOR, Api

_OUR_OWN = {"POST /v1/ag-ui", "POST /v1/messages/{message_id}/more-like-this"}
_CLOSED_TO_VISITORS = {
    "POST /v1/workflows/{workflow_id}/run", "GET /v1/workflows/run/{workflow_run_id}", "GET /v1/workflows/logs",
    "GET /v1/meta", "GET /v1/end-users/{end_user_id}", "GET /v1/app/feedbacks", "POST /v1/ag-ui",
    "GET /v1/apps/annotations", "POST /v1/apps/annotations", "PUT /v1/apps/annotations/{annotation_id}",
    "DELETE /v1/apps/annotations/{annotation_id}", "POST /v1/apps/annotation-reply/{action}",
    "GET /v1/apps/annotation-reply/{action}/status/{job_id}",
}  # fmt: skip
"""Endpoints that concern all users or the app's internals."""


@pytest.fixture
def apis(settings: Settings) -> Iterator[dict[str, Api]]:
    yard = Modelyard(settings, environ={})
    try:
        yield {api.name: api for api in gateway_for(yard.services).router.apis}
    finally:
        asyncio.run(yard.aclose())


def _of(api: Api) -> set[str]:
    return {f"{row.method} {row.path}" for row in api.rows}


def test_the_table_has_every_documented_endpoint_and_two_extensions(
    apis: dict[str, Api],
):
    documented = {
        f"{endpoint.method} /v1{endpoint.path}"
        for endpoint in Description().endpoints.values()
        if not endpoint.is_of_datasets
    }
    assert len(documented) > 30
    assert _of(apis["service"]) == documented | _OUR_OWN
    assert {row.auth for row in apis["service"].rows} == {APP_KEY}


def test_a_page_may_call_only_endpoints_for_visitors(
    apis: dict[str, Api],
):
    visitor_rows = [row for row in apis["chat_page"].rows if row.auth == VISITOR]
    non_visitor_rows = [row for row in apis["chat_page"].rows if row.auth != VISITOR]
    below_the_page = {
        f"{row.method} {row.path.removeprefix('/chat/{token}')}" for row in visitor_rows
    }
    assert below_the_page == _of(apis["service"]) - _CLOSED_TO_VISITORS
    assert [(row.path, row.auth) for row in non_visitor_rows] == [
        ("/chat/{token}", OWN_SECRET), ("/chat/-/{asset:path}", NO_AUTH),
    ]  # fmt: skip


def test_operation_ids_are_unique(apis: dict[str, Api]):
    for name in ("service", "chat_page"):
        paths = describe(apis[name])["paths"]
        ids = [
            operation["operationId"]
            for operations in paths.values()
            for operation in operations.values()
        ]
        assert len(set(ids)) == len(ids) == len(apis[name].rows)
