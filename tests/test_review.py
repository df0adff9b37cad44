import re
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import get_args
from unittest.mock import Mock
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from monitoring import tables
from monitoring.patience import Patience
from serving import review_bins, review_plot, schema
from serving.access import issued, revoked
from serving.entry import Visitor, from_own_page
from serving.keyfile import change_keys
from serving.review import HOLD_S
from serving.review_asking import Asking
from serving.review_bins import VERSIONS, Plots, bins_of
from serving.review_page import View, door, page
from serving.review_plot import bins, svg
from serving.review_routes import FORM
from serving.review_sessions import MOST_EACH, REMEMBERED, Session, Sessions, remember
from serving.review_text import LONGEST, shown
from tests.reviewing import MODEL, VERSION, Stage, answers, drawn, scored
from training import calibration

FAR, FAR_BASE = "10.0.0.8", "http://review.example"


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.store.add_scores(answers())
    yield stage
    stage.close()


def fields(response, action="review/label"):
    """The hidden fields of a page's form."""
    form = re.search(rf'<form method="post" action="{action}".*?</form>', response.text, re.DOTALL)[0]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))


def asked(response):
    """Which answer a page shows."""
    found = re.search(r'name="score_id" value="(s\w+)">\n<input type="hidden" name="seen"', response.text)
    return found and found[1]


def notice(response):
    found = re.search(r'<p class="notice" role="(?:status|alert)"(?: id="notice")?>(.*?)</p>', response.text)
    return found and found[1].replace("&#39;", "'")


def choose(browser, response, **changes):
    return browser.post("/review/label", **fields(response) | changes)


def enter(stage, key, browser=None):
    browser = browser or stage.browser(FAR_BASE, FAR)
    form = fields(browser.get(), "review/login")
    return browser, browser.post("/review/login", key=key, **form)


