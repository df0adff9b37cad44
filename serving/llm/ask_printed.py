"""What `polarscore ask` prints: how far it is, what came of it, and what to do next."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from serving.llm.asking import Told
from serving.llm.budget import Account
from serving.llm.exchange import Outcome
from serving.llm.parsing import Parsed
from serving.llm.result import FOR_NOW, Asked
from training.printing import columns, err, out, say
from training.task import ABSTAIN

REMEDIES = {
    "too_long": "The prompts do not fit: show fewer or shorter [[ask.examples]], or ask a model with a longer context.",
    "rejected": "Does the model take what [ask] sets? The server's log says more.",
    "malformed": "Is it a server of chat completions? Its URL usually ends with /v1.",
    "timeout": "Raise the endpoint's timeout_s, or lower its in_flight.",
    "server": "The server's log says more; a lower in_flight may help.",
    "budget": "Ask with a larger --tokens or --money.",
}
"""What helps where nobody answered, by the kind of failure."""


@contextmanager
def shown(account: Account) -> Iterator[Told]:
    """A bar for the task's own question and one for each source; nothing where standard error is no terminal."""
    abstained = 0
    bars: list[Any] = []

    def begins(what: str, questions: int) -> None:
        bars.append(progress.add_task(what, total=questions, told=""))

    def came(outcome: Outcome, meaning: Parsed | None) -> None:
        nonlocal abstained
        abstained += meaning is not None and meaning.answer == ABSTAIN
        task = progress.tasks[progress.task_ids.index(bars[-1])]
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        parts = [f"{rate:.0f}/s", f"{account.spent.tokens:,} tokens"]
        parts += [f"money {account.spent.money:.4f}"] if account.spent.money else []
        parts += [f"{abstained} without an answer"] if meaning is not None else []
        progress.update(bars[-1], advance=1, told=", ".join(parts))

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                  TextColumn("{task.fields[told]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=err,
                  disable=not err.is_terminal) as progress:
        yield Told(begins, came)


def facts_of(asked: Asked) -> dict[str, Any]:
    """The result as data; the contract of --json."""
    usage, rows = asked.usage, len(asked.prompts)
    return {
        "rows": rows, "answered": int((asked.answers >= 0).sum()), "abstentions": asked.abstentions,
        "cached": usage.cached, "questions": usage.asked, "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out, "money": usage.money, "seconds": usage.seconds,
        "rate": usage.asked / usage.seconds if usage.seconds > 0 else None,
        "sources": [{"name": source.source.name, "kind": source.source.kind,
                     "votes": int((source.votes.votes >= 0).sum()), "abstentions": dict(source.votes.reasons)}
                    for source in asked.sources],
    }


def show(facts: Mapping[str, Any]) -> None:
    """Print what came of it."""
    say(f"{facts['model']} answered {facts['answered']:,} of {facts['rows']:,} rows")
    if facts["abstentions"]:
        say(f"  no answer: {_counts(facts['abstentions'])}")
    if 2 * facts["abstentions"].get("cut short", 0) > facts["rows"]:
        say("  most replies are cut short: raise max_tokens, or add [[ask.examples]]")
    if facts["sources"]:
        table = columns("source", "kind", "votes", "why it abstains")
        for source in facts["sources"]:
            table.add_row(source["name"], source["kind"], f"{source['votes']:,}", _counts(source["abstentions"]))
        out.print(table)
    rate = f", {facts['rate']:.1f} a second" if facts["rate"] else ""
    money = f", money {facts['money']:.4f}" if facts["money"] else ""
    say(f"  {facts['questions']:,} questions asked, {facts['cached']:,} answers known from before; "
        f"{facts['tokens_in']:,} tokens read and {facts['tokens_out']:,} written{money}; "
        f"{facts['seconds']:.1f} s{rate}")


def show_next(facts: Mapping[str, Any], sources: bool, place: str) -> None:
    """Print where the result is, and what to do with it. sources: it has some."""
    say(f"written to {place}")
    if not facts["answered"]:
        say("no row has an answer, so there is nothing to train on; what the LLM wrote is in the data")
    elif sources:
        say(f"next: polarscore train {shlex.quote(place)}")
    else:
        say("training also needs sources, and the task has none: list [[ask.sources]] and ask again, write a "
            "sources.py, or have one written from a few labels with polarscore sources")


def nothing_heard(asked: Asked) -> str:
    """Why there is no reply at all, and what helps."""
    counts, trouble = _counts(asked.abstentions), asked.trouble
    if trouble is None:
        return "nobody answered, and nothing is written."
    again = " The same command asks again." if trouble.kind in FOR_NOW else " The same command would end the same."
    return (f"nobody answered any question ({counts}), and nothing is written. {trouble.detail[:1].upper()}"
            f"{trouble.detail[1:].rstrip('.')}. "
            f"{REMEDIES[trouble.kind]}{again}")


def go_on(facts: Mapping[str, Any], why: str, written: bool) -> str:
    """How to go on after something stopped it. written: there is a result, though not a whole one."""
    missing = f" ({_counts(facts['without_reply'])})" if facts["without_reply"] else ""
    more = "" if written else "; or write what there is with --partial"
    budget = " with a larger --tokens or --money" if facts["stopped"] == "budget" else ""
    return (f"asking {why}{missing}. What was answered is kept: the same command{budget} goes on from there"
            f"{', with --replace' if written else ''}{more}.")


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
