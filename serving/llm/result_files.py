"""What the resulting task needs of the task's folder beside its data: sources.py, what that reads, and passages."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from training.errors import InputError
from training.sources import load_labelling_functions
from training.task import Task

TASK = "task.toml"
LARGEST = 1 << 20  # bytes of a file that comes along with sources.py
MOST_FILES = 200


def copy_needed(task: Task, building: Path, others: bool) -> set[str]:
    """Copy what the result needs of the task's folder; the names of what was copied.

    others: with a sources.py, also the other small files, which it may read.
    """
    needed = {source.passages for source in (task.ask.sources if task.ask else ()) if source.passages}
    needed |= {task.sources_path.name} if task.sources_path else set()
    if task.sources_path and others:
        needed |= set(_small_files(task.folder, task.data_path))
    for name in sorted(needed - {TASK}):
        (building / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(task.folder / name, building / name)
    return needed


def _small_files(folder: Path, data: Path) -> Iterator[str]:
    """The files of a task's folder that are no data: at most `LARGEST` bytes, not hidden, in no other task's folder."""
    left = MOST_FILES
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders
                            if name[0] not in "._" and not (here / name / TASK).exists())
        for path in (here / name for name in sorted(files) if name[0] != "."):
            small = path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST
            if small and left and path != data and path.suffix not in (".pyc", ".parquet"):
                left -= 1
                yield str(path.relative_to(folder))


def check_sources(task: Task, building: Path) -> None:
    """Hold that the copy of sources.py runs in its new folder.

    Raises:
        InputError: it does not: it reads a file that did not come along.
    """
    if task.sources_path is None:
        return
    try:
        load_labelling_functions(building / task.sources_path.name)
    except InputError as error:
        why = str(error.__cause__ or error).replace(f"{building}{os.sep}", "")
        raise InputError(f"{task.sources_path} runs in its own folder alone, and not in the result's: {why}. Files "
                         f"beside it of at most {LARGEST >> 20} MiB come along; or add the answers to the task itself, "
                         f"with --out {task.folder} --replace.") from error
