import re
from copy import deepcopy
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.card import PICTURE, html, markdown

MEASURES = {"n": 1690, "error_rate": 0.131, "mean_risk": 0.17, "ece": 0.0904, "r2": 0.62, "auroc": 0.767,
            "aurc": 0.051, "brier": None}
FACTS = {
    "format": 1, "model": "mail", "version": 3, "uri": "models:/mail/3", "run_id": "a" * 32,
    "created": "2026-11-20T09:15:00+00:00", "signer": "0123456789abcdef",
    "promotion": {"action": "promote", "from_stage": "staging", "to_stage": "production", "replaced": 2, "who": "ada",
                  "why": "Better on spam.", "at": "2026-11-26T14:03:27.5+00:00"},
    "decision": {"allowed": True, "refusal": "", "gates": [
        {"name": "ece", "state": "pass", "reason": "0.050 beside 0.071", "candidate": 0.05, "champion": 0.0714},
        {"name": "latency", "state": "unknown", "reason": "not measured", "candidate": None, "champion": None}]},
    "evaluation": {"task": "mail-audit", "digest": "b" * 64, "split": "test", "labelled": 1200, "picture": True},
    "measures": {"train": None, "valid": None, "test": MEASURES},
    "warnings": [], "task": "mail", "classes": ["ham", "spam"],
    "sources": [{"name": f"rule {i}", "family": "rules"} for i in range(14)],
    "harmonizer": "linear", "scalariser": "linear", "encoder": {"name": "minilm", "version": "0.1.0", "width": 384},
    "pareto_weights": {"LLM": 1.0} | {f"rule {i}": (i + 1) / 10 for i in range(14)}, "sharpness": 1.3,
    "recalibration": {"labels": 0, "words": ""}, "guarantee": None,
    "data_digest": "c" * 64, "sources_digest": None,
    "commits": {"training": "d" * 40, "promotion": "e" * 40, "dirty": True},
    "environment": {"polarscore": "0.2.0", "python": "3.11.7", "platform": "Linux", "machine": "x86_64",
                    "packages": {"mlflow": "3.17.2", "torch": None}},
    "tags": {}, "files": {"MLmodel": "f" * 64},
}
GUARANTEE = {"alpha": 0.05, "delta": 0.1, "threshold": 0.1234567, "accepted": 0.42, "upper": 0.048, "labels": 100,
             "words": "Accepting them keeps the error rate under 5 % with confidence 0.9"}
HOSTILE = '<script>alert(1)</script> | `x` [a](http://evil) ![b](http://evil/p.png)\n# no & <b>\u202e$y$ *z*'


def facts(**changed):
    return deepcopy(FACTS) | changed


