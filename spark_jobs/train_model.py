"""Trains one PipelineModel on Parquet flight records, judges it on the last months, and writes a staged model folder.

    spark-submit spark_jobs/train_model.py --records 2013-*.parquet --output staged

Everything the model needs is a stage of the pipeline (string indexers, a linear regression of the arrival delay, random
forest), all in the JVM: the same folder predicts in batch, in Spark's real-time mode and through Spark Connect.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from pyspark.errors import AnalysisException, IllegalArgumentException
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import RandomForestClassificationModel, RandomForestClassifier
from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, StringIndexerModel, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from flight_delays import gate, metrics, model_card, registry
from flight_delays.contract import BUCKETS, GAINS
from flight_delays.features import (
    CATEGORICAL,
    GAIN_FEATURES,
    LABEL,
    NUMERIC,
    REQUIRED,
    TIMES,
    UNKNOWN,
    WEATHER_FEATURES,
    arrival_bucket,
    with_features,
    with_recent_gains,
    with_weather,
    without_context,
)
from flight_delays.registry import METADATA, PIPELINE, Comparison, Metadata, Params, Period, RegistryError, Scores
from flight_delays.settings import PROJECT

INDEXED = tuple(f"{name}Index" for name in CATEGORICAL)
ENCODED = tuple(f"{name}Encoded" for name in CATEGORICAL)
CONTEXT = (*WEATHER_FEATURES, *(f"{name}Filled" for name in GAINS))
IMPUTED = {name: name.replace("Filled", "Imputed") for name in CONTEXT}
LINEAR = ("DepDelay", "Distance")
"""Not `Winter`: from one or two months a line would be drawn on to the middle of summer. Trees draw nothing on."""
EXPECTED = "ExpectedArrDelay"
OLD_FEATURES = ("DayOfMonth", "DayOfYear")
"""Inputs of release 0.1.0's models, so that one that still serves can be judged on the same flights."""


def labelled(records: DataFrame, weather: DataFrame | None = None) -> DataFrame:
    """The features, `ArrDelay`, `ArrDelayBucket` and `FlightDate` of the flights that arrived (others have no label).

    `weather` as in `with_weather`. The label's metadata names all four buckets: else a slice without one of them would
    train a model of three classes.
    """
    labels = {"ml_attr": {"type": "nominal", "name": LABEL, "vals": [bucket.label for bucket in BUCKETS]}}
    known = with_recent_gains(records)
    return (
        with_features(known if weather is None else with_weather(known, weather))
        .where(F.col("ArrDelay").isNotNull())
        .select(
            "FlightDate",
            *CATEGORICAL,
            *NUMERIC,
            *OLD_FEATURES,
            "ArrDelay",
            arrival_bucket(F.col("ArrDelay")).alias(LABEL, metadata=labels),
        )
    )


def split_by_time(flights: DataFrame, holdout_months: int) -> tuple[DataFrame, DataFrame]:
    """Training and holdout: the holdout is the last so many calendar months that have flights.

    A random split would judge a model on days whose weather and congestion it has seen. Raises ValueError where no
    month would be left to train on.
    """
    month = F.trunc("FlightDate", "month")
    months: list[dt.date] = sorted(row[0] for row in flights.select(month).distinct().collect())
    if len(months) <= holdout_months:
        found = ", ".join(f"{month:%Y-%m}" for month in months) or "none"
        raise ValueError(
            f"The flight records hold {len(months)} month(s) ({found}), but {holdout_months} are to be held out and at "
            f"least one must be left to train on: load more months, or hold out fewer"
        )
    first = F.lit(months[-holdout_months])
    return flights.where(F.col("FlightDate") < first), flights.where(F.col("FlightDate") >= first)


def forgetful(training: DataFrame) -> DataFrame:
    """The flights, and half of them a second time without context, so that one model learns to answer both ways.

    Some lose the weather, the gains or the scheduled times alone. Which ones is decided by a hash of the flight, not by
    chance: the same records give the same model.
    """
    kind = F.pmod(F.xxhash64("FlightDate", "CarrierRoute", "DepDelay", "CRSDepMinutes"), F.lit(20))
    again = without_context(training.where(kind < 10))
    partly = without_context(training, kind == 10, WEATHER_FEATURES)
    partly = without_context(partly, kind == 11, GAIN_FEATURES)
    return without_context(partly.unionByName(again), kind.isin(1, 12), TIMES)


