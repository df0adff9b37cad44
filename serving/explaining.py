"""An explanation as the service gives it: why an answer has its risk, of one item, without keeping anything."""

import numpy as np

from serving.policy import decide
from serving.refusal import Refusal
from serving.schema import ExplainResponse, Item, Policy, Said
from serving.scorer import Scorer
from training.explanation import explain, in_words


def explained(scorer: Scorer, policy: Policy, item: Item) -> ExplainResponse:
    """Why a version gives an item's answer its risk, and what the policy does with it.

    Raises:
        Refusal: the item is at fault.
    """
    try:
        prepared = scorer.prepare([item])
    except Refusal as refusal:
        if refusal.where:
            refusal.where = refusal.where.replace("items.0", "item", 1)
        raise
    beliefs = scorer.beliefs([prepared])  # (1, K)
    found = explain(scorer.model, beliefs[0], int(prepared.answers[0]), prepared.votes[0], item.id or "")
    words = in_words(found).removeprefix(f"Row '{found.id}': ")
    (decision,) = decide(policy, np.array([found.risk], dtype=np.float64))
    return ExplainResponse(
        id=item.id, risk=found.risk, decision=decision, answer=found.answer, label_free_risk=found.label_free_risk,
        checked_answers=found.checked_answers, harmonizer_answer=found.harmonizer_answer,
        harmonizer_probability=found.harmonizer_probability, probabilities=found.probabilities,
        favoured=found.favoured, rival=found.rival, log_odds=found.log_odds, text_log_odds=found.text_log_odds,
        votes=[Said(**vars(said)) for said in found.votes], abstained=found.abstained,
        in_words=words[:1].upper() + words[1:], model=scorer.name, version=scorer.version, policy=policy,
    )
