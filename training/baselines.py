"""What others make of votes alone: Dawid-Skene and a Snorkel-style label model. Fitted on some rows, used on others.

Both take votes (n, m), -1 = abstains, the LLM among the sources, and know neither texts nor gold labels.
"""

from dataclasses import dataclass

import numpy as np
import torch

FLOOR = 1e-6


@dataclass(frozen=True)
class VoteModel:
    """A class balance (K,) and, for each source, how likely it is to vote v where the class is k: (m, K voted, K)."""

    balance: np.ndarray
    chances: np.ndarray

    def posterior(self, votes: np.ndarray) -> np.ndarray:
        """P(class | votes), (n, K); abstentions tell nothing."""
        logits = np.tile(np.log(np.maximum(self.balance, FLOOR)), (len(votes), 1))
        log_chances = np.log(np.maximum(self.chances, FLOOR))
        for v in range(len(self.balance)):
            logits += (votes == v) @ log_chances[:, v, :]
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


def dawid_skene(votes: np.ndarray, classes: int, rounds: int = 100, tolerance: float = 1e-6) -> VoteModel:
    """Confusion matrices of independent sources by expectation maximisation, from the vote shares on.

    Source: Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", 1979.
    """
    said = [(votes == v).astype(np.float64) for v in range(classes)]
    shares = np.stack([rows.sum(axis=1) for rows in said], axis=1) + 1 / classes
    beliefs = shares / shares.sum(axis=1, keepdims=True)
    for _ in range(rounds):
        counts = np.stack([rows.T @ beliefs for rows in said], axis=1) + 0.01
        model = VoteModel(beliefs.mean(axis=0), counts / counts.sum(axis=1, keepdims=True))
        before, beliefs = beliefs, model.posterior(votes)
        if np.abs(beliefs - before).max() < tolerance:
            break
    return model


def label_model(votes: np.ndarray, classes: int, steps: int = 500, seed: int = 0) -> VoteModel:
    """Source accuracies that explain how often each pair of votes occurs together, sources being independent.

    Minimises ‖O − μ P μᵀ‖² off the diagonal blocks, O being the co-occurrence of votes, μ = P(vote | class) and P
    the class balance, taken from the majority vote. Source: Ratner et al., "Training complex models with multi-task
    weak supervision", AAAI 2019.
    """
    m = votes.shape[1]
    onehot = torch.from_numpy(np.stack([(votes == v) for v in range(classes)], axis=2)
                              .reshape(len(votes), m * classes).astype(np.float32))
    together = onehot.T @ onehot / len(votes)
    owner = torch.arange(m).repeat_interleave(classes)
    apart = (owner[:, None] != owner[None, :]).float()
    shares = np.stack([(votes == v).sum(axis=1) for v in range(classes)], axis=1)
    balance = torch.from_numpy(np.bincount(shares.argmax(axis=1), minlength=classes) + 1.0).float()
    balance /= balance.sum()
    marginal = together.diagonal()
    generator = torch.Generator().manual_seed(seed)
    right = torch.eye(classes).repeat(m, 1)  # start: a source is right at 70 %, whatever its class
    noise = 1e-3 * torch.rand(m * classes, classes, generator=generator)
    mu = marginal[:, None] * (0.7 * right / balance + 0.3) + noise
    mu = mu.clamp(FLOOR, 1 - FLOOR).requires_grad_()
    optimiser = torch.optim.Adam([mu], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        gap = (together - mu @ (balance[:, None] * mu.T)) * apart
        loss = gap.square().sum() + (mu @ balance - marginal).square().sum()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            mu.clamp_(FLOOR, 1 - FLOOR)
    joint = mu.detach().numpy().reshape(m, classes, classes).astype(np.float64)
    votes_given = joint / np.maximum(joint.sum(axis=1, keepdims=True), FLOOR)  # where it votes at all
    return VoteModel(balance.numpy().astype(np.float64), np.clip(votes_given, 0.01, 0.99))


