"""Writes docs/results.md from docs/results.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from qsft_robot.files import read_json
from qsft_robot.intervals import (
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
# What the settings mean; the recipes are in qsft_robot/presets/.
ABOUT = {
    "few": "200 logs, half of them cut short at a random step, about a fifth successful.",
    "rare": "600 logs, half of them cut short at a random step, 5 to 10 % successful.",
    "few-uncut": "200 logs, each run to its success or its step limit, about a third successful.",
    "rare-uncut": "1,500 logs, each run to its success or its step limit, 5 to 10 % successful.",
    "plenty": "1,500 logs, half of them cut short at a random step, about a fifth successful.",
    "drawer": "700 logs open the drawer and stop without reward, 800 others start with it open "
    "and grasp. Evaluation starts with the drawer closed.",
    "vlm-all": "A VLM of 1.7 million weights, pretrained on captions of tabletop scenes and "
    "fine-tuned on 1,500 logs, half of them cut short, about a fifth successful; its image tower "
    "is frozen. `new head`: the rows of the action tokens begin random; `from scratch`: all "
    "weights do, and the tower learns in the behavior stage; `value heads`: ILQL's on top of the "
    "same model; `lora`: rank 16, not the whole language model. No auxiliary keys.",
    "vlm-tenth": "The same on 150 of the 1,500 logs, others for each seed, with half the updates.",
    "valid_unseen": "3,600 logs of 129,341 commands in rooms of `train`, 35 % successful; "
    "evaluated in rooms that no log has, each of 120 games once a seed.",
    "valid_seen": "The same policies on other tasks in rooms of the logs, each of 120 games once.",
    "play-300": "OGBench's play data: 300 episodes of 1,001 steps by the package's own oracle, one "
    "set for all seeds, cut into 1,580 logs of which 134 reach the goal of the task. Decisions of "
    "five actions (the preset `ogbench/states`); `candidates=32`: the best of 32 by the critic. "
    "The behavior learns for 11,000 updates, which was settled on task 1 (docs/log.md).",
    "play-300-short": "The same with 4,000 updates of the behavior, as the preset had it before.",
    "full letters scratch": "20,000 games of the recipe, others for each seed; the preset's "
    "model with random weights, which says any letters. `refused`: share of guesses outside "
    "of the list, each of which costs a guess.",
    "full closed scratch": "The same with --tokenizer.closed: only words of the logs can be said.",
    "own-list closed scratch": "20,000 games with a list of one's own, here LMRL-Gym's 431 words "
    "(mean return -4.10, as the data of the paper), others for each seed; only words of the logs, "
    "each scored whole (the preset `games/wordle_closed`).",
    "tenth letters scratch": "2,000 games of the recipe; any letters.",
    "tenth closed scratch": "2,000 games of the recipe; only words of the logs.",
    **{
        f"logs-{share}": f"{share} % of 1,000 logs, others for each seed, the same for all rows. "
        "`lamo` is a Decision Transformer of 20 frames: on blocks of our own (`scratch`), on the "
        "first layers of a language model (`pretrained`), on the same layers with random weights "
        "(`reinitialized`). As many updates for all, each of as many decisions."
        for share in (1, 10, 100)
    },
    "mixed": "600 logs, about a quarter expert, a quarter sloppy, the rest named failures.",
}
ORDER = (
    *("sft", "filtered_sft", "nonfailing_sft", "filtered_sft_by_value", "return_conditioned"),
    *("advantage_weighted", "advantage_conditioned", "cql", "q_transformer"),
    *("prompt", "react", "monte_carlo", "ilql", "qsft_paper", "qsft", "qsft_free"),
)
# Settings of run_lamo_study.py: trunk (or "logs", of the baselines), per cent of the logs, change.
TRUNK = re.compile(r"(scratch|pretrained|reinitialized|logs)-(\d+)((?:-\w+)*)")
# Settings that are splits of a benchmark of several kinds of task.
SPLITS = ("valid_seen", "valid_unseen")
INTRO = """# Results

- **Success** is success at any step of an episode in simulation, which ends there; the episodes'
  seeds are in no log.
- **Seeds** change the logs, the initial weights and the batches; a row pools them.
- **Intervals over episodes** are Wilson's 95 %, which take all episodes as independent: over 31
  rows of three seeds chi-square is 196 where 62 is expected.
- **Intervals over seeds** give each seed a rate of its own (a beta-binomial; `seed_interval` of
  `qsft_robot/intervals.py`). They are the ones to compare methods by.
