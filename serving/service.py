"""The Bento: a scorer behind HTTP. It starts from a bundle, whose model BentoML keeps under an alias."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import cache, partial
from operator import attrgetter
from pathlib import Path

import bentoml
import sqlalchemy as sa

from monitoring.forgetting import Places, forget, journal_of
from monitoring.journal import Journal
from monitoring.store import Store
from registry.chain import Entry, content
from registry.history import in_production_by_log, in_staging_by_log, threshold_by_log
from registry.keys import Keys
from registry.stages import STAGING
from serving import connections
from serving.app import make_app, room
from serving.batcher import Batcher, BatchMeters
from serving.config import SERVICE, ServiceConfig, config_from
from serving.correct_means import cache_of, check_fits, doubts, means_of
from serving.correcting import open_corrector
from serving.desk import Desk
from serving.following import Follower, LookUp, seat_fixed
from serving.guard import Guard
from serving.keyfile import API_KEYS, keys_path, read_keys
from serving.lineup import Lineup
from serving.meters import Meters
from serving.opening import open_scorer, open_signed
from serving.scorer import BY_DEFAULT, How, Scorer
from training.capacity import has_bf16
from training.embeddings import EmbeddingCache
from training.encoder import Encoder, best_device
from training.errors import CheckFailed, InputError, PolarscoreError
from training.spec import EncoderSpec
from training.state import State

ALIAS = "scorer"
"""The name under which a bundle keeps its model; `registry.export` writes it."""

FOLLOW = "POLARSCORE_FOLLOW"
"""Set to 1, the service follows the registry; `serving.launch` sets it."""

DRAIN_S = 10.0  # how long the journal may take to drain when the service stops; the next one goes on with the rest

SWITCH_S = 0.0005  # how long a thread may keep the one that scores from going on: by default ten times that

LOG = logging.getLogger("bentoml.polarscore")

connections.install()
app = make_app()


@bentoml.service(name="polarscore", workers=1, traffic={"timeout": 300}, metrics={"enabled": True})
@bentoml.asgi_app(app, path="/")
class RiskScorer:
    """Risk scores for the answers of an LLM."""

    def __init__(self) -> None:
        """Load the bundle's model and its encoder once, and warm both up; then look for the versions beside it."""
        sys.setswitchinterval(SWITCH_S)
        state, config = State.from_environment().prepare(), config_from()
        how = how_of(state, config)
        scorer = load_scorer(Keys.of(state), how=how)
        scorer.warm_up()
        say_who_signed(scorer)
        self._ended = threading.Event()
        self._store = Store(state.database_url, patient=True)
        self._journal = Journal(journal_of(state), self._store, config.keeping.journal, config.keeping.days,
                                embeddings=state.embeddings)
        self._journal.start()
        meters = Meters()
        meters.watch(lambda: self._journal.waiting, self._ended, lambda: self._journal.refused)
        places = Places(self._store, journal_of(state), state.embeddings)
        self._desk = Desk(Lineup(scorer, None, config.beside.percent), self._journal, meters, config,
                          erase=lambda ids: forget(ids, places), store=self._store)
        self._batcher = Batcher(self._desk.finish, attrgetter("tokens"),
                                config.batching.tokens or scorer.pack_tokens, config.batching.wait, BatchMeters())
        self._follower = stand_beside(self._desk, self._store, state, config, how)
        means = means_of(config, state)
        for doubt in doubts(means, scorer):
            LOG.warning("%s", doubt)
        self._corrector = open_corrector(means, config, state)
        app.state.config, app.state.desk, app.state.batcher = config, self._desk, self._batcher
        app.state.corrector = self._corrector

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Finish what was let in, look for no other version, drain the journal, give everything back.

        In a thread, so that what was cut short can still end in the event loop.
        """
        if self._corrector:
            try:
                await self._corrector.close()
            except Exception as error:
                LOG.error("%s while the service stopped asking the LLM", type(error).__name__)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._ended.set()
        follower = [self._follower.close] if self._follower else []
        for end in (self._batcher.close, *follower, self._drain, self._desk.close, self._store.close):
            try:
                end()
            except Exception as error:  # whatever fails, the others end, too
                LOG.error("%s while the service stopped", type(error).__name__)

    def _drain(self) -> None:
        if left := self._journal.close(DRAIN_S):
            LOG.warning("%d rows are left in the journal; the next service moves them to the store", left)

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Before any worker starts, since workers that fail are started again: one line of what is wrong."""
        try:
            state = State.from_environment().prepare()
            follows()
            config = config_from()
            read_keys(keys_path(state))
            means = means_of(config, state)
            with closing(load_scorer(Keys.of(state), "cpu", how_of(state, config))) as scorer:
                check_fits(means, scorer)
            if means:
                cache_of(config, state).close()
            with Store(state.database_url, patient=True) as store:
                Journal(journal_of(state), store, config.keeping.journal).close(0)
        except PolarscoreError as error:
            print(f"polarscore: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        # workers start in another folder
        os.environ |= {"POLARSCORE_HOME": str(state.home), "POLARSCORE_KEYS": str(state.keys),
                       API_KEYS: str(keys_path(state))}
        if named := os.environ.get(SERVICE):
            os.environ[SERVICE] = str(Path(named).absolute())


RiskScorer.add_asgi_middleware(Guard, room=partial(room, app))  # type: ignore[attr-defined]  # what `bentoml.service` makes of a class


def how_of(state: State, config: ServiceConfig) -> How:
    """How the service's versions are to score: texts that were encoded before, by whatever, are not encoded again.

    What the service encodes goes into the file only where it may keep something of a text.
    """
    @cache
    def vectors(spec: EncoderSpec) -> EmbeddingCache:  # one for all versions on an encoder
        exact = not has_bf16(best_device())  # others rely on vectors in float32
        return EmbeddingCache(state.embeddings, partial(Encoder, spec.name), spec,
                              writes=exact and config.keeping.text != "drop")

    return How(vectors, config.batching.tokens, config.source_seconds)


def load_scorer(keys: Keys, device: str | None = None, how: How = BY_DEFAULT) -> Scorer:
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
    return open_scorer(Path(model.path), model.info.metadata, keys, device, how)


def stand_beside(desk: Desk, store: Store, state: State, config: ServiceConfig, how: How) -> Follower | None:
    """Seat the second version, if one is wanted, and start to follow what is to be followed in the log.

    What the log says holds once this returns, unless it cannot be read soon. The versions are those that BentoML's
    store has.
    """
    models = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"
    model, beside = desk.scorer.name, config.beside.version

    def opener(version: str, files: str | None) -> Scorer:
        return open_signed(models, model, version, Keys.of(state), files, how=how)

    if beside and beside != STAGING:
        seat_fixed(desk, beside, opener)
    if not follows() and beside != STAGING:
        return None

    def by_log(read: Callable[[sa.Engine, str], Entry | None]) -> LookUp:
        return lambda: vouched(read(store.engine, model), Keys.of(state))

    follower = Follower(desk, by_log(in_production_by_log) if follows() else None, opener,
                        staging=by_log(in_staging_by_log) if beside == STAGING else None,
                        threshold=by_log(threshold_by_log) if follows() else None)
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