def fit(training: DataFrame, *, trees: int, depth: int, seed: int) -> PipelineModel:
    """The fitted pipeline: adds `Prediction` (0.0 .. 3.0) and `Probability` (vector of 4) to rows with the features."""
    training = forgetful(training).cache()
    # `keep` gives what was never seen an index of its own; the alphabet makes the order independent of the rows'.
    indexer = StringIndexer(
        inputCols=list(CATEGORICAL), outputCols=list(INDEXED), handleInvalid="keep", stringOrderType="alphabetAsc"
    ).fit(training)
    # The last category, which is dropped, is the one of what was never seen.
    encoder = OneHotEncoder(inputCols=list(INDEXED), outputCols=list(ENCODED), handleInvalid="keep")
    # For the regression what is unknown is as usual. The imputer refuses a column of which nothing is known.
    known = training.select(*(F.count_if(F.col(name) != UNKNOWN).alias(name) for name in CONTEXT)).collect()[0]
    context = [name for name in CONTEXT if known[name]]
    imputer = Imputer(inputCols=context, outputCols=[IMPUTED[name] for name in context], missingValue=UNKNOWN)
    # The delay to be expected of this carrier on this route, on such a day. A forest would need a bin for each route
    # in every input (slow, and 5,000 of them in national data), and many splits for a sum; regularised, rare routes
    # stay near the mean of carrier and airports.
    explained = VectorAssembler(
        inputCols=[*ENCODED, *LINEAR, *imputer.getOutputCols()], outputCol="ExpectedFeatures", handleInvalid="keep"
    )
    expected = LinearRegression(
        featuresCol="ExpectedFeatures",
        labelCol="ArrDelay",
        predictionCol=EXPECTED,
        solver="l-bfgs",
        regParam=0.01,
        maxIter=30,
    )
    # Training refuses nulls and the predictor rejects them before the model. Should one get here all the same, `error`
    # would stop the stream for ever and `skip` would lose the flight without a word: `keep` answers, with NaN.
    assembler = VectorAssembler(
        inputCols=["CarrierIndex", EXPECTED, *NUMERIC], outputCol="Features", handleInvalid="keep"
    )
    forest = RandomForestClassifier(
        featuresCol="Features",
        labelCol=LABEL,
        predictionCol="Prediction",
        probabilityCol="Probability",
        rawPredictionCol="RawPrediction",
        numTrees=trees,
        maxDepth=depth,
        maxBins=max(64, len(indexer.labelsArray[0]) + 1),
        minInstancesPerNode=20,
        # With the usual square root many splits miss the delays, by far the strongest.
        featureSubsetStrategy="0.5",
        maxMemoryInMB=512,
        seed=seed,
    )
    try:
        return Pipeline(
            stages=[indexer, encoder, *([imputer] if context else []), explained, expected, assembler, forest]
        ).fit(training)
    finally:
        training.unpersist()


def predict(model: PipelineModel, flights: DataFrame) -> DataFrame:
    """Adds `Prediction` (integer 0..3) and `Probability` (array of 4 doubles) to rows with the features."""
    return (
        model.transform(flights)
        .withColumns(
            {"Prediction": F.col("Prediction").cast("int"), "Probability": vector_to_array(F.col("Probability"))}
        )
        .drop(*INDEXED, *ENCODED, *IMPUTED.values(), "ExpectedFeatures", EXPECTED, "Features", "RawPrediction")
    )


def answers(model: PipelineModel, flights: DataFrame, *columns: str) -> tuple[Any, Any, Any]:
    """Labels (n,), probabilities (n, 4) and a pandas frame of the `columns`, of flights with features and label."""
    judged = predict(model, flights).select(LABEL, "Probability", *columns).toPandas()
    return judged[LABEL].to_numpy().astype(int), np.stack(judged["Probability"].to_list()), judged[list(columns)]


