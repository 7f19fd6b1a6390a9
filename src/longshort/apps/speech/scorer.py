"""What a language model, a list of hotwords or any other judge of tokens is to a search. NumPy and typing only."""

from __future__ import annotations

from typing import Any, Protocol


class Scorer(Protocol):
    """Judges a hypothesis token by token, beside the acoustic model; a search adds the increments to its log-probability.

    A state says all that the scorer remembers of a hypothesis. It is hashable and never changed in place: hypotheses share it.
    Increments are natural logarithms, already weighted; -inf forbids the token.
    """

    def start(self) -> Any:
        """The state before the first token; hashable."""
        ...

    def score(self, state: Any, token: int) -> tuple[float, Any]:
        """The increment for `token` (never the blank) after `state`, and the state after it."""
        ...

    def finish(self, state: Any) -> float:
        """The increment for ending here: an end of sentence, a word cut short, a partial match to be refunded."""
        ...
