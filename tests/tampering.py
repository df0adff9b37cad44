"""Ways to tamper with a registry, by hand and with raw tools, and what must find each.

The registry: version 2 in production, 4 in staging, 5 a candidate, 1 and 3 archived; a rollback would bring 1 back. A
way may do what somebody can who writes to MLflow's database, to the log's, to the artefact store and to the model
store, and who holds no private key that is trusted.
"""

import base64
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import yaml

from registry import evidence
from registry.aliases import HEAD_TAG
from registry.bundling import offer
from registry.chain import content, sealed
from registry.envelope import pem
from registry.keys import Keys
from registry.opening import Registry
from registry.promotion import rollback
from registry.sealing import seal
from registry.signing import sign
from registry.verification import verify
from serving.opening import open_scorer, open_signed
from tests import registries
from tests.registries import log, move
from training.audit_result import Guarantee, Recalibration
from training.errors import PolarscoreError
from training.spec import digest, load_spec

PRODUCTION, STAGING, CANDIDATE, BEFORE = 2, 4, 5, 1
"""The versions in these stages, and the one that was in production before."""


@dataclass(frozen=True)
class Way:
    """One way to tamper. says: a pattern of what the right finding says. relying: by name in `RELYING`, what makes use
    of the thing and so must refuse.
    """

    does: Callable[[Registry], object]
    says: str
    relying: tuple[str, ...] = ()


def prepared(place):
    """The registry, in a new folder: `state`, beside it `keys`, and in `kept` a copy of both. Gives its state."""
    registries.template(place / "template", 5)
    state = registries.copied(place / "template", place / "state")
    shutil.rmtree(place / "template")
    with Registry.open(state) as registry:
        for number in range(1, 6):
            _complete(registry, number)
        for number, to in ((1, "production"), (2, "staging"), (2, "production"), (3, "production")):
            move(registry, number, to)
        rollback(registry, "mail", "ada", "too many alarms")
        move(registry, STAGING, "staging")
        assert verify(registry, "mail") == []
    shutil.copytree(place / "state", place / "kept" / "state")
    shutil.copytree(place / "keys", place / "kept" / "keys")
    return state


def restore(state):
    """Make the registry again what it was. In place, since MLflow takes a second to get used to another database."""
    place, kept = state.home.parent, state.home.parent / "kept"
    for path in (*place.iterdir(), *state.home.iterdir()):
        if path.is_dir() and not path.is_symlink() and path not in (state.home, kept):
            shutil.rmtree(path)
    (state.home / "elsewhere").unlink(missing_ok=True)
    shutil.copytree(kept / "keys", place / "keys")
    for path in (kept / "state").iterdir():
        if path.is_dir():
            shutil.copytree(path, state.home / path.name)
        elif path.suffix == ".db":
            with sqlite3.connect(path) as whole, sqlite3.connect(state.home / path.name) as tampered:
                whole.backup(tampered)
            whole.close()
            tampered.close()


def _complete(registry, number):
    """Give a version what an audit and training leave beside its weights: a threshold, sources, code."""
    files = artifacts(registry, number)
    promise = Guarantee(0.1, 0.1, 0.2, 0.5, 0.09, 200, "of the answers with risk up to 0.200, at most 10% are wrong")
    scale = Recalibration((0.0,) * 24 + (0.5,) * 25, 200)
    spec = load_spec(files / "spec.json").model_copy(update={"guarantee": promise, "recalibration": scale})
    (files / "spec.json").write_text(json.dumps(spec.model_dump(mode="json")))
    (files / "sources.py").write_text(f"# the sources of version {number}\n")
    (files.parent / "code").mkdir()
    (files.parent / "code" / "scoring.py").write_text("THRESHOLD = 0.2\n")
    tag(number, "digest", digest(files))(registry)
    tag(number, "data_digest", spec.data_digest)(registry)


# What relies on the registry, and must refuse


RELYING = {
    "promotion": lambda registry: move(registry, STAGING, "production"),
    "first promotion": lambda registry: move(registry, CANDIDATE, "staging"),
    "rollback": lambda registry: rollback(registry, "mail", "eve", ""),
    "sealing": lambda registry: seal(registry, "mail", "eve"),
    "bundling": lambda registry: offer(registry, registry.versions.get("models:/mail@production")),
}
CHANGES = ("promotion", "rollback")


def situation(state):
    """All that a promotion, a rollback or a bundling would change."""
    asked = {"polarscore.db": ("SELECT * FROM stage_log ORDER BY entry", "SELECT * FROM stage_intentions"),
             "mlflow.db": ("SELECT * FROM registered_model_aliases", "SELECT * FROM registered_model_tags",
                           "SELECT * FROM model_version_tags", "SELECT run_uuid FROM runs")}
    rows = []
    for file, queries in asked.items():
        with sqlite3.connect(state.home / file) as connection:
            rows += [connection.execute(query).fetchall() for query in queries]
        connection.close()
    return rows, sorted((state.bento_home / "models").glob("*/*"))


