"""The original system's way, for comparison: Kafka -> Spark micro-batches -> MongoDB's Spark connector -> MongoDB.

A script for spark-submit, as the original's predictor is: no Spark Connect server, no response topic, no sink. It
parses, judges and predicts with the product's own functions, so that what differs is the way and nothing else; it
begins at the latest offsets and has no answer for an invalid message.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyspark.ml import PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bench.installation import until
from flight_delays.contract import DATABASE, Collection
from flight_delays.model import registry
from flight_delays.predictor import query
from flight_delays.settings import PROJECT, Settings, get_settings
from stack import artifacts
from stack.services import inherited_environment, spark_environment

_START_SECONDS: Final = 180


def documents(messages: DataFrame, model: PipelineModel, version: str) -> DataFrame:
    """Kafka rows -> the documents that the web app looks for: `_id` is the UUID."""
    judged = query.validate(query.parse(messages)).where(F.col("invalid").isNull())
    predicted = query.predict(judged, model, version, 0)
    return predicted.select(F.col("UUID").alias("_id"), *query.response_fields())


@contextmanager
def running(settings: Settings) -> Iterator[None]:
    """The query in a process of its own, until the end of the block. Raises RuntimeError where it does not start."""
    folder = settings.home / "bench"
    folder.mkdir(exist_ok=True)
    ready, log = folder / "ready", folder / "original.log"
    jars = [*(artifacts.JARS / "spark").glob("*.jar"), *_connector_jars(settings)]
    command = [str(artifacts.spark_home() / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "768m"]
    command += ["--conf", "spark.ui.enabled=false", "--conf", "spark.log.level=WARN"]
    command += ["--conf", "spark.sql.shuffle.partitions=2", "--jars", ",".join(map(str, jars))]
    command += [str(Path(__file__)), "--checkpoint", str(folder / "checkpoint"), "--ready", str(ready)]
    environment = inherited_environment() | settings.environment | spark_environment()
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=output, stderr=output)
    try:
        until("the query's first batch", _START_SECONDS, lambda: ready.exists() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError("the query ended:\n" + log.read_text()[-3000:])
        yield
    finally:
        process.terminate()
        process.wait(60)


def _connector_jars(settings: Settings) -> list[Path]:
    """The connector and its driver, beside the stack's jars in the virtual environment; `make up` needs neither."""
    folder = artifacts.JARS.with_name("bench-jars")
    if not folder.is_dir():
        staging = folder.with_name(f".bench-jars-{os.getpid()}")
        artifacts.retrieve(PROJECT / "bench" / "ivy.xml", PROJECT / "bench" / "jars.sha256", staging, settings)
        staging.rename(folder)
    return sorted(folder.glob("*/*.jar"))


def main(settings: Settings) -> None:
    """Runs the query in this process until it is ended; creates the file `--ready` after its first batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    options = parser.parse_args()
    version = registry.read_pointer(settings.models).champion
    if version is None:
        raise SystemExit("there is no model: run `make up` first")
    spark = SparkSession.builder.appName("the original's way").getOrCreate()
    query.configure(spark)
    model = PipelineModel.load(str(registry.pipeline_path(settings.models, version)))
    messages = query.read_requests(spark, settings, "latest")
    running_query = (
        documents(messages, model, version)
        .writeStream.format("mongodb")
        .option("checkpointLocation", str(options.checkpoint))
        .option("connection.uri", settings.mongo_uri)
        .option("database", DATABASE)
        .option("collection", Collection.RESPONSES.value)
        .outputMode("append")
        .start()
    )
    running_query.processAllAvailable()
    options.ready.touch()
    running_query.awaitTermination()


if __name__ == "__main__":
    main(get_settings())
