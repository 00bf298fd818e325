"""A distributed benchmarking and evaluation harness for generative adversarial networks."""
