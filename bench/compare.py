#!/usr/bin/env python3
"""What a pair of sidecars costs, beside others, on this machine: `make bench`, or `bench/compare.py --help`.

Needs Python 3 alone and drives wrk, h2load and `weir-bench-load`. Reads on in peers.py (who), lines.py (what is asked),
report.py (what the numbers say together).
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

import certificates
import envoy
import lines
import memory
import page
import peers
import report
from origin import Origin
from processes import CORES, Failure, Processes, get

PROGRAMS = {"wrk": "wrk", "h2load": "nghttp2-client", "nginx": "nginx-light", "openssl": "openssl"}


class Run:
    """What the parts of a run share."""

    def __init__(self, options, tools, work):
        self.options, self.tools, self.work = options, tools, work
        self.processes, self._certificates, self.origin = Processes(work), None, None
        # Addresses of this run's own, so that it meets no other program and no other run.
        self.net = 32 + os.getpid() % 200

    def address(self, place, last):
        return f"127.{self.net}.{place}.{last}"

    def binary(self, name):
        return os.path.join(self.options.bin_dir, name)

    def envoy(self):
        return envoy.binary(fetch=not self.options.smoke)

    def certificates(self):
        if not self._certificates:
            self._certificates = certificates.Certificates(self)
        return self._certificates


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--full", action="store_true", help="more and longer rounds, and system calls: up to 20 minutes")
    add("--smoke", action="store_true", help="one second of each line; fails unless answers, bytes and encryption are right; judges no speed")
    add("--peer", action="append", choices=peers.ALL, help="only this peer; may be given several times")
    add("--line", action="append", choices=lines.BY_NAME, help="only this line of work; may be given several times")
    add("--rounds", type=int, help="how often each peer has its turn")
    add("--seconds", type=float, help="how long one turn takes")
    add("--profile", default="release", choices=["release", "quick"], help="of Weir's binaries, which are built if needed")
    add("--bin-dir", default=None, help="where Weir's binaries are: builds nothing")
    add("--merge", action="store_true", help="keep what results.json has of other peers and lines")
    add("--out", default=None, help="where results.json and index.html go; otherwise bench/ in cargo's target directory")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.smoke else 5 if given.full else 2)
    given.seconds = given.seconds or (1 if given.smoke else 5 if given.full else 2)
    return given


def find_tools(given):
    """Where the programs are; installs what is missing where that is possible."""
    wanted = {} if given.smoke else {"haproxy": "haproxy"} if not given.peer or "haproxy" in given.peer else {}
    for name, package in {**PROGRAMS, **wanted}.items():
        if not peers.program(name):
            done = subprocess.run([os.path.join(ROOT, ".ci", "tools"), f"{name}:{package}"], check=False, stdout=sys.stderr)
            if done.returncode and name in PROGRAMS:
                raise Failure(f"{name} is needed: apt-get install {package}")
    return {name: peers.program(name) for name in (*PROGRAMS, "haproxy")}


def build(given):
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    given.out = given.out or os.path.join(target, "bench")
    if given.bin_dir:
        return
    given.bin_dir = os.path.join(target, given.profile)
    cargo = [os.environ.get("CARGO", "cargo"), "build", "--profile", given.profile, "--bins"]
    # Apart, so that the generator's features do not change what the servers are built with.
    for packages in (["-p", "weir-proxy", "-p", "weir-control-plane"], ["-p", "weir-bench-load"]):
        if subprocess.run([*cargo, *packages], cwd=ROOT, check=False).returncode:
            raise Failure("the build failed")


def start(run, results):
    """Starts the peers one after the other; one that cannot is left out, except Weir."""
    started = []
    for name, kind in peers.ALL.items():
        if run.options.peer and name not in run.options.peer:
            continue
        before = list(run.processes.started)
        try:
            peer = kind(run)
            for path, content in run.origin.files.items():
                status, body = get(peer.h1, path, peers.HOST)
                if (status, body) != (200, content):
                    raise Failure(f"{path} came with status {status} and {len(body)} bytes, and they are not the file's")
        except (Failure, OSError) as error:
            run.processes.end([process for process in run.processes.started if process not in before])
            if name in ("weir", "none"):
                raise
            results["skipped"][name] = str(error)
            say(f"left out: {name}: {error}")
            continue
        started.append(peer)
        results["peers"][name] = {"title": peer.title, "version": peer.version, "tls": peer.tls}
    return started


# A measurement is repeated if others took more than this of the sidecars' core meanwhile, a few times in a run. What is looked
# at is what they did, never the result.
NOISE = 0.1


def quietly(run, line, peer, results):
    """One measurement; the quieter one of two where the first was disturbed."""
    first = lines.measure(run, line, peer, run.options.seconds)
    if first.get("others", 0) <= NOISE or results["about"]["repeats_left"] == 0:
        return first
    results["about"]["repeats_left"] -= 1
    again = lines.measure(run, line, peer, run.options.seconds)
    # An error stays one: a repetition does not make it unseen.
    return next((one for one in (first, again) if one["invalid"]), min(first, again, key=lambda one: one.get("others", 1)))


def measure(run, started, results):
    smoke = run.options.smoke
    wanted = [line for line in lines.ALL if not run.options.line or line.name in run.options.line]
    for peer in started:
        if peer.client:
            idle = memory.resident(peer)
            results["peers"][peer.name]["memory"] = {"idle": idle, "connections": memory.CONNECTIONS}
            if not smoke:
                results["peers"][peer.name]["memory"]["connected"] = memory.with_connections(peer)
    if not smoke:
        for peer in started:
            lines.measure(run, lines.BY_NAME["h1"], peer, 1)
    for line in wanted:
        say(f"{line.name}: {line.title}")
        taken = results["lines"][line.name] = {peer.name: [] for peer in started}
        for _ in range(run.options.rounds):
            for peer in started:
                taken[peer.name].append(quietly(run, line, peer, results))
    for peer in started:
        if peer.client:
            results["peers"][peer.name]["memory"]["loaded"] = memory.resident(peer)
        check(peer, [one for taken in results["lines"].values() for one in taken[peer.name]])
    if run.options.full:
        for peer in started:
            results["peers"][peer.name]["calls"] = memory.system_calls(run, peer)


def check(peer, runs):
    """What a peer did without the encryption that it is compared with counts for nothing."""
    try:
        peer.check(sum(one["requests"] for one in runs))
    except (Failure, OSError) as error:
        say(f"invalid: {error}")
        for one in runs:
            one["invalid"] = one["invalid"] or str(error)


def about(given):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "processor": names[0] if names else platform.machine(),
            "cores": len(CORES), "kernel": platform.release().split("-")[0], "rounds": given.rounds, "seconds": given.seconds,
            "profile": given.profile, "load_before": os.getloadavg()[0], "merged": False,
            "repeats_left": 0 if given.smoke else 40 if given.full else 8}


def save(given, results):
    os.makedirs(given.out, exist_ok=True)
    path = os.path.join(given.out, "results.json")
    if given.merge and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            earlier = json.load(file)
        for line, taken in earlier["lines"].items():
            results["lines"][line] = {**taken, **results["lines"].get(line, {})}
        results["peers"] = {**earlier["peers"], **results["peers"]}
        results["about"]["merged"] = True
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    with open(os.path.join(given.out, "index.html"), "w", encoding="utf-8") as file:
        file.write(page.page(results))
    return path


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    given = options()
    # Ended from outside, it still ends what it started and removes its directory.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    work = processes = None
    try:
        tools = find_tools(given)
        build(given)
        work = tempfile.mkdtemp(prefix="weir-bench-")
        run = Run(given, tools, work)
        processes = run.processes
        results = {"about": about(given), "peers": {}, "lines": {}, "skipped": {}}
        run.origin = Origin(run)
        started = start(run, results)
        measure(run, started, results)
    except (Failure, OSError) as error:
        say(f"bench: {error}")
        return 1
    finally:
        if processes:
            processes.end()
        if work:
            shutil.rmtree(work, ignore_errors=True)
    path = save(given, results)
    print(report.text(results))
    print(f"{path} has every run; index.html beside it shows them")
    # Others may fail in their own ways, on machines with other versions of them: that is said and decides nothing.
    bad = [peer for line in results["lines"].values() for peer, runs in line.items()
           if peer in ("weir", "none") and any(one["invalid"] for one in runs)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
