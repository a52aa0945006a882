"""A native server, under a process that ends with its standard input and takes it along: `python -m bench._native`.

Prints the server's port and process id once it listens.
"""

import sys

from support.native import native_server

if __name__ == "__main__":
    with native_server() as server:
        print(server.port, server.pid, flush=True)
        sys.stdin.read()
