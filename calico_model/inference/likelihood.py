"""How likely a model finds a given answer; knows numbers, no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of one question and answer, token by token, natural logarithm.

    Attributes:
        question: of the words of the prompt, images left out.
        answer: of the tokens of the answer, its end included.
    """

    question: tuple[float, ...]
    answer: tuple[float, ...]

    def sum(self) -> float:
        """Log-likelihood of the answer: favours short answers."""
        return math.fsum(self.answer)

    def mean(self) -> float:
        """Log-likelihood per token of the answer."""
        return math.fsum(self.answer) / max(1, len(self.answer))

    def compat(self) -> float:
        """Log-likelihood per token of question and answer, as released Partonomy code reads it."""
        tokens = self.question + self.answer
        return math.fsum(tokens) / max(1, len(tokens))
