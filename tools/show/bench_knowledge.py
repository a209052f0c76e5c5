"""Indexing and search of documents, compared with LlamaIndex, Haystack and NumPy in the
same run."""

from typing import Any

from bench import knowledge

from tools.show.proof import Proof
from tools.show.retrieval import data_folder


def prove() -> Proof:
    """Run the knowledge benchmark and report each size."""
    proof = Proof()
    figures = knowledge.measure(data_folder())
    for size, by in figures.items():
        own_figures, peers = (
            by["modelyard"],
            {name: by[name] for name in ("llama-index", "haystack")},
        )
        # A string instead of figures is the reason why a peer could not be measured.
        measured_peers = {
            name: peer_result
            for name, peer_result in peers.items()
            if isinstance(peer_result, dict)
        }
        for name, peer_result in peers.items():
            if isinstance(peer_result, str):
                proof.line(f"{name}, {int(size):,}", peer_result)
        _size(proof, int(size), own_figures, measured_peers)
    proof.figures |= figures
    return proof


def _size(
    proof: Proof,
    size: int,
    own_figures: dict[str, Any],
    peers: dict[str, dict[str, Any]],
) -> None:
    """Report the figures of one number of segments and compare them with the targets."""
    label = f"{size:,} segments"
    _report_indexing(proof, label, size, own_figures, peers)
    # The targets of the index apply to the large dataset, that of a complete search to
    # the small one.
    is_small = size <= 5_000
    _report_index(proof, label, own_figures, peers, has_targets=not is_small)
    _report_dataset(proof, label, own_figures, has_targets=is_small)
    memory = _peer_text(peers, "rss_mb", "MB")
    proof.line(
        f"{label}: memory, disk",
        f"{own_figures['rss_mb']} MB, {own_figures['disk_mb']} MB{memory}",
    )


def _peer_text(peers: dict[str, dict[str, Any]], name: str, unit: str = "ms") -> str:
    """Return the peers' values of a figure as text."""
    return "".join(
        f"; {peer} {figures[name]:,.1f} {unit}"
        for peer, figures in peers.items()
        if name in figures
    )


def _report_indexing(
    proof: Proof,
    label: str,
    size: int,
    own_figures: dict[str, Any],
    peers: dict[str, dict[str, Any]],
) -> None:
    """Report how fast documents are indexed, and the index is loaded."""
    cpu_seconds = own_figures["index_cpu_s"]
    peer_rates = "".join(
        f"; {peer} {size / figures['index_cpu_s']:,.0f},"
        f" {size / figures['index_s']:,.0f}"
        for peer, figures in peers.items()
    )
    proof.line(
        f"{label}: indexed, without the embedding",
        f"{size / cpu_seconds:,.0f} documents a CPU second,"
        f" {size / own_figures['index_s']:,.0f} a second{peer_rates}",
    )
    # Without any measured peer, the comparison is skipped.
    fastest = min((figures["index_cpu_s"] for figures in peers.values()), default=0.0)
    proof.line(
        f"{label}: twice as fast as the faster peer",
        f"{fastest / cpu_seconds:.1f} times, by CPU seconds",
        not fastest or fastest / cpu_seconds >= 2,
    )
    proof.line(
        f"{label}: loaded into memory",
        f"{own_figures['load_s']:.2f} s; graph {own_figures['graph_s']:.1f} s in the"
        f" background ({own_figures['graph_cpu_s']:.1f} CPU)",
    )


def _report_index(
    proof: Proof,
    label: str,
    own_figures: dict[str, Any],
    peers: dict[str, dict[str, Any]],
    *,
    has_targets: bool,
) -> None:
    """Report the recall of the index, and the times of its searches."""
    recall = own_figures["recall_10"]
    proof.line(f"{label}: recall@10 of exact search", f"{recall}", recall >= 0.98)
    exact = f"; NumPy exact {own_figures['numpy_exact_ms']:.2f} ms"
    semantic, semantic_95 = own_figures["semantic_ms"], own_figures["semantic_95_ms"]
    proof.line(
        f"{label}: semantic, p50 and p95",
        f"{semantic:.2f}, {semantic_95:.2f} ms{exact}{_peer_text(peers, 'dense_ms')}",
        not has_targets or semantic <= 1.0,
    )
    proof.line(
        f"{label}: words",
        f"{own_figures['words_ms']:.2f} ms{_peer_text(peers, 'words_ms')}",
    )
    hybrid, hybrid_95 = own_figures["hybrid_ms"], own_figures["hybrid_95_ms"]
    proof.line(
        f"{label}: hybrid, p50 and p95",
        f"{hybrid:.2f}, {hybrid_95:.2f} ms",
        not has_targets or hybrid <= 3.0,
    )
    proof.line(
        f"{label}: semantic with a filter of 1 %",
        f"{own_figures['filtered_ms']:.2f} ms",
    )


def _report_dataset(
    proof: Proof, label: str, own_figures: dict[str, Any], *, has_targets: bool
) -> None:
    """Report the times of complete searches of the dataset."""
    hybrid, hybrid_95 = (
        own_figures["whole_hybrid_ms"],
        own_figures["whole_hybrid_95_ms"],
    )
    proof.line(
        f"{label}: hybrid, complete search",
        f"{hybrid:.2f}, {hybrid_95:.2f} ms; semantic"
        f" {own_figures['whole_semantic_ms']:.2f},"
        f" with a metadata filter {own_figures['whole_filtered_ms']:.2f} ms",
        not has_targets or hybrid <= 5.0,
    )
    proof.line(
        f"{label}: to the first citation",
        f"{own_figures['first_citation_ms']:.2f} ms after the question's vector",
    )
