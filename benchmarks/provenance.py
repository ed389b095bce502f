"""What provenance costs a run: the record at its start and after every stage, and the hashing of artifacts."""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.records import commit, machine

NUM_STAGES = 6
HASHED_MB = 512


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="medians are of so many [default: 5]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rlhf-provenance-") as folder:
        os.environ["RLHF_ROOT"] = folder
        print(json.dumps(measure(Path(folder), options.repeats) | {"commit": commit(), "machine": machine()}))


def measure(root: Path, repeats: int) -> dict[str, float]:
    """Seconds of one run's provenance, and MB/s of the hashing. The code is this checkout's, with what is changed."""
    from rlhf.config.pipeline import PipelineConfig
    from rlhf.files.hashing import sha256
    from rlhf.paths import configure_environment, source_root
    from rlhf.provenance import StageRecord, git_state, working_patch
    from rlhf.provenance.capture import begin_record, with_data, with_stage
    from rlhf.provenance.storage import save_code, save_record
    from rlhf.references import DataSource
    from rlhf.tracking.runs import open_pipeline

    configure_environment()
    config = PipelineConfig()
    source = DataSource(path="data", md5="1" * 32 + ".dir", tracked=True)
    run_id = open_pipeline("provenance", None, {}, {})

    def whole() -> None:
        git = git_state(source_root())
        patch = working_patch(source_root())
        save_code(run_id, patch.content)
        record = begin_record(config, git, patch)
        save_record(run_id, record)
        record = with_data(record, source)
        save_record(run_id, record)
        for number in range(NUM_STAGES):
            record = with_stage(record, f"stage{number}", StageRecord(fingerprint="f" * 64, sha256="s" * 64))
            save_record(run_id, record)

    file = root / "weights"
    file.write_bytes(os.urandom(HASHED_MB * 1_000_000))
    return {
        "record_s": _median(whole, repeats),
        "hashing_mb_per_s": HASHED_MB / _median(lambda: sha256(file), repeats),
    }


def _median(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
