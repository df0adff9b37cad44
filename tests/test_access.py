import hmac
import json
import logging
import os
import re
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import access
from serving.access import SCOPES, added, issued, recognise, revoked, rotated
from serving.keyfile import Keyring, change_keys, keys_path, read_keys
from tests.commandline import runner
from training.errors import InputError
from training.state import State

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = re.compile(r"ps_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


def by_id(*keys):
    return {key.id: key for key in keys}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "api-keys.json"


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    monkeypatch.setenv("POLARSCORE_HOME", str(tmp_path))
    monkeypatch.delenv("POLARSCORE_API_KEYS", raising=False)
    return runner(monkeypatch, capfd)


# What a key is


@given(st.sets(st.sampled_from(SCOPES), min_size=1), st.none() | st.integers(1, 10_000))
def test_a_key_opens_what_it_was_made_for_until_it_expires(scopes, days):
    kept, key = issued("web", sorted(scopes), NOW, None if days is None else timedelta(days=days))
    assert KEY.fullmatch(key) and key.split("_")[1] == kept.id and key[20:] not in kept.model_dump_json()
    assert recognise(by_id(kept), key, NOW) is kept
    apart = {"review", "correct"}  # to review is a person's, to correct costs
    every = scopes | (set(SCOPES) - apart if "admin" in scopes else set())
    assert {scope for scope in SCOPES if kept.allows(scope)} == every
    later = NOW + timedelta(days=days or 10_000)
    assert (recognise(by_id(kept), key, later) is None) == (days is not None)
    assert recognise(by_id(kept), key, later - timedelta(seconds=1)) is kept


@given(st.text(max_size=300))
def test_what_is_no_key_opens_nothing(given_text):
    kept, _ = issued("web", ["admin"], NOW)
    assert recognise(by_id(kept), given_text, NOW) is None and recognise({}, given_text, NOW) is None


def wrong(kept, key):
    """A key that does not exist, one with a wrong secret, cut, too long, with another's id, none at all."""
    other, its_key = issued("other", ["read"], NOW)
    yield from (its_key, key[:-1] + ("A" if key[-1] != "A" else "B"), key[:-1], key + "x" * 500, "", "ps_", "x" * 63,
                f"ps_{kept.id}_{its_key[20:]}", f"ps_{other.id}_{key[20:]}", kept.digest, "\udcff", "ps_" + "0" * 16)


def test_every_wrong_key_costs_one_comparison_of_the_same_length_and_one_hash(monkeypatch):
    kept, key = issued("web", ["score"], NOW)
    seen, hashed = [], []
    real, sha = hmac.compare_digest, access.hashlib.sha256
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: seen.append((len(a), len(b))) or real(a, b))
    monkeypatch.setattr(access.hashlib, "sha256", lambda content: hashed.append(content) or sha(content))
    tried = list(wrong(kept, key))
    seen.clear(), hashed.clear()
    for each in tried:
        assert recognise(by_id(kept), each, NOW) is None
    assert seen == [(64, 64)] * len(tried) and len(hashed) == len(tried)
    assert recognise(by_id(kept), key, NOW) is kept and seen[len(tried):] == [(64, 64)]


def test_a_rotated_key_has_a_new_secret_and_the_old_one_its_grace():
    first, old = issued("web", ["score", "read"], NOW, timedelta(days=30))
    later = NOW + timedelta(days=10)
    keys, second, new = rotated((first,), "web", later, timedelta(hours=2))
    assert second.scopes == first.scopes and second.expires - second.created == timedelta(days=30) and new != old
    assert recognise(by_id(*keys), old, later + timedelta(hours=1)).name == "web"
    assert recognise(by_id(*keys), old, later + timedelta(hours=2)) is None
    assert recognise(by_id(*keys), new, later + timedelta(hours=2)) is not None
    again, *_ = rotated(keys, "web", later, timedelta(days=99))
    assert again[0].expires == later + timedelta(hours=2)  # no grace is made longer
    gone = revoked(again, "web", later)
    assert not any(key.usable(later) for key in gone) and [key.state(later) for key in gone] == ["revoked"] * 3
    with pytest.raises(InputError, match="no usable key is named 'web'"):
        rotated(gone, "web", later, timedelta())


def test_a_name_is_that_of_one_key_at_a_time():
    kept, _ = issued("web", ["score"], NOW)
    with pytest.raises(InputError, match="apikey rotate web"):
        added((kept,), issued("web", ["read"], NOW)[0], NOW)
    assert len(added(revoked((kept,), "web", NOW), issued("web", ["read"], NOW)[0], NOW)) == 2


