"""The table and the picture of what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from html import escape


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    unit: str
    #: Whether the goal is for the ratio to the floor, or for the figure itself.
    by_floor: bool = True


SCENARIOS = [
    Scenario("start4", "from exec of init until the fourth daemon runs", "us"),
    Scenario("start4-cpu", "the same, CPU", "us"),
    Scenario("start1", "one daemon", "us"),
    Scenario("restart", "restart: from the signal until the new process runs", "us"),
    Scenario("restart400", "the same, among 400 daemons", "us"),
    Scenario("shutdown", "shutdown: from TERM until all are gone", "us"),
    Scenario("dirty", "memory idle, 4 daemons: private dirty", "KiB", by_floor=False),
    Scenario("growth", "growth per daemon, up to 400", "KiB", by_floor=False),
    Scenario("idle", "a minute of idling: context switches", "", by_floor=False),
    Scenario("idle-cpu", "a minute of idling: CPU", "us", by_floor=False),
    Scenario("relay", "log relay: CPU for 80 MB of 100-byte lines", "us"),
    Scenario("orphans-cpu", "orphans: CPU per orphan", "us"),
    Scenario("start400", "until 400 daemons run", "us"),
    Scenario("sandbox", "a restart with the built-in table's sandboxes: time added", "us", by_floor=False),
    Scenario("size", "static binary, stripped", "KiB", by_floor=False),
]
#: What sidecar must not exceed.
GOALS = {"start4": 1.6, "start4-cpu": 2.5, "start1": 1.2, "restart": 1.2, "restart400": 1.3, "shutdown": 1.4, "dirty": 200,
         "growth": 2, "idle": 0, "idle-cpu": 0, "relay": 1.4, "orphans-cpu": 1.0, "start400": 1.2, "sandbox": 1000}


UNITS = {"us": "µs", "KiB": "KiB", "": ""}


@dataclass(frozen=True)
class Result:
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    count: int = 0
    ratio: float | None = None
    blank: str | None = None

    def json(self) -> dict[str, object]:
        return {k: v for k, v in asdict(self).items() if v is not None}


def scaled(scenario: Scenario, figure: float) -> float:
    if scenario.unit == "us":
        return figure / 1000
    return figure / 1024 if scenario.name == "size" else figure


def verdict(scenario: Scenario, result: Result) -> str:
    if result.median is None or scenario.name not in GOALS:
        return ""
    goal = GOALS[scenario.name]
    figure = result.ratio if scenario.by_floor else scaled(scenario, result.median)
    if figure is None:
        return ""
    return f"{'met' if figure <= goal else 'NOT met'}: <= {goal:g}{'x' if scenario.by_floor else ' ' + scenario.unit}".rstrip()


def table(results: dict[str, dict[str, Result]], about: dict[str, object], missing: dict[str, str]) -> str:
    lines = [f"{about['version']}, {about['date']}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}"]
    for scenario in SCENARIOS:
        rows = results.get(scenario.name)
        if not rows:
            continue
        unit = f", {scenario.unit}" if scenario.unit else ""
        lines += ["", f"{scenario.title}{unit}  ({scenario.name})"]
        order = sorted(rows.items(), key=lambda row: (row[1].median is None, row[1].median or 0))
        for name, r in order:
            if r.median is None:
                if r.blank:
                    lines.append(f"  {name:<12} {'-':>10}  {r.blank.splitlines()[0][:90]}")
                continue
            median, low, high = (scaled(scenario, x or 0) for x in (r.median, r.p10, r.p90))
            ratio = f"{r.ratio:8.2f}x" if r.ratio is not None else " " * 9
            goal = verdict(scenario, r) if name == "sidecar" else ""
            lines.append(f"  {name:<12} {median:10.1f}  [{low:.1f} to {high:.1f}, {r.count}]".ljust(58) + f"{ratio}  {goal}".rstrip())
    for name, command in missing.items():
        lines.append(f"\n{name} isn't installed here and wasn't measured: {command}")
    return "\n".join(lines)


def markdown(results: dict[str, dict[str, Result]]) -> str:
    """The same as a table of docs/performance.md: the figure that the goal is for, and the best peer's."""
    lines = ["| scenario | goal | sidecar | best peer | Python reference |", "| --- | --- | --- | --- | --- |"]
    for scenario in SCENARIOS:
        rows = results.get(scenario.name, {})

        def said(r: Result | None) -> str:
            if r is None or r.median is None:
                return "–" if r is None or not r.blank else r.blank.splitlines()[0]
            median = scaled(scenario, r.median)
            median = f"{median:,.{1 if 0 < median < 100 else 0}f} {UNITS[scenario.unit]}".rstrip()
            return f"{r.ratio:.2f}× ({median})" if r.ratio is not None else median

        figure = lambda r: r.ratio if scenario.by_floor else r.median
        peers = [(figure(r), name) for name, r in rows.items()
                 if figure(r) is not None and name not in ("sidecar", "reference") and not name.startswith("floor")]
        best = min(peers, default=None)
        sidecar, goal = rows.get("sidecar"), GOALS.get(scenario.name)
        shown = said(sidecar)
        if sidecar is not None and verdict(scenario, sidecar).startswith("NOT"):
            shown = f"**{shown}**"
        limit = "–" if goal is None else f"≤ {goal:g}{'×' if scenario.by_floor else ' ' + UNITS[scenario.unit]}".rstrip()
        lines.append(f"| {scenario.title} | {limit} | {shown} | {best[1] + ' ' + said(rows[best[1]]) if best else '–'} | {said(rows.get('reference'))} |")
    return "\n".join(lines)


