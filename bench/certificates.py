"""Certificates for the peers that do not make their own, and a stranger who tries to come in without one."""

import os
import socket
import ssl
import subprocess

from processes import Failure


class Certificates:
    """One root and a leaf for each side: P-256, as Weir's are."""

    def __init__(self, run):
        self.openssl, self.directory = run.tools["openssl"], os.path.join(run.work, "certificates")
        os.mkdir(self.directory, 0o700)
        self.ca = self.path("ca.crt")
        self._run("req", "-x509", *self._key("ca"), "-subj", "/CN=bench root", "-days", "2", "-out", self.ca,
                  "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        for name in ("client", "web"):
            self._leaf(name)

    def path(self, name):
        return os.path.join(self.directory, name)

    def identity(self, name):
        return f"spiffe://bench/ns/bench/sa/{name}"

    def _key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path(f"{name}.key")]

    def _leaf(self, name):
        request, extensions = self.path(f"{name}.csr"), self.path(f"{name}.ext")
        with open(extensions, "w", encoding="ascii") as file:
            file.write(f"subjectAltName=URI:{self.identity(name)},DNS:{name}.bench\nkeyUsage=critical,digitalSignature\n"
                       "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n")
        self._run("req", *self._key(name), "-subj", f"/CN={name}", "-out", request)
        self._run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.path("ca.key"), "-CAcreateserial",
                  "-days", "1", "-extfile", extensions, "-out", self.path(f"{name}.crt"))
        with open(self.path(f"{name}.pem"), "w", encoding="ascii") as both:
            for part in ("crt", "key"):
                with open(self.path(f"{name}.{part}"), encoding="ascii") as file:
                    both.write(file.read())

    def _run(self, *args):
        done = subprocess.run([self.openssl, *args], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"openssl {args[0]}: {done.stderr.strip()}")

    def knock(self, address, alpn):
        """Comes in with the client's certificate: what was agreed, such as `TLSv1.3 TLS_AES_128_GCM_SHA256`."""
        context = stranger(alpn)
        context.load_cert_chain(self.path("client.crt"), self.path("client.key"))
        with socket.create_connection(address, 5) as plain, context.wrap_socket(plain) as secured:
            return f"{secured.version()} {secured.cipher()[0]}"


def stranger(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # What is asked here is whether the server looks at its clients; that the sidecars look at each other is in their configuration.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(alpn)
    return context


def refused(address, alpn, newest=ssl.TLSVersion.TLSv1_3):
    """Whether a client without a certificate gets nothing from a server's sidecar."""
    context = stranger(alpn)
    context.maximum_version = newest
    try:
        with socket.create_connection(address, 5) as plain, context.wrap_socket(plain) as secured:
            # With TLS 1.3 the client is done before the server has seen that the certificate is missing.
            secured.sendall(b"GET /data.json HTTP/1.1\r\nHost: web.bench\r\nConnection: close\r\n\r\n")
            return secured.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
