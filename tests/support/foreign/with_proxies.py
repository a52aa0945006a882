"""nginx and HAProxy, as Debian packages them, in front of a server on this machine."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "proxy.md"
INSTALLED_HAPROXY = Path("/etc/haproxy/haproxy.cfg")

_NGINX = """
daemon off;
worker_processes 1;
error_log stderr;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {config}
}}
"""


def documented(*words: str) -> str:
    """Return the only configuration on the page about proxies that has all the words."""
    blocks = re.findall(r"^```(?:nginx|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if all(word in block for word in words)]
    return str(found)


@contextmanager
def nginx(config: str, directory: Path) -> Iterator[int]:
    """Run nginx and yield its port.

    Args:
        config: the contents of the `http` block, with `PORT` for the port to listen on.
        directory: for its files.
    """
    with _listener() as listener:
        port = listener.getsockname()[1]
        file = directory / "nginx.conf"
        file.write_text(_NGINX.format(directory=directory, config=config.replace("PORT", f"127.0.0.1:{port}")))
        with _running(["nginx", "-p", str(directory), "-e", "stderr", "-c", str(file)], listener):
            yield port


@contextmanager
def haproxy(config: str, directory: Path) -> Iterator[int]:
    """Run HAProxy and yield its port.

    Args:
        config: its configuration, with `PORT` for the port to listen on.
        directory: for its files.
    """
    with _listener() as listener:
        port = listener.getsockname()[1]
        file = directory / "haproxy.cfg"
        file.write_text(config.replace("PORT", f"fd@{listener.fileno()}"))
        with _running(["haproxy", "-db", "-f", str(file)], listener):
            yield port


def installed_defaults() -> str:
    """Return the defaults of HAProxy as it was installed."""
    text = INSTALLED_HAPROXY.read_text(encoding="utf-8")
    return text[text.index("\ndefaults\n") :]


@contextmanager
def _listener() -> Iterator[socket.socket]:
    """Listen in place of the proxy, which inherits the socket: clients can connect before it has started."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


@contextmanager
def _running(command: list[str], listener: socket.socket) -> Iterator[None]:
    environment = {**os.environ, "NGINX": f"{listener.fileno()};"}  # so nginx passes sockets on to its next version
    process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment)
    listener.close()
    try:
        yield
        assert process.poll() is None, f"{command[0]} has ended; see its messages"
    finally:
        process.terminate()  # its workers, too
        process.wait()
