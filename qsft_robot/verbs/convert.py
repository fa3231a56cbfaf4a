"""Verbs of the command line that make logs out of logs: merge, relabel, and LeRobot data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.printed_text import printable, say


def merge(
    files: Positional[tuple[Path, ...]],
    out: Path,
    env_args_from: Path | None = None,
    common_keys: bool = False,
    strict_versions: bool = False,
    files_from_anywhere: bool = False,
) -> None:
    """Join files of logs into one: earlier logs and those that a policy made since.

    Args:
        files: HDF5 files in robomimic's schema; their logs are numbered anew in this order.
        out: HDF5 file to write; it appears whole or not at all, and may be one of the files.
        env_args_from: The file whose environment is kept, where environments or rates differ.
        common_keys: Keep the observation keys that all files share, where they differ.
        strict_versions: Refuse files whose simulators had different versions instead of a note.
        files_from_anywhere: Read what the files say lies in other files (links, virtual data sets,
            external storage) wherever that is on this machine, not below their own folders alone.
    """
    from qsft_robot.logs.merge import merge_files
    from qsft_robot.logs.other_files import files_from_anywhere as files_from_anywhere_read
    from qsft_robot.logs.reader import read_masks
    from qsft_robot.progress import StepProgress

    with StepProgress("merge", "logs") as tell, files_from_anywhere_read(files_from_anywhere):
        merge_files(
            files,
            out,
            env_args_from=env_args_from,
            common_keys=common_keys,
            strict_versions=strict_versions,
            tell=tell,
        )
    masks = ", ".join(f"{name} {len(names)}" for name, names in read_masks(out).items())
    say(printable(f"{out}: {tell.done} logs of {len(files)} files; masks: {masks}"))


def relabel(
    file: Positional[Path],
    out: Path,
    success: tuple[str, ...] = (),
    failure: tuple[str, ...] = (),
    failure_end: Literal["terminal", "truncated"] = "terminal",
) -> None:
    """Change which logs count as successes: rewrites their success, rewards and ends.

    Args:
        file: HDF5 file in robomimic's schema.
        out: HDF5 file to write; it may be the same file.
        success: Logs (demo_3) or masks that succeeded: reward 1 on the last step.
        failure: Logs or masks that failed: no reward.
        failure_end: terminal: the failure is the outcome; truncated: it was cut while the task
            could go on.
    """
    from qsft_robot.logs.relabel import relabel as run

    run(file, out, success=success, failure=failure, failure_end=failure_end)
    say(printable(out))


def import_lerobot(
    folder: Positional[Path],
    out: Path,
    cameras: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None,
    task: str | None = None,
    success: Literal["next.success", "reward", "all", "none"] = "next.success",
    successful: tuple[int, ...] | None = None,
    failure_end: Literal["terminal", "truncated"] = "terminal",
    control_hz: float | None = None,
    max_episodes: int | None = None,
) -> None:
    """Make an HDF5 file of logs out of a LeRobot v3 data set (Parquet and MP4).

    Args:
        folder: Folder of the data set, with meta, data and videos; or its Hub id (owner/name).
        out: HDF5 file to write (robomimic's schema); it appears whole or not at all.
        cameras: Cameras to keep, e.g. front_image; none: `--cameras` alone. All when not given.
        image_size: Height and width to resize the images to, in pixels.
        task: Instruction of every log, instead of the tasks of the data set.
        success: What marks success: the feature next.success, a positive next.reward, all, none.
        successful: Numbers of the episodes that succeeded; goes before --success.
        failure_end: How the others ended, where next.truncated is missing: terminal (the failure
            is the outcome) or truncated (it was cut while the task could go on).
        control_hz: Actions a second, instead of the frames a second of the data set.
        max_episodes: Only the first so many episodes.
    """
    from qsft_robot.hub.repository import local_folder
    from qsft_robot.lerobot.format import require_lerobot_files
    from qsft_robot.lerobot.importing import import_lerobot as run
    from qsft_robot.progress import StepProgress

    require_lerobot_files()  # before anything is fetched
    folder = local_folder(folder, "dataset")
    with StepProgress("import", "episodes") as tell:
        report = run(
            folder,
            out,
            cameras=cameras,
            image_size=image_size,
            task=task,
            success=success,
            successful=successful,
            failure_end=failure_end,
            control_hz=control_hz,
            max_episodes=max_episodes,
            tell=tell,
        )
    say(report)


def export_lerobot(
    file: Positional[Path],
    out: Path,
    filter_key: str | None = None,
    state_keys: tuple[str, ...] | None = None,
    task: str | None = None,
    fps: float | None = None,
    robot_type: str | None = None,
    codec: Literal["h264", "libsvtav1", "png"] = "h264",
    crf: int | None = None,
) -> None:
    """Make a LeRobot v3 data set (Parquet and MP4) out of an HDF5 file of logs.

    Args:
        file: HDF5 file in robomimic's schema.
        out: New folder; it appears whole or not at all.
        filter_key: Only the logs of this mask.
        state_keys: Keys that are joined to observation.state, in this order; the others stay apart.
            All keys but images when not given.
        task: Instruction of every log, instead of the file's.
        fps: Frames a second, where the file tells no control rate.
        robot_type: What info.json calls the robot; the environment's name when not given.
        codec: h264 or libsvtav1 (LeRobot's own) for MP4; png: lossless images in the Parquet files.
        crf: Constant rate factor of the video; 18 for h264 and 30 for libsvtav1 when not given.
    """
    from qsft_robot.lerobot.exporting import export_lerobot as run
    from qsft_robot.progress import StepProgress

    with StepProgress("export", "logs") as tell:
        run(
            file,
            out,
            filter_key=filter_key,
            state_keys=state_keys,
            task=task,
            fps=fps,
            robot_type=robot_type,
            codec=codec,
            crf=crf,
            tell=tell,
        )
    say(printable(f"{out}: {tell.done} episodes"))
