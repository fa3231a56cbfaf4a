"""Repositories of the Hugging Face Hub: fetched into its cache, and written in one commit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from qsft_robot.extras import require_packages
from qsft_robot.hub.ids import HubId, hub_id, mistaken_owner
from qsft_robot.printed_text import one_line, say

Kind = Literal["model", "dataset"]

# What is fetched, by name: data, never code and nothing pickled. `*` goes into folders, too.
POLICY_FILES = (
    "*.json", "*.jsonl", "*.safetensors", "*.onnx", "*SHA256SUMS", "*.md", "*.txt", "*.jinja",
    "*.model",
)  # fmt: skip
SET_FILES = ("*.json", "*.jsonl", "*.parquet", "*.mp4")
EVALUATION_FILES = ("evaluation/*.json", "evaluation/*.jsonl")
_HIDDEN = (".*", "*/.*")
# Of these a repository may hold any beside a policy.
_BESIDE = (".gitattributes", "README.md", "LICENSE*")


def local_folder(
    path: str | Path, kind: Kind = "model", files: tuple[str, ...] | None = None
) -> Path:
    """The folder itself, or the one that a Hub id was fetched to; one line says what came.

    What is on disk is never looked up. Errors are one line: FileNotFoundError without such a
    repository or revision, PermissionError where it is gated or the token is refused,
    ConnectionError where the Hub is not reached, ImportError without huggingface_hub.
    """
    wanted = hub_id(path)
    if wanted is None:
        owner = mistaken_owner(path)
        if owner is not None:
            raise FileNotFoundError(
                f"{path}: no such folder; {owner} is one here, so the Hub is not asked. If a "
                f"repository of it is meant, write {path}@main."
            )
        return Path(path)
    return fetch(wanted, kind, files or (POLICY_FILES if kind == "model" else SET_FILES))


def fetch(wanted: HubId, kind: Kind, files: tuple[str, ...]) -> Path:
    """The snapshot of a repository in the Hub's cache, of files whose names `files` allow."""
    with _explained(wanted, kind):
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        place: dict[str, Any] = {"repo_type": kind, "revision": wanted.revision}
        how = ""
        try:
            info = HfApi().repo_info(wanted.name, **place)
            names = [file.rfilename for file in getattr(info, "siblings", None) or []]
            if not any(_allowed(name, files) for name in names):
                raise FileNotFoundError(
                    f"{wanted}: commit {info.sha} has no file of those that are read "
                    f"({' '.join(files)})."
                )
        except HfHubHTTPError:
            raise
        except OfflineModeIsEnabled:
            how = ", from the cache (HF_HUB_OFFLINE)"
        except HTTPError as error:
            how = f", from the cache ({constants.ENDPOINT} is not reached: {one_line(error)})"
        try:
            with _bars_for_terminals():
                found = snapshot_download(
                    wanted.name,
                    **place,
                    allow_patterns=list(files),
                    ignore_patterns=list(_HIDDEN),
                    local_files_only=bool(how),
                )
        except FileNotFoundError as error:  # the library's own, where the cache has not all of it
            raise ConnectionError(
                f"{wanted}: no such folder here, and not (wholly) in the Hub's cache either"
                f"{how.replace(', from the cache', '')}."
            ) from error
    folder = Path(found)
    count = sum(path.is_file() for path in folder.rglob("*"))
    say(f"{wanted}: {count} files of commit {folder.name}{how}", sys.stderr)
    return folder


def check_push(wanted: HubId, private: bool = False) -> None:
    """Raise what can be known before the work whose result is pushed: ValueError on a revision and
    as `push`, PermissionError without a token, ConnectionError where the Hub is not reached."""
    if wanted.revision is not None:
        raise ValueError(
            f"--push {wanted}: give owner/name; what is pushed goes to its main branch."
        )
    with _explained(wanted, "model"):
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise ConnectionError(f"--push {wanted}: HF_HUB_OFFLINE is set, so nothing is sent.")
        if get_token() is None:
            raise PermissionError(
                f"--push {wanted}: no token. Make one that may write at {constants.ENDPOINT}"
                "/settings/tokens, and set HF_TOKEN or run `hf auth login`."
            )
        _earlier(wanted, private)


