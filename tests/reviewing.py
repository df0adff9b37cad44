"""A service with answers to review: a real desk on a store, the app behind its guard, and keys."""

import atexit
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import anyio
import httpx
import sqlalchemy as sa
import uvicorn
from prometheus_client import CollectorRegistry

from monitoring.journal import Journal
from monitoring.sampling import Draw
from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.tables import FEEDBACK
from serving.access import added, issued
from serving.app import make_app
from serving.config import Keeping, ServiceConfig
from serving.desk import Desk
from serving.guard import Guard, Rules
from serving.keyfile import Keyring, change_keys
from serving.lineup import Lineup
from serving.meters import Meters
from serving.rates import Rates
from serving.review import Reviews
from tests.scorers import fake_scorer, write_version

MODEL, VERSION = "Reviews", "4"
TEXTS = (
    ("The plot is thin, the jokes are old, and yet Anna Karl and Ben Moor play it as if it were Chekhov. I laughed.",
     ((45, 54), (59, 67))),
    ("Two hours of rain, one good line.", None),
    ("I have seen worse. I have also seen better, on a plane, without sound, over the shoulder of a stranger.", None),
    ("A quiet film about a loud family. Its last scene is worth the whole evening.", None),
    ("Do not be put off by the title.", None),
    ("The sequel nobody asked for turns out to be the one that everybody needed.", None),
    ("It ends. That is the good news.", None),
    ("Lovely to look at, hard to sit through.", None),
)
LABEL = ("score_id", "label", "reviewer", "chosen", "trusted", "withdrawn")
START = datetime.now(UTC) - timedelta(hours=2)


def scored(number, text="A text", classes=("negative", "positive"), **changes):
    """An answer as the store keeps it; the higher the number, the lower its risk."""
    risk = max(0.02, 0.97 - 0.07 * number)
    answer = classes[number % 2]
    others = (1 - (1 - risk)) / (len(classes) - 1)
    probabilities = {name: 1 - risk if name == answer else others for name in classes}
    said = dict(
        score_id=f"s{number}", item_id=f"review-{number}", model=MODEL, version=VERSION, answer=answer,
        harmonizer_answer=max(probabilities, key=probabilities.get), risk=risk, probabilities=probabilities,
        votes={"friend": classes[(number + 1) % 2], "says_good": answer}, votes_used=True, text_length=len(text or ""),
        text=text, created_at=START + timedelta(seconds=number), decision="review" if risk > 0.5 else "ask again")
    return ScoredAnswer(**said | changes)


def answers():
    return [scored(number, text, spans=spans) for number, (text, spans) in enumerate(TEXTS)]


def drawn(store, *score_ids, draw_id="d1", probability=0.5):
    moment = datetime.now(UTC)
    store.add_draw(Draw(draw_id, MODEL, VERSION, moment, None, moment, len(score_ids), 1.0, 0.1, 0), list(score_ids),
                   [probability] * len(score_ids))


@cache
def a_scorer():
    """One for all stages, whose sources say what they rest on."""
    with tempfile.TemporaryDirectory() as place:
        scorer = fake_scorer(write_version(Path(place) / "v"), MODEL)
    atexit.register(scorer.close)
    spec = scorer.model.spec
    sources = tuple(each.model_copy(update={"evidence": f"Rests on {each.name}."}) for each in spec.sources)
    scorer.model = replace(scorer.model, spec=spec.model_copy(update={"sources": sources}))
    return scorer


class Stage:
    """The service, and what a test does with it: in process, or served to a browser."""

    def __init__(self, place, text="keep", listens="127.0.0.1", quickest=0.0, failures=30):
        self.store = Store(f"sqlite:///{place / 'store.db'}")
        self.journal = Journal(place / "journal.db", self.store)
        self.desk = Desk(Lineup(a_scorer()), self.journal, Meters(CollectorRegistry()),
                         ServiceConfig(keeping=Keeping(text=text)), store=self.store)
        self.keys = place / "keys.json"
        change_keys(self.keys, lambda keys: keys)
        ring = Keyring(self.keys)
        self.inner = make_app()
        self.inner.state.desk = self.desk
        self.inner.state.reviews = Reviews(self.desk, quickest=quickest)
        self.app = Guard(self.inner, Rules(ring.find, Rates(None, failures), listens, still=ring.still))

    def key(self, name, *scopes):
        kept, key = issued(name, scopes, datetime.now(UTC))
        change_keys(self.keys, lambda keys: added(keys, kept, datetime.now(UTC)))
        return key

    def labels(self):
        """What is in the store once all that waits is there."""
        while self.journal.drain():
            pass
        with self.store.engine.connect() as connection:
            rows = connection.execute(sa.select(*(FEEDBACK.c[name] for name in LABEL)).order_by(FEEDBACK.c.feedback_id))
            return [tuple(row) for row in rows]

    def say(self, score_id, label, reviewer, **said):
        said = {"trusted": True} | said
        self.store.add_feedback([Feedback(label, score_id, reviewer=reviewer, **said)])

    def browser(self, base="http://127.0.0.1:3000", client="127.0.0.1"):
        return Browser(self.app, base, client)

    @contextmanager
    def served(self):
        """Its address, on a free port of this machine."""
        server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)

    def close(self):
        self.journal.close()
        self.store.close()


class Browser:
    """Sends what a browser would, one request at a time, and keeps cookies."""

    def __init__(self, app, base, client):
        self._app, self._base, self._client, self.cookies = app, base, client, httpx.Cookies()

    def send(self, method, path, follow=True, **content):
        async def sending():
            transport = httpx.ASGITransport(app=self._app, client=(self._client, 5), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self._base, cookies=self.cookies,
                                         follow_redirects=follow) as client:
                response = await client.request(method, path, **content)
                self.cookies = client.cookies
                return response

        return anyio.run(sending)

    def get(self, path="/review", **content):
        return self.send("GET", path, **content)

    def post(self, path, follow=True, headers=None, **fields):
        headers = {"origin": self._base, "sec-fetch-site": "same-origin"} | (headers or {})
        return self.send("POST", path, follow, data=fields, headers=headers)
