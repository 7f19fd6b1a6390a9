"""Looking into a language model: which earlier words made a word likely."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.speech.language import LanguageModel
from longshort.apps.speech.units import normal
from longshort.inspection import Bars, Question, Subject

START, END = "⊢", "⊣"


def subject(model: LanguageModel, text: str) -> Subject:
    """What the words of a sentence were expected by.

    The answers are the log-probabilities of the words, each given all that stands before it, and of the end. The input is what
    the LSTM reads for the start and for each token; token k lies at place k, the start at 0.

    Args:
        model: a fitted one.
        text: a sentence.

    Raises:
        ValueError: it has no word, or the units cannot spell it.
    """
    network, units = model.fitted, model.units
    line = normal(text, model.config.fold)
    tokens = units.encode(line) if line else []
    if not (words := units.words(tokens)):
        raise ValueError(f"the text must be a sentence with a word in it, got {text!r}.")
    answers = [(units.decode([tokens[k] for k in at]).strip(), at) for at in words] + [("the end", [len(tokens)])]
    want = torch.tensor([*tokens, 0])

    def logp(x: Tensor) -> Tensor:
        y, _ = network.lstm(x)
        return network.write(y).log_softmax(-1)[:, torch.arange(len(want)), want]  # [B, T]: of what follows each step

    def score(x: Tensor) -> Tensor:
        made = logp(x)
        return torch.stack([made[:, at].sum(1) for _, at in answers], 1)

    def place(trace: str, steps: int) -> NDArray:
        return np.arange(steps)

    with torch.no_grad():
        inputs = network.inputs.detach()
        x = F.embedding(torch.tensor([0, *tokens]), inputs)
        bits = -logp(x[None])[0].numpy() / math.log(2)
    return Subject(
        title=f"“{line}”", network=network, x=x, score=score,
        questions=[Question(name, at[0] + 1, at[-1] + 1) for name, at in answers], main=len(words) - 1, at=np.arange(len(x)),
        place=place, neutral=inputs.mean(0), labels=[START, *(units.pieces[k].replace(" ", "␣") for k in tokens), END],
        unit="tokens", picture=Bars(np.concatenate([[np.nan], bits]), "surprise of each token, in bits"),
        taken="with the mean of all tokens in its place",
    )  # fmt: skip
