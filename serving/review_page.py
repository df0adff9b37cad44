"""The review page in HTML. Everything that is filled in is escaped; nothing is loaded from elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from monitoring.queue import DAYS, NEWEST, Answer
from serving.review_look import SCRIPT, STYLE
from serving.review_plot import Bin
from serving.review_text import Shown

MOST_BARS, MOST_VOTES, MOST_BUTTONS = 9, 40, 9

QUEUE_NAMES = {"sample": "Sample", "riskiest": "Riskiest", "second": "Second opinion"}


@dataclass(frozen=True)
class Vote:
    """What a source says. accuracy: how often such a vote is believed to be right, None where that is not known here.

    evidence: what its votes rest on, in words, empty where nobody says.
    """

    source: str
    vote: str
    agrees: bool | None
    accuracy: float | None = None
    evidence: str = ""


@dataclass(frozen=True)
class View:
    """All that the page shows. answer: None where the queue is empty. own: what the reviewer says of it, as it stands.

    text: None where none is kept; keeps_texts: whether those of new scores are. undo: the score_id of the label that
    can be taken back. links: by queue. hidden: the fields that every form carries, so that one comes back to the same
    queue and filters. bins: None: not counted yet.
    """

    reviewer: str
    trusted: bool
    signed_in: bool
    model: str
    queue: str
    links: Mapping[str, str]
    hidden: Mapping[str, str]
    checked: int
    mine: int
    left: int
    answer: Answer | None = None
    own: str | None = None
    text: Shown | None = None
    keeps_texts: bool = True
    votes: Sequence[Vote] = ()
    undo: str | None = None
    notice: str | None = None
    skipped: int = 0
    filters: Mapping[str, str] = field(default_factory=dict)
    versions: Sequence[str] = ()
    classes: Sequence[str] = ()
    plotted: str = ""
    bins: Sequence[Bin] | None = None

    @property
    def bars(self) -> list[tuple[str, float]]:
        """The most probable classes, and the LLM's answer, in the order of the classes if they are few."""
        if self.answer is None:
            return []
        every = list(self.answer.probabilities.items())
        if len(every) <= MOST_BARS:
            return every
        ranked = sorted(every, key=lambda each: (each[0] != self.answer.answer, -each[1]))  # type: ignore[union-attr]
        return sorted(ranked[:MOST_BARS], key=lambda each: -each[1])


def page(view: View, token: str) -> str:
    """The page for who is signed in. token: the one of the session."""
    return _template("page").render(
        view=view, token=token, names=QUEUE_NAMES, most_buttons=MOST_BUTTONS, most_votes=MOST_VOTES,
        newest=f"{NEWEST:,}", days=DAYS, **_LOOK)


def door(token: str, root: str, problem: str | None = None, local: bool = False) -> str:
    """The form to sign in by. root: the way from this page's folder to that of `/review`. local: one need not."""
    return _template("door").render(token=token, root=root, problem=problem, local=local, **_LOOK)


def again(address: str) -> str:
    """A page that opens that address from itself: now a browser sends what it does not for a link of another site."""
    return _template("again").render(address=address, **_LOOK)


def message(title: str, words: str, root: str) -> str:
    """A page that says only this, with a way back."""
    return _template("message").render(title=title, words=words, root=root, **_LOOK)


_LOOK = {"style": STYLE, "script": SCRIPT}

_FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex">{% block head %}{% endblock %}
<title>{% block title %}{% endblock %} · polarscore</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect
%20width='16' height='16' rx='4' fill='%231f5fbf'/%3E%3Cpath d='M4 8.5l3 3 5-7' fill='none' stroke='%23fff'
%20stroke-width='2'/%3E%3C/svg%3E"><style>{{ style|safe }}</style></head>
<body>{% block body %}{% endblock %}<script>{{ script|safe }}</script></body></html>
"""

_DOOR = """{% extends "frame" %}{% block title %}Sign in to review{% endblock %}{% block body %}
<main class="door" id="main"><div class="card"><h1>Sign in to review</h1>
<p class="soft">With an API key of the scope <code>review</code>. Labels carry the key's name.</p>
{% if problem %}<p class="notice" role="alert">{{ problem }}</p>{% endif %}
<form method="post" action="{{ root }}review/login"><input type="hidden" name="token" value="{{ token }}">
<input name="user" value="reviewer" autocomplete="username" hidden>
<div><label for="key">API key</label><input id="key" name="key" type="password" autocomplete="current-password"
 required autofocus spellcheck="false" autocapitalize="off"></div>
