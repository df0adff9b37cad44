"""The raw rows of a data file: Parquet, JSON Lines or CSV, read whole and without guessing."""

import csv
import gzip
import io
import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import InputError


def read_rows(path: Path) -> pd.DataFrame:
    """The raw rows of a Parquet, JSON Lines (.jsonl, .json) or CSV file, gzipped or not, by its ending.

    CSV cells stay strings, an empty one meaning "nothing here". No row is dropped or reordered.

    Raises:
        InputError: no such file, another format, corrupt compression, a broken line.
    """
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path} is not a whole gzip file. Was its download cut short?") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    if not raw.strip():
        raise InputError(f"{path} is empty. Expected at least one row.")
    match kind:
        case "jsonl" | "json" | "ndjson":
            return _read_json_lines(raw, path)
        case "csv":
            return _read_csv(raw, path)
        case "parquet":
            try:
                return pq.read_table(pa.BufferReader(raw)).to_pandas()
            except (pa.ArrowException, OSError):
                raise InputError(f"{path} is not a Parquet file that can be read.") from None
    raise InputError(f"{path} has an unknown format. Expected .parquet, .jsonl or .csv, the last two also gzipped.")


def _read_json_lines(raw: bytes, path: Path) -> pd.DataFrame:
    rows = []
    try:
        for number, line in enumerate(raw.decode("utf-8-sig").split("\n"), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number} should be a JSON object. Found {type(row).__name__}.")
                rows.append(row)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number} is not valid JSON: {error.msg}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}, line {number} is JSON with too long a number or too deep a nesting.") from None
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _read_csv(raw: bytes, path: Path) -> pd.DataFrame:
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters allowed at first
    try:
        header, *rows = filter(None, csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8.") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file that can be read: {error}.") from None
    except ValueError:
        raise InputError(f"{path} is empty. Expected a header and at least one row.") from None
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path} has two columns named '{twice}'.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number} should have {len(header)} cells, as the header. Found {len(row)}.")
    return pd.DataFrame(rows, columns=header, dtype=object)


def parsed(value: Any) -> Any:
    """A cell's votes or spans; JSON where a format holds strings only."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