class Page(HTMLParser):
    """The tags of a page, their attributes and its texts."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "img", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def text(**changed):
    return Page(html(markdown(facts(**changed)))).text


def test_the_card_says_what_people_ask():
    said = text()
    for part in (
        "mail, version 3 From staging to production by ada on 2026-11-26 14:03 UTC (promote). It took the place of "
        "version 2. Reason given: Better on spam.",
        "classes: ham, spam", "It must not be used for", "Without labels", "14 noisy sources", "scalariser linear",
        "No threshold is promised", "They let it pass. (Judged on 1,200 labelled answers of the split test of "
        "mail-audit.)", "Its training gave no warning", "polarscore registry verify mail",
        "e" * 40 + ", with changes that were not committed", "mlflow 3.17.2, torch (not pinned)", "sha256sum",
    ):
        assert part in said, part


def test_tables_are_complete_and_figures_are_told_or_missing():
    card = markdown(facts())
    assert "| test | 1690 | 0.131 | 0.170 | 0.090 | 0.620 | 0.767 | 0.051 | – |" in card
    assert "| latency | unknown | – | – | not measured |" in card
    assert "| ece | pass | 0.050 | 0.071 | 0.050 beside 0.071 |" in card


def test_of_the_pareto_weights_the_ten_largest_are_shown_and_the_rest_together():
    weights = re.findall(r"(?m)^\| (rule \d+|LLM|\d+ more, together) \| .*? \| ([\d.]+) \|$", markdown(facts()))
    assert [name for name, _ in weights[:3]] == ["rule 13", "rule 12", "rule 11"] and len(weights) == 11
    assert weights[-1] == ("5 more, together", "1.5")


@pytest.mark.parametrize(("changed", "words"), [
    ({"guarantee": GUARANTEE}, "Answers with a risk up to 0.1235 can be accepted. Accepting them keeps the error rate "
     "under 5 % with confidence 0.9. It accepts 42.0% of the answers of the valid split, and rests on 100 checked"),
    ({"guarantee": GUARANTEE | {"threshold": None, "words": "Too few labels."}},
     "No threshold can be promised. Too few labels."),
    ({"recalibration": {"labels": 25, "words": "recalibrated by 25 checked answers"}},
     "The scale was recalibrated by 25 checked answers."),
    ({"warnings": ["The LLM says one class"]}, "Its training warned: The LLM says one class."),
    ({"measures": {"test": None}}, "no labels to measure it by"),
    ({"evaluation": {"task": None, "digest": None, "split": "valid", "labelled": 0, "picture": False}},
     "There is no reliability plot"),
    ({"evaluation": {"task": None, "digest": None, "split": "valid", "labelled": 0, "picture": False}},
     "(No task was at hand.)"),
    ({"decision": {"allowed": True, "refusal": "", "gates": []}}, "No gate was asked."),
    ({"decision": FACTS["decision"] | {"allowed": False, "refusal": "ece: too high"}},
     "They refused it: ece: too high."),
    ({"promotion": FACTS["promotion"] | {"why": " ", "replaced": None}}, "(promote). No reason was given."),
    ({"commits": {"training": None, "promotion": None, "dirty": None}}, "commit of the training unknown"),
])
def test_what_is_special_is_said_in_words(changed, words):
    assert words in text(**changed)


def test_the_page_stands_alone():
    page = html(markdown(facts()), b"\x89PNG")
    seen = Page(page)
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">') and not seen.open
    assert "<title>mail, version 3</title>" in page
    assert not {"script", "link", "a", "iframe", "form"} & set(seen.tags)
    assert [value for name, value in seen.attributes if name in ("src", "href")] == ["data:image/png;base64,iVBORw=="]
    assert dict(seen.attributes)["alt"].startswith("Reliability plot") and seen.tags.count("h1") == 1
    assert ("scope", "col") in seen.attributes and "url(" not in page


def test_the_picture_lies_beside_the_markdown():
    assert f"]({PICTURE})" in markdown(facts())


def hostile(name):
    return facts(
        model=name, task=name, classes=[name, "ham"], warnings=[name], harmonizer=name, scalariser=name,
        sources=[{"name": name, "family": name}], pareto_weights={"LLM": 1.0, name: 0.5},
        promotion=FACTS["promotion"] | {"who": name, "why": name},
        decision={"allowed": False, "refusal": name, "gates": [{"name": name, "state": name, "reason": name}]},
        evaluation=FACTS["evaluation"] | {"task": name, "split": name}, guarantee=GUARANTEE | {"words": name},
        environment=FACTS["environment"] | {"packages": {name: name}, "platform": name},
    )


def shape(name):
    page = Page(html(markdown(hostile(name)), b""))
    assert not page.open
    return page.tags, [(key, value) for key, value in page.attributes if key != "content"]


@settings(max_examples=150)
@given(st.one_of(st.text(min_size=1), st.text("<>|`\\[]()!*_#-+=~&$:/\n\r\t 1.a\"'", min_size=1)))
def test_no_name_is_markup(name):
    assert shape(f"x{name}") == shape("x")


@pytest.mark.parametrize("name", [HOSTILE, "# x", "- x", "1. x", "+ x", "> x", "***", "---", "===", "```", "    x",
                                  "a|b", "\\", "&lt;b&gt;", "]: http://evil", "x\n\n<h1>y</h1>", "\ud800"])
def test_what_looks_like_markup_stays_text(name):
    assert shape(name) == shape("x")
    content = markdown(hostile(name))
    content.encode()
    assert "\u202e" not in content and "\r" not in content


def test_names_are_shown_as_they_are():
    name = r"a|b_c*d<e>&amp;`f`\g [h](i) $j$ 7."
    assert f"{name}, version 3" in Page(html(markdown(facts(model=name)))).text
    assert "polarscore registry verify 'a; rm -rf /'" in text(model="a; rm -rf /")
