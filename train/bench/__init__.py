"""Benchmark of losses, networks and a training step on a processor."""