- **The same for all methods of a table**: model, number of updates, batch size, tokens and
  decoding mask (`min_p` 0.3, on Lift from pixels 0.03, both found on episodes of these tables).
- **`nonfailing_sft`** is SFT on every log that is no known failure: successes, and logs cut before
  their outcome. In `place` every cut log is an expert's, so that there it needs no value.
- **From pixels** all methods see by one image encoder that a run of its own taught on the same
  logs, with the key `target` as an auxiliary task (on Lift, where Q-SFT stands alone, of its own
  behavior stage). No policy gets that key.
- **In ALFWorld** one set of logs and one image encoder serve all seeds; `qsft_free` is trained and
  acts without the list of admissible commands.
- **`qsft_paper`** is the preset `paper`. With 1,200 updates of the value stage its targets are
  about 1 everywhere (theta starts as phi, the maximum has no support mask), so it is SFT by
  construction, and no fair reading of the paper's settings.
- **`ilql`** is value heads; it and `qsft_paper` act by the behavior, so of the same 1,500 updates
  they spend 900 on it, Q-SFT 300.
- **Rows that begin with `qsft `** are the sweep: one setting changed.
- **A mean return** is that of whole episodes; its interval over episodes is Student's, that over
  seeds Student's of the seeds' means.
- **With a VLM** Q-SFT's value term has its whole weight on half of each batch, elsewhere a tenth
  of it on a quarter.

Every row of [results.json](results.json) has its command and commit. Hardware: 2 CPU cores (AMD
EPYC; the rows of `nonfailing_sft` an Intel Xeon), no GPU.
"""


def main() -> None:
    """Write one table for each task, kind of observations and setting."""
    rows = read_json(DOCS / "results.json")
    parts = [INTRO, *together(rows)]
    parts += kinds_of_task([row for row in rows if row["setting"] in SPLITS])
    rows = sorted((row for row in rows if row["setting"] not in SPLITS), key=table_of)
    for (task, observations, setting), group in groupby(rows, key=table_of):
        parts.append(f"\n## {task}, {observations.replace('_', '-')}, {setting}\n")
        parts.append(ABOUT.get(setting, "") + "\n")
        found = sorted(group, key=rank)
        metric = {"success_rate": "success", "mean_return": "mean return"}[found[0]["metric"]]
        extra = " refused |" if "refused" in found[0] else ""
        parts.append(
            f"| method | {metric} | 95 % over episodes | 95 % over seeds | n | seeds | each seed |"
            + extra
        )
        parts.append("|---" * (8 if extra else 7) + "|")
        parts += [line(row) for row in found]
        parts += pretraining(found)
        parts += language(found)
        commands = sorted({f"`{row['command']}` ({row['commit']})" for row in found})
        parts.append("\n" + "; ".join(commands))
    (DOCS / "results.md").write_text("\n".join(parts) + "\n")


def together(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Q-SFT beside each baseline over all tables that have at least two seeds of both."""
    tables: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        whole = row["setting"] not in SPLITS or row["task"].endswith("/average")
        if whole and row["seeds"] > 1 and row["metric"] == "success_rate":
            tables.setdefault(table_of(row), {})[row["method"]] = row["by_seed"]
    parts = [
        "\n## All tables together\n",
        "Over the tables with at least two seeds of both: interquartile means over tables and "
        "seeds, with intervals by drawing seeds anew, and how likely a seed of Q-SFT is above one "
        "of the baseline, the mean over tables. These tables are what was run, no choice of "
        "tasks; many hold logs that were cut short.\n",
        "| baseline | tables | its interquartile mean | Q-SFT's | Q-SFT above |",
        "|---|---|---|---|---|",
    ]
    for method in ORDER:
        pairs = [(t[method], t["qsft"]) for t in tables.values() if method in t and "qsft" in t]
        if method == "qsft" or not pairs:
            continue
        its, ours = ([pair[side] for pair in pairs] for side in (0, 1))
        above = fmean(probability_of_improvement(b, a) for a, b in pairs)
        cells = [f"| {method} | {len(pairs)} |"]
        for scores in (its, ours):
            low, high = interquartile_interval(scores)
            cells.append(f"{interquartile_mean(scores):.3f} ({low:.2f} to {high:.2f}) |")
        parts.append(" ".join([*cells, f"{above:.2f} |"]))
    return parts


