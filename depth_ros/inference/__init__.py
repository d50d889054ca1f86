"""Models that describe themselves, and the runtimes that run them."""
