"""A server under a mixed load for a long time: `python -m soak`, or `nox -s soak`."""
