"""The wire layout of values: payloads to columns, Python values and columns to payloads. No Rayforce objects, no I/O."""
