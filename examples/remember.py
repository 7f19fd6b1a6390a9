"""Remember the first symbol: an LSTM learns it in half a minute, and then we look inside.

A sequence begins with one of the letters A B C D; 49 others follow, of w x y z, which mean nothing; at the end the first one is
asked for. Writes inspect.html, which docs/inspect.md explains.

    python examples/remember.py [FOLDER]         default folder: out/remember
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import longshort
from longshort import inspection, probe

LETTERS, T = "ABCDwxyz", 50


class Network(nn.Module):
    """An LSTM that reads symbols, and a layer that names the first one: logits of A B C D after every step."""

    def __init__(self, init: str) -> None:
        super().__init__()
        self.lstm = longshort.LSTM(8, 16, batch_first=True, init=init)
        self.name = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 8] to [B, T, 4]."""
        return self.name(self.lstm(x)[0])


def draw(n: int) -> tuple[Tensor, Tensor]:
    """n sequences, one-hot [n, T, 8], and their first symbols [n]."""
    first = torch.randint(4, (n,))
    symbols = torch.randint(4, 8, (n, T))
    symbols[:, 0] = first
    return F.one_hot(symbols, 8).float(), first


def learn(init: str, steps: int) -> Network:
    """Train one network on the answer after the last step alone."""
    torch.manual_seed(0)
    network = Network(init)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        x, first = draw(64)
        optimizer.zero_grad()
        F.cross_entropy(network(x)[:, -1], first).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval()


def flow(network: Network) -> probe.Recording:
    """Gates, and how the gradient of the last answer flows back, on 64 fresh sequences."""
    torch.manual_seed(1)
    x, first = draw(64)
    with probe.record(network) as recording:
        F.cross_entropy(network(x)[:, -1], first).backward()
    return recording


def look(network: Network) -> inspection.Inspection:
    """One sequence under the microscope."""
    torch.manual_seed(2)
    x, first = draw(1)
    symbols = [LETTERS[k] for k in x[0].argmax(-1)]
    with torch.no_grad():
        sure = network(x).softmax(-1)[0, :, first[0]].numpy()
    return inspection.inspect(
        inspection.Subject(
            title=f"Remember the {symbols[0]}", network=network, x=x[0],
            score=lambda x: network(x)[:, -1].log_softmax(-1)[:, first],
            questions=[inspection.Question(f"the answer {symbols[0]}", T - 1, T - 1)], main=0,
            at=np.arange(T), place=lambda name, steps: np.arange(steps), neutral=x[0].mean(0), labels=symbols, context=T,
            picture=inspection.Bars(sure, f"probability of {symbols[0]}, if asked after each step"),
        )
    )  # fmt: skip


def main(out: Path, steps: int = 600) -> None:
    """Train with torch's initialisation and with chrono, compare, and write the page of the latter."""
    torch.set_num_threads(1)  # so small a network is faster without company
    out.mkdir(parents=True, exist_ok=True)
    for init in ("torch", f"chrono:{T}"):
        torch.manual_seed(0)
        before, network = flow(Network(init)), learn(init, steps)
        x, first = draw(1000)
        with torch.no_grad():
            right = float((network(x)[:, -1].argmax(-1) == first).float().mean())
        after = flow(network)
        print(f"init={init}: {right:.0%} of 1000 first symbols are named")
        for change in probe.compare(before, after):
            if change.measure in ("time_constant", "horizon", "dc.lag32"):
                print(f"  {change}")
    made = look(network)
    print(made)
    (out / "inspect.html").write_text(inspection.page(made), encoding="utf-8")
    print(f"wrote {out / 'inspect.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/remember"))
