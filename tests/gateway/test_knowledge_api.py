"""The knowledge API: what the public clients do not try, and what goes wrong. The clients themselves: `dataset-clients`."""

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
def run(tmp_path: Path) -> Callable[[Callable[[Call, Modelyard], Awaitable[None]]], None]:
    def go(work: Callable[[Call, Modelyard], Awaitable[None]]) -> None:
        async def around() -> None:
            async with Modelyard(Settings(home=str(tmp_path)), environ={}, embedder=HashEmbedder()) as yard:
                gateway = gateway_for(yard.services)
                key = await yard.services.tenancy.dataset_keys.make("default")

                async def call(method: str, path: str, body: Any = None, *, shown: str = key) -> tuple[int, Any]:
                    seen = await ask(gateway, method, path, shown, body)
                    is_json = seen.headers["content-type"] == "application/json" and seen.body
                    return seen.status, json.loads(seen.body) if is_json else seen.body

                await work(call, yard)

        asyncio.run(around())

    return go


async def made(call: Call, **more: Any) -> tuple[str, str]:
    """A dataset with one document: their ids."""
    _, dataset = await call("POST", "/v1/datasets", {"name": "shop", "indexing_technique": "high_quality", **more})
    status, told = await call(
        "POST", f"/v1/datasets/{dataset['id']}/document/create-by-text", {"name": "guide", "text": TEXT}
    )
    assert status == 200, told
    for _ in range(200):
        _, seen = await call("GET", f"/v1/datasets/{dataset['id']}/documents/{told['batch']}/indexing-status")
        if seen["data"][0]["indexing_status"] in ("completed", "error"):
            break
        await asyncio.sleep(0.02)
    return dataset["id"], told["document"]["id"]


