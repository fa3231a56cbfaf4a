"""Text commands as word tokens, each closed by an end token, within the commands of each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from tokenizers_action.arrays import Array, Bool, Int64

# The token that closes a command, and fills it up to n tokens: "go to cabinet 1" begins "go to
# cabinet 10", so without it the longer command could never be told from the shorter.
END = 0
# Sets of commands that a tokenizer remembers the ids of.
_MAX_SETS = 200_000


class CommandTokenizer:
    """A command of up to n - 1 words to n ids: its words, then `END` to the last place.

    Actions are text, object [b, 1] of str (horizon 1, action_dim 0). By itself the tokenizer takes
    any words in any order; `within` binds it to the commands that may be given in each row.
    `free`: policies decode with the tokenizer by itself. `closed`: the only commands that it then
    says, whichever row it is.
    """

    kind: ClassVar[str] = "commands"

    def __init__(
        self,
        words: Sequence[str],
        n_tokens: int,
        free: bool = False,
        closed: Sequence[str] = (),
    ) -> None:
        if n_tokens < 2:
            raise ValueError(
                f"a command needs a word and its end, so n_tokens >= 2, got {n_tokens}."
            )
        wrong = [word for word in words if word.split() != [word]]
        if wrong or not words or len(set(words)) < len(words):
            raise ValueError(
                "a word vocabulary is one or more different words without spaces, got "
                f"{wrong[:3] or list(words)[:5]}."
            )
        self.words, self.closed = tuple(words), tuple(closed)
        self.free = free or bool(self.closed)
        self._n = n_tokens
        self._id_of = {word: i + 1 for i, word in enumerate(words)}
        self._known: dict[str, Array | None] = {}
        self._sets: dict[str, Array] = {}
        # What may follow each beginning of a closed command: ids as bytes -> bool [v].
        self._after: dict[bytes, Array] = {}
        for command in self.closed:
            ids = self._ids(command)
            if ids is None:
                raise ValueError(self._reason(command))
            for i in range(n_tokens):
                none = np.zeros(self.vocab_size, bool)
                self._after.setdefault(ids[:i].tobytes(), none)[ids[i]] = True

    @classmethod
    def fit(
        cls, commands: Iterable[str], *, free: bool = False, closed: bool = False, **_: object
    ) -> CommandTokenizer:
        """The words of all commands, in alphabetical order, and places for the longest one.
        `closed`: these commands are all that there are."""
        known = list(dict.fromkeys(commands))
        split = [command.split() for command in known]
        words = sorted({word for command in split for word in command})
        longest = max((len(command) for command in split), default=0)
        return cls(words, 1 + longest, free, sorted(known) if closed else ())

    @property
    def vocab_size(self) -> int:
        return 1 + len(self.words)

    @property
    def n_tokens(self) -> int:
        return self._n

    @property
    def horizon(self) -> int:
        return 1

    @property
    def action_dim(self) -> int:
        return 0

    def encode(self, actions: Array) -> Int64[Array, "b n"]:
        """Ids of commands, object [b, 1] of str; ValueError on a wrong shape, a word that is not in
        the vocabulary, a command that is empty or too long, or spaces that ids would lose."""
        actions = np.asarray(actions)
        if actions.ndim != 2 or actions.shape[1] != 1 or actions.dtype != object:
            raise ValueError(
                f"commands of shape {actions.shape} and dtype {actions.dtype}; this tokenizer "
                "takes object [b, 1] of str."
            )
        found = [self._ids(command) for command in actions[:, 0]]
        for command, ids in zip(actions[:, 0], found, strict=True):
            if ids is None:
                raise ValueError(self._reason(command))
        return np.array(found, np.int64).reshape(len(actions), self._n)

    def decode(self, ids: Int64[Array, "b n"]) -> Array:
        """The commands, object [b, 1] of str; ValueError on a wrong shape, an id without a word, or
        ids that are not words, then `END` to the last place."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.shape[1] != self._n:
            raise ValueError(f"Ids have shape {ids.shape}; expected [b, n={self._n}].")
        lengths = (ids != END).sum(1)
        closed = (ids != END) == (np.arange(self._n) < lengths[:, None])
        illegal = (ids < 0) | (ids >= self.vocab_size) | ~closed
        illegal |= ((lengths == 0) | (lengths == self._n))[:, None]
        if illegal.any():
            row = int(np.argwhere(illegal)[0][0])
            raise ValueError(
                f"the ids {ids[row].tolist()} (row {row}) are not a legal command: 1 to "
                f"{self._n - 1} words with ids 1 to {len(self.words)}, then {END}. Mask the logits "
                "with legal_tokens before choosing."
            )
        found = np.empty((len(ids), 1), object)
        for i, (row, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
            found[i, 0] = " ".join(self.words[k - 1] for k in row[:length])
        return found

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """Which ids may follow where any command may be given: a word first, then words or the end,
        and after the end, or at the last place, only the end. Of a closed tokenizer those that go
        on to one of its commands; ValueError for a prefix that none of them has."""
        batch, position = self._position(prefix)
        if self.closed:
            return self._legal_closed(np.ascontiguousarray(prefix, np.int64))
        legal = np.ones((batch, self.vocab_size), bool)
        legal[:, END] = position > 0
        over = (prefix == END).any(1) | (position == self._n - 1)
        legal[over] = np.arange(self.vocab_size) == END
        return legal

    def real_tokens(
        self, ids: Int64[Array, "b n"], actions: Int64[Array, " b"]
    ) -> Bool[Array, "b n"]:
        """The words and the end that closes them; False on what only fills up."""
        closed = np.cumsum(ids == END, axis=1) - (ids == END) > 0
        return ~closed & (np.asarray(actions)[:, None] > 0)

    def within(self, admissible: Sequence[str]) -> BoundCommands:
        """The tokenizer bound to rows, each with its own commands, one a line.

        Commands with a word that is not in the vocabulary, or too long, can't be said and are left
        out; ValueError, with the row, where none is left.
        """
        texts = list(dict.fromkeys(admissible))
        number = {text: i for i, text in enumerate(texts)}
        sets = [self._set(text) for text in texts]
        for text, ids in zip(texts, sets, strict=True):
            if not len(ids):
                lines = text.split("\n")
                raise ValueError(
                    f"row {list(admissible).index(text)}: none of its {len(lines)} commands can be "
                    f"said; the first: {self._reason(lines[0])}"
                )
        index = np.array([number[text] for text in admissible], np.int64)
        return BoundCommands(self, sets, index)

    def to_json(self) -> dict[str, Any]:
        """kind, words, n_tokens, free, and the closed commands where it has such."""
        return {
            "kind": self.kind,
            "words": list(self.words),
            "n_tokens": self._n,
            "free": self.free,
            **({"closed": list(self.closed)} if self.closed else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CommandTokenizer:
        """The tokenizer that `to_json` described; ValueError when it is of another kind."""
        if value.get("kind") != cls.kind:
            raise ValueError(
                f"This describes a tokenizer of kind {value.get('kind')!r}; "
                f"{cls.__name__} reads kind {cls.kind!r}."
            )
        closed = value.get("closed", ())
        return cls(value["words"], int(value["n_tokens"]), bool(value["free"]), closed)

    def __repr__(self) -> str:
        of = f", {len(self.closed)} commands" if self.closed else f", free={self.free}"
        return f"CommandTokenizer({len(self.words)} words, n_tokens={self._n}{of})"

    def _position(self, prefix: Array) -> tuple[int, int]:
        batch, position = prefix.shape
        if position >= self._n:
            raise ValueError(f"The prefix has {position} ids, but a decision has {self._n} tokens.")
        return batch, position

    def _legal_closed(self, prefix: Array) -> Array:
        found = np.empty((len(prefix), self.vocab_size), bool)
        for row, ids in enumerate(prefix):
            after = self._after.get(ids.tobytes())
            if after is None:
                raise ValueError(
                    f"row {row}: the prefix {ids.tolist()} begins none of the "
                    f"{len(self.closed)} commands."
                )
            found[row] = after
        return found

    def _ids(self, command: str) -> Array | None:
        """Ids [n] of a command, or None where it can't be said."""
        if command not in self._known:
            if len(self._known) >= _MAX_SETS:
                self._known.clear()
            words = command.split()
            ids = [self._id_of.get(word, -1) for word in words]
            sayable = 0 < len(words) < self._n and min(ids) > 0 and " ".join(words) == command
            padded = np.array(ids + [END] * (self._n - len(ids)), np.int64)
            self._known[command] = padded if sayable else None
        return self._known[command]

    def _reason(self, command: str) -> str:
        words = command.split()
        strange = [word for word in words if word not in self._id_of]
        if strange:
            return (
                f"the command {command!r} has the word {strange[0]!r}, which is none of the "
                f"{len(self.words)} words of the vocabulary (those of the logs)."
            )
        return (
            f"the command {command!r} is not 1 to {self._n - 1} words with single spaces between."
        )

    def _set(self, text: str) -> Array:
        """Ids [m, n] of the commands of a text that can be said."""
        if text not in self._sets:
            if len(self._sets) >= _MAX_SETS:
                self._sets.clear()
            found = [ids for line in text.split("\n") if (ids := self._ids(line)) is not None]
            ids = np.array(found, np.int32).reshape(-1, self._n)
            self._sets[text] = ids.astype(np.int16) if self.vocab_size < 2**15 else ids
        return self._sets[text]


class BoundCommands:
    """A CommandTokenizer bound to b rows: the same map, and legal sets by each row's own commands
    (their trie, walked by comparing prefixes). `rows[index]` binds to some of them."""

    def __init__(self, tokenizer: CommandTokenizer, sets: Sequence[Array], index: Array) -> None:
        self.tokenizer, self.index = tokenizer, index
        self.vocab_size, self.n_tokens = tokenizer.vocab_size, tokenizer.n_tokens
        self.horizon, self.action_dim = tokenizer.horizon, tokenizer.action_dim
        self.encode, self.decode = tokenizer.encode, tokenizer.decode
        self.to_json, self.from_json = tokenizer.to_json, tokenizer.from_json
        self.real_tokens, self.fit = tokenizer.real_tokens, tokenizer.fit
        self._sets = sets
        self._flat: tuple[Array, Array] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Array) -> BoundCommands:
        return BoundCommands(self.tokenizer, self._sets, self.index[rows])

    def legal_tokens(self, prefix: Int64[Array, "b i"]) -> Bool[Array, "b v"]:
        """Which ids go on from the prefix to a command of the row; ValueError, naming the row, for
        a prefix that none of its commands has."""
        batch, position = self.tokenizer._position(prefix)
        if batch != len(self):
            raise ValueError(f"a prefix of {batch} rows, but this is bound to {len(self)} rows.")
        row, ids = self._commands()
        alive = (ids[:, :position] == prefix[row]).all(1)
        legal = np.zeros((batch, self.vocab_size), bool)
        legal[row[alive], ids[alive, position]] = True
        if not legal.any(1).all():
            lost = int(np.argmin(legal.any(1)))
            raise ValueError(
                f"row {lost}: the prefix {prefix[lost].tolist()} begins none of its "
                f"{int((row == lost).sum())} commands."
            )
        return legal

    def _commands(self) -> tuple[Array, Array]:
        """All commands of all rows: the row of each, [m], and its ids, [m, n]."""
        if self._flat is None:
            sets = [self._sets[i] for i in self.index]
            row = np.repeat(np.arange(len(sets)), [len(ids) for ids in sets])
            self._flat = row, np.concatenate(sets)
        return self._flat
