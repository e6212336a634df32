"""The lines of work: what is asked for, how, and what came of it."""

import json
import os
import re
import subprocess

from peers import HOST, HOST_H2
from processes import LOAD_CORE, MESH_CORE, Failure, core_busy, pinned

# wrk prints rounded numbers for people; its script hook has the exact ones.
WRK_SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests":%d,"bytes":%d,"seconds":%.6f,"errors":%d,"p50":%d,"p90":%d,"p99":%d,"p99.9":%d}\\n',
    summary.requests, summary.bytes, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9)))
end
"""
# What the headers of one answer may take at most, so that a count of bytes can be held against a count of answers.
HEADERS = 1024


class Line:
    """One kind of load. `seconds` is multiplied into a run's time: where little is done in a second, it takes longer."""

    def __init__(self, name, title, path, command, connections, seconds=1, note=""):
        self.name, self.title, self.path, self.command = name, title, path, command
        self.connections, self.seconds, self.note = connections, seconds, note


RATE = 2000
ALL = [
    Line("h1", "HTTP/1.1 keep-alive, 32 connections, 1 KiB of JSON", "/data.json", "wrk", 32),
    Line("html", "HTTP/1.1 keep-alive, 32 connections, 15 KiB of HTML", "/page.html", "wrk", 32),
    Line("h2", "HTTP/2, 8 connections of 16 streams, 1 KiB of JSON", "/data.json", "h2load", 8),
    Line("open", f"open loop: {RATE} requests/s over 32 connections, 1 KiB of JSON", "/data.json", "load", 32, 1.5),
    Line("large", "HTTP/1.1 keep-alive, 4 connections, 1 MiB answers", "/large.bin", "wrk", 4),
    Line("close", "a new client connection for each request, 16 at a time, 1 KiB of JSON", "/data.json", "close", 16),
]
BY_NAME = {line.name: line for line in ALL}


def url(where, path):
    return f"http://{where[0]}:{where[1]}{path}"


def generate(run, line, peer, seconds):
    """Runs the generator and gives requests, errors, bytes, seconds and, where it measures them, latencies in µs."""
    whole = max(1, round(seconds))
    if line.command == "h2load":
        return _h2load(run, line, peer, whole)
    target = url(peer.h1, line.path)
    if line.command == "load":
        output = _generator([run.binary("weir-bench-load"), "--rate", str(RATE), "--seconds", str(whole), "--connections",
                             str(line.connections), "--header", f"Host: {HOST}", target], whole)
        return json.loads(output)
    script = os.path.join(run.work, "wrk.lua")
    if not os.path.exists(script):
        with open(script, "w", encoding="ascii") as file:
            file.write(WRK_SCRIPT)
    argv = [run.tools["wrk"], "-t", "1", "-c", str(line.connections), "-d", f"{whole}s", "--timeout", "10s", "-s", script,
            "-H", f"Host: {HOST}"]
    if line.command == "close":
        argv += ["-H", "Connection: close"]
    output = _generator([*argv, target], whole)
    found = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if not found:
        raise Failure(f"wrk says: {output.strip()}")
    return json.loads(found.group(1))


def _generator(argv, seconds):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds + 60,
                              stdin=subprocess.DEVNULL, preexec_fn=pinned(LOAD_CORE))
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{os.path.basename(argv[0])} does not end") from error
    if done.returncode:
        raise Failure(f"{os.path.basename(argv[0])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _h2load(run, line, peer, seconds):
    output = _generator([run.tools["h2load"], "-t", "1", "-c", str(line.connections), "-m", "16", "-D", str(seconds),
                         "-H", f":authority: {HOST_H2}", url(peer.h2, line.path)], seconds)
    finished = re.search(r"finished in ([\d.]+)(m?s|us|m|h),", output)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    traffic = re.search(r"\((\d+)\) total.*\((\d+)\) data", output)
    if not (finished and counts and traffic):
        raise Failure(f"h2load says: {output.strip()}")
    succeeded, failed, errored, timeout = map(int, counts.groups())
    # In a run of a given time, what is under way at its end is neither succeeded nor failed.
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    wrong = sum(map(int, statuses.groups()[1:])) if statuses else 0
    return {"requests": succeeded, "errors": max(failed, errored) + timeout + wrong, "bytes": int(traffic.group(2)),
            "seconds": float(seconds)}


def measure(run, line, peer, seconds):
    """One run with everything that is known of it. `errors` other than 0 or `invalid` mean that it does not count."""
    pair = [process for process in (peer.client, peer.server) if process]
    before, busy = [process.cpu() for process in pair], core_busy(MESH_CORE)
    try:
        result = generate(run, line, peer, seconds * line.seconds)
    except Failure as error:
        return {"requests": 0, "errors": 0, "bytes": 0, "seconds": seconds, "invalid": str(error)}
    after, busy = [process.cpu() for process in pair], core_busy(MESH_CORE) - busy
    own = 0
    for side, first, last in zip(("client", "server"), before, after):
        result[side] = {"user": last[0] - first[0], "system": last[1] - first[1]}
        own += sum(result[side].values())
    # What others did on the sidecars' core meanwhile, in its share of the time: a run beside a compiler is no measurement.
    if LOAD_CORE != MESH_CORE:
        result["others"] = min(1.0, max(0.0, busy - own) / max(result["seconds"], 0.001))
    result["invalid"] = _why_invalid(run, line, result)
    return result


def _why_invalid(run, line, result):
    if not result["requests"]:
        return "no request was answered"
    if result["errors"]:
        return f"{result['errors']} errors" + (f" ({result['first_error']})" if result.get("first_error") else "")
    size, requests, slack = len(run.origin.files[line.path]), result["requests"], 0
    if line.command in ("wrk", "close"):
        # wrk counts heads too, and the begun answers of all connections at the end.
        slack = requests * HEADERS + line.connections * (size + HEADERS)
    elif line.command == "h2load":
        slack = line.connections * 16 * size
    if not requests * size <= result["bytes"] <= requests * size + slack:
        return f"{result['bytes']} bytes in {requests} answers of {size}"
    return None
