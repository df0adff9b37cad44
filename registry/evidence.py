"""The evidence of a promotion: a bundle that is written once and never changed, and the check that all is still so.

    evidence.json       all facts (`registry.facts`)
    card.md, card.html  the same for people (`registry.card`)
    reliability.png     risk against observed error, where there were labelled answers
    model.sig           the signature over the version's whole folder in MLflow
    scorer.sig          the signature over the files that are served, which travel in a Bento
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from registry.card import PICTURE, html, markdown
from registry.facts import Occasion, drawable, gather, is_binding, lasting
from registry.keys import Keys
from registry.signing import digests, sign, verify
from registry.versions import Version, Versions
from training.errors import InputError, PolarscoreError
from training.spec import SOURCES, SPEC, WEIGHTS
from training.state import State
from training.tracking import log_report

if TYPE_CHECKING:
    from registry.judging import Judged

__all__ = ["Occasion", "check", "check_bundle", "digest", "fetch", "keep", "write"]

FOLDER = "evidence"
FACTS, CARD, PAGE = "evidence.json", "card.md", "card.html"
MODEL_SIGNATURE, SCORER_SIGNATURE = "model.sig", "scorer.sig"
PARTS = (FACTS, CARD, PAGE, MODEL_SIGNATURE, SCORER_SIGNATURE)
SERVED = (WEIGHTS, SPEC, SOURCES)


def write(
    target: Path, versions: Versions, version: Version, occasion: Occasion, judged: "Judged", keys: Keys
) -> None:
    """Write the bundle of a promotion into a folder, which should be new.

    Raises:
        InputError: the version's files are not to be had, there is no key to sign with, or the folder is in use.
    """
    signer = keys.signer().id
    folder = versions.folder(version).parent
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise InputError(f"the evidence should go into a new folder. {target} holds files.")
        sign(folder, target / MODEL_SIGNATURE, keys)
        _sign_scorer(folder / "artifacts", target / SCORER_SIGNATURE, keys)
        facts = gather(versions, version, folder, occasion, judged, signer)
        picture = _draw(version, judged, target / PICTURE) if drawable(judged) else None
        card = markdown(facts)
        for name, content in ((FACTS, _json(facts)), (CARD, card), (PAGE, html(card, picture))):
            (target / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the evidence cannot be written to {target}: {error.strerror}.") from None


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder; `sha256sum * | sha256sum` in a flat one.

    Raises:
        InputError: the folder is missing, or holds what is no plain file.
    """
    total = hashlib.sha256()
    for name, found in digests(folder, but=None).items():
        quoted = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        line = f"{'' if quoted == name else chr(92)}{found}  {quoted}\n"
        total.update(line.encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def keep(state: State, version: Version, occasion: Occasion, folder: Path) -> str:
    """Log a bundle as a run of its own in the model's experiment. Gives its address, `runs:/RUN_ID/evidence`.

    In a store on this machine the kept files cannot be written any more, but by who may change that.

    Raises:
        InputError: MLflow cannot keep it.
    """
    title = f"{version.model}-v{version.version}-{occasion.to_stage}"
    tags = {"kind": "promotion", "model": version.model, "version": str(version.version), "stage": occasion.to_stage,
            "action": occasion.action}
    run_id = log_report(state, version.model, title, sorted(folder.iterdir()), tags, FOLDER)
    uri = f"runs:/{run_id}/{FOLDER}"
    if kept := _on_this_machine(_address(uri)):
        for file in kept.iterdir():
            file.chmod(0o444)
    return uri


def fetch(uri: str, into: Path | None = None) -> Path:
    """A kept bundle on this machine: in place if the store is local and no folder is given, else a copy.

    Raises:
        InputError: it is not to be had.
    """
    return _fetched(_address(uri), uri, into)


def _fetched(address: str, uri: str, into: Path | None) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(address, dst_path=str(into) if into else None))
    except (MlflowException, OSError, ValueError) as error:
        raise _not_to_be_had(uri, error) from None


def check(
    versions: Versions, version: Version, uri: str, expected_digest: str, keys: Keys, binding: bool = False
) -> list[str]:
    """What is no longer as the evidence says, one sentence each; none if all is well. Nothing is loaded or run.

    expected_digest: of the bundle, as the log's signed entry has it. binding: of the tags, look only at those that
    speak against the version (`registry.facts.is_binding`).
    """
    found = []
    try:
        with _opened(uri) as bundle:
            found += _changed(bundle, uri, expected_digest)
            verify(versions.folder(version).parent, bundle / MODEL_SIGNATURE, keys)
            found += _differing(version, uri, bundle / FACTS, binding)
    except PolarscoreError as error:
        found.append(str(error).rstrip("."))
    return [f"version {version.version} of '{version.model}': {sentence}" for sentence in found]


