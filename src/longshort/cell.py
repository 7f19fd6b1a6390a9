"""THE EQUATIONS: one step of an LSTM, every published variant of it as data.

Axes: T time, B batch, I input, H hidden, P projected (= H without projection), G gate rows.
Parameter names, shapes and gate order (i f g o) are those of torch.nn.LSTM.
The numbers (1) to (9) mean the same line in the docs, here and in the C++.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from longshort.dropout import bernoulli

LN_EPS = 1e-5  # the default of torch.nn.LayerNorm

Params = Mapping[str, Tensor]


class State(NamedTuple):
    """What one layer carries from step to step.

    h: output, [B, P], in the dtype of x.
    c: cell state, [B, H]; float32 where x is bfloat16 or float16. Its dtype is that of all gate arithmetic.
    """

    h: Tensor
    c: Tensor


class Masks(NamedTuple):
    """The random bits of a training pass, drawn outside. True keeps a unit (drop_*) or keeps its old value (zone_*).

    drop_h: one mask for the whole sequence, bool, [B, P].
    drop_g: bool, [T, B, H]; for one step [B, H].
    zone_h: bool, [T, B, P]; for one step [B, P].
    zone_c: bool, [T, B, H]; for one step [B, H].
    """

    drop_h: Tensor | None = None
    drop_g: Tensor | None = None
    zone_h: Tensor | None = None
    zone_c: Tensor | None = None

    def at(self, t: int) -> Masks:
        """The masks of step t; drop_h is the same at every step."""
        return Masks(self.drop_h, *(None if m is None else m[t] for m in self[1:]))


@dataclass(frozen=True, repr=False)
class Cell:
    """One variant of the LSTM. The defaults are the plain LSTM of torch.nn.LSTM.

    Args:
        forget: False is the 1997 cell without a forget gate, f = 1. Hochreiter & Schmidhuber 1997; Gers et al. 2000.
        peephole: the gates see the cell. Gers & Schmidhuber 2000.
        coupled: i = 1 - f; there is no input gate. Greff et al. 2017, whose f = 1 - i (as ONNX's `input_forget`) is this
            cell with the signs of the gate's parameters turned.
        layer_norm: normalise W_ih x + b_ih, W_hh h + b_hh and c, each with a learned gain. Ba et al. 2016.
        zoneout: probabilities (of h, of c) that a unit keeps its previous value, in [0, 1]; in evaluation the
            expectation is used. Krueger et al. 2017.
        drop_h: dropout on h_{t-1}, one mask for the whole sequence, in [0, 1). Gal & Ghahramani 2016.
        drop_g: dropout on the candidate g, in [0, 1). Semeniuta et al. 2016.
        projection: size P of the recurrent projection (LSTMP), or None. Sak et al. 2014.
        clip: bound on |c_t|, or None. Sak et al. 2014; TensorFlow's `cell_clip`.

    Raises:
        ValueError: a field is out of range, or two fields contradict each other.
        TypeError: a field is of the wrong kind.
    """

    forget: bool = True
    peephole: bool = False
    coupled: bool = False
    layer_norm: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)
    drop_h: float = 0.0
    drop_g: float = 0.0
    projection: int | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("forget", "peephole", "coupled", "layer_norm"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"Cell.{name} must be True or False, got {getattr(self, name)!r}.")
        try:
            zone_h, zone_c = (float(p) for p in self.zoneout)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"Cell.zoneout must be two numbers (of h, of c), got {self.zoneout!r}.") from None
        object.__setattr__(self, "zoneout", (zone_h, zone_c))
        for name, p in (("zoneout[0]", zone_h), ("zoneout[1]", zone_c)):
            if not 0.0 <= p <= 1.0:
                raise ValueError(f"Cell.{name} must be a probability in [0, 1], got {p}.")
        for name in ("drop_h", "drop_g"):
            p = getattr(self, name)
            if isinstance(p, bool) or not isinstance(p, int | float):
                raise TypeError(f"Cell.{name} must be a number, got {p!r}.")
            if not 0.0 <= p < 1.0:
                raise ValueError(f"Cell.{name} must be a probability in [0, 1), got {p}.")
        if self.projection is not None and (isinstance(self.projection, bool) or not isinstance(self.projection, int)):
            raise TypeError(f"Cell.projection must be a whole number or None, got {self.projection!r}.")
        if self.projection is not None and self.projection < 1:
            raise ValueError(f"Cell.projection must be at least 1, got {self.projection}. None means no projection.")
        if self.clip == math.inf:
            object.__setattr__(self, "clip", None)
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Cell.clip must be positive, got {self.clip}. None means no bound.")
        if self.coupled and not self.forget:
            raise ValueError("Cell(coupled=True, forget=False) contradicts itself: i = 1 - f needs the forget gate.")

    def __repr__(self) -> str:
        said = ((f, getattr(self, f.name)) for f in fields(self))
        return f"Cell({', '.join(f'{f.name}={v!r}' for f, v in said if v != f.default)})"

    @property
    def gates(self) -> str:
        """The gates that have rows in the weights, in their order there: a subsequence of 'ifgo'."""
        return "fgo" if self.coupled else "ifgo" if self.forget else "igo"

    @property
    def peepholes(self) -> str:
        """The gates that see the cell, in the order of the rows of weight_ch."""
        return self.gates.replace("g", "") if self.peephole else ""

    @property
    def plain(self) -> bool:
        """True if this is torch.nn.LSTM's cell, its projection included."""
        return self == Cell(projection=self.projection)

    @property
    def noisy(self) -> bool:
        """True if training draws masks."""
        return bool(self.drop_h or self.drop_g or any(self.zoneout))

    @property
    def sources(self) -> list[str]:
        """The papers that this variant comes from, oldest first."""
        said = [("Hochreiter & Schmidhuber 1997, Long Short-Term Memory", True),
                ("Gers, Schmidhuber & Cummins 2000, Learning to Forget", self.forget),
                ("Gers & Schmidhuber 2000, Recurrent Nets that Time and Count", self.peephole),
                ("Sak, Senior & Beaufays 2014, Long Short-Term Memory Based Recurrent Neural Network Architectures",
                 self.projection is not None or self.clip is not None),
                ("Ba, Kiros & Hinton 2016, Layer Normalization", self.layer_norm),
                ("Gal & Ghahramani 2016, A Theoretically Grounded Application of Dropout in RNNs", self.drop_h > 0),
                ("Semeniuta, Severyn & Barth 2016, Recurrent Dropout without Memory Loss", self.drop_g > 0),
                ("Greff et al. 2017, LSTM: A Search Space Odyssey", self.coupled),
                ("Krueger et al. 2017, Zoneout", any(self.zoneout))]  # fmt: skip
        return [paper for paper, used in said if used]

    def shapes(self, I: int, H: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter of one layer and direction: the one table that module, kernels and files read.

        Args:
            I: input size.
            H: hidden size.
            bias: whether bias_ih and bias_hh exist.

        Returns:
            The shapes by name, in torch's order where torch has the parameter.
        """
        G, P = len(self.gates), self.projection or H
        table: dict[str, tuple[int, ...]] = {"weight_ih": (G * H, I), "weight_hh": (G * H, P)}
        if bias:
            table |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
        if self.projection is not None:
            table["weight_hr"] = (P, H)
        if self.peephole:
            table["weight_ch"] = (len(self.peepholes), H)
        if self.layer_norm:
            table |= {"gain_ih": (G * H,), "gain_hh": (G * H,), "gain_c": (H,)}
        return table

    def draw(self, T: int, B: int, H: int, *, like: Tensor, generator: torch.Generator | None = None,
             rows: int | None = None) -> Masks | None:  # fmt: skip
        """Draw the masks of one training pass; None if this variant has none.

        Args:
            T: steps.
            B: sequences.
            H: hidden size.
            like: a tensor on the wanted device.
            generator: source of randomness; torch's global one if None. On a CPU it seeds a faster one, whose
                probabilities are multiples of 2^-16.
            rows: of a packed batch; its masks are [rows, *] instead of [T, B, *].
        """
        if not self.noisy:
            return None
        P, (zone_h, zone_c) = self.projection or H, self.zoneout
        steps = (T, B) if rows is None else (rows,)

        def true(p: float, *shape: int) -> Tensor:
            return bernoulli(p, shape, like, generator)

        return Masks(
            drop_h=true(1 - self.drop_h, B, P) if self.drop_h else None,
            drop_g=true(1 - self.drop_g, *steps, H) if self.drop_g else None,
            zone_h=true(zone_h, *steps, P) if zone_h else None,
            zone_c=true(zone_c, *steps, H) if zone_c else None,
        )


def step(
    cell: Cell, params: Params, x: Float[Tensor, "B I"], state: State, masks: Masks | None = None
) -> tuple[State, dict[str, Tensor]]:
    """One step of any variant, lines (1) to (9).

    Args:
        cell: the variant.
        params: the tensors of `cell.shapes(I, H)`; the biases may be absent.
        x: input, [B, I].
        state: h [B, P] and c [B, H] of the step before.
        masks: this step's masks in training; None uses the expectation (no dropout, zoneout interpolates).

    Returns:
        The new state, and the activated gates by letter, each [B, H]: those of `cell.gates`, before drop_g.
    """
    h0, c0 = state
    masks = masks or Masks()
    h = h0 if masks.drop_h is None else h0 * masks.drop_h / (1 - cell.drop_h)
    ih = F.linear(x, params["weight_ih"], params.get("bias_ih")).to(c0.dtype)  # [B, G*H]
    hh = F.linear(h, params["weight_hh"], params.get("bias_hh")).to(c0.dtype)  # [B, G*H]
    if cell.layer_norm:
        ih, hh = layer_norm(ih, params["gain_ih"]), layer_norm(hh, params["gain_hh"])
    a = dict(zip(cell.gates, (ih + hh).chunk(len(cell.gates), -1), strict=True))  # (1)
    w = dict(zip(cell.peepholes, params["weight_ch"].to(c0.dtype), strict=True)) if cell.peephole else {}

    def see(k: str, c: Tensor) -> Tensor:
        return a[k] + w[k] * c if cell.peephole else a[k]

    gates: dict[str, Tensor] = {}
    if cell.forget:
        gates["f"] = torch.sigmoid(see("f", c0))  # (2)
    if not cell.coupled:
        gates["i"] = torch.sigmoid(see("i", c0))  # (3)
    gates["g"] = torch.tanh(a["g"])  # (4)
    i = 1 - gates["f"] if cell.coupled else gates["i"]
    g = gates["g"] if masks.drop_g is None else gates["g"] * masks.drop_g / (1 - cell.drop_g)
    c1 = (gates["f"] * c0 if cell.forget else c0) + i * g  # (5) the carousel
    if cell.clip is not None:
        c1 = c1.clamp(-cell.clip, cell.clip)
    gates["o"] = torch.sigmoid(see("o", c1))  # (6)
    m = gates["o"] * torch.tanh(layer_norm(c1, params["gain_c"]) if cell.layer_norm else c1)  # (7)
    h1 = m.to(h0.dtype)
    if cell.projection is not None:
        h1 = F.linear(h1, params["weight_hr"])  # (8)
    new = State(zoneout(cell.zoneout[0], masks.zone_h, h0, h1), zoneout(cell.zoneout[1], masks.zone_c, c0, c1))  # (9)
    return new, {k: gates[k] for k in cell.gates}


def layer_norm(a: Float[Tensor, "B N"], gain: Float[Tensor, " N"]) -> Float[Tensor, "B N"]:
    """Normalise each row over all its N entries, then multiply by the learned gain. Ba et al. 2016, eq. (4)."""
    return F.layer_norm(a, a.shape[-1:], gain.to(a.dtype), eps=LN_EPS)


def zoneout(p: float, old: Bool[Tensor, "B N"] | None, v0: Tensor, v1: Tensor) -> Tensor:
    """Keep v0 where `old` says so; without a mask, the expectation p * v0 + (1 - p) * v1. Krueger et al. 2017, eq. (9)."""
    if not p:
        return v1
    return p * v0 + (1 - p) * v1 if old is None else torch.where(old, v0, v1)
