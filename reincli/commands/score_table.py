"""Scores on the terminal: the protocol above, classes by domains, the mean and the published scores below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reincli.commands import console
from reincli.data.layouts import CORRUPTIONS, corruption_of

WIDE = 6
"""Domains up to which each has a column; of more, each has a row."""


def show(result: Mapping[str, Any], title: str = "") -> None:
    """Print what `prediction.results.report` gives."""
    domains = result["domains"]
    console.result((f"{title}: " if title else "") + protocol_line(result))
    for source, count in result.get("left_out", {}).items():
        console.result(f"LEFT OUT of {source} for want of image or label: {count} files.")
    corrupted = {pair: domains[name]["mIoU"] for name in domains if (pair := corruption_of(name))}
    if corrupted:
        _corruption_table(corrupted)
    if len(domains) > WIDE:
        _rows_of_domains({name: d for name, d in domains.items() if not corruption_of(name)}, result)
    elif domains:
        _class_table(domains, result["published"])
    mean = result["mean"]
    beside = result.get("published_mean")
    console.result(
        f"Mean of {mean_of(mean['domains'])}: mIoU {percent(mean['mIoU'])}  mAcc {percent(mean['mAcc'])}  "
        f"aAcc {percent(mean['aAcc'])}" + (f"  (published: mIoU {beside:.1f})" if beside is not None else "")
    )
    if beside is None:
        others = {name: score for name, score in result["published"].items() if name not in domains}
        if others:
            listed = ", ".join(f"{name} {score:.1f}" for name, score in others.items())
            console.result(f"Published for this setting: {listed}")
    if result["published"] and not result.get("published_protocol", True):
        console.result("The published scores are of the setting's own test sizes and mode, not of these.")


def protocol_line(result: Mapping[str, Any]) -> str:
    """Mode, window, views, precision and the test size of each domain, in one line."""
    protocol = result["protocol"]
    window = f" {protocol['window']}/{protocol['stride']}" if protocol["window"] else ""
    views = ""
    if protocol["tta"]:
        scales = ", ".join(f"{scale:g}" for scale in protocol["scales"])
        views = f", views at {scales}{' and mirrored' if protocol['flip'] else ''}"
    partial = "" if result["complete"] else "PARTIAL, interrupted: "
    by_size: dict[str, list[str]] = {}
    for name, domain in result["domains"].items():
        by_size.setdefault(domain["test_size"], []).append(name)
    if len(result["domains"]) > WIDE:
        sizes = ", ".join(f"{len(names)} domains at {size}" for size, names in by_size.items())
    else:
        sizes = ", ".join(f"{name} at {_size_used(domain)}" for name, domain in result["domains"].items())
    return f"{partial}{protocol['mode']}{window}{views}, {protocol['precision']}; test size: {sizes}"


def _size_used(domain: Mapping[str, Any]) -> str:
    """The test size as asked for and, where that keeps the ratio within it, the one that came of it."""
    asked, used = str(domain["test_size"]), domain.get("predicted_at") or []
    if asked == "native" or used in ([], [asked.removesuffix("!")]):
        return asked
    found = used[0] if len(used) == 1 else f"{len(used)} sizes"
    return f"{asked} (ratio kept: {found})"


def mean_of(names: Sequence[str]) -> str:
    """What a mean is of: the names, or what many of them have in common."""
    if len(names) <= WIDE:
        return ", ".join(names)
    severities = {pair[1] if (pair := corruption_of(name)) else None for name in names}
    if len(severities) == 1 and None not in severities:
        return f"{len(names)} corruptions at severity {severities.pop()}"
    return f"{len(names)} domains"


def percent(value: float | None) -> str:
    """'66.70', or '-' where a score is not defined."""
    return "-" if value is None else f"{value:.2f}"


def _class_table(domains: Mapping[str, Any], published: Mapping[str, float]) -> None:
    names = list(next(iter(domains.values()))["IoU"])
    columns = ["IoU %", *domains]
    rows = [[name, *(percent(domain["IoU"][name]) for domain in domains.values())] for name in names]
    rows += [
        [key, *(percent(domain[key]) for domain in domains.values())] for key in ("mIoU", "mAcc", "aAcc")
    ]
    rows.append(["images", *(str(domain["images"]) for domain in domains.values())])
    if any(name in published for name in domains):
        rows.append(["published", *(percent(published.get(name)) for name in domains)])
    console.table(columns, rows, numbers=set(columns[1:]))


def _rows_of_domains(domains: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Many domains: their scores in rows; the IoU of the classes as a mean over the domains of the mean."""
    if domains:
        columns = ["domain", "mIoU", "mAcc", "aAcc", "images"]
        rows = [
            [name, percent(d["mIoU"]), percent(d["mAcc"]), percent(d["aAcc"]), str(d["images"])]
            for name, d in domains.items()
        ]
        console.table(columns, rows, numbers=set(columns[1:]))
    members = [result["domains"][name]["IoU"] for name in result["mean"]["domains"]]
    means = []
    for name in members[0] if members else ():
        known = [member[name] for member in members if member[name] is not None]
        means.append([name, percent(sum(known) / len(known) if known else None)])
    console.table(["class", "mean IoU %"], means, numbers={"mean IoU %"})


def _corruption_table(scores: Mapping[tuple[str, int], float | None]) -> None:
    """mIoU of Cityscapes-C: corruptions by severity, with the mean of each severity over its corruptions."""
    severities = sorted({severity for _, severity in scores})
    corruptions = [name for name in CORRUPTIONS if any((name, severity) in scores for severity in severities)]
    columns = ["mIoU %", *(f"severity {severity}" for severity in severities)]
    rows = [
        [name, *(percent(scores.get((name, severity))) for severity in severities)] for name in corruptions
    ]
    footer = [f"mean of {len(corruptions)}"]
    for severity in severities:
        there = [value for name in corruptions if (value := scores.get((name, severity))) is not None]
        whole = len(there) == len(corruptions)
        footer.append(percent(sum(there) / len(there)) if whole else "-")
    console.table(columns, rows, numbers=set(columns[1:]), footer=footer)
