"""Requests into Kafka: a send returns when the brokers have confirmed it, or says in time that they did not."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

from flight_delays.contract import REQUEST_TOPIC
from flight_delays.errors import sentence
from flight_delays.infra.kafka import producer_options
from flight_delays.settings import Settings

MESSAGE_TIMEOUT_SECONDS: Final = 1.5


class NotConfirmedError(RuntimeError):
    """Kafka has not confirmed the message: the client must not be told that it was accepted."""


class RequestProducer:
    """One a process; made at first use, because a producer's threads do not survive a fork."""

    def __init__(self, settings: Settings) -> None:
        self._configuration = {
            **producer_options(settings, timeout_seconds=MESSAGE_TIMEOUT_SECONDS),
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "socket.nagle.disable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,  # the first request after an outage must not meet a sleeping client
            "log_level": 2,  # else four lines a second while Kafka is away; what was refused is logged with its reason
        }
        self._lock = threading.Lock()
        self._producer: Any = None

    def send(self, key: str, value: str, timeout_seconds: float) -> None:
        """Puts a message on the request topic. Raises NotConfirmedError where no confirmation comes in time."""
        confirmed: Future[None] = Future()

        def report(error: Any, _: Any) -> None:
            if error is None:
                confirmed.set_result(None)
                return
            confirmed.set_exception(NotConfirmedError(error.str()))
            if error.fatal():  # this producer will never send again; the next request makes a new one
                self._producer = None

        try:
            self._client().produce(REQUEST_TOPIC, key=key, value=value, on_delivery=report)
            confirmed.result(timeout_seconds)
        except TimeoutError:
            raise NotConfirmedError(f"no delivery report within {timeout_seconds:.1f} s") from None
        except (BufferError, KafkaException) as error:
            raise NotConfirmedError(sentence(error)) from error

    def check(self, timeout_seconds: float) -> None:
        """Raises KafkaException where the brokers do not answer in time."""
        self._client().list_topics(timeout=timeout_seconds)

    def _client(self) -> Any:
        with self._lock:
            if self._producer is None:
                self._producer = Producer(self._configuration)
                threading.Thread(target=self._poll, args=(self._producer,), name="kafka-reports", daemon=True).start()
            return self._producer

    def _poll(self, producer: Any) -> None:
        while producer is self._producer:
            producer.poll(0.5)  # runs the delivery reports as they come
