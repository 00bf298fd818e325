"""Benchmarks: what the harness costs, measured beside a bare reference in the same run."""