<button class="main">Sign in</button></form>
{% if local %}<p><a href="{{ root }}review?local=1">Go on without a key</a></p>{% endif %}
<p class="soft">Make one: <code>polarscore apikey create NAME --scope review</code></p></div></main>{% endblock %}
"""

_AGAIN = """{% extends "frame" %}{% block title %}Review{% endblock %}
{% block head %}<meta http-equiv="refresh" content="0;url={{ address }}">{% endblock %}{% block body %}
<main class="door" id="main"><div class="card"><h1>Review</h1>
<p><a href="{{ address }}">Open the review page</a></p></div></main>{% endblock %}
"""

_MESSAGE = """{% extends "frame" %}{% block title %}{{ title }}{% endblock %}{% block body %}
<main class="door" id="main"><div class="card"><h1>{{ title }}</h1><p role="alert">{{ words }}.</p>
<p><a href="{{ root }}review">Back to the review page</a></p></div></main>{% endblock %}
"""

_PAGE = """{% extends "frame" %}
{% set answer = view.answer %}{% set every = answer.probabilities|list if answer is not none else [] %}
{% macro fields() %}<input type="hidden" name="token" value="{{ token }}">
{%- for name, value in view.hidden.items() %}<input type="hidden" name="{{ name }}" value="{{ value }}">
{%- endfor %}{% endmacro %}
{% macro about() %}{{ fields() }}<input type="hidden" name="score_id" value="{{ answer.score_id }}">
<input type="hidden" name="seen" value="{{ every.index(view.own) if view.own in every else "" }}">{% endmacro %}
{% macro other(value, known) %}{% if value and value not in known %}<option value="{{ value }}" selected>
{{- value }} (unknown here)</option>{% endif %}{% endmacro %}
{% macro share(value) %}{{ "%.0f"|format(100 * value) }} %{% endmacro %}
{% block title %}Review: {{ names[view.queue] }}{% endblock %}
{% block body %}
{% set told = ' aria-describedby="notice"'|safe if view.notice else "" %}
<a class="vh skip" href="#answer">Skip to the answer</a>
<header><div class="wide"><div class="top"><div class="brand">polarscore <span>review ·
 <bdi>{{ view.model }}</bdi></span></div>
<div class="who"><span>Reviewer <strong><bdi>{{ view.reviewer }}</bdi></strong></span>
{% if view.signed_in %}<form method="post" action="review/logout">{{ fields() }}
<button class="link">Sign out</button></form>
{% else %}<a href="review?login=1">Sign in with a key</a>{% endif %}</div></div>
<div class="row"><nav aria-label="What to review"><ul>
{% for queue, name in names.items() %}<li><a href="{{ view.links[queue] }}"
{% if queue == view.queue %} aria-current="page"{% endif %}>{{ name }}
{%- if queue == "sample" %} <span class="count">{{ view.left }}<span class="vh"> left</span></span>{% endif %}</a></li>
{% endfor %}</ul></nav>
<dl class="steps" aria-label="Progress today, by UTC"><div><dt>checked today</dt><dd>{{ view.checked }}</dd></div>
<div><dt>by you</dt><dd>{{ view.mine }}</dd></div></dl></div></div></header>
<main class="wide" id="main"><div>
{% if view.notice %}<p class="notice" role="status" id="notice">{{ view.notice }}</p>{% endif %}
<article class="card" aria-labelledby="answer">
{% if answer is none %}
<h1 id="answer" tabindex="-1"{{ told }}>Nothing waits here</h1>
<p>{% if view.queue == "sample" %}Every drawn answer has a label, or none has been drawn. Draw some:
<code>polarscore monitor sample --budget 100</code>
{% elif view.queue == "riskiest" %}No answer without a label is among the newest {{ newest }} of {{ days }} days
{%- else %}No answer waits for a second opinion{% endif %}
{%- if view.filters.any %} with these filters{% endif %}.</p>
{% if view.skipped %}<form method="post" action="review/label">{{ fields() }}
<button name="skip" value="none">Show the {{ view.skipped }} skipped again</button></form>{% endif %}
{% else %}
<h1 id="answer" tabindex="-1" autofocus{{ told }}>
{%- if answer.answer is none %}What is the right answer?{% else %}Is the LLM right?{% endif %}</h1>
<p class="facts"><bdi>{{ answer.item_id }}</bdi> · version {{ answer.version }} ·
 <time datetime="{{ answer.created_at.isoformat() }}">{{ answer.created_at.strftime("%Y-%m-%d %H:%M") }} UTC</time></p>
{% if view.text is none %}<p class="notice">The text of this answer is not kept ({{ answer.text_length }} characters).
{% if view.keeps_texts %}It was scored while the service kept no texts; those of new scores are kept.
{% else %}To keep those of new scores, put <code>text = "keep"</code> under <code>[keeping]</code> in the service's
 configuration, and start it with <code>polarscore serve --config FILE</code>.{% endif %}</p>
{% else %}<div class="text" dir="auto" tabindex="0" role="region" aria-label="The text">
{%- for piece in view.text.pieces %}{% if piece.entities %}<mark class="e{{ (piece.entities[-1] - 1) % 3 + 1 }}">
{%- for number in piece.opens %}<sup><span class="vh">entity </span>{{ number }}</sup>{% endfor %}
{{- piece.text }}</mark>{% else %}{{ piece.text }}{% endif %}{% endfor -%}</div>
{% if view.text.cut %}<p class="soft">The text goes on for {{ "{:,}".format(view.text.cut) }} characters, which are
 not shown.{% if view.text.beyond %} Entity {{ view.text.beyond|join(", ") }} lies there.{% endif %}</p>
{% endif %}{% endif %}
{% if answer.answer is not none %}<p class="said"><span>The LLM says</span>
 <strong><bdi>{{ answer.answer }}</bdi></strong>
