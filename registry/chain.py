"""The chain of a model's stage log: each entry carries the hash of the one before, and a signature. Pure.

    hash_n = SHA-256(content_n),  content_n = canonical JSON of all that entry n says, with n and hash_{n-1}
    signature_n = ECDSA on P-256 over content_n

So an entry that is changed, left out, put in or moved breaks the chain at its place. A tail that is cut off, or a log
that is rewritten whole, breaks no link: it is found by the head, `n:hash_n`, that is kept elsewhere as well.
Source of the idea: Schneier and Kelsey, "Secure audit logs to support computer forensics", 1999.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from registry.database import now
from registry.keys import Signer

_SEALS = ("hash", "key", "signature")

MadeBy = Callable[[bytes, str, str], bool]
"""Whether a trusted key made a signature: content, signature, id of the key."""


@dataclass(frozen=True)
class Entry:
    """One entry of the log of a model.

    action: `promote`, `rollback`, `threshold` (that of the version in production was changed), `repair` (aliases were
    put back to what the log says) or `seal` (what an older polarscore logged without signatures is vouched for from
    here on). replaced: the version that held the stage before. gates: what they found; of a threshold, where it lies
    (`registry.threshold`). files: digest of the version's own files (`training.model.digest`). evidence, evidence_uri:
    digest and place of the bundle of the promotion; of a rollback, of the one that brought the version there.
    seq: 1, 2, … in the model's log. previous: hash of the entry before, empty for the first. key: id of the
    public key; None in what an older polarscore logged.
    """

    who: str
    action: str
    model: str
    version: int
    from_stage: str
    to_stage: str
    replaced: int | None
    why: str
    gates: list[dict[str, Any]] = field(default_factory=list)
    files: str | None = None
    evidence: str | None = None
    evidence_uri: str | None = None
    at: datetime = field(default_factory=now)
    seq: int = 0
    previous: str = ""
    hash: str = ""
    key: str | None = None
    signature: str | None = None

    @property
    def head(self) -> str:
        """What to keep elsewhere, if this is the last entry."""
        return f"{self.seq}:{self.hash}"

    @property
    def words(self) -> str:
        """What it says, for messages."""
        return f"entry {self.seq} of '{self.model}' ({self.action} of version {self.version} to {self.to_stage})"


def content(entry: Entry) -> bytes:
    """What is hashed and signed."""
    said = {key: value for key, value in vars(entry).items() if key not in _SEALS}
    said["at"] = entry.at.isoformat(timespec="microseconds")
    return json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def sealed(entry: Entry, last: Entry | None, signer: Signer) -> Entry:
    """The entry, linked to the last one and signed."""
    linked = replace(entry, seq=last.seq + 1 if last else 1, previous=last.hash if last else "")
    said = content(linked)
    return replace(linked, hash=hashlib.sha256(said).hexdigest(), key=signer.id, signature=signer.sign(said))


def faults(entries: Sequence[Entry], made_by: MadeBy) -> list[str]:
    """Where the log of one model, the oldest entry first, is not what was written; a sentence each.

    A tail that was cut off leaves no trace in it: for that the last entry's `head` is kept elsewhere.
    """
    found, previous, signed = [], "", False
    for place, entry in enumerate(entries, 1):
        said = _content_as_found(entry)
        if entry.seq != place or entry.previous != previous:
            found.append(f"{entry.words} does not follow the entry before it: one was taken out, put in or changed")
        if said is None or hashlib.sha256(said).hexdigest() != entry.hash:
            found.append(f"{entry.words} is not as it was written")
        elif entry.key is None:
            if signed:
                found.append(f"{entry.words} has lost its signature")
        elif not made_by(said, entry.signature or "", entry.key):
            found.append(f"{entry.words} is not signed by a key that is trusted here; it names the key {entry.key}")
        previous, signed = entry.hash, signed or entry.key is not None
        if len(found) >= 10:
            return [*found, "there may be more"]
    if entries and not signed:
        found.append(f"the log of '{entries[-1].model}' is of a time before entries were signed. "
                     "To vouch for it, run: polarscore registry migrate")
    elif entries and entries[-1].key is None:
        found.append(f"{entries[-1].words} has no signature")
    return found


def _content_as_found(entry: Entry) -> bytes | None:
    """The content; None where a database holds what no entry says, as bytes or NaN."""
    try:
        return content(entry)
    except (TypeError, ValueError):
        return None
