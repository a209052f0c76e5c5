"""Access lists: their form, who a reader is, and what follows from both."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.base.errors import InvokeBadRequestError, NotFoundError
from modelyard.gateway.speaking import with_named_reader
from modelyard.knowledge.access import (
    AccessList,
    list_of_principals,
    may_read,
    principals_of_list,
)
from modelyard.knowledge.document_filters import DocumentFilters
from modelyard.knowledge.entities import (
    Dataset,
    RetrievalSettings,
    SearchMethod,
    Status,
)
from modelyard.knowledge.export import export_dataset, import_dataset
from modelyard.knowledge.retrieve import Retriever, SearchRequest
from modelyard.tenancy.caller import (
    Caller,
    ForbiddenError,
    acting_for,
    current_reader,
)
from modelyard.tenancy.reader import ANYBODY, UNRESTRICTED, Reader, own_principals
from modelyard.tenancy.resource_types import User
from tests.knowledge.conftest import Bench, Run

NAMES = st.lists(st.sampled_from(["ada", "Ben", "Ada@Example.com", "a, b", "研究"]))


@given(users=NAMES, groups=NAMES, everyone=st.booleans())
def test_a_list_is_read_as_it_was_stored(
    users: list[str], groups: list[str], everyone: bool
):
    """Law: storing and reading a list keeps its meaning, also if it grants nothing."""
    access_list = AccessList(users=users, groups=groups, everyone=everyone)
    stored = principals_of_list(access_list)
    assert stored, "an empty column would mean that there is no list"
    read_list = list_of_principals(stored)
    assert read_list is not None
    assert principals_of_list(read_list) == stored
    assert read_list.everyone is everyone
    for name in users:
        principals = own_principals("t", Reader(users=(name,)))
        assert may_read(principals, stored, "nobody")
    if not users and not groups and not everyone:
        assert not may_read(own_principals("t", Reader(users=("ada",))), stored, "everyone")  # fmt: skip


def test_no_list_is_the_default_of_the_dataset():
    assert principals_of_list(None) == []
    assert list_of_principals([]) is None
    anybody = own_principals("t", ANYBODY)
    assert may_read(anybody, [], "everyone")
    assert not may_read(anybody, [], "nobody")
    assert may_read(own_principals("t", UNRESTRICTED), ["nobody"], "nobody")
    # A disabled reader has no principals.
    assert not may_read(frozenset(), [], "everyone")


def test_names_cannot_stand_for_other_principals():
    """A user whose name looks like a group, or like everyone, is only that user."""
    for name in ("everyone", "nobody", "group:staff", "user:ada"):
        principals = own_principals("t", Reader(users=(name,)))
        for stored in (["group:staff"], ["user:ada"], ["nobody"]):
            assert not may_read(principals, stored, "nobody"), (name, stored)
        alone = principals_of_list(AccessList(users=[name]))
        assert not may_read(own_principals("t", ANYBODY), alone, "everyone")


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (AccessList(users=["a" * 257]), "'users' must contain names of 1 to 256"),
        (AccessList(groups=["  "]), "'groups' must contain names"),
        (AccessList(users=["a\nb"]), "printable"),
        (AccessList(users=[f"u{n}" for n in range(1001)]), "at most 1,000 names"),
        (
            AccessList(
                users=[f"u{n}" for n in range(600)],
                groups=[f"g{n}" for n in range(600)],
            ),
            "at most 1,000 users and groups",
        ),
    ],
)
def test_invalid_lists_are_refused(access: AccessList, message: str):
    with pytest.raises(InvokeBadRequestError, match=message):
        principals_of_list(access)


# ------------------------------------------------------------------ whom a caller names


def test_only_trusted_callers_name_a_reader():
    headers = [(b"x-modelyard-user", b"Ada@example.com"), (b"x-modelyard-groups", b"a%2Cb, c ,,%E7%A0%94")]  # fmt: skip
    trusted = Caller(tenant="t", speaks_for_users=True, manages_datasets=True)
    named = with_named_reader(trusted, {"headers": headers})
    assert named.reader == Reader(users=("ada@example.com",), groups=("a,b", "c", "研"))
    assert not named.sees_all_documents
    assert with_named_reader(trusted, {"headers": []}) == trusted
    assert with_named_reader(trusted, {"headers": []}, "ada").reader == Reader(
        users=("ada",)
    )
    # The headers come before the request's user.
    assert (
        with_named_reader(trusted, {"headers": headers}, "ben").reader == named.reader
    )
    plain = Caller(tenant="t")
    assert with_named_reader(plain, {"headers": []}, "ada").reader == ANYBODY
    for line in headers:
        with pytest.raises(ForbiddenError, match="may not read documents on behalf"):
            with_named_reader(plain, {"headers": [line]})


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([(b"x-modelyard-user", b"%ff")], "percent-encoded UTF-8"),
        ([(b"x-modelyard-user", b"a"), (b"x-modelyard-user", b"b")], "sent twice"),
        ([(b"x-modelyard-user", b"a%0Ab")], "printable"),
    ],
)
def test_invalid_headers_are_refused(headers: list[tuple[bytes, bytes]], message: str):
    with pytest.raises(InvokeBadRequestError, match=message):
        with_named_reader(
            Caller(tenant="t", speaks_for_users=True), {"headers": headers}
        )


def test_a_reader_counts_in_its_own_tenant_alone():
    ada = Reader(users=("ada",))
    assert current_reader("t") == ANYBODY
    with acting_for(Caller(tenant="t", user="ben", reader=ada)):
        assert current_reader("t") == ada
        assert current_reader("other") == ANYBODY
    # The user that a request states is nobody's identity.
    with acting_for(Caller(tenant="t", user="ada")):
        assert current_reader("t") == ANYBODY


# --------------------------------------------------------------------------- memberships


def test_groups_come_from_the_directory_and_from_claims_that_end(run: Run):
    async def work(bench: Bench) -> None:
        tenancy = bench.yard.services.tenancy
        memberships = tenancy.memberships
        ada = Reader(users=("ada@example.com",), groups=("passed",))

        async def change(**fields: object) -> None:
            """Change Ada's entry in the directory."""
            row = tenancy.directory.of("default", User)[0][0].id
            operator = Caller(tenant="default")
            await tenancy.administration.change(operator, "default", "user", row, dict(fields))  # fmt: skip

        assert memberships.principals_of("default", ada) == {"everyone", "user:ada@example.com", "group:passed"}  # fmt: skip
        await tenancy.administration.create(
            Caller(tenant="default"), "default", "user", "ada",
            {"email": "Ada@Example.com", "groups": ["staff"]},
        )  # fmt: skip
        # The entry's name and address are one person.
        for name in ("ada", "ADA@example.com"):
            principals = memberships.principals_of("default", Reader(users=(name,)))
            assert principals == {"everyone", "user:ada", "user:ada@example.com", "group:staff"}, name  # fmt: skip
        await memberships.record_claims(
            "default", "Ada@example.com", ["board", " "], 60
        )
        principals = memberships.principals_of("default", ada)
        assert principals is not None
        assert {"group:board", "group:staff", "group:passed"} <= principals
        # Those of another sign-in replace them, and none are kept for others.
        await memberships.record_claims("default", "ada@example.com", [], 60)
        await memberships.record_claims("default", "ben@example.com", ["board"], -1)
        assert "group:board" not in (memberships.principals_of("default", ada) or ())
        ben = Reader(users=("ben@example.com",))
        assert memberships.principals_of("default", ben) == {"everyone", "user:ben@example.com"}  # fmt: skip
        assert memberships.principals_of("other", ada) == {"everyone", "user:ada@example.com", "group:passed"}  # fmt: skip
        await change(is_enabled=False)
        assert memberships.principals_of("default", ada) == set()
        assert memberships.principals_of("default", UNRESTRICTED) is None

    run(work)