def check_bundle(version: Version, uri: str, expected_digest: str) -> list[str]:
    """`check` of the bundle alone, not of the version: of a promotion that a later one of the same version covers."""
    try:
        with _opened(uri) as bundle:
            found = _changed(bundle, uri, expected_digest)
    except PolarscoreError as error:
        found = [str(error).rstrip(".")]
    return [f"version {version.version} of '{version.model}': {sentence}" for sentence in found]


@contextmanager
def _opened(uri: str) -> Iterator[Path]:
    """A kept bundle: in place if the store is local, else a copy that goes away."""
    address = _address(uri)
    with tempfile.TemporaryDirectory(prefix="polarscore-evidence-") as place:
        yield _fetched(address, uri, None if _on_this_machine(address) else Path(place))


def _changed(bundle: Path, uri: str, expected: str) -> list[str]:
    present = digest(bundle)
    if present == expected:
        return []
    missing = [name for name in PARTS if not (bundle / name).is_file()]
    lacks = f"; it lacks {', '.join(missing)}" if missing else ""
    return [f"the evidence {uri} is not what the log says: its digest is {present}, and was {expected}{lacks}"]


def _differing(version: Version, uri: str, path: Path, binding: bool) -> list[str]:
    """Where MLflow's registry says something else of a version than its evidence."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        then = {"version": facts["uri"], "run": facts["run_id"],
                **{f"tag '{name}'": value for name, value in facts["tags"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{FACTS} of {uri} is missing or damaged"]
    now = {"version": version.uri, "run": version.run_id,
           **{f"tag '{name}'": value for name, value in lasting(version.tags).items()}}
    names = list(dict.fromkeys([*then, *now]))
    if binding:
        names = [name for name in names if not name.startswith("tag ") or is_binding(name[5:-1])]
    return [f"its {name} is {_said(now, name)} now, and was {_said(then, name)} at the promotion"
            for name in names if now.get(name) != then.get(name)]


def _said(facts: dict[str, Any], name: str) -> str:
    value = str(facts[name]) if name in facts else None
    return "not there" if value is None else f"'{value if len(value) <= 80 else value[:79] + '…'}'"


def _address(uri: str) -> str:
    """Where a run keeps its evidence.

    `runs:/` itself is not asked: MLflow lets a logged model of the run that is called `evidence` come before it.

    Raises:
        InputError: the run is not there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    run_id, _, path = uri.removeprefix("runs:/").partition("/")
    if not uri.startswith("runs:/") or path != FOLDER:
        raise InputError(f"the evidence '{uri}' should be at runs:/RUN_ID/{FOLDER}.")
    try:
        return f"{mlflow.MlflowClient().get_run(run_id).info.artifact_uri}/{FOLDER}"
    except MlflowException as error:
        raise _not_to_be_had(uri, error) from None


def _on_this_machine(address: str) -> Path | None:
    place = urlparse(address)
    return Path(url2pathname(place.path)) if place.scheme in ("", "file") else None


def _not_to_be_had(uri: str, error: Exception) -> InputError:
    said = (str(error).splitlines() or ["no reason given"])[0]
    return InputError(f"the evidence {uri} cannot be fetched: {said}")


def _sign_scorer(files: Path, target: Path, keys: Keys) -> None:
    """Sign the files that are served as they will lie in a Bento: nothing beside them."""
    with tempfile.TemporaryDirectory(prefix="polarscore-evidence-") as place:
        scorer = Path(place) / "scorer"
        scorer.mkdir()
        for name in SERVED:
            if (files / name).exists():
                shutil.copyfile(files / name, scorer / name)
        sign(scorer, target, keys)


def _draw(version: Version, judged: "Judged", target: Path) -> bytes:
    from training.figures import reliability_figure

    rows = judged.compared
    assert rows is not None  # by `drawable`
    told = np.isfinite(rows.error) & np.isfinite(rows.candidate)
    figure = reliability_figure(rows.candidate[told], rows.error[told], f"Version {version.version}, at its promotion")
    figure.savefig(target, dpi=120, metadata={"Software": None})
    return target.read_bytes()


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
