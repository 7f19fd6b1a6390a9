"""Laws of frames, frequencies and panels. pandas' own calendar is the judge of ours."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.apps.forecast.covariates import Names
from longshort.apps.forecast.data import Panel, read
from longshort.apps.forecast.freq import from_wall, infer, parse, wall_clock
from longshort.apps.forecast.tables import PIECE, Columns

CALENDARS = [
    "D",
    "2D",
    "W-SUN",
    "W-SAT",
    "MS",
    "ME",
    "2MS",
    "QS-JAN",
    "QE-DEC",
    "YS-JAN",
    "YE-DEC",
    "h",
    "6h",
    "30min",
    "15min",
    "s",
    "B",
    "17D",
]


def frame(ds, y=None, name="a"):
    return pd.DataFrame({"unique_id": name, "ds": ds, "y": np.arange(len(ds), dtype=float) if y is None else y})


def only(panel: Panel, columns=None):
    """What the frame of steps 0..3 of the first series looks like."""
    s = np.zeros(4, np.int64)
    return panel.frame(s, {"ds": panel.stamps(s, np.arange(4)), **(columns or {})})


@pytest.mark.parametrize("name", CALENDARS)
@given(start=st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2090, 1, 1)), n=st.integers(2, 80))
@settings(max_examples=20, deadline=None)
def test_calendar_is_that_of_pandas(name, start, n):
    start = pd.Timestamp(start).floor("s") if name in ("s", "h", "6h", "30min", "15min") else pd.Timestamp(start).normalize()
    dates = pd.date_range(start, periods=n, freq=name).to_numpy().astype("M8[us]")
    freq, k = parse(name), np.arange(n)
    first = np.repeat(dates[:1], n)
    assert (freq.stamps(first, k) == dates).all()
    position, on_grid = freq.positions(dates, first)
    assert on_grid.all()
    assert (position == k).all()
    assert not freq.misfit(dates).any()
    assert parse(freq.name) == freq


@pytest.mark.parametrize("name", CALENDARS)
def test_inferred_frequency_goes_on_as_pandas_does(name):
    dates = pd.date_range("2020-01-01", periods=60, freq=name).to_numpy().astype("M8[us]")
    kept = np.r_[0:20, 23:49]  # with a gap
    freq = infer(dates[kept], np.zeros(len(kept), int))
    assert (freq.stamps(np.repeat(dates[:1], 60), np.arange(60)) == dates).all()
    assert freq.season == parse(name).season


def test_seasons_by_custom():
    table = {
        "YE": 1,
        "QS": 4,
        "MS": 12,
        "2MS": 6,
        "W": 52,
        "D": 7,
        "B": 5,
        "h": 24,
        "30min": 48,
        "15m": 96,
        "10s": 360,
        "7h": 1,
        "3": 1,
    }
    assert {k: parse(k).season for k in table} == table


def test_names_of_pandas_and_polars():
    assert parse("1mo") == parse("M")
    assert parse("15m") == parse("15min") == parse("15T")
    assert parse(3) == parse("3")
    for bad in ("fortnight", "", "0D", "W-XYZ", "D-MON", "-1"):
        with pytest.raises(ValueError, match=r"freq .* is unknown\. Write a whole number"):
            parse(bad)
    for bad in (None, True, 1.5):
        with pytest.raises(TypeError, match="freq must be text"):
            parse(bad)


GOOD = frame(pd.date_range("2020-01-01", periods=4))
DAYS = list(GOOD.ds)
BERLIN, UTC = dt.timezone(dt.timedelta(hours=1)), dt.UTC
WRONG = {
    "no y": (GOOD.drop(columns="y"), "missing: y, found: unique_id, ds"),
    "more columns": (GOOD.assign(price=1, shop=2), "unknown columns: price, shop"),
    "empty": (GOOD.iloc[:0], "at least one row, got an empty frame"),
    "twice": (frame([1, 2, 2, 3]), r"series 'a', row 2 \(ds 2\) repeats the time stamp of row 1"),
    "text y": (frame([1, 2], ["1.5", "x"]), r"series 'a', row 0 \(ds 1\) has y = '1.5', which is no number"),
    "bool y": (frame([1, 2], [True, False]), "has y = True, which is no number"),
    "infinite": (frame([1, 2, 3], [0, np.inf, -np.inf]), r"row 1 \(ds 2\) has y = inf.*\(and 1 more row like it\)"),
    "all missing": (pd.concat([GOOD, frame(DAYS, np.nan, "b")], ignore_index=True), "series 'b', row 4 .* every y is missing"),
    "id missing": (GOOD.assign(unique_id=["a", None, "a", "a"]), r"row 1 .* has no unique_id"),
    "id nan": (GOOD.assign(unique_id=[1.0, 1.0, np.nan, 1.0]), r"row 2 .* has no unique_id"),
    "id empty": (GOOD.assign(unique_id=["a", "", "a", "a"]), r"row 1 .* has no unique_id"),
    "ids of two kinds": (GOOD.assign(unique_id=["a", "a", 3, 3]), "unique_id must be of one kind to be sorted, got int and str"),
    "no ds": (GOOD.assign(ds=[*DAYS[:3], pd.NaT]), r"row 3 .* has no ds"),
    "float ds": (frame([1.0, 2.0]), "ds must hold whole numbers or time stamps, got a column of Float64"),
    "text ds": (frame(["1", "2"]), r"series 'a', row 0 \(ds 1\) is no time stamp"),
    "no such day": (frame(["2024-02-28", "2024-02-30"]), r"row 1 \(ds 2024-02-30\) is no date"),
    "two zones": (frame([dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(2020, 1, 2, tzinfo=BERLIN)]), "column of mixed time zones"),
    "two offsets": (frame(["2024-01-01T00:00Z", "2024-01-01 01:00+01:00"]), r"row 1 .* the time zone \+01:00, .* before have the time zone UTC"),
    "an offset and none": (frame(["2024-01-01 00:00", "2024-01-01 01:00Z"]), "has the time zone UTC, the rows before have no time"),
    "no such offset": (frame(["2024-01-01 00:00+25:00", "2024-01-01 01:00+25:00"]), r"row 0 .* is no time stamp"),
    "a month less": (frame(["2024-01-0130", "2024-02-0130"]), r"row 0 .* is no time stamp"),
    "off the grid": (frame([*DAYS, pd.Timestamp("2020-01-05 01:00")]), r"row 4 .* is not on the grid of step 'D'"),
    "far away": (frame([*DAYS, pd.Timestamp("2200-01-01")]), r"row 0 .* 5 rows that spans 65745 steps of 'D'"),
    "one stamp": (frame([7]), "freq cannot be inferred: no series has two time stamps"),
}  # fmt: skip


NOT_POLARS = {"two zones", "ids of two kinds"}  # polars has no such columns


@pytest.mark.parametrize(
    ("case", "to"), [(k, pd.DataFrame) for k in WRONG] + [(k, pl.from_pandas) for k in WRONG if k not in NOT_POLARS]
)
def test_bad_input_is_named(case, to):
    bad, message = WRONG[case]
    bad = to(bad)
    with pytest.raises(ValueError, match=message):
        read(bad)


def test_wrong_frequency_is_named():
    with pytest.raises(ValueError, match="freq 'D' does not fit ds, which holds whole numbers"):
        read(frame([1, 2]), "D")
    with pytest.raises(ValueError, match="freq '1' does not fit ds, which holds time stamps"):
        read(GOOD, 1)
    with pytest.raises(ValueError, match=r"row 0 .* does not fit freq 'W-SAT'.*3 more rows"):
        read(frame(pd.date_range("2020-01-05", periods=4, freq="W")), "W-SAT")
    with pytest.raises(ValueError, match=r"row 1 .* does not fit freq 'MS'"):
        read(frame(pd.to_datetime(["2020-01-01", "2020-02-02"])), "MS")


def test_source_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"pandas or polars DataFrame .* got LazyFrame\. A lazy frame must be collected"):
        read(pl.from_pandas(GOOD).lazy())
    with pytest.raises(TypeError, match="got int"):
        read(3)
    with pytest.raises(FileNotFoundError, match=r"x\.csv' does not exist"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        read(tmp_path / "x.txt")


def test_gaps_are_missing_values_and_order_does_not_matter():
    table = pd.concat([frame([3, 1, 7, 5], [30.0, 10.0, 70.0, None], "b"), frame([2, 4], [1, 2], "a")]).sample(
        frac=1, random_state=0
    )
    panel = read(table)
    assert panel.ids.to_list() == ["a", "b"]
    assert panel.freq.name == "2"
    np.testing.assert_array_equal(panel.y, [1, 2, 10, 30, np.nan, 70])
    np.testing.assert_array_equal(panel.lengths, [2, 4])
    np.testing.assert_array_equal(panel.observed(), [2, 3])
    np.testing.assert_array_equal(panel.history(1, 2), [10, 30])
    window = panel.window(np.array([1, 0]), np.array([-1, 1]), 4)
    np.testing.assert_array_equal(window, [[np.nan, 10, 30, np.nan], [2, np.nan, np.nan, np.nan]])
    head = panel.head(np.array([1, 3]))
    np.testing.assert_array_equal(head.y, [1, 10, 30, np.nan])
    np.testing.assert_array_equal(head.offset, [0, 1, 4])
    assert head.checksum != panel.checksum == read(table.sample(frac=1, random_state=1)).checksum


def test_a_large_parquet_file_is_read_in_pieces_as_a_frame_is(tmp_path):
    r, S, T = np.random.default_rng(0), 900, 150
    table = pd.concat([frame(pd.date_range("2020-01-01", periods=T), r.normal(size=T), f"s{k * 7919 % S:03d}") for k in range(S)])
    table = table.assign(traffic=r.normal(size=len(table)), kind="k" + table.unique_id.str[-1], price=1.5, ok=True)
    names = Names(past=("traffic",), future=("price", "ok"), static=("kind",))
    gaps = table[(np.arange(len(table)) % 11 > 0) | (table.ds < "2020-01-02")]  # gaps need the scatter, whole series do not
    for data in (table, table.sort_values(["unique_id", "ds"]), gaps, table.sample(frac=1, random_state=0)):
        pl.from_pandas(data).write_parquet(tmp_path / "t.parquet", row_group_size=70_001)
        assert len(data) > PIECE
        panel, wanted = read(tmp_path / "t.parquet", names=names), read(data, names=names)
        assert panel.checksum == wanted.checksum
        assert panel.freq == wanted.freq
        assert panel.ids.to_list() == wanted.ids.to_list()
    data = table.reset_index(drop=True)
    for row, what, message in ((140_000 - 10_000, "y", "y = inf"), (len(data) - 1, "ds", "is not on the grid of step 'D'")):
        bad = data.copy()
        bad.loc[row, what] = np.inf if what == "y" else bad.ds[row] + pd.Timedelta(hours=1)
        bad.to_parquet(tmp_path / "t.parquet", index=False)
        with pytest.raises(ValueError, match=rf"series '{bad.unique_id[row]}', row {row} \(ds {bad.ds[row]}\).*{message}"):
            read(tmp_path / "t.parquet", names=names)


def test_a_parquet_file_without_rows_is_named(tmp_path):
    GOOD.iloc[:0].to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="at least one row, got an empty frame"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(("library", "suffix"), [("pandas", "csv"), ("pandas", "parquet"), ("pyarrow", "parquet")])
def test_files_need_a_library(tmp_path, monkeypatch, library, suffix):
    path = tmp_path / f"t.{suffix}"
    getattr(GOOD, f"to_{suffix}")(path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImportError, match=rf"t\.{suffix}' needs {library}, which is not installed: pip install 'longshort\[{suffix}\]'"
    ):
        read(path)


def test_a_column_is_of_one_kind_however_long_the_file(tmp_path):
    ids = np.repeat([f"{k}" for k in range(100_000, 100_007)] + ["A1"], 50_000)
    table = pd.DataFrame({"unique_id": ids, "ds": np.tile(np.arange(50_000), 8), "y": 1.0})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert read(tmp_path / "t.csv").ids.to_list() == [*dict.fromkeys(ids)]


def test_files_are_read_as_frames_are(tmp_path):
    table = pd.concat([frame(DAYS, [1.5, None, 3, 4], "NA"), frame(DAYS, name="x")], ignore_index=True)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    panels = [read(table), read(tmp_path / "t.csv"), read(str(tmp_path / "t.parquet"))]
    assert len({p.checksum for p in panels}) == 1
    assert panels[1].ids.to_list() == ["NA", "x"]


DTYPES = {
    "pandas ns": frame(pd.date_range("2020-01-01", periods=4).astype("M8[ns]")),
    "pandas Berlin, days over the change to summer time": frame(pd.date_range("2020-03-28", periods=4, tz="Europe/Berlin")),
    "pandas Berlin, hours over the change to summer time": frame(
        pd.date_range("2020-03-29", periods=4, freq="h", tz="Europe/Berlin")
    ),
    "pandas New York": frame(pd.date_range("2020-03-07", periods=4, tz="America/New_York")),
    "pandas New York, hours": frame(pd.date_range("2020-03-08", periods=4, freq="h", tz="America/New_York")),
    "pandas int32": frame(np.arange(4, dtype=np.int32)),
    "pandas categorical id": GOOD.assign(unique_id=pd.Categorical(["a"] * 4)),
    "pandas odd index": GOOD.set_index(pd.Index([5, 5, 1, 0])),
    "polars date": pl.DataFrame({"unique_id": [7] * 4, "ds": [d.date() for d in DAYS], "y": [1, 2, 3, 4]}),
    "polars zone": pl.from_pandas(frame(pd.date_range("2020-03-28", periods=4, tz="Europe/Berlin"))),
}


@pytest.mark.parametrize("case", DTYPES)
def test_what_comes_out_is_what_went_in(case):
    table = DTYPES[case]
    out = only(read(table), {"y": np.arange(4.0)})
    assert type(out) is type(table)
    a, b = nw.from_native(table), nw.from_native(out)
    assert {k: a.schema[k] for k in ("unique_id", "ds")} == {k: b.schema[k] for k in ("unique_id", "ds")}
    assert a["ds"].to_list() == b["ds"].to_list()
    assert a["unique_id"].to_list() == b["unique_id"].to_list()


@pytest.mark.parametrize("kind", ["text", "csv", "polars"])
@pytest.mark.parametrize("written", ["T{}Z", "T{} UTC", " {}+00:00", " {}+0000", " {}:00-03:30", "T{}:00.5+0530", " {}"])
def test_text_may_name_how_far_it_is_from_utc(written, kind, tmp_path):
    ds = ["2024-03-30" + written.format(clock) for clock in ("21:00", "22:00", "23:00")]
    want, table = pd.to_datetime(pd.Series(ds)), frame(ds)
    if kind == "csv":
        table.to_csv(table := tmp_path / "a.csv", index=False)
    elif kind == "polars":
        table = pl.from_pandas(table)
        if want.dt.tz not in (None, dt.UTC):
            with pytest.raises(ValueError, match="polars column cannot always be that far from UTC"):
                read(table)
            return
    made = pd.to_datetime(pd.Series(only(read(table))["ds"].to_list()))
    assert (made[:3] == want).all()
    assert str(made.dt.tz) == str(want.dt.tz)
    assert (made.diff()[1:] == pd.Timedelta("1h")).all()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Santiago", "America/Havana", "Australia/Lord_Howe", "UTC", None])
def test_every_time_of_a_clock_has_its_moment(zone):
    utc = np.arange("2024-01-01", "2025-06-01", 30, dtype="M8[m]").astype("M8[us]")
    shown = wall_clock(utc, zone)
    made = from_wall(shown, zone)
    np.testing.assert_array_equal(wall_clock(made, zone), shown)
    assert (np.abs(made - utc) <= np.timedelta64(1, "h")).all()
    _, at, many = np.unique(shown, return_inverse=True, return_counts=True)
    once = many[at] == 1
    np.testing.assert_array_equal(made[once], utc[once])
    assert once.mean() > 0.99


def test_days_go_on_over_a_midnight_that_the_clocks_skip():
    zone = "America/Santiago"  # 2024-09-08 begins at one o'clock
    panel = read(frame(pd.date_range("2024-08-29", periods=4, tz=zone)))
    s = np.zeros(14, np.int64)
    made = panel.frame(s, {"ds": panel.stamps(s, 4 + np.arange(14))}).ds
    want = pd.date_range("2024-09-02", periods=14).tz_localize(zone, nonexistent="shift_forward")
    assert made.tolist() == want.tolist()
    again = read(frame(pd.date_range("2024-08-29", periods=18).tz_localize(zone, nonexistent="shift_forward")), "D")
    assert (len(again.y), again.y.tolist()) == (18, [*range(18)]), "what is written can be read"
    begun = read(frame(pd.date_range("2024-09-08", periods=5).tz_localize(zone, nonexistent="shift_forward")), "D")
    assert begun.y.tolist() == [*range(5)]


def test_whole_numbers_have_room_for_what_follows():
    for kind in (np.int8, np.uint8, np.int16):
        end = np.iinfo(kind).max
        panel, s = read(frame(np.arange(end - 3, end + 1).astype(kind))), np.zeros(3, np.int64)
        assert panel.frame(s, {"ds": panel.stamps(s, np.arange(3, 6))}).ds.tolist() == [end, end + 1, end + 2]


def test_other_column_names():
    names = Columns("shop", "day", "sales")
    panel = read(GOOD.set_axis(list(names), axis=1), columns=names)
    assert list(panel.frame(np.zeros(1, np.int64), {"day": panel.start}).columns) == ["shop", "day"]
    with pytest.raises(ValueError, match=r"missing: shop, day, sales.*id_col="):
        read(GOOD, columns=names)


def test_text_dates_become_time_stamps():
    panel = read(frame(["2020-01", "2020-02", "2020-03-01 00:00"]))
    assert panel.freq.name == "MS"
    assert only(panel).ds.iloc[-1] == pd.Timestamp("2020-04-01")


def test_data_preparation_needs_neither_torch_nor_a_frame_library():
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'polars', 'matplotlib'): sys.modules[name] = None\n"
        "from longshort.apps.forecast import covariates, data, freq, metrics, window\n"
        "import numpy as np\n"
        "print(window.encode(np.arange(24.)[None], 3, (12,)).guesses.shape)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=60)
    assert out.stdout.strip() == "(1, 3, 3)", out.stderr


def test_the_forecaster_imports_no_frame_library():
    code = (
        "import sys\n"
        "import longshort.apps.forecast.forecaster\n"
        "print(sorted({'pandas', 'polars', 'pyarrow', 'matplotlib', 'jinja2', 'optuna', 'statsforecast', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=60)
    assert out.stdout.strip() == "[]", out.stderr


def test_polars_frames_need_no_pandas():
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'pyarrow'): sys.modules[name] = None\n"
        "import numpy as np, polars as pl\n"
        "from longshort.apps.forecast.covariates import Names\n"
        "from longshort.apps.forecast.data import read\n"
        "table = pl.DataFrame({'unique_id': ['b', 'b', 'a'], 'ds': [1, 2, 4], 'y': [1, 2, 3], 'kind': ['x', 'x', 'y']})\n"
        "panel = read(table, names=Names(static=('kind',)))\n"
        "print(panel.frame(np.arange(2), {'ds': panel.start}).rows(), panel.covariates.labels)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=60)
    assert out.stdout.strip() == "[('a', 4), ('b', 1)] (('y', 'x'),)", out.stderr


def rows(*ids: str, days: int = 5) -> str:
    return "".join(f"{i},2024-01-{d + 1:02},{d}\n" for i in ids for d in range(days))


@pytest.mark.parametrize(
    ("ids", "want"),
    [
        (["001", "1", "02"], ["001", "02", "1"]),
        (["10", "9", "-3"], [-3, 9, 10]),  # numbers stay numbers
        (["1.10", "1.1", "1E5", "100000"], ["1.1", "1.10", "100000", "1E5"]),
        (["true", "TRUE", "12345678901234567890"], ["12345678901234567890", "TRUE", "true"]),
        (["-0", "0"], ["-0", "0"]),
    ],
)
def test_series_of_a_csv_file_are_those_that_it_names(tmp_path, ids, want):
    (tmp_path / "t.csv").write_text("unique_id,ds,y\n" + rows(*ids))
    panel = read(tmp_path / "t.csv")
    assert panel.ids.to_list() == want
    assert panel.lengths.tolist() == [5] * len(ids)


def test_a_plan_in_a_csv_file_may_have_numbers_where_the_data_has_text(tmp_path):
    head, data = "unique_id,ds,price", "".join(f"{i},2024-01-{d + 1:02},{d},1\n" for i in ("1", "2", "A") for d in range(5))
    (tmp_path / "t.csv").write_text("unique_id,ds,y,price\n" + data)
    (tmp_path / "plan.csv").write_text(f"{head}\n1,2024-01-06,3\n2,2024-01-06,4\n")
    (tmp_path / "kind.csv").write_text("unique_id,size\n1,7\n2,8\nA,9\n")
    names = Names(future=("price",), static=("size",))
    panel = read(tmp_path / "t.csv", names=names, future=tmp_path / "plan.csv", static=tmp_path / "kind.csv")
    assert panel.covariates.ahead == 1
    assert panel.covariates.numbers[:, 0].tolist() == [7, 8, 9]
    (tmp_path / "kind.csv").write_text("unique_id,size\n1,7\n2,8\n")
    with pytest.raises(ValueError, match="no row for series 'A'"):
        read(tmp_path / "t.csv", names=names, future=tmp_path / "plan.csv", static=tmp_path / "kind.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unique_id,ds,y\na,1,1,1\na,2,1,1\na,3,1,1\n", "cannot be read as CSV: Length of header or names"),
        ("unique_id;ds;y\na;1;1\n", "The separator of a CSV file must be a comma"),
    ],
)
def test_a_csv_file_whose_rows_do_not_fit_its_header_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t.csv", 1)


def test_a_comma_at_the_end_of_each_row_does_no_harm(tmp_path):
    (tmp_path / "t.csv").write_text("unique_id,ds,y\n" + rows("a").replace("\n", ",\n"))
    assert read(tmp_path / "t.csv").ids.to_list() == ["a"]


@pytest.mark.parametrize("first", ["2022-01-01", "2023-11-20"])
@pytest.mark.parametrize("form", ["%Y%m", "%Y%m%d"])
def test_dates_without_hyphens_are_no_steps(first, form):
    ds = pd.date_range(first, periods=30, freq="MS" if form == "%Y%m" else "D").strftime(form).astype(int)
    table = pd.DataFrame({"unique_id": "a", "ds": ds, "y": range(30)})
    with pytest.raises(ValueError, match=r"row 0 \(ds 202\d+\) looks like a date. Write it as text, 2024-01 or 2024-01-31; or"):
        read(table)
    assert read(table, 1).freq.unit == "int"
    for steps in (range(202200, 202240), range(1, 31), [20231201, 20231232]):
        assert read(pd.DataFrame({"unique_id": "a", "ds": [*steps], "y": 1.0})).freq.unit == "int"


@pytest.mark.parametrize(("freq", "step"), [("h", "D"), ("D", "7D"), ("MS", "QS"), (1, 2)])
def test_data_of_a_coarser_step_are_refused(freq, step):
    when = pd.date_range("2024-01-01", periods=20, freq=step) if isinstance(step, str) else np.arange(0, 40, 2)
    table = pd.DataFrame({"unique_id": "a", "ds": when, "y": range(20)})
    with pytest.raises(ValueError, match=r"time stamp at every \d+th step of freq"):
        read(table, freq)
    for gone in ([3], [2, 9, 10]):  # gaps are gaps
        assert len(read(table.drop(gone)).y) == 20


@pytest.mark.parametrize("name", ["y", "ds", "unique_id"])
def test_what_is_forecast_is_no_covariate(name):
    table = pd.DataFrame({"unique_id": "a", "ds": range(9), "y": range(9)})
    with pytest.raises(ValueError, match=f"{name} is the id, the time or the value itself"):
        read(table, names=Names(future=(name,)))
