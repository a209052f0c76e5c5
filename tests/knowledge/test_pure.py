"""Tests for cleaning, splitting, filtering and checking: properties and examples."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from modelyard.base.errors import InvokeBadRequestError
from modelyard.knowledge import fact_check, queries
from modelyard.knowledge.analysis import (
    decode_term_counts,
    encode_term_counts,
    keywords,
    terms,
)
from modelyard.knowledge.clean import clean
from modelyard.knowledge.entities import (
    AUTOMATIC,
    Condition,
    Conditions,
    DatasetSettings,
    DocForm,
    PreProcessingRule,
    ProcessRule,
    Rules,
    Segmentation,
)
from modelyard.knowledge.filters import check, matches
from modelyard.knowledge.index.base import IndexQuery, fuse_scores
from modelyard.knowledge.prepare import parse_qa_pairs, qa_pairs_from_tables
from modelyard.knowledge.retrieve import mmr
from modelyard.knowledge.rows import DocumentPart
from modelyard.knowledge.sources import values_at
from modelyard.knowledge.split import Measure, Span, _merge_spans, spans, split
from modelyard.models.tokens import estimate_tokens

WORDS = st.text(alphabet=st.sampled_from(list("ab c.\n。 #|-`退款\t,!")), max_size=600)


# ----------------------------------------------------------------------------- cleaning


def test_cleaning_with_and_without_rules():
    assert clean("a<|im_start|>b\x00\x08\ufffec", Rules()) == "a<im_start>bc"
    assert clean("a\n\n\n\nb  \u3000c", Rules()) == "a\n\n\n\nb  \u3000c"
    assert clean("a\n\n\n\nb  \u3000c", AUTOMATIC) == "a\n\nb c"
    text = "Mail ann@example.org or see https://example.org/x and [our page](https://example.org/y) ![p](https://e.org/p.png)"
    assert (
        clean(text, AUTOMATIC)
        == "Mail  or see  and [our page](https://example.org/y) ![p](https://e.org/p.png)"
    )
    off = Rules(
        pre_processing_rules=[PreProcessingRule(id="remove_urls_emails", enabled=False)]
    )
    assert clean(text, off) == text


# ---------------------------------------------------------------------------- splitting


@given(
    WORDS,
    st.integers(10, 80),
    st.integers(0, 9),
    st.sampled_from(["\n", "\n\n", "", "。"]),
)
@settings(max_examples=150)
def test_segments_are_spans_of_the_text_within_the_maximum(
    text: str, size: int, overlap: int, separator: str
):
    segment_spans = spans(
        text, Segmentation(separator=separator, max_tokens=size, chunk_overlap=overlap)
    )
    for start, stop in segment_spans:
        assert 0 <= start < stop <= len(text)
        assert stop - start <= size
        assert not text[start].isspace()
        assert not text[stop - 1].isspace()
    # Only white space may be lost, and rows that only divide.
    covered = set().union(*(range(start, stop) for start, stop in segment_spans))
    lost_indexes = [
        index
        for index, char in enumerate(text)
        if index not in covered and not char.isspace() and char not in "|-"
    ]
    assert not lost_indexes


LINES_OF_TABLES = st.lists(
    st.sampled_from(
        [
            "| name | price |",
            "| --- | --- |",
            "| a | 1 |",
            "|---|",
            "",
            "# H",
            "Text. " * 9,
            "x",
        ]
    ),
    max_size=30,
)
RULES = [
    ProcessRule(mode=mode, rules=Rules(segmentation=cut, subchunk_segmentation=cut))
    for mode in ("automatic", "structure", "custom", "hierarchical")
    for cut in (
        Segmentation(max_tokens=30),
        Segmentation(max_tokens=100),
        Segmentation(separator="\\n\\n", max_tokens=12, unit="tokens"),
    )
]


@given(LINES_OF_TABLES, st.sampled_from(RULES), st.sampled_from(list(DocForm)[:2]))
@settings(max_examples=200)
def test_no_segment_is_a_row_that_only_divides(
    lines: list[str], rule: ProcessRule, doc_form: DocForm
):
    segments = split("\n".join(lines), rule, doc_form)
    children = [child for segment in segments for child in segment.children]
    for segment in [*segments, *children]:
        assert any(char.isalnum() for char in segment.text), segment


@given(LINES_OF_TABLES)
def test_small_segments_are_joined_where_both_fit(lines: list[str]):
    rule = ProcessRule(rules=Rules(segmentation=Segmentation(max_tokens=100)))
    segments = split("\n".join(lines), rule)
    for first, second in pairwise(segments):
        is_small = min(len(first.text), len(second.text)) < 100 // 20
        assert not is_small or len(first.text) + second.stop - first.stop > 100


def test_every_default_splits_by_structure():
    """The dataset's default, a rule without a mode, and Dify's automatic mode."""
    rows = "\n".join(f"| form T{number} | {number} |" for number in range(20))
    text = f"# Forms\n\nAll forms.\n\n| form | fee |\n| --- | --- |\n{rows}\n"
    rules = (DatasetSettings().process_rule, ProcessRule(), ProcessRule(mode="automatic"))  # fmt: skip
    for rule in rules:
        (segment,) = split(text, rule)
        assert segment.text == text.strip()


def test_segments_keep_the_characters_at_their_ends():
    paragraph = "退款将在七个工作日内到账。" * 40
    rule = ProcessRule(mode="custom", rules=Rules(segmentation=Segmentation(max_tokens=300)))  # fmt: skip
    assert "".join(segment.text for segment in split(paragraph, rule)) == paragraph
    assert split(".NET is a framework", rule)[0].text == ".NET is a framework"
    by_sentence = Rules(segmentation=Segmentation(separator="。"))
    texts = [
        segment.text
        for segment in split("一。二。", ProcessRule(mode="custom", rules=by_sentence))
    ]
    assert texts == ["一。", "二。"]


@given(WORDS, st.sampled_from([DocForm.TEXT, DocForm.HIERARCHICAL]))
@settings(max_examples=150)
def test_structured_splitting_is_lossless_and_children_are_in_parents(
    text: str, doc_form: DocForm
):
    rules = Rules(
        segmentation=Segmentation(max_tokens=120),
        subchunk_segmentation=Segmentation(max_tokens=40),
    )
    segments = split(text, ProcessRule(mode="structure", rules=rules), doc_form)
    covered: set[int] = set()
    for segment in segments:
        assert segment.text.endswith(text[segment.start : segment.stop])
        covered.update(range(segment.start, segment.stop))
        for child in segment.children:
            assert segment.start <= child.start < child.stop <= segment.stop
    lost_indexes = [
        index
        for index, char in enumerate(text)
        if index not in covered and not char.isspace() and char != "|" and char != "-"
    ]
    assert not lost_indexes


def test_dify_settings_split_as_in_dify():
    rule = ProcessRule(
        mode="custom",
        rules=Rules(segmentation=Segmentation(separator="\\n\\n", max_tokens=20)),
    )
    text = "First part.\n\nSecond part is longer. It goes on.\n\n\n\n。Third"
    parts = [segment.text for segment in split(text, rule)]
    assert parts == [
        "First part.",
        "Second part is",
        "longer.",
        "It goes on.",
        "。Third",
    ]
    full_doc_rule = ProcessRule(mode="hierarchical", rules=Rules(
        parent_mode="full-doc", subchunk_segmentation=Segmentation(separator="\n", max_tokens=50),
    ))  # fmt: skip
    (parent,) = split("one\ntwo\nthree", full_doc_rule, DocForm.HIERARCHICAL)
    assert [child.text for child in parent.children] == ["one", "two", "three"]


def test_headings_tables_and_code_are_preserved():
    rows = "\n".join(f"| {index} | name {index} |" for index in range(60))
    text = f"# Guide\n\nHello.\n\n## Prices\n\n| id | name |\n| --- | --- |\n{rows}\n\n```py\n# no heading\nx = 1\n```\n"
    segments = split(
        text,
        ProcessRule(
            mode="structure", rules=Rules(segmentation=Segmentation(max_tokens=300))
        ),
    )
    tables = [
        segment
        for segment in segments
        if "| name 3" in segment.text or "| 59 |" in segment.text
    ]
    assert len(tables) > 1
    assert all("| id | name |\n| --- | --- |" in table.text for table in tables)
    assert tables[0].heading == "Guide › Prices"
    assert any("# no heading\nx = 1" in segment.text for segment in segments)
    assert all("no heading" not in segment.heading for segment in segments)


def test_chinese_text_is_split_at_sentence_ends():
    text = "退款将在七个工作日内到账。" * 60
    segments = split(
        text,
        ProcessRule(
            mode="structure", rules=Rules(segmentation=Segmentation(max_tokens=100))
        ),
    )
    assert all(segment.text.endswith("。") for segment in segments)
    by_tokens = spans(text, Segmentation(separator="\n", max_tokens=50, unit="tokens"))
    assert len(by_tokens) > 10


def test_one_line_of_many_megabytes_is_split_quickly():
    text = "word " * 1_000_000
    assert len(split(text, ProcessRule(mode="structure"))) > 2000
    assert len(split("x" * 3_000_000, ProcessRule(mode="structure"))) >= 1500


def _merged_by_definition(
    text: str, parts: list[Span], size: int, overlap: int, measure: Measure
) -> list[Span]:
    """Merge parts as `_merge_spans` does, measuring each range anew."""

    def size_of(first: int, last: int) -> int:
        if measure is len:
            return parts[last][1] - parts[first][0]
        return sum(measure(text[start:stop]) for start, stop in parts[first : last + 1])

    merged: list[Span] = []
    first = 0
    for last in range(1, len(parts)):
        if size_of(first, last) <= size:
            continue
        merged.append((parts[first][0], parts[last - 1][1]))
        while first < last and (
            size_of(first, last - 1) > overlap or size_of(first, last) > size
        ):
            first += 1
    return [*merged, (parts[first][0], parts[-1][1])] if parts else merged


@settings(deadline=None)
@given(
    st.text(alphabet="ab 退。", max_size=200),
    st.lists(st.integers(0, 200), max_size=40),
    st.integers(1, 60),
    st.integers(0, 60),
    st.sampled_from([len, estimate_tokens]),
)
def test_parts_are_merged_as_defined(
    text: str, positions: list[int], size: int, overlap: int, measure: Measure
):
    cuts = sorted({min(position, len(text)) for position in positions})
    # Every other range is a gap, as separators are.
    parts = list(pairwise(cuts))[::2]
    expected = _merged_by_definition(text, parts, size, overlap, measure)
    assert _merge_spans(text, parts, size, overlap, measure) == expected


def test_many_parts_with_a_long_overlap_are_merged_in_a_moment():
    text = "word " * 100_000
    parts = [(start, start + 4) for start in range(0, len(text), 5)]
    merged = _merge_spans(text, parts, 40_000, 20_000, estimate_tokens)
    assert merged[0][0] == 0
    assert merged[-1][1] == parts[-1][1]
    assert all(later[0] < earlier[1] for earlier, later in pairwise(merged))


# -------------------------------------------------------------------------------- terms


def test_terms_of_languages_with_and_without_spaces():
    assert (
        terms("Running runs") == terms("run RUN")
        or len(set(terms("Running runs run"))) == 1
    )
    assert set(terms("退款")) < set(terms("我的退款呢"))
    assert terms("the of and") == []
    assert terms("ｆｕｌｌ　ｗｉｄｔｈ") == terms("full width")
    assert keywords("lamp lamp lamp battery the the the")[0] == "lamp"


@given(st.lists(WORDS, min_size=1, max_size=8))
def test_stored_terms_round_trip(texts: list[str]):
    encoded_texts = [encode_term_counts(text) for text in texts]
    all_terms, counts, sizes = decode_term_counts(
        [encoded_terms for encoded_terms, _ in encoded_texts]
    )
    offset = 0
    for text, size in zip(texts, sizes.tolist(), strict=True):
        term_counts = dict(
            zip(
                all_terms[offset : offset + size].tolist(),
                counts[offset : offset + size].tolist(),
                strict=True,
            )
        )
        assert term_counts == {
            term: min(255, terms(text).count(term)) for term in set(terms(text))
        }
        offset += size


def test_results_are_fused_by_weights_and_by_ranks():
    semantic, keyword_scores = {1: 0.9, 2: 0.5, 3: -0.2}, {2: 1.0, 4: 0.5}
    by_weights = fuse_scores(
        semantic, keyword_scores, IndexQuery(semantic_weight=0.5, limit=10)
    )
    assert [(hit.entry, round(hit.score, 2)) for hit in by_weights] == [
        (2, 0.75),
        (1, 0.45),
        (4, 0.25),
        (3, 0.0),
    ]
    by_ranks = fuse_scores(
        semantic,
        keyword_scores,
        IndexQuery(semantic_weight=0.5, limit=10, fusion="ranks"),
    )
    assert by_ranks[0].entry == 2
    assert by_ranks[0].score == 0.75


def test_the_semantic_weight_is_the_share_of_the_vector_score():
    """An entry found by only one of the two searches scores that search's weight."""
    hits = fuse_scores({1: 1.0}, {2: 1.0}, IndexQuery(semantic_weight=0.7, limit=10))
    assert [hit.entry for hit in hits] == [1, 2]
    assert [hit.score for hit in hits] == pytest.approx([0.7, 0.3])


