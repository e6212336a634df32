"""What a sidecar's memory is, and what a client connection adds to it. And what system calls a request takes."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

from lines import BY_NAME, generate
from peers import HOST
from processes import LOAD_CORE, pinned

CONNECTIONS = 1000


def resident(peer):
    return {side: process.resident() for side, process in (("client", peer.client), ("server", peer.server)) if process}


def with_connections(peer):
    """Memory while a thousand clients, each of which was answered once, are connected and silent."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    request = f"GET /data.json HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    clients = []
    try:
        for _ in range(CONNECTIONS):
            client = socket.create_connection(peer.h1, 10)
            clients.append(client)
            client.sendall(request)
            seen = b""
            while b"\r\n\r\n" not in seen or len(seen) < 1024 + seen.index(b"\r\n\r\n") + 4:
                piece = client.recv(65536)
                if not piece:
                    raise OSError("a connection was closed before its answer")
                seen += piece
        time.sleep(0.2)
        return resident(peer)
    finally:
        for client in clients:
            client.close()


def system_calls(run, peer, seconds=2):
    """System calls per request of each sidecar under the first line's load, or nothing where strace is missing or not allowed."""
    strace = shutil.which("strace")
    if not strace or not peer.client:
        return None
    traced, counts = [], {}
    try:
        for side, process in (("client", peer.client), ("server", peer.server)):
            out = os.path.join(run.work, f"strace-{peer.name}-{side}")
            traced.append((side, out, subprocess.Popen(
                [strace, "-f", "-c", "-o", out, "-p", str(process.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, preexec_fn=pinned(LOAD_CORE))))
        time.sleep(1)
        result = generate(run, BY_NAME["h1"], peer, seconds)
    finally:
        for _, _, tracer in traced:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
    for side, out, _ in traced:
        with open(out, encoding="ascii", errors="replace") as file:
            total = re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$", file.read(), re.MULTILINE)
        if total and result["requests"]:
            counts[side] = int(total.group(1)) / result["requests"]
    return counts or None
