"""What a service asks again with: an endpoint, a way, and the habits of its LLM; checked at the start."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from serving.config import Correction, ServiceConfig
from serving.correct_memory import Memory
from serving.correction.habits_file import Learned, read_habits
from serving.llm.budget import Budget
from serving.llm.cache import FILE, Cache
from serving.llm.client import Client
from serving.llm.settings import Endpoint, settings_of
from serving.scorer import Scorer
from training.errors import InputError
from training.source_process import PRIVATE
from training.state import State

AGAIN = "Learn them of this one: polarscore correct --habits"


@dataclass(frozen=True)
class Means:
    """What `[correction]` comes to on this machine. learned: what its file of habits holds."""

    config: Correction
    endpoint: Endpoint
    learned: Learned


def means_of(config: ServiceConfig, state: State, environment: Mapping[str, str] = os.environ) -> Means | None:
    """The means of a service; None where nobody is to be asked again.

    Raises:
        InputError: the endpoint is unknown, not allowed or lacks its key; a key is in a variable that labelling
            functions would see; a budget in money lacks prices; or the habits are at fault, of another way or another
            LLM.
    """
    asks = config.correction
    if asks is None:
        return None
    settings = settings_of(state, asks.llm)
    endpoint = settings.endpoint(asks.endpoint)
    for each in settings.endpoints.values():
        if each.key is not None and not PRIVATE.search(each.key):
            raise InputError(f"the variable {each.key} holds the key of an LLM's endpoint, and labelling functions "
                             "would see it. Give it a name that has KEY, TOKEN or SECRET in it.")
    endpoint.secret(environment)
    Client(endpoint, Memory(), budget=Budget(asks.tokens, asks.money))  # connects to nothing, and checks the same
    learned = read_habits(asks.habits)
    if learned.way != asks.way:
        raise InputError(f"the habits {asks.habits} were learned by the way {learned.way}, and [correction] asks by "
                         f"{asks.way}. Set way = \"{learned.way}\", or learn them again.")
    if learned.llm and learned.llm != endpoint.model:
        raise InputError(f"the habits {asks.habits} are those of the LLM '{learned.llm[:80]}'. The endpoint "
                         f"'{endpoint.name}' has '{endpoint.model[:80]}'. {AGAIN}.")
    return Means(asks, endpoint, learned)


def check_fits(means: Means | None, scorer: Scorer) -> None:
    """Hold the means against the version of the bundle.

    Raises:
        InputError: the habits are of another model or of other classes.
    """
    if means is None:
        return
    if means.learned.model != scorer.name:
        raise InputError(f"the habits {means.config.habits} were learned by the risks of the model "
                         f"'{means.learned.model[:80]}'. The service has '{scorer.name}'. {AGAIN}.")
    means.learned.of(scorer.classes)


def doubts(means: Means | None, scorer: Scorer) -> list[str]:
    """What makes it less sure that the habits are those that the service meets, a line each."""
    if means is None:
        return []
    found, file = means.learned, means.config.habits
    return [line for line, holds in (
        (f"the habits {file} were learned by the risks of version {found.version or 'none'}; this is version "
         f"{scorer.version}", found.version != scorer.version),
        (f"the habits {file} do not say of which LLM they are", not found.llm)) if holds]


def cache_of(config: ServiceConfig, state: State) -> Cache:
    """Where replies are kept: on disk only where texts may be kept, since a reply may repeat one.

    Raises:
        InputError: the file cannot be opened.
    """
    return Cache(state.home / FILE) if config.keeping.text == "keep" else Memory()
