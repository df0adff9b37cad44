"""The Bento: a scorer behind HTTP. It starts from a bundle, whose model BentoML keeps under an alias."""

import logging
import os
import sys
from pathlib import Path

import bentoml

from monitoring.store import Store
from registry.chain import Entry, content
from registry.database import connect
from registry.history import in_production_by_log
from registry.keys import Keys
from serving.app import make_app
from serving.desk import Desk, Meters
from serving.following import Follower
from serving.opening import open_scorer, open_signed
from serving.scorer import Scorer
from training.errors import CheckFailed, InputError, PolarscoreError
from training.state import State

ALIAS = "scorer"
"""The name under which a bundle keeps its model; `registry.export` writes it."""

FOLLOW = "POLARSCORE_FOLLOW"
"""Set to 1, the service follows the registry; `serving.launch` sets it."""

LOG = logging.getLogger("bentoml.polarscore")

app = make_app()


@bentoml.service(name="polarscore", workers=1, traffic={"timeout": 300}, metrics={"enabled": True})
@bentoml.asgi_app(app, path="/")
class RiskScorer:
    """Risk scores for the answers of an LLM."""

    def __init__(self) -> None:
        """Load the bundle's model and its encoder once, and warm both up; then follow the registry, if wanted."""
        state = State.from_environment().prepare()
        scorer = load_scorer(Keys.of(state))
        scorer.warm_up()
        say_who_signed(scorer)
        self._store = Store(state.database_url)
        app.state.desk = Desk(scorer, self._store, Meters())
        self._follower = follow(app.state.desk, state) if follows() else None

    @bentoml.on_shutdown
    def close(self) -> None:
        """Look for no other version; give the store's connections back."""
        if self._follower:
            self._follower.close()
        self._store.close()

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Before any worker starts, since workers that fail are started again: one line of what is wrong."""
        try:
            state = State.from_environment().prepare()
            follows()
            load_scorer(Keys.of(state), device="cpu")
            Store(state.database_url).close()
        except PolarscoreError as error:
            print(f"polarscore: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        # workers start in another folder
        os.environ |= {"POLARSCORE_HOME": str(state.home), "POLARSCORE_KEYS": str(state.keys)}


def load_scorer(keys: Keys, device: str | None = None) -> Scorer:
    """The scorer of the bundle that BentoML serves.

    Raises:
        InputError: it serves none, the bundle's files are missing or damaged, or its encoder is.
        CheckFailed: the files are not those that were signed, or not by a key that this machine trusts.
    """
    try:
        model = bentoml.models.get(ALIAS)
    except bentoml.exceptions.NotFound:
        raise InputError("this is the service without a bundle, so it has no model. "
                         "Run `polarscore bundle --model …`, then `polarscore serve`.") from None
    return open_scorer(Path(model.path), model.info.metadata, keys, device)


def follow(desk: Desk, state: State) -> Follower:
    """Start to follow the log in the state's database, with the versions that BentoML's store has."""
    models = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"
    engine, model = connect(state.database_url), desk.scorer.name
    follower = Follower(desk, lambda: vouched(in_production_by_log(engine, model), Keys.of(state)),
                        lambda version, files: open_signed(models, model, version, Keys.of(state), files))
    follower.start()
    return follower


def vouched(entry: Entry | None, keys: Keys) -> Entry | None:
    """The entry, if a key that this machine trusts signed it; where it trusts none, as it is.

    Raises:
        CheckFailed: it is not as it was signed.
    """
    if entry and keys.trusted and not keys.made_by(content(entry), entry.signature or "", entry.key or ""):
        raise CheckFailed(f"the log's {entry.words} is not signed by a key that is trusted here")
    return entry


def follows() -> bool:
    """Whether the service should follow the registry.

    Raises:
        InputError: the variable says neither yes nor no.
    """
    said = os.environ.get(FOLLOW, "")
    if said not in ("", "0", "1"):
        raise InputError(f"{FOLLOW} should be 1, or 0 or nothing. Found '{said[:20]}'.")
    return said == "1"


def say_who_signed(scorer: Scorer) -> None:
    """One line in the log of what the signature proves here."""
    key, what = scorer.proof.signed_by, f"version {scorer.version} of {scorer.name}"
    if key is None:
        LOG.warning("%s is not signed: nothing shows whether its files are those that were trained", what)
    elif scorer.proof.trusted:
        LOG.info("%s is signed by key %s, which this machine trusts", what, key)
    else:
        LOG.warning("%s is signed by key %s, which came with it: a changed byte shows, a replaced bundle does not. "
                    "Put the public keys that you trust into POLARSCORE_KEYS/trusted", what, key)
