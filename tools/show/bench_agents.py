"""What the loop of an agent costs, beside pydantic-ai in the same run."""

from bench import agents

from tools.show.proof import Proof


def prove() -> Proof:
    proof = Proof()
    seen = agents.measure()
    peer = seen["pydantic_ai_step_ms"]
    beside = f"; pydantic-ai {peer:.2f} ms" if isinstance(peer, float) else f"; pydantic-ai {peer}"
    proof.line("a step of the loop, CPU, aim 1 ms", f"{seen['step_ms']:.3f} ms{beside}", seen["step_ms"] <= 1)
    proof.line(
        "ten tools of 500 ms side by side, aim 0.55 s", f"{seen['parallel_s']:.3f} s", seen["parallel_s"] <= 0.55
    )
    proof.line(
        "first word of the answer, later than the model's",
        f"{seen['first_word_ms']:.3f} ms",
        seen["first_word_ms"] <= 1,
    )
    ratio = seen["agents_200_s"] / seen["agent_alone_s"]
    proof.line(
        "200 agents at once, beside one alone",
        f"{seen['agents_200_s']:.2f} s, {seen['agent_alone_s']:.2f} s: {ratio:.2f} times",
        ratio <= 1.5,
    )
    proof.line("an agent that waits for its model", f"{seen['waiting_kb']:.1f} kB")
    proof.line(
        "stopping, model or ten tools, worst of twenty, aim 100 ms", f"{seen['stop_ms']:.1f} ms", seen["stop_ms"] <= 100
    )
    proof.figures |= seen
    return proof