def test_what_callers_do_wrong_is_said_with_the_right_status(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await made(call)
        base = f"/v1/datasets/{dataset}"
        zero = "00000000-0000-0000-0000-000000000000"
        for method, path, body, status, code, words in (
            ("POST", "/v1/datasets", {"name": ""}, 400, "invalid_param", "1 to 40 characters"),
            ("POST", "/v1/datasets", {"name": "shop"}, 409, "dataset_name_duplicate", "already exists"),
            ("POST", "/v1/datasets", {"name": "x", "embedding_model": "gpt-9"}, 400, "provider_not_initialize", "'gpt-9'"),
            ("POST", "/v1/datasets", {"name": "x", "permission": "all"}, 400, "invalid_param", "permission must be"),
            ("POST", "/v1/datasets", {"name": "x", "provider": "external"}, 400, "invalid_param", "external_knowledge_id"),
            ("POST", "/v1/datasets", {"name": "x", "retrieval_model": {"top_k": "many"}}, 400, "invalid_param", "top_k"),
            ("GET", f"/v1/datasets/{zero}", None, 404, "not_found", "does not exist"),
            ("GET", "/v1/datasets/nonsense", None, 404, "not_found", "Not found: /v1/datasets/nonsense"),
            ("PUT", base, {}, 405, "method_not_allowed", "takes GET"),
            ("POST", f"{base}/document/create-by-text", {"name": "a"}, 400, "invalid_param", "name and text"),
            ("POST", f"{base}/document/create-by-file", {}, 400, "no_file_uploaded", "upload your file"),
            ("POST", f"{base}/document/create-by-text", {"name": "a", "text": "b", "process_rule": {"mode": "custom"}}, 400,
             "invalid_param", "rules are required"),
            ("POST", f"{base}/document/create-by-text", {"name": "a", "text": "b", "process_rule": {"mode": "custom", "rules": {
                "segmentation": {"max_tokens": 5}}}}, 400, "invalid_param", "max_tokens must be 10 to 10000"),
            ("GET", f"{base}/documents/{zero}", None, 404, "not_found", "does not exist"),
            ("GET", f"{base}/documents/{document}?metadata=some", None, 400, "invalid_metadata", "some"),
            ("GET", f"{base}/documents?page=x", None, 400, "invalid_param", "page must be a number"),
            ("GET", f"{base}/documents/nobatch/indexing-status", None, 404, "not_found", "Documents not found"),
            ("PATCH", f"{base}/documents/status/melt", {"document_ids": [document]}, 400, "invalid_action", "melt"),
            ("POST", f"{base}/documents/{document}/pause-indexing", {}, 400, "invalid_action", "nothing to pause"),
            ("POST", f"{base}/documents/{document}/melt-indexing", {}, 404, "not_found", "none of pause"),
            ("POST", f"{base}/documents/{document}/segments", {}, 400, "invalid_param", "Segments is required"),
            ("POST", f"{base}/documents/{document}/segments", {"segments": [{"content": ""}]}, 400, "invalid_param", "empty"),
            ("POST", f"{base}/documents/{document}/segments/{zero}", {"segment": {}}, 404, "not_found", "does not exist"),
            ("POST", f"{base}/retrieve", {"query": ""}, 400, "invalid_param", "query is required"),
            ("POST", f"{base}/retrieve", {"query": "x" * 5000}, 400, "invalid_param", "4,000"),
            ("POST", f"{base}/retrieve", {"query": "x", "retrieval_model": {"search_method": "magic"}}, 400, "invalid_param", "magic"),
            ("POST", f"{base}/ask", {}, 400, "invalid_param", "query is required"),
            ("POST", f"{base}/ask", {"query": "x", "check": "twice"}, 400, "invalid_param", "off, words or model"),
            ("POST", f"{base}/metadata", {"type": "color", "name": "a"}, 400, "invalid_param", "string, number or time"),
            ("POST", f"{base}/metadata", {"type": "string", "name": "uploader"}, 400, "invalid_param", "Built-in"),
            ("DELETE", f"{base}/metadata/{zero}", None, 404, "not_found", "Metadata not found"),
            ("POST", "/v1/datasets/tags", {"name": "x" * 51}, 400, "invalid_param", "1 to 50"),
            ("POST", "/v1/datasets/tags/binding", {"tag_ids": [zero], "target_id": dataset}, 404, "not_found", "tag"),
            ("GET", f"{base}/documents/{document}/download", None, 404, "not_found", "uploaded file"),
            ("GET", "/v1/workspaces/current/models/model-types/smell", None, 400, "invalid_param", "smell"),
        ):  # fmt: skip
            seen, told = await call(method, path, body)
            assert seen == status, (method, path, told)
            if code:
                assert told["code"] == code, (path, told)
                assert words in told["message"], (path, told)
        for key, words in (("dataset-wrong", "invalid"), ("", "API key")):
            status, told = await call("GET", "/v1/datasets", shown=key)
            if key:
                assert (status, told["code"]) == (401, "unauthorized"), words
        del yard

    run(work)


def test_documents_are_looked_at_switched_off_zipped_and_made_anew(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await made(call)
        base = f"/v1/datasets/{dataset}"
        _, detail = await call("GET", f"{base}/documents/{document}")
        assert (detail["indexing_status"], detail["display_status"]) == ("completed", "available")
        assert detail["segment_count"] > 0
        _, only = await call("GET", f"{base}/documents/{document}?metadata=only")
        assert set(only) == {"id", "doc_type", "doc_metadata"}
        status, archive = await call("POST", f"{base}/documents/download-zip", {"document_ids": [document]})
        assert status == 200
        assert zipfile.ZipFile(io.BytesIO(archive)).read("guide.txt").decode() == TEXT
        _, found = await call("POST", f"{base}/retrieve", {"query": "when do parcels leave"})
        assert "noon" in found["records"][0]["segment"]["content"]
        assert set(found["records"][0]["scores"]) == {"semantic", "full_text"}
        await call("PATCH", f"{base}/documents/status/archive", {"document_ids": [document]})
        assert (await call("POST", f"{base}/retrieve", {"query": "parcels"}))[1]["records"] == []
        status, told = await call("DELETE", f"{base}/documents/{document}")
        assert (status, told["code"]) == (403, "archived_document_immutable")
        await call("PATCH", f"{base}/documents/status/un_archive", {"document_ids": [document]})
        _, listed = await call("GET", f"{base}/documents?status=available&keyword=GUI")
        assert listed["total"] == 1
        status, told = await call(
            "POST", f"{base}/documents/{document}/update-by-text", {"text": "Parcels fly.", "name": "new"}
        )
        assert (status, told["document"]["name"]) == (200, "new")
        one = await yard.knowledge.datasets.find("default", dataset)
        await yard.knowledge.datasets.wait(one, told["batch"], 20)
        _, found = await call("POST", f"{base}/retrieve", {"query": "parcels"})
        assert [record["segment"]["content"] for record in found["records"]] == ["Parcels fly."]
        _, asked = await call("GET", f"{base}/queries")
        assert asked["data"][0]["content"] == "parcels"
        status, _ = await call("DELETE", base)
        assert status == 204
        left = await yard.services.storage.database.fetch("SELECT (SELECT COUNT(*) FROM segments) + (SELECT COUNT(*) FROM index_entries) "
                                  "+ (SELECT COUNT(*) FROM document_texts) AS left_over")  # fmt: skip
        assert left[0]["left_over"] == 0

    run(work)


def test_a_dataset_is_served_as_external_knowledge(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, _ = await made(call)
        asked = {
            "knowledge_id": dataset,
            "query": "parcels leave",
            "retrieval_setting": {"top_k": 1, "score_threshold": 0.1},
        }
        status, told = await call("POST", "/retrieval", asked)
        assert status == 200
        assert "noon" in told["records"][0]["content"]
        assert told["records"][0]["title"] == "guide"
        none = {"conditions": [{"name": ["document_name"], "comparison_operator": "is", "value": "other"}]}
        assert (await call("POST", "/retrieval", {**asked, "metadata_condition": none}))[1]["records"] == []
        status, told = await call("POST", "/retrieval", {**asked, "knowledge_id": "none"})
        assert (status, told["error_code"]) == (404, 2001)
        status, told = await call("POST", "/retrieval", asked, shown="dataset-wrong")
        assert (status, told["error_code"]) == (403, 1002)
        del yard

    run(work)


def test_a_question_is_answered_whole_and_in_events(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        from modelyard.knowledge.answer import Answerer
        from modelyard.knowledge.retrieve import Retriever
        from tests.knowledge.conftest import Models

        dataset, _ = await made(call)
        parts = yard.knowledge
        models = Models(answers={"When do parcels": "Parcels leave before noon [1]."})
        retriever = Retriever(parts.stored, parts.indexes.of, HashEmbedder(), models, models)
        # The routes hold the answerer that was there when they were made.
        vars(parts.answerer).update(vars(Answerer(retriever, models, models, models)))
        asked = {"query": "When do parcels leave?"}
        status, told = await call("POST", f"/v1/datasets/{dataset}/ask", asked)
        assert (status, told["text"], told["is_found"]) == (200, "Parcels leave before noon [1].", True)
        assert "noon" in told["citations"][0]["text"]
        status, events = await call("POST", f"/v1/datasets/{dataset}/ask", {**asked, "stream": True})
        kinds = [json.loads(line[6:])["event"] for line in events.decode().splitlines() if line]
        assert kinds[0] == "sources"
        assert kinds[-1] == "answer"
        assert set(kinds[1:-1]) == {"text"}

    run(work)


def test_evaluations_are_kept_with_each_ways_numbers_and_go_with_their_dataset(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        dataset, document = await made(call)
        base = f"/admin/v1/evaluations/{dataset}"
        questions = [
            {"question": "Can goods be sent back?", "documents": ["guide"]},
            {"question": "When do parcels leave?", "documents": [document]},
            {"question": "Who are you?", "documents": ["of nobody"]},
        ]
        admin = ""  # nobody has an API key yet: who is at this machine may
        status, told = await call("POST", base, {"questions": questions, "ways": ["full_text", "hybrid"]}, shown=admin)
        assert status == 200, told
        events = [json.loads(line[5:]) for line in told.decode().splitlines() if line.startswith("data:")]
        assert [one.get("done") for one in events[:-1]] == [0, 1, 2, 3]
        whole = events[-1]["evaluation"]
        assert [(one["settings"], one["questions"]) for one in whole["scores"]] == [("full_text", 3), ("hybrid", 3)]
        assert [one["places"]["full_text"] for one in whole["outcomes"]] == [1, 1, 0]
        assert whole["scores"][0]["mrr"] == whole["scores"][0]["hit_1"] == 0.6667
        _, listed = await call("GET", base, shown=admin)
        assert [(one["id"], one["outcomes"]) for one in listed["data"]] == [(whole["id"], [])]
        assert await call("GET", f"{base}/{whole['id']}", shown=admin) == (200, whole)
        for body, words in (
            ({"questions": []}, "there is nothing to ask"),
            ({"questions": [{"question": "?"}]}, "documents"),
            ({"questions": questions, "ways": ["by smell"]}, "no way to search"),
            ({"questions": questions * 400}, "more than 1,000"),
        ):
            status, said = await call("POST", base, body, shown=admin)
            assert (status, words in json.dumps(said)) == (400, True), said
        status, said = await call("POST", f"{base}/questions", {"count": 9999}, shown=admin)
        assert (status, "1 to 200" in json.dumps(said)) == (400, True)
        for path in (f"{base}/nothing", "/admin/v1/evaluations/00000000-0000-0000-0000-000000000000"):
            assert (await call("GET", path, shown=admin))[0] == 404
        _, other = await call("POST", "/v1/datasets", {"name": "other"})
        assert (await call("GET", f"/admin/v1/evaluations/{other['id']}/{whole['id']}", shown=admin))[0] == 404
        await call("POST", base, {"questions": questions[:1]}, shown=admin)
        assert len((await call("GET", base, shown=admin))[1]["data"]) == 2
        assert (await call("DELETE", f"{base}/{whole['id']}", shown=admin))[0] == 200
        assert (await call("DELETE", f"{base}/{whole['id']}", shown=admin))[0] == 404
        await call("DELETE", f"/v1/datasets/{dataset}")
        kept = await yard.services.storage.kept.list("default", f"evaluation:{dataset}")
        assert kept == []

    run(work)


def test_a_tag_is_not_given_the_name_of_another(run: Any):
    async def work(call: Call, yard: Modelyard) -> None:
        for name in ("red", "blue"):
            status, tag = await call("POST", "/v1/datasets/tags", {"name": name})
            assert status == 200
        status, said = await call("PATCH", "/v1/datasets/tags", {"tag_id": tag["id"], "name": "red"})
        assert (status, said["code"]) == (400, "invalid_param")
        assert "'red'" in said["message"]

    run(work)
