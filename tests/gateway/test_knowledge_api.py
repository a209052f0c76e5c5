"""Tests for the knowledge API: endpoints that public clients do not use, and errors.

The clients themselves are tested by `make show WHAT=dataset-clients`.
"""

import asyncio
import io
import json
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tools.show.tenancy import ask

from modelyard.app import Modelyard
from modelyard.app.gateway import gateway_for
from modelyard.base.settings import Settings
from modelyard.testing.knowledge import HashEmbedder

Call = Callable[..., Awaitable[tuple[int, Any]]]
TEXT = "# Returns\n\nGoods can be sent back within 30 days.\n\n# Shipping\n\nParcels leave before noon."


@pytest.fixture
def run(
    tmp_path: Path,
) -> Callable[[Callable[[Call, Modelyard], Awaitable[None]]], None]:
    def go(work: Callable[[Call, Modelyard], Awaitable[None]]) -> None:
        async def run_work() -> None:
            async with Modelyard(
                Settings(home=str(tmp_path)), environ={}, embedder=HashEmbedder()
            ) as yard:
                gateway = gateway_for(yard.services)
                key = await yard.services.tenancy.dataset_keys.create("default")

                async def call(
                    method: str, path: str, body: Any = None, *, api_key: str = key
                ) -> tuple[int, Any]:
                    response = await ask(gateway, method, path, api_key, body)
                    is_json = (
                        response.headers["content-type"] == "application/json"
                        and response.body
                    )
                    return response.status, json.loads(
                        response.body
                    ) if is_json else response.body

                await work(call, yard)

        asyncio.run(run_work())

    return go


async def create_dataset(call: Call, **extra_fields: Any) -> tuple[str, str]:
    """Create a dataset with one indexed document; return both ids."""
    _, dataset = await call(
        "POST",
        "/v1/datasets",
        {"name": "shop", "indexing_technique": "high_quality", **extra_fields},
    )
    status, created = await call(
        "POST",
        f"/v1/datasets/{dataset['id']}/document/create-by-text",
        {"name": "guide", "text": TEXT},
    )
    assert status == 200, created
    for _ in range(200):
        _, progress = await call(
            "GET",
            f"/v1/datasets/{dataset['id']}/documents/{created['batch']}/indexing-status",
        )
        if progress["data"][0]["indexing_status"] in ("completed", "error"):
            break
        await asyncio.sleep(0.02)
    return dataset["id"], created["document"]["id"]


