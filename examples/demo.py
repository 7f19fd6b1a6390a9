"""Forecast two years of the Mauna Loa CO2 record that the model has not seen, and show them beside the truth.

Trains a small LSTM in less than two minutes on two CPU cores; writes forecast.png, forecast.csv and model.safetensors.

    python examples/demo.py [FOLDER]            default folder: out/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from longshort.apps.forecast import Forecaster
from longshort.train import Training

HORIZON = 104  # weeks
DATA = Path(__file__).parent / "data" / "co2.csv"


def main(out: Path, steps: int = 300) -> None:
    """Train, forecast the held-out weeks, score, and write the three files."""
    out.mkdir(parents=True, exist_ok=True)
    record = pd.read_csv(DATA, parse_dates=["ds"])  # unique_id, ds, y; 59 weeks have no value
    known = record.iloc[:-HORIZON]  # all that training and its validation ever see
    print(f"{len(record)} weeks of CO2 at Mauna Loa, {record.y.isna().sum()} of them missing; the last {HORIZON} are held out")

    forecaster = Forecaster(horizon=HORIZON, levels=(80, 95), training=Training(steps=steps, evaluate=25))
    forecaster.fit(known, progress=True)
    test = forecaster.backtest(record)  # one forecast, from the last week of `known`
    scores = test.scores()

    forecaster.save(out / "model.safetensors")
    test.frame().to_csv(out / "forecast.csv", index=False, float_format="%.3f")
    forecaster.plot(
        record, test.frame(), path=out / "forecast.png", history=6 * 52, ylabel="CO2 in ppm",
        title="CO2 at Mauna Loa: two years ahead, by an LSTM",
        subtitle=f"Trained on the weeks before {known.ds.iloc[-1]:%d %B %Y}. Mean absolute scaled error "
                 f"{scores['LSTM']['MASE']:.2f}, seasonal naive {scores['SeasonalNaive']['MASE']:.2f}",
    )  # fmt: skip
    for name, score in scores.items():
        print(f"{name:>14}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in score.items()))
    print("wrote " + ", ".join(str(out / name) for name in ("forecast.png", "forecast.csv", "model.safetensors")))
    print(f"MASE longshort={scores['LSTM']['MASE']:.3f} seasonal_naive={scores['SeasonalNaive']['MASE']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo"))