<span class="chip">risk {{ "%.2f"|format(answer.risk) }}</span>
{% if answer.decision %}<span class="chip">advice: {{ answer.decision }}</span>{% endif %}</p>{% endif %}
{% if view.own is not none %}<p class="soft">You said <strong><bdi>{{ view.own }}</bdi></strong>. Another choice takes
 its place.</p>{% endif %}
{% set asks = "It is" if answer.answer is none else "No, the right one is" %}
{% set few = every|length <= most_buttons %}
<form method="post" action="review/label" id="choose">{{ about() }}
{% if answer.answer is not none %}<div class="choices">
<button class="main" name="said" value="{{ every.index(answer.answer) }}"
 data-key="y{% if few %} {{ every.index(answer.answer) + 1 }}{% endif %}"
 aria-keyshortcuts="Y">Yes, it is right<kbd aria-hidden="true">y</kbd></button></div>{% endif %}
{% if few %}<fieldset><legend>{{ asks }}</legend><div class="choices">
{% for name in every %}{% if name != answer.answer %}
<button name="said" value="{{ loop.index0 }}" data-key="{{ loop.index }}" aria-keyshortcuts="{{ loop.index }}">
<bdi>{{ name }}</bdi><kbd aria-hidden="true">{{ loop.index }}</kbd></button>{% endif %}{% endfor %}
</div></fieldset>{% endif %}</form>
{% if not few %}<form method="post" action="review/label">{{ about() }}<fieldset><legend>{{ asks }}</legend>
<div class="choices"><div class="find"><label for="other">One of {{ every|length }} classes: type to find it</label>
<input id="other" name="other" list="classes" autocomplete="off" data-key="/" aria-keyshortcuts="/"></div>
<button class="find">Correct to this</button>
<datalist id="classes">{% for name in every %}<option value="{{ name }}"></option>{% endfor %}</datalist>
</div></fieldset></form>{% endif %}
{% endif %}
<div class="after">{% if answer is not none %}<button form="choose" name="skip" value="this" data-key="s"
 aria-keyshortcuts="S" formnovalidate>Skip<kbd aria-hidden="true">s</kbd></button>{% endif %}
{% if view.undo %}<form method="post" action="review/undo">{{ fields() }}
<input type="hidden" name="score_id" value="{{ view.undo }}">
<button data-key="u" aria-keyshortcuts="U">Undo the last label<kbd aria-hidden="true">u</kbd></button></form>{% endif %}
<p class="keys" hidden><label class="one">
<input type="checkbox" id="keys" autocomplete="off">Single keys choose</label></p>
{% if not view.trusted %}<p>Labels without a key are kept, and no automatic action counts them.</p>{% endif %}</div>
</article></div>
<aside class="stack" aria-label="What is known">
{% if answer is not none %}<section class="card" aria-labelledby="thinks">
<h2 id="thinks">What the harmonizer thinks</h2>
<ul class="bars">{% for name, value in view.bars %}<li{% if name == answer.answer %} class="his"{% endif %}><div>
<span><bdi>{{ name }}</bdi>{% if name == answer.answer %} <span class="soft">(LLM)</span>{% endif %}</span>
<span>{{ share(value) }}</span></div><svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
<rect width="{{ "%.1f"|format(100 * value) }}" height="1"/></svg></li>{% endfor %}</ul>
{% set more = answer.probabilities|length - view.bars|length %}
{% if more > 0 %}<p class="soft">and {{ more }} less probable</p>{% endif %}
<p class="soft">By the text alone: <bdi>{{ answer.harmonizer_answer }}</bdi></p></section>
<section class="card" aria-labelledby="sources"><h2 id="sources">What the sources say</h2>
{% if view.votes %}<ul class="votes">{% for each in view.votes[:most_votes] %}<li><bdi>{{ each.source }}</bdi>:
 <bdi>{{ each.vote }}</bdi>
{% if each.agrees is not none %}<span class="{{ "yes" if each.agrees else "no" }}">
{{- "agrees" if each.agrees else "differs" }}</span>{% endif %}
{% if each.evidence or each.accuracy is not none %}<p>{{ each.evidence }}
{%- if each.accuracy is not none %} Such a vote is right in about {{ share(each.accuracy) }}.{% endif %}</p>{% endif %}
</li>{% endfor %}</ul>
{% if view.votes|length > most_votes %}<p class="soft">and {{ view.votes|length - most_votes }} more</p>{% endif %}
{% else %}<p class="soft">No source voted.</p>{% endif %}</section>{% endif %}
<section class="card" aria-labelledby="plot"><h2 id="plot">Do the risks hold?</h2>
<img class="plot" src="{{ view.plotted }}" width="296" height="282" alt="Reliability of version {{
 view.filters.plotted }}: the share of answers that were wrong, by risk. The table has the numbers.">
