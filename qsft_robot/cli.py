"""The command line: `qsft-robot <verb>`; each verb is a function of this file or of a cli_ file."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Literal

from tyro.conf import Positional

from qsft_robot.extras import explained
from qsft_robot.hub.ids import hub_id
from qsft_robot.hub.repository import local_folder
from qsft_robot.policy.folder import POLICY
from qsft_robot.presets.look_up import (
    EVALUATION_SEED,
)
from qsft_robot.printed_text import command, one_line, printable, say
from qsft_robot.trust import ALLOW_DOWNLOADS, TRUST_REMOTE_CODE, Trust
from qsft_robot.verbs.compare import compare
from qsft_robot.verbs.convert import export_lerobot, import_lerobot, merge, relabel
from qsft_robot.verbs.data import collect, generate, inspect, playback
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
from qsft_robot.verbs.flat import import_npz
from qsft_robot.verbs.harness import (
    DEFAULT_EPISODES,
    Asked,
    evaluate_policy,
    evaluate_server,
    result_name,
)
from qsft_robot.verbs.label import label
from qsft_robot.verbs.learn import demo, export, info, report
from qsft_robot.verbs.parsing import parsed
from qsft_robot.verbs.prompt import prompt
from qsft_robot.verbs.robot import run
from qsft_robot.verbs.serve import serve
from qsft_robot.verbs.tokens import fit_tokenizer
from qsft_robot.verbs.train_flags import train_config
from qsft_robot.verbs.view import view

# What a run folder's own config.json can't decide when the run goes on.
RESUME_FLAGS = (TRUST_REMOTE_CODE, ALLOW_DOWNLOADS)


def train(arguments: Sequence[str]) -> None:
    """Train on logs and export the policy to <out>/policy."""
    arguments = list(arguments)
    resume = "--resume" in arguments
    if resume:
        from qsft_robot.training.train import resume_config

        given = [word for word in arguments if word not in RESUME_FLAGS]
        if len(given) != 2 or given[0] != "--resume":
            raise ValueError(
                "--resume takes the run folder, and beside it only what the folder can't decide "
                f"({', '.join(RESUME_FLAGS)}): --resume runs/mine"
            )
        if ALLOW_DOWNLOADS not in arguments:
            os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it
        trust = Trust(remote_code=TRUST_REMOTE_CODE in arguments)
        config = resume_config(Path(given[1]), trust)
    else:
        config = train_config(arguments)
    from qsft_robot.parallel.distributed import processes
    from qsft_robot.training.train import train as run

    policy = run(config, resume=resume)
    if processes().is_main:
        say(f"policy: {printable(policy)}\nevaluate it: {command('evaluate', config.out)}")
        say(f"run it without torch (ONNX graphs beside it): {command('export', config.out)}")


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
    workers: int = 2,
    envs_per_worker: int = 8,
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
        workers: Simulator processes.
        envs_per_worker: Episodes that one process runs side by side.
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
    from qsft_robot.policy.open import open_policy
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
        if (address := server_address(run)) is not None:
            evaluate_server(address, asked, name, env, overrides, run_to_limit)
            return
    results = _evaluation_folder(run)
    run = local_folder(run)
    policy = open_policy(
        run,
        acting_changes(acting),
        device,
        threads=threads,
        trust_remote_code=trust_remote_code,
        allow_downloads=allow_downloads,
    )
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
        compare_with_installed(recorded_versions(env_args), f"the logs of {run}", strict_versions)
    say_upside_down(str(run), policy.description)
    use_threads(threads)
    say_device(device, policy)
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
        workers=workers,
        envs_per_worker=envs_per_worker,
        videos=videos,
        video_of=video_of,
        run_to_limit=run_to_limit,
        execute_steps=execute_steps,
        accept=accept,
        out=out,
        env_overrides=overrides | ({} if max_steps is None else {"max_steps": max_steps}),
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


VERBS: dict[str, Callable[..., Any]] = {
    "generate": generate,
    "collect": collect,
    "inspect": inspect,
    "playback": playback,
    "view": view,
    "merge": merge,
    "relabel": relabel,
    "label": label,
    "import-npz": import_npz,
    "import-lerobot": import_lerobot,
    "export-lerobot": export_lerobot,
    "fit-tokenizer": fit_tokenizer,
    "train": train,
    "evaluate": evaluate,
    "prompt": prompt,
    "compare": compare,
    "export": export,
    "report": report,
    "serve": serve,
    "run": run,
    "info": info,
    "demo": demo,
}


# Begins the answer to an error that no reader foresaw.
UNEXPECTED = "something unexpected"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Bad input is answered in one line and with exit status 2; QSFT_DEBUG=1 in the
    environment shows the traceback instead."""
    # Before torch is loaded: threads that wait in busy loops take the cores of others, which took
    # five times the processor time where cores were shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows no Chinese is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    # As qsft_robot.policy.onnx_session does, for other libraries that import onnxruntime first.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    verb, *rest = words or ["--help"]
    try:
        if verb in ("-h", "--help"):
            print(_usage(), flush=True)
            return 0
        if verb in ("-V", "--version"):
            print(f"qsft-robot {version('qsft-robot')}", flush=True)
            return 0
        if verb not in VERBS:
            near = get_close_matches(verb, VERBS, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            say(f"error: no verb {verb!r}.{guess}\n\n{_usage()}", sys.stderr)
            return 2
        with _warnings_as_notes():
            if verb == "train":
                result = None
                train(rest)
            else:
                result = parsed(VERBS[verb], rest, f"qsft-robot {verb}")
    except SystemExit as stop:  # tyro's own, after --help and after a flag that it does not know
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        say(one_line(stop) or "interrupted", sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell reports it
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("QSFT_DEBUG"):
            raise
        said = explained(error) if isinstance(error, ImportError) else error
        say(f"error: {one_line(said)}", sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("QSFT_DEBUG"):
            raise
        files = ", ".join(word for word in rest if os.path.lexists(word)) or "no file"
        what = f"{type(error).__name__}: {error}"
        say(
            f"error: {UNEXPECTED} with {one_line(files)} ({one_line(what)}). This is a fault of "
            "qsft-robot, whatever the input: please report it, with what QSFT_DEBUG=1 shows.",
            sys.stderr,
        )
        return 2
    return int(result or 0)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print what this project warns of as a line for people, without the place in the source."""
    packages = {"qsft_robot", "sim", "tokenizers_action", "vlm"}
    usual, root = warnings.formatwarning, Path(__file__).parent.parent

    def written(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        place = Path(filename)
        own = place.is_relative_to(root) and place.relative_to(root).parts[0] in packages
        if own and category is UserWarning:
            return f"note: {one_line(message)}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = written
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _usage() -> str:
    wide, room = max(map(len, VERBS)), max(60, get_terminal_size().columns)
    lines = [
        textwrap.fill(
            f"  {verb:<{wide}}  {(f.__doc__ or '').splitlines()[0]}",
            room,
            subsequent_indent=" " * (wide + 4),
        )
        for verb, f in VERBS.items()
    ]
    return "\n".join(
        [
            "usage: qsft-robot <verb> [flags]",
            "",
            "From robot logs to a policy better than the logs, offline (Q-SFT).",
            "",
            *lines,
            "",
            "`qsft-robot <verb> --help` lists the flags of a verb. Start with `qsft-robot demo`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
