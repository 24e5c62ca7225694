"""nginx in front of a receiver, as deploy/nginx has it."""

import asyncio
import getpass
import shutil
import socket
import ssl
import subprocess
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from yarl import URL

from rig.hookd import PATIENCE_SECONDS
from tests.deployed import DEPLOY
from tests.needs import needs

Proxy: TypeAlias = Callable[[int], AbstractAsyncContextManager[URL]]

needs_nginx = needs(bool(shutil.which("nginx") and shutil.which("openssl")), "nginx and openssl are not installed")


def a_certificate(folder: Path) -> Path:
    """A key and its certificate for 127.0.0.1, in one file."""
    pem = folder / "both.pem"
    wish = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hookd"
    made = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-")
    pem.write_bytes(subprocess.run(["openssl", *wish.split(), *made], check=True, capture_output=True).stdout)
    return pem


@asynccontextmanager
async def nginx(upstream_port: int, *, certificate: Path, folder: Path) -> AsyncIterator[URL]:
    port = a_free_port()
    (folder / "hookd.conf").write_text(configured(port, upstream_port, certificate, folder))
    temporary = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"user {getpass.getuser()}; pid nginx.pid; worker_processes 1; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ {temporary} include hookd.conf; }}\n"
    )
    command = ("nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;")
    process = await create_subprocess_exec(*command, stdin=DEVNULL, stderr=PIPE)
    assert process.stderr is not None
    said = b""
    while b"start worker process" not in said:  # its sockets are open by then
        line = await process.stderr.readline()
        said += line
        assert line, said.decode()
    rest = asyncio.create_task(process.stderr.read())
    try:
        yield URL(f"https://127.0.0.1:{port}")
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await process.wait()
        sys.stderr.write((await rest).decode(errors="replace"))


def configured(port: int, upstream_port: int, certificate: Path, folder: Path) -> str:
    """The configuration, with every value that is marked CHANGE changed, and the log in `folder`."""
    text = (DEPLOY / "nginx" / "hookd.conf").read_text()
    for theirs, ours in {
        "127.0.0.1:8080 max_fails=0;  # CHANGE": f"127.0.0.1:{upstream_port} max_fails=0;",
        "listen 443 ssl;       # CHANGE": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;  # CHANGE": "",
        "hooks.example.com;  # CHANGE": "localhost;",
        "/etc/letsencrypt/live/hooks.example.com/fullchain.pem;  # CHANGE": f"{certificate};",
        "/etc/letsencrypt/live/hooks.example.com/privkey.pem;    # CHANGE": f"{certificate};",
        "/var/log/nginx/": f"{folder}/",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    assert "# CHANGE" not in text
    return text


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def raw(url: URL, tls: ssl.SSLContext, request: bytes) -> bytes:
    """All that comes back until nginx closes the connection."""
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(request)
            return await reader.read()
    finally:
        writer.transport.abort()
