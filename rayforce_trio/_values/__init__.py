"""The wire layout of values: payloads to columns, Python values and columns to payloads, without Rayforce objects."""
