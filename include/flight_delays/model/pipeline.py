"""The PipelineModel: from flight records to rows with features and label, to the fitted pipeline, to its predictions.

Everything that the model needs is a stage of the pipeline (string indexers, a linear regression of the arrival delay,
random forest), all in the JVM: the same folder predicts in batch, in Spark's real-time mode and through Spark Connect.
"""

from __future__ import annotations

import datetime as dt

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flight_delays.contract import BUCKETS, GAINS
from flight_delays.model.features import (
    CATEGORICAL,
    GAIN_FEATURES,
    LABEL,
    NUMERIC,
    TIMES,
    UNKNOWN,
    WEATHER_FEATURES,
    arrival_bucket,
    with_features,
    with_recent_gains,
    with_weather,
    without_conditions,
)

INDEXED = tuple(f"{name}Index" for name in CATEGORICAL)
ENCODED = tuple(f"{name}Encoded" for name in CATEGORICAL)
CONDITIONS = (*WEATHER_FEATURES, *(f"{name}Filled" for name in GAINS))
IMPUTED = {name: name.replace("Filled", "Imputed") for name in CONDITIONS}
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
    """Training and holdout: the holdout is the last `holdout_months` calendar months that have flights.

    A random split would judge a model on days whose weather and congestion it has seen. Raises ValueError where no
    month would be left to train on.
    """
    month = F.trunc("FlightDate", "month")
    months: list[dt.date] = sorted(row[0] for row in flights.select(month).distinct().collect())
    if len(months) <= holdout_months:
        found = ", ".join(f"{month:%Y-%m}" for month in months) or "none"
        raise ValueError(f"Months of flights: {found}; to hold out {holdout_months}, at least one more is needed")
    first = F.lit(months[-holdout_months])
    return flights.where(F.col("FlightDate") < first), flights.where(F.col("FlightDate") >= first)


def conditions_dropout(training: DataFrame) -> DataFrame:
    """The flights, and half of them a second time without conditions, so that one model learns to answer both ways.

    Some lose the weather, the gains or the scheduled times alone. Which ones is decided by a hash of the flight, not by
    chance: the same records give the same model.
    """
    kind = F.pmod(F.xxhash64("FlightDate", "CarrierRoute", "DepDelay", "CRSDepMinutes"), F.lit(20))
    again = without_conditions(training.where(kind < 10))
    partly = without_conditions(training, kind == 10, WEATHER_FEATURES)
    partly = without_conditions(partly, kind == 11, GAIN_FEATURES)
    return without_conditions(partly.unionByName(again), kind.isin(1, 12), TIMES)


def fit(training: DataFrame, *, trees: int, depth: int, seed: int) -> PipelineModel:
    """The fitted pipeline: adds `Prediction` (0.0 .. 3.0) and `Probability` (vector of 4) to rows with the features."""
    training = conditions_dropout(training).cache()
    # `keep` gives what was never seen an index of its own; the alphabet makes the order independent of the rows'.
    indexer = StringIndexer(
        inputCols=list(CATEGORICAL), outputCols=list(INDEXED), handleInvalid="keep", stringOrderType="alphabetAsc"
    ).fit(training)
    # The last category, which is dropped, is the one of what was never seen.
    encoder = OneHotEncoder(inputCols=list(INDEXED), outputCols=list(ENCODED), handleInvalid="keep")
    # For the regression what is unknown is as usual. The imputer refuses a column of which nothing is known.
    known = training.select(*(F.count_if(F.col(name) != UNKNOWN).alias(name) for name in CONDITIONS)).collect()[0]
    present = [name for name in CONDITIONS if known[name]]
    imputer = Imputer(inputCols=present, outputCols=[IMPUTED[name] for name in present], missingValue=UNKNOWN)
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
    # The records have no nulls and the predictor rejects them before the model. Should one get here all the same,
    # `error` would stop the stream for ever and `skip` would lose the flight without a word: `keep` answers, with NaN.
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
            stages=[indexer, encoder, *([imputer] if present else []), explained, expected, assembler, forest]
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
