"""Questions about a folder of documents in several formats, with the local models.

The cited sources must contain the answer, unanswerable questions must be refused, and
the fact check must find planted falsehoods.
"""

import asyncio
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from modelyard.app import Modelyard
from modelyard.base.settings import load_settings
from modelyard.knowledge import fact_check
from modelyard.knowledge.answer import Citation
from modelyard.knowledge.entities import Dataset, DatasetSettings, RetrievalSettings
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
        dataset = await _indexed_dataset(proof, yard, folder)
        await _check_answers(proof, yard, dataset)
        await _check_refusals(proof, yard, dataset)
        await _check_facts(proof, yard, dataset.id)


async def _indexed_dataset(proof: Proof, yard: Modelyard, folder: Path) -> Dataset:
    """Create a dataset from the folder's documents and report those that failed."""
    datasets = yard.knowledge.datasets
    dataset_settings = DatasetSettings(
        embedding_model="bge-small-en-v1.5", embedding_model_provider="local"
    )
    dataset = await datasets.create("default", "shop", settings=dataset_settings)
    await datasets.sync_folder(dataset, folder, batch="all")
    documents = await datasets.wait(dataset, "all", 120)
    failed = [
        f"{document.name}: {document.error}" for document in documents if document.error
    ]
    names = ", ".join(sorted(document.name for document in documents))
    proof.line("documents", failed or f"{len(documents)}: {names}", not failed)
    return dataset


@dataclass
class _AnswerCounts:
    """How many answers have the properties that are checked."""

    cited: int = 0
    """Answers with a citation that contains the expected text."""
    supported: int = 0
    exact: int = 0
    """Cited answers whose citations name the right characters."""
    first_citation_ms: list[float] = field(default_factory=list[float])


async def _check_answers(proof: Proof, yard: Modelyard, dataset: Dataset) -> None:
    """Ask the questions that the documents answer, and report the citations."""
    counts = _AnswerCounts()
    for question, pattern in QUESTIONS:
        await _check_answer(proof, yard, dataset, counts, question, pattern)
    proof.line(
        "answers that cite the expected text",
        f"{counts.cited} of {len(QUESTIONS)}",
        counts.cited == len(QUESTIONS),
    )
    proof.line(
        "of those, cited with the exact character range",
        counts.exact,
        counts.exact == counts.cited,
    )
    proof.line(
        "answers that their sources support", f"{counts.supported} of {len(QUESTIONS)}"
    )
    times = sorted(counts.first_citation_ms)
    proof.figures.update(
        cited=counts.cited,
        supported=counts.supported,
        first_citation_ms=times[len(times) // 2],
    )


async def _check_answer(
    proof: Proof,
    yard: Modelyard,
    dataset: Dataset,
    counts: _AnswerCounts,
    question: str,
    pattern: str,
) -> None:
    """Ask one question and add its answer to the counts. `pattern` matches the text
    that a source has to contain."""
    started_at = time.perf_counter()
    answer = await yard.knowledge.answerer.answer(
        [dataset.id], SearchRequest(tenant="default", query=question)
    )
    # A citation counts if its text matches the expected pattern; white space is
    # normalised.
    matching = [
        citation
        for citation in answer.citations
        if re.search(pattern, " ".join(citation.text.split()))
    ]
    is_cited = bool(matching) and answer.is_found
    counts.cited += is_cited
    counts.supported += bool(re.search(pattern, answer.text)) or any(
        claim.is_supported for claim in answer.claims
    )
    # The character range of the citation must really contain the quoted text.
    counts.exact += await _citation_is_exact(yard, dataset.tenant, dataset.id, matching)
    counts.first_citation_ms.append(answer.milliseconds.get("first_citation", 0.0))
    sources = ", ".join(_source_label(citation) for citation in answer.citations)
    text = " ".join(answer.text.split())[:70]
    seconds = time.perf_counter() - started_at
    proof.line(question, f"{text} ({sources}; {seconds:.1f} s)", is_cited)


def _source_label(citation: Citation) -> str:
    """Return the document's name, with the page if the document has pages."""
    page = f" p. {citation.page}" if citation.page else ""
    return f"{citation.document_name}{page}"


async def _check_refusals(proof: Proof, yard: Modelyard, dataset: Dataset) -> None:
    """Ask questions without an answer in the documents: they have to be refused."""
    refused = 0
    for question in UNANSWERABLE:
        request = SearchRequest(tenant="default", query=question)
        answer = await yard.knowledge.answerer.answer([dataset.id], request)
        refused += not answer.is_found
        proof.line(question, answer.text[:90], not answer.is_found)
    proof.figures["refused"] = refused


async def _citation_is_exact(
    yard: Modelyard, tenant: str, dataset: str, citations: list[Citation]
) -> bool:
    """Return whether some citation's character range in its document holds the text
    that it quotes."""
    for citation in citations:
        document = await yard.knowledge.stored.documents.get(
            tenant, dataset, citation.document
        )
        text = await yard.knowledge.datasets.text(document)
        cited_text = text[citation.start : citation.stop]
        # Only the end is compared, because a citation may start with the heading of its
        # section.
        if (
            citation.text.strip().endswith(cited_text.strip()[-40:])
            and cited_text.strip()
        ):
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
        "false sentences recognised",
        f"{falsehoods_found} of {len(FALSE)}",
        falsehoods_found == len(FALSE),
    )
    # One true sentence may be rejected: a cautious check is better than a credulous
    # one.
    proof.line(
        "true sentences accepted",
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
