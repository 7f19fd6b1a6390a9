"""The network's losses by definition, and the rules that end an utterance."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from longshort.apps.speech import Endpoint
from longshort.apps.speech.config import STEP, Config, Model
from longshort.apps.speech.model import Batch, Network
from longshort.apps.speech.transducer import joint_loss
from longshort.cell import Cell

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("model", get_args(Model))
def test_losses_count_from_the_lead_to_the_end(model):
    """Each utterance alone, without the steps before it and what lies behind it; of the joint model the weighted sum."""
    torch.manual_seed(0)
    config = Config(model=model, bins=8, freq_width=2, hidden=12, layers=1, channels=2, predict=6, joint=10, ctc_weight=0.2)
    network = Network(config, Cell(), 7).eval()
    frames, lead, lengths = torch.tensor([88, 61, 40]), torch.tensor([0, 3, 5]), torch.tensor([4, 2, 1])
    targets = torch.tensor([[1, 2, 2, 6], [3, 5, 0, 0], [4, 0, 0, 0]])
    batch = Batch(torch.randn(3, 88, 8), frames, targets, lengths, lead)
    want = {"ctc": [], "transducer": []}
    with torch.no_grad():
        made = network.losses(batch)
        encoded, steps, _ = network.encode(batch.features, frames)
        for b, (first, last, n) in enumerate(zip(lead, steps, lengths, strict=True)):
            heard, text = encoded[b : b + 1, first:last], targets[b : b + 1, :n]
            if network.head is not None:
                logp = network.log_probs(heard).transpose(0, 1)
                want["ctc"].append(F.ctc_loss(logp, text, last[None] - first, n[None], reduction="sum"))
            if network.predictor is not None:
                write, predicted = network.write, network.predictor(text)
                args = network.meet(heard), predicted, write.weight, write.bias, text, last[None] - first, n[None]
                want["transducer"].append(joint_loss(*args)[0])
        for name in made.keys() | {k for k, v in want.items() if v}:
            torch.testing.assert_close(made[name], torch.stack(want[name]))
        share = {"ctc": {"ctc": 1}, "transducer": {"transducer": 1}, "joint": {"ctc": 0.2, "transducer": 0.8}}[model]
        torch.testing.assert_close(network.loss(batch), sum(w * made[k].sum() for k, w in share.items()))
        assert made.keys() == share.keys()


def test_an_utterance_ends_after_silence_or_nothing_or_too_long():
    rule = Endpoint(silence=1.0, empty=5.0, longest=20.0, pause=0.32)

    def quiet(seconds: float, steps: int) -> int:
        """The step of a last token after which so many seconds were quiet."""
        return steps - 1 - math.ceil(seconds / STEP - 1e-9)

    for steps, last, over in (
        (round(5.0 / STEP), None, True), (round(5.0 / STEP) - 1, None, False),
        (100, quiet(1.0, 100), True), (100, quiet(1.0, 100) + 1, False),
        (round(20 / STEP), quiet(0.32, round(20 / STEP)), True), (round(20 / STEP), quiet(0.32, round(20 / STEP)) + 1, False),
        (round(20 / STEP) - 1, quiet(0.32, round(20 / STEP) - 1), False),
        (round(30 / STEP), round(30 / STEP) - 1, True), (round(30 / STEP) - 1, round(30 / STEP) - 2, False),
    ):  # fmt: skip
        assert rule.reached(steps, last) == over, (steps, last)
