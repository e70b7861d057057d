"""The training job on real Spark and a slice of real flights: two months, some thousand rows."""

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyspark
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from flight_delays.contract import SPLITS, date_parts
from flight_delays.data import records
from flight_delays.data.sources.nycflights13 import NycFlights13
from flight_delays.model import evaluation, pipeline, promotion_checks, registry, training
from flight_delays.model.features import (
    CATEGORICAL,
    GAIN_FEATURES,
    GAINS,
    LABEL,
    NUMERIC,
    UNKNOWN,
    WEATHER,
    arrival_bucket,
    with_features,
    with_recent_gains,
    with_weather,
)
from flight_delays.settings import PROJECT
from stack.services import inherited_environment, spark_environment
from tests.flights import import_records

pytestmark = pytest.mark.integration

ROWS_A_MONTH = 4000


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """January and February 2013, as `flight_records` publishes them, but a sample."""
    folder = tmp_path_factory.mktemp("records")
    import_records(NycFlights13(), records_dir=folder, months="2013-01..2013-02")
    files = []
    for path in records.month_files(folder):
        files.append(folder / f"sample-{path.name}")
        pd.read_parquet(path).sample(ROWS_A_MONTH, random_state=1).to_parquet(files[-1], index=False)
    return files


def submit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`spark-submit spark_jobs/train_model.py`, as the DAG's operator calls it."""
    environment = inherited_environment() | spark_environment()
    command = [Path(sys.executable).with_name("spark-submit"), "--master", "local[2]", "--driver-memory", "1g"]
    command += [PROJECT / "spark_jobs" / "train_model.py", *arguments]
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(slices, tmp_path_factory):
    """What one run of the job leaves behind: the staging folder and the standard output."""
    staged = tmp_path_factory.mktemp("staged")
    options = ["--output", staged, "--holdout-months", 1, "--fingerprint", "abc", "--trees", 8, "--depth", 4]
    run = submit("--records", *slices, *options)
    assert run.returncode == 0, run.stderr[-3000:]
    return SimpleNamespace(staged=staged, output=run.stdout)


@pytest.fixture(scope="module")
def model(spark, trained, tmp_path_factory):
    """The model as the predictor gets it: registered, promoted, and loaded by the pointer."""
    models = tmp_path_factory.mktemp("models")
    registry.promote(models, registry.register(models, trained.staged))
    return PipelineModel.load(str(registry.pipeline_path(models, registry.read_pointer(models).champion)))


@pytest.fixture(scope="module")
def flights(spark, slices):
    return spark.read.parquet(*map(str, slices))


def probabilities(model, flights) -> np.ndarray:
    """Shape (n, 4), in the order of the rows."""
    return np.stack(pipeline.predict(model, with_features(flights)).toPandas()["Probability"].to_list())


