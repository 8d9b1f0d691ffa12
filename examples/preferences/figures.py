"""From the cells of the study to its figures: intervals, the best-of-n curve, the table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantiles of Student's t that leave 2.5 % above, by the number of seeds."""
NUMBERS = (1, 2, 4, 8, 16)


def clustered(values: Sequence[float], clusters: Sequence[str]) -> dict[str, float]:
    """The mean with its 95 % interval, where values of one cluster (wordings of the same thing) are not independent:
    the standard error of a ratio of cluster sums."""
    mean = statistics.fmean(values)
    sums: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    count = len(sums)
    error = math.sqrt(count / max(1, count - 1) * sum(x * x for x in sums.values())) / len(values)
    half = 1.959964 * error
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": len(values), "clusters": count}


def best_of_n(proxies: Sequence[Sequence[float]], golds: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Gold and proxy score of the answer with the highest proxy score among n, and how far that lies from the sampler:
    log n - (n - 1)/n nats (Stiennon et al., 2020). Each is the mean over all choices of n from the answers of a prompt,
    without drawing any: of k answers, the one in place i is the best of a random n with odds C(k-1-i, n-1) / C(k, n).
    The proxy is in standard deviations from its mean over all answers, since rewards have neither zero nor unit.
    """
    curve = []
    every = [score for scores in proxies for score in scores]
    centre, unit = statistics.fmean(every), statistics.pstdev(every) or 1.0
    proxies = [[(score - centre) / unit for score in scores] for scores in proxies]
    size = len(proxies[0])
    for n in (number for number in NUMBERS if number <= size):
        odds = [math.comb(size - 1 - place, n - 1) / math.comb(size, n) for place in range(size)]
        gold, proxy, oracle = [], [], []
        for ours, true in zip(proxies, golds, strict=True):
            order = sorted(range(size), key=lambda i: -ours[i])
            gold.append(sum(o * true[i] for o, i in zip(odds, order, strict=True)))
            proxy.append(sum(o * ours[i] for o, i in zip(odds, order, strict=True)))
            oracle.append(sum(o * score for o, score in zip(odds, sorted(true, reverse=True), strict=True)))
        curve.append(
            {
                "n": n,
                "kl": math.log(n) - (n - 1) / n,
                "gold": statistics.fmean(gold),
                "proxy": statistics.fmean(proxy),
                "oracle": statistics.fmean(oracle),
            }
        )
    return curve


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread (standard deviation) and the 95 % t-interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": list(values)}
    sd = statistics.stdev(values)
    half = T_975[len(values)] * sd / len(values) ** 0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": list(values)}


def summarise(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each method, over its seeds."""
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in done):
        ours = [cell for cell in done if cell["method"] == method]
        row: dict[str, Any] = {"method": method, "seeds": len(ours)}
        for name in ("seconds", "memory_mb"):
            row[name] = statistics.fmean(cell[name] for cell in ours)
        if "accuracy" in ours[0]:
            row["accuracy"] = over_seeds([cell["accuracy"]["mean"] for cell in ours])
            row["accuracy_of_shorter"] = over_seeds([cell["accuracy_of_shorter"]["mean"] for cell in ours])
            row["best_of_n"] = [
                {"n": point["n"], "kl": point["kl"]}
                | {name: over_seeds([c["best_of_n"][i][name] for c in ours]) for name in ("gold", "proxy", "oracle")}
                for i, point in enumerate(ours[0]["best_of_n"])
            ]
        else:
            for way in ("greedy", "sampled"):
                row[way] = {
                    "win_rate": over_seeds([cell[way]["win_rate"]["mean"] for cell in ours]),
                    "prompts": [[cell[way]["win_rate"][end] for end in ("low", "high")] for cell in ours],
                    "words": statistics.fmean(cell[way]["words"] for cell in ours),
                    "gold": {
                        who: {part: over_seeds([cell[way]["gold"][who][part] for cell in ours]) for part in parts}
                        for who, parts in ours[0][way]["gold"].items()
                    },
                }
        rows.append(row)
    return rows


def table(summary: Sequence[Mapping[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = [
        "| method | win rate, greedy | win rate, sampled | gold score, greedy | gold score, sampled | seconds | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        if "greedy" in row:
            cells = [_figure(row[way]["win_rate"]) for way in ("greedy", "sampled")]
            cells += [_change(row[way]["gold"]) for way in ("greedy", "sampled")]
            lines.append(f"| {row['method']} | {' | '.join(cells)} | {row['seconds']:.0f} | {row['memory_mb']:.0f} |")
    lines += [
        "",
        "| reward model | accuracy on held-out pairs | the shorter answer | seconds | MB |",
        "|---|---|---|---|---|",
    ]
    for row in summary:
        if "accuracy" in row:
            shorter = row["accuracy_of_shorter"]["mean"]
            lines.append(
                f"| {row['method']} | {_figure(row['accuracy'])} | {shorter:.3f} | {row['seconds']:.0f} "
                f"| {row['memory_mb']:.0f} |"
            )
    lines += ["", "| best of n | KL (nats) | gold | proxy (sd) | chosen by gold |", "|---|---|---|---|---|"]
    for row in summary:
        for point in row.get("best_of_n", ()) if row["method"] == "reward" else ():
            cells = [_figure(point["gold"]), _figure(point["proxy"]), f"{point['oracle']['mean']:.3f}"]
            lines.append(f"| {point['n']} | {point['kl']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(found: Mapping[str, Any]) -> str:
    if found["sd"] is None:
        return f"{found['mean']:.3f}"
    return f"{found['mean']:.3f} ± {found['sd']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _change(gold: Mapping[str, Any]) -> str:
    return f"{gold['sft']['total']['mean']:.3f} → {gold['ours']['total']['mean']:.3f}"