def judge(model: PipelineModel, training: DataFrame, holdout: DataFrame) -> dict[str, Any]:
    """What `Metadata` says of the model and the baselines on the holdout; the baselines learn from `training`."""
    labels, probabilities, flights = answers(model, holdout, "Carrier", "Origin")
    return {
        "metrics": metrics.score(labels, probabilities),
        "baselines": baselines(training, holdout),
        "calibration": metrics.calibration(labels, probabilities),
        "confusion": metrics.confusion(labels, probabilities.argmax(axis=1)).tolist(),
        "by_carrier": metrics.by_group(flights["Carrier"].to_numpy(), labels, probabilities),
        "by_origin": metrics.by_group(flights["Origin"].to_numpy(), labels, probabilities),
        "importances": importances(model),
        "golden": golden(model, holdout),
    }


def baselines(training: DataFrame, holdout: DataFrame) -> dict[str, Scores]:
    """What the commonest bucket, and the departure delay alone, reach on the holdout; they learn from `training`."""
    seen, judged = (frame.select("DepDelay", LABEL).toPandas() for frame in (training, holdout))
    labels = judged[LABEL].to_numpy().astype(int)
    seen_labels = seen[LABEL].to_numpy().astype(int)
    by_delay = metrics.departure_delay_alone(seen["DepDelay"].to_numpy(), seen_labels)
    return {
        "commonest_bucket": metrics.score(labels, np.tile(metrics.commonest_bucket(seen_labels), (len(labels), 1))),
        "departure_delay_alone": metrics.score(labels, by_delay[metrics.delay_bin(judged["DepDelay"].to_numpy())]),
    }


def importances(model: PipelineModel) -> dict[str, float]:
    """How much each input counts, most first, summing to 1; empty for a kind of model that does not say."""
    found = getattr(model.stages[-1], "featureImportances", None)
    inputs: list[str] = next(
        (stage.getInputCols() for stage in reversed(model.stages) if isinstance(stage, VectorAssembler)), []
    )
    if found is None or len(inputs) != len(found):
        return {}
    by_name = {name.removesuffix("Index"): float(found[number]) for number, name in enumerate(inputs)}
    return dict(sorted(by_name.items(), key=lambda each: -each[1]))


def golden(model: PipelineModel, like: DataFrame) -> dict[str, tuple[float, ...]]:
    """The probabilities that the golden requests get, by name; what they do not say is null. `like` has the columns."""
    asked = like.sparkSession.createDataFrame([{"Name": each.name, **each.request} for each in gate.golden_requests()])
    asked = with_features(asked.withColumn("FlightDate", F.col("FlightDate").cast("date")))
    columns = [
        (F.col(field.name) if field.name in asked.columns else F.lit(None)).cast(field.dataType).alias(field.name)
        for field in like.schema
    ]
    found = predict(model, asked.select("Name", *columns)).select("Name", "Probability").collect()
    return {row.Name: tuple(row.Probability) for row in found}


def compare(model: PipelineModel, holdout: DataFrame, champion: Path) -> Comparison:
    """Model and champion (its version folder) on the same rows of the holdout; see `Comparison`."""
    version = champion.name
    try:
        registry.verify(champion.parent, version)
        rival = PipelineModel.load(str(champion / PIPELINE))
        rows = holdout.where(F.col("FlightDate") > registry.load_metadata(champion.parent, version).training.last)
        if seen := rows.isEmpty():
            rows = holdout
        scores = metrics.score(*answers(rival, rows)[:2])
    except (RegistryError, AnalysisException, IllegalArgumentException) as error:
        # Damaged, or of inputs that there are no more: such a champion cannot serve either.
        return Comparison(version=version, error=str(error).splitlines()[0])
    return Comparison(version=version, champion=scores, challenger=metrics.score(*answers(model, rows)[:2]), seen=seen)


def refuse_gaps(flights: DataFrame) -> None:
    """Raises ValueError where a feature is null or NaN: the records should have been validated."""
    gap = [F.count_if(F.col(name).isNull()).alias(name) for name in CATEGORICAL]
    gap += [F.count_if(F.col(name).isNull() | F.isnan(name)).alias(name) for name in REQUIRED]
    gaps = {name: count for name, count in flights.select(*gap).collect()[0].asDict().items() if count}
    if gaps:
        raise ValueError(f"Flight records without a value: {gaps}; run the DAG flight_records, which validates them")