def test_metadata_say_where_the_model_comes_from_and_how_good_it_is(trained):
    metadata = registry.Metadata.model_validate_json((trained.staged / "metadata.json").read_bytes())
    assert metadata.params.model_dump() == {
        "trees": 8,
        "depth": 4,
        "seed": 42,
        "holdout_months": 1,
        "max_bins": 64,
    }
    assert (metadata.categorical, metadata.numeric) == (CATEGORICAL, NUMERIC)
    assert not {"ArrDelay", LABEL} & {*CATEGORICAL, *NUMERIC}, "the label is no feature"
    assert metadata.vocabulary["Origin"] == ["EWR", "JFK", "LGA"]
    assert set(metadata.vocabulary) == set(CATEGORICAL)
    assert "LGA-ORD" in metadata.vocabulary["Route"]
    assert "UA-LGA-ORD" in metadata.vocabulary["CarrierRoute"]
    assert metadata.metrics_without_conditions.rows == ROWS_A_MONTH
    assert metadata.fingerprint == "abc"
    assert metadata.spark_version == pyspark.__version__
    assert metadata.code_version
    assert metadata.training_seconds > 0
    assert abs(dt.datetime.now(dt.UTC) - metadata.trained_at) < dt.timedelta(hours=1)

    assert (metadata.training.rows, metadata.holdout.rows) == (ROWS_A_MONTH, ROWS_A_MONTH)
    assert metadata.training.last < dt.date(2013, 2, 1) <= metadata.holdout.first, "no leakage"
    assert metadata.metrics.rows == ROWS_A_MONTH
    assert set(metadata.baselines) == {"commonest_bucket", "departure_delay_alone"}
    assert metadata.metrics.log_loss < metadata.baselines["commonest_bucket"].log_loss
    assert metadata.metrics.accuracy > metadata.baselines["commonest_bucket"].accuracy + 0.1
    assert "8 trees of depth 4 fitted in" in trained.output

    assert metadata.comparison is None
    assert np.array(metadata.confusion).sum() == ROWS_A_MONTH
    assert np.trace(metadata.confusion) / ROWS_A_MONTH == pytest.approx(metadata.metrics.accuracy)
    assert sum(each.rows for each in metadata.calibration) == ROWS_A_MONTH
    for groups in (metadata.by_carrier, metadata.by_origin):
        assert sum(scores.rows for scores in groups.values()) == ROWS_A_MONTH
    assert set(metadata.by_origin) == {"EWR", "JFK", "LGA"}
    assert set(metadata.importances) == {"Carrier", "ExpectedArrDelay", *NUMERIC}
    assert next(iter(metadata.importances)) in {"DepDelay", "ExpectedArrDelay", *GAIN_FEATURES}
    assert sum(metadata.importances.values()) == pytest.approx(1)
    assert set(metadata.golden) == {each.name for each in promotion_checks.golden_requests()}
    assert all(sum(answer) == pytest.approx(1) for answer in metadata.golden.values())
    assert not [
        reason
        for reason in promotion_checks.judge("", metadata, None, limit=1, force=False).reasons
        if "golden" in reason
    ]
    assert "By carrier" in (trained.staged / "model_card.html").read_text()


@pytest.fixture(scope="module")
def champion(trained, tmp_path_factory):
    """The version folder of the trained model, which learned from January."""
    models = tmp_path_factory.mktemp("champions")
    return models / registry.register(models, trained.staged)


def test_the_champion_is_judged_on_the_same_flights_that_neither_has_seen(spark, flights, champion):
    flights = pipeline.labelled(flights)
    small = pipeline.fit(flights.where("FlightDate < '2013-01-20'"), trees=2, depth=2, seed=1)
    found = evaluation.compare(small, flights.where("FlightDate >= '2013-01-20'"), champion)
    assert found.version == champion.name
    assert not found.seen
    assert found.champion == registry.load_metadata(champion.parent, champion.name).metrics, "on February"
    assert found.challenger.rows == ROWS_A_MONTH
    assert found.challenger.log_loss > found.champion.log_loss, "2 trees of depth 2, from fewer flights"
    itself = evaluation.compare(PipelineModel.load(str(champion / "pipeline")), flights.where("DepDelay > 0"), champion)
    assert itself.challenger == itself.champion
    january = evaluation.compare(small, flights.where("FlightDate = '2013-01-25'"), champion)
    assert january.seen, "the champion has learned from all there are"
    assert january.champion.rows == flights.where("FlightDate = '2013-01-25'").count()


def test_a_champion_that_cannot_be_asked_is_told_and_stops_nothing(model, flights, champion, tmp_path):
    holdout = pipeline.labelled(flights)
    other = evaluation.compare(model, holdout.drop("DepDelay").limit(100), champion)
    assert "DepDelay" in other.error
    broken = tmp_path / champion.name
    shutil.copytree(champion, broken)
    (broken / "extra").touch()
    assert "damaged" in evaluation.compare(model, holdout, broken).error


def test_the_same_rows_get_the_same_digits(model, flights):
    first, second = probabilities(model, flights), probabilities(model, flights)
    assert first.tobytes() == second.tobytes()
    assert np.allclose(first.sum(axis=1), 1)
    assert len(np.unique(first, axis=0)) > 100


