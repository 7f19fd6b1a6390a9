"""Laws of covariates: how they are read, and what a model sees of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import polars as pl
import pytest

from longshort.apps.forecast.covariates import MOST_LABELS, Encoding, Names, calendar, channels, encode
from longshort.apps.forecast.data import read
from longshort.apps.forecast.freq import parse, wall_clock
from longshort.apps.forecast.tables import Columns

NAMES = Names(past=("traffic",), future=("price", "holiday"), static=("size", "kind", "open"))
SIZES = {"a": 50, "b": 63, "c": 31}
KINDS = {"a": "shop", "b": "kiosk", "c": None}
AHEAD = 6


def make(freq="h", integer=False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A frame of three series with gaps in everything, and the future of two of them."""
    r, known, after = np.random.default_rng(0), [], []
    for k, (name, n) in enumerate(SIZES.items()):
        ds = np.arange(n + AHEAD) + 5 * k if integer else pd.date_range("2020-02-27", periods=n + AHEAD, freq=freq)
        table = pd.DataFrame({"unique_id": name, "ds": ds, "y": r.normal(size=n + AHEAD)})
        table["traffic"] = np.where(r.random(n + AHEAD) < 0.2, np.nan, r.normal(9, 3, n + AHEAD))
        table["price"] = np.where(r.random(n + AHEAD) < 0.2, np.nan, r.normal(100, 20, n + AHEAD))
        table["holiday"] = r.random(n + AHEAD) < 0.3
        known.append(table[:n].drop(index=[3, 4]).assign(size=10 * n, kind=KINDS[name], open=name != "b"))
        after.append(table[n:][["unique_id", "ds", "price", "holiday"]])
    return pd.concat(known, ignore_index=True), pd.concat(after[:2], ignore_index=True)


TABLE, AFTER = make()
PANEL = read(TABLE, names=NAMES, future=AFTER)
ENCODING = Encoding.fit(PANEL, NAMES, calendar=True)
SERIES, ORIGIN = np.array([0, 1, 2, 0, 1, 2]), np.array([50, 63, 31, 7, 20, 31])
L, H = 24, AHEAD


