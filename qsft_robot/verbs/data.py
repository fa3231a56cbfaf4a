"""Verbs of the command line that look at logs or make games: generate, inspect, playback."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from qsft_robot.printed_text import say
from qsft_robot.trust import Trust

if TYPE_CHECKING:
    from qsft_robot.logs.inspection_table import LogValue


def generate(
    world: Positional[str],
    out: Path | None = None,
    train: int = 1200,
    valid_seen: int = 120,
    valid_unseen: int = 120,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Generate the games of a text world, each solved by its engine's expert (alfworld).

    Games that are there already stay, so an interrupted run goes on where it was. The defaults
    take about 20 minutes on two cores.

    Args:
        world: alfworld, the one text world whose games can be generated.
        out: Folder of the split folders; $ALFWORLD_DATA/generated when not given (without that
            variable ~/.cache/alfworld/generated).
        train: Games of split train, of all six task types evenly (rounded up to a multiple of 6).
        valid_seen: Other tasks in the same rooms.
        valid_unseen: Games in rooms that are never trained on.
        seed: A game depends on this, its split, type and number alone.
        workers: Processes.
    """
    from qsft_robot.parts.simulators import generate_games
    from qsft_robot.progress import StepProgress

    games = {"train": train, "valid_seen": valid_seen, "valid_unseen": valid_unseen}
    with StepProgress("generate", "games") as tell:
        report = generate_games(world, out, games, seed=seed, workers=workers, on_game=tell)
    say(report)


def inspect(
    path: Positional[Path],
    filter_key: str | None = None,
    log_end: tuple[str, ...] = (),
    success_reward: bool = False,
    json: bool = False,
    fail_on: Literal["warning", "error"] | None = None,
    policy: tuple[Path, ...] = (),
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> int:
    """Show what logs hold (keys, shapes, ranges, returns, success) and what is wrong with them.

    Args:
        path: HDF5 file in robomimic's schema, or the folder of a LeRobot v3 data set or its Hub id
            (owner/name).
        filter_key: Only the logs of this mask.
        log_end: How unsuccessful logs ended: terminal, truncated, or mask=word pairs.
        success_reward: Count rewards as --data.success-reward of train would make them.
        json: Print one JSON object instead of tables.
        fail_on: Exit status 1 where a finding is as severe as this.
        policy: Run folders, exported policies or Hub ids with values: logs are ranked by how far V
            at their end lies from that of logs of the same outcome. Two, each trained on the mask
            of one half, judge every log by the one that never saw it.
        trust_remote_code: Run code that a pretrained model of a policy brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that a policy names from the hub, where it is not here yet.
    """
    from rich.console import Console

    from qsft_robot.config.data import DataConfig
    from qsft_robot.hub.repository import local_folder
    from qsft_robot.logs.doctor.finding import reaches
    from qsft_robot.logs.doctor.hdf5_logs import hdf5_source
    from qsft_robot.logs.inspection import refuse, summarize_source
    from qsft_robot.logs.inspection_table import show, show_ranking

    if path.suffix not in (".hdf5", ".h5"):
        path = local_folder(path, "dataset")
    if path.is_dir():
        from qsft_robot.lerobot.logs import lerobot_source

        if policy:
            raise ValueError(
                f"{path}: --policy ranks the logs of an HDF5 file: import the data set first "
                "(qsft-robot import-lerobot)."
            )
        if filter_key is not None or log_end or success_reward:
            raise ValueError(
                f"{path}: --filter-key, --log-end and --success-reward are for HDF5 files; a "
                "LeRobot data set is read as it is."
            )
        source = lerobot_source(path)
    else:
        ends = DataConfig(state_keys=("any",), log_end=log_end).log_ends()
        source = hdf5_source(
            path, filter_key=filter_key, log_end=ends, success_reward=success_reward
        )
    summary = summarize_source(source, success_reward)
    trust = Trust(trust_remote_code, allow_downloads)
    ranked = _ranked(path, policy, filter_key, trust)
    if json:
        values = {"values": [x.to_json() for x in ranked]} if policy else {}
        say(dumps(summary.to_json() | values, indent=2, allow_nan=False))
    else:
        show(summary, Console())
        if policy:
            show_ranking(ranked, Console())
    refuse(summary)
    return int(fail_on is not None and reaches(summary.findings, fail_on))


def _ranked(
    path: Path, folders: tuple[Path, ...], filter_key: str | None, trust: Trust
) -> list[LogValue]:
    if not folders:
        return []
    from qsft_robot.policy.open import open_policy
    from qsft_robot.rollouts.value_ranking import rank_by_value

    policies = [
        open_policy(
            folder,
            trust_remote_code=trust.remote_code,
            allow_downloads=trust.downloads,
        )
        for folder in folders
    ]
    return rank_by_value(path, policies, filter_key)


def playback(
    path: Positional[Path],
    demo: str = "demo_0",
    video: Path | None = None,
    strict_versions: bool = False,
    import_env: tuple[str, ...] = (),
) -> int:
    """Replay a log by its actions in its own simulator; exit status 1 if it comes out otherwise.

    Args:
        path: HDF5 file whose env_args name the simulator.
        demo: The log.
        video: mp4 file to write.
        strict_versions: Refuse a simulator of other versions than the log's instead of a note.
        import_env: Modules that the simulator's name in the logs may have imported, which runs
            their code.
    """
    from qsft_robot.rollouts.playback import playback as run

    imports = {"imports": list(import_env)} if import_env else None
    report = run(path, demo, video=video, strict_versions=strict_versions, env_overrides=imports)
    say(report)
    return 0 if report.accepted else 1
