"""The streaming query: requests from Kafka in, predictions and dead letters to Kafka out.

Every step is a pure function from DataFrame to DataFrame. All of it stays in the JVM (no Python UDF, no
`foreachBatch`), which is what Spark's real-time mode demands. A message is validated in columns *before* the model sees
it, and an invalid one is sent to the dead-letter topic by the column `topic`: the stream never stops for a message.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from pyspark.ml import PipelineModel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from flight_delays.contract import (
    BLANKS,
    CLIENT_ID,
    CODES,
    DEAD_LETTER_TOPIC,
    FIRST_DATE,
    LAST_DATE,
    LEADING_ZEROS,
    MAX_BRACKETS,
    MAX_KEY_BYTES,
    MAX_MESSAGE_BYTES,
    PAYLOAD_BYTES,
    REQUEST_TOPIC,
    RESPONSE_TOPIC,
    UUID_PATTERN,
    DepartureConditions,
    Reason,
    Request,
)
from flight_delays.model.features import with_features
from flight_delays.model.pipeline import predict as add_prediction
from flight_delays.settings import Settings

RECOMPUTED = frozenset({"DayOfYear", "DayOfMonth", "DayOfWeek"})
"""Fields that are never read from a request: `with_features` computes them from FlightDate."""


def request_fields() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each field that is read from a request, from the contract's one model; plus `required`."""
    schema = Request.model_json_schema()
    fields = {}
    for name, spec in schema["properties"].items():
        if name not in RECOMPUTED:
            optional: dict[str, Any] = next(
                (option for option in spec.get("anyOf", ()) if option["type"] != "null"), {}
            )
            fields[name] = {**spec, **optional, "required": name in schema["required"]}
    return fields


def response_fields() -> list[str]:
    """The columns of an answer, in the order of its JSON."""
    return [
        *request_fields(),
        *sorted(RECOMPUTED),
        *("Route", "Prediction", "Probability", "ModelVersion", "Deployment", "RequestPartition", "RequestOffset"),
        "RequestedAt",
    ]


def read_requests(spark: SparkSession, settings: Settings, starting_offsets: str = "earliest") -> DataFrame:
    """The request topic as a stream; `starting_offsets` ("earliest" or JSON) counts only for a new checkpoint."""
    return (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap)
        .option("subscribe", REQUEST_TOPIC)
        .option("kafka.max.poll.records", "100")  # that many are in memory, each of up to 1 MB
        .option("startingOffsets", starting_offsets)
        .option("failOnDataLoss", "false")  # a message past its retention must not stop the stream for ever
        .load()
    )


def parse(messages: DataFrame) -> DataFrame:
    """Kafka rows -> `payload` (binary), `key` (text), place and time, and `json` (variant, null if unreadable).

    What is above the contract's limits is not looked into.
    """
    size = F.octet_length("value")
    readable = F.when(size <= MAX_MESSAGE_BYTES, F.try_validate_utf8(F.col("value").cast("string")))
    short_key = F.when(F.octet_length("key") <= MAX_KEY_BYTES, F.col("key"))
    brackets = F.length(readable) - F.length(F.translate(readable, "{[", ""))
    return messages.select(
        F.col("value").alias("payload"),
        F.try_validate_utf8(short_key.cast("string")).alias("key"),
        F.col("partition").alias("RequestPartition"),
        F.col("offset").alias("RequestOffset"),
        # Of a topic that takes the clients' times, it may be any.
        F.when(F.col("timestamp").cast("date").between(FIRST_DATE, LAST_DATE), F.col("timestamp")).alias("RequestedAt"),
        size.alias("payload_bytes"),
        readable.alias("text"),
        brackets.alias("brackets"),
        F.when(brackets <= MAX_BRACKETS, _strict_json(readable)).alias("json"),
    )


def _strict_json(text: Column) -> Column:
    """The text as a variant; null where it is anything but one JSON value.

    Spark's parser ends with the first value and does not look at what follows. In an array only `,` or `]` may follow
    a value, in an object only `,` or `}`, and after the comma the one wants a value, the other a name and a colon: so
    only a single value is valid in both.
    """
    in_object = F.try_parse_json(F.concat(F.lit('{"a":'), text, F.lit("}")))
    in_array = F.try_parse_json(F.concat(F.lit("["), text, F.lit("]")))
    return F.when(in_array.isNotNull(), F.try_variant_get(in_object, "$.a", "variant"))


