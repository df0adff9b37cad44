import base64
import hashlib
import hmac
import json
import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring import notifying
from monitoring.alarm import Alarm
from monitoring.exposition import write_exposition
from monitoring.notifying import Told, notify, receiver
from training.errors import InputError

SECRET = "a secret that nobody may read"
WITH = {"POLARSCORE_WEBHOOK_SECRET": SECRET}
AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
QUIET = [Alarm("calibration", "ok", None, 0.01, "fine"), Alarm("guarantee", "unknown", None, None, "no labels")]
RINGS = [Alarm("calibration", "alarm", AT, 0.2, "too many wrong"), QUIET[1]]


class Inbox:
    """A receiver on this machine: what came, and what it answers next."""

    def __init__(self):
        self.got, self.answers = [], []

    @contextmanager
    def open(self):
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = inbox.answers.pop(0) if inbox.answers else 200
                inbox.got.append((status, dict(self.headers), body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook?token=hunter2"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def taken(self):
        return [json.loads(body) for status, _, body in self.got if status == 200]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(notifying, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def url(inbox):
    with inbox.open() as url:
        yield url


@pytest.fixture
def file(tmp_path):
    return tmp_path / "monitoring" / "mail.json"


def tell(file, url, alarms, version="1", **more):
    return notify(file, receiver(url, WITH), "mail", version, alarms, AT, **more)


def right(headers, body):
    """As docs/team.md has receivers check it."""
    said = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.".encode() + body
    return headers["X-MLflow-Signature"] == "v1," + base64.b64encode(
        hmac.digest(SECRET.encode(), said, hashlib.sha256)).decode()


def test_what_changed_is_told_once_and_signed(inbox, url, file):
    assert tell(file, url, QUIET) == tell(file, url, QUIET) == tell(file, url, RINGS) == []
    assert [message["changed"] for message in inbox.taken] == [["calibration", "guarantee"], ["calibration"]]
    message = inbox.taken[1]
    assert set(message) == {"event", "model", "version", "at", "changed", "ok", "alarms", "action"}
    assert (message["event"], message["model"], message["version"], message["ok"]) == (
        "polarscore.check", "mail", "1", False)
    assert message["alarms"][0]["since"] == AT.isoformat() and message["action"] is None
    assert all(right(headers, body) for _, headers, body in inbox.got)
    assert not right(inbox.got[0][1], inbox.got[1][2])


def test_another_version_an_action_and_always_are_told_too(inbox, url, file):
    tell(file, url, QUIET)
    tell(file, url, QUIET, version="2")
    tell(file, url, QUIET, version="2", action={"done": True})
    tell(file, url, QUIET, version="2", always=True)
    assert [(message["version"], message["changed"], message["action"]) for message in inbox.taken] == [
        ("1", ["calibration", "guarantee"], None), ("2", ["calibration", "guarantee"], None),
        ("2", [], {"done": True}), ("2", [], None)]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_receiver_that_stumbles_is_asked_again(inbox, url, file, status):
    inbox.answers = [status, status]
    assert tell(file, url, QUIET) == []
    assert len(inbox.got) == 3 and len({headers["X-MLflow-Delivery-Id"] for _, headers, _ in inbox.got}) == 1


def test_a_broken_receiver_is_one_clear_line_and_nothing_is_lost(inbox, url, file):
    inbox.answers = [500] * 3 + [401] + [500] * 3
    (line,) = tell(file, url, QUIET)
    assert line == (f"1 message could not be delivered to {url.split('/hook')[0]}: it answers 500; "
                    "the next check sends it again")
    (line,) = tell(file, url, RINGS)
    assert "2 messages could not be delivered" in line and "it answers 401; the next check sends them again" in line
    assert "hunter2" not in line and SECRET not in line and len(inbox.got) == 4
    assert SECRET not in file.read_text() and "hunter2" not in file.read_text()
    (line,) = tell(file, url, RINGS)
    assert "2 messages" in line
    assert tell(file, url, RINGS) == []
    assert [message["changed"] for message in inbox.taken] == [["calibration", "guarantee"], ["calibration"]]
    first = [headers["X-MLflow-Delivery-Id"] for _, headers, _ in inbox.got]
    assert len(set(first)) == 2  # the same message keeps its id


def test_of_messages_without_news_only_the_newest_waits(inbox, url, file):
    tell(file, url, QUIET)
    inbox.answers = [403] * 5
    for _ in range(4):
        tell(file, url, QUIET, always=True)
    assert "1 message could" in tell(file, url, QUIET, always=True)[0]


def test_nobody_there_or_too_slow(file, monkeypatch):
    (line,) = tell(file, "http://127.0.0.1:9/hook", QUIET)
    assert "to http://127.0.0.1:9: it cannot be reached; the next check sends it again" in line


@pytest.mark.parametrize("environ", [
    {"ALL_PROXY": "socks5://127.0.0.1:1"}, {"HTTPS_PROXY": "foo://bar"}, {"SSL_CERT_FILE": "/nowhere.pem"},
    {"SSL_CERT_FILE": os.devnull},
])
def test_whatever_the_environment_makes_of_it_the_check_goes_on(file, monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (line,) = tell(file, "https://hook.invalid/services/hunter2", QUIET)
    assert line == ("1 message could not be delivered to https://hook.invalid: it cannot be reached; "
                    "the next check sends it again")
    assert len(Told.model_validate_json(file.read_bytes()).waiting) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_message_that_is_refused_is_set_aside_and_the_next_ones_go(inbox, url, file, status):
    inbox.answers = [500] * 3 + [status]
    tell(file, url, QUIET)
    (line,) = tell(file, url, RINGS)
    assert line == f"a message was refused by {url.split('/hook')[0]}: it answers {status}; it is set aside"
    assert [message["changed"] for message in inbox.taken] == [["calibration"]]
    kept = Told.model_validate_json(file.read_bytes())
    assert kept.waiting == () and [json.loads(each.body)["changed"] for each in kept.refused] == [
        ["calibration", "guarantee"]]
    assert tell(file, url, RINGS) == []


def test_so_many_wait_and_no_more(inbox, url, file, monkeypatch):
    monkeypatch.setattr(notifying, "QUEUE", 3)
    inbox.answers = [401] * 5
    lines = [tell(file, url, alarms) for alarms in (QUIET, RINGS, QUIET, RINGS)]
    assert [len(each) for each in lines] == [1, 1, 1, 2]
    assert lines[3][0] == f"more than 3 messages wait for {url.split('/hook')[0]}; the oldest are dropped"
    assert "3 messages could not" in lines[3][1]


def test_versions_checked_by_turns_are_told_once_each(inbox, url, file):
    for version in ("1", "2", "1", "2"):
        assert tell(file, url, QUIET, version=version) == []
    assert [message["version"] for message in inbox.taken] == ["1", "2"]


def test_a_redirection_is_not_followed(inbox, url, file):
    inbox.answers = [302]
    assert "it answers 302" in tell(file, url, QUIET)[0]


def test_a_disk_that_is_full_is_said_and_told_all_the_same(inbox, url, file, monkeypatch):
    tell(file, url, QUIET)
    before = file.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        (line,) = tell(file, url, RINGS)
    assert "cannot be kept" in line and "No space left on device; the next check may tell it again" in line
    assert len(inbox.taken) == 2 and file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []
    assert tell(file, url, RINGS) == [] and len(inbox.taken) == 3


def test_a_folder_that_cannot_be_written_is_said_and_told_all_the_same(inbox, url, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "cannot be kept" in tell(tmp_path / "taken" / "mail.json", url, RINGS)[0]
    assert len(inbox.taken) == 1


@pytest.mark.parametrize("content", ["", "{", '{"states": 3}', '{"version": "1", "more": 1}'])
def test_a_damaged_file_is_put_aside_and_all_is_told_anew(inbox, url, file, content):
    file.parent.mkdir()
    file.write_text(content)
    (line,) = tell(file, url, QUIET)
    assert "it is damaged; all is told anew" in line and len(inbox.taken) == 1
    assert file.with_suffix(".damaged").read_text() == content
    assert tell(file, url, QUIET) == []


@pytest.mark.parametrize(("url", "message"), [
    ("http://hook.example/x?token=hunter2", "look like https://HOST/PATH"), ("ftp://127.0.0.1/x", "look like https"),
    ("hook", "look like https"), ("https://[", "Found one that is none"), ("https://h:x/", "Found one that is none"),
    ("https://ada:hunter2@hook.example/", "should hold no password"),
    (f"https://{'a' * 64}.example/", "Found one that is none"),
    ("https://a..example/", "one that is none"), ("https://xn--/", "one that is none"), ("https://h/\ud800", "is none"),
    ("http://hook.example/services/hunter2", "Found http://hook.example. Only"),
])
def test_a_url_that_will_not_do_is_refused(url, message):
    with pytest.raises(InputError, match=message) as error:
        receiver(url, WITH)
    assert "hunter2" not in str(error.value)


def test_https_or_this_machine_or_what_is_allowed(inbox):
    allowed = WITH | {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https"}
    assert receiver("http://hook.example/x", allowed).url == "http://hook.example/x"
    assert receiver("https://hook.example:8443/x?y=z", WITH).shown == "https://hook.example:8443"
    assert receiver("http://localhost:80/", WITH).secret == SECRET
    assert SECRET not in str(receiver("https://hook.example/x", WITH))


@pytest.mark.parametrize(("environ", "found"), [({}, "none"), ({"POLARSCORE_WEBHOOK_SECRET": "short"}, "one of 5")])
def test_without_a_secret_nothing_is_sent(environ, found):
    with pytest.raises(InputError, match=f"should hold a secret of 16 characters or more.* Found {found}"):
        receiver("https://hook.example/x", environ)


def samples(path):
    return {(sample.name, sample.labels.get("name")): sample.value
            for family in text_string_to_metric_families(path.read_text()) for sample in family.samples}


def test_the_file_for_prometheus_is_one_that_prometheus_reads(tmp_path):
    path = tmp_path / "mail.prom"
    figures = {"polarscore_error_rate_estimate": 0.25, "polarscore_labels": 40, "polarscore_mean_risk": None}
    write_exposition(path, 'a "model"\n', "3", RINGS, figures, AT)
    found = samples(path)
    assert found["polarscore_alarm", "calibration"] == 1 and found["polarscore_alarm", "guarantee"] == 0
    assert found["polarscore_alarm_unknown", "calibration"] == 0 and found["polarscore_alarm_unknown", "guarantee"] == 1
    assert found["polarscore_alarm_size", "calibration"] == 0.2
    assert found["polarscore_alarm_since_seconds", "calibration"] == AT.timestamp()
    assert ("polarscore_alarm_size", "guarantee") not in found
    assert found["polarscore_error_rate_estimate", None] == 0.25 and found["polarscore_labels", None] == 40
    assert ("polarscore_mean_risk", None) not in found and found["polarscore_check_seconds", None] == AT.timestamp()
    assert os.listdir(tmp_path) == ["mail.prom"]


def test_a_file_for_prometheus_that_cannot_be_written_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written to .*: No such file or directory"):
        write_exposition(tmp_path / "nowhere" / "mail.prom", "mail", "1", QUIET, {}, AT)