# ------------------------------------------------------------------------------ searches


def test_scores_tell_nothing_of_documents_that_one_may_not_read(run: Run):
    """Law: what a reader finds, with all scores, is what a dataset of the readable
    documents alone would return."""

    async def work(bench: Bench) -> None:
        texts = [f"parcel {'falcon' if n % 3 else 'otter'} number {n} of {n % 7}" for n in range(40)]  # fmt: skip
        mixed = await bench.dataset("mixed", default_access="nobody")
        added = sorted(
            await bench.add(mixed, *texts), key=lambda document: document.position
        )
        mine = [n for n in range(40) if n % 4 == 0]
        lists = {added[n].id: AccessList(users=["ada"]) for n in mine}
        await bench.datasets.access.set(mixed, lists)
        part = await bench.dataset("part")
        await bench.add(part, *[texts[n] for n in mine])
        for method in ("full_text_search", "semantic_search", "hybrid_search"):
            for query in ("falcon", "otter parcel", "number 7 of 3"):
                observed = await _scores(bench, mixed, method, query)
                expected = await _scores(bench, part, method, query)
                assert observed == expected, (method, query)

    run(work)


async def _scores(
    bench: Bench, dataset: Dataset, method: str, query: str
) -> dict[str, dict[str, float]]:
    """Return what Ada finds, with the scores of each stage."""
    settings = RetrievalSettings(search_method=SearchMethod(method), top_k=40)
    ada = Reader(users=("ada",))
    results = await bench.find(dataset, query, settings=settings, reader=ada)
    return {
        # Mean lengths are those of all entries, and differ a little.
        hit.text: {stage: round(score, 2) for stage, score in hit.scores.items()}
        for hit in results.hits
    }


