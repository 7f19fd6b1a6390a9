"""Shops whose sales jump on promotions: the same forecaster without and with the plan of the promotions.

The table is made here. Takes about a minute on two CPU cores.

    python examples/covariates.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from longshort.apps.forecast import Forecaster
from longshort.train import Training

DAYS, HORIZON = 400, 14


def table() -> pd.DataFrame:
    """Twenty shops of two kinds: a week, a slow trend, noise, and promotions that work better in large shops."""
    rng, t, parts = np.random.default_rng(0), np.arange(DAYS), []
    for k in range(20):
        large, promotion = k % 2 == 0, (rng.random(DAYS) < 0.15).astype(int)
        size = 60 if large else 20
        sales = size * (1 + 0.2 * np.sin(2 * np.pi * t / 7 + k) + 0.001 * t + (0.5 if large else 0.2) * promotion)
        sales += 0.05 * size * rng.normal(size=DAYS)
        shop = {"unique_id": f"shop {k}", "ds": pd.date_range("2024-01-01", periods=DAYS), "y": sales}
        parts.append(pd.DataFrame(shop | {"promotion": promotion, "kind": "large" if large else "small"}))
    return pd.concat(parts, ignore_index=True)


def main(steps: int = 300) -> dict[str, float]:
    """Train both on all but the last two weeks, score them there, and show a forecast."""
    data = table()
    known = data[data.groupby("unique_id").cumcount() < DAYS - HORIZON]
    plan = data.loc[~data.index.isin(known.index), ["unique_id", "ds", "promotion"]]
    training = Training(steps=steps, lr=5e-3)
    without = Forecaster(horizon=HORIZON, training=training).fit(known[["unique_id", "ds", "y"]])
    informed = Forecaster(horizon=HORIZON, future="promotion", static="kind", training=training).fit(known)
    scores = {
        "without": without.evaluate(data[["unique_id", "ds", "y"]])["LSTM"]["MASE"],
        "with": informed.evaluate(data)["LSTM"]["MASE"],
    }
    print(
        informed.predict(future=plan)
        .head(HORIZON)
        .merge(plan, on=["unique_id", "ds"])
        .to_string(index=False, float_format="%.1f")
    )
    print(f"MASE without promotions {scores['without']:.3f}, with them {scores['with']:.3f}")
    return scores


if __name__ == "__main__":
    main()
