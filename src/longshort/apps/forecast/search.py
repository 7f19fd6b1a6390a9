"""`search`: settings of a forecaster, found by trying them with Optuna. Akiba et al. 2019."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import narwhals as nw
from torch import nn

from longshort import checks
from longshort.apps.forecast.config import Config
from longshort.apps.forecast.data import Panel, read
from longshort.apps.forecast.tables import Columns
from longshort.apps.forecast.task import ForecastTask
from longshort.cell import Cell
from longshort.task import Split
from longshort.train import Training, train

SPACE: Mapping[str, Any] = {
    "hidden": [32, 64, 128],
    "dilations": [(1,), (1, 2), (1, 2, 4)],
    "dropout": (0.0, 0.3),
    "batch": [64, 128, 256],
    "lr": (3e-4, 1e-2),
}
OF_CONFIG, OF_TRAINING = ({f.name: f.default for f in fields(c)} for c in (Config, Training))
FIXED = {
    **dict.fromkeys(("horizon", "levels", "freq", "season_length", "point", "holdout"), "says what is judged, or how"),
    **dict.fromkeys(("past", "future", "static"), "says which columns the data has, and all are read"),
    **dict.fromkeys(("ensemble", "calibrate"), "does not matter in a trial, which is one network judged by its point forecast"),
    **dict.fromkeys(("seed", "device", "save_steps", "save_seconds"), "is no property of a good model"),
}
FIRST = 5  # trials that are never pruned


@dataclass(frozen=True)
class Search:
    """What a search has found.

    Args:
        config: the best settings.
        training: how the best network was trained.
        score: its MASE on the held-out end of the series.
        trials: every trial: `trial, MASE` (of a pruned one the best until then, none if its settings exclude each other),
            `state` (complete, pruned or failed), `seconds`, and one column per setting; a frame of the kind that came in.
        best: the settings that were chosen, by name.
    """

    config: Config
    training: Training
    score: float
    trials: Any = field(repr=False)
    best: Mapping[str, Any]

    @property
    def flags(self) -> list[str]:
        """The best settings as words for `longshort train forecast`."""
        made = []
        for name, v in self.best.items():
            flag = name.replace("_", "-")
            if isinstance(v, bool):
                made.append(f"--{flag}" if v else f"--no-{flag}")
            elif v is not None:
                made.append(" ".join([f"--{flag}", *map(str, v if isinstance(v, tuple) else (v,))]))
        return made


def search(
    df: Any, *, horizon: int, space: Mapping[str, Any] | None = None, trials: int = 20, seconds: float | None = None,
    storage: Path | str | None = None, training: Training | None = None, cell: Cell | None = None, static_data: Any = None,
    columns: Columns = Columns(), progress: bool = False, **settings: Any,  # noqa: B008
) -> Search:  # fmt: skip
    """Try settings and keep what scores best on the held-out end of the series, which no trial learns from.

    Each trial trains one network and is judged by the MASE that `ForecastTask` scores while it trains, the best of the run; it is
    stopped when that stays behind the median of the trials before it. The first trial takes the settings as they are, if the
    space holds them, so that the result is never worse than these there. Of many trials the best score flatters a little:
    judge the winner on data that came later.

    Args:
        df: a frame or a file as in `Forecaster.fit`.
        horizon: steps to forecast.
        space: what to try, by field of `Config` or `Training`: a list of choices; or a tuple (low, high) of two numbers, both
            included, which is searched on a logarithmic scale if it spans a factor of ten. None takes `SPACE`, but for the
            fields that are given.
        trials: how many, those in `storage` included.
        seconds: start no trial after this time.
        storage: file that keeps the trials, so that the same call goes on with them: .db or .sqlite for SQLite, else a journal
            of JSON lines. None keeps nothing.
        training: how to train, but for the fields in space.
        cell: the variant of the LSTM.
        static_data: as static in `Forecaster.fit`.
        columns: names of the id, time and value columns.
        progress: one line per trial on standard error; otherwise nothing is printed.
        **settings: further fields of `Config`.

    Returns:
        The best settings, and all trials.

    Raises:
        ImportError: Optuna is not installed.
        TypeError: a field is unknown, or df is no frame.
        ValueError: the space is wrong, the storage is of another search, or nothing can be held out to judge by.
        FloatingPointError: the loss diverged in every trial.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError("search needs Optuna: pip install 'longshort[search]'.") from None
    if unknown := sorted(set(settings) - set(OF_CONFIG)):
        raise TypeError(f"search has no setting {', '.join(unknown)}; Config has {', '.join(OF_CONFIG)}.")
    checks.count("trials", trials)
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds!r}.")
    config, how, cell = Config(horizon=horizon, **settings), training or Training(), cell or Cell()
    if space is None:
        mine = {k for k, v in asdict(how).items() if v != OF_TRAINING[k]}
        space = {k: v for k, v in SPACE.items() if k not in settings and k not in mine}
    plan = {name: _Range.of(name, v, config, how) for name, v in space.items()}
    if not plan:
        raise ValueError("space must name at least one setting to try; all those of the default space are given.")
    panel = read(df, config.freq, columns, config.names, static=static_data)
    if not len(ForecastTask(replace(config, freq=panel.freq.name), panel, cell).held[0]):
        raise ValueError(
            "search needs held-out windows to judge by, and there are none: the series are too short, or holdout is 0."
        )
    about = {"config": asdict(config), "training": asdict(how), "cell": asdict(cell), "data": panel.checksum,
             "space": {k: v.text for k, v in plan.items()}}  # fmt: skip
    with _quiet(optuna):
        study = _study(optuna, storage, json.loads(json.dumps(about)), how.seed)
        usual = {name: r.inward(_settings(config, how)[name]) for name, r in plan.items()}
        tried = _tried(study)
        if not tried and None not in usual.values():
            study.enqueue_trial(usual)

        def objective(trial: Any) -> float:
            chosen = {name: r.suggest(trial, name) for name, r in plan.items()}
            try:
                c, t = apply(config, how, chosen)
            except ValueError as e:  # settings that exclude each other, such as deepar and attention
                trial.set_user_attr("refused", str(e))
                raise optuna.TrialPruned from None
            task = _Watched(ForecastTask(replace(c, freq=panel.freq.name), panel, cell), trial)
            try:
                scores = train(cast(Any, task), t, progress=False).scores
            except FloatingPointError:
                trial.set_user_attr("diverged", True)
                raise
            if scores.get("MASE") is None:
                raise ValueError(
                    "search needs a MASE to judge by, and there is none: every series is constant, or all are short."
                )
            return cast(float, scores["MASE"])

        def said(study: Any, trial: Any) -> None:
            best = [t.value for t in study.trials if t.value is not None and t.state.name == "COMPLETE"]
            v = _reached(trial)
            reached = trial.user_attrs.get("refused", "diverged") if v is None else f"MASE {v:.4g}"
            words = "  ".join(f"{k} {r.show(trial.params[k])}" for k, r in plan.items() if k in trial.params)
            state = "  stopped early" if trial.state.name == "PRUNED" and "refused" not in trial.user_attrs else ""
            print(f"trial {len(_tried(study))}/{trials}  {reached}{state}  "
                  + (f"(best {min(best):.4g})  " if best else "") + words, file=sys.stderr)  # fmt: skip

        if len(tried) < trials:
            study.optimize(
                objective,
                n_trials=trials - len(tried),
                timeout=seconds,
                catch=(FloatingPointError,),
                callbacks=[said] if progress else [],
            )
        done = _tried(study)
    good = [t for t in done if t.state.name == "COMPLETE"]
    if not good and done and all("refused" in t.user_attrs for t in done):
        raise ValueError(f"all {len(done)} trials were refused: {done[0].user_attrs['refused']}")
    if not done:
        raise ValueError("no trial was finished in the time that was given. Give more seconds.")
    if not good:
        ran = [t for t in done if "refused" not in t.user_attrs]
        raise FloatingPointError(f"the loss diverged in all of {len(ran)} trials. Try a lower lr.")
    first = min(good, key=lambda t: t.value)
    best = {name: r.value(first.params[name]) for name, r in plan.items()}
    return Search(*apply(config, how, best), first.value, _table(panel, done, plan), best)


