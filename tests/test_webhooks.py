"""Whom promotions are announced to. A real delivery is in test_team.py."""

import re
from types import SimpleNamespace

import pytest

from registry import webhooks
from registry.webhooks import EVENTS, Webhook
from training.errors import InputError
from training.state import State

SECRET = "a secret that nobody may read"
WITH = {"POLARSCORE_WEBHOOK_SECRET": SECRET}
URL = "https://ci.example/hook?token=hunter2"


class Server:
    """What MLflow's client does with webhooks, two a page."""

    def __init__(self):
        self.kept = []
        self.secrets = {}

    def create_webhook(self, name, url, events, secret):
        number = f"id-{len(self.secrets)}"
        self.secrets[number] = secret
        entry = SimpleNamespace(webhook_id=number, name=name, url=url, events=events,
                                status=SimpleNamespace(is_active=lambda: True))
        self.kept.append(entry)
        return entry

    def list_webhooks(self, max_results, page_token):
        start = int(page_token or 0)
        page = type("Page", (list,), {})(self.kept[start : start + 2])
        page.token = str(start + 2) if len(self.kept) > start + 2 else None
        return page

    def delete_webhook(self, webhook_id):
        self.kept = [entry for entry in self.kept if entry.webhook_id != webhook_id]


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(webhooks, "connect", lambda state: server)
    return server


def state(tracking_uri="http://127.0.0.1:5000"):
    return State.from_environment({"POLARSCORE_HOME": "nowhere", "MLFLOW_TRACKING_URI": tracking_uri})


def test_webhooks_are_added_listed_and_removed(server):
    for name in "cab":
        added = webhooks.add(state(), URL, name, WITH)
        assert added == Webhook(name, "https://ci.example/hook", tuple(sorted(EVENTS)), True)
    assert [webhook.name for webhook in webhooks.listed(state())] == ["a", "b", "c"]
    assert set(server.secrets.values()) == {SECRET} and server.kept[0].url == URL
    webhooks.remove(state(), "b")
    assert [webhook.name for webhook in webhooks.listed(state())] == ["a", "c"]
    with pytest.raises(InputError, match=r"there is no webhook 'b'. There are: a, c."):
        webhooks.remove(state(), "b")


def test_a_webhook_that_is_about_something_else_is_not_ours(server):
    server.create_webhook("prompts", URL, ["prompt.created"], "")
    assert webhooks.listed(state()) == []
    with pytest.raises(InputError, match=r"no webhook 'prompts'. There are: none."):
        webhooks.remove(state(), "prompts")
    with pytest.raises(InputError, match="there is a webhook 'prompts' already"):
        webhooks.add(state(), URL, "prompts", WITH)


@pytest.mark.parametrize("uri", ["", "sqlite:////somewhere/mlflow.db", "postgresql://me:hunter2@db/mlflow"])
def test_without_a_server_nothing_would_deliver_them(server, uri):
    for call in (lambda: webhooks.add(state(uri), URL, "ci", WITH), lambda: webhooks.listed(state(uri)),
                 lambda: webhooks.remove(state(uri), "ci")):
        with pytest.raises(InputError, match="set MLFLOW_TRACKING_URI to its http address") as refusal:
            call()
        assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(("url", "environ", "message"), [
    (URL, {}, "POLARSCORE_WEBHOOK_SECRET should hold a secret of 16 characters or more.* Found none"),
    (URL, {"POLARSCORE_WEBHOOK_SECRET": "hunter2"}, "Found one of 7"),
    ("http://ci.example/hook?hunter2", WITH, "should look like https://HOST/PATH. Found 'http://ci.example/hook'. Only "
                                             "where MLFLOW_WEBHOOK_ALLOWED_SCHEMES names http"),
    ("ci.example", WITH, "Found 'ci.example'"),
    ("https:///hook", WITH, "Found 'https:///hook'"),
    ("https://[bad/hook", WITH, "Found one that is none"),
    ("https://me:hunter2@ci.example/hook", WITH, "should hold no password.* in 'https://ci.example/hook'"),
])
def test_what_is_at_fault_is_one_line_without_a_secret(server, url, environ, message):
    with pytest.raises(InputError, match=message) as refusal:
        webhooks.add(state(), url, "ci", environ)
    said = str(refusal.value)
    assert "\n" not in said and "hunter2" not in said and SECRET not in said and server.kept == []


def test_http_is_taken_where_it_is_allowed(server):
    allowed = WITH | {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http, https"}
    assert webhooks.add(state(), "http://127.0.0.1:1/hook", "ci", allowed).url == "http://127.0.0.1:1/hook"


@pytest.mark.parametrize(("code", "message"), [
    ("INTERNAL_ERROR", "Is MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set there"),
    ("INVALID_PARAMETER_VALUE", "MLflow's server refuses: Webhook name 'a b' is invalid$"),
])
def test_what_the_server_refuses_is_one_line(server, monkeypatch, code, message):
    from mlflow.exceptions import RestException

    def refuse(*arguments, **named):
        raise RestException({"error_code": code, "message": "Webhook name 'a b' is invalid\nand more"})

    monkeypatch.setattr(server, "create_webhook", refuse)
    with pytest.raises(InputError) as refusal:
        webhooks.add(state(), URL, "a b", WITH)
    assert re.search(message, str(refusal.value)) and SECRET not in str(refusal.value)
