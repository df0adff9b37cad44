"""What is kept of a score, and what is said where it cannot be kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from monitoring.journal import JournalAway, JournalFull, StoreAway
from monitoring.store import ScoredAnswer
from serving.config import Keeping
from serving.lineup import By
from serving.refusal import Refusal
from serving.schema import Decision, Item

LATER = {"Retry-After": "5"}


def row_of(
    score_id: str, item: Item, by: By, decision: Decision, moment: datetime, keeping: Keeping
) -> ScoredAnswer:
    """What is kept of what a version says of an item: of the text, only what the configuration allows."""
    scored, whole = by.scored, keeping.text == "keep"
    return ScoredAnswer(
        score_id=score_id, item_id=item.id or score_id, created_at=moment,
        model=by.scorer.name, version=by.scorer.version, answer=scored.answer,
        harmonizer_answer=scored.harmonizer_answer, risk=scored.risk, probabilities=scored.probabilities,
        votes=scored.votes, votes_used=scored.votes_used, text_length=len(item.text), decision=decision,
        text=item.text.replace("\0", "\ufffd") if whole else None,  # PostgreSQL has no NUL
        spans=(item.spans or None) if whole else None,
        text_hash=None if keeping.text == "drop" else by.text_hash,
    )


def shadow_of(served: ScoredAnswer, row: ScoredAnswer) -> ScoredAnswer:
    """The row of a score in the dark, beside that of the score that was served instead."""
    return replace(row, score_id=f"{served.score_id}-shadow", item_id=served.item_id, role="shadow",
                   shadow_of=served.score_id)


@contextmanager
def kept() -> Iterator[None]:
    """What hinders the journal or the store, as a refusal that says that nothing was kept."""
    try:
        yield
    except JournalFull as error:
        raise Refusal("journal_full", str(error).rstrip("."), status=503, headers=LATER) from None
    except (StoreAway, JournalAway) as error:
        raise Refusal("store_unavailable", str(error).rstrip("."), status=503, headers=LATER) from None
    except (SQLAlchemyError, OSError) as error:
        raise Refusal("store_unavailable", f"what is kept cannot be reached or written ({type(error).__name__}). "
                      "Nothing was kept; try again later", status=503, headers=LATER) from None
