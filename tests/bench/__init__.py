"""How fast this is, measured beside rayforce-py's own WebSocket pair and its native protocol: `python -m bench`.

It is no test: no figure makes it fail.
"""
