"""The benchmarks (`make bench`): what was measured stands in docs/benchmarks.md, how it is measured here."""