def missed(state, way):
    """What did not find a way, in words: nothing, hopefully."""
    with Registry.open(state) as registry:
        way.does(registry)
    with Registry.open(state) as registry:
        said, wrong = findings(registry), []
        if not any(re.search(way.says, what, re.DOTALL) for what in said):
            wrong.append(f"verify should say '{way.says}'. Found {said}")
        before = situation(state)
        for name in way.relying:
            try:
                RELYING[name](registry)
                wrong.append(f"{name} went on")
            except PolarscoreError:
                pass
            if situation(state) != before:
                return [*wrong, f"{name} changed something"]
    return wrong


def findings(registry):
    """What `verify` says."""
    try:
        return [finding.what for finding in verify(registry, "mail")]
    except PolarscoreError as error:
        return [str(error)]


def missed_by_the_service(state, way, follows=None):
    """What did not find a way to tamper with the model store, in words.

    follows: the version that the service should take over; None: it starts from what is in the store.
    """
    with Registry.open(state) as registry:
        offer(registry, registry.versions.get("models:/mail@production"))
        before = _opened(registry, None)
        way.does(registry)
        after = _opened(registry, follows)
    # made for a narrower encoder than is installed: what is not refused comes as far as that
    wrong = [] if "EncoderSpec" in before else [f"the service should have come to the encoder. It said: {before}"]
    return wrong + ([] if re.search(way.says, after) else [f"the service should say '{way.says}'. It said: {after}"])


def _opened(registry, follows):
    """What the service says when it opens a version of the model store."""
    models = registry.state.bento_home / "models"
    try:
        if follows is None:
            found = next(each for each in models.glob("mail/2-*"))
            facts = yaml.safe_load((found / "model.yaml").read_text())["metadata"]
            open_scorer(found, facts, registry.keys, "cpu")
        else:
            entry = next(entry for entry in log(registry) if entry.version == follows)
            open_signed(models, "mail", str(follows), registry.keys, entry.files, "cpu")
    except PolarscoreError as error:
        return str(error)
    return "nothing"


# Tools: of a file


def artifacts(registry, number):
    """The files of a version's own, where they lie: beside them is what MLflow keeps."""
    return registry.state.home / "files" / str(number) / "artifacts"


def flip(path, place=-1):
    """Change one bit of a file."""
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1
    write(path, bytes(whole))


def write(path, content):
    """Put a content into a file, a new one or one that is kept read-only."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def bit(number, name, place=-1):
    """Change one bit in a file of a version."""
    return lambda registry: flip(artifacts(registry, number).parent / name, place)


def added(number, name, content=b"import os\n"):
    """Put a file among those of a version."""
    return lambda registry: write(artifacts(registry, number).parent / name, content)


def removed(number, name):
    """Remove a file of a version."""
    return lambda registry: (artifacts(registry, number).parent / name).unlink()


def renamed(number, name, new):
    """Rename a file of a version."""
    return lambda registry: (artifacts(registry, number).parent / name).rename(
        artifacts(registry, number).parent / new)


def linked(number, name):
    """Replace a file or folder of a version by a link to an equal one elsewhere."""

    def does(registry):
        path = artifacts(registry, number).parent / name
        path.symlink_to(path.rename(registry.state.home / "elsewhere"))

    return does


def swapped_file(number, other, name):
    """Put the file of another version in the place of a version's own."""
    return lambda registry: shutil.copyfile(artifacts(registry, other) / name, artifacts(registry, number) / name)


def respecified(number, **changed):
    """Change what spec.json says; a dict changes keys inside."""

    def does(registry):
        path = artifacts(registry, number) / "spec.json"
        spec = json.loads(path.read_text())
        path.write_text(json.dumps(spec | {
            key: spec[key] | value if isinstance(value, dict) else value for key, value in changed.items()}))

    return does


# Tools: of the two databases


def sql(file, *statements):
    """Run SQL on a database of the state."""

    def does(registry):
        with sqlite3.connect(registry.state.home / file) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return does


def in_log(*statements):
    """Run SQL on the log's database."""
    return sql("polarscore.db", *statements)


def in_mlflow(*statements):
    """Run SQL on MLflow's database."""
    return sql("mlflow.db", *statements)


def column(name, value, seq=3):
    """Change a column of one row of the log; the value as SQL has it."""
    return in_log(f"UPDATE stage_log SET {name} = {value} WHERE seq = {seq}")


def rewritten(make, keep_head=False):
    """Put other entries in the place of the log, made of what it holds and the signer; MLflow's head tag with it."""

    def does(registry):
        entries = make(log(registry), registry.keys.signer())
        rows = [asdict(entry) | {"at": entry.at.isoformat(" ").removesuffix("+00:00"),
                                 "gates": json.dumps(entry.gates)} for entry in entries]
        with sqlite3.connect(registry.state.home / "polarscore.db") as connection:
            connection.execute("DELETE FROM stage_log")
            for row in rows:
                connection.execute(f"INSERT INTO stage_log ({', '.join(f'{key!r}' for key in row)}) "
                                   f"VALUES ({', '.join('?' * len(row))})", list(row.values()))
        connection.close()
        if not keep_head:
            head(entries[-1].head if entries else None)(registry)

    return does