def picture(results: dict[str, dict[str, Result]], about: dict[str, object]) -> str:
    """A line for each scenario that has a floor, a mark for each contender, on a logarithmic scale."""
    shown = [s for s in SCENARIOS if s.by_floor and any(r.ratio for r in results.get(s.name, {}).values())]
    left, width, step, top = 300, 460, 30, 56
    most = max((r.ratio for s in shown for r in results[s.name].values() if r.ratio), default=10.0)
    least = min((r.ratio for s in shown for r in results[s.name].values() if r.ratio), default=1.0)
    low, high = min(0.5, least * 0.9), max(10.0, most * 1.15)
    x = lambda ratio: left + width * math.log(ratio / low) / math.log(high / low)
    height = top + step * len(shown) + 46
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{left + width + 30}" height="{height}" fill="#fff"/>',
        '<text x="12" y="20" font-size="14" font-weight="bold">Cost as a multiple of the bare system calls (floor = 1, less is better)</text>',
        '<circle cx="18" cy="36" r="5" fill="#0969da"/><text x="28" y="40">sidecar</text>',
        '<circle cx="92" cy="36" r="4" fill="#cf222e"/><text x="102" y="40">Python reference</text>',
        '<circle cx="212" cy="36" r="3.5" fill="#8c959f"/><text x="222" y="40">a peer (opened by itself, the picture names it)</text>',
    ]
    for tick in (0.5, 1, 2, 5, 10, 100, 1000, 10000):
        if low <= tick <= high:
            out.append(f'<line x1="{x(tick):.1f}" y1="{top - 4}" x2="{x(tick):.1f}" y2="{height - 34}" stroke="{"#57606a" if tick == 1 else "#d8dee4"}"/>')
            out.append(f'<text x="{x(tick):.1f}" y="{height - 20}" text-anchor="middle" fill="#57606a">{tick:g}x</text>')
    for i, scenario in enumerate(shown):
        y = top + step * i + 14
        out.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(scenario.title)}</text>')
        rows = sorted(results[scenario.name].items(), key=lambda row: row[0] == "sidecar")
        for name, r in rows:
            if r.ratio and not name.startswith("floor"):
                fill, radius = {"sidecar": ("#0969da", 5), "reference": ("#cf222e", 4)}.get(name, ("#8c959f", 3.5))
                out.append(f'<circle cx="{x(r.ratio):.1f}" cy="{y}" r="{radius}" fill="{fill}" fill-opacity="0.85"><title>{escape(name)} {r.ratio:.2f}x</title></circle>')
    out.append(f'<text x="12" y="{height - 5}" font-size="10" fill="#57606a">{escape(str(about["date"]))}, {escape(str(about["cpu"]))}, {about["cores"]} cores, Linux {escape(str(about["kernel"]))}</text>')
    return "\n".join([*out, "</svg>\n"])
