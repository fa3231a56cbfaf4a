"""Verbs of the command line for what was learned: export, report, info, demo."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from qsft_robot.presets.look_up import all_of
from qsft_robot.printed_text import one_line, printable, say
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import acting_changes


def export(
    run: Positional[Path],
    out: Path | None = None,
    acting: tuple[str, ...] = (),
    onnx: bool = True,
    lerobot: bool = False,
    data: Path | None = None,
    push: str | None = None,
    private: bool = False,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> None:
    """Export the policy of a run: safetensors, ONNX, JSON, model card and SHA256SUMS in a folder.

    Args:
        run: Run folder (or its checkpoint folder); or a Hub id (owner/name), with --out.
        out: Folder to write; <run>/policy when not given.
        acting: Changes of train's --acting settings, e.g. k=4 min_p=0.1; k=1 exports one network.
        onnx: Add graphs that run without torch, checked against the policy on recorded
            observations; where they can't be made, the reason is printed.
        lerobot: Add the files by which LeRobot finds the folder (--policy.path, with the plugin
            lerobot_policy_qsft).
        data: Data file for that check; the one that the run was trained on when not given.
        push: Hub id (owner/name) that gets the folder, with the evaluation `policy` of the run,
            if there is one; a repository that is not there is made.
        private: Make it a private one.
        trust_remote_code: Run code that a pretrained model in the folder brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that the folder names from the hub, where it is not here yet.
    """
    from qsft_robot.export.export import export_policy
    from qsft_robot.export.onnx_graphs import NotExportable
    from qsft_robot.hub.ids import hub_id, parse_hub_id
    from qsft_robot.hub.repository import check_push, local_folder

    if private and push is None:
        raise ValueError("--private is for what goes to the Hub: --push owner/name.")
    if push is not None:
        check_push(parse_hub_id(push), private)
    if hub_id(run) is not None:
        if out is None:
            raise ValueError(f"{run}: name the folder to write, --out: its own is the Hub's.")
        run = local_folder(run)
    checkpoint = run / "checkpoint" if (run / "checkpoint").is_dir() else run
    target = run / "policy" if out is None else out
    changes, trust = acting_changes(acting), Trust(trust_remote_code, allow_downloads)
    write = partial(export_policy, checkpoint, target, changes, trust=trust, lerobot=lerobot)
    if onnx:
        try:
            write(onnx=True, data=data)
        except NotExportable as reason:
            say(f"no ONNX graphs: {one_line(reason)}", sys.stderr)
            write()
    else:
        write()
    say(printable(target))
    if push is not None:
        from qsft_robot.hub.publishing import evaluation_of, publish

        evaluation, missing = evaluation_of(run, checkpoint)
        if changes:
            evaluation, missing = None, "--acting changes what was evaluated"
        say(publish(target, parse_hub_id(push), private, evaluation))
        say(f"evaluation: {one_line(evaluation or f'none ({missing})')}")


def report(run: Positional[Path]) -> None:
    """Write <run>/report.html: curves, calibration, success rates, rollouts, settings, one page.

    Args:
        run: Run folder, or a folder of runs to compare.
    """
    from qsft_robot.report.report import write_report

    say(printable(write_report(run)))


def info(what: Positional[str] = "versions") -> None:
    """Show versions, presets, recipes, or a policy folder.

    Args:
        what: versions, presets, recipes, or the path of a policy or checkpoint folder, or a Hub id
            (owner/name).
    """
    from rich.pretty import pprint

    from qsft_robot.hub.repository import local_folder

    if what == "versions":
        from qsft_robot.versions import software_versions

        pprint(software_versions(), expand_all=True)
    elif what == "presets":
        pprint(all_of("PRESETS"), expand_all=True)
    elif what == "recipes":
        for name, each in all_of("RECIPES").items():
            print(f"{name:<28} {each.description}")
    elif not (folder := local_folder(what)).exists():
        near = get_close_matches(what, ("versions", "presets", "recipes"), n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise FileNotFoundError(
            f"{what}: no such folder of a policy.{guess} There are: versions, presets, recipes, "
            "the path of a policy or checkpoint folder, and Hub ids (owner/name)."
        )
    else:
        from qsft_robot.policy.folder import count_parameters, read_description

        description = read_description(folder).to_json()
        keep = ("method", "networks", "state_keys", "cameras", "action", "acting", "data")
        # The bins and byte pairs of a code are long lists of numbers.
        code = {k: x for k, x in description["tokenizer"].items() if not isinstance(x, list)}
        pprint({**{key: description[key] for key in keep}, "tokenizer": code}, expand_all=True)
        print(f"{count_parameters(folder):,} parameters")


def demo(
    out: Path = Path("runs/demo"), quick: bool = False, seed: int = 0, device: str = "auto"
) -> None:
    """Run the whole job on the embedded simulator: collect, train three ways, evaluate, report.

    Args:
        out: Folder of the results; an earlier demo there is replaced.
        quick: A minute's walk through every step; too short to learn anything.
        seed: Seed of the logs and of training.
        device: Where to train: auto (cuda, mps or cpu, the first that is here), cpu, cuda, ...
    """
    from qsft_robot.verbs.demo import run_demo

    run_demo(out, quick, seed, device)
