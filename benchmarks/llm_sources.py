"""What sources made of more questions to an LLM are worth: risks with them and without them, on the bundled reviews.

The questions are not asked: what the LLM of that task replied when it was asked is replayed through the kinds of
sources. Gold labels serve the measures alone.

Run: python benchmarks/llm_sources.py [WHAT ...]
"""

import gzip
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Printed

from serving.llm.exchange import Reply, Token
from serving.llm.kinds import Rows, evidence_line, source_votes
from training.asking import AskedSource
from training.encoder import passages
from training.fit import FitConfig
from training.job import embeddings, labelled_measures
from training.learning import learn
from training.state import State
from training.table import read_table
from training.task import Source, read_task
from training.weighting import pareto_weights_of
from training.worth import vote_weights

REVIEWS = Path(__file__).parents[1] / "examples" / "reviews"
SURE = 0.9
MEASURES = ("auroc", "ece", "aurc", "brier")
ASKED = {
    "few_shot": AskedSource(name="few_shot", kind="prompt"),
    "recommend": AskedSource(name="recommend", kind="prompt"),
    "stars": AskedSource(name="stars", kind="prompt"),
    "samples": AskedSource(name="samples", kind="samples", count=3),
    "samples_all": AskedSource(name="samples_all", kind="samples", count=3, at_least=1.0),
    "logprobs": AskedSource(name="logprobs", kind="logprobs", at_least=SURE),
}
PROMPTS = ("few_shot", "recommend", "stars")
WHAT = {  # name: sources asked, and whether the rules vote
    "rules": ((), True),
    "rules, prompts": (PROMPTS, True),
    "rules, prompts, samples": ((*PROMPTS, "samples"), True),
    "rules, prompts, logprobs": ((*PROMPTS, "logprobs"), True),
    "rules, prompts, samples, logprobs": ((*PROMPTS, "samples", "logprobs"), True),
    "prompts": (PROMPTS, False),
    "prompts, samples, logprobs": ((*PROMPTS, "samples", "logprobs"), False),
    "prompts, unanimous samples, logprobs": ((*PROMPTS, "samples_all", "logprobs"), False),
    "rules, prompts, samples, logprobs, each its own family": ((*PROMPTS, "samples", "logprobs"), True),
}


def replayed(task, table):
    """The votes of each source by the LLM's real replies, by name."""
    lines = gzip.decompress((REVIEWS / "answers.jsonl.gz").read_bytes()).splitlines()
    said = {row["id"]: row for row in map(json.loads, lines)}
    said = [said[identifier] for identifier in table.ids]
    names = [*task.classes, "I cannot tell."]
    first = [Reply(names[row["llm"]], tokens=(Token(names[row["llm"]], math.log(row["llm_confidence"])),))
             for row in said]
    rows = Rows(task, table.texts, table.spans)
    found = {}
    for name, source in ASKED.items():
        codes = np.array([row["samples" if source.kind == "samples" else name] for row in said]
                         if source.kind != "logprobs" else []).ravel()
        replies = [Reply(names[code]) for code in codes]
        found[name] = source_votes(source, rows, first, table.answers, lambda endpoint, prompts, r=replies: r)
    return found


def measured(task, table, vectors, seed=0):
    """Measures of the test split, and as how many votes each source counts."""
    config = FitConfig(seed=seed)
    _, model = learn(task, table, vectors, pareto_weights_of("learned", task, table), config)
    beliefs = model.beliefs(table.texts, table.spans, lambda texts: vectors)
    scores = model.judge(beliefs, table.answers, table.votes)
    votes = np.column_stack([table.answers, table.votes])
    counts = vote_weights(votes, model.worth.dependence).sum(axis=0) / np.maximum((votes != -1).sum(axis=0), 1)
    return labelled_measures(table, scores.risk, "test"), counts[1:]


def main(wanted):
    task = read_task(REVIEWS)
    whole = read_table(task)
    rules = slice(len(task.sources), None)
    found = replayed(task, whole)
    vectors = embeddings(State.from_environment())(passages(whole.texts, whole.spans))
    printed = Printed("sources", *MEASURES, "an asked source counts as")
    for name in wanted or WHAT:
        asked, with_rules = WHAT[name]
        own = "own family" in name
        sources = tuple(Source(name=a, family=a if own else task.task.llm_family, evidence=evidence_line(ASKED[a]))
                        for a in asked)
        votes = [found[a].votes[:, None] for a in asked]
        if with_rules:
            sources, votes = (*sources, *whole.sources[rules]), [*votes, whole.votes[:, rules]]
        table = replace(whole, sources=sources, votes=np.concatenate(votes, axis=1))
        measures, counts = measured(task, table, vectors)
        printed.add_row(name, *(f"{measures[key]:.4f}" for key in MEASURES),
                        ", ".join(f"{a} {count:.2f}" for a, count in zip(asked, counts, strict=False)))
    for name in ASKED:
        print(name, "votes on", f"{(found[name].votes != -1).mean():.3f}", dict(found[name].reasons), file=sys.stderr)
    Console(width=160).print(printed)


if __name__ == "__main__":
    main(sys.argv[1:])
