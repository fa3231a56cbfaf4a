"""The verb collect: logs of scripted experts or of policies, here or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from qsft_robot.hub.repository import local_folder
from qsft_robot.parts.simulators import GYMNASIUM_PREFIX
from qsft_robot.presets.look_up import find_recipe, recipe
from qsft_robot.presets.recipe import Recipe, RecipePart
from qsft_robot.printed_text import say
from qsft_robot.rollouts.machines import Machines
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import (
    acting_changes,
    env_changes,
    imports_of,
    named_env,
    read_as,
    say_upside_down,
    shares,
)
from qsft_robot.verbs.machines import (
    identity_of,
    machines_of,
    policy_on,
    say_where,
)

if TYPE_CHECKING:
    from qsft_robot.policy.description import LoadedPolicy
    from qsft_robot.rollouts.collect import CollectPart


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
    workers: int | None = None,
    ray: str | None = None,
    max_batch: int | None = None,
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
        workers: Processes; 2 when not given, with --ray one for each core that is left.
        ray: Run on a Ray cluster (extra ray): auto for the one that this machine is part of, or
            host:port of its head node. Logs lie in <out>.parts until the file is whole, and the
            same command goes on from them.
        max_batch: Most decisions of a --policy that are computed at once; 1: each alone, so that
            logs are to the bit the same for any number of processes and nodes.
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
    chosen = _recipe_of(name, env)
    told = read_as({}, env_success_key, env_keys)
    total = chosen.episodes if episodes is None else episodes
    see = {"cameras": cameras, "image_size": image_size, **env_changes(env_kwargs)}
    if policy is not None and (mixture or agents or noise is not None):
        raise ValueError(
            "--mixture, --agents and --noise are the expert's; a --policy takes --acting."
        )
    if policy is None and chosen.play and (mixture or agents):
        raise ValueError(
            f"{name}: play data are one oracle's; --mixture has no place in them, nor --agents."
        )
    if policy is None and max_batch is not None:
        raise ValueError("--max-batch counts a policy's decisions; name the policy (--policy RUN).")
    if policy is None and acting:
        raise ValueError("--acting changes a policy's acting rule; name the policy (--policy RUN).")
    with machines_of(ray) as machines:
        if policy is not None:
            from qsft_robot.rollouts.collect_policy import collect_with_policy

            trust = Trust(trust_remote_code, allow_downloads)
            folder, changes = local_folder(policy), acting_changes(acting)
            loaded = _open_policy(
                policy, folder, changes, chosen, device, strict_versions, trust, machines
            )
            report: Any = collect_with_policy(
                loaded,
                {**_env_of_policy(loaded, chosen, see), **told},
                out,
                total,
                seed=seed,
                workers=machines.workers(workers, loaded),
                attributes={"policy": policy.name},
                imports=imports_of(env),
                compress_images=compress_images,
                max_batch=max_batch,
                machines=machines,
                identity=None if ray is None else identity_of(folder, changes),
            )
        elif chosen.play:
            from qsft_robot.verbs.flat import collect_play

            count = machines.workers(workers)
            report = collect_play(
                chosen, out, total, see, noise=noise, seed=seed, workers=count, machines=machines
            )
        else:
            from qsft_robot.rollouts.collect import collect as run

            report = run(
                {**_env_of_expert(chosen, see), **told},
                out,
                _parts(chosen, total, shares(mixture), noise, agents),
                seed=seed,
                workers=machines.workers(workers),
                compress_images=compress_images,
                machines=machines,
                resumable=ray is not None,
            )
    say(report)


def _parts(
    chosen: Recipe,
    total: int,
    wanted: dict[str, float],
    noise: float | None,
    agents: tuple[Path, ...],
) -> list[CollectPart]:
    """The parts of a recipe's `total` logs, with the shares and the noise that replace its own."""
    from qsft_robot.parts.simulators import agent_files
    from qsft_robot.rollouts.collect import CollectPart

    if not chosen.parts:
        raise ValueError(
            f"{chosen.env_name} has no scripted expert: name the policy that acts there (--policy)."
        )
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
    return parts


def _env_of_expert(chosen: Recipe, see: dict[str, Any]) -> dict[str, Any]:
    """env_args in which an expert collects. A world without pictures takes neither cameras nor a
    size; asked for some all the same, it says so itself."""
    from qsft_robot.parts.simulators import has_cameras

    cameras, image_size, changes = see["cameras"], see["image_size"], dict(see)
    del changes["cameras"], changes["image_size"]
    pictures = {
        "cameras": list(chosen.cameras if cameras is None else cameras),
        "image_size": chosen.image_size if image_size is None else image_size,
    }
    if not cameras and image_size is None and not has_cameras(chosen.env_name):
        pictures = {}
    kwargs = {**chosen.env_kwargs, **pictures, **changes}
    return {"env_name": chosen.env_name, "env_kwargs": kwargs}


def _open_policy(
    named: Path,
    folder: Path,
    changes: dict[str, Any],
    chosen: Recipe,
    device: str,
    strict_versions: bool,
    trust: Trust,
    machines: Machines,
) -> LoadedPolicy:
    from qsft_robot.versions import compare_with_installed, recorded_versions

    policy = policy_on(machines, folder, changes, device, 1, trust)
    trained_in = policy.description.env_args
    if trained_in.get("env_name") == chosen.env_name:
        what = f"the logs that {named} learned from"
        compare_with_installed(recorded_versions(trained_in), what, strict_versions)
    say_upside_down(str(named), policy.description)
    say_where(machines, device, 1, policy)  # one thread, beside the simulators
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
