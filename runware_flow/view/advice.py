"""Advice for a failure, in one sentence."""

from __future__ import annotations

from runware_flow.errors import (
    ClientStateError,
    DeclarationError,
    JournalError,
    RunwareError,
    RunwareFlowError,
    RunwareTimeoutError,
)

__all__ = ("advice_for",)

_BY_CODE = {
    "validation": "Change the parameter that the message names; the same request fails again.",
    "auth": "Check the key in RUNWARE_API_KEY, and that its account may use this model.",
    "quota": "Add credit to the account, then run again with the same journal: what is finished is not bought again.",
    "rateLimit": "Lower concurrency=, or set limits= for this model; then run again with the same journal.",
    "safety": "The content was refused. Change the prompt or the picture; the same request fails again.",
    "provider": "Run again with the same journal, or give the node retry= or a fallback model.",
    "timeout": "It may have been finished and billed: `runware-flow collect JOURNAL` asks for it without buying again.",
    "notFound": "Check the model or the id; results are kept by the service for a limited time.",
    "serverError": "Run again with the same journal in a while, or give the node retry=.",
    "connection": "Check the network, then run again with the same journal: what was sent is not bought again.",
    "aborted": "Run again with the same journal: what was sent is asked for, not bought again.",
    "unknown": "Read the message; retry= sends again only what the service itself calls retryable.",
}


def advice_for(error: Exception) -> str:
    """Say what can be done about an error."""
    if isinstance(error, RunwareTimeoutError):
        return _BY_CODE["timeout"]
    if isinstance(error, RunwareError):
        return _BY_CODE[error.code]
    if isinstance(error, (DeclarationError, ClientStateError)):
        return "Change the program at the line that the message names."
    if isinstance(error, JournalError):
        return "Look after the file that the message names; nothing is sent that is not in the journal."
    if isinstance(error, RunwareFlowError):
        return "Read the message; it names the node."
    return "An exception of your own code: in the builder or the function that the node was declared with."