def _earlier(wanted: HubId, private: bool) -> list[str] | None:
    """The files of a repository that a policy may go to, None where there is no repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = HfApi().model_info(wanted.name)
    except RepositoryNotFoundError:
        return None
    names = [file.rfilename for file in info.siblings or []]
    others = [name for name in names if not _allowed(name, _BESIDE)]
    if others and not {"policy.json", "SHA256SUMS"} <= set(others):
        raise ValueError(
            f"--push {wanted}: that repository holds something else ({others[0]}, no policy.json), "
            "which is not replaced. Give the name of a new one."
        )
    if private and not info.private:
        raise ValueError(
            f"--push {wanted} --private: that repository is public already; change that in its "
            "settings, or give the name of a new one."
        )
    return names


def push(folder: Path, wanted: HubId, private: bool = False) -> str:
    """Make the repository hold the policy folder, in one commit; its address and the commit.

    A repository that is not there is created. ValueError where it holds something else than a
    policy, where it is public and `private` is asked for, and on a file that would not be fetched.
    """
    there = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    unread = [name for name in there if not _allowed(name, POLICY_FILES)]
    if unread:
        raise ValueError(
            f"{folder}: {unread[0]} is no file that is fetched from the Hub (code never is; there "
            f"are {' '.join(POLICY_FILES)}), so the policy would not open there."
        )
    with _explained(wanted, "model"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, earlier = HfApi(), _earlier(wanted, private)
        if earlier is None:
            api.create_repo(wanted.name, private=private, exist_ok=True)
        # The sums list every file, so files of the policy before it have to go.
        gone = [n for n in earlier or [] if n not in there and _allowed(n, POLICY_FILES)]
        with _bars_for_terminals():
            done = api.create_commit(
                wanted.name,
                [
                    *(CommitOperationDelete(name) for name in gone),
                    *(CommitOperationAdd(name, folder / name) for name in there),
                ],
                commit_message="Policy by qsft-robot",
            )
        return f"{api.endpoint}/{wanted}: commit {done.oid}"


def _allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@contextmanager
def _bars_for_terminals() -> Iterator[None]:
    """Leave the library's progress bars out of what is written to a file or a pipe."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()


@contextmanager
def _explained(wanted: HubId, kind: Kind) -> Iterator[None]:
    """Turn the library's errors into one line that names the repository and what helps."""
    require_packages(f"{wanted}: no such folder here; a repository of the Hub", "huggingface_hub")
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = constants.ENDPOINT
    page = f"{hub}/{'datasets/' if kind == 'dataset' else ''}{wanted.name}"
    token = "set HF_TOKEN or run `hf auth login`"
    try:
        yield
    except GatedRepoError as error:
        ask = "" if get_token() else f", then {token}"
        raise PermissionError(
            f"{wanted}: gated: its owner decides who gets it. Ask for it at {page}{ask}."
        ) from error
    except RepositoryNotFoundError as error:
        private = "this token does not show it" if get_token() else f"{token} if it is private"
        raise FileNotFoundError(
            f"{wanted}: no such folder here, and {hub} has no {kind} repository of that name "
            f"({private})."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{wanted}: {page} has no branch, tag or commit {wanted.revision or 'main'!r}."
        ) from error
    except HfHubHTTPError as error:
        code, said = error.response.status_code, error.server_message or one_line(error)
        if code in (401, 403):
            raise PermissionError(
                f"{wanted}: {hub} refuses ({code}: {one_line(said)}). Take a token that may do "
                f"this: {token}."
            ) from error
        raise ConnectionError(f"{wanted}: {hub} answers {code}: {one_line(said)}") from error
    except HTTPError as error:
        raise ConnectionError(
            f"{wanted}: {hub} is not reached, or broke off ({one_line(error)})."
        ) from error
