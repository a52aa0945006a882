"""The benchmark: rayforce_trio, rayforce-py's WebSocket pair and its native protocol in one run. `python -m bench`.

The benchmark is not a test: it never fails because of a figure. It fails if a contestant does.
"""
