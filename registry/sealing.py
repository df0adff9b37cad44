"""Vouching for a log that an older polarscore kept without signatures: one signed entry behind it covers all of it."""

from registry import aliases, witness
from registry.chain import Entry, sealed
from registry.opening import Registry
from registry.promotion import signer_of
from training.errors import InputError

SEAL = "seal"


def seal(registry: Registry, model: str, who: str) -> bool:
    """Sign a log whose last entry has no signature. Whether that was needed.

    Raises:
        InputError: no key to sign with, or the model is gone from MLflow.
    """
    with registry.history.changing(model) as change:
        last = change.last
        if last is None or last.key is not None:
            return False
        if model not in registry.versions.models():
            raise InputError(f"the log knows the model '{model}', and MLflow does not. Is MLFLOW_TRACKING_URI right?")
        entry = sealed(Entry(who, SEAL, model, last.version, last.to_stage, last.to_stage, None,
                             f"{last.seq} entries without signatures"), last, signer_of(registry, model))
        change.intend(entry)
        aliases.apply(registry.versions, entry)
        change.log(entry)
    witness.remember(registry.keys.heads, registry.versions.log_name(model), entry.head)
    return True