def shuffled(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(frac=1, random_state=3)


def same(one, other) -> bool:
    return all(a.dtype == np.float32 and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def extra(panel, encoding=ENCODING):
    return encode(encoding, panel, SERIES, ORIGIN, L, H)


@pytest.mark.parametrize("to", [pd.DataFrame, pl.from_pandas])
def test_order_of_rows_and_kind_of_frame_do_not_matter(to):
    panel = read(to(shuffled(TABLE)), names=NAMES, future=to(shuffled(AFTER)))
    assert panel.checksum == PANEL.checksum
    assert same(extra(panel), extra(PANEL))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_read_as_frames_are(tmp_path, suffix):
    for name, table in (("t", TABLE), ("f", AFTER)):
        if suffix == "csv":
            table.to_csv(tmp_path / f"{name}.csv", index=False)
        else:
            table.to_parquet(tmp_path / f"{name}.parquet")
    panel = read(tmp_path / f"t.{suffix}", names=NAMES, future=tmp_path / f"f.{suffix}")
    assert panel.checksum == PANEL.checksum


def test_what_goes_in_comes_out_on_the_grid():
    held, at = PANEL.covariates, dict(zip(PANEL.ids.to_list(), PANEL.offset, strict=False))
    assert held.ahead == AHEAD
    assert (held.numeric, held.text) == (("size", "open"), ("kind",))
    np.testing.assert_array_equal(held.numbers, [[500, 1], [630, 0], [310, 1]])
    assert held.labels == (("shop", "kiosk", None),)
    for number, (name, n) in enumerate(SIZES.items()):
        rows, after = TABLE[TABLE.unique_id == name], AFTER[AFTER.unique_id == name]
        place = np.r_[0:3, 5:n]
        past = held.past[at[name] : at[name] + n]
        np.testing.assert_array_equal(past[place], rows[["traffic"]].to_numpy(np.float32))
        assert np.isnan(past[3:5]).all()
        future = held.future[at[name] + number * AHEAD :][: n + AHEAD]
        np.testing.assert_array_equal(future[place], rows[["price", "holiday"]].to_numpy(np.float32))
        wanted = after[["price", "holiday"]].to_numpy(np.float32) if len(after) else np.full((AHEAD, 2), np.nan)
        np.testing.assert_array_equal(future[n:], wanted)


def test_channels_stand_where_they_should():
    made = extra(PANEL)
    e, time = ENCODING, 6
    assert (e.past_size, e.future_size, e.static_size) == (2 + 4 + time, 4 + time, 4 + 2)
    assert [v.shape for v in made] == [(6, L, e.past_size), (6, H, e.future_size), (6, e.static_size)]
    held = PANEL.covariates
    row = SERIES[1]  # all of its future is known
    past = held.past[PANEL.offset[row] + ORIGIN[1] - L :][:L, 0]
    np.testing.assert_array_equal(made.past[1, :, 1], np.isfinite(past))
    np.testing.assert_allclose(made.past[1, :, 0], np.nan_to_num((past - e.mean[0]) / e.scale[0]), rtol=1e-5, atol=1e-5)
    future = held.future[PANEL.offset[row] + row * AHEAD + ORIGIN[1] - L :][: L + H]
    both = np.concatenate([made.past[1, :, 2:6], made.future[1, :, :4]])
    np.testing.assert_array_equal(both[:, 1::2], np.isfinite(future))
    np.testing.assert_allclose(both[:, 0], np.nan_to_num((future[:, 0] - e.mean[1]) / e.scale[1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(both[:, 2], future[:, 1])  # 0 and 1 stay as they are
    stamps = PANEL.stamps(np.full(L + H, row), ORIGIN[1] - L + np.arange(L + H))
    both = np.concatenate([made.past[1, :, 6:], made.future[1, :, 4:]])
    np.testing.assert_array_equal(both, calendar(PANEL.freq, stamps))
    np.testing.assert_array_equal(made.static[:3, 1:], [[1, 1, 1, 0, 1], [1, 0, 1, 1, 0], [1, 1, 1, 0, 0]])  # kiosk, shop


def test_missing_is_zero_and_unobserved():
    made = extra(PANEL)
    for block in (made.past[..., :6], made.future[..., :4], made.static[:, :4]):
        assert np.isfinite(block).all()
        assert set(np.unique(block[..., 1::2])) <= {0, 1}
        assert (block[..., 0::2][block[..., 1::2] == 0] == 0).all()
    assert not made.past[3, : L - 7, :6].any()  # before the series begins
    assert not made.future[2, :, :4].any()  # nothing is known of the future of c
    lone = read(TABLE, names=NAMES)
    assert not extra(lone).future[0, :, :4].any()


def test_training_data_is_standardised():
    held = PANEL.covariates
    whole = encode(ENCODING, PANEL, np.arange(3), PANEL.lengths, 63, 1).past
    value, seen = whole[..., 0], whole[..., 1] == 1
    assert seen.sum() == np.isfinite(held.past).sum()
    assert abs(value[seen].mean()) < 1e-5
    assert abs(value[seen].std() - 1) < 1e-5


@pytest.mark.parametrize("value", [1e9, -3.0, np.nan])
def test_no_past_covariate_after_the_origin_is_seen(value):
    origin = np.array([30, 40, 20])
    before = encode(ENCODING, PANEL, np.arange(3), origin, L, H)
    count = TABLE.groupby("unique_id").cumcount()
    count += 2 * (count >= 3)
    late = count >= TABLE.unique_id.map(dict(zip(SIZES, origin, strict=True)))
    assert late.any()
    panel = read(TABLE.assign(traffic=TABLE.traffic.mask(late, value)), names=NAMES, future=AFTER)
    assert same(encode(ENCODING, panel, np.arange(3), origin, L, H), before)
    head = PANEL.head(origin)
    assert head.checksum == panel.head(origin).checksum
    assert Encoding.fit(head, NAMES, True) == Encoding.fit(panel.head(origin), NAMES, True)


@pytest.mark.parametrize("step", range(AHEAD))
def test_future_covariates_reach_the_steps_after_the_origin(step):
    other = AFTER.copy()
    other.loc[step, "price"] = 7.0
    one, two = extra(PANEL), extra(read(TABLE, names=NAMES, future=other))
    differs = np.argwhere((one.future != two.future).any(-1))
    assert differs.tolist() == [[0, step]]
    assert np.array_equal(one.past, two.past)
    assert two.future[0, step, 0] == np.float32((np.float32(7) - np.float32(ENCODING.mean[1])) / np.float32(ENCODING.scale[1]))
    inside = encode(ENCODING, PANEL, np.array([1]), np.array([20]), L, H)  # known from the data itself
    held = PANEL.covariates.future[PANEL.offset[1] + AHEAD + 20 :][:H, 1]
    np.testing.assert_array_equal(inside.future[0, :, 2], held)


def test_heads_know_what_they_are_asked_to():
    kept, s = np.array([30, 63, 10]), np.arange(3)
    for ahead in (0, 4, AHEAD):
        head = PANEL.head(kept, ahead)
        assert head.covariates.past.shape == (103, 1)
        assert head.covariates.future.shape == (103 + 3 * ahead, 2)
        one, two = encode(ENCODING, head, s, kept, L, max(ahead, 1)), encode(ENCODING, PANEL, s, kept, L, max(ahead, 1))
        assert np.array_equal(one.past, two.past)
        assert np.array_equal(one.static, two.static)
        assert not ahead or np.array_equal(one.future, two.future)
        assert ahead or not one.future[..., :4].any()


@pytest.mark.parametrize("to", [pd.DataFrame, pl.from_pandas])
def test_static_columns_may_stand_in_a_frame_of_their_own(to):
    apart = TABLE.groupby("unique_id", as_index=False)[list(NAMES.static)].first()
    apart = pd.concat([apart, apart[:1].assign(unique_id="unused")])
    data = TABLE.drop(columns=list(NAMES.static))
    panel = read(to(data), names=NAMES, future=to(AFTER), static=to(shuffled(apart)))
    assert panel.checksum == PANEL.checksum
    some = read(to(data.assign(size=TABLE["size"])), names=NAMES, future=to(AFTER), static=to(apart.drop(columns="size")))
    assert some.checksum == PANEL.checksum


def test_labels_of_any_dtype_and_unknown_ones():
    as_category = read(TABLE.assign(kind=TABLE.kind.astype("category")), names=NAMES, future=AFTER)
    as_enum = read(pl.from_pandas(TABLE).with_columns(pl.col("kind").cast(pl.Categorical)), names=NAMES, future=AFTER)
    assert as_category.checksum == as_enum.checksum == PANEL.checksum
    new = read(TABLE.assign(kind=TABLE.kind.replace("shop", "market")), names=NAMES, future=AFTER)
    made = extra(new).static
    assert not made[0, 4:].any()
    assert np.array_equal(made[1], extra(PANEL).static[1])


def test_missing_static_values():
    table = TABLE.assign(size=TABLE["size"].where(TABLE.unique_id != "a").astype("Int64"), kind=TABLE.kind.replace("shop", pd.NA))
    made = extra(read(table, names=NAMES, future=AFTER)).static
    assert not made[0, :2].any()
    assert made[1, 1] == 1
    assert not made[0, 4:].any()


def test_encoding_is_plain_json():
    for e in (ENCODING, Encoding(), Encoding.fit(read(TABLE[["unique_id", "ds", "y"]]), Names(), True)):
        assert Encoding(**json.loads(json.dumps(asdict(e)))) == e
    nothing = extra(PANEL, Encoding())
    assert [v.shape for v in nothing] == [(6, L, 0), (6, H, 0), (6, 0)]


def test_some_of_the_covariates_in_another_order():
    some = Names(future=("holiday", "price"), static=("kind",))
    e = Encoding.fit(PANEL, some)
    made, full = extra(PANEL, e), extra(PANEL)
    assert np.array_equal(made.future, full.future[..., [2, 3, 0, 1]])
    assert np.array_equal(made.past, full.past[..., [4, 5, 2, 3]])
    assert np.array_equal(made.static, full.static[:, 4:])


def test_constant_and_absent_columns_encode_as_finite_numbers():
    names = Names(past=("traffic", "none"))
    table = TABLE[["unique_id", "ds", "y"]].assign(traffic=5e6, none=np.nan)
    panel = read(table, names=names)
    made = extra(panel, Encoding.fit(panel, names))
    assert not made.past[..., 0].any()
    assert not made.past[..., 2:].any()


def test_what_future_says_of_known_steps():
    whole = pd.concat([TABLE[["unique_id", "ds", "price", "holiday"]], AFTER])
    early = pd.DataFrame(
        {"unique_id": "a", "ds": pd.date_range("2020-01-01", periods=3, freq="h"), "price": 1.0, "holiday": True}
    )
    early["ds"] = TABLE.ds[0] - pd.to_timedelta([3, 2, 1], unit="h")
    assert read(TABLE, names=NAMES, future=pd.concat([early, whole])).checksum == PANEL.checksum
    lost = TABLE.assign(price=np.nan)
    assert read(lost, names=NAMES, future=whole).checksum == PANEL.checksum  # not imputed: the user gave it


CYCLES = {
    "15min": ("time of day", "day of week", "time of year"),
    "h": ("time of day", "day of week", "time of year"),
    "D": ("day of week", "day of month", "time of year"),
    "B": ("day of week", "day of month", "time of year"),
    "2D": ("time of year",),
    "W": ("time of year",),
    "MS": ("time of year",),
    "QE": ("time of year",),
    "YS": (),
    "2YE": (),
}


@pytest.mark.parametrize("name", CYCLES)
def test_calendar_by_the_clock_of_pandas(name):
    freq, t = parse(name), pd.date_range("2019-12-25 00:00", periods=100 if name[-2:] in ("YS", "YE") else 900, freq=name)
    assert channels(freq) == CYCLES[name]
    month = freq.unit == "month"
    phase = {
        "time of day": (t - t.normalize()) / pd.Timedelta(days=1),
        "day of week": t.dayofweek / 7,
        "day of month": (t.day - 1) / t.days_in_month,
        "time of year": (t.month - 1) / 12 if month else (t.dayofyear - 1) / np.where(t.is_leap_year, 366, 365),
    }
    made = calendar(freq, t.to_numpy().astype("M8[us]"))
    wanted = [f(2 * np.pi * np.asarray(phase[c])) for c in CYCLES[name] for f in (np.sin, np.cos)]
    assert made.shape == (len(t), len(wanted))
    for k, v in enumerate(wanted):
        np.testing.assert_allclose(made[:, k], v, atol=1e-6)
    n = 60
    table = pd.DataFrame({"unique_id": np.repeat(["a", "b"], n), "ds": [*t[:n], *t[7 : n + 7]], "y": 1.0 * np.arange(2 * n)})
    panel = read(table, name)
    e = Encoding.fit(panel, Names(), calendar=True)
    assert (e.past_size, e.future_size, e.static_size) == (len(wanted), len(wanted), 0)
    out = encode(e, panel, np.array([0, 1, 1]), np.array([40, n, 20]), 10, 5)
    for b, first in enumerate((30, 7 + n - 10, 7 + 10)):
        np.testing.assert_array_equal(out.past[b], made[first : first + 10])
        np.testing.assert_array_equal(out.future[b], made[first + 10 : first + 15])


def test_one_grid_and_many_give_the_same_calendar():
    t = pd.date_range("2020-01-01", periods=80, freq="h")
    frames = [pd.DataFrame({"unique_id": f"{k}", "ds": t + pd.Timedelta(minutes=k), "y": 1.0}) for k in (0, 17)]
    series, origin = np.array([0, 1, 1]), np.array([40, 80, 9])
    both, alone = (read(pd.concat(f)) for f in (frames, frames[1:]))
    e = Encoding.fit(both, Names(), calendar=True)
    one = encode(e, both, series, origin, 24, 6)
    two = encode(e, alone, np.array([0, 0]), origin[1:], 24, 6)
    assert same([v[1:] for v in one], two)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC", "+02:00", "-03:30"])
def test_calendar_follows_the_clock_of_the_time_zone(zone):
    t = pd.date_range("2020-01-05", periods=24 * 400, freq="h", tz="UTC")
    clock = wall_clock(t.tz_localize(None).to_numpy().astype("M8[us]"), zone)
    assert (clock == t.tz_convert(zone).tz_localize(None).to_numpy()).all()
    panel = read(pd.DataFrame({"unique_id": "a", "ds": t.tz_convert(zone), "y": 1.0}))
    made = encode(Encoding.fit(panel, Names(), True), panel, np.zeros(1, int), np.array([9500]), 9500, 1)
    np.testing.assert_array_equal(made.past[0], calendar(panel.freq, clock[:9500]))


def test_numbers_of_steps_have_no_calendar():
    table, after = make(integer=True)
    panel = read(table, names=NAMES, future=after)
    assert extra(panel, Encoding.fit(panel, NAMES)).future[0, :, 1].any()
    with pytest.raises(ValueError, match=r"calendar=True needs time stamps, but ds holds whole numbers\. Convert ds to dates"):
        Encoding.fit(panel, NAMES, calendar=True)


def test_all_zero_and_intermittent_series():
    table = TABLE.assign(y=np.where(np.arange(len(TABLE)) % 7, 0.0, 3.0))
    table.loc[table.unique_id == "b", "y"] = 0.0
    panel = read(table, names=NAMES, future=AFTER)
    assert same(extra(panel), extra(PANEL))


def put(table, row, **values):
    table = table.astype(dict.fromkeys(values, object))
    for k, v in values.items():
        table.loc[row, k] = v
    return table


STATIC = TABLE.groupby("unique_id", as_index=False)[["size", "kind", "open"]].first()
BARE = TABLE.drop(columns=["size", "kind", "open"])
LAST = AFTER.ds[0]
WRONG = {
    "unknown": (TABLE.assign(extra=1), AFTER, None, r"unknown columns: extra\. Name covariates with past=, future= or static="),
    "absent": (TABLE.drop(columns=["price"]), AFTER, None, r"data lacks the covariates price; found: .* do not name them in past="),
    "text": (put(TABLE, 2, traffic="busy"), AFTER, None, r"series 'a', row 2 .* has traffic = 'busy', which is no number\. Encode it as numbers; only static= may hold text"),
    "infinite": (TABLE.assign(price=np.inf), AFTER, None, r"row 0 .* has price = inf\. It must be finite.*more rows"),
    "huge": (TABLE.assign(traffic=1e300), AFTER, None, r"row 0 .* has traffic beyond the range of single precision"),
    "changes": (put(TABLE, 5, kind="mall"), AFTER, None, r"series 'a', row 5 .* has kind = 'mall', but before 'shop'\. A static covariate must not change"),
    "mixed": (put(TABLE, slice(0, 47), kind=3), AFTER, None, r"static column kind mixes text and numbers, such as 'kiosk' and 3"),
    "static of lists": (TABLE.assign(kind=TABLE.ds), AFTER, None, r"has kind = .* a static covariate must be a number, a truth value or text"),
    "static infinite": (TABLE.assign(size=np.inf), AFTER, None, r"series 'a' has size = inf\. It must be finite"),
    "static row missing": (BARE, AFTER, STATIC[1:], r"static= has no row for series 'a'\. Add it"),
    "static contradicts itself": (BARE, AFTER, pd.concat([STATIC, STATIC[:1].assign(size=1)]), r"static=: series 'a', row 3 has size = 1, but before 500"),
    "static of strangers": (BARE, AFTER, pd.concat([STATIC[:1].assign(unique_id="zz"), STATIC, STATIC[:1].assign(size=1)]), r"series 'a', row 4 has size = 1"),
    "static column missing": (BARE, AFTER, STATIC.drop(columns="kind"), r"static= lacks the covariates kind; found: unique_id, size, open"),
    "static unknown": (BARE, AFTER, STATIC.assign(city="x"), r"static=: unknown columns: city\. Name covariates with"),
    "static twice": (TABLE, AFTER, STATIC, r"size, kind, open stands in the data and in static= as well"),
    "future of no series": (TABLE, put(AFTER, 1, unique_id="z"), None, r"future=: series 'z', row 1 .* belongs to no series of the data"),
    "future lacks": (TABLE, AFTER.drop(columns="price"), None, r"future= lacks the covariates price"),
    "future unknown": (TABLE, AFTER.assign(traffic=1), None, r"future=: unknown columns: traffic"),
    "future id": (TABLE, AFTER.drop(columns="unique_id"), None, r"future= must have columns unique_id, ds; missing: unique_id"),
    "future text": (TABLE, put(AFTER, 0, price="low"), None, r"future=: series 'a', row 0 .* has price = 'low', which is no number"),
    "future twice": (TABLE, pd.concat([AFTER, AFTER[2:3]], ignore_index=True), None, r"future=: series 'a', row 12 .* repeats the time stamp of row 2"),
    "future off the grid": (TABLE, AFTER.assign(ds=AFTER.ds + pd.Timedelta(minutes=5)), None, r"row 0 .* is not on the grid of step 'h'.*11 more rows"),
    "future far away": (TABLE, put(AFTER, 1, ds=LAST + pd.Timedelta(days=36500)), None, r"row 1 .* is 876001 steps after the end of its series"),
    "future contradicts": (TABLE, put(AFTER, 0, ds=LAST - pd.Timedelta(hours=1), price=np.nan, holiday=not TABLE.holiday[47]), None, r"future=: series 'a', row 0 .* has holiday = \d\.0, but the data has \d\.0 for that step"),
    "future of whole numbers": (TABLE, AFTER.assign(ds=1), None, r"freq 'h' does not fit ds, which holds whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_bad_covariates_are_named(case):
    table, after, static, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        read(table, names=NAMES, future=after, static=static)


def test_bad_names_and_bad_requests_are_named():
    with pytest.raises(ValueError, match=r"a covariate has one role, but x stands twice in past=\('x',\), future=\('x',\)"):
        Names(past=("x",), future=("x",))
    plain = TABLE[["unique_id", "ds", "y"]]
    for role in ("future", "static"):
        with pytest.raises(ValueError, match=rf"{role}= is given, but no {role} covariates are named\. Name its columns"):
            read(plain, **{role: AFTER})
    with pytest.raises(ValueError, match=r"lacks the covariates traffic \(past\), price \(future\).*; it has none\. Add"):
        extra(read(plain))
    zone = TABLE.assign(ds=TABLE.ds.dt.tz_localize("Europe/Berlin"))
    after = AFTER.assign(ds=AFTER.ds.dt.tz_localize("Europe/Berlin"))
    with pytest.raises(ValueError, match=r"future=: series 'a', row 0 .* has the time zone Europe/Berlin, but the data has none"):
        read(TABLE, names=NAMES, future=after)
    with pytest.raises(ValueError, match=r"future=: series 'a', row 0 .* has no time zone, but the data has Datetime"):
        read(zone, names=NAMES, future=AFTER)
    turned = read(TABLE.assign(size="big", kind=1), names=NAMES)
    with pytest.raises(ValueError, match="static column size held numbers in fit and holds text now"):
        extra(turned)
    with pytest.raises(ValueError, match="static column kind held text in fit and holds numbers now"):
        extra(read(TABLE.assign(kind=1), names=NAMES))
    many = pd.DataFrame({"unique_id": np.repeat(np.arange(MOST_LABELS + 1), 2), "ds": [1, 2] * (MOST_LABELS + 1), "y": 1.0})
    many["kind"] = "k" + many.unique_id.astype(str)
    panel = read(many, names=Names(static=("kind",)))
    with pytest.raises(
        ValueError, match=rf"static column kind may hold at most {MOST_LABELS} different texts, got {MOST_LABELS + 1}"
    ):
        Encoding.fit(panel, Names(static=("kind",)))


def test_other_names_of_id_and_time():
    other = {"unique_id": "shop", "ds": "hour", "y": "sales"}
    panel = read(
        TABLE.rename(columns=other), columns=Columns("shop", "hour", "sales"), names=NAMES, future=AFTER.rename(columns=other)
    )
    assert panel.checksum == PANEL.checksum


def test_numbers_of_series_may_have_gaps_in_words(tmp_path):
    data = pd.DataFrame({"unique_id": np.repeat(["a", "b", "c"], 3), "ds": [1, 2, 3] * 3, "y": 1.0})
    (tmp_path / "s.csv").write_text("unique_id,size,land\na,10.5,NA\nb,NA,DE\nc,30,NA\n")
    held = read(data, names=Names(static=("size", "land")), static=tmp_path / "s.csv").covariates
    assert (held.numeric, held.text, held.labels) == (("size",), ("land",), (("NA", "DE", "NA"),))
    np.testing.assert_array_equal(held.numbers[:, 0], [10.5, np.nan, 30])
    (tmp_path / "s.csv").write_text("unique_id,size,land\na,1,NA\nb,2,NA\nc,3,NA\n")
    assert read(data, names=Names(static=("size", "land")), static=tmp_path / "s.csv").covariates.text == ("land",)
