import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.chain import Entry, content, faults, sealed
from registry.keys import Keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = Keys(tmp_path_factory.mktemp("chain") / "keys")
    made.make()
    return made


@pytest.fixture(scope="module")
def chain(keys):
    entries, signer = [], keys.signer()
    for number in range(1, 6):
        entry = Entry("ada", "promote", "mail", number, "candidate", "production", number - 1 or None, "why",
                      [{"name": "ece", "state": "pass", "candidate": 0.1}], evidence="e" * 64, evidence_uri="runs:/r/e",
                      at=datetime(2026, 11, 20, 12, tzinfo=UTC) + timedelta(hours=number))
        entries.append(sealed(entry, entries[-1] if entries else None, signer))
    return entries


def check(keys, entries):
    return faults(entries, keys.made_by)


def test_a_whole_chain_has_no_fault(keys, chain):
    assert check(keys, chain) == []
    assert check(keys, []) == []


CHANGES = {
    "who": "eve", "action": "rollback", "model": "spam", "version": 9, "from_stage": "staging", "to_stage": "staging",
    "replaced": 7, "why": "because", "gates": [], "files": "f" * 64, "evidence": None, "evidence_uri": "runs:/other/e",
    "at": datetime(2026, 1, 1, tzinfo=UTC), "seq": 9, "previous": "f" * 64, "hash": "f" * 64, "key": "0" * 16,
    "signature": "00",
}


def test_every_field_is_covered():
    assert set(CHANGES) == set(Entry.__dataclass_fields__)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_is_found(keys, chain, field, place):
    forged = [*chain]
    forged[place] = replace(chain[place], **{field: CHANGES[field]})
    assert check(keys, forged)


@given(st.permutations(range(5)), st.integers(1, 5))
@settings(max_examples=60)
def test_only_the_chain_itself_or_its_beginning_holds_together(keys, chain, order, length):
    chosen = order[:length]
    found = check(keys, [chain[place] for place in chosen])
    assert (found == []) == (chosen == list(range(length)))


def test_a_tail_that_was_cut_leaves_no_trace_but_another_head(keys, chain):
    assert check(keys, chain[:3]) == []
    assert len({chain[place].head for place in range(5)}) == 5 and chain[2].head == f"3:{chain[2].hash}"


def test_a_log_rewritten_with_another_key_is_found(keys, chain, tmp_path):
    other, forged = Keys(tmp_path / "keys").make(), []
    for entry in chain:
        forged.append(sealed(replace(entry, who="eve"), forged[-1] if forged else None, other))
    assert all("is not signed by a key that is trusted here" in fault for fault in check(keys, forged))
    stolen = [replace(entry, key=chain[0].key) for entry in forged]
    assert len(check(keys, stolen)) == 5


def test_a_chain_without_its_signatures_is_not_whole(keys, chain):
    bare = [replace(entry, key=None, signature=None) for entry in chain]
    assert "before entries were signed" in check(keys, bare)[0]
    assert check(keys, [*bare[:4], chain[4]]) == []  # the last one vouches for what was before it
    assert "has lost its signature" in check(keys, [*chain[:2], *bare[2:]])[0]


def test_what_is_signed_is_canonical(chain):
    said = content(chain[0])
    assert json.loads(said)["at"] == "2026-11-20T13:00:00.000000+00:00"
    assert said == content(replace(chain[0], hash="", key=None, signature=None))
    with pytest.raises(ValueError, match="JSON"):
        content(replace(chain[0], gates=[{"candidate": float("nan")}]))
