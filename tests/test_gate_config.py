import re

import pytest
from pydantic import ValidationError

from registry.gate_config import DEFAULT, GateConfig, Named, gates_file, read_gates
from training.errors import InputError
from training.state import State

PRODUCTION = "[production.gates.{}]\n{}"


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "gates.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_the_default_file_has_every_gate_before_production_and_those_that_need_no_champion_before_staging():
    config = read_gates()
    assert set(config.production.gates.standing) == set(Named.model_fields)
    assert set(config.staging.gates.standing) == {"sound", "coverage", "loads", "reload", "signature", "requirements"}
    for way in (config.staging, config.production):
        assert (way.unknown, way.split, way.min_labelled, way.task) == ("pass", "valid", 30, None)
        assert not any(map(way.blocks, way.gates.standing))
    assert config.production.gates.ece.margin == 0.02 and config.production.gates.ece.limit is None


def test_every_line_of_the_default_file_that_is_commented_out_can_be_used(written):
    lines = DEFAULT.read_text().splitlines()
    used = [re.sub(r"^# (?=\w+ = )", "", line) for line in lines]
    assert sum(one != other for one, other in zip(lines, used, strict=True)) >= 4
    config = read_gates(written("\n".join(used)))
    assert config.staging.gates.coverage.drop == 0.1 and config.production.gates.ece.limit == 0.1
    assert config.staging.blocks("sound") and not config.staging.blocks("coverage")


def test_a_file_says_what_counts(written):
    config = read_gates(written('[staging]\nunknown = "block"\nsplit = "test"\nmin_labelled = 5\n'
                                '[staging.gates.ece]\nmargin = 0\nlimit = 1\nunknown = "pass"\n'
                                "[staging.gates.loads]\n"))
    assert config.production.gates.standing == {}
    assert (config.staging.split, config.staging.min_labelled) == ("test", 5)
    assert (config.staging.blocks("ece"), config.staging.blocks("loads")) == (False, True)
    assert (config.staging.gates.ece.margin, config.staging.gates.ece.limit) == (0.0, 1.0)


def test_a_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        read_gates().production.split = "test"


def test_a_task_is_named_from_where_the_file_is(written, tmp_path):
    config = read_gates(written('[staging]\ntask = "tasks/audited"\n[production]\ntask = "/data/task"\n'))
    assert config.staging.task == tmp_path / "tasks" / "audited"
    assert str(config.production.task) == "/data/task"


def test_the_state_folders_file_counts_before_the_packages(tmp_path):
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path)})
    assert gates_file(state) == DEFAULT
    (tmp_path / "gates.toml").write_text("")
    assert gates_file(state) == tmp_path / "gates.toml"
    assert read_gates(gates_file(state)) == GateConfig()


@pytest.mark.parametrize(("content", "message"), [
    ("[canary]\n", "unknown transition 'canary'. Expected one of staging, production"),
    ("unknown = 'pass'\n", "unknown transition 'unknown'"),
    ("production = 3\n", "'production': expected a table. Found 3"),
    ("[production]\nmargin = 0.1\n", "'production': unknown key 'margin'. Expected one of unknown, task, split, min"),
    ("[production]\ngates = []\n", "'production.gates': expected a table. Found []"),
    ("[production]\nunknown = 'maybe'\n", "'production.unknown': expected one of pass, block. Found 'maybe'"),
    ("[production]\nunknown = true\n", "'production.unknown': expected one of pass, block. Found true"),
    ("[production]\nsplit = 'dev'\n", "'production.split': expected one of train, valid, test. Found 'dev'"),
    ("[production]\nsplit = ['valid']\n", "expected one of train, valid, test. Found ['valid']"),
    ("[production]\ntask = 3\n", "'production.task': expected the path of a task's folder. Found 3"),
    ("[production]\ntask = ' '\n", "expected the path of a task's folder. Found ' '"),
    ("[production]\nmin_labelled = 0\n", "'production.min_labelled': expected a whole number of at least 1. Found 0"),
    ("[production]\nmin_labelled = 30.5\n", "expected a whole number of at least 1. Found 30.5"),
    ("[production]\nmin_labelled = true\n", "expected a whole number of at least 1. Found true"),
    (PRODUCTION.format("eec", ""), "'production.gates': unknown gate 'eec'. Expected one of sound, agreement, drift"),
    (PRODUCTION.format("ece", "margn = 0.1"),
     "'production.gates.ece': unknown key 'margn'. Expected one of unknown, margin, limit"),
    (PRODUCTION.format("loads", "margin = 0.1"), "'production.gates.loads': unknown key 'margin'. Expected one of unk"),
    (PRODUCTION.format("ece", ""), "the key 'production.gates.ece.margin' is missing"),
    ("[production.gates]\nece = 0.02\n", "'production.gates.ece': expected a table. Found 0.02"),
    (PRODUCTION.format("ece", "margin = -0.1"),
     "'production.gates.ece.margin': expected a share from 0 to 1. Found -0.1"),
    (PRODUCTION.format("ece", "margin = 1.5"), "expected a share from 0 to 1. Found 1.5"),
    (PRODUCTION.format("ece", "margin = nan"), "expected a share from 0 to 1. Found nan"),
    (PRODUCTION.format("ece", "margin = inf"), "expected a share from 0 to 1. Found inf"),
    (PRODUCTION.format("ece", "margin = '0.1'"), "expected a share from 0 to 1. Found '0.1'"),
    (PRODUCTION.format("ece", "margin = true"), "expected a share from 0 to 1. Found true"),
    (PRODUCTION.format("ece", "margin = 2026-11-20"), "expected a share from 0 to 1. Found 2026-11-20"),
    (PRODUCTION.format("ece", "margin = 0.1\nlimit = 2"), "'production.gates.ece.limit': expected a share"),
    (PRODUCTION.format("sound", "nan_share = 1.01"), "'production.gates.sound.nan_share': expected a share"),
    (PRODUCTION.format("drift", "maximum = -1"), "'production.gates.drift.maximum': expected a share"),
    (PRODUCTION.format("coverage", "minimum = 50"), "'production.gates.coverage.minimum': expected a share"),
    (PRODUCTION.format("memory", "mib = 0"), "'production.gates.memory.mib': expected a number above 0. Found 0"),
    (PRODUCTION.format("memory", "mib = inf"), "expected a number above 0. Found inf"),
    (PRODUCTION.format("memory", f"mib = {'9' * 400}"), "expected a number above 0. Found 999"),
    (PRODUCTION.format("latency", "one_ms = nan"), "'production.gates.latency.one_ms': expected a number above 0"),
    (PRODUCTION.format("latency", "one_ms = 10\nunknown = 'stop'"),
     "'production.gates.latency.unknown': expected one of pass, block. Found 'stop'"),
    ('["staging\\nx"]\n', r"unknown transition 'staging\nx'"),
    ("[production\n", "is not valid TOML"),
    (b"\xff\xfe", "is not valid TOML"),
    (f"[production]\nmin_labelled = {'9' * 5000}\n", "is not valid TOML"),
    (f"x = {'[' * 100_000}", "is not valid TOML"),
])
def test_a_file_at_fault_is_refused_in_one_line_that_names_it(written, content, message):
    path = written(content)
    with pytest.raises(InputError) as refusal:
        read_gates(path)
    assert str(refusal.value).startswith(str(path)) and message in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml does not exist. Expected a file of gates such as"):
        read_gates(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_gates(tmp_path)
