"""The name under which Airflow's database of release 0.1.0 has the trigger."""

from flight_delays_airflow.trigger import PredictorWatch

__all__ = ["PredictorWatch"]
