"""Who is compared. Every peer is a pair of sidecars in the same places:

    generator -> client's sidecar -> mutual TLS 1.3 -> server's sidecar -> nginx

A peer has `client` and `server` (the processes), `h1` and `h2` (where the generator sends HTTP/1.1 and HTTP/2 to) and `tls`,
what was seen of the encryption between the sidecars.
"""

import os
import re
import shutil
import subprocess

import certificates
from envoy import EnvoyH1, EnvoyH2
from processes import LOAD_CORE, MESH_CORE, Failure, await_answer, get

# What the generator asks for. Only Weir looks at it.
HOST, HOST_H2 = "web.bench", "web-h2.bench"
ADMIN = 15420


class Direct:
    """No mesh: the generator asks nginx itself."""

    name, title = "none", "no mesh"
    client = server = None

    def __init__(self, run):
        self.h1, self.h2, self.tls, self.version = run.origin.h1, run.origin.h2, "none", version([run.tools["nginx"], "-v"])

    def check(self, requests):
        pass


def version(argv):
    """The first number that looks like a version in what a program says about itself."""
    said = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+[\w.-]*", said.stdout + said.stderr)
    return found.group() if found else "?"


MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {{ name: bench }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web, namespace: bench }}
spec: {{ selector: {{ app: web }}, ports: [{{ name: http, port: 80, targetPort: 8080, appProtocol: http }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web-h2, namespace: bench }}
spec: {{ selector: {{ app: web }}, ports: [{{ name: http, port: 80, targetPort: 8081, appProtocol: http }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web-1, namespace: bench, labels: {{ kubernetes.io/service-name: web }} }}
addressType: IPv4
ports: [{{ name: http, port: 8080, protocol: TCP, appProtocol: http }}]
endpoints: [{{ addresses: ["{web}"], conditions: {{ ready: true }}, targetRef: {{ kind: Pod, namespace: bench, name: web }} }}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: web-h2-1, namespace: bench, labels: {{ kubernetes.io/service-name: web-h2 }} }}
addressType: IPv4
ports: [{{ name: http, port: 8081, protocol: TCP, appProtocol: http }}]
endpoints: [{{ addresses: ["{web}"], conditions: {{ ready: true }}, targetRef: {{ kind: Pod, namespace: bench, name: web }} }}]
"""

POD = """---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: bench, labels: {{ app: {name} }}, annotations: {{ weir.dev/status: "{{}}" }} }}
spec: {{ serviceAccountName: {name}, containers: [{{ name: app, image: none }}] }}
status: {{ podIP: {address} }}
"""


class Weir:
    """Two `weir-proxy` with one worker each, and a control plane, which signs and configures and whose time is not counted."""

    name, title = "weir", "Weir"

    def __init__(self, run):
        self.run, self.work = run, os.path.join(run.work, "weir")
        os.mkdir(self.work)
        self.client_address, self.web_address = run.address(1, 1), run.address(1, 2)
        self.version = version([run.binary("weir-proxy"), "--version"])
        control_plane = self._control_plane(run)
        origin = run.origin
        # Nothing calls the client, so nothing stands behind it.
        self.client = self._sidecar("client", self.client_address, f"{self.client_address}:8080={origin.h1[0]}:18099", control_plane)
        behind = ",".join(f"{self.web_address}:{port}={app[0]}:{app[1]}" for port, app in ((8080, origin.h1), (8081, origin.h2)))
        self.server = self._sidecar("web", self.web_address, behind, control_plane)
        for process, address in ((self.client, self.client_address), (self.server, self.web_address)):
            await_answer(process, (address, ADMIN), "/ready")
        self.h1 = self.h2 = (self.client_address, 15401)
        await_answer(self.client, self.h1, "/data.json", HOST)
        self.tls = "TLSv1.3"

    def _control_plane(self, run):
        manifests = os.path.join(self.work, "manifests")
        os.mkdir(manifests)
        self._write("manifests/bench.yaml", MANIFESTS.format(web=self.web_address)
                    + POD.format(name="client", address=self.client_address) + POD.format(name="web", address=self.web_address))
        self._write("tokens", "client-token bench client\nweb-token bench web\n")
        address = run.address(1, 10)
        process = run.processes.start("weir-control-plane", [
            run.binary("weir-control-plane"), "--source", f"dir:{manifests}", "--ca-dir", f"{self.work}/ca",
            "--token-file", f"{self.work}/tokens", "--grpc-listen", f"{address}:15410", "--http-listen", f"{address}:15411",
        ], LOAD_CORE, {"WEIR_LOG_LEVEL": "warn"})
        await_answer(process, (address, 15411), "/ready")
        return f"{address}:15410"

    def _write(self, name, text):
        with open(os.path.join(self.work, name), "w", encoding="ascii") as file:
            file.write(text)

    def _sidecar(self, name, address, inbound, control_plane):
        self._write(f"{name}.token", f"{name}-token")
        return self.run.processes.start(f"weir-{name}", [self.run.binary("weir-proxy")], MESH_CORE, {
            "WEIR_POD_NAME": name, "WEIR_POD_NAMESPACE": "bench", "WEIR_SERVICE_ACCOUNT": name, "WEIR_POD_IP": address,
            "WEIR_CONTROL_PLANE": control_plane, "WEIR_TRUST_BUNDLE": f"{self.work}/ca/ca.crt",
            "WEIR_TOKEN": f"{self.work}/{name}.token", "WEIR_OUTBOUND_LISTEN": f"{address}:15401",
            "WEIR_ADMIN_LISTEN": f"{address}:{ADMIN}", "WEIR_INBOUND": inbound, "WEIR_WORKERS": "1", "WEIR_LOG_LEVEL": "warn",
        })

    def check(self, requests):
        """The server's sidecar has served at least so many requests, all of them over mutual TLS."""
        _, page = get((self.web_address, ADMIN), "/metrics")
        served = {}
        for labels, value in re.findall(r"^weir_http_requests_total\{([^}]*)\} (\S+)$", page.decode(), re.MULTILINE):
            tls = re.search(r'tls="([^"]*)"', labels)
            kind = tls.group(1) if tls else "?"
            served[kind] = served.get(kind, 0) + int(float(value))
        mutual = served.pop("mutual", 0)
        if mutual < max(requests, 1) or any(served.values()):
            raise Failure(f"of {requests} requests the server's sidecar saw {mutual} over mutual TLS, and otherwise {served}")
        if not certificates.refused((self.web_address, 8080), ["weir/h2"]):
            raise Failure("the server's sidecar of weir takes a mesh connection without a certificate")


HAPROXY = """
global
  nbthread 1
  maxconn 8192
  # The cipher that Weir and Envoy agree on.
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
"""
HAPROXY_CLIENT = """
frontend outbound
  bind {client}:15401
  bind {client}:15402 proto h2
  default_backend mesh
backend mesh
  server web {web}:8080 ssl crt {crt} ca-file {ca} verify required verifyhost web.bench sni str(web.bench) alpn http/1.1 maxconn 8192
"""
HAPROXY_SERVER = """
frontend inbound
  bind {web}:8080 ssl crt {crt} ca-file {ca} verify required alpn http/1.1
  default_backend app
backend app
  server app {app}:{app_port} maxconn 8192
"""


class Haproxy:
    """HAProxy with one thread: HTTP/1.1 between the sidecars, whose connections are kept and shared."""

    name, title = "haproxy", "HAProxy, HTTP/1.1 between"

    def __init__(self, run):
        program = run.tools.get("haproxy")
        if not program:
            raise Failure("haproxy is not installed: apt-get install haproxy")
        self.run, self.version = run, version([program, "-v"])
        certs = run.certificates()
        client, self.web = run.address(4, 1), run.address(4, 2)
        places = {"client": client, "web": self.web, "ca": certs.ca, "app": run.origin.h1[0], "app_port": run.origin.h1[1]}
        started = []
        for side, text in (("client", HAPROXY_CLIENT), ("web", HAPROXY_SERVER)):
            config = os.path.join(run.work, f"haproxy-{side}.cfg")
            with open(config, "w", encoding="ascii") as file:
                file.write(HAPROXY + text.format(**places, crt=certs.path(f"{side}.pem")))
            started.append(run.processes.start(f"haproxy-{side}", [program, "-db", "-f", config], MESH_CORE))
        self.client, self.server = started
        self.h1, self.h2 = (client, 15401), (client, 15402)
        await_answer(self.client, self.h1, "/data.json")
        self.tls = certs.knock((self.web, 8080), ["http/1.1"])

    def check(self, _requests):
        if not certificates.refused((self.web, 8080), ["http/1.1"]):
            raise Failure("the server's sidecar of haproxy takes connections without a certificate")


ALL = {peer.name: peer for peer in (Weir, EnvoyH2, EnvoyH1, Haproxy, Direct)}


def program(name):
    """Debian keeps administrators' programs out of an ordinary user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
