"""One training run: from Parquet flight records to a staged model folder."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pyspark.ml import PipelineModel
from pyspark.ml.classification import RandomForestClassificationModel
from pyspark.ml.feature import StringIndexerModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from flight_delays.model import metrics, model_card
from flight_delays.model.evaluation import compare, evaluate, labels_and_probabilities
from flight_delays.model.features import CATEGORICAL, NUMERIC, without_conditions
from flight_delays.model.pipeline import fit, labelled, split_by_time
from flight_delays.model.registry import METADATA, PIPELINE, Metadata, Params, Period
from flight_delays.settings import PROJECT


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

    With `champion`, a version folder of the registry, that model is evaluated on the same flights.

    `weather` is a folder of Parquet files as in `features.with_weather`; where there is none, the model learns without.
    Raises ValueError where the records are too few months.
    """
    hours = spark.read.parquet(str(weather)) if weather and any(weather.glob("*.parquet")) else None
    flights = labelled(spark.read.parquet(*(str(path) for path in records)), hours).cache()
    training, holdout = split_by_time(flights, holdout_months)
    training_period, holdout_period = period(training), period(holdout)
    say(f"training on {training_period.rows:,} flights, {training_period.first} to {training_period.last}")
    say(f"holding out {holdout_period.rows:,} flights, {holdout_period.first} to {holdout_period.last}")

    started = time.monotonic()
    model = fit(training, trees=trees, depth=depth, seed=seed)
    seconds = time.monotonic() - started
    say(f"{trees} trees of depth {depth} fitted in {seconds:.1f} s")
    model.write().overwrite().save(str(output / PIPELINE))
    # Evaluated is what was written, not what is in memory.
    model = PipelineModel.load(str(output / PIPELINE))
    evaluated = evaluate(model, training, holdout)
    alone = metrics.score(*labels_and_probabilities(model, without_conditions(holdout))[:2])
    comparison = compare(model, holdout, champion) if champion else None
    for name, result in {**evaluated["baselines"], "without conditions": alone, "model": evaluated["metrics"]}.items():
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
        metrics_without_conditions=alone,
        training_seconds=round(seconds, 3),
        comparison=comparison,
        **evaluated,
    )
    model_card.write(output, metadata)
    (output / METADATA).write_text(metadata.model_dump_json(indent=2) + "\n")
    return metadata


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


def say(line: str) -> None:
    """One line of progress, at once: Airflow's log shows it while the job runs."""
    sys.stdout.write(f"[train_model] {line}\n")
    sys.stdout.flush()
