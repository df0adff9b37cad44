"""`polarscore ask`: have an LLM answer the rows of a task, from the command line."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from training.errors import CheckFailed
from training.printing import AsJson, err, print_json
from training.state import State


def ask(
    task_dir: Annotated[Path, typer.Argument(metavar="TASK_DIR", help="A folder with a task.toml that has [ask].")],
    target: Annotated[Path | None, typer.Option(
        "--out", metavar="DIR", help="Where the resulting task goes; default: TASK_DIR-asked, beside it.")] = None,
    llm: Annotated[Path | None, typer.Option(
        "--llm", metavar="FILE", help="The endpoints of this machine; default: llm.toml in the state folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(
        "--endpoint", metavar="NAME", help="Which of them to ask; default: the file's own.")] = None,
    tokens: Annotated[int | None, typer.Option(
        "--tokens", min=0, help="Stop before more are spent, read and written.")] = None,
    money: Annotated[float | None, typer.Option(
        "--money", min=0, help="Stop before more is spent, by the endpoint's prices.")] = None,
    limit: Annotated[int | None, typer.Option(
        "--limit", metavar="N", min=1, help="Ask about the first N rows alone, to try.")] = None,
    split: Annotated[str | None, typer.Option(
        "--split", help="Ask about this split alone: train, valid or test.")] = None,
    sources: Annotated[bool, typer.Option(
        "--sources/--no-sources", help="Also ask what [[ask.sources]] lists.")] = True,
    partial: Annotated[bool, typer.Option(
        "--partial", help="Write the result even if some rows have no reply.")] = False,
    replace: Annotated[bool, typer.Option(
        "--replace", help="Replace the result of an earlier ask; or, with --out TASK_DIR, add to the task "
                          "itself.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have an LLM answer the rows of a task.

    The result is a task that train reads: the same rows, with answers, and votes of the sources that more questions
    make. What is answered is kept as it comes: the same command goes on where it was stopped, and asks nothing twice.
    """
    from serving.llm.ask_printed import facts_of, go_on, nothing_heard, show, show_next, shown
    from serving.llm.asking import Line, ask_task, check
    from serving.llm.budget import Account, Budget
    from serving.llm.cache import FILE, Cache
    from serving.llm.question_rows import read_to_ask
    from serving.llm.result_task import place_of, write_task
    from serving.llm.settings import settings_of
    from training.task import read_task

    task = read_task(task_dir)
    place = place_of(task, target, replace)
    state = State.from_environment()
    settings = settings_of(state, llm)
    to_ask = read_to_ask(task, split, limit, sources)
    chosen = to_ask.ask.sources if sources else ()
    account = Account(Budget(tokens, money))
    state.prepare()
    with Cache(state.home / FILE) as cache:
        line = Line(settings, endpoint, cache, account)
        check(line, chosen)
        with shown(account) as told:
            asked = ask_task(to_ask, line, chosen, told)
    whole = not asked.stopped and not asked.unheard
    if asked.error and not (asked.heard and partial):
        raise asked.error
    written = asked.heard and (whole or partial)
    if written:
        write_task(place, to_ask, asked, settings, endpoint, datetime.now(UTC))
    model = settings.endpoint(endpoint)
    facts = facts_of(asked) | {"task": str(place) if written else None, "endpoint": model.name, "model": model.model,
                               "stopped": asked.stopped or None, "without_reply": dict(asked.unheard)}
    if as_json:
        print_json(facts)
    else:
        show(facts)
        if written:
            show_next(facts, bool(task.sources or asked.sources or task.sources_path), str(place))
    if asked.stopped == "interrupted":
        err.print(go_on(facts, "was interrupted", written), highlight=False, soft_wrap=True)
        raise typer.Exit(130)
    if asked.error:
        raise asked.error
    if not asked.heard:
        raise CheckFailed(nothing_heard(asked))
    if not whole:
        why = "was stopped by its budget" if asked.stopped else "got no reply to some questions"
        raise CheckFailed(go_on(facts, why, written))
