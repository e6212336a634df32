"""The report as one HTML page that needs nothing else: inline style, inline SVG."""

from html import escape

import report

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2733;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2.2rem 0 .3rem}p{margin:.3rem 0;color:#4a5a6a}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:.6rem 0;width:100%}
td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #dde3e9;font-weight:400}td:first-child{text-align:left}
th{color:#4a5a6a}svg{display:block;width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:currentColor}
.user{fill:#3b78b5}.system{fill:#9dbfe0}.weir .user{fill:#c2571a}.weir .system{fill:#eab58f}.plain{fill:#7c8ea1}.weir .plain{fill:#c2571a}
.range{stroke:currentColor;stroke-width:1.5}
@media(prefers-color-scheme:dark){body{color:#dbe3ea;background:#14191f}p,th{color:#9fb0bf}td,th{border-color:#2c3640}}
"""
LEFT, WIDTH, ROW = 90, 900, 30
ROOM = WIDTH - LEFT - 150


def bars(entries):
    """Bars from (name, [(class, value)], low, high, label), one below the other."""
    most = max((max(high, sum(value for _, value in pieces)) for _, pieces, _, high, _ in entries), default=0) or 1
    out = [f'<svg viewBox="0 0 {WIDTH} {ROW * len(entries) + 4}" role="img">']
    for index, (name, pieces, low, high, label) in enumerate(entries):
        top, x = index * ROW + 4, LEFT
        out.append(f'<g class="{escape(name)}"><text x="0" y="{top + 16}">{escape(name)}</text>')
        for kind, value in pieces:
            width = value / most * ROOM
            out.append(f'<rect class="{kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 8}"/>')
            x += width
        if high > low:
            middle = top + (ROW - 8) / 2
            out.append(f'<line class="range" x1="{LEFT + low / most * ROOM:.1f}" x2="{LEFT + high / most * ROOM:.1f}" '
                       f'y1="{middle}" y2="{middle}"/>')
        right = max(x, LEFT + high / most * ROOM)
        out.append(f'<text x="{right + 8:.1f}" y="{top + 16}">{escape(label)}</text></g>')
    return "".join(out) + "</svg>"


def cost_bars(peers):
    entries = []
    for name, seen in peers.items():
        if seen and "cpu" in seen:
            pieces = [(kind, sum(seen["parts"][side, kind] for side in ("client", "server"))) for kind in ("user", "system")]
            times = report.ratio(seen, peers, "cpu")
            label = report.number(seen["cpu"].middle) + (f" (×{times:.2f})" if times and name != "weir" else "")
            entries.append((name, pieces, seen["cpu"].low, seen["cpu"].high, label))
    return bars(entries) if entries else ""


def latency_bars(peers, key):
    entries = [(name, [("plain", seen[key].middle)], seen[key].low, seen[key].high, report.micros(seen[key].middle))
               for name, seen in peers.items() if seen and key in seen]
    return f"<p>latency, {key}</p>{bars(entries)}" if entries else ""


def table(rows):
    rows = list(rows)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>"


def page(results):
    out = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Weir benchmark</title><style>{STYLE}</style>",
           "<h1>What a pair of sidecars costs</h1>"]
    out += [f"<p>{escape(line)}</p>" for line in report.setup(results).splitlines()]
    out.append("<p>generator → client's sidecar → mutual TLS 1.3 → server's sidecar → nginx. Bars: dark is user time, light is "
               "system time, of both sidecars together; the thin line spans the rounds. u+s: user + system.</p>")
    for line, peers in report.summaries(results):
        out.append(f"<h2>{escape(line.title)}</h2><p>{report.unit(line)}</p>{cost_bars(peers)}")
        if line.name == "open":
            out += [latency_bars(peers, key) for key in ("p50", "p99", "p99.9")]
        out.append(table(report.rows(line, peers)))
        out += [f"<p>{escape(peer)} is invalid: {escape(reason)}</p>" for peer, reason in report.invalid(results, line.name)]
    if any(peer.get("memory") for peer in results["peers"].values()):
        out.append("<h2>Memory</h2><p>resident MiB; after load: client's and server's sidecar</p>")
        out.append(table(report.memory_rows(results)))
    out.append("<h2>Encryption</h2>" + table([["", "between the sidecars"], *([name, str(peer["tls"])]
                                                                             for name, peer in results["peers"].items())]))
    out += [f"<p>Not measured: {escape(name)}: {escape(reason)}</p>" for name, reason in results["skipped"].items()]
    out += [f"<p>{escape(line)}</p>" for line in report.footnote(results).splitlines()]
    return "".join(out) + "</html>\n"
