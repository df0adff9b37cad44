"""Evidence that grows with every label and may be looked at after each: a bet against the risk scores."""

import numpy as np

STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])


def evidence(risk: np.ndarray, error: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """How much is to be believed, after each row, that the mean error leaves mean risk ± tolerance.

    risk, error: (n,), in the order in which the errors became known. Returns (n,), all above 0.

    It is the wealth of a gambler who starts with 1 and bets that errors come more often (or less often)
    than the risks say, at stakes λ, an equal part of the money on each:

        wealth_t = mean over λ and both directions of ∏_{s ≤ t} (1 + λ (±(error_s − risk_s) − tolerance)).

    If each error comes with the probability that its risk says, give or take the tolerance, no bet pays on
    average, and the wealth *ever* exceeds 1/α with a probability of at most α (Ville's inequality), however
    often one looks. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting", arXiv 2010.09686.
    """
    gap = error - risk
    stakes = STAKES / (1 + tolerance)  # no bet can lose all that it holds
    payoffs = np.concatenate([np.outer(stakes, side * gap - tolerance) for side in (1, -1)])
    log_wealth = np.cumsum(np.log1p(payoffs), axis=1)  # (bets, n)
    return np.exp(np.logaddexp.reduce(log_wealth, axis=0) - np.log(len(log_wealth)))


def first_crossing(
    risk: np.ndarray, error: np.ndarray, known_at: np.ndarray, alpha: float, tolerance: float = 0.0
) -> int | None:
    """The row with which the evidence first reaches 1/α, None where it never does.

    Rows are in the order of `known_at`, (n,). Evidence is weighed only when all rows known at a moment
    are in, so that their order does not matter.
    """
    if not len(risk):
        return None
    last_of_moment = np.append(known_at[1:] != known_at[:-1], True)
    reached = last_of_moment & (evidence(risk, error, tolerance) >= 1 / alpha)
    return int(reached.argmax()) if reached.any() else None