def _tried(study: Any) -> list[Any]:
    """The trials that came to an end of their own: not those that were interrupted or killed."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or "diverged" in t.user_attrs]


def apply(config: Config, training: Training, chosen: Mapping[str, Any]) -> tuple[Config, Training]:
    """Both with some fields replaced; each name belongs to one of them."""
    return (replace(config, **{k: v for k, v in chosen.items() if k in OF_CONFIG}),
            replace(training, **{k: v for k, v in chosen.items() if k in OF_TRAINING}))  # fmt: skip


def read_space(words: Sequence[str]) -> dict[str, Any]:
    """A space from words: NAME=1,2,4 and NAME=a,b are choices, NAME=0.001:0.01 is a range, dilations=[1],[1,2] is JSON.

    Raises:
        ValueError: a word has another form.
    """
    made: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise ValueError(
                f"space must be NAME=CHOICE,CHOICE,... or NAME=LOW:HIGH, such as hidden=32,64 or lr=0.001:0.01, got {word!r}."
            )
        try:
            made[name.replace("-", "_")] = tuple(map(json.loads, text.split(":"))) if ":" in text else json.loads(f"[{text}]")
        except ValueError:
            if ":" in text:
                raise ValueError(f"space: the ends of {word!r} must be two numbers, such as lr=0.001:0.01.") from None
            made[name.replace("-", "_")] = text.split(",")
    return made


@dataclass(frozen=True)
class _Range:
    """The values that one setting may take: choices, as JSON so that any storage can hold them, or a range of numbers."""

    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0

    @classmethod
    def of(cls, name: str, given: Any, config: Config, training: Training) -> _Range:
        name_of = "Config" if name in OF_CONFIG else "Training"
        if name not in OF_CONFIG and name not in OF_TRAINING:
            raise ValueError(f"space names {name!r}, which is a field of neither Config ({', '.join(OF_CONFIG)}) nor Training "
                             f"({', '.join(OF_TRAINING)}).")  # fmt: skip
        if name in FIXED:
            raise ValueError(f"space must not name {name}: it {FIXED[name]}. Give it as a setting instead.")
        if isinstance(given, tuple):
            if (
                len(given) != 2
                or any(isinstance(v, bool) or not isinstance(v, int | float) for v in given)
                or not given[0] < given[1]
            ):
                raise ValueError(
                    f"space[{name!r}] must be a list of choices or a tuple (low, high) of two numbers, low < high, got {given!r}."
                )
            made, values = cls(low=given[0], high=given[1]), list(given)
        elif isinstance(given, list) and given:
            made, values = cls(tuple(json.dumps(v) for v in given)), given
        else:
            raise ValueError(f"space[{name!r}] must be a list of choices or a tuple (low, high) of two numbers, got {given!r}.")
        if len(set(made.choices)) < len(made.choices):
            raise ValueError(f"space[{name!r}] must hold different choices, got {given!r}.")
        for v in values:
            try:
                apply(config, training, {name: tuple(v) if isinstance(v, list) else v})
            except TypeError as e:
                raise ValueError(f"space[{name!r}] holds {v!r}, but {name_of} says: {e}") from None
        return made

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def text(self) -> str:
        return " | ".join(self.choices) or f"{self.low} ... {self.high}"

    def suggest(self, trial: Any, name: str) -> Any:
        if self.choices:
            return self.value(trial.suggest_categorical(name, self.choices))
        ask = trial.suggest_int if self.whole else trial.suggest_float
        return ask(name, self.low, self.high, log=bool(self.low > 0 and self.high >= 10 * self.low))

    def value(self, held: Any) -> Any:
        """The value of a setting from what the storage holds."""
        if not self.choices:
            return held
        v = json.loads(held)
        return tuple(v) if isinstance(v, list) else v

    def inward(self, value: Any) -> Any:
        """What the storage holds for a value; None if it is not in the range."""
        if self.choices:
            return next((c for c in self.choices if self.value(c) == value), None)
        return value if isinstance(value, int | float) and self.low <= value <= self.high else None

    def show(self, held: Any) -> str:
        """A value as a person reads it."""
        v = self.value(held)
        return " ".join(map(str, v)) if isinstance(v, tuple) else f"{v:.3g}" if isinstance(v, float) else str(v)


class _Watched:
    """A task that tells a trial each score, and ends the run of one that has no prospect."""

    def __init__(self, task: ForecastTask, trial: Any) -> None:
        self.task, self.trial, self.seen = task, trial, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        scores = self.task.score(model, split)
        if "MASE" in scores:
            self.trial.report(scores["MASE"], self.seen)
            self.seen += 1
            if self.trial.should_prune():
                import optuna

                raise optuna.TrialPruned
        return scores


def _settings(config: Config, training: Training) -> dict[str, Any]:
    return asdict(training) | {f: getattr(config, f) for f in OF_CONFIG}


def _study(optuna: Any, storage: Path | str | None, about: dict[str, Any], seed: int) -> Any:
    """The study in a storage, or a new one."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=2)
    try:
        where = None if storage is None else _storage(optuna, Path(storage))
        study = optuna.create_study(storage=where, study_name="longshort", pruner=pruner, load_if_exists=True)
    except OSError:
        raise
    except Exception as e:  # whatever Optuna, SQLite and JSON say of a file that is something else
        why = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ValueError(f"{storage} cannot be read as the storage of a search: {why}. Give the name of a new file.") from None
    held = study.user_attrs.get("about")
    if held is None:
        study.set_user_attr("about", about)
    elif held != about:
        differs = [k for k in about if held.get(k) != about[k]]
        raise ValueError(
            f"{storage} holds a search with another {' and '.join(differs)}. Give another storage, or the same again."
        )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=FIRST)
    return study


def _storage(optuna: Any, path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna says nothing but errors meanwhile."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _reached(trial: Any) -> float | None:
    return trial.value if trial.value is not None else min(trial.intermediate_values.values(), default=None)


def _table(panel: Panel, done: Sequence[Any], plan: Mapping[str, _Range]) -> Any:
    states = {"COMPLETE": "complete", "PRUNED": "pruned"}
    made: dict[str, list[Any]] = {
        "trial": [t.number for t in done],
        "MASE": [float("nan") if (v := _reached(t)) is None else v for t in done],
        "state": [states.get(t.state.name, "failed") for t in done],
        "seconds": [t.duration.total_seconds() if t.duration else 0.0 for t in done],
    }
    for name, r in plan.items():
        values = [r.value(t.params[name]) if name in t.params else None for t in done]
        if any(isinstance(v, float) for v in values):  # polars takes the kind of the first one, and no other
            values = [float(v) if type(v) is int else v for v in values]
        made[name] = [r.show(t.params[name]) if name in t.params else None for t in done] if any(
            isinstance(v, tuple) for v in values) else values  # fmt: skip
    return nw.from_dict(made, backend=panel.ids.implementation).to_native()