def test_mmr_prefers_dissimilar_entries():
    import numpy as np

    vectors = np.array([[1, 0], [0.999, 0.04], [0, 1]], np.float32)
    assert mmr(vectors, [0.9, 0.89, 0.5], 1.0, 3) == [0, 1, 2]
    assert mmr(vectors, [0.9, 0.89, 0.5], 0.3, 2) == [0, 2]


# ------------------------------------------------------------------------------ filters

METADATA = {
    "name": "guide",
    "year": 2024,
    "when": "2024-05-01",
    "empty": "",
    "stamp": 1714521600,
}


@pytest.mark.parametrize(
    ("operator", "name", "value", "holds"),
    [
        ("contains", "name", "uid", True), ("not contains", "name", "uid", False), ("start with", "name", "gui", True),
        ("end with", "name", "de", True), ("is", "name", "guide", True), ("is not", "name", "guide", False),
        ("in", "name", ["a", "guide"], True), ("in", "name", "a, guide", True), ("not in", "name", ["a"], True),
        ("empty", "empty", None, True), ("empty", "missing", None, True), ("not empty", "name", None, True),
        ("=", "year", "2024", True), ("≠", "year", 2023, True), (">", "year", 2023, True), ("<", "year", 2024, False),
        ("≥", "year", 2024, True), ("≤", "year", "2024.5", True), (">=", "year", 2024, True), ("!=", "year", 2024, False),
        ("before", "when", "2024-06-01", True), ("after", "when", "2024-06-01", False),
        ("after", "stamp", "2024-04-30T00:00:00Z", True), (">", "name", 3, False), ("=", "missing", 0, False),
    ],
)  # fmt: skip
def test_every_operator(operator: str, name: str, value: object, holds: bool):
    conditions = Conditions(
        conditions=[Condition(name=name, comparison_operator=operator, value=value)]
    )
    check(conditions)
    assert matches(METADATA, conditions) is holds


