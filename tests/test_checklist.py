"""What people should check next: which comes first, the draw or the file."""

from datetime import timedelta
from types import SimpleNamespace

import pandas as pd
import pytest

from monitoring import checklist
from monitoring.checklist import sample
from monitoring.store import Feedback, ScoredAnswer, Store
from registry.database import now
from training.errors import InputError


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state whose store has 40 scores; the first ten are labelled."""
    found = SimpleNamespace(database_url=f"sqlite:///{tmp_path}/store.db")
    monkeypatch.setattr(checklist, "Versions", lambda state: None)
    monkeypatch.setattr(checklist, "scored_version", lambda *rest: SimpleNamespace(model="mail", version=1))
    with Store(found.database_url) as store:
        store.add_scores([ScoredAnswer(
            score_id=f"s{number}", item_id=f"i{number}", model="mail", version="1", answer="a", harmonizer_answer="a",
            risk=number / 40, probabilities={"a": 0.5, "b": 0.5}, votes={}, votes_used=False, text_length=3,
            created_at=now() - timedelta(minutes=number + 1)) for number in range(40)])
        store.add_feedback([Feedback("b", score_id=f"s{number}") for number in range(10)])
    return found


def draws(state):
    with Store(state.database_url) as store:
        return store.draws("mail")


def test_the_file_lists_what_is_to_be_checked_in_the_order_of_the_draw(state, tmp_path):
    path = tmp_path / "check.csv"
    found = sample(state, None, 12, 0, out=path)
    with Store(state.database_url) as store:
        drawn = store.drawn(draws(state)[0].draw_id)["score_id"].tolist()
    listed = pd.read_csv(path)["score_id"].tolist()
    assert listed == [row["score_id"] for row in found] == [each for each in drawn if int(each[1:]) >= 10]
    assert len(listed) == 12 < len(drawn) and not list(tmp_path.glob(".*"))


def test_without_a_draft_nothing_is_drawn_and_a_draw_that_fails_leaves_no_file(state, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no/x\.csv: .*Nothing was drawn\.$"):
        sample(state, None, 5, 0, out=tmp_path / "no" / "x.csv")
    monkeypatch.setattr(checklist, "draw", lambda *rest, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(state, None, 5, 0, out=tmp_path / "x.csv")
    monkeypatch.undo()
    assert draws(state) == [] and [each.name for each in tmp_path.glob("*x.csv*")] == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_file_that_cannot_be_put_in_its_place_is_kept_beside_it_and_so_is_the_draw(state, tmp_path, dry_run):
    place = tmp_path / "x.csv"
    (place / "taken").mkdir(parents=True)
    with pytest.raises(InputError, match="answers to check are in") as refusal:
        sample(state, None, 5, 0, out=place, dry_run=dry_run)
    (draft,) = tmp_path.glob(".x.csv.*")
    assert str(draft) in str(refusal.value) and len(pd.read_csv(draft)) == 5 and "\n" not in str(refusal.value)
    assert len(draws(state)) == (not dry_run) and ("is kept" in str(refusal.value)) == (not dry_run)