def test_what_was_never_seen_gets_an_answer(model, flights):
    unseen = flights.limit(5).withColumns({"Carrier": F.lit("ZZ"), "Origin": F.lit("ATL"), "Dest": F.lit("XXX")})
    answers = pipeline.predict(model, with_features(unseen)).toPandas()
    assert answers["Route"].unique().tolist() == ["ATL-XXX"]
    assert np.allclose(np.stack(answers["Probability"].to_list()).sum(axis=1), 1)
    assert [int(np.argmax(row)) for row in answers["Probability"]] == answers["Prediction"].to_list()


@pytest.mark.parametrize(
    ("column", "value"),
    [("Carrier", "EV"), ("Origin", "EWR"), ("Dest", "ATL"), ("DepDelay", 45.0), ("FlightDate", dt.date(2013, 1, 1))],
)
def test_every_input_counts(model, flights, column, value):
    """In the original, carrier, origin, destination and route were never indexed, so they changed nothing."""
    some = flights.where(F.col(column) != F.lit(value))
    changed = some.withColumn(column, F.lit(value))
    assert (probabilities(model, some) != probabilities(model, changed)).any(axis=1).mean() > 0.01


def test_what_the_record_says_of_its_date_is_not_believed(model, flights):
    wrong = flights.withColumns({"DayOfWeek": F.lit(0), "DayOfYear": F.lit(1), "DayOfMonth": F.lit(1)})
    assert probabilities(model, wrong).tobytes() == probabilities(model, flights).tobytes()


def test_dates_are_the_same_in_python_and_spark(spark):
    """Five years, two of them leap years. The original served DayOfWeek 0..6 to a model that learned 1..7."""
    days = [dt.date(2012, 1, 1) + dt.timedelta(number) for number in range(5 * 366)]
    rows = with_features(
        spark.createDataFrame(
            [(day, "AA", "ATL", "SFO", 0.0) for day in days],
            "FlightDate date, Carrier string, Origin string, Dest string, DepDelay double",
        )
    )
    computed = {row.FlightDate: (row.DayOfYear, row.DayOfMonth, row.DayOfWeek) for row in rows.collect()}
    assert computed == {day: tuple(date_parts(day)) for day in days}
    assert {parts[2] for parts in computed.values()} == set(range(1, 8))
    assert rows.select("Route").distinct().collect() == [("ATL-SFO",)]


def test_buckets_have_the_contracts_edges(spark):
    delays = [-1440.0, -15.001, -15.0, -14.999, -0.001, 0.0, 0.001, 29.999, 30.0, 1301.0]
    computed = spark.createDataFrame([(delay,) for delay in delays], "d double").select(arrival_bucket(F.col("d")))
    expected = np.digitize(delays, SPLITS[1:-1])  # lower edge included, upper not
    assert [row[0] for row in computed.collect()] == expected.tolist()
    assert expected.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    nothing = spark.createDataFrame([(None,)], "d double").select(arrival_bucket(F.col("d")))
    assert nothing.first()[0] is None


def test_the_holdout_is_the_last_months(spark, flights):
    days = [dt.date(2013, month, day) for month in (11, 12) for day in (1, 30)] + [dt.date(2014, 2, 28)]
    frame = spark.createDataFrame([(day,) for day in days], "FlightDate date")
    training, holdout = pipeline.split_by_time(frame, 2)
    assertDataFrameEqual(training, frame.where("FlightDate < '2013-12-01'"))
    assertDataFrameEqual(holdout, frame.where("FlightDate >= '2013-12-01'"))
    with pytest.raises(ValueError, match="2013-11, 2013-12, 2014-02; to hold out 3, at least one more"):
        pipeline.split_by_time(frame, 3)


