"""The command line in this process: what a command prints, and how it ends."""

import json
import os
import sys

import pytest

import polarscore


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        assert self.code in (0, 1), self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    def refused(self, code=2):
        assert self.code == code, (self.out, self.err)
        assert self.err.startswith("polarscore: ") and self.err.count("\n") == 1, self.err
        return self.err


def runner(monkeypatch, capfd):
    """What runs a command, given its words."""

    def run(*arguments):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["polarscore", *map(str, arguments)])
            patch.setattr(os, "environ", os.environ.copy())  # MLflow leaves its URI there
            with pytest.raises(SystemExit) as end:
                polarscore.main()
        return Ran(end.value.code, *capfd.readouterr())

    return run
