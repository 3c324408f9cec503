"""The table: on the terminal, in docs/performance.md, and as JSON."""

import json
import os
import time

SUBJECTS = ["wtfs", "libtorrent", "btfs", "rqbit", "native"]
# Rivals of a few rows share a column.
OTHERS = "others"


def number(value):
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(row, subject):
    found = row.samples.get(subject)
    if not found:
        return "failed" if row.failures.get(subject) else ""
    text = number(row.value(subject))
    return text if len(found) == 1 else f"{text} ({number(min(found))}-{number(max(found))})"


def others(row):
    subjects = {**row.samples, **row.failures}
    return ", ".join(f"{subject} {cell(row, subject)}" for subject in subjects if subject not in SUBJECTS)


def lines(results):
    used = [s for s in SUBJECTS if any(s in row.samples or s in row.failures for row in results.rows.values())]
    with_others = [OTHERS] if any(others(row) for row in results.rows.values()) else []
    yield ["what", "unit", *used, *with_others, "ratio", "target", "met"]
    for row in results.rows.values():
        ratio, met = row.ratio(), row.is_met()
        yield [
            row.title, row.unit, *(cell(row, subject) for subject in used), *([others(row)] if with_others else []),
            "" if ratio is None else f"{ratio:.2f}", row.target_text(),
            "" if met is None else "yes" if met else "NO",
        ]


def plain(results):
    table = list(lines(results))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in table)


def markdown(results):
    table = list(lines(results))
    table.insert(1, ["---"] * len(table[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def failures(results):
    return [
        f"{row.title}, {subject}: {text}"
        for row in results.rows.values() for subject, texts in row.failures.items() for text in texts[:1]
    ]


def document(results, machine, versions, command, is_further):
    made = time.strftime("%Y-%m-%d", time.gmtime())
    opening = [
        "# Performance",
        "",
        f"Made by `{command}` on {made}; run that to make it anew. Everything ran in one run on one machine, wtfs and the",
        "others in turn, so the ratios say more than the numbers. A cell is the median of the runs and, in brackets, the",
        "least and the most. What each row does is told in [bench/README.md](../bench/README.md).",
        "",
    ]
    if is_further:
        opening = ["", "# A further run", "", f"Made by `{command}` on {made}, in one run of its own.", ""]
    parts = [
        *opening,
        "## The machine",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        *(f"- {name}: {value}" for name, value in versions.items()),
        "",
        "## The table",
        "",
        markdown(results),
        "",
    ]
    told = [*results.notes, *failures(results)]
    if told:
        parts += ["## Notes of the run", "", *(f"- {' '.join(note.split())[:400]}" for note in told), ""]
    return "\n".join(parts)


def write(results, machine, versions, command, root, document_path, before=None):
    """Writes the document, behind what is in it already if `before` is that."""
    folder = os.path.join(root, "target", "bench")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "performance.json"), "w", encoding="utf-8") as file:
        said = {
            "command": command, "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine,
            "versions": versions, "rows": results.as_json(), "notes": results.notes,
        }
        json.dump(said, file, indent=1)
        file.write("\n")
    with open(document_path, "w", encoding="utf-8") as file:
        file.write((before or "") + document(results, machine, versions, command, before is not None))