def test_conditions_are_combined_and_unknown_operators_refused():
    both_conditions = [
        Condition(name="name", comparison_operator="is", value="x"),
        Condition(name="year", comparison_operator="=", value=2024),
    ]
    assert not matches(METADATA, Conditions(conditions=both_conditions))
    assert matches(
        METADATA, Conditions(logical_operator="or", conditions=both_conditions)
    )
    with pytest.raises(InvokeBadRequestError, match="'like'; expected one of contains"):
        check(Conditions(conditions=[Condition(name="a", comparison_operator="like")]))


# ----------------------------------------------------------------- parsing model output


def test_any_model_output_is_parsed():
    assert queries.parse_transform(
        "expand", "1. How long?\n2) What time?\n\n- Here:", "When?"
    ) == [
        "When?",
        "How long?",
        "What time?",
    ]
    assert queries.parse_transform("rewrite", "", "When?") == ["When?"]
    assert queries.parse_transform("hyde", "It opens at nine.", "When?") == [
        "When?",
        "It opens at nine.",
    ]
    assert queries.parse_choice("I choose number 2.", 3) == 1
    assert queries.parse_choice("none of them", 3) is None
    assert queries.parse_choice("7", 3) is None
    reply = 'Sure: ```json\n[{"metadata_field_name":"year","comparison_operator":">","metadata_field_value":2020},{"metadata_field_name":"zz","comparison_operator":"is"}]```'
    parsed_conditions = queries.parse_conditions(reply, ["year"])
    assert parsed_conditions is not None
    assert [
        (condition.name, condition.value) for condition in parsed_conditions.conditions
    ] == [("year", 2020)]
    assert queries.parse_conditions("no json", ["year"]) is None
    assert parse_qa_pairs("Q1: What? A1: This.\nQ2: Why?\nA2: Because\nof that.") == [
        ("What?", "This."),
        ("Why?", "Because\nof that."),
    ]