def validate(parsed: DataFrame) -> DataFrame:
    """Adds each field of a request, typed, and `invalid`: null, or a struct of `reason` and `field`.

    The checks are built from the JSON Schema of `contract.Request`, so that web and stream accept the same. A field is
    read as `contract.cleaned` does: null and blank text are absent, and have the type VOID.
    """
    fields = request_fields()
    raw = parsed.withColumns(
        {f"_{name}": F.try_variant_get("json", f"$.{name}", "variant") for name in fields}
    ).withColumns({f"_{name}_type": _type(F.col(f"_{name}")) for name in fields})
    typed = raw.withColumns({name: _typed(name, spec) for name, spec in fields.items()})
    reasons = [
        _when(F.col("payload").isNull() | (F.col("payload_bytes") == 0), Reason.EMPTY),
        _when(F.col("payload_bytes") > MAX_MESSAGE_BYTES, Reason.TOO_LARGE),
        _when(F.col("text").isNull(), Reason.INVALID_UTF8),
        _when(F.col("brackets") > MAX_BRACKETS, Reason.TOO_NESTED),
        _when(F.col("json").isNull(), Reason.MALFORMED_JSON),
        _when(~F.schema_of_variant("json").startswith("OBJECT"), Reason.NOT_AN_OBJECT),
        *(check for name, spec in fields.items() for check in _checks(name, spec)),
        _when(F.col("Origin") == F.col("Dest"), Reason.SAME_AIRPORT, "Dest"),
    ]
    return typed.withColumn("invalid", F.coalesce(*reasons)).drop(
        *(column for name in fields for column in (f"_{name}", f"_{name}_type"))
    )


def _type(value: Column) -> Column:
    """The variant's JSON type as Spark names it; VOID for null and for blank text."""
    return F.when(_text(value) == "", "VOID").otherwise(F.schema_of_variant(value))


def _text(value: Column) -> Column:
    return F.btrim(F.try_variant_get(value, "$", "string"), F.lit(BLANKS))


def _absent(name: str) -> Column:
    missing = F.col(f"_{name}").isNull() | (F.col(f"_{name}_type") == "VOID")
    return missing & F.col("key").isNull() if name == "UUID" else missing


def _typed(name: str, spec: dict[str, Any]) -> Column:
    """The field's value, or null where it is absent or of another JSON type."""
    kind = F.col(f"_{name}_type")
    if spec["type"] == "number":
        is_number = kind.isin("BIGINT", "DOUBLE", "FLOAT") | kind.startswith("DECIMAL")
        return F.when(is_number, F.try_variant_get(f"_{name}", "$", "double"))
    if spec["type"] == "boolean":
        return F.when(kind == "BOOLEAN", F.try_variant_get(f"_{name}", "$", "boolean"))
    kinds = ("STRING", "BIGINT") if name == "FlightNum" else ("STRING",)
    text = F.when(kind.isin(*kinds), _text(F.col(f"_{name}")))
    if name in CODES:
        text = F.translate(text, string.ascii_lowercase, string.ascii_uppercase)
    if name == "FlightNum":
        text = F.regexp_replace(text, LEADING_ZEROS, "")
    if name != "UUID":
        return text
    return F.lower(F.when(F.col("_UUID").isNull() | (kind == "VOID"), F.col("key")).otherwise(text))


def _checks(name: str, spec: dict[str, Any]) -> list[Column]:
    """The field's checks, in the order in which they are reported; each is null where the field is fine."""
    value, present = F.col(name), ~_absent(name)
    checks = [_when(present & value.isNull(), Reason.WRONG_TYPE, name)]
    if spec["required"]:
        checks.insert(0, _when(~present, Reason.MISSING_FIELD, name))
    if "pattern" in spec:
        checks.append(_when(~_matches(value, spec["pattern"]), Reason.INVALID_FORMAT, name))
    if "minimum" in spec:
        inside = value.between(spec["minimum"], spec["maximum"]) & ~F.isnan(value)
        checks.append(_when(present & ~inside, Reason.OUT_OF_RANGE, name))
    if "formatMinimum" in spec:
        day = value.try_cast("timestamp").cast("date")
        checks.append(_when(present & day.isNull(), Reason.INVALID_FORMAT, name))
        first, last = F.lit(spec["formatMinimum"]).cast("date"), F.lit(spec["formatMaximum"]).cast("date")
        checks.append(_when(~day.between(first, last), Reason.OUT_OF_RANGE, name))
    return checks


def _matches(text: Column, pattern: str) -> Column:
    # Java's $ also matches before a final line break; \z does not.
    return text.rlike(pattern.removesuffix("$") + r"\z")


