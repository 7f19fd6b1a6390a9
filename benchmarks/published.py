"""What others scored in forecasting, and what must hold: data only."""

from __future__ import annotations

from typing import NamedTuple


class M4(NamedTuple):
    """One frequency of the M4 competition.

    horizon: steps to forecast.
    season: steps per season in Naive2 and in the scale of MASE and MSIS; M4 takes 1 for Weekly.
    naive2: sMAPE and MASE of Naive2 on the test part, as the organisers published them.
    msis: MSIS at 95 % of the winner.
    noise: differences in OWA below this say nothing.
    """

    horizon: int
    season: int
    naive2: tuple[float, float]
    msis: float
    noise: float


M4S = {
    "yearly": M4(6, 1, (16.342, 3.974), 23.90, 0.005),
    "weekly": M4(13, 1, (9.161, 2.777), 22.03, 0.03),
    "hourly": M4(48, 24, (18.383, 2.395), 7.93, 0.03),
}
LEVEL = 95  # percent: the interval that M4 scores
COVERAGE_ERROR = 0.02  # the most that is honest


class OWA(NamedTuple):
    """A row of the table: OWA by frequency and their mean; None where it is not known."""

    yearly: float | None
    weekly: float | None
    hourly: float | None
    mean: float | None = None


MUST, AIM = OWA(0.786, 0.85, 0.60, 0.745), OWA(0.770, 0.80, 0.42, 0.665)
M4_OTHERS = {
    "ES-RNN (M4 winner, ensemble)": OWA(0.778, 0.851, 0.440, 0.690),
    "FFORMA (second)": OWA(0.799, 0.796, 0.484, 0.693),
    "best of the 59 official rows": OWA(0.778, 0.739, 0.410, 0.676),
    "N-BEATS, 36 models": OWA(0.767, None, None),
    "N-BEATS, 360 models": OWA(0.762, None, None),
    "open PyTorch ES-RNN, one model": OWA(0.786, 1.083, 0.633),
    "TiRex, pretrained xLSTM, zero-shot": OWA(0.881, 0.686, 0.364),
    "AutoETS": OWA(0.816, 0.935, 0.804),
    "Theta": OWA(0.872, 0.971, 1.006),
    "GluonTS DeepAR": OWA(0.862, 1.421, 1.183),
    "neuralforecast 3.3 LSTM, defaults": OWA(1.138, 1.271, 0.670, 1.026),
    "neuralforecast 3.3 DilatedRNN, defaults": OWA(None, 0.839, 0.655),
    "seasonal naive": OWA(1.000, 1.000, 0.628),
}

TOURISM = {  # MASE, as the Monash archive lists it: yearly, quarterly, monthly
    "DeepAR": (3.205, 1.597, 1.409),
    "ETS": (3.395, 1.592, 1.526),
    "Theta": (3.015, 1.661, 1.649),
    "N-BEATS": (2.977, 1.475, 1.574),
}

AN4 = {  # WER and CER in percent on the 130 test utterances, as those who published them say
    "DeepSpeech2, 5 x 1024 bidirectional LSTM, greedy": (9.573, 5.515),
    "DeepSpeech2, 5 x 800 bidirectional GRU, greedy": (10.52, 4.78),
    "ESPnet Transformer CTC/attention, language model": (7.4, 3.6),
    "Kaldi mono, language model": (10.6, None),
    "Kaldi tri1, language model": (10.5, None),
    "Kaldi tri3, speaker-adapted, language model": (5.95, None),
}

MULTI30K = {  # by direction: tokenised lower-cased BLEU on the test parts of 2016 and 2017, as those who published them say
    "en-de": {
        "Calixto et al. 2017, Elliott & Kádár 2017": ("33.7 to 34.0", ""),
        "recurrent systems that also see the image": ("36.5 to 38.0", ""),
        "LIUM-CVC 2017, the best single recurrent model": ("38.1 ± 0.8", "30.8 ± 1.0"),
        "Transformer-Tiny": ("41.0", "33.4"),
        "must, within 45 minutes on two cores": ("37.5", ""),
        "aim: one model, mean of three; ensemble of four": ("40.0; 41.5", ""),
    },
    "en-fr": {"LIUM-CVC 2017": ("52.5", "")},
    "de-en": {"tutorials: GRU with attention, greedy": ("28", "")},
}
