"""The application behind the sidecars: nginx with three files."""

import json
import os
import random

from processes import LOAD_CORE, await_answer

PORT, PORT_H2 = 18080, 18081


def files():
    """Path and content, the same in every run."""
    dice = random.Random(20)
    words = "mesh sidecar request answer route weight catalog price order basket customer header stream certificate".split()
    items = []
    while len(json.dumps(items)) < 800:
        items.append({"id": len(items), "name": dice.choice(words), "price": dice.randrange(10000), "stock": dice.randrange(50)})
    data = json.dumps({"items": items, "pad": ""})
    data = json.dumps({"items": items, "pad": "x" * (1024 - len(data))})
    lines = ["<!doctype html><html><head><title>Catalog</title></head><body>"]
    while sum(map(len, lines)) < 15 * 1024 - 200:
        lines.append(f"<p class=item>{' '.join(dice.choices(words, k=14))} <a href=/{dice.randrange(10**6)}>more</a></p>\n")
    lines.append("</body></html>\n")
    return {"/data.json": data.encode(), "/page.html": "".join(lines).encode(), "/large.bin": dice.randbytes(1 << 20)}


CONFIG = """
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {work}/tmp; proxy_temp_path {work}/tmp; fastcgi_temp_path {work}/tmp;
  uwsgi_temp_path {work}/tmp; scgi_temp_path {work}/tmp;
  types {{ application/json json; text/html html; application/octet-stream bin; }}
  root {work}/html;
  server {{ listen {address}:{port}; }}
  server {{ listen {address}:{port_h2} http2; }}
}}
"""


class Origin:
    def __init__(self, run):
        self.h1, self.h2 = (run.address(0, 3), PORT), (run.address(0, 3), PORT_H2)
        self.files = files()
        html = os.path.join(run.work, "html")
        os.mkdir(html)
        os.mkdir(os.path.join(run.work, "tmp"))
        for path, content in self.files.items():
            with open(html + path, "wb") as file:
                file.write(content)
        # Started by root, nginx reads as another user.
        os.chmod(run.work, 0o755)
        config = os.path.join(run.work, "nginx.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(CONFIG.format(work=run.work, address=self.h1[0], port=PORT, port_h2=PORT_H2))
        nginx = run.processes.start("nginx", [run.tools["nginx"], "-p", run.work, "-c", config], LOAD_CORE)
        await_answer(nginx, self.h1, "/data.json")