def kinds_of_task(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One table for each kind of observations and split, a column for each kind of task."""
    parts = []
    for (benchmark, observations, setting), group in groupby(
        sorted(rows, key=benchmark_of), key=benchmark_of
    ):
        found = {(row["method"], row["task"].split("/")[1]): row for row in group}
        kinds = sorted({kind for _, kind in found if kind != "average"})
        parts += [f"\n## {benchmark}, {observations}, {setting}\n", ABOUT[setting] + "\n"]
        words = [kind.replace("_", " ") for kind in kinds]
        parts.append(f"| method | average | 95 % interval | n | each seed | {' | '.join(words)} |")
        parts.append("|---" * (5 + len(kinds)) + "|")
        average = sorted((row for (_, kind), row in found.items() if kind == "average"), key=rank)
        for row in average:
            of_kind = [found.get((row["method"], kind)) for kind in kinds]
            cells = ["" if one is None else f"{one['success_rate']:.2f}" for one in of_kind]
            each = ", ".join(f"{rate:.2f}" for rate in row["by_seed"])
            name = f"**{row['method']}**" if row["method"] == "qsft" else row["method"]
            parts.append(
                f"| {name} | {row['success_rate']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
                f"{row['n']} | {each} | {' | '.join(cells)} |"
            )
        commands = sorted({f"`{row['command']}` ({row['commit']})" for row in average})
        parts.append("\n" + "; ".join(commands))
    return parts


def benchmark_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """The key that the tasks of one benchmark share."""
    return row["task"].split("/")[0], row["observations"], row["setting"]


def language(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of what fine-tuning left of a pretrained model's language, if that was measured."""
    keys = ("caption_loss_before", "caption_loss_after", "looking_before", "looking_after")
    told = [row for row in rows if keys[0] in row]
    if not told:
        return []
    return [
        "\nCaptions before and after: nats a token, and the share of right answers among those "
        "that only the image can tell.\n",
        "| fine-tuned by | loss before | loss after | right before | right after |",
        "|---|---|---|---|---|",
        *(f"| {row['method']} | {' | '.join(f'{row[key]:.2f}' for key in keys)} |" for row in told),
    ]


def table_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """The key that the rows of one table share: trunks on one share of the logs stand together."""
    trunk, share, _ = trunk_of(row)
    return row["task"], row["observations"], share if trunk else row["setting"]


def trunk_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """Trunk, share of the logs and what else is changed, of a row of run_lamo_study.py; else
    empty."""
    found = TRUNK.fullmatch(row["setting"])
    return (found[1], f"logs-{found[2]}", found[3] or "") if found else ("", "", "")


def name_of(row: dict[str, Any]) -> str:
    """The method as a table has it, with the trunk of a Decision Transformer."""
    trunk, _, change = trunk_of(row)
    return row["method"] if trunk in ("", "logs") else f"{row['method']} {trunk}{change}"


def pretraining(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the pretrained weights bring: the differences of seeds that share logs and episodes."""
    seeds = {name_of(row): row["by_seed"] for row in rows}
    one, other = seeds.get("lamo pretrained", []), seeds.get("lamo reinitialized", [])
    apart = [a - b for a, b in zip(one, other, strict=False)]
    if len(one) != len(other) or len(apart) < 2:
        return []
    low, high = mean_interval(fmean(apart), stdev(apart), len(apart))
    return [
        f"\nPretrained minus reinitialized, seed by seed: {fmean(apart):.2f} ({low:.2f} to "
        f"{high:.2f}, Student's over {len(apart)} seeds)."
    ]


def rank(row: dict[str, Any]) -> tuple[int, str]:
    """Baselines first, Q-SFT after them, its sweep last."""
    method = row["method"]
    return (ORDER.index(method) if method in ORDER else len(ORDER), name_of(row))


def line(row: dict[str, Any]) -> str:
    """One row of a table."""
    each = ", ".join(f"{rate:.2f}" for rate in row["by_seed"])
    name = f"**{row['method']}**" if row["method"] == "qsft" else name_of(row)
    of_seeds = "one seed"
    if row["seed_low"] is not None:
        of_seeds = f"{row['seed_low']:.2f} to {row['seed_high']:.2f}"
    refused = f" {row['refused']:.3f} |" if "refused" in row else ""
    return (
        f"| {name} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
        f"{of_seeds} | {row['n']} | {row['seeds']} | {each} |{refused}"
    )


if __name__ == "__main__":
    main()
