"""What is looked at: a network, its input, the answers that are asked about, and how to draw them. Axes: T steps of the input,
I features of a step, Q questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Question:
    """One number that the network gives, and of which it is asked what it depends on.

    name: what a person calls it: a step of the horizon, a word.
    start: where it stands on the time axis, from here ...
    end: ... to here.
    """

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Series:
    """A picture of values over time.

    y: at 0, 1, 2, ..., NaN where there is none, [T].
    ahead: what was forecast, at the places that follow: low, median and high, [3, H]; None where nothing was.
    level: percent of the interval from low to high.
    """

    y: NDArray
    ahead: NDArray | None = None
    level: float = 80.0


@dataclass(frozen=True)
class Sound:
    """A picture of a recording; time is in seconds.

    samples: [N].
    rate: samples per second.
    features: log energies, [T, bins], a row every 10 ms.
    hertz: middle of each bin, [bins].
    words: text, start and end of each.
    """

    samples: NDArray
    rate: int
    features: NDArray
    hertz: NDArray
    words: Sequence[tuple[str, float, float]]


@dataclass(frozen=True)
class Bars:
    """A picture of one number per place, at 0, 1, 2, ...; NaN where there is none.

    y: [N].
    name: what the number is, with its unit.
    """

    y: NDArray
    name: str


@dataclass(frozen=True)
class Attention:
    """A picture of which inputs were looked at for each output, below one number per place.

    weights: shares, [N, S]: of the outputs at places first, first + 1, ... for the inputs at places 0 to S - 1.
    first: place of the first output, S or more.
    bars: the numbers.
    """

    weights: NDArray
    first: int
    bars: Bars


@dataclass(frozen=True)
class Subject:
    """One look into a network.

    title: what was looked at.
    network: what is recorded, in evaluation mode; it contains `longshort.LSTM`.
    x: the input, [T, I].
    score: from inputs [B, T, I] to the answers [B, Q], differentiable; it runs the network.
    questions: what the answers are, Q of them.
    main: the question that is asked first, and that findings are about.
    at: where each step of the input lies on the time axis, [T].
    place: from the name of a trace and its number of steps to where these lie.
    picture: what is drawn above.
    neutral: what takes the place of an input step that is taken out, [I]; or of each step, [T, I].
    labels: names of the places 0, 1, 2, ... of the time axis, where it has names.
    unit: what the time axis counts.
    context: how many steps it is given to remember over, where that is one number; the findings compare with it.
    changed: how much each answer changes without each step of the input, [Q, T]; None: found by putting `neutral` there.
    taken: how `changed` was found, in words.
    notes: sentences that the page must tell.
    """

    title: str
    network: nn.Module
    x: Float[Tensor, "T I"]
    score: Callable[[Tensor], Tensor]
    questions: Sequence[Question]
    main: int
    at: NDArray
    place: Callable[[str, int], NDArray]
    picture: Series | Sound | Bars | Attention
    neutral: Tensor
    labels: Sequence[str] = ()
    unit: str = "steps"
    context: int | None = None
    changed: NDArray | None = None
    taken: str = "with the mean input in its place"
    notes: Sequence[str] = ()
