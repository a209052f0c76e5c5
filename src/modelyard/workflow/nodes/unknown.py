"""Stand-in for nodes of a type that is not known here, in files of newer versions.

A file of a newer version of Dify may have nodes that do not exist here. Most runs may
not need them: a branch that is never taken, or a fail branch. So the app is imported,
the nodes are named in the import's warnings, and a run fails only if it reaches one.

In a file of a version that is known here, such a node is a mistake and refused.
"""

from modelyard.workflow.node import Node, NodeContext, NodeError, NodeResult


class UnknownNode(Node):
    """Fails when a run reaches it; the rest of the app works."""

    type = "unknown"

    async def run(self, context: NodeContext) -> NodeResult:
        """Raise NodeError with the type."""
        raise NodeError(
            f"Nodes of the type {self.data.type!r} are not supported; the app's file is"
            " of a newer version",
            error_type="NodeTypeUnknown",
        )


NODES: dict[str, type[Node]] = {}
