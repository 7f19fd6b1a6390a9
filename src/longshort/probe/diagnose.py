"""From measures to sentences: what is wrong with the memory of a model, or changed in it, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from longshort.probe.measures import LOW, by_lag, dead, horizon, longest_told, stuck, summary, time_constants
from longshort.probe.record import Recording, Trace

GATES = {"i": "input", "f": "forget", "o": "output"}
VANISHED, EXPLODED, NOTABLE = 1e-6, 100.0, 0.1
MEANING = {("i", 1): "they take in all that comes", ("i", -1): "their cells take nothing in",
           ("f", 1): "their cells hardly forget", ("f", -1): "their cells remember nothing",
           ("o", 1): "their cells are always shown", ("o", -1): "their cells are never read"}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that a recording shows.

    layer: name of the trace.
    level: 'warning' where something should be done, else 'note'.
    measure: what it is about: finite, vanishing, exploding, dead, stuck, horizon, time_constant.
    value: the number behind it.
    said: the sentence.
    """

    layer: str
    level: Literal["note", "warning"]
    measure: str
    value: float
    said: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.said}"


def diagnose(recording: Iterable[Trace], context: int | None = None) -> list[Finding]:
    """What a person should know about the memory of a model that was recorded, layer by layer.

    It looks at what was kept: values and gradients that are not finite; a gradient that vanishes (below 1e-6 of its largest) or
    explodes (100 times what it was at the loss) on its way back; dead and stuck units (at least one in ten, for a note); how
    far the gradient and the forget gates reach. A gradient is judged by its median over sequences; with a loss at every step it
    does not vanish, see `horizon`.

    Args:
        recording: a `Recording`, or some of its traces; with or without a backward pass.
        context: how many steps the model needs, or is given, to remember over; None compares with nothing.

    Returns:
        Findings, in the order of the layers, warnings first in each.

    Source:
        Vanishing and exploding: Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu et al. 2013. The cure by
        initialisation: Tallec & Ollivier 2018.
    """
    found = (sorted(_of(t, context), key=lambda f: f.level, reverse=True) for t in recording if bool(t.mask.any()))
    return [f for layer in found for f in layer]


def _of(t: Trace, context: int | None) -> Iterator[Finding]:
    name = t.name
    for k in (k for k in t.wish.keep if k in "ch" or k in t.cell.gates):
        bad = 1 - float(getattr(t, k)[t.mask].isfinite().float().mean())
        if bad:
            said = f"{bad:.0%} of {k} is not finite. Look for wild input, lower the learning rate, and clip the gradient."
            yield Finding(name, "warning", "finite", bad, said)
            return
    if t.flows and t.wish.steps is None:
        yield from _flow(t, context)
    yield from _units(t)
    if "f" in t.wish.keep and t.cell.forget:
        tau = time_constants(t)
        half, slow = (float(tau.quantile(q, interpolation="lower")) for q in (0.5, 0.9))
        first, second = (f"within {_steps(n)}" if n < torch.inf else _beyond(t) for n in (half, slow))
        said, longest = f"half of the units forget {first}, nine in ten {second}", float(tau.max())
        short = False
        if context is not None and longest < context / 3:  # three time constants leave 5 %
            short, cure = True, _cure(t, context)
            said += f"; the slowest needs {_steps(longest)}, and your context is {context}: {cure}"
        yield Finding(name, "warning" if short else "note", "time_constant", half, f"{said}.")


