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

    def peer_text(name: str, unit: str = "ms") -> str:
        """Return the peers' values of a figure as text."""
        return "".join(
            f"; {peer} {peer_figures[name]:,.1f} {unit}"
            for peer, peer_figures in peers.items()
            if name in peer_figures
        )

    of = f"{size:,} segments"
    rate = size / own_figures["index_cpu_s"]
    # Without any measured peer, the comparison is skipped.
    fastest = min(
        (peer_figures["index_cpu_s"] for peer_figures in peers.values()), default=0.0
    )
    proof.line(
        f"{of}: indexed, without the embedding",
        f"{rate:,.0f} documents a CPU second, {size / own_figures['index_s']:,.0f} a second"
        + "".join(
            f"; {peer} {size / peer_figures['index_cpu_s']:,.0f}, {size / peer_figures['index_s']:,.0f}"
            for peer, peer_figures in peers.items()
        ),
    )
    proof.line(
        f"{of}: twice the faster of the two",
        f"{fastest / own_figures['index_cpu_s']:.1f} times, by CPU seconds",
        not fastest or fastest / own_figures["index_cpu_s"] >= 2,
    )
    proof.line(
        f"{of}: read into memory",
        f"{own_figures['load_s']:.2f} s; graph {own_figures['graph_s']:.1f} s beside ({own_figures['graph_cpu_s']:.1f} CPU)",
    )
    proof.line(
        f"{of}: recall@10 beside exact",
        f"{own_figures['recall_10']}",
        own_figures["recall_10"] >= 0.98,
    )
    exact = f"; NumPy exact {own_figures['numpy_exact_ms']:.2f} ms"
    # The targets of the index apply to the large dataset, that of a complete search to
    # the small one.
    is_small = size <= 5_000
    proof.line(
        f"{of}: semantic, p50 and p95",
        f"{own_figures['semantic_ms']:.2f}, {own_figures['semantic_95_ms']:.2f} ms{exact}{peer_text('dense_ms')}",
        is_small or own_figures["semantic_ms"] <= 1.0,
    )
    proof.line(
        f"{of}: words", f"{own_figures['words_ms']:.2f} ms{peer_text('words_ms')}"
    )
    proof.line(
        f"{of}: hybrid, p50 and p95",
        f"{own_figures['hybrid_ms']:.2f}, {own_figures['hybrid_95_ms']:.2f} ms",
        is_small or own_figures["hybrid_ms"] <= 3.0,
    )
    proof.line(
        f"{of}: semantic with a filter of 1 %", f"{own_figures['filtered_ms']:.2f} ms"
    )
    proof.line(
        f"{of}: hybrid, the whole way",
        f"{own_figures['whole_hybrid_ms']:.2f}, {own_figures['whole_hybrid_95_ms']:.2f} ms; semantic "
        f"{own_figures['whole_semantic_ms']:.2f}, with a metadata filter {own_figures['whole_filtered_ms']:.2f} ms",
        not is_small or own_figures["whole_hybrid_ms"] <= 5.0,
    )
    proof.line(
        f"{of}: to the first citation",
        f"{own_figures['first_citation_ms']:.2f} ms beside the question's vector",
    )
    proof.line(
        f"{of}: memory, disk",
        f"{own_figures['rss_mb']} MB, {own_figures['disk_mb']} MB{peer_text('rss_mb', 'MB')}",
    )
