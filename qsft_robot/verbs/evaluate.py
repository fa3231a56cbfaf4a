"""The verb evaluate: a policy's success closed loop, here, on a cluster, or in a harness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from qsft_robot.hub.ids import hub_id
from qsft_robot.hub.repository import local_folder
from qsft_robot.policy.folder import POLICY
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.printed_text import printable, say
from qsft_robot.trust import Trust
from qsft_robot.verbs.flag_words import (
    acting_changes,
    env_changes,
    env_of_recipe,
    imports_of,
    read_as,
    say_device,
    say_upside_down,
    server_address,
    use_threads,
)
from qsft_robot.verbs.harness import (
    DEFAULT_EPISODES,
    Asked,
    evaluate_policy,
    evaluate_server,
    result_name,
)
from qsft_robot.verbs.machines import (
    identity_of,
    machines_of,
    policy_on,
    say_where,
)


def evaluate(
    run: Positional[Path],
    name: str | None = None,
    episodes: int | None = None,
    seed: int = EVALUATION_SEED,
    harness: str | None = None,
    key_map: Path | None = None,
    harness_image: str | None = None,
    env: str | None = None,
    env_kwargs: tuple[str, ...] = (),
    env_success_key: str | None = None,
    env_keys: tuple[str, ...] = (),
    acting: tuple[str, ...] = (),
    workers: int | None = None,
    envs_per_worker: int = 8,
    max_batch: int | None = None,
    ray: str | None = None,
    videos: int = 0,
    video_of: Literal["first", "failures"] = "first",
    run_to_limit: bool = False,
    execute_steps: int | None = None,
    max_steps: int | None = None,
    accept: tuple[Literal["range"], ...] = (),
    device: str = "auto",
    threads: int = 1,
    strict_versions: bool = False,
    trust_remote_code: bool = False,
    allow_downloads: bool = False,
    import_env: tuple[str, ...] = (),
) -> None:
    """Measure a policy's success closed loop in simulation, with a 95 % Wilson interval.

    Args:
        run: Run folder, or an exported policy or checkpoint; or a Hub id (owner/name). With
            --harness the address of a server of openpi's protocol, too (ws://host:8000).
        name: The result goes to <run>/evaluation/<name>, that of an exported folder outside of a
            run to <folder>.evaluation/<name>, that of a Hub id to <owner>--<name>.evaluation here.
        episodes: Number of episodes, 100 when not given; with --harness of each task, the
            benchmark's own number when not given.
        seed: Seed of the first episode; the others follow. Use the same for every policy.
        harness: Benchmark that vla-eval runs (extra harness): libero, libero/spatial,
            simpler_widowx, simpler_google, robocasa, a YAML file of vla-eval's, or simulator, the
            one of the logs.
        key_map: YAML file that says which of the harness' images and numbers are the policy's
            cameras and state keys, and to which size images are brought (docs/ecosystem.md).
        harness_image: Container of the benchmark, by its name in `docker image ls`; here: run it in
            this process, where its simulator is installed. The one of this machine that the
            benchmark names when not given.
        env: Another environment than the one the logs came from: a recipe, a simulator's name, or
            gymnasium:<module>:<id>, whose module is imported, which runs its code.
        env_kwargs: Changes of the simulator's arguments, e.g. split=valid_unseen.
        env_success_key: What tells success beside success and is_success: a key of the steps' info
            (dots lead into it), an attribute or a method of the environment.
        env_keys: Policy's observation keys by the environment's, e.g. state=agent.qpos.
        acting: Changes of train's --acting settings, e.g. k=4 min_p=0.1.
        workers: Simulator processes; 2 when not given, with --ray one for each core that is left.
        envs_per_worker: Episodes that one process runs side by side.
        max_batch: Most decisions that are computed at once; 1: each alone, so that results are to
            the bit the same for any number of processes and nodes.
        ray: Run on a Ray cluster (extra ray): auto for the one that this machine is part of, or
            host:port of its head node. Every node has to see RUN under the same path.
        videos: Number of episodes to film.
        video_of: Film the first episodes or the first failures.
        run_to_limit: Go on after success, so that success at the last step can differ.
        execute_steps: Actions of a chunk that are executed before the next decision; as the policy
            was told (--acting.execute), else all, when not given.
        max_steps: Step limit; the simulator's own when not given.
        accept: range: let actions pass that the simulator clips.
        device: Where the policy runs: auto (cuda, mps or cpu, the first that is here), cuda:1, ...
        threads: Threads of the policy's arithmetic.
        strict_versions: Refuse a simulator of other versions than the logs' instead of a note.
        trust_remote_code: Run code that a pretrained model in the folder brings along. Only for
            publishers that you trust.
        allow_downloads: Fetch a model that the folder names from the hub, where it is not here yet.
        import_env: Modules that the simulator's name in the logs may have imported, which runs
            their code.
    """
    from qsft_robot.parts.simulators import showing
    from qsft_robot.rollouts.evaluate import evaluate as measure
    from qsft_robot.versions import compare_with_installed, recorded_versions

    overrides = env_changes(env_kwargs)
    asked, name = None, name or result_name(harness)
    if harness is None:
        if key_map is not None or harness_image is not None:
            raise ValueError("--key-map and --harness-image are for --harness.")
    else:
        asked = Asked(
            harness, episodes, seed, key_map, harness_image, execute_steps, max_steps, accept
        )
        told = {
            "env": env, "env-kwargs": env_kwargs, "env-success-key": env_success_key,
            "env-keys": env_keys, "run-to-limit": run_to_limit, "import-env": import_env,
        }  # fmt: skip
        asked.check(told, videos)
        if ray is not None or max_batch is not None:
            raise ValueError("--ray and --max-batch: not with --harness, which runs its own way.")
        if (address := server_address(run)) is not None:
            evaluate_server(address, asked, name, env, overrides, run_to_limit)
            return
    with machines_of(ray) as machines:
        results = _evaluation_folder(run)
        run, changes = local_folder(run), acting_changes(acting)
        trust = Trust(trust_remote_code, allow_downloads)
        policy = policy_on(machines, run, changes, device, threads, trust)
        if asked is not None and not asked.ours:
            say_device(device, policy)
            use_threads(threads)
            evaluate_policy(policy, asked, results / name)
            return
        env_args = dict(policy.description.env_args)
        if env is not None:
            env_args = env_of_recipe(env, policy.description)
        if "env_name" not in env_args:
            raise ValueError(
                f"{run}: the policy's logs name no simulator (no env_args in "
                f"{policy.description.data.file}); name one with --env, or drive a robot with "
                "`qsft-robot run`."
            )
        if env is None:
            made_by = f"the logs of {run}"
            compare_with_installed(recorded_versions(env_args), made_by, strict_versions)
        say_upside_down(str(run), policy.description)
        say_where(machines, device, threads, policy)
        executed = execute_steps or policy.description.acting.execute
        if note := policy.description.window_note(executed):
            say(note, sys.stderr)
        env_args = read_as(env_args, env_success_key, env_keys)
        env_args = showing(env_args, policy.description.state_keys)
        imports = [*import_env, *imports_of(env)]
        overrides |= {"imports": imports} if imports else {}
        out = results / name
        if asked is not None:
            evaluate_policy(policy, asked, out, env_args, overrides, run_to_limit)
            return
        result = measure(
            policy,
            env_args,
            range(seed, seed + (DEFAULT_EPISODES if episodes is None else episodes)),
            workers=machines.workers(workers, policy),
            envs_per_worker=envs_per_worker,
            videos=videos,
            video_of=video_of,
            run_to_limit=run_to_limit,
            execute_steps=execute_steps,
            accept=accept,
            out=out,
            env_overrides=overrides | ({} if max_steps is None else {"max_steps": max_steps}),
            max_batch=max_batch,
            identity=identity_of(run, changes),
            machines=machines,
        )
    say(f"{result}\n{printable(out / 'summary.json')}")


def _evaluation_folder(run: Path) -> Path:
    """Where the results of a run or a policy go: never into a folder that is written as a whole."""
    if (wanted := hub_id(run)) is not None:
        return Path(f"{wanted.file_name}.evaluation")  # not into the Hub's cache
    if not (run / POLICY).is_file():
        return run / "evaluation"
    run = run.resolve()  # "." has neither name nor parent
    inside = (run.parent / "config.json").is_file()
    return run.parent / ("evaluation" if inside else f"{run.name}.evaluation")
