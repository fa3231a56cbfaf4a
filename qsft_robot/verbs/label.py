"""The verb of the command line that writes V and advantages of logs: label."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from qsft_robot.printed_text import say
from qsft_robot.verbs.flag_words import say_device, use_threads


def label(
    run: Positional[Path],
    logs: Positional[Path],
    out: Path | None = None,
    lerobot: Path | None = None,
    rlinf: Path | None = None,
    tag: str = "qsft",
    positive: float = 0.3,
    also: tuple[Path, ...] = (),
    steps: int = 10,
    filter_key: str | None = None,
    success_reward: bool = False,
    device: str = "auto",
    threads: int = 1,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> None:
    """Write V and the advantage of each frame of logs, for training other policies by them.

    Args:
        run: Run folder, exported policy or Hub id (owner/name), with values (--method qsft).
        logs: HDF5 file in robomimic's schema.
        out: HDF5 file: a copy of the logs with qsft_value and qsft_advantage in each.
        lerobot: LeRobot data set that was made of these logs (or that they were made of), which
            gets sarm_progress.parquet for --sample_weighting.type=rabc, or a .parquet file.
        rlinf: LeRobot data set that gets meta/advantages_<tag>.parquet, as RLinf's RECAP reads it.
        tag: The <tag> in the name of that file.
        positive: Share of frames whose advantage is true there.
        also: More policies: logs are judged by those that were trained on another mask.
        steps: Frames that an advantage looks ahead.
        filter_key: Only the logs of this mask.
        success_reward: Count rewards as --data.success-reward of train makes them.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        threads: Threads of the policy's arithmetic.
        trust_remote_code: Run code that a pretrained model of a policy brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that a policy names from the hub, where it is not here yet.
    """
    from qsft_robot.labeling.label import Targets, label_logs
    from qsft_robot.policy.open import open_policy
    from qsft_robot.progress import StepProgress

    policies = [
        open_policy(
            folder,
            device=device,
            threads=threads,
            trust_remote_code=trust_remote_code,
            allow_downloads=allow_downloads,
        )
        for folder in (run, *also)
    ]
    use_threads(threads)
    say_device(device, policies[0])
    with StepProgress("label", "logs") as tell:
        report = label_logs(
            logs,
            policies,
            Targets(out, lerobot, rlinf, tag, positive),
            steps=steps,
            filter_key=filter_key,
            success_reward=success_reward,
            tell=tell,
        )
    say(report)
