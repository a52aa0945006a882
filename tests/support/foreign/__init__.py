"""Other WebSocket implementations, as clients of our server and as servers of our client."""