<details><summary>As a table</summary>
{% if view.bins %}<table><thead><tr><th scope="col">risk</th><th scope="col">answers</th><th scope="col">wrong</th>
<th scope="col">95 %</th></tr></thead><tbody>{% for bin in view.bins %}<tr>
<th scope="row">{{ "%.1f–%.1f"|format(bin.low, bin.high) }}</th><td>{{ bin.n }}</td><td>{{ share(bin.error) }}</td>
<td>{{ "%.0f–%.0f"|format(100 * bin.least, 100 * bin.most) }} %</td></tr>{% endfor %}</tbody></table>
{% else %}<p class="soft">{% if view.bins is none %}Not counted yet: it is there when you load the page again.
{%- else %}No label yet whose choice is known.{% endif %}</p>{% endif %}</details>
<p class="soft">From labels whose choice is known, as those of the sample: dots on the dashed line are as wrong as the
 risk says.</p></section>
<section class="card" aria-labelledby="filter"><details{% if view.filters.any %} open{% endif %}><summary>
<h2 id="filter">Filters</h2></summary><form method="get" action="review">
<input type="hidden" name="queue" value="{{ view.queue }}">
<label for="version">Version</label><select id="version" name="version"><option value="">all</option>
{% for name in view.versions %}<option{% if name == view.filters.version %} selected{% endif %}>{{ name }}</option>
{% endfor %}{{ other(view.filters.version, view.versions) }}</select>
<label for="class">The LLM says</label><select id="class" name="class"><option value="">anything</option>
{% for name in view.classes %}<option value="{{ name }}"{% if name == view.filters.class %} selected{% endif %}>
{{ name }}</option>{% endfor %}{{ other(view.filters.class, view.classes) }}</select>
<div class="grid"><div><label for="least">Risk from</label><input id="least" name="least" type="number" min="0" max="1"
 step="any" value="{{ view.filters.least }}"></div><div><label for="most">to</label><input id="most" name="most"
 type="number" min="0" max="1" step="any" value="{{ view.filters.most }}"></div></div>
<button>Show these</button>{% if view.filters.any %} <a href="review?queue={{ view.queue }}">Clear</a>{% endif %}
</form></details>
</section>
</aside></main>{% endblock %}
"""

_SOURCES = {"frame": _FRAME, "door": _DOOR, "again": _AGAIN, "message": _MESSAGE, "page": _PAGE}


@cache
def _template(name: str) -> Any:
    from jinja2 import DictLoader, Environment, StrictUndefined

    loader = Environment(loader=DictLoader(_SOURCES), autoescape=True, undefined=StrictUndefined)
    return loader.get_template(name)
