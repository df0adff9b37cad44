import pytest

from training.errors import InputError
from training.toml_file import read_toml


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.toml").write_text('[mail]\nname = "é"\n', encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"mail": {"name": "é"}}


@pytest.mark.parametrize("content", [b"[mail", b"\xff\xfe", b"x = " + b"9" * 5000, b"x = " + b"[" * 100_000])
def test_what_is_no_toml_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.toml is not valid TOML: [^\n]*[^.\n]\.$"):
        read_toml(path)


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml does not exist\. Write one\.$"):
        read_toml(tmp_path / "none.toml", "Write one.")
    with pytest.raises(InputError, match=r"none\.toml does not exist\.$"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory\.$"):
        read_toml(tmp_path)