def test_too_few_months_are_refused_and_nothing_is_written(spark, slices, tmp_path):
    options = {"trees": 2, "depth": 2, "seed": 1, "holdout_months": 1, "fingerprint": ""}
    with pytest.raises(ValueError, match="2013-01; to hold out 1, "):
        training.train(spark, slices[:1], tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_flights_that_never_arrived_are_left_out_and_four_buckets_stay(flights):
    """A slice without very late flights must not make a model of three classes."""
    never_late = flights.limit(500).withColumn("ArrDelay", F.when(F.col("ArrDelay") < 30, F.col("ArrDelay")))
    training = pipeline.labelled(never_late)
    assert training.count() < 500
    assert training.where(f"{LABEL} = 3").count() == 0
    small = pipeline.fit(training, trees=2, depth=2, seed=1)
    assert probabilities(small, flights.limit(3)).shape == (3, 4)


@pytest.fixture(scope="module")
def weather(spark, slices):
    """Made-up weather of every hour, so that what a flight gets tells which hour it got."""
    hours = spark.range(24).select(F.col("id").cast("int").alias("Hour"))
    days = spark.read.parquet(*map(str, slices)).select("Origin", F.col("FlightDate").alias("Date")).distinct()
    return days.crossJoin(hours).withColumns({name: F.col("Hour").cast("double") for name in WEATHER})


def test_no_feature_sees_the_flights_own_arrival_or_anything_later(flights, weather):
    """All arrivals of a day and of those after it move by an hour: what is known on that day stays as it is."""
    day = F.lit(dt.date(2013, 2, 10))
    known = [*CATEGORICAL, *NUMERIC]
    moved = flights.withColumn(
        "ArrDelay", F.when(F.col("FlightDate") >= day, F.col("ArrDelay") + 60).otherwise(F.col("ArrDelay"))
    )
    before, after = pipeline.labelled(flights, weather), pipeline.labelled(moved, weather)
    on_the_day = F.col("FlightDate") == day
    assertDataFrameEqual(before.where(on_the_day).select(known), after.where(on_the_day).select(known))
    next_day = F.col("FlightDate") == F.date_add(day, 1)
    gains = ["DestGainYesterdayFilled"]
    assert before.where(next_day).select(gains).exceptAll(after.where(next_day).select(gains)).count() > 0


def test_gains_are_means_of_the_days_before(spark):
    """Against the same in plain Python, with a gap of days and a destination without flights before."""
    rows = [(dt.date(2013, 1, day), "SFO", 10.0, 10.0 + day) for day in (1, 1, 5, 6, 9, 14)]
    rows += [(dt.date(2013, 1, 6), "ORD", 0.0, 50.0)]
    frame = spark.createDataFrame(rows, "FlightDate date, Dest string, DepDelay double, ArrDelay double")

    def mean(dest, day, days):
        back = [day - dt.timedelta(number) for number in range(1, days + 1)]
        gains = [arrival - departure for date, to, departure, arrival in rows if to == dest and date in back]
        return sum(gains) / len(gains) if gains else None

    found = {(row.Dest, row.FlightDate): (row[GAINS[0]], row[GAINS[1]]) for row in with_recent_gains(frame).collect()}
    assert found == {(dest, day): (mean(dest, day, 1), mean(dest, day, 7)) for day, dest, *_ in rows}
    assert found["SFO", dt.date(2013, 1, 6)] == (5.0, 7 / 3)


def test_the_weather_is_that_of_the_scheduled_departures_hour(flights, weather):
    hours = with_weather(flights.limit(500), weather).select("CRSDepTime", *WEATHER).toPandas()
    assert (hours["CRSDepTime"].str[:2].astype(float) == hours[list(WEATHER)].T).all(axis=None)


def test_conditions_that_are_absent_are_unknown_and_pass_through_as_absent(flights):
    """Columns of null, and no columns, are the same; and the answer must not repeat the stand-in."""
    bare = flights.drop("CRSDepTime", "CRSArrTime").limit(5)
    nulls = bare.withColumns({name: F.lit(None).cast("double") for name in (*WEATHER, *GAINS)})
    assertDataFrameEqual(with_features(bare).select(*NUMERIC), with_features(nulls).select(*NUMERIC))
    answer = with_features(nulls).first()
    assert answer["OriginPressure"] is None
    assert answer["OriginPressureFilled"] == answer["CRSDepMinutes"] == answer["DestGain7DaysExpected"] == UNKNOWN
