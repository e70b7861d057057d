"""The benchmarks (`make bench`): what was measured is in docs/benchmarks.md, how it is measured here."""
