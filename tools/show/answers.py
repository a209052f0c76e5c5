"""Questions about a folder of documents in several formats, with the local models.

The cited sources must contain the answer, unanswerable questions must be refused, and
the fact check must find planted falsehoods.
"""

import asyncio
import re
import tempfile
import time
from pathlib import Path

import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from modelyard.knowledge import fact_check
from modelyard.knowledge.entities import DatasetSettings, RetrievalSettings
from modelyard.knowledge.retrieve import SearchRequest
from tools.show.proof import ROOT, Proof, weights_folder

FOLDER = ROOT / "examples" / "knowledge"
QUESTIONS = (
    ("How many days do I have to send goods back?", r"within 30 days"),
    (
        "Who pays for the label when the goods were faulty?",
        r"we pay for it when the goods\s+were faulty",
    ),
    (
        "What does the customer pay for a return label when nothing was faulty?",
        r"4\.90 euros",
    ),
    ("How fast are refunds paid?", r"within 7 working days"),
    ("In which city is the warehouse?", r"Utrecht"),
    ("How are gift cards refunded?", r"refunded as gift cards"),
    ("When does the new order of an exchange leave?", r"scanned the parcel"),
    ("How long is the warranty of a lamp?", r"warranty of five years"),
    ("How long is the warranty of the battery?", r"one of two years"),
    ("Where is the serial number of a lamp?", r"below the foot"),
    ("How long do repairs take?", r"about ten days"),
    (
        "Until when must I order so that my parcel leaves on the same day?",
        r"before noon",
    ),
    ("Do you ship to Norway?", r"to Norway"),
    ("From which order value on is shipping free?", r"more than 150 euros"),
    ("What does gift wrapping cost?", r"for 2 euros"),
    ("How many characters may a gift card's handwritten card have?", r"200 characters"),
    ("What is the price of the model Lynx in euros?", r"Lynx.*179"),
    ("How many battery hours does the Polecat have?", r"Polecat.*40"),
    ("What does the eighth amendment say about bail?", r"Excessive bail"),
    (
        "From which value in dollars on is there a right of trial by jury?",
        r"twenty dollars",
    ),
)
UNANSWERABLE = (
    "What is the name of the shop's founder?",
    "How many employees work in the warehouse?",
    "Which paint is used for the Heron?",
    "What is the boiling point of ethanol?",
    "Who won the football world cup in 1998?",
)
TRUE = (
    "Goods can be sent back within 30 days of delivery.",
    "Refunds go to the account that the order was paid from.",
    "The warranty begins on the day of delivery.",
    "We do not ship to post office boxes.",
    "Orders of more than 150 euros are shipped for free.",
    "Every lamp has a warranty of five years.",
    "Repairs take about ten days.",
    "Gifts are wrapped in blue paper for 2 euros.",
    "Parcels leave on the same day when they are ordered before noon.",
    "Excessive bail shall not be required.",
)
FALSE = (
    "Goods can be sent back within 60 days of delivery.",
    "Refunds are paid in cash at the counter.",
    "The warranty begins on the day of the order's anniversary in spring.",
    "We ship to post office boxes.",
    "Orders of more than 50 euros are shipped for free.",
    "Every lamp has a warranty of nine years.",
    "Repairs take about three weeks.",
    "Gifts are wrapped in red velvet for 2 euros.",
    "Parcels never leave on the same day when they are ordered before noon.",
    "Excessive bail shall always be required.",
)


