"""Verbs of the command line that make and look at logs: generate, collect, inspect, playback."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from qsft_robot.parts.simulators import GYMNASIUM_PREFIX
from qsft_robot.presets.look_up import find_recipe, recipe
from qsft_robot.presets.recipe import Recipe, RecipePart
from qsft_robot.printed_text import say
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import (
    acting_changes,
    env_changes,
    imports_of,
    named_env,
    read_as,
    say_device,
    say_upside_down,
    shares,
    use_threads,
)

if TYPE_CHECKING:
    from qsft_robot.logs.inspection_table import LogValue
    from qsft_robot.policy.description import LoadedPolicy


def collect(
    name: Positional[str | None] = None,
    *,
    out: Path,
    env: str | None = None,
    env_success_key: str | None = None,
    env_keys: tuple[str, ...] = (),
    episodes: int | None = None,
    cameras: tuple[str, ...] | None = None,
    image_size: int | None = None,
    env_kwargs: tuple[str, ...] = (),
    mixture: tuple[str, ...] = (),
    noise: float | None = None,
    agents: tuple[Path, ...] = (),
    seed: int = 0,
    workers: int = 2,
    policy: Path | None = None,
    acting: tuple[str, ...] = (),
    compress_images: bool = True,
    device: str = "auto",
    strict_versions: bool = False,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
) -> None:
    """Collect logs with a scripted expert and its named ways to fail, or with a policy, into HDF5.

    Args:
        name: Recipe, e.g. tabletop/place. `qsft-robot info recipes` lists them.
        out: HDF5 file to write (robomimic's schema); it appears whole or not at all. Of play data
            (ogbench/...) the stream itself, for `import-npz`, where it ends in .npz.
        env: Environment in place of a recipe: a simulator's name, or gymnasium:<module>:<id>, whose
            module is imported, which runs its code; a --policy acts there.
        env_success_key: What tells success there, beside success and is_success: a key of the
            steps' info (dots lead into it), an attribute or a method of the environment.
        env_keys: Policy's observation keys by the environment's, e.g. state=agent.qpos.
        episodes: Number of logs, of play data of episodes; the recipe's own when not given.
        cameras: Cameras to record; none: `--cameras` alone. The recipe's cameras when not given,
            with --policy those of the logs that it learnt from.
        image_size: Height and width of the images, in pixels.
        env_kwargs: Changes of the simulator's arguments, e.g. split=valid_seen.
        mixture: Shares that replace the recipe's, e.g. expert=0.5 miss_grasp=0.5.
        noise: Standard deviation of the noise on the expert's actions; where these are text, the
            share of commands drawn at random.
        agents: Trained agents that are recorded where there is no scripted expert (hopper/medium):
            .npz files of their weights (a2c_Hopper.npz), or a folder of these.
        seed: The file is the same for the same seed, whatever the number of workers.
        workers: Processes.
        policy: Run folder, exported policy or Hub id (owner/name) that acts instead of the expert:
            its own episodes, to train on with the earlier logs (`qsft-robot merge`).
        acting: Changes of train's --acting settings, e.g. min_p=0.1 to explore more.
        compress_images: Without loss (gzip); every reader of HDF5 reads them as before, single rows
            more slowly.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        strict_versions: Refuse a simulator of other versions than that of the --policy's logs
            instead of a note.
        trust_remote_code: Run code that a pretrained model of the policy brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that the folder names from the hub, where it is not here yet.
    """
    from qsft_robot.parts.simulators import agent_files, has_cameras
    from qsft_robot.rollouts.collect import CollectPart
    from qsft_robot.rollouts.collect import collect as run
    from qsft_robot.rollouts.collect_policy import collect_with_policy

    chosen = _recipe_of(name, env)
    told = read_as({}, env_success_key, env_keys)
    total = chosen.episodes if episodes is None else episodes
    if policy is not None:
        if mixture or agents or noise is not None:
            raise ValueError(
                "--mixture, --agents and --noise are the expert's; a --policy takes --acting."
            )
        see = {"cameras": cameras, "image_size": image_size, **env_changes(env_kwargs)}
        trust = Trust(trust_remote_code, allow_downloads)
        loaded = _open_policy(policy, acting, chosen, device, strict_versions, trust)
        env_args = {**_env_of_policy(loaded, chosen, see), **told}
        say(
            collect_with_policy(
                loaded,
                env_args,
                out,
                total,
                seed=seed,
                workers=workers,
                attributes={"policy": policy.name},
                imports=imports_of(env),
                compress_images=compress_images,
            )
        )
        return
    if chosen.play:
        from qsft_robot.verbs.flat import collect_play

        if mixture or agents:
            raise ValueError(
                f"{name}: play data are one oracle's; --mixture has no place in them, nor --agents."
            )
        see = {"cameras": cameras, "image_size": image_size, **env_changes(env_kwargs)}
        say(collect_play(chosen, out, total, see, noise=noise, seed=seed, workers=workers))
        return
    if acting:
        raise ValueError("--acting changes a policy's acting rule; name the policy (--policy RUN).")
    if not chosen.parts:
        raise ValueError(
            f"{chosen.env_name} has no scripted expert: name the policy that acts there (--policy)."
        )
    wanted = shares(mixture)
    names = dict.fromkeys(name for part in chosen.parts for name in wanted or part.mixture)
    acted = agent_files(chosen.env_name, names, agents)
    parts, left = [], total
    for i, part in enumerate(chosen.parts):
        count = left if i == len(chosen.parts) - 1 else round(total * part.share)
        left -= count
        parts.append(
            CollectPart(
                episodes=count,
                mixture=wanted or part.mixture,
                noise=part.noise if noise is None else noise,
                reset_options=part.reset_options,
                expert_options={"agents": acted} if acted else {},
                mask=part.mask,
            )
        )
    # A world without pictures takes neither; asked for some all the same, it says so itself.
    pictures = {
        "cameras": list(chosen.cameras if cameras is None else cameras),
        "image_size": chosen.image_size if image_size is None else image_size,
    }
    if not cameras and image_size is None and not has_cameras(chosen.env_name):
        pictures = {}
    kwargs = {**chosen.env_kwargs, **pictures, **env_changes(env_kwargs)}
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs, **told}
    say(run(env_args, out, parts, seed=seed, workers=workers, compress_images=compress_images))


def _open_policy(
    folder: Path,
    acting: tuple[str, ...],
    chosen: Recipe,
    device: str,
    strict_versions: bool,
    trust: Trust,
) -> LoadedPolicy:
    from qsft_robot.policy.open import open_policy
    from qsft_robot.versions import compare_with_installed, recorded_versions

    policy = open_policy(
        folder,
        acting_changes(acting),
        device,
        trust_remote_code=trust.remote_code,
        allow_downloads=trust.downloads,
    )
    trained_in = policy.description.env_args
    if trained_in.get("env_name") == chosen.env_name:
        what = f"the logs that {folder} learned from"
        compare_with_installed(recorded_versions(trained_in), what, strict_versions)
    say_upside_down(str(folder), policy.description)
    use_threads(1)  # beside the simulators
    say_device(device, policy)
    return policy


def _recipe_of(name: str | None, env: str | None) -> Recipe:
    """The recipe of `name`, or one that --env makes: a simulator's expert, without failures."""
    if (name is None) == (env is None):
        raise ValueError(
            "collect takes a recipe (qsft-robot info recipes lists them) or --env, one of the two."
        )
    if env is None or find_recipe(env) is not None:
        return recipe(str(name or env))
    expert = () if imports_of(env) or env.startswith(GYMNASIUM_PREFIX) else ({"expert": 1.0},)
    parts = tuple(RecipePart(1.0, mixture, 0.0) for mixture in expert)
    return Recipe(env, named_env(env)["env_name"], {}, parts, episodes=100)


def _env_of_policy(policy: LoadedPolicy, chosen: Recipe, see: dict[str, Any]) -> dict[str, Any]:
    """env_args in which a policy collects: those of its logs, where it is the same simulator."""
    from qsft_robot.parts.simulators import showing

    trained_in = policy.description.env_args
    kwargs = dict(chosen.env_kwargs)
    if trained_in.get("env_name") == chosen.env_name:
        kwargs = {**(trained_in.get("env_kwargs") or {}), **kwargs}
    kwargs |= {
        key: list(value) if key == "cameras" else value
        for key, value in see.items()
        if value is not None
    }
    env_args = {"env_name": chosen.env_name, "env_kwargs": kwargs}
    return showing(env_args, policy.description.state_keys)


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
