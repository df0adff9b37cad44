"""An example of everything that the service takes and gives, for the version that runs: it may be sent as it is."""

from typing import Any

from serving.schema import Version

SCORE_ID = "5b1f0e3a9d2c4c7e8f60718293a4b5c6-000"


class Examples:
    """The examples for a version's classes, sources and entities."""

    def __init__(self, version: Version):
        self._version = version
        self._probabilities = {name: round(1 / len(version.classes), 3) for name in version.classes}

    def item(self, id: str = "a17") -> dict[str, Any]:
        """An item to score."""
        version = self._version
        found: dict[str, Any] = {"id": id, "text": "A text that the LLM was asked about", "answer": version.classes[0]}
        if version.entities:
            found["spans"] = [[0, 6]] * version.entities
        if version.sources:
            found["votes"] = {version.sources[0]: version.classes[-1]}
        return found

    def score(self) -> dict[str, Any]:
        """A score."""
        classes = self._version.classes
        return {"score_id": SCORE_ID, "id": "a17", "risk": 0.31, "decision": "ask again",
                "probabilities": self._probabilities, "answer": classes[0], "harmonizer_answer": classes[0],
                "votes_used": True, "version": self._version.version}

    def scores(self) -> dict[str, Any]:
        """An answer of `/score`."""
        return {"scores": [self.score()], **self._who(), "beside": None}

    def corrections(self) -> dict[str, Any]:
        """An answer of `/correct`."""
        first, last = self._version.classes[0], self._version.classes[-1]
        asked = {"asked": True, "way": "explain", "first_answer": first, "first_risk": 0.45, "new_answer": last,
                 "new_risk": 0.08, "kept": "new", "abstained": None}
        return {"scores": [self.score() | {"risk": 0.08, "decision": "review", "answer": last} | asked], **self._who(),
                "beside": None, "asked": 1, "changed": 1, "abstained": {}, "margin": 2.0,
                "took": {"cached": 0, "tokens_in": 212, "tokens_out": 2, "money": 0.000033}}

    def explanation(self) -> dict[str, Any]:
        """An answer of `/explain`."""
        classes = self._version.classes
        vote = {"source": "LLM", "family": "", "vote": classes[0], "agrees": True, "accuracy": 0.84, "counts_as": 1.0,
                "log_odds": 0.9, "evidence": ""}
        return {"id": "a17", "risk": 0.31, "decision": "ask again", "answer": classes[0], "label_free_risk": 0.31,
                "checked_answers": 0, "harmonizer_answer": classes[0], "harmonizer_probability": 0.62,
                "probabilities": self._probabilities, "favoured": classes[0], "rival": classes[-1], "log_odds": 1.4,
                "text_log_odds": 0.5, "votes": [vote], "abstained": len(self._version.sources),
                "in_words": f"The LLM answers '{classes[0]}'. The risk that this is wrong is 0.310. …", **self._who()}

    def feedback(self) -> dict[str, Any]:
        """A body of `/feedback`."""
        return {"id": "a17", "label": self._version.classes[0], "chosen": "random", "probability": 0.05}

    def version(self) -> dict[str, Any]:
        """An answer of `/version`: this one's."""
        return self._version.model_dump(mode="json")

    def _who(self) -> dict[str, Any]:
        version = self._version
        return {"model": version.model, "version": version.version, "policy": version.policy.model_dump(mode="json")}
