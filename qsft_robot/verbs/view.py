"""The verb of the command line that makes recordings for rerun's viewer: view."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from qsft_robot.extras import require_packages
from qsft_robot.printed_text import say
from qsft_robot.verbs.flag_words import say_device


def view(
    source: Positional[Path],
    *,
    rrd: Path,
    policy: Path | None = None,
    logs: tuple[str, ...] = (),
    count: int = 6,
    steps: int = 10,
    success_reward: bool = False,
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> None:
    """Write logs as a recording for rerun's viewer: cameras, actions, reward, V and advantage.

    Args:
        source: HDF5 file of logs, or a run folder: the logs that it was trained on, by its policy.
        rrd: File to write; it appears whole or not at all. `rerun FILE` opens it.
        policy: Run folder, exported policy or Hub id that tells V and the limits of the actions.
        logs: Names of the logs, e.g. demo_0 demo_7.
        count: As many of the first ones, where none are named.
        steps: Frames that an advantage looks ahead.
        success_reward: Count rewards as --data.success-reward of train makes them.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        trust_remote_code: Run code that a pretrained model of the policy brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that the policy names from the hub, where it is not here yet.
    """
    require_packages("view", "rerun")
    from qsft_robot.config.run_config import CONFIG, read_config
    from qsft_robot.policy.open import open_policy
    from qsft_robot.progress import StepProgress
    from qsft_robot.view.recording import chosen_logs, write_recording

    if count < 1:
        raise ValueError(f"--count {count}: a recording has at least 1 log.")
    file, critic = source, policy
    if source.is_dir():
        if not (source / CONFIG).is_file():
            raise ValueError(
                f"{source}: no run folder (it has no {CONFIG}); give one, or an HDF5 file of logs."
            )
        data = read_config(source).data
        file, critic = data.path, policy or source
        success_reward = success_reward or data.success_reward
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file here, which {source} was trained on (a path from the folder "
                f"where that was started); name it: view LOGS --policy {source}."
            )
    names = chosen_logs(file, logs, count)
    loaded = None
    if critic is not None:
        loaded = open_policy(
            critic,
            device=device,
            trust_remote_code=trust_remote_code,
            allow_downloads=allow_downloads,
        )
        say_device(device, loaded)
    with StepProgress("view", "logs") as tell:
        report = write_recording(
            file,
            rrd,
            names,
            loaded,
            steps=steps,
            success_reward=success_reward,
            value_needed=policy is not None,
            tell=tell,
        )
    say(report)
