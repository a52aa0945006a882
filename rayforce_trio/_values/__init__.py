"""The wire layout of values: payloads to columns, Python values and columns to payloads, without Rayforce objects."""

from ._cells import json_cells, null_indexes, number_cells, text_cells

__all__ = ["json_cells", "null_indexes", "number_cells", "text_cells"]