def period(flights: DataFrame) -> Period:
    """First and last date and the number of rows."""
    first, last, rows = flights.select(F.min("FlightDate"), F.max("FlightDate"), F.count("*")).collect()[0]
    return Period(first=first, last=last, rows=rows)


def code_version() -> str:
    """The commit, where this is a checkout with git; else the installed package's version."""
    try:
        command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--tags"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return importlib.metadata.version("flight-delays")


def train(
    spark: SparkSession,
    records: Sequence[Path],
    output: Path,
    *,
    trees: int,
    depth: int,
    seed: int,
    holdout_months: int,
    fingerprint: str,
    champion: Path | None = None,
    weather: Path | None = None,
) -> Metadata:
    """Reads, splits, fits, judges, and writes `output`/pipeline, the model card and, last, `output`/metadata.json.

    With `champion`, a version folder of the registry, that model is judged on the same flights.

    `weather` is a folder of Parquet files as in `features.with_weather`; where there is none, the model learns without.
    Raises ValueError where the records are too few months or have gaps.
    """
    hours = spark.read.parquet(str(weather)) if weather and any(weather.glob("*.parquet")) else None
    flights = labelled(spark.read.parquet(*(str(path) for path in records)), hours).cache()
    refuse_gaps(flights)
    training, holdout = split_by_time(flights, holdout_months)
    training_period, holdout_period = period(training), period(holdout)
    say(f"training on {training_period.rows:,} flights, {training_period.first} to {training_period.last}")
    say(f"holding out {holdout_period.rows:,} flights, {holdout_period.first} to {holdout_period.last}")

    started = time.monotonic()
    model = fit(training, trees=trees, depth=depth, seed=seed)
    seconds = time.monotonic() - started
    say(f"{trees} trees of depth {depth} fitted in {seconds:.1f} s")
    model.write().overwrite().save(str(output / PIPELINE))
    # Judged is what was written, not what is in memory.
    model = PipelineModel.load(str(output / PIPELINE))
    judged = judge(model, training, holdout)
    alone = metrics.score(*answers(model, without_context(holdout))[:2])
    comparison = compare(model, holdout, champion) if champion else None
    for name, result in {**judged["baselines"], "without context": alone, "model": judged["metrics"]}.items():
        say(f"{name:>22}: {result}")
    if comparison:
        say(f"{'champion':>22}: {comparison.champion or comparison.error}, {comparison.version}")

    indexer, forest = cast(StringIndexerModel, model.stages[0]), cast(RandomForestClassificationModel, model.stages[-1])
    metadata = Metadata(
        trained_at=dt.datetime.now(dt.UTC),
        params=Params(trees=trees, depth=depth, seed=seed, holdout_months=holdout_months, max_bins=forest.getMaxBins()),
        categorical=CATEGORICAL,
        numeric=NUMERIC,
        vocabulary={name: list(labels) for name, labels in zip(CATEGORICAL, indexer.labelsArray, strict=True)},
        training=training_period,
        holdout=holdout_period,
        fingerprint=fingerprint,
        code_version=code_version(),
        spark_version=spark.version,
        metrics_without_context=alone,
        training_seconds=round(seconds, 3),
        comparison=comparison,
        **judged,
    )
    model_card.write(output, metadata)
    (output / METADATA).write_text(metadata.model_dump_json(indent=2) + "\n")
    return metadata


def say(line: str) -> None:
    """One line of progress, at once: Airflow's log shows it while the job runs."""
    sys.stdout.write(f"[train_model] {line}\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line as keyword arguments of `train`; see `--help`."""
    parser = argparse.ArgumentParser(description="Train and judge the flight-delay model.")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="Parquet files of flight records")
    parser.add_argument("--output", type=Path, required=True, help="folder for pipeline/, model card and metadata.json")
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--holdout-months", type=int, default=2, help="the last so many months judge the model")
    parser.add_argument("--weather", type=Path, help="folder of Parquet files of hourly weather, if there is one")
    parser.add_argument("--fingerprint", default="", help="what identifies the records, kept in the metadata")
    parser.add_argument("--champion", type=Path, help="version folder of the model to be judged on the same flights")
    return vars(parser.parse_args(arguments))


def main() -> None:
    """Runs the job in the Spark session that spark-submit describes."""
    options = parse()
    spark = SparkSession.builder.config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    try:
        train(spark, **options)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
