"""The Autobahn test suite against the WebSocket of this package, both as server and as client: `python -m autobahn`."""
