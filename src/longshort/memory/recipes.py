"""The nets that are compared, and how each task is learned. Chosen on seeds from 100 on; the benchmark's are 0 to 4."""

from __future__ import annotations

from longshort.cell import Cell
from longshort.memory.trial import Recipe, Variant

VARIANTS = {v.name: v for v in (
    Variant("rnn", None),
    Variant("1997", Cell(forget=False)),
    Variant("default", Cell()),
    Variant("forget-bias", Cell(), init="forget_bias"),
    Variant("chrono", Cell(), init="chrono:T"),
    Variant("peephole", Cell(peephole=True)),
    Variant("coupled", Cell(coupled=True)),
    Variant("layer-norm", Cell(layer_norm=True)),
)}  # fmt: skip
LONG, LONG_VARIANTS = 500, ("rnn", "default", "chrono")  # steps from which only these run

RECIPES = {
    "reber": Recipe(hidden=16, batch=4, lr=1e-2, most=8_000),
    "lag-100": Recipe(hidden=8, batch=1, lr=1e-2, most=5_000, direct=True, chrono=10),
    "lag-1000": Recipe(hidden=16, batch=8, lr=1e-2, most=24_000, every=25),
    "two-sequence": Recipe(hidden=16, batch=8, lr=1e-2, most=40_000, average=0.98),
    "two-sequence-target": Recipe(hidden=16, batch=16, lr=5e-3, most=80_000, average=0.998),
    "adding-100": Recipe(hidden=16, batch=8, lr=1e-2, most=70_000, average=0.995),
    "adding-500": Recipe(hidden=32, batch=8, lr=5e-3, most=120_000, average=0.998),
    "adding-1000": Recipe(hidden=32, batch=8, lr=5e-3, most=120_000, average=0.998),
    "multiplication": Recipe(hidden=32, batch=8, lr=5e-3, most=100_000, average=0.998),
    "order-2": Recipe(hidden=16, batch=8, lr=1e-2, most=31_000),
    "order-3": Recipe(hidden=32, batch=8, lr=5e-3, most=60_000),
    "continual-reber": Recipe(hidden=16, batch=2, lr=1e-2, most=14_000, average=0.98, every=200),
    "copy-500": Recipe(
        hidden=128, batch=8, lr=5e-3, most=240_000, clip=0.02, average=0.998, every=250, chrono=10, decay=True, scale=3.16
    ),
    "copy-2000": Recipe(hidden=128, batch=8, lr=5e-3, most=4_000, clip=0.02, average=0.998, every=250, chrono=10),
    "digits": Recipe(hidden=64, batch=32, lr=6e-3, most=120_000, clip=0.2, average=0.99),
    "digits-permuted": Recipe(hidden=64, batch=32, lr=6e-3, most=120_000, clip=0.2, average=0.99),
    "mnist": Recipe(hidden=128, batch=64, lr=1e-3, most=600_000, average=0.999, every=500),
    "mnist-permuted": Recipe(hidden=128, batch=64, lr=1e-3, most=600_000, average=0.999, every=500),
}
RNN_MOST = dict.fromkeys(("lag-1000", "adding-500", "adding-1000", "copy-500"), 8_000) | {"copy-2000": 2_000}
QUICK = ("reber", "lag-100", "two-sequence", "order-2")
QUICK_VARIANTS = ("rnn", "default", "chrono")
