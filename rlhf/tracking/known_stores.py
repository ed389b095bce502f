"""Notes of the stores that hold runs of this project, so that none of them is taken for the only one."""

from pathlib import Path

from rlhf.addresses import public_address
from rlhf.paths import local_folder
from rlhf.tracking.client import client, experiment_id, retry_while_unavailable, tracking_uri


def note_store() -> None:
    """Write down that runs of this project are in the store that is asked now."""
    note = local_folder("stores") / store_identity()
    if not note.is_file():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{public_address(tracking_uri())}\n", encoding="utf-8")


def other_stores() -> dict[Path, str]:
    """Addresses of the stores that were noted and are not the one that is asked now, by the file of the note."""
    asked = store_identity()
    notes = sorted(local_folder("stores").glob("*")) if local_folder("stores").is_dir() else []
    return {note: note.read_text(encoding="utf-8").strip() for note in notes if note.name != asked}


def store_identity() -> str:
    """The store's identity: equal under every address of the store, and another for a store that was made anew."""
    experiment = retry_while_unavailable(lambda: client().get_experiment(experiment_id()))
    return f"{experiment.creation_time}-{experiment.experiment_id}"
