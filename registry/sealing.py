"""Vouching for a log that an older polarscore kept without signatures: one signed entry behind it covers all of it."""

from registry import aliases, witness
from registry.chain import Entry, faults, sealed
from registry.integrity import logged
from registry.opening import Registry
from registry.promotion import said, signer_of
from registry.recovery import log_names, recover, was_signed
from training.errors import CheckFailed, InputError

SEAL = "seal"


def seal(registry: Registry, model: str, who: str) -> bool:
    """Sign a log of which no entry is signed yet. Whether that was needed.

    Raises:
        InputError: no key to sign with, or the model is gone from MLflow.
        CheckFailed: the log was signed once, or its chain is broken: it was changed.
    """
    with registry.history.changing(model) as change:
        if model in registry.versions.models():
            recover(registry, model, change)
        last = change.last
        if last is None or last.key is not None:
            return False
        if model not in registry.versions.models():
            raise InputError(f"the log knows the model '{model}', and MLflow does not. Is MLFLOW_TRACKING_URI right?")
        check_unsigned(registry, model)
        entry = sealed(Entry(said(who, "--who"), SEAL, model, last.version, last.to_stage, last.to_stage, None,
                             f"{last.seq} entries without signatures"), last, signer_of(registry, model))
        change.intend(entry)
        aliases.apply(registry.versions, entry)
        change.log(entry)
    for name in log_names(registry, model):
        witness.remember(registry.keys.heads, name, entry.head)
    return True


def check_unsigned(registry: Registry, model: str) -> None:
    """Refuse to vouch for a log that has lost its signatures, or whose chain is broken."""
    entries = logged(registry, model)
    found = faults(entries, registry.keys.made_by)
    broken = [fault for fault in found if "before entries were signed" not in fault]
    if was_signed(registry, model) or any(entry.key for entry in entries) or broken:
        raise CheckFailed(f"the log of '{model}' was signed once, or is not as it was written: it was changed, and "
                          f"nobody should vouch for it. See: polarscore registry verify {model}")
