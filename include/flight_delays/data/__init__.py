"""From a source's files to published flight records, distances and departure conditions.

Import the modules: `records`, `quality`, `distances`, `conditions`, `airports`, and from `sources` its names.
"""
