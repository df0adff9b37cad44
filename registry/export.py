"""A version's files into BentoML's model store, and from there into a Bento. No network, nothing built twice.

What goes in decides every byte that comes out, but for the moments of creation in `model.yaml` and `bento.yaml`.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from registry.envelope import NOBODY, PUBLIC_KEY, SIGNATURE
from training.errors import InputError, PolarscoreError
from training.sources import requirements_of
from training.spec import SOURCES, SPEC, WEIGHTS, digest
from training.state import State

ROOT = Path(__file__).resolve().parent.parent
BENTOFILE = "bentofile.yaml"
ALIAS = "scorer"
"""The name by which the service finds its model in whatever Bento it runs in."""

FILES = (WEIGHTS, SPEC, SOURCES, SIGNATURE, PUBLIC_KEY)
"""What a model of the store holds: a version's own files, and if it is signed, by whom."""

QUIET = {"DO_NOT_TRACK": "true", "BENTOML_DO_NOT_TRACK": "True"}
"""Environment variables that keep BentoML from calling out."""


def export(folder: Path, name: str, version: str, labels: Mapping[str, str | None], state: State) -> str:
    """Put a version's files into the model store, in one step, and give their tag.

    The same files and labels have the same tag, and are written once. What the store holds of a tag, and is not what
    was exported, is replaced.

    folder: the version's own files and, of a signed version, `scorer.sig` and `scorer.pem`.
    labels: further facts to keep with the model; None is left out. The service heeds `signed_by`.
    """
    os.environ.update(QUIET)  # before bentoml reads it
    import bentoml
    from bentoml._internal.models import ModelStore

    sha, facts = contents(folder), _facts(labels)
    tag = model_tag(name, version, sha + json.dumps(facts, sort_keys=True))
    kept = _folder(state, "models") / tag.replace(":", "/")
    metadata = {"model": name, "version": version, "digest": digest(folder),
                "signed_by": facts.get("signed_by", NOBODY)}
    with _locked(state):
        if (kept / "model.yaml").is_file() and contents(kept) == sha:
            return tag
        with tempfile.TemporaryDirectory(prefix="polarscore-export-", dir=state.bento_home) as draft:
            with bentoml.models.create(tag, labels=facts, metadata=metadata, _model_store=ModelStore(draft)) as model:
                for file in FILES:
                    if (folder / file).exists():
                        shutil.copyfile(folder / file, model.path_of(file))
            kept.parent.mkdir(exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(Path(draft) / kept.parent.name / kept.name, kept)  # nobody reads half a model
            os.replace(Path(draft) / kept.parent.name / "latest", kept.parent / "latest")
    return tag


def contents(folder: Path) -> str:
    """SHA-256 over what a model of the store holds: a version's files, its signature and key."""
    total = hashlib.sha256()
    for file in FILES:
        if (folder / file).exists():
            total.update(hashlib.sha256((folder / file).read_bytes()).digest() + file.encode())
    return total.hexdigest()


def build(folder: Path, name: str, version: str, labels: Mapping[str, str | None], state: State) -> str:
    """Bundle a version: its files and the service in one Bento, as `bentofile.yaml` says. Gives the Bento's tag.

    folder and labels: as for `export`; `registry.release.release` gives both. The Bento has the labels, too.
    The same version, labels, service and packages have the same tag, and are built once.

    Raises:
        InputError: `sources.py` imports what cannot travel, or there is no `bentofile.yaml`.
        PolarscoreError: BentoML cannot build it; says why.
    """
    model = export(folder, name, version, labels, state)
    recipe = _recipe(folder, name, model, {**labels, "model": name, "version": version, "digest": digest(folder)})
    files = _included(recipe["include"])
    tag = f"{recipe['name']}:{_version_part(version)}-{_fingerprint(recipe, files)}"
    built = bento_path(tag, state)
    with _locked(state), tempfile.TemporaryDirectory(prefix="polarscore-bundle-") as context:
        if (built / "bento.yaml").is_file():
            (built / "bento.yaml").touch()  # bundled last
            return tag
        shutil.rmtree(built, ignore_errors=True)
        for file in files:
            (Path(context) / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, Path(context) / file)
        (Path(context) / BENTOFILE).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        _run_build(Path(context), tag, state)
    return tag


def latest(state: State) -> str | None:
    """The tag of the Bento that was bundled last, of whichever model; None: there is none."""
    made = (state.bento_home / "bentos").glob("*/*/bento.yaml")
    last = max(made, key=lambda path: path.stat().st_mtime_ns, default=None)
    return f"{last.parent.parent.name}:{last.parent.name}" if last else None


def find(tag: str | None, state: State) -> str:
    """The tag of a Bento that is there: the given one, or `NAME` or nothing for the one bundled last.

    Raises:
        InputError: no such Bento, or none at all.
    """
    if tag is None:
        found = latest(state)
        if found is None:
            raise InputError(f"there is no bundle in {state.bento_home}. Make one: `polarscore bundle --model …`.")
        return found
    if re.fullmatch(r"[\w.-]+:[\w.-]+", tag) and (bento_path(tag, state) / "bento.yaml").is_file():
        return tag
    known = sorted(f"{path.parent.parent.name}:{path.parent.name}"
                   for path in (state.bento_home / "bentos").glob("*/*/bento.yaml"))
    raise InputError(f"the bundle '{tag}' does not exist. " + (f"Expected one of {', '.join(known[:5])}." if known else
                                                              "There is none; run `polarscore bundle --model …`."))


def bento_path(tag: str, state: State) -> Path:
    """Where the store keeps a Bento, built or not yet."""
    return state.bento_home / "bentos" / tag.replace(":", "/")


def model_tag(name: str, version: str, sha: str) -> str:
    """The model store's tag of a version with this content: other names, versions or contents have other tags."""
    key = hashlib.sha256(f"{name}\0{version}\0{sha}".encode()).hexdigest()
    return f"{_name_part(name)}:{_version_part(version)}-{key[:12]}"


def _name_part(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-") or "model"


def _version_part(version: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", version.lower()).strip("-.")[:40].strip("-.") or "0"


def _facts(labels: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if value is not None}


def _recipe(folder: Path, name: str, model: str, labels: Mapping[str, str | None]) -> dict[str, Any]:
    """The root's `bentofile.yaml`, with this model in it."""
    try:
        recipe = yaml.safe_load((ROOT / BENTOFILE).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{ROOT / BENTOFILE} cannot be read. Bundle from a checkout of polarscore, "
                         "where it stands.") from None
    extra = requirements_of(folder / SOURCES) if (folder / SOURCES).exists() else []
    named = {_package(line) for line in recipe["python"]["packages"]}
    recipe["python"]["packages"] += [line for line in extra if _package(line) not in named]
    recipe["name"] = _name_part(name)
    recipe["labels"] = recipe.get("labels", {}) | _facts(labels)
    recipe["models"] = [{"tag": model, "alias": ALIAS}]
    return recipe


def _package(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~; ]", requirement)[0]).lower()


def _included(patterns: list[str]) -> list[str]:
    """The files of the project that go into the Bento, and no others: not a virtual environment beside them."""
    return sorted({path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)})


def _fingerprint(recipe: dict[str, Any], files: list[str]) -> str:
    total = hashlib.sha256(yaml.safe_dump(recipe).encode())
    for file in files:
        total.update(file.encode() + hashlib.sha256((ROOT / file).read_bytes()).digest())
    return total.hexdigest()[:12]


def _run_build(context: Path, tag: str, state: State) -> None:
    """Run `bentoml build` in a process of its own: it imports the service, and reads its store once a process."""
    command = [sys.executable, "-m", "bentoml", "build", "--version", tag.split(":")[1], "--output", "tag",
               str(context)]
    environment = os.environ | QUIET | {"BENTOML_HOME": str(state.bento_home)}
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True)
    if done.returncode or not (bento_path(tag, state) / "bento.yaml").is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise PolarscoreError(f"BentoML could not build {tag}: {said[-1].strip()}")


def _folder(state: State, what: str) -> Path:
    path = state.bento_home / what
    path.mkdir(parents=True, exist_ok=True)
    return path


def _locked(state: State) -> FileLock:
    """One process at a time writes to the store."""
    return FileLock(_folder(state, "") / "polarscore.lock")
