"""What to recognise, with which model and how large: one frozen dataclass of plain values. No torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

from longshort import checks

Model = Literal["ctc", "transducer", "joint"]
Front = Literal["conv", "stack"]
Kind = Literal["char", "bpe"]
Predictor = Literal["stateless", "lstm"]
SUBSAMPLING = 4  # feature frames of 10 ms per step of the encoder
STEP = 0.04  # seconds per step
LEAD = 12  # steps, at most, that come before an utterance in training, so that no network learns to write as soon as it hears
TAIL = 8  # steps of silence that follow every recording: in them the last tokens can be written


@dataclass(frozen=True)
class Config:
    """What to recognise, with which model and how large.

    Args:
        model: ctc: a token or blank at each step (Graves et al. 2006). transducer: a second network predicts from the tokens so
            far (RNN-T, Graves 2012). joint: a transducer whose encoder learns CTC as well.
        streaming: hear forward only, without look-ahead; False hears in both directions, and so whole files only.
        rate: samples per second that everything is resampled to; 8000 for telephone speech.
        bins: mel filters per frame of 10 ms.
        units: what is written: char, or bpe for pieces of words that SentencePiece learns from the training text.
        pieces: of bpe: how many pieces, at most.
        fold: learn and write lower case only.
        front: how four frames become one step: conv, two small causal convolutions; or stack, just side by side.
        channels: of conv: its channels.
        hidden: units of each LSTM layer and direction.
        layers: LSTM layers.
        dropout: dropout on the inputs of each LSTM layer and on the last one's outputs, in training, in [0, 1).
        weight_drop: dropout on the recurrent weights, in [0, 1). Merity et al. 2018.
        predictor: of a transducer: stateless looks at the last two tokens (Ghodsi et al. 2020), lstm at all.
        predict: of a transducer: width of the predictor.
        joint: of a transducer: width of the layer where encoder and predictor meet.
        ctc_weight: of joint: share of the CTC loss, in (0, 1).
        ngram: order of an n-gram model of words that is made from the training texts and kept in the file; 0 makes none.
        seconds: seconds of audio per batch, padding included.
        curriculum: how many passes over the shortest third of the utterances, in smaller batches and with nothing blanked,
            come first: a network that writes nothing yet finds out from them what belongs to what. After Amodei et al. 2016,
            Deep Speech 2 (SortaGrad).
        splice: share of the utterances that are put together anew from phrases of the same speaker, where an aligner is given to
            find the pauses. It matters where recordings are few.
        shortest: leave out utterances of fewer seconds.
        longest: leave out utterances of more seconds.
        speeds: train on copies that are played at these speeds. Ko et al. 2015.
        tempo: speak faster and slower by up to this share, at the same pitch.
        warp: move all frequencies of an utterance by up to this share, as other throats would. Jaitly & Hinton 2013.
        freq_masks: bands of mel filters that are blanked per utterance. SpecAugment, Park et al. 2019.
        freq_width: widest such band, in filters.
        time_masks: stretches that are blanked per second of audio.
        time_width: longest such stretch, in seconds.
        gain: train louder and softer by up to this many decibels.
        noise: folder of recordings to mix in while training, or 'synthetic'.
        noise_share: share of the utterances that get noise.
        snr: least and greatest ratio of speech to noise, in decibels.
        reverb: folder of room impulse responses, or 'synthetic'.
        reverb_share: share of the utterances that get an echo.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.
    """

    model: Model = "ctc"
    streaming: bool = True
    rate: int = 16000
    bins: int = 80
    units: Kind = "char"
    pieces: int = 500
    fold: bool = False
    front: Front = "conv"
    channels: int = 16
    hidden: int = 320
    layers: int = 4
    dropout: float = 0.3
    weight_drop: float = 0.0
    predictor: Predictor = "stateless"
    predict: int = 128
    joint: int = 256
    ctc_weight: float = 0.3
    ngram: int = 0
    seconds: float = 100.0
    curriculum: int = 15
    splice: float = 0.5
    shortest: float = 0.1
    longest: float = 30.0
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    tempo: float = 0.2
    warp: float = 0.1
    freq_masks: int = 2
    freq_width: int = 20
    time_masks: float = 1.0
    time_width: float = 0.2
    gain: float = 6.0
    noise: str | None = None
    noise_share: float = 0.5
    snr: tuple[float, float] = (5.0, 30.0)
    reverb: str | None = None
    reverb_share: float = 0.3

    def __post_init__(self) -> None:
        checks.whole(self, rate=4000, bins=8, pieces=2, channels=1, hidden=1, layers=1, predict=1, joint=1, freq_masks=0,
                     freq_width=0, ngram=0, curriculum=0)  # fmt: skip
        checks.layers(self, "layers")
        if self.rate % 100:
            raise ValueError(f"rate must be a multiple of 100, so that a frame lasts 10 ms, got {self.rate}. Sound of any rate "
                             "is resampled to it: take 8000, 16000 or 24000.")  # fmt: skip
        checks.one_of(self, model=Model, front=Front, units=Kind, predictor=Predictor)
        checks.true_or_false(self, "streaming", "fold")
        for name in ("noise", "reverb"):  # the file of the model holds text
            if isinstance(v := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(v))
        checks.rate(self, "dropout", "weight_drop")
        checks.share(self, warp=0.3, tempo=0.5, splice=1, noise_share=1, reverb_share=1)
        checks.nonnegative(self, "time_masks", "time_width", "gain", "seconds", "longest")
        if not 0 < self.ctc_weight < 1:
            raise ValueError(f"ctc_weight must be a share in (0, 1), got {self.ctc_weight}; model='transducer' has none.")
        if not 0 < self.shortest < self.longest:
            raise ValueError(f"0 < shortest < longest must hold, got {self.shortest} and {self.longest} seconds.")
        if not self.speeds or not all(0.5 <= s <= 2 for s in self.speeds):
            raise ValueError(f"speeds must be one or more factors in [0.5, 2], got {self.speeds}.")
        if not self.seconds >= self.longest / min(self.speeds) / (1 - self.tempo) + (LEAD + TAIL) * STEP:
            raise ValueError(f"seconds = {self.seconds} per batch must hold the longest utterance, {self.longest} s, at the "
                             f"slowest of speeds = {self.speeds} and tempo = {self.tempo}, and a second around it.")  # fmt: skip
        if self.freq_width > self.bins:
            raise ValueError(f"freq_width must be at most bins = {self.bins}, got {self.freq_width}.")
        if len(self.snr) != 2 or not -math.inf < self.snr[0] <= self.snr[1] < math.inf:
            raise ValueError(f"snr must be two ratios in decibels, the least first, got {self.snr}.")
