"""What the runs say together: medians, ratios to Weir, and the table on the terminal."""

from statistics import median

from lines import ALL

GIB = 1 << 30


def unit(line):
    return "CPU s per GiB" if line.name == "large" else "CPU µs per request"


def scale(line, run):
    """What processor seconds of a run are multiplied by."""
    return GIB / run["bytes"] if line.name == "large" else 1e6 / run["requests"]


class Spread:
    """Median with the smallest and the largest."""

    def __init__(self, values):
        self.middle, self.low, self.high = median(values), min(values), max(values)


def summary(line, runs):
    """Medians of the runs that count; None if there are none."""
    good = [run for run in runs if not run["invalid"]]
    if not good:
        return None
    seen = {"rate": Spread([run["requests"] / run["seconds"] for run in good]),
            "rounds": len(good), "others": max((run.get("others", 0) for run in good), default=0)}
    for key in ("p50", "p90", "p99", "p99.9"):
        if all(run.get(key) is not None for run in good):
            seen[key] = Spread([run[key] for run in good])
    if "client" in good[0]:
        costs = [{(side, kind): run[side][kind] * scale(line, run) for side in ("client", "server") for kind in ("user", "system")}
                 for run in good]
        seen["cpu"] = Spread([sum(cost.values()) for cost in costs])
        seen["parts"] = {part: median(cost[part] for cost in costs) for part in costs[0]}
    return seen


def summaries(results):
    """For each line that was run, in order: (line, {peer: summary or None})."""
    return [(line, {peer: summary(line, runs) for peer, runs in results["lines"][line.name].items()})
            for line in ALL if line.name in results["lines"]]


def ratio(seen, peers, key):
    """How many times Weir's a peer's number is."""
    weir = peers.get("weir")
    if not weir or key not in weir or key not in seen or not weir[key].middle:
        return None
    return seen[key].middle / weir[key].middle


def number(value):
    """Three digits that mean something."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def micros(value):
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.0f} µs"


def parts(seen, side):
    return "+".join(number(seen["parts"][side, kind]) for kind in ("user", "system"))


HEAD = ["", "both sidecars", "min–max", "× Weir", "client u+s", "server u+s", "requests/s"]


def rows(line, peers):
    """The cells of a line's table, its head first."""
    shown = [key for key in ("p50", "p90", "p99", "p99.9") if any(seen and key in seen for seen in peers.values())]
    if line.name != "open":
        shown = [key for key in shown if key in ("p50", "p99")]
    yield HEAD + shown
    for peer, seen in peers.items():
        if not seen:
            yield [peer, "invalid"] + ["–"] * (len(HEAD) - 2 + len(shown))
            continue
        row = [peer]
        if "cpu" in seen:
            cost, times = seen["cpu"], ratio(seen, peers, "cpu")
            row += [number(cost.middle), f"{number(cost.low)}–{number(cost.high)}", number(times),
                    parts(seen, "client"), parts(seen, "server")]
        else:
            row += ["–"] * 5
        yield row + [f"{seen['rate'].middle:.0f}"] + [micros(seen[key].middle) if key in seen else "–" for key in shown]


def memory_rows(results):
    yield ["", "idle client", "idle server", "after load", "", "KB/client connection", "× Weir"]
    weir = per_connection(results["peers"].get("weir", {}))
    for name, peer in results["peers"].items():
        memory = peer.get("memory")
        if not memory:
            continue
        def mib(when, side):
            return f"{memory[when][side] / 1024:.1f}" if when in memory else "–"
        each = per_connection(peer)
        yield [name, mib("idle", "client"), mib("idle", "server"), mib("loaded", "client"), mib("loaded", "server"),
               number(each), number(each / weir) if each is not None and weir else "–"]


def per_connection(peer):
    memory = peer.get("memory") or {}
    if "connected" not in memory:
        return None
    return max(0.0, (memory["connected"]["client"] - memory["idle"]["client"]) / memory["connections"])


def table(rows):
    rows = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  " + row[0].ljust(widths[0]) + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
                     for row in rows)


def text(results):
    out = [setup(results)]
    for line, peers in summaries(results):
        out += [f"\n{line.name}: {line.title} ({unit(line)})", table(rows(line, peers))]
        out += [f"  ! {peer}: {reason}" for peer, reason in invalid(results, line.name)]
    if any(peer.get("memory") for peer in results["peers"].values()):
        out += ["\nmemory: resident MiB, and what each of 1000 silent client connections adds at the client's sidecar",
                table(memory_rows(results))]
    calls = [[name, *(number(peer["calls"].get(side)) for side in ("client", "server"))]
             for name, peer in results["peers"].items() if peer.get("calls")]
    if calls:
        out += ["\nsystem calls per request, line h1", table([["", "client", "server"], *calls])]
    out += [f"\nnot measured: {name}: {reason}" for name, reason in results["skipped"].items()]
    out.append("\n" + footnote(results))
    return "\n".join(out)


def invalid(results, line):
    for peer, runs in results["lines"][line].items():
        for reason in dict.fromkeys(run["invalid"] for run in runs if run["invalid"]):
            yield peer, reason


def setup(results):
    about = results["about"]
    peers = ", ".join(f"{name} {peer['version']}" for name, peer in results["peers"].items())
    shared = "" if about["cores"] > 1 else "; ONE core for everything"
    profile = "" if about["profile"] == "release" else f"; profile {about['profile']} keeps debug assertions: compare nothing"
    merged = "; some lines are of earlier runs" if about["merged"] else ""
    return (f"{peers}\n{about['rounds']} rounds of {about['seconds']} s, interleaved; {about['processor']}, {about['cores']} cores, "
            f"kernel {about['kernel']}{shared}{profile}{merged}")


def footnote(results):
    shares = [run.get("others", 0) for peers in results["lines"].values() for runs in peers.values() for run in runs]
    noisy = [share for share in shares if share > 0.1]
    said = "Medians; processor time is user + system of the sidecars' processes, from /proc. Compare ratios within one run only."
    if noisy:
        said += (f"\nIn {len(noisy)} of {len(shares)} measurements other programs took more than a tenth of the sidecars' core (up to "
                 f"{max(noisy):.0%}): rates and latencies say less there.")
    return said
