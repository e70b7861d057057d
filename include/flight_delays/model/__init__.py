"""From published records to a version in the registry that may serve; reads `data`.

Import the modules: `features`, `pipeline`, `evaluation`, `registry`, `promotion`.
"""
