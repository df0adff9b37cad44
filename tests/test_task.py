from dataclasses import FrozenInstanceError

import pytest
from pydantic import ValidationError

from training.errors import InputError
from training.task import read_task

HEAD = '[task]\nname = "mail"\nclasses = ["ham", "spam"]\n'
DATA = '[data]\npath = "data.csv"\n'


def test_a_task_is_read_with_its_defaults(write_task):
    task = read_task(write_task("", toml=HEAD + DATA + '[about]\nlicence = "any"\n[[sources]]\nname = "rule"\n'))
    assert (task.name, task.classes, task.data_path.name) == ("mail", ("ham", "spam"), "data.csv")
    assert (task.data.id, task.data.text, task.data.answer, task.data.votes) == ("id", "text", "answer", "votes")
    assert task.data.label is task.data.split is task.sources_path is None
    assert (task.sources[0].name, task.sources[0].family) == ("rule", "rule")
    assert task.about == {"licence": "any"}


def test_a_task_cannot_be_changed(write_task):
    task = read_task(write_task("", toml=HEAD + DATA))
    with pytest.raises((ValidationError, FrozenInstanceError)):
        task.data.label = "gold"


@pytest.mark.parametrize(
    ("toml", "found"),
    [
        (HEAD + 'colour = "red"\n' + DATA, "unknown key 'task.colour'"),
        (HEAD + DATA + 'colour = "red"\n', "unknown key 'data.colour'"),
        ("colour = 1\n" + HEAD + DATA, "unknown key 'colour'"),
        ('folder = "/"\n' + HEAD + DATA, "unknown key 'folder'"),
        (HEAD + DATA + '[[sources]]\nname = "a"\nfamiliy = "b"\n', r"unknown key 'sources\.0\.familiy'"),
        (HEAD, "the key 'data' is missing"),
        (DATA, "the key 'task' is missing"),
        (HEAD + "[data]\n", r"the key 'data\.path' is missing"),
        (HEAD + DATA + "[[sources]]\n", r"the key 'sources\.0\.name' is missing"),
        ('[task]\nname = "mail"\n' + DATA, r"the key 'task\.classes' is missing"),
        ('[task]\nname = "mail"\nclasses = ["ham"]\n' + DATA, "at least two classes. Found 1"),
        ('[task]\nname = "mail"\nclasses = []\n' + DATA, "at least two classes. Found 0"),
        ('[task]\nname = "mail"\nclasses = ["ham", "ham"]\n' + DATA, "distinct names. Found 'ham' twice"),
        ('[task]\nname = "mail"\nclasses = "ham"\n' + DATA, r"'task\.classes'"),
        ('[task]\nname = "mail"\nclasses = ["ham", ""]\n' + DATA, r"'task\.classes\.1'"),
        ('[task]\nname = "mail"\nclasses = ["ham", "a\\nb"]\n' + DATA, r"'task\.classes\.1'"),
        ('[task]\nname = "../mail"\nclasses = ["ham", "spam"]\n' + DATA, r"'task\.name'"),
        (HEAD + DATA + '[[sources]]\nname = "a"\n[[sources]]\nname = "a"\n', "distinct names. Found 'a' twice"),
        (HEAD + DATA + '[[sources]]\nname = "LLM"\n', "distinct names. Found 'LLM' twice"),
        (HEAD + '[data]\npath = "a\\u0000b"\n', r"'data\.path'"),
        ("[task", "is not valid TOML"),
        ("é".encode("latin-1"), "is not valid TOML"),
    ],
)
def test_a_bad_task_is_one_line_that_names_the_key(write_task, toml, found):
    folder = write_task("", toml=HEAD)
    (folder / "task.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(InputError, match=found) as refusal:
        read_task(folder)
    assert "\n" not in str(refusal.value) and str(folder) in str(refusal.value)


def test_a_folder_without_a_task_and_a_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"does not exist\. A task is a folder"):
        read_task(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_task(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        read_task(tmp_path / "file")