def hashed(entry):
    """The entry with the hash that fits it, and the signature that it had."""
    return replace(entry, hash=hashlib.sha256(content(entry)).hexdigest())


def chained(entries):
    """The entries numbered and linked anew, each with the signature that it had."""
    made = []
    for seq, entry in enumerate(entries, 1):
        made.append(hashed(replace(entry, seq=seq, previous=made[-1].hash if made else "")))
    return made


def changed(entries, seq, **fields):
    """The entries, one of them changed."""
    return [replace(entry, **fields) if entry.seq == seq else entry for entry in entries]


def unsigned(entries):
    """The entries as a polarscore wrote them that signed none."""
    return chained([replace(entry, key=None, signature=None) for entry in entries])


def signed_anew(entries, signer, **fields):
    """The entries, signed by some key, with other fields."""
    made = []
    for entry in entries:
        made.append(sealed(replace(entry, **fields), made[-1] if made else None, signer))
    return made


def stranger(registry):
    """The signer of a key that is not trusted here."""
    return Keys(registry.state.home.parent / "stranger").make()


def by_a_stranger(registry):
    """Let the log, its head included, say that version 5 is in production; sign all of it."""
    signer = stranger(registry)
    rewritten(lambda entries, _: signed_anew(changed(entries, 5, version=CANDIDATE), signer))(registry)


def one_by_a_stranger(registry):
    """Sign the last entry, changed, with another key."""
    signer = stranger(registry)
    rewritten(lambda entries, _: [*entries[:-1], sealed(replace(entries[-1], why="-"), entries[-2], signer)])(registry)


def swapped_rows(entries, _):
    """Entries 2 and 3 in each other's place."""
    one, other = replace(entries[1], seq=3), replace(entries[2], seq=2)
    return [entries[0], other, one, *entries[3:]]


def forged(entries, _):
    """One more entry, unsigned or with a signature that was seen: version 3 is back in production."""
    last = entries[-1]
    entry = replace(entries[3], seq=last.seq + 1, previous=last.hash, at=last.at, replaced=PRODUCTION)
    return [*entries, hashed(entry)]


def other_model(entries, signer):
    """The log of another model, under this one's name."""
    return [replace(entry, model="mail") for entry in signed_anew(entries[:3], signer, model="letters")]


def other_registry(entries, signer):
    """What the log of a model of that name might be in another registry that the same key signs."""
    return signed_anew(entries[:3], signer, why="elsewhere")


def intention(make):
    """Leave an intention as a killed process would; made of the entries."""

    def does(registry):
        entry = make(log(registry))
        said = json.dumps(asdict(entry) | {"at": entry.at.isoformat()})
        with sqlite3.connect(registry.state.home / "polarscore.db") as connection:
            connection.execute("INSERT INTO stage_intentions VALUES ('mail', ?)", [said])
        connection.close()

    return does


def together(*steps):
    """One thing after the other."""

    def does(registry):
        for step in steps:
            step(registry)

    return does


# Tools: of MLflow's client, as in its UI


def alias(name, number):
    """Move an alias; None removes it."""
    if number is None:
        return lambda registry: registry.versions.client.delete_registered_model_alias("mail", name)
    return lambda registry: registry.versions.client.set_registered_model_alias("mail", name, str(number))


def tag(number, key, value):
    """Set a tag of a version; None removes it."""
    if value is None:
        return lambda registry: registry.versions.client.delete_model_version_tag("mail", str(number), key)
    return lambda registry: registry.versions.client.set_model_version_tag("mail", str(number), key, value)


def head(value):
    """Set the tag that names the log's head; None removes it."""
    if value is None:
        return lambda registry: registry.versions.client.delete_registered_model_tag("mail", HEAD_TAG)
    return lambda registry: registry.versions.client.set_registered_model_tag("mail", HEAD_TAG, value)


def earlier_head(registry):
    """The head before the last entry."""
    head(log(registry)[-2].head)(registry)


STAGED_BACK = (alias("staging", None), tag(STAGING, "stage", "candidate"), tag(STAGING, "evidence", None))
"""All that the last promotion did in MLflow, taken back."""
CUT = (earlier_head, in_log("DELETE FROM stage_log WHERE seq = 6"))
FRESH = (rewritten(lambda entries, _: []), alias("production", None), alias("staging", None),
         in_mlflow("DELETE FROM model_version_tags WHERE key IN ('stage', 'evidence')"))


# Tools: of evidence and witness


def bundle_of(registry, number):
    """Where the evidence of a version's latest promotion lies."""
    run = registry.history.evidence("mail", number)[0].split("/")[1]
    return registry.state.home / "artifacts" / "mail" / run / "artifacts" / "evidence"


def proof(number, name, does=flip):
    """Do something to a file of the evidence of a version."""
    return lambda registry: does(bundle_of(registry, number) / name)


