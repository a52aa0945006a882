"""A native server for the benchmark: `python -m bench._native`.

Prints the server's port and process id as soon as the server listens. Ends with its standard input, and ends the
server.
"""

import sys

from support.native import native_server

if __name__ == "__main__":
    with native_server() as server:
        print(server.port, server.pid, flush=True)
        sys.stdin.read()
