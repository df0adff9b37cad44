"""Where a promotion takes place: the checkout's commit, Python, the machine; and the packages that a version pins."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Checkout:
    """A git checkout. commit: None where it is none, or git is missing; dirty: whether it differs from its commit."""

    commit: str | None
    dirty: bool | None


def checkout(root: Path = ROOT) -> Checkout:
    """The checkout that a folder is the root of."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return Checkout(None, None)
    changed = _git(root, "status", "--porcelain")
    return Checkout(commit, None if changed is None else bool(changed))


def surroundings() -> dict[str, str]:
    """polarscore, Python, platform and machine; nothing that names its owner."""
    try:
        own = installed("polarscore")
    except PackageNotFoundError:
        own = "unknown"
    return {"polarscore": own, "python": platform.python_version(), "platform": platform.platform(),
            "machine": platform.machine()}


def packages(requirements: Path) -> dict[str, str | None]:
    """The versions that a requirements file pins, by package; None of one that it does not pin to a version.

    Of addresses and options, which may hold passwords, nothing is taken over. Empty if there is no such file.
    """
    if not requirements.is_file():
        return {}
    pins: dict[str, str | None] = {}
    for line in requirements.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            wanted = Requirement(line.split(" #")[0].strip())
        except InvalidRequirement:
            continue
        exact = [clause.version for clause in wanted.specifier if clause.operator == "=="]
        pins[wanted.name] = exact[0] if exact else None
    return dict(sorted(pins.items(), key=lambda pin: pin[0].lower()))


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, None if it cannot."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30,
                              env=environment | {"GIT_OPTIONAL_LOCKS": "0"})
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