def gone(path):
    """Remove a file, a read-only one too."""
    path.unlink()


def swapped_proof(registry):
    """Put the evidence of version 2 in the place of that of version 4."""
    for path in bundle_of(registry, PRODUCTION).iterdir():
        write(bundle_of(registry, STAGING) / path.name, path.read_bytes())


def proof_elsewhere(registry):
    """Have MLflow look for the evidence of version 4 in a copy, in which the card is changed."""
    elsewhere = registry.state.home / "elsewhere"
    shutil.copytree(bundle_of(registry, STAGING).parent, elsewhere)
    flip(elsewhere / "evidence" / "card.md")
    run = bundle_of(registry, STAGING).parts[-3]
    in_mlflow(f"UPDATE runs SET artifact_uri = '{elsewhere.as_uri()}' WHERE run_uuid = '{run}'")(registry)


def proof_deleted(registry):
    """Delete the run that keeps the evidence of version 1, as in the UI: its files go at the next `mlflow gc`."""
    registry.versions.client.delete_run(bundle_of(registry, BEFORE).parts[-3])


def signature_of_evidence_forged(registry):
    """Sign a changed version 4 with another key, and adapt the digest in the log's row."""
    stranger(registry)
    flip(artifacts(registry, STAGING) / "weights.safetensors")
    bundle = bundle_of(registry, STAGING)
    gone(bundle / "model.sig")
    sign(artifacts(registry, STAGING).parent, bundle / "model.sig", Keys(registry.state.home.parent / "stranger"))
    column("evidence", f"'{evidence.digest(bundle)}'", 6)(registry)


def witness(change):
    """Change the file of heads that this machine has seen."""

    def does(registry):
        heads = json.loads(registry.keys.heads.read_text())
        registry.keys.heads.write_text(change(heads))

    return does


def other_heads(heads):
    """Other hashes for the same entries."""
    return json.dumps({name: seen.split(":")[0] + ":" + "0" * 64 for name, seen in heads.items()})


# The ways

REFUSED = "are not those that were signed"
UNREGISTERED = "are not those that were registered"
LOG = "entry 3 of 'mail'"
PROOF = r"the evidence runs:/\w+/evidence is not what the log says"
HEAD = f"tag {HEAD_TAG} of 'mail' says"

