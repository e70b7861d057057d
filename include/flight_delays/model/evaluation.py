"""Evaluation of a fitted pipeline on the holdout, beside two baselines and the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from pyspark.errors import AnalysisException, IllegalArgumentException
from pyspark.ml import PipelineModel
from pyspark.ml.classification import RandomForestClassificationModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flight_delays.errors import RegistryError
from flight_delays.model import metrics, promotion_checks, registry
from flight_delays.model.features import LABEL, with_features
from flight_delays.model.pipeline import predict
from flight_delays.model.registry import PIPELINE, Comparison, Scores


def evaluate(model: PipelineModel, training: DataFrame, holdout: DataFrame) -> dict[str, Any]:
    """What `Metadata` says of the model and the baselines on the holdout; the baselines learn from `training`."""
    labels, probabilities, flights = labels_and_probabilities(model, holdout, "Carrier", "Origin")
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


def compare(model: PipelineModel, holdout: DataFrame, champion: Path) -> Comparison:
    """Model and champion (its version folder) on the same rows of the holdout; see `Comparison`."""
    version = champion.name
    try:
        registry.verify(champion.parent, version)
        rival = PipelineModel.load(str(champion / PIPELINE))
        rows = holdout.where(F.col("FlightDate") > registry.load_metadata(champion.parent, version).training.last)
        if seen := rows.isEmpty():
            rows = holdout
        scores = metrics.score(*labels_and_probabilities(rival, rows)[:2])
    except (RegistryError, AnalysisException, IllegalArgumentException) as error:
        # Damaged, or of inputs that there are no more: such a champion cannot serve either.
        return Comparison(version=version, error=str(error).splitlines()[0])
    return Comparison(
        version=version,
        champion=scores,
        challenger=metrics.score(*labels_and_probabilities(model, rows)[:2]),
        seen=seen,
    )


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
    """How much each input counts, most first, summing to 1."""
    assembler, forest = cast(VectorAssembler, model.stages[-2]), cast(RandomForestClassificationModel, model.stages[-1])
    inputs = (name.removesuffix("Index") for name in assembler.getInputCols())
    found = zip(inputs, forest.featureImportances.toArray().tolist(), strict=True)
    return dict(sorted(found, key=lambda each: -each[1]))


def golden(model: PipelineModel, like: DataFrame) -> dict[str, tuple[float, ...]]:
    """The probabilities that the golden requests get, by name; what they do not say is null. `like` has the columns."""
    asked = like.sparkSession.createDataFrame(
        [{"Name": each.name, **each.request} for each in promotion_checks.golden_requests()]
    )
    asked = with_features(asked.withColumn("FlightDate", F.col("FlightDate").cast("date")))
    columns = [
        (F.col(field.name) if field.name in asked.columns else F.lit(None)).cast(field.dataType).alias(field.name)
        for field in like.schema
    ]
    found = predict(model, asked.select("Name", *columns)).select("Name", "Probability").collect()
    return {row.Name: tuple(row.Probability) for row in found}


def labels_and_probabilities(model: PipelineModel, flights: DataFrame, *columns: str) -> tuple[Any, Any, Any]:
    """Labels (n,), probabilities (n, 4) and a pandas frame of the `columns`, of flights with features and label."""
    predicted = predict(model, flights).select(LABEL, "Probability", *columns).toPandas()
    return (
        predicted[LABEL].to_numpy().astype(int),
        np.stack(predicted["Probability"].to_list()),
        predicted[list(columns)],
    )