class Looks(HTMLParser):
    """What a browser would make of a page: its elements, and its words."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


# A text


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4),
       st.integers(1, 70))
def test_pieces_join_to_the_text_and_each_entity_has_its_own(text, spans, longest):
    plain = "".join(sign for sign in text if shown(sign).pieces and shown(sign).pieces[0].text == sign)
    spans = [(start, end) for start, end in spans if start < end <= len(plain)]
    found = shown(plain, spans, longest)
    assert "".join(piece.text for piece in found.pieces) == plain[:longest]
    assert found.cut == max(0, len(plain) - longest)
    for number, (start, end) in enumerate(spans, 1):
        assert "".join(piece.text for piece in found.pieces if number in piece.entities) == plain[start:end][
            : max(0, longest - start)]
        assert sum(number in piece.opens for piece in found.pieces) == (start < longest) == (number not in found.beyond)


def test_entities_are_marked_where_characters_beyond_the_basic_plane_come_before():
    found = shown("🙂🙂 Anna 👩‍👧 Karl", ((3, 7), (12, 16)))
    marked = [(piece.text, piece.entities) for piece in found.pieces if piece.entities]
    assert marked == [("Anna", (1,)), ("Karl", (2,))]


def test_what_turns_the_direction_or_cannot_be_seen_is_shown_by_its_name():
    (piece,) = shown("safe \u202e evil \u2066 \x1b[31m \x7f \u0085\n\tend \u05d0").pieces
    assert piece.text == "safe ⟨U+202E⟩ evil ⟨U+2066⟩ ␛[31m ␡ ⟨U+0085⟩\n\tend \u05d0"


@pytest.mark.parametrize("sign", ["\u200b", "\u200e", "\u200f", "\u061c", "\u2060", "\ufeff", "\u00ad", "\u3164",
                                  "\U000e0041", "\U000e0101", "\u200d", "\u200c"])
def test_what_has_no_width_is_shown_by_its_name(sign):
    assert shown(f"a{sign}b").pieces[0].text == f"a⟨U+{ord(sign):04X}⟩b"


@pytest.mark.parametrize("text", ["👩\u200d👧", "❤\ufe0f\u200d🔥", "می\u200cخواهم", "क्\u200dष"])
def test_joiners_that_join_stay(text):
    assert shown(text).pieces[0].text == text


# A page


def view(**changes):
    found = View(reviewer="anna", trusted=True, signed_in=True, model=MODEL, queue="sample", hidden={"queue": "sample"},
                 links=dict.fromkeys(("sample", "riskiest", "second"), "review"), checked=1, mine=1, left=2,
                 filters=dict.fromkeys(("version", "class", "least", "most", "plotted", "any"), ""))
    return replace(found, **changes)


EVIL = '</div><script>alert(1)</script><img src=x onerror=alert(2)>"\'&{{ 7*7 }}'


def test_a_text_full_of_html_stays_text(stage):
    classes = (EVIL, "positive")
    stage.store.add_scores([scored(0, EVIL, classes, score_id="sevil", item_id=EVIL, version=EVIL, risk=0.99,
                                   votes={EVIL: EVIL}, spans=((2, 9),))])
    response = stage.browser().get("/review", params={"queue": "riskiest", "version": EVIL, "class": EVIL})
    looks = Looks(response.text)
    assert [tag for tag, _ in looks.tags].count("script") == 1
    assert next(attrs["src"] for tag, attrs in looks.tags if tag == "img").startswith("review/plot.svg?")
    assert not any(name.startswith("on") for _, attrs in looks.tags for name in attrs)
    assert "".join(looks.words).count(EVIL) >= 5
    found = choose(stage.browser(), response, said="9" * 30)  # another browser, without its session
    assert found.status_code == 403


def test_it_is_small_and_says_all_of_what_is_known(stage):
    drawn(stage.store, "s0")
    response = stage.browser().get()
    assert len(response.content) < 30_000 and response.headers["cache-control"] == "no-store"
    words = " ".join("".join(Looks(response.text).words).split())
    for said in ("Sample 1 left", "review-0", "version 4", "The LLM says negative", "risk 0.97", "advice: review",
                 "97 %", "By the text alone: positive", "says_good: negative agrees Rests on says_good. Such a vote is "
                 "right in about", "friend: positive differs Rests on friend.", "Reviewer local", "checked today0"):
        assert said in words
    marks = re.findall(r'<mark class="(e\d)"><sup><span class="vh">entity </span>(\d)</sup>(.*?)</mark>', response.text)
    assert marks == [("e1", "1", "Anna Karl"), ("e2", "2", "Ben Moor")]


def test_ids_and_labels_of_the_page_are_distinct_and_refer_to_something(stage):
    for html in (stage.browser().get().text, page(view(), "t"), door("t", "")):
        tags = Looks(html).tags
        ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        for tag, attrs in tags:
            assert {*attrs.get("aria-labelledby", "").split(), attrs.get("for") or ids[0]} <= set(ids)
            assert tag != "img" or attrs["alt"]
            assert "style" not in attrs
        named = {attrs["for"] for tag, attrs in tags if "for" in attrs}
        shown_inputs = [attrs for tag, attrs in tags if tag in ("input", "select") and attrs.get("type") not in (
            "hidden", "checkbox") and "hidden" not in attrs]
        assert all(attrs["id"] in named for attrs in shown_inputs)


@pytest.mark.parametrize(("text", "words"), [("drop", 'put <code>text = "keep"</code>'), ("keep", "kept no texts")])
def test_without_a_text_the_page_says_so_and_shows_the_rest(tmp_path, text, words):
    stage = Stage(tmp_path, text)
    stage.store.add_scores([scored(0, None, text_length=17)])
    response = stage.browser().get()
    assert "is not kept (17 characters)" in response.text and words in response.text
    assert 'class="text"' not in response.text and "What the harmonizer thinks" in response.text
    stage.close()


def test_a_huge_text_is_cut_with_a_word(stage):
    stage.store.add_scores([scored(0, "word " * 10_000, score_id="shuge", risk=0.99, spans=((0, 4), (40_000, 40_004)))])
    response = stage.browser().get("/review?queue=riskiest")
    assert "goes on for 30,000 characters, which are\n not shown. Entity 2 lies there." in response.text
    assert len(response.content) < LONGEST + 20_000


def test_more_than_nine_classes_are_found_by_typing(stage):
    classes = tuple(f"class {number}" for number in range(40))
    stage.store.add_scores([scored(0, "A text", classes, score_id="smany", risk=0.99, votes={})])
    browser = stage.browser()
    response = browser.get("/review?queue=riskiest")
    assert response.text.count("<option value=\"class ") == 40 and "and 31 less probable" in response.text
    assert "No source voted." in response.text
    forms = re.findall(r'<form method="post" action="review/label".*?</form>', response.text, re.DOTALL)
    assert [('name="said"' in form, 'id="other"' in form) for form in forms] == [(True, False), (False, True)]
    both = choose(browser, response, said="0", other="class 17")
    assert notice(both) == "Two classes were chosen. Nothing was saved." and stage.labels() == []
    refused = choose(browser, both, other="class 99")
    assert notice(refused) == "“class 99” is no class. Nothing was saved." and asked(refused) == "smany"
    assert notice(choose(browser, refused, other="", said="")) == "No class was chosen. Nothing was saved."
    assert notice(choose(browser, refused, other=" class 17 ")) == "Saved: “class 17”."
    assert stage.labels() == [("smany", "class 17", "local", "risk", False, False)]


def test_a_class_that_is_both_typed_and_chosen_is_saved(stage):
    browser = stage.browser()
    assert notice(choose(browser, browser.get(), said="0", other="negative ")) == "Saved: “negative”."


def test_an_answer_that_the_llm_did_not_give_is_labelled_by_its_score_id(stage):
    stage.store.add_scores([scored(0, score_id="snone", answer=None, risk=None)])
    browser = stage.browser()
    response = browser.get("/review?score=snone")
    assert "What is the right answer?" in response.text and "Yes, it is right" not in response.text
    choose(browser, response, said="1")
    assert stage.labels() == [("snone", "positive", "local", "whim", False, False)]


# Labels


def test_labels_come_one_after_the_other_and_say_how_the_answer_was_chosen(stage):
    drawn(stage.store, "s3", "s1")
    browser = stage.browser()
    response = browser.get()
    assert asked(response) == "s3"
    response = choose(browser, response, said="1")  # the LLM was right
    assert (notice(response), asked(response)) == ("Saved: “positive”.", "s1")
    response = choose(browser, response, said="0")
    assert asked(response) is None and "Every drawn answer has a label" in response.text
    assert asked(browser.get()) == "s0"  # nothing is left of the sample
    choose(browser, browser.get("/review?queue=riskiest"), said="0")
    choose(browser, browser.get("/review?queue=riskiest&class=positive"), said="0")  # not by its risk alone
    stage.say("s4", "negative", "bob")
    choose(browser, browser.get("/review?queue=second"), said="0")
    response = browser.get()
    assert "<dd>6</dd>" not in response.text and "<dd>5</dd>" in response.text
    assert [row for row in stage.labels() if row[2] == "local"] == [
        ("s3", "positive", "local", "risk", False, False), ("s1", "negative", "local", "risk", False, False),
        ("s0", "negative", "local", "risk", False, False), ("s5", "negative", "local", "whim", False, False),
        ("s4", "negative", "local", "whim", False, False)]
    frame = stage.store.frame(MODEL).set_index("score_id")
    assert frame["chosen"].loc[["s3", "s1", "s0"]].tolist() == ["drawn", "drawn", "risk"]
    assert frame["probability"].notna().loc["s3"] and frame["probability"].isna().loc["s0"]


def test_a_form_that_comes_twice_is_one_label(stage):
    browser = stage.browser()
    response = browser.get()
    once = choose(browser, response, said="0")
    twice = choose(browser, response, said="0")
    assert asked(once) == asked(twice) == "s1" and len(stage.labels()) == 1
    other = choose(browser, response, said="1")  # an old page
    assert notice(other) == "This page was out of date, so nothing was saved. Choose again."
    assert asked(other) == "s0" and "You said <strong><bdi>negative</bdi>" in other.text and len(stage.labels()) == 1
    choose(browser, other, said="1")
    assert [row[:2] for row in stage.labels()] == [("s0", "negative"), ("s0", "positive")]


def test_a_label_that_comes_too_soon_is_not_meant(tmp_path):
    stage = Stage(tmp_path, quickest=60.0)
    stage.store.add_scores(answers())
    browser = stage.browser()
    response = choose(browser, browser.get(), said="0")
    assert "sooner than this answer could be read" in notice(response) and asked(response) == "s0"
    assert asked(choose(browser, response, skip="this")) == "s1" and stage.labels() == []
    stage.close()


def test_undo_takes_back_what_was_said_and_no_more(stage):
    browser = stage.browser()
    response = choose(browser, browser.get(), said="0")
    response = choose(browser, response, said="0")
    back = fields(response, "review/undo")
    assert back["score_id"] == "s1"
    response = browser.post("/review/undo", **back)
    assert notice(response) == "Taken back: “negative”." and asked(response) == "s1"
    again = browser.post("/review/undo", **back)  # the same form once more
    assert asked(again) == "s1" and [row[5] for row in stage.labels()] == [False, False, True]
    response = choose(browser, again, said="1")
    assert asked(response) == "s2"
    response = browser.get("/review?score=s1")
    response = choose(browser, response, said="0")  # a correction, taken back to what stood before
    browser.post("/review/undo", **fields(browser.get(), "review/undo"))
    assert stage.labels()[-1] == ("s1", "positive", "local", "risk", False, False)
    assert stage.store.frame(MODEL).set_index("score_id")["label"].loc["s1"] == "positive"
    for _ in range(2):
        response = browser.post("/review/undo", **fields(browser.get(), "review/undo"))
    assert "review/undo" not in response.text
    assert len(stage.labels()) == 8 and stage.store.frame(MODEL)["label"].isna().all()


def test_one_reviewer_at_two_browsers_is_one(stage):
    """Whether the store has the labels yet or not."""
    key = stage.key("anna", "review")
    for settled in (False, True):
        one, other = (enter(stage, key)[0] for _ in range(2))
        first = choose(one, one.get("/review?queue=riskiest"), said="0")
        score_id = fields(first, "review/undo")["score_id"]
        if settled:
            stage.labels()
        there = other.get(f"/review?score={score_id}")
        assert "You said <strong><bdi>negative</bdi>" in there.text
        assert asked(other.get("/review?queue=riskiest")) != score_id
        assert notice(choose(other, there, said="1")) == "Saved: “positive”."
        if settled:
            stage.labels()
        assert "You said <strong><bdi>positive</bdi>" in one.get(f"/review?score={score_id}").text
        n = len(stage.labels())
        told = one.post("/review/undo", **fields(one.get(), "review/undo"))
        assert notice(told) == "You have labelled this answer elsewhere since, so nothing was taken back."
        assert len(stage.labels()) == n and "review/undo" not in told.text
        assert notice(other.post("/review/undo", **fields(other.get(), "review/undo"))) == "Taken back: “positive”."
        assert stage.labels()[-1][:2] == (score_id, "negative")
        other.post("/review/label", **fields(other.get(f"/review?score={score_id}")), said="1")


def test_a_correction_by_another_way_is_seen_once_the_store_has_it(stage):
    browser = stage.browser()
    response = choose(browser, browser.get(), said="0")
    stage.labels()
    stage.say("s0", "positive", "local", trusted=False)
    assert "You said <strong><bdi>positive</bdi>" in browser.get("/review?score=s0").text
    told = browser.post("/review/undo", **fields(response, "review/undo"))
    assert "elsewhere since" in notice(told) and len(stage.labels()) == 2


def test_two_reviewers_at_once_look_at_two_answers(stage):
    drawn(stage.store, "s3", "s1")
    anna, bob = (enter(stage, stage.key(name, "review")) for name in ("anna", "bob"))
    assert (asked(anna[1]), asked(bob[1])) == ("s3", "s1")
    assert asked(anna[0].get()) == "s3"
    _, response = enter(stage, stage.key("cleo", "review"))
    assert asked(response) == "s3"  # nothing else waits
    stage.inner.state.reviews._clock = lambda: time.monotonic() + HOLD_S + 1
    assert asked(bob[0].get()) == "s3"


def test_an_undo_gives_the_sample_its_answer_back_at_once(stage):
    drawn(stage.store, "s3", "s1")
    browser = stage.browser()
    left = re.compile(r'class="count">(\d+)<')
    response = choose(browser, browser.get(), said="1")
    stage.labels()
    assert left.search(browser.get().text)[1] == "1"
    response = browser.post("/review/undo", **fields(response, "review/undo"))
    assert left.search(response.text)[1] == "2"
    stage.labels()
    assert left.search(browser.get().text)[1] == "2"


def test_what_is_skipped_comes_again_when_it_is_asked_for(stage):
    drawn(stage.store, "s0", "s1")
    browser = stage.browser()
    response = choose(browser, choose(browser, browser.get("/review?queue=sample"), skip="this"), skip="this")
    assert asked(response) is None and "Show the 2 skipped again" in response.text
    assert asked(choose(browser, response, skip="none")) == "s0" and stage.labels() == []


def test_nobody_sees_what_others_said_before_saying_it(stage):
    stage.say("s0", "negative", "bob")
    stage.say("s1", "negative", "bob")
    stage.say("s1", "positive", "cleo")
    browser, _ = enter(stage, stage.key("anna", "review"))
    response = browser.get("/review?queue=second")
    assert asked(response) == "s1" and "Second opinion" in response.text
    for name in ("bob", "cleo", "disput", "disagree"):
        assert name not in response.text
    aside = response.text.replace("s1", "s0")
    lonely = browser.get("/review?score=s5").text
    assert aside.count("positive") == lonely.count("positive")  # nothing tells the labels
    response = choose(browser, response, said="1")
    assert asked(response) == "s0"
    assert asked(choose(browser, response, said="0")) is None
    assert stage.labels()[-1] == ("s0", "negative", "anna", "whim", True, False)


def test_an_answer_that_was_erased_meanwhile_is_told(stage):
    browser = stage.browser()
    response = browser.get()
    with stage.store.erasing(["review-0"], datetime.now(UTC)):
        pass
    response = choose(browser, response, said="0")
    assert notice(response).startswith("This answer is not kept any more") and asked(response) == "s1"


def test_a_store_that_is_away_is_told_and_nothing_is_lost(stage, monkeypatch):
    browser = stage.browser()
    response = browser.get()
    with monkeypatch.context() as patch:
        patch.setattr(Patience, "ask", Mock(side_effect=TimeoutError))
        away = browser.get()
        assert away.status_code == 503 and away.headers["content-type"].startswith("text/html")
        assert "The prediction store cannot be reached now" in away.text
        assert choose(browser, response, said="0").status_code == 503
    assert stage.labels() == []
    assert notice(choose(browser, response, said="0")) == "Saved: “negative”."


# Who may


def test_beyond_this_machine_there_is_a_form_and_nothing_else(stage):
    browser = stage.browser(FAR_BASE, FAR)
    response = browser.get()
    assert response.status_code == 401 and "Sign in to review" in response.text and "review-0" not in response.text
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert "script-src 'sha256-" in response.headers["content-security-policy"]
    assert browser.get("/review/plot.svg").status_code == 401
    for path in ("/review/label", "/review/undo"):
        told = browser.post(path, **fields(response, "review/login"), score_id="s0", said="0")
        assert told.status_code == 401 and 'action="../review/login"' in told.text
    assert browser.get("/version").status_code == 401
    assert stage.labels() == []


def test_a_key_opens_a_session_whose_cookie_nobody_else_reads(stage):
    key = stage.key("anna", "review")
    browser, response = enter(stage, key)
    assert response.status_code == 200 and asked(response) == "s0" and "Reviewer <strong><bdi>anna" in response.text
    login = stage.browser("https://review.example", FAR)
    sent = login.post("/review/login", follow=False, key=key, **fields(login.get(), "review/login"))
    assert sent.status_code == 303 and sent.headers["location"] == "../review"
    name, *flags = sent.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-polarscore-review=") and len(name) > 60
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(flags) and "Domain" not in name
    plain = stage.browser(FAR_BASE, FAR).get().headers["set-cookie"]
    assert "Secure" not in plain and "HttpOnly" in plain and "SameSite=strict" in plain
    assert key not in response.text and key not in sent.headers["set-cookie"]
    response = choose(browser, response, said="0")
    assert stage.labels() == [("s0", "negative", "anna", "risk", True, False)]
    browser.post("/review/logout", **fields(response, "review/logout"))
    assert browser.get().status_code == 401


def test_a_session_has_an_id_that_was_not_known_before(stage):
    key = stage.key("anna", "review")
    browser = stage.browser(FAR_BASE, FAR)
    form = fields(browser.get(), "review/login")
    before = browser.cookies["polarscore-door"]
    browser.post("/review/login", key=key, **form)
    assert browser.cookies["polarscore-review"] != before and "polarscore-door" not in browser.cookies
    browser.cookies.set("polarscore-review", before)
    assert browser.get().status_code == 401


@pytest.mark.parametrize("scopes", [("feedback",), ("admin",), ("read", "score")])
def test_a_key_of_another_scope_opens_nothing(stage, scopes):
    browser, response = enter(stage, stage.key("other", *scopes))
    assert response.status_code == 403 and notice(response) == "This API key lacks the scope review."
    assert browser.get().status_code == 401


def test_an_admin_who_reviews_too_does_so_by_the_scope(stage):
    _, response = enter(stage, stage.key("both", "admin", "review"))
    assert response.status_code == 200 and "no automatic action counts them" not in response.text


def test_guesses_are_counted_like_others(tmp_path):
    stage = Stage(tmp_path, failures=3)
    key = stage.key("anna", "review")
    browser = stage.browser(FAR_BASE, FAR)
    form = fields(browser.get(), "review/login")
    told = [browser.post("/review/login", key="ps_guess", **form) for _ in range(5)]
    assert [each.status_code for each in told] == [401, 401, 401, 429, 429]
    assert notice(told[0]) == "This API key is unknown, expired or revoked." and "retry-after" in told[4].headers
    assert browser.post("/review/login", key=key, **form).status_code == 200  # a good one is never refused for them
    stage.close()


def test_a_revoked_key_ends_its_sessions(stage):
    browser, response = enter(stage, stage.key("anna", "review"))
    change_keys(stage.keys, lambda keys: revoked(keys, "anna", datetime.now(UTC)))
    told = choose(browser, response, said="0")
    assert told.status_code == 401 and notice(told) == "You are signed out, so nothing was saved. Sign in again."
    assert browser.get().status_code == 401 and stage.labels() == []


def test_a_link_of_another_site_signs_nobody_out(stage):
    """A browser sends no cookie with it, and then the page opens from itself, with the cookie."""
    for browser in (enter(stage, stage.key("anna", "review"))[0], stage.browser()):
        browser.get()
        kept = dict(browser.cookies)
        browser.cookies = httpx.Cookies()
        response = browser.get("/review?queue=second&class=%22><b>", headers={"sec-fetch-site": "cross-site"})
        assert response.status_code == 200 and "set-cookie" not in response.headers and "review-0" not in response.text
        to = next(attrs["content"] for tag, attrs in Looks(response.text).tags if attrs.get("http-equiv") == "refresh")
        assert to == "0;url=review?queue=second&class=%22%3E%3Cb%3E"
        old = browser.get() if browser._client == FAR else None  # a browser that does not say from where
        browser.cookies = httpx.Cookies({**dict(browser.cookies), **kept})
        response = browser.get(f"/{to.removeprefix('0;url=')}")
        assert response.status_code == 200 and "Second opinion" in response.text
        assert old is None or old.status_code == 401


def test_a_session_that_has_ended_on_this_machine_is_told(stage):
    browser = stage.browser()
    response = browser.get("/review?login=1")
    response = browser.post("/review/login", key=stage.key("anna", "review"), **fields(response, "review/login"))
    change_keys(stage.keys, lambda keys: revoked(keys, "anna", datetime.now(UTC)))
    assert choose(browser, response, said="0").status_code == 401 and stage.labels() == []
    told = browser.get()
    assert notice(told) == "Your session has ended. Sign in again, or go on without a key, by another name."
    assert 'href="review?local=1">Go on without a key' in told.text and "review-0" not in told.text
    assert "Reviewer <strong><bdi>local" in browser.get("/review?local=1").text
    assert "Reviewer <strong><bdi>local" in browser.get().text


def test_a_key_in_a_header_has_no_session(stage):
    key = stage.key("anna", "review")
    browser, _ = enter(stage, key)
    for _ in range(2 * MOST_EACH):
        response = stage.browser(FAR_BASE, FAR).get(headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 200 and asked(response) and "set-cookie" not in response.headers
    assert "Reviewer <strong><bdi>anna" in browser.get().text
    told = stage.browser(FAR_BASE, FAR).post("/review/label", headers={"authorization": f"Bearer {key}"},
                                             **fields(response), said="0")
    assert told.status_code == 403 and "/feedback" in told.text and stage.labels() == []


def test_an_unknown_filter_is_shown_as_it_is(stage):
    text = stage.browser().get("/review?class=maybe&version=77").text
    assert ">maybe (unknown here)</option>" in text and ">77 (unknown here)</option>" in text


def test_a_notice_describes_the_heading_that_has_the_focus(stage):
    browser = stage.browser()
    assert "aria-describedby" not in browser.get().text
    assert 'autofocus aria-describedby="notice">' in choose(browser, browser.get(), said="0").text


def test_on_this_machine_a_key_may_be_given_too(stage):
    browser = stage.browser()
    assert "Reviewer <strong><bdi>local" in browser.get().text
    response = browser.get("/review?login=1")
    assert response.status_code == 200 and "Go on without a key" in response.text
    response = browser.post("/review/login", key=stage.key("anna", "review"), **fields(response, "review/login"))
    assert "Reviewer <strong><bdi>anna" in response.text
    browser.post("/review/logout", **fields(response, "review/logout"))
    assert "Reviewer <strong><bdi>local" in browser.get().text


def test_a_session_without_a_key_is_good_on_this_machine_only(stage):
    browser = stage.browser()
    browser.get()
    far = stage.browser(FAR_BASE, FAR)
    far.cookies = browser.cookies
    assert far.get().status_code == 401
    assert stage.browser().get(headers={"x-forwarded-for": "1.2.3.4"}).status_code == 401
    assert stage.browser().get(headers={"host": "evil.example"}).status_code == 401


@pytest.mark.parametrize("headers", [
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
    {"origin": "http://evil.example", "sec-fetch-site": ""}, {"origin": "null", "sec-fetch-site": ""},
])
def test_a_form_from_another_page_does_nothing(stage, headers):
    browser, response = enter(stage, stage.key("anna", "review"))
    for path in ("/review/label", "/review/undo", "/review/logout", "/review/login"):
        told = browser.post(path, headers=headers, **fields(response), said="0")
        assert told.status_code == 403 and "sent from a page of another site" in told.text
    assert stage.labels() == [] and browser.get().status_code == 200


def test_a_form_without_the_token_of_its_session_does_nothing(stage):
    browser, response = enter(stage, stage.key("anna", "review"))
    _, theirs = enter(stage, stage.key("bob", "review"))
    for token in ("", "0" * 64, "é", fields(theirs)["token"]):
        assert choose(browser, response, said="0", token=token).status_code == 403
    stranger = stage.browser(FAR_BASE, FAR)
    assert stranger.post("/review/login", key="ps_x", token="").status_code == 403
    assert stage.labels() == []


@pytest.mark.parametrize(("content", "kind", "status"), [
    (b"{}", "application/json", 415), (b"a=1", "text/plain", 415), (b"\xff\xfe", FORM, 400),
    (b"&".join(b"a=1" for _ in range(50)), FORM, 400), (b"a=" + b"x" * 70_000, FORM, 413),
])
def test_what_is_no_form_is_refused_on_a_page(stage, content, kind, status):
    told = stage.browser().send("POST", "/review/label", content=content, headers={"content-type": kind})
    assert told.status_code == status and told.headers["content-type"].startswith("text/html")
    assert "Back to the review page" in told.text


def test_a_failure_tells_neither_the_page_nor_the_log_a_text(stage, monkeypatch, caplog):
    monkeypatch.setattr("serving.review.shown", lambda text, spans: (_ for _ in ()).throw(RuntimeError(text)))
    told = stage.browser().get()
    assert told.status_code == 500 and "The service failed; its log says where" in told.text
    assert "Anna Karl" not in told.text + caplog.text and "RuntimeError in /review" in caplog.text


def test_it_only_leads_to_itself(stage):
    browser = stage.browser()
    response = browser.get()
    sent = browser.post("/review/label", False, **fields(response) | {"said": "0", "version": "//evil\r\nx: y"})
    assert sent.status_code == 303 and "\n" not in sent.headers["location"]
    assert urlsplit(sent.headers["location"]).path == "../review" and not urlsplit(sent.headers["location"]).netloc
    assert parse_qs(urlsplit(sent.headers["location"]).query)["version"] == ["//evil\r\nx: y"]


def test_where_a_form_comes_from_is_as_the_browser_says():
    host = {"host": "a.example"}
    for headers, own in [({}, True), ({"origin": "https://a.example"}, True), ({"origin": "https://b.example"}, False),
                         ({"origin": "null"}, False), ({"sec-fetch-site": "same-origin"}, True),
                         ({"sec-fetch-site": "cross-site", "origin": "https://a.example"}, False)]:
        assert from_own_page(Headers(host | headers)) is own


# Sessions


def key_of(name):
    return Visitor(issued(name, ["review"], datetime.now(UTC))[0])


def test_a_session_ends_when_it_is_idle_and_in_any_case():
    clock = [0.0]
    sessions = Sessions(lambda: clock[0], idle=10, longest=30)
    identity, _ = sessions.begin(key_of("anna"))
    for moment in (9, 18, 27):
        clock[0] = moment
        assert sessions.find(identity, False, lambda key: True)
    clock[0] = 31
    assert sessions.find(identity, False, lambda key: True) is None
    identity, _ = sessions.begin(key_of("anna"))
    clock[0] = 42
    assert sessions.find(identity, False, lambda key: True) is None and len(sessions) == 0


def test_there_are_so_many_sessions_and_one_key_takes_none_from_the_others():
    sessions = Sessions(most=40)
    anna = key_of("anna")
    first, _ = sessions.begin(anna)
    local = [sessions.begin(Visitor(local=True))[0] for _ in range(50)]
    assert len(sessions) == MOST_EACH + 1 and sessions.find(first, False, lambda key: True)
    assert sessions.find(local[0], True, lambda key: True) is None
    assert sessions.find(local[-1], True, lambda key: True)
    assert sessions.find(local[-2], False, lambda key: True) is None
    for number in range(60):
        sessions.begin(key_of(f"k{number}"))
    assert len(sessions) == 40


def test_tokens_are_those_of_one_id_and_one_process():
    sessions, others = Sessions(), Sessions()
    assert sessions.is_token("a", sessions.token("a"))
    for identity, token in (("b", sessions.token("a")), ("a", others.token("a")), ("", sessions.token("")), ("a", "é")):
        assert not sessions.is_token(identity, token)


def test_a_session_forgets_what_is_long_ago():
    session = Session("anna", "k", True, 0.0, 0.0)
    for number in range(REMEMBERED + 5):
        remember(session.skipped, str(number), None)
    assert len(session.skipped) == REMEMBERED and "4" not in session.skipped and "5" in session.skipped


# The plot


def test_bins_weigh_by_how_the_answers_were_chosen():
    risk = np.array([0.1, 0.12, 0.18, 0.95, 1.0, 0.5, 0.5])
    error = np.array([1.0, 0.0, 0.0, 1.0, 1.0, np.nan, 1.0])
    probability = np.array([1.0, 0.5, 0.5, 1.0, 1.0, 1.0, np.nan])
    low, high = bins(risk, error, probability)
    assert (low.low, low.high, low.n, low.error) == (0.1, 0.2, 3, pytest.approx(1 / 5))
    assert low.risk == pytest.approx((0.1 + 2 * 0.12 + 2 * 0.18) / 5)
    assert (high.n, high.error, high.most) == (2, 1.0, 1.0)
    # Wilson's interval of 2 of 2, by hand: (n p + z²/2 ± …) / (n + z²)
    assert high.least == pytest.approx(2 / (2 + 1.96**2))
    assert bins(np.array([]), np.array([]), np.array([])) == ()


def test_the_plot_is_a_picture_with_a_title():
    found = bins(np.array([0.1, 0.6, 0.9]), np.array([0.0, 1.0, 1.0]), np.ones(3))
    picture = ET.fromstring(svg(found, 'A "title" <b>'))
    assert picture.find("{*}title").text == 'A "title" <b>' and len(picture.findall("{*}circle")) == 3
    assert "nothing to show yet" in svg((), "Empty")


def test_the_plot_grows_with_the_labels_whose_choice_is_known(stage):
    moment = [0.0]
    stage.inner.state.reviews._plots._clock = lambda: moment[0]
    browser = stage.browser()
    response = browser.get("/review/plot.svg")
    assert response.headers["content-type"].startswith("image/svg+xml") and "nothing to show" in response.text
    assert "sha256-" in response.headers["content-security-policy"]
    drawn(stage.store, "s0")
    choose(browser, browser.get(), said="0")
    choose(browser, browser.get("/review?queue=riskiest"), said="0")
    stage.labels()
    moment[0] = 2.0
    browser.get("/review/plot.svg")
    soon(stage.inner.state.reviews._plots, VERSION)
    assert browser.get("/review/plot.svg").text.count("<circle") == 1  # of the drawn one
    assert "<th scope=\"row\">0.9–1.0</th><td>1</td><td>0 %</td>" in browser.get().text
    moment[0] = 100.0
    assert "nothing to show" in browser.get("/review/plot.svg?version=99").text


def soon(plots, version):
    """Once nothing is looked for any more."""
    while plots._looking:
        time.sleep(0.001)
    return plots.last(version)


def test_a_plot_that_takes_long_is_not_made_again_at_once():
    moment, times = [0.0], []

    def find(version):
        times.append(version)
        moment[0] += 3.0  # so it stays for 60
        return ()

    plots = Plots(find, lambda: moment[0])
    assert plots.last("4") is None and soon(plots, "4") == ()
    for moment[0], n in ((30.0, 1), (62.0, 1), (63.5, 2), (70.0, 2)):
        soon(plots, "4")
        assert soon(plots, "4") == () and len(times) == n
    for number in range(20):
        plots.soon(str(number), 10)
    assert len(plots._kept) == VERSIONS


def test_a_plot_that_fails_is_tried_later_and_the_last_one_stays(caplog):
    moment, found = [0.0], [("a bin",)]

    def find(version):
        if not found:
            raise RuntimeError("a secret")
        return found.pop()

    plots = Plots(find, lambda: moment[0])
    assert plots.soon("4", 10) == ("a bin",)
    for moment[0] in (2.0, 5.0, 20.0, 31.0):
        assert soon(plots, "4") == ("a bin",)
    assert caplog.text.count("RuntimeError while the plot") == 1 and "secret" not in caplog.text


def test_no_page_waits_for_the_plot(stage, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr("serving.review.PLOT_S", 0.01)
    monkeypatch.setattr(stage.inner.state.reviews._plots, "_find", lambda version: go.wait(20) and ())
    browser = stage.browser()
    response = browser.get()
    assert "Not counted yet" in response.text
    assert notice(choose(browser, response, said="0")) == "Saved: “negative”."
    assert "nothing to show yet" in browser.get("/review/plot.svg").text
    go.set()
    soon(stage.inner.state.reviews._plots, "4")
    assert "No label yet whose choice is known" in browser.get().text


def test_the_bins_of_the_newest_labels_are_those_of_all_of_them(stage, monkeypatch):
    drawn(stage.store, "s0", "s1", "s4")
    for score_id, label in (("s0", "positive"), ("s1", "positive"), ("s2", "negative"), ("s4", "negative")):
        stage.say(score_id, label, "anna", chosen="all")
        stage.say(score_id, label, "bob")
    stage.store.add_scores([scored(2, score_id="dark", role="shadow", shadow_of="s2", version="5", risk=0.3)])
    frame = stage.store.frame(MODEL, VERSION, labelled=True)
    expected = bins(*(frame[name].to_numpy(float) for name in ("risk", "error", "probability")))
    with stage.store.engine.connect() as connection:
        for part in (1, 3, 100):
            monkeypatch.setattr(review_bins, "PART", part)
            assert bins_of(connection, MODEL, VERSION) == expected and sum(each.n for each in expected) == 4
        assert sum(each.n for each in bins_of(connection, MODEL, "5")) == 1
        assert bins_of(connection, MODEL, "6") == bins_of(connection, "Other", VERSION) == ()
        monkeypatch.setattr(review_bins, "PART", 1)
        monkeypatch.setattr(review_bins, "LABELLED", 2)
        assert sum(each.n for each in bins_of(connection, MODEL, VERSION)) == 2


# What is asked


@given(st.dictionaries(st.sampled_from(["queue", "version", "class", "least", "most", "score"]), st.text()))
def test_whatever_an_address_says_is_an_asking_that_has_that_address(said):
    asking = Asking.of(said)
    assert 0 <= asking.least <= 1 and 0 <= asking.most <= 1
    assert Asking.of(asking.fields).fields == asking.fields


def test_the_bins_are_those_of_the_measures():
    assert review_plot.BINS == calibration.BINS


def test_ways_of_choosing_are_the_same_in_the_api_and_in_the_store():
    assert get_args(schema.Chosen) == tables.CHOSEN


# Feedback through the API


def test_feedback_by_the_api_is_trusted_by_the_scope_and_carries_the_name_of_the_key(stage):
    said = {"score_id": "s0", "label": "positive"}
    for name, scopes in (("app", ["feedback"]), ("anna", ["feedback", "review"]), ("root", ["admin"])):
        headers = {"authorization": f"Bearer {stage.key(name, *scopes)}"}
        assert stage.browser().send("POST", "/feedback", json=said, headers=headers).json() == {"labelled": 1}
    assert stage.browser().send("POST", "/feedback", json=said).json() == {"labelled": 1}
    reviewer = {"authorization": f"Bearer {stage.key('only', 'review')}"}
    assert stage.browser().send("POST", "/feedback", json=said, headers=reviewer).status_code == 403
    assert [(row[2], row[4]) for row in stage.labels()] == [
        ("app", False), ("anna", True), ("root", False), ("local", False)]