FILES = {
    "one bit of the weights in production": Way(
        bit(2, "artifacts/weights.safetensors"), "version 2.*changed: artifacts/weights", ("bundling",)),
    "one bit of the weights that a rollback would bring back": Way(
        bit(1, "artifacts/weights.safetensors"), "version 1.*changed: artifacts/weights", ("rollback",)),
    "the first bit of the weights in staging": Way(
        bit(4, "artifacts/weights.safetensors", 0), "version 4.*changed: artifacts/weights", ("promotion",)),
    "the weights of another version in place of those in staging": Way(
        swapped_file(4, 3, "weights.safetensors"), "version 4.*changed: artifacts/weights", ("promotion",)),
    "one bit of a candidate's weights": Way(
        bit(5, "artifacts/weights.safetensors"), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "a candidate's weights replaced by those of another version": Way(
        swapped_file(5, 3, "weights.safetensors"), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "a Pareto weight in staging": Way(
        respecified(4, pareto_weights={"LLM": 0.0}), "version 4.*changed: artifacts/spec", ("promotion",)),
    "the sharpness that a rollback would bring back": Way(
        respecified(1, sharpness=2.0), "version 1.*changed: artifacts/spec", ("rollback",)),
    "the recalibration in production": Way(
        respecified(2, recalibration={"values": []}), "version 2.*changed: artifacts/spec", ("bundling",)),
    "the guarantee's threshold in production": Way(
        respecified(2, guarantee={"threshold": 0.9}), "version 2.*changed: artifacts/spec", ("bundling",)),
    "the guarantee's threshold that a rollback would bring back": Way(
        respecified(1, guarantee={"threshold": 0.9}), "version 1.*changed: artifacts/spec", ("rollback",)),
    "the guarantee's words in staging": Way(
        respecified(4, guarantee={"words": "none is wrong"}), "version 4.*changed: artifacts/spec", ("promotion",)),
    "the classes in staging, in another order": Way(
        respecified(4, classes=["spam", "ham"]), "version 4.*changed: artifacts/spec", ("promotion",)),
    "the layout alone of the spec in staging": Way(
        added(4, "artifacts/spec.json", b"{}"), "version 4.*changed: artifacts/spec", ("promotion",)),
    "a candidate's Pareto weight": Way(
        respecified(5, pareto_weights={"LLM": 0.0}), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "a candidate's threshold": Way(
        respecified(5, guarantee={"threshold": 0.9}), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "the sources in production": Way(
        bit(2, "artifacts/sources.py"), "version 2.*changed: artifacts/sources", ("bundling",)),
    "a candidate's sources": Way(bit(5, "artifacts/sources.py"), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "MLmodel": Way(bit(4, "MLmodel"), "version 4.*changed: MLmodel", ("promotion",)),
    "requirements.txt": Way(bit(1, "requirements.txt"), "version 1.*changed: requirements", ("rollback",)),
    "the stored code": Way(bit(4, "code/scoring.py"), r"version 4.*changed: code/scoring\.py", ("promotion",)),
    "a module put among the stored code": Way(
        added(4, "code/os.py"), r"version 4.*new: code/os\.py", ("promotion",)),
    "compiled code put beside the stored code": Way(
        added(4, "code/scoring.pyc"), r"version 4.*new: code/scoring\.pyc", ("promotion",)),
    "an empty file put among the artefacts": Way(
        added(1, "artifacts/notes", b""), "version 1.*new: artifacts/notes", ("rollback",)),
    "a hidden file": Way(added(1, ".gitignore", b"*\n"), r"version 1.*new: \.gitignore", ("rollback",)),
    "the requirements removed": Way(
        removed(4, "requirements.txt"), "version 4.*missing: requirements", ("promotion",)),
    "the sources removed": Way(removed(2, "artifacts/sources.py"), "version 2.*missing: artifacts/so", ("bundling",)),
    "the spec removed": Way(removed(1, "artifacts/spec.json"), "mail/1 .*no spec.json", ("rollback",)),
    "a candidate's sources removed": Way(
        removed(5, "artifacts/sources.py"), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "stored code renamed": Way(
        renamed(4, "code/scoring.py", "code/Scoring.py"), "version 4.*missing: code/sc.*new: code/Sc", ("promotion",)),
    "weights replaced by a link to equal ones": Way(
        linked(4, "artifacts/weights.safetensors"), "version 4.*'artifacts/weights.* plain file", ("promotion",)),
    "the code replaced by a link to an equal folder": Way(
        linked(1, "code"), "version 1.*'code' in .* plain file", ("rollback",)),
    "a candidate's weights replaced by a link to equal ones": Way(
        linked(5, "artifacts/weights.safetensors"), "'artifacts/weights.*/files/5 should be a plain",
        ("first promotion",)),
    "the whole folder of a version removed": Way(
        lambda registry: shutil.rmtree(artifacts(registry, 1).parent), "version 1.*mail/1", ("rollback",)),
}

COLUMNS = {
    "who": "'eve'", "action": "'repair'", "model": "'letters'", "version": "5", "from_stage": "'candidate'",
    "to_stage": "'staging'", "replaced": "NULL", "why": "'all gates passed'", "gates": "'[]'",
    "at": "'2020-01-01 00:00:00.000000'", "seq": "7", "files": f"'{'0' * 64}'", "evidence": f"'{'0' * 64}'",
    "evidence_uri": "(SELECT evidence_uri FROM stage_log WHERE seq = 4)", "previous": "''", "hash": f"'{'0' * 64}'",
    "key": "NULL", "signature": "(SELECT signature FROM stage_log WHERE seq = 4)",
}
MOVED_ROW = "does not follow the entry before it"

ROWS = {
    **{f"the column {name} of a row of the log": Way(
        column(name, value), MOVED_ROW if name in ("model", "seq") else LOG,
        ("rollback",) if name != "signature" else ())  # the last signature covers what the entry says
       for name, value in COLUMNS.items()},
    "the last row of the log": Way(
        column("why", "'-'", 6), "entry 6 of 'mail'.*is not as it was written", CHANGES),
    "the figures of a gate in a row": Way(
        in_log("UPDATE stage_log SET gates = replace(gates, '0.1', '0.05') WHERE seq = 3"), LOG, CHANGES),
    "the row of the version that a rollback would bring back": Way(
        column("version", "5", 1), "entry 1 of 'mail'.*is not as it was written", CHANGES),
    "a row's moment made unreadable": Way(column("at", "'yesterday'"), "log of 'mail' .*cannot be read", CHANGES),
    "a row's gates made unreadable": Way(column("gates", "'{'"), "log of 'mail' .*cannot be read", CHANGES),
    "a row's gates made what JSON is not": Way(column("gates", "'[NaN]'"), LOG, CHANGES),
    "a row's version made a word": Way(column("version", "'two'"), LOG, CHANGES),
    "a row's words made bytes": Way(column("who", "x'00ff'"), "log of 'mail' .*cannot be read|" + LOG, CHANGES),
    "a row with its hash": Way(
        rewritten(lambda entries, _: [hashed(e) for e in changed(entries, 3, version=5)]),
        f"{LOG}.*not signed by a key", CHANGES),
    "a row, its hash and all that follow": Way(
        rewritten(lambda entries, _: chained(changed(entries, 3, version=5))), f"{LOG}.*not signed by a key", CHANGES),
    "a row, and the signature of another one": Way(
        rewritten(lambda entries, _: chained(changed(
            entries, 3, version=5, signature=entries[3].signature))), f"{LOG}.*not signed by a key", CHANGES),
    "the last row, signed by another key": Way(
        one_by_a_stranger, "entry 6 of 'mail'.*not signed by a key that is trusted", CHANGES),
    "the whole log, signed by another key": Way(
        by_a_stranger, "entry 1 of 'mail'.*not signed by a key that is trusted", CHANGES),
    "the last row's signature taken off": Way(
        rewritten(lambda entries, _: [*entries[:-1], hashed(replace(entries[-1], key=None, signature=None))]),
        "entry 6 of 'mail'.*lost its signature", CHANGES),
    "all signatures taken off, as if of an older polarscore": Way(
        rewritten(lambda entries, _: unsigned(changed(entries, 3, version=5))),
        "this machine has seen the log of 'mail' with entry 6", (*CHANGES, "sealing")),
    "the first row deleted": Way(in_log("DELETE FROM stage_log WHERE seq = 1"), "entry 2 .*does not follow", CHANGES),
    "a row in the middle deleted": Way(
        in_log("DELETE FROM stage_log WHERE seq = 3"), "entry 4 .*does not follow", CHANGES),
    "a row in the middle deleted, and the rest numbered anew": Way(
        in_log("DELETE FROM stage_log WHERE seq = 3", "UPDATE stage_log SET seq = seq - 1 WHERE seq > 3"),
        f"{LOG}.*does not follow", CHANGES),
    "the last row deleted": Way(in_log("DELETE FROM stage_log WHERE seq = 6"), f"{HEAD}.*entry 6", CHANGES),
    "the last row deleted, MLflow's head tag set back": Way(
        together(*CUT), "this machine has seen .*entry 6", CHANGES),
    "the last promotion undone in the log and in MLflow": Way(
        together(*CUT, *STAGED_BACK), "this machine has seen .*entry 6", ("rollback",)),
    "the last promotion made an intention again, and undone in MLflow": Way(
        together(intention(lambda entries: entries[-1]), *CUT, *STAGED_BACK), "this machine has seen .*entry 6",
        ("rollback",)),
    "the last promotion undone, and the model's age changed": Way(
        together(*CUT, *STAGED_BACK, in_mlflow("UPDATE registered_models SET creation_time = creation_time + 1")),
        "this machine has seen .*entry 6"),
    "two rows swapped": Way(rewritten(swapped_rows), f"{LOG}.*is not as it was written", CHANGES),
    "a row written twice": Way(
        rewritten(lambda entries, _: [*entries, replace(entries[-1], seq=7)]), "entry 7 .*does not follow", CHANGES),
    "a row put in between": Way(
        rewritten(lambda entries, _: chained([*entries[:3], entries[0], *entries[3:]])),
        "entry 4 of 'mail'.*not signed by a key", CHANGES),
    "a row put at the end, with MLflow as it says": Way(
        together(rewritten(forged), alias("production", 3), tag(2, "stage", "archived"),
                 tag(3, "stage", "production")), "entry 7 of 'mail'.*not signed by a key", (*CHANGES, "bundling")),
    "the log emptied": Way(in_log("DELETE FROM stage_log"), f"{HEAD}.*no entry", CHANGES),
    "the log emptied, MLflow as if nothing had been promoted": Way(
        together(*FRESH), "this machine has seen .*entry 6", ("promotion", "first promotion")),
    "the log of another model in its place": Way(rewritten(other_model), "entry 1 .*not as it was written", CHANGES),
    "the log of another registry, signed by the same key": Way(
        rewritten(other_registry), "this machine has seen .*entry 6", CHANGES),
    "an intention that nobody signed": Way(
        intention(lambda entries: hashed(replace(
            entries[-1], version=5, seq=7, previous=entries[-1].hash, key=None, signature=None))),
        "interrupted entry 7 .*not written by polarscore", CHANGES),
    "an intention that was carried out before": Way(
        intention(lambda entries: entries[3]), "interrupted entry 4 .*not written by polarscore", CHANGES),
}

MLFLOW = {
    "MLflow's tag of the log's head changed": Way(head("6:" + "0" * 64), HEAD, CHANGES),
    "MLflow's tag of the log's head removed": Way(head(None), HEAD, CHANGES),
    "MLflow's tag of the log's head set back": Way(earlier_head, HEAD, CHANGES),
    "the alias production moved to what was never there": Way(
        alias("production", 5), "alias 'production' .*at version 5", (*CHANGES, "bundling")),
    "the alias production moved to what was there before": Way(
        alias("production", 3), "alias 'production' .*at version 3", (*CHANGES, "bundling")),
    "the alias production removed": Way(
        alias("production", None), "alias 'production' .*at no version", (*CHANGES, "bundling")),
    "the alias staging moved": Way(alias("staging", 5), "alias 'staging' .*at version 5", CHANGES),
    "the alias staging removed": Way(alias("staging", None), "alias 'staging' .*at no version", CHANGES),
    "the alias staging at the version in production": Way(
        alias("staging", 2), "alias 'staging' .*at version 2", CHANGES),
    "the alias candidate moved": Way(alias("candidate", 1), "alias 'candidate' .*at version 1"),
    "the alias candidate removed": Way(alias("candidate", None), "alias 'candidate' .*at no version"),
    "an alias moved in MLflow's database": Way(
        in_mlflow("UPDATE registered_model_aliases SET version = 4 WHERE alias = 'production'"),
        "alias 'production' .*at version 4", (*CHANGES, "bundling")),
    "the stage tag of the version in production": Way(tag(2, "stage", "archived"), "tag 'stage' of models:/mail/2"),
    "the stage tag of an archived version": Way(tag(3, "stage", "production"), "tag 'stage' of models:/mail/3"),
    "the stage tag of a candidate": Way(tag(5, "stage", "staging"), "tag 'stage' of models:/mail/5"),
    "a stage tag removed": Way(tag(4, "stage", None), "tag 'stage' of models:/mail/4"),
    "a measure in a tag": Way(tag(4, "valid.ece", "0.01"), "version 4.*tag 'valid.ece'", ("promotion",)),
    "a measure's tag removed": Way(tag(1, "valid.ece", None), "version 1.*tag 'valid.ece'", ("rollback",)),
    "the data's digest in a tag": Way(tag(1, "data_digest", "1" * 64), "version 1.*tag 'data_digest'", ("rollback",)),
    "a candidate's data digest in a tag": Way(
        tag(5, "data_digest", "1" * 64), "mail/5.*tag data_digest", ("first promotion",)),
    "the files' digest in a tag": Way(tag(4, "digest", "1" * 64), "version 4.*tag 'digest'", ("promotion",)),
    "the files' digest in a candidate's tag": Way(
        tag(5, "digest", "1" * 64), f"mail/5 {UNREGISTERED}", ("first promotion",)),
    "a candidate's digest tag removed": Way(
        tag(5, "digest", None), "mail/5 has no tag digest|alias 'candidate'", ("first promotion",)),
    "the evidence tag at another version's evidence": Way(
        lambda registry: tag(4, "evidence", registry.history.evidence("mail", 2)[0])(registry),
        "tag 'evidence' of models:/mail/4"),
    "the evidence tag removed": Way(tag(2, "evidence", None), "tag 'evidence' of models:/mail/2"),
    "an evidence tag at a version that was never promoted": Way(
        tag(5, "evidence", "runs:/0/evidence"), "tag 'evidence' of models:/mail/5"),
    "a tag that says that it was approved": Way(tag(4, "approved", "yes"), "version 4.*tag 'approved'"),
    "the run of a version, in MLflow's database": Way(
        in_mlflow("UPDATE model_versions SET run_id = 'another' WHERE version = 4"), "version 4.*its run is 'another'",
        ("promotion",)),
    "the place of a version's files, in MLflow's database": Way(
        in_mlflow("UPDATE model_versions SET source = replace(source, '/4', '/3'), "
                  "storage_location = replace(storage_location, '/4', '/3') WHERE version = 4"),
        "version 4.*changed: artifacts", ("promotion",)),
    "the place of the files in production": Way(
        in_mlflow("UPDATE model_versions SET source = replace(source, '/2', '/3'), "
                  "storage_location = replace(storage_location, '/2', '/3') WHERE version = 2"),
        "version 2.*changed: artifacts", ("bundling",)),
    "two versions' numbers swapped, in MLflow's database": Way(
        in_mlflow(*(f"UPDATE model_versions SET version = {new} WHERE version = {old}"
                    for old, new in ((1, 99), (3, 1), (99, 3)))), "version 1.*changed: artifacts", ("rollback",)),
    "a version that the log names deleted": Way(
        lambda registry: registry.versions.client.delete_model_version("mail", "1"),
        "version 1 of 'mail'.* is gone from MLflow", ("rollback",)),
    "the version in production deleted": Way(
        lambda registry: registry.versions.client.delete_model_version("mail", "2"),
        "version 2 of 'mail'.* is gone from MLflow", ("bundling",)),
    "the model deleted": Way(
        lambda registry: registry.versions.client.delete_registered_model("mail"),
        "'mail' has 6 entries in the log, and is gone", (*CHANGES, "bundling")),
    "the model renamed": Way(
        lambda registry: registry.versions.client.rename_registered_model("mail", "letters"),
        "'mail' has 6 entries in the log, and is gone", (*CHANGES, "bundling")),
}

EVIDENCE = {
    **{f"{name} of the evidence": Way(proof(4, name), PROOF, ("promotion",))
       for name in ("evidence.json", "card.md", "card.html", "scorer.sig")},
    "model.sig of the evidence": Way(proof(4, "model.sig"), PROOF, ("promotion",)),
    "scorer.sig of the version in production": Way(proof(2, "scorer.sig"), PROOF, ("bundling",)),
    **{f"{name} of the evidence removed": Way(proof(1, name, gone), f"{PROOF}.*lacks {name}", ("rollback",))
       for name in ("evidence.json", "card.md", "card.html", "model.sig", "scorer.sig")},
    "a file put into the evidence": Way(
        lambda registry: write(bundle_of(registry, 4) / "approval.txt", b"yes"), PROOF, ("promotion",)),
    "a card replaced by a link to an equal one": Way(
        proof(4, "card.md", lambda path: path.symlink_to(path.rename(path.parents[4] / "elsewhere"))),
        "version 4.*'card.md' in .*plain file", ("promotion",)),
    "the evidence of another version in its place": Way(swapped_proof, f"version 4.*{PROOF}", ("promotion",)),
    "the place of the evidence, in MLflow's database": Way(proof_elsewhere, f"version 4.*{PROOF}", ("promotion",)),
    "the run of the evidence deleted": Way(proof_deleted, "version 1.*evidence.*is deleted in MLflow"),
    "the evidence of an earlier promotion": Way(
        lambda registry: flip(registry.state.home / "artifacts" / "mail" / log(registry)[1].evidence_uri.split("/")[1]
                              / "artifacts" / "evidence" / "card.md"), f"version 2.*{PROOF}"),
    "a version, signed by another key, and the digest in its row": Way(
        signature_of_evidence_forged, "made by the key .*which is not trusted here", ("promotion",)),
    "what this machine has seen, at another hash": Way(
        witness(other_heads), "this machine has seen .*entry 6", CHANGES),
    "what this machine has seen, made unreadable": Way(witness(lambda heads: "{"), r"heads\.json is damaged", CHANGES),
}

WAYS = FILES | ROWS | MLFLOW | EVIDENCE


# The model store, which the service reads; `verify` does not


def kept(registry):
    """The folder of the version in production in the model store."""
    return next((registry.state.bento_home / "models").glob("mail/2-*"))


def metadata(**changed):
    """Change what `model.yaml` says of a model in the store."""

    def does(registry):
        path = kept(registry) / "model.yaml"
        said = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(said | {"metadata": said["metadata"] | changed}))

    return does


def stored(name, does=flip):
    """Do something to a file of the version in the model store."""
    return lambda registry: does(kept(registry) / name)


def digest_adapted(registry):
    """Let the store's metadata name the files that are there."""
    metadata(digest=digest(kept(registry)))(registry)


def signed_by_a_stranger(registry):
    """Change the weights; sign and name key and digest anew."""
    folder, keys = kept(registry), Keys(registry.state.home.parent / "stranger")
    signer = keys.make()
    flip(folder / "weights.safetensors")
    served = folder.parent / "served"
    served.mkdir()
    for name in ("weights.safetensors", "spec.json", "sources.py"):
        shutil.copyfile(folder / name, served / name)
    sign(served, folder / "scorer.sig", keys)
    shutil.rmtree(served)
    (folder / "scorer.pem").write_bytes(pem(keys.trusted[signer.id]))
    together(digest_adapted, metadata(signed_by=signer.id))(registry)


def other_statement(path):
    """Let the signed statement name another digest."""
    bundle = json.loads(path.read_text())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(bundle))


STORE = {
    "one bit of the stored weights": Way(stored("weights.safetensors"), "weights.safetensors should be as key"),
    "one bit of the stored spec": Way(stored("spec.json"), "spec.json should be as key"),
    "one bit of the stored sources": Way(stored("sources.py"), "sources.py should be as key"),
    "the stored weights, and the digest beside them": Way(
        together(stored("weights.safetensors"), digest_adapted), "weights.safetensors should be as key"),
    "the stored sources removed": Way(stored("sources.py", gone), "sources.py should be as key"),
    "one bit of scorer.sig": Way(stored("scorer.sig"), "the signature is damaged"),
    "what scorer.sig states": Way(stored("scorer.sig", other_statement), "damaged, or was not made by key"),
    "scorer.sig of another version": Way(
        lambda registry: shutil.copyfile(bundle_of(registry, 4) / "scorer.sig", kept(registry) / "scorer.sig"),
        "should be as key"),
    "scorer.sig removed": Way(stored("scorer.sig", gone), "scorer.sig is missing"),
    "the stored version signed anew by another key": Way(signed_by_a_stranger, "it should be signed by"),
    "the digest in model.yaml": Way(metadata(digest="0" * 64), "not those that were exported"),
}

FOLLOWED = {
    "scorer.sig removed, and model.yaml says that nobody signed": (Way(
        together(stored("scorer.sig", gone), metadata(signed_by="none")), "are not signed"), 2),
    "the number in model.yaml, so that a version passes for another": (Way(
        metadata(version="1"), "are not those of version 1 that the log names"), 1),
}
"""Refused by a service that follows the log, when that says that the version is in production."""


# What nobody can find, and nobody claims to

BLIND = {
    "a candidate's threshold, and its digest tag adapted": together(
        respecified(5, guarantee={"threshold": 0.9}),
        lambda registry: tag(5, "digest", digest(artifacts(registry, 5)))(registry)),
    "a candidate's stored code": bit(5, "code/scoring.py"),
    "a candidate's measure in a tag": tag(5, "valid.ece", "0.01"),
    "the last promotion undone everywhere, this machine's memory included": together(
        *CUT, *STAGED_BACK, witness(lambda heads: "{}")),
}
"""Before its first promotion nothing of a version is signed; and who writes to the keys' folder is trusted."""
