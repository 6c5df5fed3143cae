"""Writes the matrix's results into docs/hosts.md, between two markers, and keeps them in target/hosts/results: a run of one host rewrites the page for all."""

import json
import subprocess

import machine as machines

PAGE = machines.REPOSITORY / "docs" / "hosts.md"
BEGIN = "<!-- scripts/hosts writes from here -->"
END = "<!-- to here -->"
RESULTS = machines.CACHE / "results"
# The last row of each run, which checks the machine itself.
LAST = "nothing is left at the end"
MARKS = {"ok": "ok", "wrong": "**no**", "not here": "–"}


def keep(host, date, versions, cells, seconds, only):
    """Keeps the result of this run in place of the last one. A run of only some cases updates those in the last result."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{host.name}.json"
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=machines.REPOSITORY, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()

    # Only what can change a result.
    changed = git("status", "--porcelain", "--", "src", "applets", "bundle", "Dockerfile", "tests/hosts")
    commit = git("rev-parse", "--short=10", "HEAD") + (", changed" if changed else "")
    if only:
        if path.is_file():
            result = json.loads(path.read_text())
            for name, cell in cells.items():
                result["cells"][name] = [cell.kind, cell.why]
                result.setdefault("again", {})[name] = f"{date}, {commit}"
            order = [case.name for case in host.cases()]
            result["cells"] = dict(sorted(result["cells"].items(), key=lambda row: order.index(row[0]) if row[0] in order else len(order)))
            path.write_text(json.dumps(result, indent=1) + "\n")
        return
    result = {"title": host.title, "date": date, "commit": commit, "versions": versions, "seconds": round(seconds),
              "cells": {name: [cell.kind, cell.why] for name, cell in cells.items()}}
    path.write_text(json.dumps(result, indent=1) + "\n")


def write(hosts):
    """Writes the page from the last result of each host."""
    results = []
    for host in hosts:
        path = RESULTS / f"{host.name}.json"
        if path.is_file():
            results.append(json.loads(path.read_text()))
    text = PAGE.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    PAGE.write_text(before + BEGIN + "\n\n" + markdown(results) + "\n" + END + after)


def markdown(results):
    rows = []
    for result in results:
        rows += [name for name in result["cells"] if name not in rows]
    lines = ["| environment | date | commit | versions | cases that passed | took |", "| --- | --- | --- | --- | --- | --- |"]
    for result in results:
        kinds = [kind for kind, _ in result["cells"].values()]
        tried = len(kinds) - kinds.count("not here")
        versions = ", ".join(f"{what} {version}" for what, version in result["versions"])
        took = f"{result['seconds'] // 60} min {result['seconds'] % 60} s"
        again = [name for name in result.get("again", {}) if name != LAST]
        commit = result["commit"] + (f"; {len(again)} of the cases again: {result['again'][again[-1]]}" if again else "")
        lines.append(f"| {result['title']} | {result['date']} | {commit} | {versions} | {kinds.count('ok')} of {tried} | {took} |")
    notes = []
    lines += ["", "| case | " + " | ".join(result["title"] for result in results) + " |", "| --- |" + " --- |" * len(results)]
    for row in rows:
        cells = [mark(result, row, notes) for result in results]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", "ok: the exit code is right, and so is everything that must be true afterwards. –: the case can't run in this",
              "environment. Blank: the environment has no such case."]
    lines += [""] + [f"{number}. {note}" for number, note in enumerate(notes, 1)] if notes else []
    return "\n".join(lines) + "\n"


def mark(result, row, notes):
    if row not in result["cells"]:
        return ""
    kind, why = result["cells"][row]
    if not why:
        return MARKS[kind]
    note = " ".join(why.split()).replace("|", "\\|")[:400]
    if note not in notes:
        notes.append(note)
    return f"{MARKS[kind]} ({notes.index(note) + 1})"