def test_question_answer_pairs_are_read_from_tables():
    table = "| question | answer |\n| --- | --- |\n| What? | a \\| b |\n| | none |"
    assert qa_pairs_from_tables([DocumentPart(text=table)]) == [("What?", "a | b")]
    assert qa_pairs_from_tables(
        [DocumentPart(text="| q1 | a1 |\n| --- | --- |\n| q2 | a2 |")]
    ) == [
        ("q1", "a1"),
        ("q2", "a2"),
    ]
    assert (
        qa_pairs_from_tables(
            [DocumentPart(text="| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |")]
        )
        == []
    )


def test_paths_into_json():
    value = {"items": [{"id": 1, "b": {"c": "x"}}, {"id": 2}], "a.b": 1}
    assert values_at(value, "$.items[*].id") == [1, 2]
    assert values_at(value, "items[0].b.c") == ["x"]
    assert values_at(value, "$['a.b']") == [1]
    assert values_at(value, "$.nothing[3]") == []
    with pytest.raises(InvokeBadRequestError, match="Invalid path"):
        values_at(value, "$.items[?(@.x)]")


# ------------------------------------------------------------------------ fact checking

SOURCE = "Goods can be sent back within 30 days. Refunds take seven days. Gifts are not wrapped. The shop is in Utrecht."


@pytest.mark.parametrize(
    ("claim", "supported"),
    [
        ("Goods can be sent back within 30 days.", True), ("Goods can be sent back within 60 days.", False),
        ("Refunds take 7 days.", True), ("Refunds take nine days.", False), ("Gifts are wrapped.", False),
        ("Gifts are not wrapped.", True), ("The shop is in Utrecht [1].", True), ("The shop is in Rotterdam.", False),
    ],
)  # fmt: skip
def test_claims_against_their_source(claim: str, supported: bool):
    (checked_claim,) = fact_check.check(claim, [SOURCE])
    assert checked_claim.is_supported is supported, checked_claim


def test_entailment_may_reject_a_claim_that_the_words_support():
    import asyncio

    class Judge:
        async def entails(self, source: str, claim: str) -> bool | None:
            return False if "30 days" in claim else None

    claims = fact_check.check(
        "Goods can be sent back within 30 days. The shop is in Utrecht.", [SOURCE]
    )
    judged = asyncio.run(fact_check.combine_with_entailment(claims, [SOURCE], Judge()))
    assert [claim.is_supported for claim in judged] == [False, True]
    assert "does not confirm it from the source" in judged[0].reason
