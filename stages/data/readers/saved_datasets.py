"""Data sets in the layout of `datasets.save_to_disk`, read as plain Arrow files.

They are not opened by `datasets`: the JSON beside the files may name paths outside the folder, and a damaged file may
end the process. Every record batch is checked before it is used, and nothing in the folder is executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.core.errors import DataError
from schemas.core.regular_files import check_regular
from schemas.core.wording import printable
from stages.data.readers.files import check_column

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_MAX_JSON_BYTES = 10 << 20
# A writer makes batches of a thousand rows; no more than these bytes are held in memory at once.
MAX_BATCH_BYTES = 256 << 20
_COMPRESSION = 3
"""Field of a record batch's metadata that describes compressed buffers (Arrow's Message.fbs)."""
_HEADER = 2


def is_saved(folder: Path) -> bool:
    """Return whether a folder is a data set written by `save_to_disk`."""
    return (folder / STATE).is_file() and (folder / INFO).is_file()


def saved_split(folder: Path, where: str) -> Path | None:
    """Return the training split's folder if several splits were saved together, otherwise None.

    Raises:
        DataError: there is no training split.
    """
    if not (folder / SPLITS).is_file():
        return None
    if is_saved(folder / "train"):
        return folder / "train"
    splits = sorted(path.name for path in folder.iterdir() if is_saved(path))
    raise DataError(f"{where}: {folder} holds the splits {', '.join(splits) or 'none'}; give the folder of one of them")


def saved_files(folder: Path, where: str) -> list[Path]:
    """Return the Arrow files of a saved data set, in order.

    Raises:
        DataError: its description cannot be read, or names anything but files in the folder.
    """
    file = folder / STATE
    try:
        check_regular(file, where)
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is larger than a description can be")
        names = [entry["filename"] for entry in json.loads(file.read_bytes())["_data_files"]]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("it names files outside its folder")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = printable(str(error) or type(error).__name__, 200)
        raise DataError(f"{where}: {file} is not what save_to_disk writes ({cause}); save the data set again") from None
    for name in names:
        check_regular(folder / name, where)
        if not (folder / name).is_file():
            raise DataError(f"{where}: {folder / name} is missing; save the data set again")
    return [folder / name for name in names]


def saved_batches(path: Path, columns: list[str], where: str) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a saved Arrow file, one record batch at a time.

    Raises:
        DataError: the file is damaged, has compressed buffers, or has no such column.
    """
    try:
        _check_messages(path)
        with pa.OSFile(str(path)) as file:
            schema = pa.ipc.open_stream(file).schema
            indices = [schema.get_field_index(column) for column in columns]
            if min(indices) < 0:
                check_column(schema.names, columns[indices.index(-1)], where)
            file.seek(0)
            options = pa.ipc.IpcReadOptions(included_fields=indices)
            for batch in pa.ipc.open_stream(file, options=options):
                batch.validate(full=True)
                yield batch.select(columns)
    except (OSError, ValueError, struct.error, pa.ArrowException) as error:
        cause = printable(" ".join(str(error).split()), 200)
        raise DataError(f"{where}: {path} cannot be read ({cause}); save the data set again") from None


def _check_messages(path: Path) -> None:
    """Refuse batches that would take much memory, by their metadata alone."""
    with pa.memory_map(str(path)) as file:
        reader: Any = pa.ipc.MessageReader.open_stream(file)
        for message in reader:
            if message.type != "record batch":
                continue
            if message.body is not None and message.body.size > MAX_BATCH_BYTES:
                raise ValueError(f"a batch of rows has more than {MAX_BATCH_BYTES >> 20} MB")
            if _is_packed(message.metadata.to_pybytes()):
                raise ValueError("its buffers are compressed")


def _is_packed(metadata: bytes) -> bool:
    """Return whether a record batch's buffers are compressed, by its flatbuffer."""
    message = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, message, _HEADER)
    if header is None:
        raise ValueError("a message has no header")
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, _COMPRESSION) is not None


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Return the offset of a field of a flatbuffer's table; None if the field is absent."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, fields)[0]
    entry = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, fields + entry)[0] if entry < size else 0
    return table + offset if offset else None
