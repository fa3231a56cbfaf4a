"""The command line: `qsft-robot <verb>`; each verb is a function of this file or of verbs/."""

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
from typing import Any

from qsft_robot.extras import explained
from qsft_robot.printed_text import command, one_line, printable, say
from qsft_robot.trust import ALLOW_DOWNLOADS, TRUST_REMOTE_CODE, Trust
from qsft_robot.verbs.collect import collect
from qsft_robot.verbs.compare import compare
from qsft_robot.verbs.convert import export_lerobot, import_lerobot, merge, relabel
from qsft_robot.verbs.data import generate, inspect, playback
from qsft_robot.verbs.evaluate import evaluate
from qsft_robot.verbs.flat import import_npz
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
