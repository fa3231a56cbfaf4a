"""The Parquet files of a LeRobot data set, read and written one episode at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from qsft_robot.lerobot.columns import check_order, numbers, place
from qsft_robot.lerobot.format import (
    DATA_MB,
    FILES_OF_A_CHUNK,
    FRAME_INDEX,
    INFO,
    DataSet,
    named_by,
)


def episode_columns(
    data: DataSet, columns: Sequence[str], episodes: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """The description and the columns of one episode after the other, in the order of the files:
    column -> numpy [t, ...], a list of bytes for images.

    Files are read a few rows at a time. ValueError when an episode's rows are not those that its
    description tells.
    """
    wanted = {row["episode_index"]: row for row in episodes}
    files = dict.fromkeys(data.file("data", row) for row in episodes)
    for file in files:
        yield from _episodes_of(data, file, columns, wanted)
    for number, row in wanted.items():
        raise ValueError(
            f"{data.file('data', row)}: no rows of episode {number}, which its description places "
            "there. The data set is damaged; download it again."
        )


def _episodes_of(
    data: DataSet, file: Path, columns: Sequence[str], wanted: dict[int, Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """The episodes of one file, each taken out of `wanted`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with named_by(file):
        parquet = pq.ParquetFile(file)
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise ValueError(
                f"{file}: no column {missing[0]!r}, which {data.folder / INFO} lists. Columns: "
                f"{', '.join(parquet.schema_arrow.names)}."
            )
        pieces: dict[int, list[Any]] = {}
        for batch in parquet.iter_batches(batch_size=256, columns=[*columns, "episode_index"]):
            numbers = batch.column("episode_index").to_numpy()
            for number in np.unique(numbers):
                if number in wanted:
                    pieces.setdefault(int(number), []).append(
                        batch.filter(pa.array(numbers == number))
                    )
            # Rows stand in the order of the episodes: what has a later one is complete.
            for number in sorted(n for n in pieces if n < numbers[-1]):
                row = wanted.pop(number)
                yield row, _columns(data, file, pieces.pop(number), columns, row)
        for number in sorted(pieces):
            row = wanted.pop(number)
            yield row, _columns(data, file, pieces[number], columns, row)


def _columns(
    data: DataSet, file: Path, pieces: Sequence[Any], columns: Sequence[str], row: Mapping[str, Any]
) -> dict[str, Any]:
    import pyarrow as pa

    table = pa.Table.from_batches(pieces)
    if table.num_rows != row["length"]:
        raise ValueError(
            f"{file}: {table.num_rows} rows of episode {row['episode_index']}, whose description "
            f"tells {row['length']}. The data set is damaged; download it again."
        )
    found: dict[str, Any] = {}
    for name in columns:
        column = table.column(name).combine_chunks()
        where = place(file, name, row["episode_index"])
        if column.null_count:
            raise ValueError(f"{where} has empty entries.")
        if pa.types.is_struct(column.type):
            found[name] = column.field("bytes").to_pylist()
            continue
        found[name] = numbers(where, column)
        feature = data.features.get(name)
        if feature is not None and found[name].shape[1] != math.prod(feature.shape):
            raise ValueError(
                f"{where} has {found[name].shape[1]} numbers a frame, but {data.folder / INFO} "
                f"tells {list(feature.shape)}: one of them is another set's."
            )
    if FRAME_INDEX in found:
        check_order(place(file, FRAME_INDEX, row["episode_index"]), found[FRAME_INDEX])
    return found


class ParquetFiles:
    """Parquet files that a data set is cut into, a new one where one gets large."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._folder, self._pattern = folder, pattern
        self._writer: Any = None
        self._number = -1

    def place(self) -> dict[str, int]:
        """Where the next table goes: chunk_index and file_index."""
        if self._writer is None or self._path().stat().st_size >= DATA_MB << 20:
            self.close()
            self._number += 1
        return {
            "chunk_index": self._number // FILES_OF_A_CHUNK,
            "file_index": self._number % FILES_OF_A_CHUNK,
        }

    def write(self, table: Any) -> None:
        """Write a table to the place that `place` told."""
        import pyarrow.parquet as pq

        if self._writer is None:
            self._path().parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path(), table.schema, compression="snappy")
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the file that is open."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def __enter__(self) -> ParquetFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _path(self) -> Path:
        return self._folder / self._pattern.format(
            chunk_index=self._number // FILES_OF_A_CHUNK, file_index=self._number % FILES_OF_A_CHUNK
        )


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the tasks as pandas would: task_index as a column, the words as the index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = "__index_level_0__"

    def column(name: str | None, field: str, kind: str, numpy: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": field,
            "pandas_type": kind,
            "numpy_type": numpy,
            "metadata": None,
        }

    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            column("task_index", "task_index", "int64", "int64"),
            column(None, index, "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": np.arange(len(tasks)), index: list(tasks)})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)
