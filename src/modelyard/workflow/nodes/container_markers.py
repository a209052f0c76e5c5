"""Iteration start, loop start and loop end nodes: the roots of containers and the node
that ends a loop."""

from modelyard.workflow.node import NodeContext, NodeKind, NodeResult, SyncNode


class _Start(SyncNode):
    """Base of the roots of containers. It has no result of its own."""

    kind = NodeKind.ROOT

    def compute(self, context: NodeContext) -> NodeResult:
        """Return an empty result."""
        return NodeResult()


class IterationStartNode(_Start):
    """Root of an iteration's inner graph."""

    type = "iteration-start"


class LoopStartNode(_Start):
    """Root of a loop's inner graph."""

    type = "loop-start"


class LoopEndNode(SyncNode):
    """Ends the loop: the round in which it runs is the last."""

    type = "loop-end"

    def compute(self, context: NodeContext) -> NodeResult:
        """Return an empty result; the loop checks whether the node ran."""
        return NodeResult()


NODES = {
    node_class.type: node_class
    for node_class in (IterationStartNode, LoopStartNode, LoopEndNode)
}
