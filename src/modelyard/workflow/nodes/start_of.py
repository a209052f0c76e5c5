"""iteration-start, loop-start, loop-end: where the inside of a container begins, and what ends its loop."""

from modelyard.workflow.node import NodeContext, NodeKind, NodeResult, QuickNode


class _Start(QuickNode):
    kind = NodeKind.ROOT

    def compute(self, context: NodeContext) -> NodeResult:
        return NodeResult()


class IterationStartNode(_Start):
    type = "iteration-start"


class LoopStartNode(_Start):
    type = "loop-start"


class LoopEndNode(QuickNode):
    """A round in which it ran is the last."""

    type = "loop-end"

    def compute(self, context: NodeContext) -> NodeResult:
        return NodeResult()


NODES = {one.type: one for one in (IterationStartNode, LoopStartNode, LoopEndNode)}