def folder_of(folder: Path) -> None:
    """Write the example's documents into a folder, two of them converted to Word and
    PDF."""
    # Imported here, because only this proof needs the writers of Word and PDF.
    import docx
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate

    for name in ("shipping.html", "lamps.csv", "bill-of-rights.txt"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    document = docx.Document()
    for block in (FOLDER / "returns.md").read_text("utf-8").split("\n\n"):
        if block.startswith("#"):
            document.add_heading(block.lstrip("# "), block.count("#"))
        else:
            document.add_paragraph(" ".join(block.split()))
    document.save(str(folder / "returns.docx"))
    style = getSampleStyleSheet()["Normal"]
    blocks = (FOLDER / "warranty.txt").read_text("utf-8").split("\n\n")
    SimpleDocTemplate(str(folder / "warranty.pdf")).build(
        [Paragraph(" ".join(paragraph.split()), style) for paragraph in blocks]
    )


async def _ask_questions(proof: Proof, home: Path) -> None:
    """Index the documents, ask all questions and report the results."""
    settings = load_settings({})
    settings = msgspec.structs.replace(
        settings,
        home=str(home / "home"),
        local=msgspec.structs.replace(settings.local, weights=str(weights_folder())),
    )
    folder = home / "documents"
    folder.mkdir()
    folder_of(folder)
    async with Modelyard(settings) as yard:
        knowledge = yard.knowledge
        dataset_settings = DatasetSettings(
            embedding_model="bge-small-en-v1.5", embedding_model_provider="local"
        )
        dataset = await knowledge.datasets.create(
            "default", "shop", settings=dataset_settings
        )
        await knowledge.datasets.sync_folder(dataset, folder, batch="all")
        ended = await knowledge.datasets.wait(dataset, "all", 120)
        failed = [
            f"{document.name}: {document.error}" for document in ended if document.error
        ]
        proof.line(
            "documents",
            failed
            or f"{len(ended)}: {', '.join(sorted(document.name for document in ended))}",
            not failed,
        )
        well_cited = supported = placed = 0
        first: list[float] = []
        for question, pattern in QUESTIONS:
            started_at = time.perf_counter()
            answer = await knowledge.answerer.answer(
                [dataset.id], SearchRequest(tenant="default", query=question)
            )
            # A citation counts if its text matches the expected pattern; white space is
            # normalised.
            holds = [
                citation
                for citation in answer.citations
                if re.search(pattern, " ".join(citation.text.split()))
            ]
            well_cited += bool(holds) and answer.is_found
            supported += bool(re.search(pattern, answer.text)) or any(
                claim.is_supported for claim in answer.claims
            )
            # The character range of the citation must really contain the quoted text.
            placed += await _citation_is_exact(yard, dataset.tenant, dataset.id, holds)
            first.append(answer.milliseconds.get("first_citation", 0.0))
            cited = ", ".join(
                f"{citation.document_name}{f' p. {citation.page}' if citation.page else ''}"
                for citation in answer.citations
            )
            proof.line(
                question,
                f"{' '.join(answer.text.split())[:70]} ({cited}; {time.perf_counter() - started_at:.1f} s)",
                bool(holds) and answer.is_found,
            )
        proof.line(
            "cited sources that hold the answer",
            f"{well_cited} of {len(QUESTIONS)}",
            well_cited == len(QUESTIONS),
        )
        proof.line(
            "of those, at the very characters that the citation names",
            placed,
            placed == well_cited,
        )
        proof.line(
            "answers that their sources support", f"{supported} of {len(QUESTIONS)}"
        )
        # Questions without an answer in the documents have to be refused.
        refused = 0
        for question in UNANSWERABLE:
            answer = await knowledge.answerer.answer(
                [dataset.id], SearchRequest(tenant="default", query=question)
            )
            refused += not answer.is_found
            proof.line(question, answer.text[:90], not answer.is_found)
        await _check_facts(proof, yard, dataset.id)
        first.sort()
        proof.figures.update(
            cited=well_cited,
            supported=supported,
            refused=refused,
            first_citation_ms=first[len(first) // 2],
        )


async def _citation_is_exact(
    yard: Modelyard, tenant: str, dataset: str, citations: list[object]
) -> bool:
    """Return whether some citation's character range in its document holds the text
    that it quotes."""
    for citation in citations:
        document = await yard.knowledge.stored.documents.get(
            tenant, dataset, citation.document
        )  # type: ignore[attr-defined]
        text = await yard.knowledge.datasets.text(document)
        cited_text = text[citation.start : citation.stop]  # type: ignore[attr-defined]
        # Only the end is compared, because a citation may start with the heading of its
        # section.
        if (
            citation.text.strip().endswith(cited_text.strip()[-40:])
            and cited_text.strip()
        ):  # type: ignore[attr-defined]
            return True
    return False


async def _check_facts(proof: Proof, yard: Modelyard, dataset: str) -> None:
    """Fact-check true and false sentences, each against the segments found for it, and
    report the results."""
    falsehoods_found, truths_accepted = 0, 0
    plain = RetrievalSettings(top_k=5)
    for sentence, is_true in [(statement, True) for statement in TRUE] + [
        (statement, False) for statement in FALSE
    ]:
        hits = await yard.knowledge.datasets.search(
            "default", [dataset], sentence, settings=plain
        )
        (claim,) = fact_check.check(sentence, [hit.text for hit in hits.hits])
        falsehoods_found += not is_true and not claim.is_supported
        truths_accepted += is_true and claim.is_supported
        # An unrecognised falsehood fails the proof; a rejected truth is only listed.
        if claim.is_supported is not is_true:
            proof.line(
                f"{'true' if is_true else 'false'}: {sentence}",
                f"{claim.score} {claim.reason} {claim.quote[:60]}",
                ok=not is_true and None,
            )
    proof.line(
        "planted falsehoods found",
        f"{falsehoods_found} of {len(FALSE)}",
        falsehoods_found == len(FALSE),
    )
    # One true sentence may be rejected: a cautious check is better than a credulous
    # one.
    proof.line(
        "true sentences let stand",
        f"{truths_accepted} of {len(TRUE)}",
        truths_accepted >= len(TRUE) - 1,
    )
    proof.figures.update(falsehoods=falsehoods_found, truths=truths_accepted)


def prove() -> Proof:
    """Run the questions and the fact check in a temporary home."""
    proof = Proof()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_ask_questions(proof, Path(folder)))
    return proof