def test_invalid_requests_get_the_right_status_and_error(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await create_dataset(call)
        base = f"/v1/datasets/{dataset}"
        zero = "00000000-0000-0000-0000-000000000000"
        for method, path, body, status, code, expected_text in (
            ("POST", "/v1/datasets", {"name": ""}, 400, "invalid_param", "1 to 40 characters"),
            ("POST", "/v1/datasets", {"name": "shop"}, 409, "dataset_name_duplicate", "already exists"),
            ("POST", "/v1/datasets", {"name": "x", "embedding_model": "gpt-9"}, 400, "provider_not_initialize", "'gpt-9'"),
            ("POST", "/v1/datasets", {"name": "x", "permission": "all"}, 400, "invalid_param", "'permission' must be"),
            ("POST", "/v1/datasets", {"name": "x", "provider": "external"}, 400, "invalid_param", "external_knowledge_id"),
            ("POST", "/v1/datasets", {"name": "x", "retrieval_model": {"top_k": "many"}}, 400, "invalid_param", "top_k"),
            ("GET", f"/v1/datasets/{zero}", None, 404, "not_found", "does not exist"),
            ("GET", "/v1/datasets/nonsense", None, 404, "not_found", "Not found: /v1/datasets/nonsense"),
            ("PUT", base, {}, 405, "method_not_allowed", "takes GET"),
            ("POST", f"{base}/document/create-by-text", {"name": "a"}, 400, "invalid_param", "'name' and 'text'"),
            ("POST", f"{base}/document/create-by-file", {}, 400, "no_file_uploaded", "upload your file"),
            ("POST", f"{base}/document/create-by-text", {"name": "a", "text": "b", "process_rule": {"mode": "custom"}}, 400,
             "invalid_param", "rules are required"),
            ("POST", f"{base}/document/create-by-text", {"name": "a", "text": "b", "process_rule": {"mode": "custom", "rules": {
                "segmentation": {"max_tokens": 5}}}}, 400, "invalid_param", "max_tokens must be 10 to 10000"),
            ("GET", f"{base}/documents/{zero}", None, 404, "not_found", "does not exist"),
            ("GET", f"{base}/documents/{document}?metadata=some", None, 400, "invalid_metadata", "some"),
            ("GET", f"{base}/documents?page=x", None, 400, "invalid_param", "'page' must be a number"),
            ("GET", f"{base}/documents/nobatch/indexing-status", None, 404, "not_found", "Documents not found"),
            ("PATCH", f"{base}/documents/status/melt", {"document_ids": [document]}, 400, "invalid_action", "melt"),
            ("POST", f"{base}/documents/{document}/pause-indexing", {}, 400, "invalid_action", "Cannot pause"),
            ("POST", f"{base}/documents/{document}/melt-indexing", {}, 404, "not_found", "expected pause"),
            ("POST", f"{base}/documents/{document}/segments", {}, 400, "invalid_param", "Segments is required"),
            ("POST", f"{base}/documents/{document}/segments", {"segments": [{"content": ""}]}, 400, "invalid_param", "empty"),
            ("POST", f"{base}/documents/{document}/segments/{zero}", {"segment": {}}, 404, "not_found", "does not exist"),
            ("POST", f"{base}/retrieve", {"query": ""}, 400, "invalid_param", "'query' is required"),
            ("POST", f"{base}/retrieve", {"query": "x" * 5000}, 400, "invalid_param", "4,000"),
            ("POST", f"{base}/retrieve", {"query": "x", "retrieval_model": {"search_method": "magic"}}, 400, "invalid_param", "magic"),
            ("POST", f"{base}/ask", {}, 400, "invalid_param", "'query' is required"),
            ("POST", f"{base}/ask", {"query": "x", "check": "twice"}, 400, "invalid_param", "off, words or model"),
            ("POST", f"{base}/metadata", {"type": "color", "name": "a"}, 400, "invalid_param", "string, number or time"),
            ("POST", f"{base}/metadata", {"type": "string", "name": "uploader"}, 400, "invalid_param", "Built-in"),
            ("DELETE", f"{base}/metadata/{zero}", None, 404, "not_found", "Metadata not found"),
            ("POST", "/v1/datasets/tags", {"name": "x" * 51}, 400, "invalid_param", "1 to 50"),
            ("POST", "/v1/datasets/tags/binding", {"tag_ids": [zero], "target_id": dataset}, 404, "not_found", "Tag"),
            ("GET", f"{base}/documents/{document}/download", None, 404, "not_found", "uploaded file"),
            ("GET", "/v1/workspaces/current/models/model-types/smell", None, 400, "invalid_param", "smell"),
        ):  # fmt: skip
            actual_status, reply = await call(method, path, body)
            assert actual_status == status, (method, path, reply)
            if code:
                assert reply["code"] == code, (path, reply)
                assert expected_text in reply["message"], (path, reply)
        for key, expected_text in (("dataset-wrong", "invalid"), ("", "API key")):
            status, reply = await call("GET", "/v1/datasets", api_key=key)
            if key:
                assert (status, reply["code"]) == (401, "unauthorized"), expected_text
        del yard

    run(work)


def test_documents_are_shown_disabled_zipped_and_reindexed(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await create_dataset(call)
        base = f"/v1/datasets/{dataset}"
        _, detail = await call("GET", f"{base}/documents/{document}")
        assert (detail["indexing_status"], detail["display_status"]) == (
            "completed",
            "available",
        )
        assert detail["segment_count"] > 0
        _, metadata = await call("GET", f"{base}/documents/{document}?metadata=only")
        assert set(metadata) == {"id", "doc_type", "doc_metadata"}
        status, archive = await call(
            "POST", f"{base}/documents/download-zip", {"document_ids": [document]}
        )
        assert status == 200
        assert zipfile.ZipFile(io.BytesIO(archive)).read("guide.txt").decode() == TEXT
        _, results = await call(
            "POST", f"{base}/retrieve", {"query": "when do parcels leave"}
        )
        assert "noon" in results["records"][0]["segment"]["content"]
        assert set(results["records"][0]["scores"]) == {"semantic", "full_text"}
        await call(
            "PATCH", f"{base}/documents/status/archive", {"document_ids": [document]}
        )
        assert (await call("POST", f"{base}/retrieve", {"query": "parcels"}))[1][
            "records"
        ] == []
        status, reply = await call("DELETE", f"{base}/documents/{document}")
        assert (status, reply["code"]) == (403, "archived_document_immutable")
        await call(
            "PATCH", f"{base}/documents/status/un_archive", {"document_ids": [document]}
        )
        _, listed = await call("GET", f"{base}/documents?status=available&keyword=GUI")
        assert listed["total"] == 1
        status, reply = await call(
            "POST",
            f"{base}/documents/{document}/update-by-text",
            {"text": "Parcels fly.", "name": "new"},
        )
        assert (status, reply["document"]["name"]) == (200, "new")
        dataset_record = await yard.knowledge.datasets.get_by_id_or_name(
            "default", dataset
        )
        await yard.knowledge.datasets.wait(dataset_record, reply["batch"], 20)
        _, results = await call("POST", f"{base}/retrieve", {"query": "parcels"})
        assert [record["segment"]["content"] for record in results["records"]] == [
            "Parcels fly."
        ]
        _, queries = await call("GET", f"{base}/queries")
        assert queries["data"][0]["content"] == "parcels"
        status, _ = await call("DELETE", base)
        assert status == 204
        left = await yard.services.storage.database.fetch("SELECT (SELECT COUNT(*) FROM segments) + (SELECT COUNT(*) FROM index_entries) "
                                  "+ (SELECT COUNT(*) FROM document_texts) AS left_over")  # fmt: skip
        assert left[0]["left_over"] == 0

    run(work)


def test_metadata_fields_are_set_filtered_renamed_and_deleted(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        del yard
        dataset, document = await create_dataset(call)
        base = f"/v1/datasets/{dataset}"
        fields: dict[str, str] = {}
        for name, type_name in (
            ("team", "string"),
            ("year", "number"),
            ("due", "time"),
        ):
            status, field = await call(
                "POST", f"{base}/metadata", {"name": name, "type": type_name}
            )
            assert (status, field["name"], field["type"]) == (201, name, type_name)
            fields[name] = field["id"]

        async def put(partial: bool = True, **values: Any) -> tuple[int, Any]:
            entries = [
                {"id": fields[name], "name": name, "value": value}
                for name, value in values.items()
            ]
            operation = {
                "document_id": document,
                "metadata_list": entries,
                "partial_update": partial,
            }
            return await call(
                "POST", f"{base}/documents/metadata", {"operation_data": [operation]}
            )

        async def hit_count(operator: str, name: str, value: Any) -> int:
            conditions = {
                "logical_operator": "and",
                "conditions": [
                    {"name": name, "comparison_operator": operator, "value": value}
                ],
            }
            model = {
                "search_method": "full_text_search",
                "reranking_enable": False,
                "top_k": 3,
                "score_threshold_enabled": False,
                "metadata_filtering_conditions": conditions,
            }
            _, results = await call(
                "POST",
                f"{base}/retrieve",
                {"query": "parcels leave", "retrieval_model": model},
            )
            return len(results["records"])

        assert (await put(team="blue", year=2024, due="2026-01-31"))[0] == 200
        assert await hit_count("is", "team", "blue")
        assert await hit_count("in", "team", ["red", "blue"])
        assert not await hit_count("not in", "team", ["red", "blue"])
        assert await hit_count("≥", "year", 2024)
        assert await hit_count("before", "due", "2026-02-01")
        assert not await hit_count("after", "due", "2026-02-01")
        # A value of another type would match nothing, and nobody would know why.
        for name, value in (
            ("year", "soon"),
            ("due", "tomorrow"),
            ("year", True),
            ("team", {"a": 1}),
            ("team", ["a"]),
        ):
            status, reply = await put(**{name: value})
            assert (
                status,
                reply["code"],
                f"'{name}' is of type" in reply["message"],
            ) == (400, "invalid_param", True)
        assert (await put(year="2023", due=1_770_000_000))[0] == 200
        assert await hit_count("<", "year", 2024)
        _, listed = await call("GET", f"{base}/metadata")
        assert [
            (field["name"], field["count"]) for field in listed["doc_metadata"]
        ] == [("team", 1), ("year", 1), ("due", 1)]
        # A field that is renamed keeps its values; one that is deleted takes them away.
        status, renamed = await call(
            "PATCH", f"{base}/metadata/{fields['team']}", {"name": "group"}
        )
        assert (status, renamed["name"]) == (200, "group")
        assert await hit_count("is", "group", "blue")
        assert (await call("DELETE", f"{base}/metadata/{fields['year']}"))[0] == 204
        assert await hit_count("empty", "year", None)
        # Without partial_update, values that are not named are removed.
        fields["group"] = fields["team"]
        assert (await put(partial=False, due=None))[0] == 200
        assert await hit_count("empty", "group", None)
        _, built_in = await call("GET", f"{base}/metadata/built-in")
        assert "document_name" in [field["name"] for field in built_in["fields"]]
        assert (await call("POST", f"{base}/metadata/built-in/enable", {}))[0] == 200
        assert (await call("GET", f"{base}/metadata"))[1][
            "built_in_field_enabled"
        ] is True
        assert await hit_count("is", "document_name", "guide")


def test_an_unexpected_error_of_a_search_has_the_shape_of_the_api(
    run: Any, monkeypatch: pytest.MonkeyPatch
):
    async def fail(*arguments: Any) -> Any:
        raise TypeError("unsupported operand of a price")

    async def work(call: Call, yard: Modelyard) -> None:
        dataset, _ = await create_dataset(call)
        monkeypatch.setattr(yard.knowledge.datasets.retriever, "_search_dataset", fail)
        status, reply = await call(
            "POST", f"/v1/datasets/{dataset}/retrieve", {"query": "parcels"}
        )
        assert status == reply["status"] == 500
        assert set(reply) == {"code", "message", "status"}
        assert reply["code"] == "internal_server_error"
        assert "operand" not in reply["message"]

    run(work)


def test_a_dataset_is_served_as_external_knowledge(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, _ = await create_dataset(call)
        request = {
            "knowledge_id": dataset,
            "query": "parcels leave",
            "retrieval_setting": {"top_k": 1, "score_threshold": 0.1},
        }
        status, reply = await call("POST", "/retrieval", request)
        assert status == 200
        assert "noon" in reply["records"][0]["content"]
        assert reply["records"][0]["title"] == "guide"
        no_match = {
            "conditions": [
                {
                    "name": ["document_name"],
                    "comparison_operator": "is",
                    "value": "other",
                }
            ]
        }
        assert (
            await call(
                "POST", "/retrieval", {**request, "metadata_condition": no_match}
            )
        )[1]["records"] == []
        status, reply = await call(
            "POST", "/retrieval", {**request, "knowledge_id": "none"}
        )
        assert (status, reply["error_code"]) == (404, 2001)
        status, reply = await call(
            "POST", "/retrieval", request, api_key="dataset-wrong"
        )
        assert (status, reply["error_code"]) == (403, 1002)
        del yard

    run(work)


def test_a_question_is_answered_with_and_without_streaming(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        from modelyard.knowledge.answer import Answerer
        from modelyard.knowledge.retrieve import Retriever
        from tests.knowledge.conftest import Models

        dataset, _ = await create_dataset(call)
        parts = yard.knowledge
        models = Models(answers={"When do parcels": "Parcels leave before noon [1]."})
        retriever = Retriever(
            parts.stored, parts.indexes.of, HashEmbedder(), models, models
        )
        # The routes keep a reference to the original answerer, so it is changed in
        # place.
        vars(parts.answerer).update(vars(Answerer(retriever, models, models, models)))
        request = {"query": "When do parcels leave?"}
        status, reply = await call("POST", f"/v1/datasets/{dataset}/ask", request)
        assert (status, reply["text"], reply["is_found"]) == (
            200,
            "Parcels leave before noon [1].",
            True,
        )
        assert "noon" in reply["citations"][0]["text"]
        status, events = await call(
            "POST", f"/v1/datasets/{dataset}/ask", {**request, "stream": True}
        )
        kinds = [
            json.loads(line[6:])["event"]
            for line in events.decode().splitlines()
            if line
        ]
        assert kinds[0] == "sources"
        assert kinds[-1] == "answer"
        assert set(kinds[1:-1]) == {"text"}

    run(work)


def test_evaluations_are_stored_per_strategy_and_deleted_with_their_dataset(
    run: Any,
):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await create_dataset(call)
        base = f"/admin/v1/evaluations/{dataset}"
        questions = [
            {"question": "Can goods be sent back?", "documents": ["guide"]},
            {"question": "When do parcels leave?", "documents": [document]},
            {"question": "Who are you?", "documents": ["guide"]},
        ]
        evaluation = await _evaluated(call, base, questions)
        await _check_stored_evaluation(call, base, evaluation)
        await _check_refused_evaluations(call, base, questions)
        await _check_unknown_evaluations(call, base, evaluation["id"])
        lines = "How => when => guide\n"
        await call("POST", base, {"lines": lines}, api_key=_NO_KEY)
        _, listed = await call("GET", base, api_key=_NO_KEY)
        assert len(listed["data"]) == 2
        for expected_status in (200, 404):
            status, _ = await call(
                "DELETE", f"{base}/{evaluation['id']}", api_key=_NO_KEY
            )
            assert status == expected_status
        await call("DELETE", f"/v1/datasets/{dataset}")
        stored_evaluations = await yard.services.storage.scoped_store.list(
            "default", f"evaluation:{dataset}"
        )
        assert stored_evaluations == []

    run(work)


_NO_KEY = ""
"""Without any API key, callers on this machine may use the admin API."""


async def _evaluated(call: Call, base: str, questions: list[Any]) -> Any:
    """Evaluate two search strategies and check progress and scores.

    Returns the evaluation.
    """
    status, stream_body = await call(
        "POST",
        base,
        {"questions": questions, "ways": ["full_text", "hybrid"]},
        api_key=_NO_KEY,
    )
    assert status == 200, stream_body
    events = [
        json.loads(line[5:])
        for line in stream_body.decode().splitlines()
        if line.startswith("data:")
    ]
    assert [event.get("done") for event in events[:-1]] == [0, 1, 2, 3]
    evaluation = events[-1]["evaluation"]
    scores, outcomes = evaluation["scores"], evaluation["outcomes"]
    assert [(score["settings"], score["questions"]) for score in scores] == [
        ("full_text", 3),
        ("hybrid", 3),
    ]
    assert [outcome["places"]["full_text"] for outcome in outcomes] == [1, 1, 0]
    assert scores[0]["mrr"] == scores[0]["hit_1"] == 0.6667
    return evaluation


async def _check_stored_evaluation(call: Call, base: str, evaluation: Any) -> None:
    """The list omits the outcomes of evaluations; a single evaluation has them."""
    _, listed = await call("GET", base, api_key=_NO_KEY)
    assert [
        (listed_evaluation["id"], listed_evaluation["outcomes"])
        for listed_evaluation in listed["data"]
    ] == [(evaluation["id"], [])]
    assert await call("GET", f"{base}/{evaluation['id']}", api_key=_NO_KEY) == (
        200,
        evaluation,
    )


async def _check_refused_evaluations(
    call: Call, base: str, questions: list[Any]
) -> None:
    """Invalid evaluations are refused with an error that names the problem."""
    for body, expected_text in (
        ({"questions": []}, "'questions' must not be empty"),
        ({"questions": [{"question": "?"}]}, "documents"),
        ({"questions": questions, "ways": ["by smell"]}, "Unknown search strategy"),
        ({"questions": questions * 400}, "at most 1,000"),
        (
            {"questions": [*questions, {"question": "?", "documents": ["gone.md"]}]},
            "Question 4: the dataset has no document 'gone.md'",
        ),
        (
            {"questions": [{"question": "?", "documents": []}]},
            "Question 1: the question",
        ),
        ({"lines": "a => guide\n\nb => gone | guide"}, "Line 3: the dataset has no"),
        (
            {"lines": "a => guide\nb guide\n => guide\nc => "},
            "Line 2: expected QUESTION",
        ),
        (
            {"lines": "a => guide\nb guide\n => guide\nc => "},
            "Line 4: expected QUESTION",
        ),
        ({"lines": "x\n" * 30}, "and 20 more"),
    ):
        status, reply = await call("POST", base, body, api_key=_NO_KEY)
        assert (status, expected_text in json.dumps(reply)) == (400, True), reply
    status, reply = await call(
        "POST", f"{base}/questions", {"count": 9999}, api_key=_NO_KEY
    )
    assert (status, "1 to 200" in json.dumps(reply)) == (400, True)


async def _check_unknown_evaluations(call: Call, base: str, evaluation: str) -> None:
    """Unknown evaluations and datasets, and those of another dataset, are not found."""
    _, other_dataset = await call("POST", "/v1/datasets", {"name": "other"})
    paths = (
        f"{base}/nothing",
        "/admin/v1/evaluations/00000000-0000-0000-0000-000000000000",
        f"/admin/v1/evaluations/{other_dataset['id']}/{evaluation}",
    )
    for path in paths:
        assert (await call("GET", path, api_key=_NO_KEY))[0] == 404


def test_tag_names_are_unique(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        path = "/v1/datasets/tags"
        for name in ("red", "blue"):
            status, tag = await call("POST", path, {"name": name})
            assert status == 200
        body = {"tag_id": tag["id"], "name": "red"}
        status, reply = await call("PATCH", path, body)
        assert (status, reply["code"]) == (400, "invalid_param")
        assert "'red'" in reply["message"]

    run(work)
