"""The picture: how far back error flows in an RNN and in LSTMs, before they learn. matplotlib is imported only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longshort import probe
from longshort.memory.catalogue import tasks
from longshort.memory.recipes import VARIANTS
from longshort.memory.tasks import Batch, Task
from longshort.memory.trial import Net, Recipe, loss

TASK, RECIPE, SEQUENCES = "adding-1000", Recipe(hidden=32, batch=1, lr=0, most=0), 64
FLOOR, SCALE = 1e-28, 1e12  # the smallest share drawn; what the loss is multiplied by, so that float32 can hold its norm
INK = "#768390"  # stands out against white and black alike
LINES: dict[str, tuple[str, str, Any]] = {  # label, colour (Okabe & Ito 2008) and dashes
    "chrono": ("LSTM, chrono", "#0072b2", "solid"),
    "1997": ("LSTM of 1997", "#009e73", (0, (6, 2))),
    "forget-bias": ("LSTM, forget bias 1", "#cc79a7", (0, (4, 1.5, 1, 1.5))),
    "default": ("LSTM, torch's start", "#e69f00", (0, (2, 1.5))),
    "rnn": ("plain RNN", "#d55e00", (0, (1, 1.2))),
}


def flow(variant: str, seed: int = 0) -> np.ndarray:
    """The norm of the gradient of the loss with respect to the state, by lag, over its norm at the last step.

    The state is c of an LSTM and h of a plain RNN: what carries memory from step to step. Computed in float64.

    Returns:
        Mean over sequences of the adding task with T = 1000, [1001].
    """
    task = tasks()[TASK]
    torch.manual_seed(seed)
    net = Net(task, VARIANTS[variant], RECIPE).double()
    drawn = task.draw(np.random.default_rng(seed), SEQUENCES, "train")
    x, lengths = torch.from_numpy(drawn.x).double(), torch.from_numpy(drawn.lengths)
    batch = drawn._replace(target=drawn.target.astype(np.float64))
    if variant == "rnn":
        norms = _of_rnn(net, task, x, lengths, batch)
    else:
        with probe.record(net, keep="c", units=[0]) as recording:
            (SCALE * loss(task, net(x, lengths)[0], batch)).backward()
        norms = probe.by_lag(recording["layer.l0"], "dc")
    kept = norms[: task.steps + 1].double()
    return (kept / kept[0]).nanmean(1).numpy()


def _of_rnn(net: Net, task: Task, x: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """dLoss/dh_t by lag, [T, B]: the same cell, step by step, so that each h_t is there to be asked."""
    p = dict(net.layer.named_parameters())
    h, states = x.new_zeros(x.shape[1], RECIPE.hidden), []
    for v in x:
        h = torch.tanh(v @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"])
        states.append(h)
    rows = torch.arange(x.shape[1])
    output = net.head(torch.stack(states)[lengths - 1, rows])
    norms = torch.stack([g.norm(dim=1) for g in torch.autograd.grad(loss(task, output, batch), states)])
    at = lengths - 1 - torch.arange(len(x))[:, None]
    return torch.where(at >= 0, norms.gather(0, at.clamp(min=0)), torch.nan)


def check(path: Path) -> None:
    """Refuse what cannot be drawn before hours are spent.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the file's name does not say a format that it can write.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("the figure is drawn by matplotlib: pip install 'longshort[plot]'.") from None
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"figure must end in .svg, .png or .pdf, got {path.name!r}.")


def draw(path: Path) -> None:
    """Draw gradient norm against lag on a logarithmic axis; readable on white and on black.

    Raises:
        ImportError, ValueError: as `check`.
    """
    check(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 11, "text.color": INK, "svg.hashsalt": "longshort"}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, (label, colour, dashes) in LINES.items():
            y = flow(name)
            seen = np.flatnonzero(y >= FLOOR)[-1] + 1
            axes.plot(np.arange(seen), y[:seen], color=colour, linestyle=dashes, linewidth=2.2, label=label)
        axes.set_yscale("log")
        axes.set(xlim=(0, 1000), ylim=(FLOOR, 1e4), xlabel="lag: steps before the loss")
        axes.set_title("How much of the error arrives (norm of dLoss/dc, of dLoss/dh for the RNN; lag 0 is 1)", loc="left",
                       fontsize=11, color=INK)  # fmt: skip
        axes.tick_params(colors=INK)
        axes.grid(color=INK, alpha=0.25, linewidth=0.6)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
        axes.xaxis.label.set_color(INK)
        axes.legend(frameon=False, labelcolor=INK, loc="center right", handlelength=3.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
