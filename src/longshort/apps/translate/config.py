"""What to translate with, and how large: one frozen dataclass of plain values. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from longshort import checks

Kind = Literal["bpe", "unigram", "char"]
Attend = Literal["additive", "dot", "general"]
Tied = Literal["all", "output", "none"]
Metric = Literal["auto", "BLEU", "chrF"]
WITH_BYTES = 262  # the fewest tokens of a vocabulary with all bytes: these, four special ones, a word's start, one character


@dataclass(frozen=True)
class Config:
    """What to translate with, and how large.

    Args:
        units: pieces of words by SentencePiece: bpe (Sennrich et al. 2016), unigram (Kudo 2018), or single characters (char).
        pieces: how many pieces, at most; of each language where they are not shared.
        shared: both languages have one vocabulary; False learns one for each.
        fallback: write unknown characters as bytes, so that nothing is unknown.
        sampling: share of the merges (bpe) that are skipped at random in training, so that words are seen in many pieces
            (Provilkov et al. 2020); of unigram how freely segmentations are drawn. 0 always takes the best one.
        unknown: share of the names and numbers standing on both sides that are hidden in training, so that the network learns to
            pass on what it does not know: the word can be copied, and what is kept (links, placeholders) passes unread. With
            fallback nothing is unknown, and none is hidden.
        embed: width of the embeddings.
        hidden: units of each LSTM layer of the encoder, in each direction.
        decode: units of each LSTM layer of the decoder.
        encoder_layers: bidirectional LSTM layers that read.
        decoder_layers: LSTM layers that write. The first one asks the attention, the others hear its answer.
        residual: add the input of each layer to its output, where their widths agree.
        attention: additive (Bahdanau et al. 2015), dot, or general (Luong et al. 2015).
        heads: attentions side by side, each with its share of the width. Vaswani et al. 2017.
        again: the decoder's last LSTM layer asks an attention of its own; of two layers or more, knowing the first answer.
        coverage: of additive: how much attention each source word has had so far counts. Tu et al. 2016. It needs feed.
        feed: what was read from the source at the last step is an input of the next one (Luong et al. 2015). Steps must then
            come one after another in training, which takes longer.
        tied: matrices that are one: all three embeddings (source, target, output), or only target and output. Press & Wolf 2017.
        dropout_embed: dropout on the embeddings, in training, in [0, 1).
        dropout_word: share of words whose whole embedding is dropped, each place by itself.
        dropout: dropout on the input of each LSTM layer but the first, and on what the attention reads.
        dropout_output: dropout before the output layer.
        weight_drop: dropout on the recurrent weights of the LSTMs. Merity et al. 2018.
        smoothing: share of the probability that is spread over all tokens in training. Szegedy et al. 2016.
        rdrop: weight of the divergence between two passes with different dropout (R-Drop, Wu et al. 2021); 0 makes one pass.
        tokens: tokens per batch and side, padding included.
        longest: leave out pairs with more tokens than this on a side.
        ratio: leave out pairs where one side has more than so many times the tokens of the other.
        shortlist: so many target tokens that may translate it are kept for each source token, for faster translation on request;
            0 keeps none.
        metric: what tells which weights are best: BLEU, chrF, or auto: BLEU, but chrF where most of the validation pairs'
            translations have fewer than four words, for BLEU counts runs of four.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.
    """

    units: Kind = "bpe"
    pieces: int = 6000
    shared: bool = True
    fallback: bool = False
    sampling: float = 0.0
    unknown: float = 0.1
    embed: int = 256
    hidden: int = 256
    decode: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 2
    residual: bool = True
    attention: Attend = "general"
    heads: int = 4
    again: bool = True
    coverage: bool = False
    feed: bool = False
    tied: Tied = "all"
    dropout_embed: float = 0.1
    dropout_word: float = 0.0
    dropout: float = 0.2
    dropout_output: float = 0.2
    weight_drop: float = 0.1
    smoothing: float = 0.1
    rdrop: float = 3.0
    tokens: int = 1500
    longest: int = 128
    ratio: float = 5.0
    shortlist: int = 50
    metric: Metric = "auto"

    def __post_init__(self) -> None:
        checks.whole(self, pieces=6, embed=1, hidden=1, decode=1, encoder_layers=1, decoder_layers=1, heads=1, tokens=2,
                     longest=1, shortlist=0)  # fmt: skip
        checks.layers(self, "encoder_layers", "decoder_layers")
        checks.one_of(self, units=Kind, attention=Attend, tied=Tied, metric=Metric)
        checks.rate(self, "sampling", "unknown", "dropout_embed", "dropout_word", "dropout", "dropout_output", "weight_drop",
                    "smoothing")  # fmt: skip
        checks.nonnegative(self, "rdrop")
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"ratio must be a number of at least 1, got {self.ratio}. 1000 leaves nothing out.")
        if self.decode % self.heads:
            raise ValueError(f"heads must divide decode = {self.decode}, got {self.heads}.")
        if self.coverage and not (self.feed and self.attention == "additive"):
            raise ValueError("coverage counts the attention step by step: it needs attention='additive' and feed=True.")
        if self.tied == "all" and not self.shared:
            raise ValueError("tied='all' makes one matrix of both languages: without shared=True take tied='output'.")
        if self.fallback and self.pieces < WITH_BYTES:
            raise ValueError(f"pieces must be at least {WITH_BYTES} with fallback, which takes 256 of them, got {self.pieces}.")
        if self.tokens <= self.longest:
            raise ValueError(f"tokens = {self.tokens} per batch must hold the longest sentence, {self.longest}, and its end.")