def _flow(t: Trace, context: int | None) -> Iterator[Finding]:
    if not bool(t.dc[t.mask].isfinite().all()):
        said = "the gradient is not finite. Clip it, and lower the learning rate."
        yield Finding(t.name, "warning", "finite", torch.nan, said)
        return
    norm = by_lag(t).nanmedian(-1).values
    norm = norm[~norm.isnan()]
    if not len(norm):
        if t.cell.zoneout[1] and len(t.mask) == 1:  # the output of a single step need not go through what zoneout leaves
            return
        said = "no gradient reaches it at any step: the loss does not depend on it, or its gates or cells are saturated."
        yield Finding(t.name, "warning", "vanishing", 0.0, said)
        return
    largest, lag = float(norm.max()), int(norm.argmax())
    left = norm / largest
    gone = int((left >= VANISHED).nonzero().max()) + 1
    if gone <= len(left) - t.dilation:  # of the first d steps a dilation of d may visit but one
        rest = f"{float(left[gone]):.0e} of it is left after {_steps(gone)}"
        said = f"the gradient vanishes: {rest}; {_cure(t, context or len(norm))}."
        yield Finding(t.name, "warning", "vanishing", float(left[gone]), said)
    grown = largest / float(norm[0])  # the norm at lag 0 is never 0
    if grown >= EXPLODED:
        said = (f"the gradient explodes: {grown:.1e} times larger {_steps(lag)} before the loss than at it. Clip it "
                "(Training.grad_clip), lower the learning rate, or bound the cell: Cell(clip=...).")  # fmt: skip
        yield Finding(t.name, "warning", "exploding", grown, said)
    reach = float(horizon(t).nanquantile(0.5, interpolation="lower"))
    far = f"more than {_steps(len(norm))}" if reach == torch.inf else _steps(reach)
    short = context is not None and reach < context
    said = f"memory horizon {far}" + (f"; your context is {context}" if context is not None else "")
    yield Finding(t.name, "warning" if short else "note", "horizon", reach, f"{said}, by the gradient (1 % of its largest).")


def _units(t: Trace) -> Iterator[Finding]:
    if "c" in t.wish.keep:
        lie = dead(t)
        if n := int(lie.sum()):
            said = (f"{n} of {len(lie)} units are dead: their cell or output never moves. A lower learning rate keeps them "
                    "alive, a smaller hidden_size leaves them out.")  # fmt: skip
            yield Finding(t.name, "warning", "dead", n / len(lie), said)
    for k, v in stuck(t).items():
        for way, word in ((1, "open"), (-1, "shut")):
            still = v == way
            if (k, way) == ("i", -1) and t.cell.forget and not t.cell.coupled and "f" in t.wish.keep:
                taken, lost = t.i[t.mask].mean(0), 1 - t.f[t.mask].mean(0)
                still &= taken < LOW * lost  # a slow cell takes in little, for it loses little
            share = float(still.float().mean())
            if share >= NOTABLE:
                level: Literal["note", "warning"] = "warning" if way < 0 else "note"
                said = f"{share:.0%} of {GATES[k]} gates stuck {word}: {MEANING[k, way]}."
                yield Finding(t.name, level, "stuck", share, said)


def _cure(t: Trace, context: int) -> str:
    if t.cell.layer_norm or not t.cell.forget:
        return "try a shorter way from there to the loss, or a dilation"
    return f"try init='chrono:{max(-(-context // t.dilation), 3)}'"


def _steps(n: float) -> str:
    """A number of steps in words."""
    if n == torch.inf:
        return "no end of steps"
    whole = f"{n:.1f}" if n < 10 and n != round(n) else f"{n:,.0f}"
    return f"{whole} step{'' if whole == '1' else 's'}"


def _beyond(t: Trace) -> str:
    """Where time constants are longer than can be told."""
    most = longest_told(t)
    return f"after more than {_steps(most)} ({str(t.dtype)[6:]} tells no more)" if most < 1e6 else "after no end of steps"


@dataclass(frozen=True)
class Change:
    """One number of one layer in two recordings; see `summary` for what it is.

    layer: name of the trace.
    measure: name in `summary`.
    before: in the first recording, NaN if it is not there.
    after: in the second.
    """

    layer: str
    measure: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.measure} {self.before:.4g} -> {self.after:.4g}"


def compare(a: Recording, b: Recording) -> list[Change]:
    """Two models, or two moments of one training run, number by number: the `summary` of each layer that both have.

    Raises:
        ValueError: they have no layer in common.
    """
    both = [name for name in a.traces if name in b.traces]
    if not both:
        raise ValueError(f"the recordings must have layers of the same name, got {', '.join(a.traces) or 'none'} and "
                         f"{', '.join(b.traces) or 'none'}.")  # fmt: skip
    changes = []
    for name in both:
        first, second = summary(a.traces[name]), summary(b.traces[name])
        changes += [Change(name, k, first.get(k, torch.nan), second.get(k, torch.nan)) for k in dict.fromkeys([*first, *second])]
    return changes
