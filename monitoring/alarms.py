"""Alarms: whether risk scores are still to be trusted, decided from labels and tallies and nothing else. Pure.

While nothing is wrong, each alarm ever rings with a probability of at most `settings.alpha`, however often one looks;
for that, give all that is known of one version since a fixed day. What each tests, its docstring says.
"""

from collections.abc import Callable, Mapping

from monitoring.alarm import Alarm as Alarm
from monitoring.alarm import Context as Context
from monitoring.alarm import State as State
from monitoring.alarm import as_json as as_json
from monitoring.alarms_labelled import LABELLED
from monitoring.alarms_unlabelled import UNLABELLED

ALARMS: Mapping[str, Callable[[Context], Alarm]] = {**LABELLED, **UNLABELLED}


def decide(context: Context) -> list[Alarm]:
    """Every alarm in `ALARMS`, in that order. What cannot be told is `unknown`, with the reason."""
    return [alarm(context) for alarm in ALARMS.values()]
