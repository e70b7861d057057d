"""Trains one PipelineModel on Parquet flight records, evaluates it on the last months, and writes a staged folder.

spark-submit spark_jobs/train_model.py --records 2013-*.parquet --output staged
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from flight_delays.model.training import train


def parse(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line as keyword arguments of `train`; see `--help`."""
    parser = argparse.ArgumentParser(description="Train and judge the flight-delay model.")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="Parquet files of flight records")
    parser.add_argument("--output", type=Path, required=True, help="folder for pipeline/, model card and metadata.json")
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--holdout-months", type=int, default=2, help="number of last months that evaluate the model")
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
