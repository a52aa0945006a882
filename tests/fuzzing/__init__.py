"""Millions of inputs for what reads bytes of strangers: `python -m fuzzing`, and `python -m fuzzing.guided`."""
