"""Nothing is timed that is wrong: every contestant's outputs and gradients against the equations in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.rivals import Data, build, ours

NORMS: tuple[tuple[Callable[[Tensor], Tensor], float], ...] = (
    (lambda v: v.square().mean().sqrt(), 1.0),
    (lambda v: v.abs().amax(), 4.0),  # one entry may stray further than all together
)


@lru_cache(maxsize=2)
def _truth(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Results of the reference engine in float64, and the errors that it makes in the precision of the case."""
    data = Data.of(case)
    exact, low = (ours(case, data, "reference", dtype).results() for dtype in (torch.float64, torch.float32))
    return exact, {k: low[k].double() - v for k, v in exact.items()}


def strain(case: Case, results: dict[str, Tensor]) -> dict[str, float]:
    """The share of its error budget that each result uses; more than 1 is a failure.

    The budget is twice the error of the reference in the same precision plus one rounding; a parameter's gradient is a sum
    over all steps of all sequences, and may besides lose one float32 rounding per term, adding up as a random walk.

    Args:
        case: what was computed.
        results: as `Contestant.results` returns them; names that the reference does not have are not allowed.

    Returns:
        For each name the larger share, by root mean square or by the largest entry. NaN where a result is NaN.
    """
    exact, errors = _truth(case)
    steps, rounding = Data.of(case).steps(case), 2.0**-8 if case.bf16 else 2.0**-23
    shares = {}
    for name, v in results.items():
        if v.shape != exact[name].shape:
            raise ValueError(f"{case.name}: {name} must be {list(exact[name].shape)}, got {list(v.shape)}.")
        summed = name.startswith("d_") and name != "d_x"
        unit, share = rounding + (2.0**-23 * steps**0.5 if summed else 0), torch.tensor(0.0, dtype=torch.float64)
        for norm, slack in NORMS:
            budget = slack * (2 * norm(errors[name]) + unit * norm(exact[name]))
            share = torch.maximum(share, norm(v.double() - exact[name]) / budget)
        shares[name] = float(share)
    return shares


def check(case: Case) -> dict[str, tuple[str, float]]:
    """For each contestant the result that comes closest to its budget or exceeds it, and the share that it uses."""
    data, worst = Data.of(case), {}
    for who in ("ours", *case.rivals):
        judged = Case(case.block, case.shape) if who == "plain" else case
        shares = strain(judged, build(who, case, data).results())
        name = max(shares, key=lambda k: float("inf") if shares[k] != shares[k] else shares[k])
        worst[who] = name, shares[name]
    return worst


def failures(worst: dict[str, tuple[str, float]]) -> list[str]:
    """One line for each contestant that is over its budget; a NaN is."""
    return [f"{who}: {name} is {share:.3g} times its error budget" for who, (name, share) in worst.items() if not share <= 1]
