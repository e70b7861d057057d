"""The supervised streaming query: its desired state, starts, handovers, canaries and status; reads `model`.

Import `control.reconcile`, `status.read_status`, `probe`, and the names of `state`. Only `workload` and `query` know
of flights.
"""
