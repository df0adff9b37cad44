"""What a correction leaves: files, a run in MLflow, and what is told on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from serving.correction.ways import WAYS
from training.errors import InputError
from training.printing import err, out, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from serving.correction.habits_file import Way
    from serving.correction.job import Correction
    from training.state import State


def keep(
    state: "State", found: "Correction", target: Path | None, habits: Path | None
) -> tuple[dict[str, Any], "Figure"]:
    """The figures and the picture, which are in MLflow then. What was paid for is written before all else.

    Raises:
        InputError: a file cannot be written, or MLflow cannot keep the run.
    """
    from serving.correction.target import frame_of, write
    from serving.correction.told import as_json, metrics, picture, settings
    from training.tracking_correction import log_correction

    if target:
        write(frame_of(found.table, found.judged, found.course), target)
    if habits and (why := nothing_to_learn(found)):
        _tell(f"warning: --habits {habits} is not written: {why}")
        habits = None
    if habits:
        _write_habits(found, habits)
    content, drawn = as_json(found), picture(found)
    run_id = log_correction(state, found.version.model, found.version.version, settings(content), metrics(content),
                            content, drawn)
    return content | {"out": target and str(target), "habits": habits and str(habits), "run_id": run_id}, drawn


def nothing_to_learn(found: "Correction") -> str | None:
    """Why there are no habits that a service could go by; None where there are."""
    if not found.course.chosen.habits.asked:
        return "nothing was learned, as no question was answered with a class."
    return None if found.course.way in WAYS else no_way(found.course.way)


def no_way(way: str) -> str:
    """A line on a way that only the data know."""
    return f"a service asks again by {', '.join(WAYS)}. '{way[:60]}' is a way of the data alone."


def show(content: dict[str, Any]) -> None:
    """For people: the table, what it comes to, and where it is."""
    from serving.correction.told import table

    out.print(table(content))
    say(content["words"])
    if content["measured_words"]:
        say(content["measured_words"])
    if len(content["ways"]) > 1:
        say("by the pilots, asking all is expected to gain "
            + ", ".join(f"{100 * one['expected_gain']:.1f} points by '{way}'" for way, one in content["ways"].items()))
    cost = "" if content["cost"] is None else f"; all {content['questions']:,} questions cost {content['cost']:.4g}"
    say(f"asked {content['asked']:,} of {content['n']:,} again by '{content['way']}', {content['pilot']:,} of them as "
        f"a pilot; {content['changed']:,} answers changed{cost}")
    if content["without_answer"]:
        say("no new answer: " + ", ".join(f"{reason} {count}" for reason, count in content["without_answer"].items()))
    for name, what in (("out", f"{content['n']:,} rows"), ("habits", "what was learned")):
        if content[name]:
            say(f"{what} written to {content[name]}")
    say(f"logged as run {content['run_id']}")


def warn(found: "Correction") -> None:
    """What went another way than was asked for, on standard error."""
    course = found.course
    if found.trouble:
        _tell(f"warning: asking broke off, and what was said until then counts: {found.trouble}")
    if course.stopped:
        more = "" if found.trouble or not course.chosen.habits.asked else "; --anyway goes on"
        _tell(f"stopped after {course.questions:,} questions of the pilot, and the first answers stay{more}")


def draw(figure: "Figure", path: Path) -> None:
    """Write the picture.

    Raises:
        InputError: it cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"--plot {path} cannot be written: {error.strerror}. It is in MLflow.") from None


def _write_habits(found: "Correction", path: Path) -> None:
    from serving.correction.habits_file import Learned, write_habits

    course = found.course
    write_habits(Learned(cast("Way", course.way), course.chosen.habits, found.table.classes, course.chosen.margin,
                         found.version.model, str(found.version.version), found.llm), path)


def _tell(line: str) -> None:
    err.print(line, highlight=False, soft_wrap=True)