@pytest.mark.parametrize(("name", "scopes", "message"), [
    ("", ["score"], "name ''"), ("a b", ["score"], "name 'a b'"), ("-x", ["score"], "letter or digit first"),
    ("a" * 65, ["score"], "at most 64"), ("web", [], "at least one --scope"), ("web", ["write"], "Found 'write'"),
])
def test_a_key_without_a_name_or_a_scope_is_refused(name, scopes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        issued(name, scopes, NOW)


# Its file


def test_a_key_is_kept_hashed_in_a_file_of_its_owner(path):
    kept, key = issued("web", ["score"], NOW)
    change_keys(path, lambda keys: (*keys, kept))
    assert read_keys(path) == (kept,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and key[20:] not in path.read_text()
    assert sorted(each.name for each in path.parent.iterdir()) in (["api-keys.json"],
                                                                    ["api-keys.json", "api-keys.json.lock"])


def test_keys_made_at_once_are_all_kept(path):
    made = [issued(f"k{n}", ["score"], NOW)[0] for n in range(8)]
    threads = [threading.Thread(target=change_keys, args=(path, lambda keys, key=key: (*keys, key))) for key in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.id for key in read_keys(path)} == {key.id for key in made}


def test_a_change_that_fails_changes_nothing(path):
    kept, _ = issued("web", ["score"], NOW)
    change_keys(path, lambda keys: (kept,))
    before = path.read_bytes()
    with pytest.raises(InputError):
        change_keys(path, lambda keys: revoked(keys, "nobody", NOW))
    assert path.read_bytes() == before and not list(path.parent.glob(".api-keys*"))


GOOD = json.loads(issued("web", ["score"], NOW)[0].model_dump_json())


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '{"keys": {}}', '{"keys": [1]}', '{"keys": [], "more": 1}', "[" * 100_000, "\x00",
    json.dumps({"keys": [GOOD, GOOD]}),
    *(json.dumps({"keys": [GOOD | change]}) for change in (
        {"colour": 1}, {"id": "x"}, {"scopes": []}, {"scopes": ["all"]}, {"digest": "0" * 63}, {"name": "a\nb"},
        {"created": "yesterday"}, {"created": "2026-01-01T00:00:00"}, {"expires": "x"})),
])
def test_a_damaged_file_is_refused_with_one_line(path, content):
    path.write_text(content)
    with pytest.raises(InputError, match=r"are damaged: .* polarscore apikey create\.") as refused:
        Keyring(path)
    assert "\n" not in str(refused.value) and GOOD["digest"] not in str(refused.value)


def test_a_file_that_anybody_may_write_or_that_is_none_is_refused(path):
    change_keys(path, lambda keys: (issued("web", ["score"], NOW)[0],))
    path.chmod(0o666)
    with pytest.raises(InputError, match="chmod 600"):
        Keyring(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        Keyring(path)
    assert not Keyring(path / "none.json").usable()


def test_a_ring_knows_what_changes_in_its_file(path):
    ring = Keyring(path, lambda: NOW)
    assert not ring.usable()
    kept, key = issued("web", ["score"], NOW)
    change_keys(path, lambda keys: (kept,))
    assert ring.find(key) == ring.still(kept.id) == kept and ring.usable() and ring.still("0" * 16) is None
    change_keys(path, lambda keys: revoked(keys, "web", NOW))
    assert ring.find(key) is None and ring.still(kept.id) is None and not ring.usable()


def test_a_ring_keeps_its_good_keys_and_says_once_that_the_file_is_damaged_or_gone(path, caplog):
    kept, key = issued("web", ["score"], NOW)
    change_keys(path, lambda keys: (kept,))
    ring = Keyring(path, lambda: NOW)
    good = path.read_bytes()
    with caplog.at_level(logging.INFO, "bentoml.polarscore"):
        path.write_text("{")
        assert [ring.find(key) for _ in range(5)] == [kept] * 5
        path.unlink()
        assert [ring.find(key) for _ in range(5)] == [kept] * 5
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
        path.write_bytes(good)
        assert ring.find(key) == kept and "read again: 1" in caplog.text
    assert key[20:] not in caplog.text and kept.digest not in caplog.text


def test_the_file_is_in_the_state_folder_unless_it_is_named(tmp_path):
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path)})
    assert keys_path(state, {}) == tmp_path / "api-keys.json"
    assert keys_path(state, {"POLARSCORE_API_KEYS": "x.json"}) == Path.cwd() / "x.json"


# The commands


def test_a_key_is_made_listed_rotated_and_revoked_by_command(run, tmp_path):
    ring = Keyring(tmp_path / "api-keys.json")
    made = run("apikey", "create", "web", "--scope", "score", "--scope", "feedback", "--days", "30")
    assert made.code == 0 and KEY.fullmatch(made.out.strip()) and made.out.count("\n") == 1
    assert "score, feedback, until " in made.err and made.out.strip() not in made.err
    assert ring.find(made.out.strip()).scopes == ("score", "feedback")
    new = run("apikey", "rotate", "web", "--grace", "1")
    assert "1 h more" in new.err and ring.find(new.out.strip()) and ring.find(made.out.strip())
    (old, fresh) = run("apikey", "list", "--json").json()
    assert (old["name"], old["state"], fresh["state"]) == ("web", "usable", "usable") and "digest" not in old
    assert old["expires"] < fresh["expires"]
    shown = run("apikey", "list")
    assert fresh["id"] in shown.out and new.out.strip() not in shown.out
    cut = run("apikey", "rotate", "web", "--grace", "0", "--json").json()
    assert ring.find(cut["key"]) and not ring.find(new.out.strip()) and not ring.find(made.out.strip())
    assert run("apikey", "revoke", "web", "--json").json() == {"revoked": "web"}
    assert not ring.usable() and {key["state"] for key in run("apikey", "list", "--json").json()} <= {
        "revoked", "expired"}


@pytest.mark.parametrize("words", [
    ["create", "web"], ["create", "web", "--scope", "all"], ["create", "a b", "--scope", "score"], ["create"],
    ["create", "web", "--scope", "score", "--days", "-1"], ["rotate", "nobody"], ["revoke", "nobody"],
    ["rotate", "web", "--grace", "x"], ["create", "web", "--scope", "score", "--days", "nan"],
])
def test_a_command_at_fault_ends_with_one_line_and_no_key(run, tmp_path, words):
    refused = run("apikey", *words)
    refused.refused()
    assert refused.out == "" and not (tmp_path / "api-keys.json").exists()


def test_a_folder_that_cannot_be_written_ends_with_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLARSCORE_API_KEYS", str(tmp_path / "file" / "keys.json"))
    assert "cannot be written" in run("apikey", "create", "web", "--scope", "score").refused()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["local", "Local"])
def test_no_key_has_the_name_of_who_needs_none(name):
    with pytest.raises(InputError, match="whoever needs no key"):
        issued(name, ["review"], datetime.now(UTC))