def _when(condition: Column, reason: Reason, field: str | None = None) -> Column:
    return F.when(condition, F.struct(F.lit(str(reason)).alias("reason"), F.lit(field).cast("string").alias("field")))


def predict(requests: DataFrame, model: PipelineModel, version: str, deployment: int) -> DataFrame:
    """Adds the features, `Route`, `Prediction` (int 0..3), `Probability` (array of 4), `ModelVersion`, `Deployment`.

    An invalid row goes through the model with neutral values in place of its own: a null would stop the query. What is
    known at departure (`contract.DepartureConditions`) is null where it is unknown, which a model has to expect.
    """
    valid = F.col("invalid").isNull()
    neutral = {"DepDelay": 0.0, "Distance": 1.0, "Carrier": "", "Origin": "", "Dest": ""}
    day = F.when(valid, F.col("FlightDate").try_cast("date")).otherwise(F.lit("2000-01-01").cast("date"))
    safe = requests.withColumns(
        {name: F.when(valid, F.col(name)).otherwise(F.lit(value)) for name, value in neutral.items()}
        | {name: F.when(valid, F.col(name)) for name in DepartureConditions.model_fields}
        | {"FlightDateText": F.col("FlightDate"), "FlightDate": day}
    )
    return add_prediction(model, with_features(safe)).withColumns(
        {"FlightDate": F.col("FlightDateText"), "ModelVersion": F.lit(version), "Deployment": F.lit(deployment)}
    )


def route(predicted: DataFrame) -> DataFrame:
    """The rows for Kafka (`topic`, `key`, `value`): a response for a valid request, else a dead letter."""
    payload = F.make_valid_utf8(F.substring("payload", 1, PAYLOAD_BYTES).cast("string"))
    # Not one readable field: at least the UUID, so that who asked hears of it (Python writes NaN into its JSON).
    searched = F.make_valid_utf8(F.substring("payload", 1, MAX_MESSAGE_BYTES).cast("string"))
    found = F.when(F.col("json").isNull(), F.regexp_extract(searched, rf'"UUID"\s*:\s*"({UUID_PATTERN[1:-1]})"', 1))
    uuid = F.coalesce(*(_uuid(candidate) for candidate in (F.col("UUID"), found, F.col("key"))))
    dead_letter = {
        "reason": F.col("invalid.reason"),
        "field": F.col("invalid.field"),
        "payload": payload,
        "payload_bytes": F.coalesce("payload_bytes", F.lit(0)),
        "payload_sha256": F.sha2("payload", 256),
        "partition": F.col("RequestPartition"),
        "offset": F.col("RequestOffset"),
        "UUID": uuid,
        "Deployment": F.col("Deployment"),
    }
    valid = F.col("invalid").isNull()
    rejected = F.to_json(F.struct(*(column.alias(name) for name, column in dead_letter.items())))
    return predicted.select(
        F.when(valid, F.lit(RESPONSE_TOPIC)).otherwise(F.lit(DEAD_LETTER_TOPIC)).alias("topic"),
        F.coalesce(uuid, F.col("key")).alias("key"),
        F.when(valid, F.to_json(F.struct(*response_fields()))).otherwise(rejected).alias("value"),
    )


def _uuid(text: Column) -> Column:
    return F.when(_matches(text, UUID_PATTERN), F.lower(text))


def respond(messages: DataFrame, model: PipelineModel, version: str, deployment: int) -> DataFrame:
    """From Kafka rows in to Kafka rows out: all steps; works on a stream and on a batch alike."""
    return route(predict(validate(parse(messages)), model, version, deployment))


def start(outgoing: DataFrame, settings: Settings, checkpoint: Path, name: str) -> StreamingQuery:
    """Starts the query in the mode of `settings.trigger`; an operator that real-time mode forbids shows up later, in
    the query's `exception()`."""
    writer = (
        outgoing.writeStream.format("kafka")
        .outputMode("update")
        .queryName(name)
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap)
        .option("kafka.enable.idempotence", "true")
        .option("kafka.client.id", CLIENT_ID)
        .option("checkpointLocation", str(checkpoint))
    )
    if settings.trigger == "realtime":
        return writer.trigger(realTime=f"{settings.realtime_batch_seconds} seconds").start()
    return writer.trigger(processingTime="0 seconds").start()


def configure(spark: SparkSession) -> None:
    """What every session that runs this query needs."""
    spark.conf.set("spark.sql.session.timeZone", "UTC")
