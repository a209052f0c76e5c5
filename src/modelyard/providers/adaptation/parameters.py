"""Model parameters: which of them a target accepts, and within which limits."""

from modelyard.providers.adaptation.draft import Draft


def report_unsupported_parameters(draft: Draft) -> None:
    """Report the parameters that the format or the server does not have.

    The format's writer leaves them out.
    """
    target, request = draft.target, draft.request
    refused = set(target.capabilities.drop)
    names = [*request.model_parameters, *(["stop"] if request.stop else [])]
    for name in names:
        if name not in target.parameters or name in refused:
            draft.drop(name)