def test_lists_are_all_set_or_none(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        second = await bench.dataset("other")
        (first,) = await bench.add(dataset, "Parcels leave before noon.")
        (elsewhere,) = await bench.add(second, "Parcels leave before noon.")
        nobody = AccessList()
        with pytest.raises(NotFoundError, match="does not exist"):
            await bench.datasets.access.set(
                dataset, {first.id: nobody, elsewhere.id: nobody}
            )
        for dataset_record in (dataset, second):
            assert len((await bench.find(dataset_record, "parcels")).hits) == 1
            assert not await bench.datasets.access.is_protected(dataset_record)

    run(work)


def test_lists_survive_new_content_a_new_index_and_a_move(run: Run, tmp_path_factory: pytest.TempPathFactory):  # fmt: skip
    async def work(bench: Bench) -> None:
        datasets = bench.datasets
        dataset = await bench.dataset(default_access="nobody")
        added = await datasets.add_texts(
            dataset, [("n", "Parcels leave.")], readers=["user:ada"]
        )
        (document,) = await datasets.wait(dataset, added[0].batch, 60)
        ada, ben = Reader(users=("ada",)), Reader(users=("ben",))

        async def counts(name: str = "d", query: str = "parcels") -> list[int]:
            """Return how many hits Ada, Ben and anybody have."""
            searched = await datasets.get_by_id_or_name("default", name)
            return [
                len((await bench.find(searched, query, reader=reader)).hits)
                for reader in (ada, ben, ANYBODY)
            ]

        assert await counts() == [1, 0, 0]
        changed = await datasets.update_text(dataset, document, text="Parcels come.")
        await datasets.wait(dataset, changed.batch, 60)
        assert await counts() == [1, 0, 0]
        bench.embedder.dimensions = 32
        await datasets.reindexer.change_model(
            await datasets.get_by_id_or_name("default", "d")
        )
        # The vectors of earlier questions are still those of the second model.
        assert await counts(query="parcel") == [1, 0, 0]
        file = tmp_path_factory.mktemp("moved") / "dataset.zip"
        dataset = await datasets.get_by_id_or_name("default", "d")
        await export_dataset(datasets, dataset, file)
        moved = await import_dataset(datasets, "default", file, name="moved")
        assert moved.settings.default_access == "nobody"
        assert await counts("moved", "parcel") == [1, 0, 0]

    run(work)


def test_a_document_has_its_list_before_it_can_be_found(run: Run):
    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        added = await bench.datasets.add_texts(
            dataset, [("n", "Parcels leave.")], readers=["nobody"]
        )
        (document,) = await bench.datasets.wait(dataset, added[0].batch, 60)
        assert document.status is Status.COMPLETED
        assert (await bench.find(dataset, "parcels")).hits == []
        assert msgspec.to_builtins(list_of_principals(document.readers)) == {
            "users": [], "groups": [], "everyone": False,
        }  # fmt: skip

    run(work)


def test_the_default_decides_about_external_datasets(run: Run):
    """Their documents have no lists here."""

    class Elsewhere:
        async def retrieve(self, *_: Any) -> list[dict[str, Any]]:
            return [{"content": "Parcels leave.", "score": 0.9, "title": "guide"}]

    async def work(bench: Bench) -> None:
        parts = bench.parts
        retriever = Retriever(
            parts.stored, parts.indexes.of, bench.embedder, external=Elsewhere()
        )
        ada = Reader(users=("ada",))
        for default, expected in (("everyone", [1, 1]), ("nobody", [0, 1])):
            dataset = await bench.dataset(
                default, provider="external", default_access=default
            )
            hit_counts: list[int] = []
            for reader in (ada, UNRESTRICTED):
                request = SearchRequest(tenant="default", query="parcels", reader=reader)  # fmt: skip
                retrieval = await retriever.search([dataset.id], request)
                hit_counts.append(len(retrieval.hits))
            assert hit_counts == expected

    run(work)


def test_a_dataset_without_lists_is_not_filtered(run: Run, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    """It pays for one look into an index, which searches have always made."""

    async def refuse(*_: Any) -> None:
        raise AssertionError("The documents were filtered")

    async def work(bench: Bench) -> None:
        dataset = await bench.dataset()
        (document,) = await bench.add(dataset, "Parcels leave before noon.")
        monkeypatch.setattr(DocumentFilters, "allowed", refuse)
        for reader in (
            ANYBODY,
            Reader(users=("ada",), groups=("staff",)),
            UNRESTRICTED,
        ):
            assert len((await bench.find(dataset, "parcels", reader=reader)).hits) == 1
        await bench.datasets.access.set(
            dataset, {document.id: AccessList(everyone=True)}
        )
        with pytest.raises(AssertionError, match="were filtered"):
            await bench.find(dataset, "parcels", reader=ANYBODY)

    run(work)
