"""Looking into a translator: which words of the source, and which of its own, each word of a translation was written by."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.translate.translation import words
from longshort.apps.translate.translator import Translator
from longshort.apps.translate.vocabulary import BOS, EOS, UNK
from longshort.inspection import Attention, Bars, Question, Subject

START, END, UNKNOWN = "⊢", "⊣", "⁇"
DIRECT = "Attention looks at each source token directly: the gradient need not go through time to reach it."


def subject(translator: Translator, text: str, *, translation: str | None = None, **how: Any) -> Subject:
    """What the words of a translation were written by.

    The answers are the log-probabilities of its words, each given the source and all that stands before it, and of the end. The
    input are the embeddings of the source's tokens and its end, and then of what the decoder reads: a start and the translation's
    tokens. All of them lie on one axis, in this order; with feed the decoder runs step by step, and its steps are joined.

    Args:
        translator: a fitted one; of an ensemble the first network is looked into.
        text: a sentence; of several the first one.
        translation: one to look at instead of the one that it finds: how likely is that, and why?
        **how: as in `Translator.translate`.

    Raises:
        ValueError: there is no sentence.
    """
    network, source, target = translator.fitted, translator.source, translator.target
    found = translator.explain(text, **how)
    if not found:
        raise ValueError(f"the text must be a sentence with a word in it, got {text!r}.")
    best, notes = found[0], [DIRECT]
    if len(found) > 1:
        notes.append(f"This is the first of {len(found)} sentences.")
    if translator.friends:
        notes.append(f"Looked into is the first of {1 + len(translator.friends)} networks, which translate together.")
    own = {piece: k for k, piece in enumerate(source.pieces)}
    read = [own[piece] for piece in best.source_pieces[:-1]]  # without tags, and with what is kept as the network read it
    if translation is None:
        ids = {piece: k for k, piece in enumerate(target.pieces)}
        made = [ids[piece] for piece in best.pieces[:-1]]
    else:
        made = target.encode(translation)
        notes.append("The translation was given: the network did not search for it.")
    wrote = [_label(target.pieces[k], k) for k in made]
    said = words(wrote, target.words(made))
    ends = [0, *(at[-1] + 1 for _, at in said), len(made) + 1]  # a lone "▁" belongs to the word that follows
    names, answers = [*(word for word, _ in said), "the end"], list(pairwise(ends))
    S, want = len(read) + 1, torch.tensor([*made, EOS])

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of what follows each step of the decoder, [B, T + 1], and its attention, [B, T + 1, S]."""
        x = x.transpose(0, 1)
        memory = network.read(x[:S], torch.full((x.shape[1],), S), None)
        y, _, weights = network.go(x[S:], network.start(memory), memory)
        return network.write(y).log_softmax(-1)[torch.arange(len(want)), :, want].T, weights

    def score(x: Tensor) -> Tensor:
        logp, _ = run(x)
        return torch.stack([logp[:, a:b].sum(1) for a, b in answers], 1)

    def place(trace: str, steps: int) -> NDArray:
        return np.arange(steps) + (0 if trace.startswith("encoder.") else S)

    with torch.no_grad():
        sides = [(torch.tensor([[*read, EOS]]), network.source), (torch.tensor([[BOS, *made]]), network.target)]
        x = torch.cat([network.embed(tokens, table)[:, 0] for tokens, table in sides])
        mean = [table.mean(0).expand(tokens.shape[1], -1) for tokens, table in sides]
        logp, weights = run(x[None])
    bits = np.concatenate([np.full(S + 1, np.nan), -logp[0].numpy() / math.log(2)])
    labels = [*(_label(source.pieces[k], k) for k in read), END, START, *wrote, END]
    title = f"“{best.source}” → “{target.decode(made) if translation is not None else best.text}”"
    return Subject(
        title=title, network=network, x=x, score=score, main=max(len(said) - 1, 0), at=np.arange(len(x)), place=place,
        questions=[Question(name, S + 1 + a, S + b) for name, (a, b) in zip(names, answers, strict=True)], labels=labels,
        unit="tokens", neutral=torch.cat(mean) * math.sqrt(x.shape[1]),
        picture=Attention(weights[0].numpy(), S + 1, Bars(bits, "surprise of each token of the translation, in bits")),
        taken="with the mean of all tokens in its place", notes=notes,
    )  # fmt: skip


def _label(piece: str, token: int) -> str:
    return UNKNOWN if token == UNK else piece
