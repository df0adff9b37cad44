"""The Bento: a scorer behind HTTP. It starts from a bundle, whose model BentoML keeps under an alias."""

import os
import sys
from pathlib import Path

import bentoml

from monitoring.store import Store
from serving.app import make_app
from serving.desk import Desk, Meters
from serving.scorer import Scorer
from training.errors import InputError
from training.state import State

ALIAS = "scorer"
"""The name under which a bundle keeps its model; `registry.export` writes it."""

app = make_app()


@bentoml.service(name="polarscore", workers=1, traffic={"timeout": 300}, metrics={"enabled": True})
@bentoml.asgi_app(app, path="/")
class RiskScorer:
    """Risk scores for the answers of an LLM."""

    def __init__(self) -> None:
        """Load the bundle's model and its encoder once, and warm both up."""
        scorer = load_scorer()
        scorer.warm_up()
        self._store = Store(State.from_environment().prepare().database_url)
        app.state.desk = Desk(scorer, self._store, Meters(scorer.name, scorer.version))

    @bentoml.on_shutdown
    def close(self) -> None:
        """Give the store's connections back."""
        self._store.close()

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Before any worker starts, since workers that fail are started again: one line of what is missing."""
        try:
            state = State.from_environment().prepare()
            load_scorer(device="cpu")
            Store(state.database_url).close()
        except InputError as error:
            print(f"polarscore: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        os.environ["POLARSCORE_HOME"] = str(state.home)  # workers start in another folder


def load_scorer(device: str | None = None) -> Scorer:
    """The scorer of the bundle that BentoML serves.

    Raises:
        InputError: it serves none, the bundle's files are missing or changed, or its encoder is.
    """
    try:
        model = bentoml.models.get(ALIAS)
    except bentoml.exceptions.NotFound:
        raise InputError("this is the service without a bundle, so it has no model. "
                         "Run `polarscore bundle --model …`, then `polarscore serve`.") from None
    facts = model.info.metadata
    scorer = Scorer.from_folder(Path(model.path), str(facts["version"]), device, name=str(facts["model"]))
    if scorer.digest != facts["digest"]:
        raise InputError(f"the files of {model.tag} are not those that were bundled. Bundle the version again.")
    return scorer
