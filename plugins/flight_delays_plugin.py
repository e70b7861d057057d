"""Registers the plugin. The only file here: Airflow executes every file of this folder before each task."""

from flight_delays_airflow.plugin import FlightDelaysPlugin

__all__ = ["FlightDelaysPlugin"]
