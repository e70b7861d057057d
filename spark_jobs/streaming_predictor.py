"""Runs the streaming query in this process until it is stopped, as the original system does.

In the stack, Airflow's DAG `flight_delay_predictor` starts the same query on the Spark Connect server.

    spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0 spark_jobs/streaming_predictor.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from flight_delays.model import registry
from flight_delays.predictor import query
from flight_delays.settings import get_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the query with the champion or the version named."""
    settings = get_settings()
    parser = argparse.ArgumentParser(description="Predict arrival delays for the requests on Kafka.")
    parser.add_argument("--model-version", help="default: the champion")
    parser.add_argument("--checkpoint", type=Path, default=settings.checkpoints / "spark-submit")
    parser.add_argument("--starting-offsets", default="earliest", help="earliest, latest or JSON; new checkpoints only")
    options = parser.parse_args(arguments)
    version = options.model_version or registry.read_pointer(settings.models).champion
    if version is None:
        raise SystemExit(
            "There is no model yet: train one with the DAG agile_data_science_batch_prediction_model_training"
        )
    registry.verify(settings.models, version)
    spark = SparkSession.builder.appName("flight_delay_predictor").getOrCreate()
    query.configure(spark)
    model = PipelineModel.load(str(registry.pipeline_path(settings.models, version)))
    requests = query.read_requests(spark, settings, options.starting_offsets)
    responses = query.respond(requests, model, version, deployment=0)
    running = query.start(responses, settings, options.checkpoint, "flight_delay_predictor")
    print(json.dumps({"query": str(running.id), "model": version}), flush=True)  # noqa: T201 - a script's own output
    running.awaitTermination()


if __name__ == "__main__":
    main()
