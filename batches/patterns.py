"""The two patterns that queue: what EmbedView calls for a request once its pattern is chosen."""

from dataclasses import replace

from batches.submission import submit
from integrations import live
from integrations.errors import QueueFull, QueueUnavailable
from integrations.patterns import Accepted, EmbedCall, Embeddings, Mode


def bulk(call: EmbedCall) -> Accepted:
    """Queue the call. Raises as `submit` does."""
    return submit(call)


def hybrid(call: EmbedCall) -> Embeddings | Accepted:
    """Answer live where the call asks for it and a server can; queue it otherwise.

    Raises as the live path does for what is the request's own fault, and where the queue cannot take it either.
    """
    if call.mode is not Mode.LIVE:
        return submit(call)
    try:
        return live.real_time(call)
    except live.SERVERS_FAULT as error:
        try:
            return submit(replace(call, mode=Mode.QUEUED))
        except (QueueFull, QueueUnavailable):
            # The client asked for a live answer: what kept it from that says more.
            raise error from None
