"""nginx: files over HTTP and HTTPS, with ranges, and with a password."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.servers.certificates import write_certificate
from support.servers.program import Program, free_port, running

USER, PASSWORD = "reader", "only-for-tests"

# One process, so that it needs no second user, and nothing outside `folder`.
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/temporary;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary;
    scgi_temp_path {folder}/temporary;
    keepalive_requests 100000;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{ alias {files}/; }}
        location /private/ {{
            alias {files}/;
            auth_basic "private";
            auth_basic_user_file {folder}/passwords;
        }}
    }}
}}
"""


@dataclass
class Nginx(Program):
    """A running nginx. What is in `files` is served at `/`, and at `/private/` with a password."""

    files: Path
    tls_port: int
    certificate: Path

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def tls_context(self) -> ssl.SSLContext:
        """Return a context that trusts the certificate of the server."""
        return ssl.create_default_context(cafile=str(self.certificate))


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Nginx]:
    """Run nginx with its files below a folder."""
    program = shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if program is None:
        raise RuntimeError("nginx is missing; run `make servers` to install it")
    files = folder / "files"
    files.mkdir()
    (folder / "passwords").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    certificate, key = write_certificate(folder)
    tls_port = 0

    def command(port: int) -> list[str]:
        nonlocal tls_port
        tls_port = free_port()
        text = _CONFIGURATION.format(
            folder=folder,
            files=files,
            port=port,
            tls_port=tls_port,
            certificate=certificate,
            key=key,
        )
        (folder / "nginx.conf").write_text(text)
        return [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]

    with running("nginx", command, folder) as server:
        yield Nginx(server.name, server.port, server.log, files, tls_port, certificate)
