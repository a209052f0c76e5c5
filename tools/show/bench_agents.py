"""Cost of the agent loop, compared with pydantic-ai in the same run."""

from bench import agents

from tools.show.proof import Proof


def prove() -> Proof:
    """Run the benchmark of agents and compare its figures with the targets."""
    proof = Proof()
    figures = agents.measure()
    peer = figures["pydantic_ai_step_ms"]
    peer_text = (
        f"; pydantic-ai {peer:.2f} ms"
        if isinstance(peer, float)
        else f"; pydantic-ai {peer}"
    )
    proof.line(
        "a step of the loop, CPU, target 1 ms",
        f"{figures['step_ms']:.3f} ms{peer_text}",
        figures["step_ms"] <= 1,
    )
    proof.line(
        "ten parallel tools of 500 ms, target 0.55 s",
        f"{figures['parallel_s']:.3f} s",
        figures["parallel_s"] <= 0.55,
    )
    proof.line(
        "first word of the answer, delay after the model's",
        f"{figures['first_word_ms']:.3f} ms",
        figures["first_word_ms"] <= 1,
    )
    # If 200 agents take hardly longer than one, they do not block each other.
    ratio = figures["agents_200_s"] / figures["agent_alone_s"]
    proof.line(
        "200 concurrent agents, a single agent",
        f"{figures['agents_200_s']:.2f} s, {figures['agent_alone_s']:.2f} s: {ratio:.2f} times",
        ratio <= 1.5,
    )
    proof.line(
        "memory of an agent that waits for its model", f"{figures['waiting_kb']:.1f} kB"
    )
    proof.line(
        "stopping, model or ten tools, slowest of twenty, target 100 ms",
        f"{figures['stop_ms']:.1f} ms",
        figures["stop_ms"] <= 100,
    )
    proof.figures |= figures
    return proof
