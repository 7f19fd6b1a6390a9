"""What is measured, against whom, and what must hold: data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from longshort.cell import Cell


class Shape(NamedTuple):
    """Batch, steps, input size, hidden size."""

    B: int
    T: int
    I: int
    H: int

    def __str__(self) -> str:
        return f"B{self.B}-T{self.T}-I{self.I}-H{self.H}"


class Variant(NamedTuple):
    """A cell, given H, and what else the call carries: nothing, 'lengths', 'resets', 'tape' or 'packed'."""

    cell: Callable[[int], Cell]
    extra: str = ""


VARIANTS = {
    "plain": Variant(lambda H: Cell()),
    "forget=False": Variant(lambda H: Cell(forget=False)),
    "peephole": Variant(lambda H: Cell(peephole=True)),
    "coupled": Variant(lambda H: Cell(coupled=True)),
    "layer_norm": Variant(lambda H: Cell(layer_norm=True)),
    "zoneout": Variant(lambda H: Cell(zoneout=(0.1, 0.1))),
    "drop_h": Variant(lambda H: Cell(drop_h=0.25)),
    "drop_g": Variant(lambda H: Cell(drop_g=0.25)),
    "projection": Variant(lambda H: Cell(projection=H // 2)),
    "clip": Variant(lambda H: Cell(clip=0.5)),
    "lengths": Variant(lambda H: Cell(), "lengths"),
    "resets": Variant(lambda H: Cell(), "resets"),
    "tape": Variant(lambda H: Cell(), "tape"),
    "packed": Variant(lambda H: Cell(), "packed"),
}

STEPS = (Shape(1, 1, 64, 128), Shape(1, 1, 256, 256), Shape(1, 1, 512, 512))
ALONE = (Shape(1, 100, 256, 256), Shape(1, 100, 512, 512))
BATCHES = (
    Shape(32, 100, 64, 128),
    Shape(32, 100, 256, 256),
    Shape(64, 100, 512, 512),
    Shape(128, 336, 8, 64),
    Shape(2048, 48, 8, 40),
)
FEW = (Shape(32, 100, 64, 128), Shape(32, 100, 256, 256), Shape(2048, 48, 8, 40))


class Block(NamedTuple):
    """Cases that share one geometric mean.

    title: for people.
    mode: 'stream' (steps that carry their state, no gradients), 'infer' (a sequence, no gradients) or 'train' (forward
        and backward, the gradient of x included).
    rivals: builders in `rivals.py`, in the order in which a round runs them after ours.
    bf16: bfloat16 autocast, ours and theirs.
    """

    title: str
    mode: str
    rivals: tuple[str, ...]
    shapes: tuple[Shape, ...]
    variants: tuple[str, ...] = ("plain",)
    bf16: bool = False


BLOCKS = {
    "stream": Block("one streaming step", "stream", ("torch", "onnxruntime"), STEPS),
    "infer": Block("fp32 inference", "infer", ("torch", "onnxruntime"), ALONE + BATCHES),
    "train": Block("fp32 training", "train", ("torch",), BATCHES),
    "bf16": Block("bf16 training", "train", ("torch",), BATCHES, bf16=True),
    "layer_norm": Block("layer-norm training", "train", ("eager_loop",), BATCHES, ("layer_norm",)),
    "ragged": Block("ragged training", "train", ("torch",), BATCHES, ("packed",)),
    "variant": Block("variants, training", "train", ("plain",), FEW, tuple(VARIANTS)[1:-1]),
}

TITLES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "eager_loop": "eager loop", "plain": "plain cell"}


@dataclass(frozen=True)
class Case:
    """One row: a block, a shape, a variant."""

    block: str
    shape: Shape
    variant: str = "plain"

    @property
    def name(self) -> str:
        """What `--only` matches."""
        return f"{self.block}/{self.shape}" + (f"/{self.variant}" if self.block == "variant" else "")

    @property
    def mode(self) -> str:
        """'stream', 'infer' or 'train'."""
        return BLOCKS[self.block].mode

    @property
    def bf16(self) -> bool:
        """Whether all contestants run under bfloat16 autocast."""
        return BLOCKS[self.block].bf16

    @property
    def rivals(self) -> tuple[str, ...]:
        """Who else runs."""
        return BLOCKS[self.block].rivals

    @property
    def cell(self) -> Cell:
        """The variant at this size."""
        return VARIANTS[self.variant].cell(self.shape.H)

    @property
    def extra(self) -> str:
        """What else the call carries."""
        return VARIANTS[self.variant].extra

    def flop(self, steps: int) -> int:
        """Multiplications and additions in the matrix products; training counts three times the forward.

        Args:
            steps: steps of all sequences together: B * T, less where the batch is ragged.
        """
        _, _, I, H = self.shape
        P = self.cell.projection
        per_step = 2 * len(self.cell.gates) * H * (I + (P or H)) + (2 * H * P if P else 0)
        return per_step * steps * (3 if self.mode == "train" else 1)


def all_cases() -> list[Case]:
    """Every case, variants of one shape together."""
    return [Case(name, s, v) for name, b in BLOCKS.items() for s in b.shapes for v in b.variants]


def quick_cases() -> list[Case]:
    """The cheapest case of each block and variant."""
    best: dict[tuple[str, str], Case] = {}
    for case in all_cases():
        key, (B, T, _, _) = (case.block, case.variant), case.shape
        old = best.setdefault(key, case)
        if case.flop(B * T) < old.flop(old.shape.B * old.shape.T):
            best[key] = case
    return list(best.values())


class Target(NamedTuple):
    """One threshold on a geometric mean.

    rival: whose time over ours is the ratio; 'peak': our share of the matrix peak instead, at H >= 256.
    cost: the ratio is our time over the rival's instead, smaller is better, and the worst variant counts.
    needs: a CPU flag without which the row is measured but not judged.
    """

    block: str
    rival: str
    least: float | None
    aim: float
    cost: bool = False
    needs: str = ""


TARGETS = (
    Target("stream", "torch", 8, 15),
    Target("stream", "onnxruntime", 1, 1.5),
    Target("infer", "torch", 1.4, 1.75),
    Target("infer", "onnxruntime", 1.2, 1.5),
    Target("train", "torch", 1.7, 2.1),
    Target("train", "peak", None, 0.85),
    Target("bf16", "torch", 1.5, 2.2, needs="amx_bf16"),
    Target("variant", "plain", 1.35, 1.15, cost=True),
    Target("layer_norm", "eager_loop", 2.5, 3.5),
    Target("ragged", "torch", 5, 10),
)

PEAK_SIZES = (512, 1024, 1536)  # n of the n x n products of which the best counts
SAMPLE_SECONDS = 0.02  # a round repeats a short case until it lasts this long
SETTLE_SECONDS = 0.02  # between contestants: idle threads of OpenMP and of ONNX Runtime spin for milliseconds
ROUNDS, QUICK_ROUNDS = 15, 3
BUSY = 0.1  # share of the cores that others may take; beyond it a run is not kept
