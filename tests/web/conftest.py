"""The web app on Flask's test client: with the real Kafka and MongoDB, or with services that are away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pymongo.database import Database

from flight_delays.contract import Collection
from flight_delays.data.distances import PAIRS_FILE, import_distances, read_pairs
from flight_delays.settings import Settings
from webapp import create_app

NOWHERE = "127.0.0.1:1"
AWAY: dict[str, Any] = {"kafka_bootstrap": NOWHERE, "mongo_uri": f"mongodb://{NOWHERE}/"}


@pytest.fixture(scope="session")
def app(stack: Any) -> Flask:
    """One application for all tests, as one process serves all requests."""
    return create_app(stack.settings)


@pytest.fixture
def client(app: Flask, mongo: Database[dict[str, Any]]) -> Iterator[FlaskClient]:
    """A client of the app whose services all run; the database holds the distances only."""
    import_distances(mongo[Collection.DISTANCES], read_pairs(PAIRS_FILE))
    with app.test_client() as client:
        yield client


@pytest.fixture(scope="session")
def away(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    """A client of an app whose Kafka and MongoDB are both away."""
    home = tmp_path_factory.mktemp("away")
    return create_app(Settings(home=home, **AWAY)).test_client()
