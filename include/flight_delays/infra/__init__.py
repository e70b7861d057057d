"""Files, Kafka and MongoDB as all stages use them; imports the contract, the settings and the errors only.

Import the modules: `files`, `kafka`, `batches`, `topics`, `mongo`, `printable`.
"""
