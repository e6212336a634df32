"""Processes of a run: started on a core, measured through /proc, ended by pid and only then."""

import http.client
import os
import signal
import subprocess
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
# Load and origin share the first core, both sidecars the last one. On one core everything shares it, and the report says so.
LOAD_CORE, MESH_CORE = CORES[0], CORES[-1]


class Failure(Exception):
    """What went wrong, for people."""


def pinned(core):
    """For a child, before it becomes its program: threads that it starts later inherit the core."""
    return lambda: os.sched_setaffinity(0, {core})


class Process:
    def __init__(self, name, argv, core, log, env=None):
        self.name, self.log = name, log
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **(env or {})}, preexec_fn=pinned(core))
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def cpu(self):
        """Seconds of processor time so far: (user, system)."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
            # The name in the second field may hold spaces and brackets: cut behind its last one.
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND

    def resident(self):
        """KiB of memory that are resident, the program's own code included."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        raise Failure(f"{self.name} has no memory: it has ended")

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-15:])


class Processes:
    """Everything that a run has started."""

    def __init__(self, directory):
        self.directory, self.started = directory, []

    def start(self, name, argv, core, env=None):
        process = Process(name, argv, core, os.path.join(self.directory, f"{name}.log"), env)
        self.started.append(process)
        return process

    def end(self, processes=None):
        """Ends these processes, or all. A drain would wait for connections that are kept open: two seconds, then it is killed."""
        ending = list(self.started if processes is None else processes)
        for process in ending:
            if process.alive():
                process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2
        for process in ending:
            try:
                process.popen.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            self.started.remove(process)


def get(address, path, host=None, timeout=5):
    """One request over a connection of its own: (status, body)."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def await_answer(process, address, path, host=None, patience=30):
    """Waits until 200 is answered, as long as the process behind it lives."""
    deadline = time.monotonic() + patience
    seen = "nothing"
    while time.monotonic() < deadline:
        try:
            status, _ = get(address, path, host)
            if status == 200:
                return
            seen = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            seen = str(error)
        if not process.alive():
            raise Failure(f"{process.name} ended\n{process.tail()}")
        time.sleep(0.05)
    raise Failure(f"{process.name} does not answer at {address[0]}:{address[1]}{path} ({seen})\n{process.tail()}")


def core_busy(core):
    """Seconds for which a core did anything for anybody, or was taken away by the machine below."""
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if fields[0] == f"cpu{core}":
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
                return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
    raise Failure(f"/proc/stat does not know core {core}")
