"""The lineage in a model card: decided by the record alone, so that it names no run and no time."""

from rlhf.provenance.record import BaseRecord, ProvenanceRecord
from rlhf.stages import STAGES, in_order, stage_name, title_of
from rlhf.text.markdown import as_code, table


def lineage_markdown(record: ProvenanceRecord) -> str:
    """The lineage of the policy, from the weights back to data and code, as a table.

    Args:
        record: of the run.

    Returns:
        Markdown.
    """
    rows = [
        [title_of(name)[:1].upper() + title_of(name)[1:], made_from, f"sha256 `{record.stages[name].sha256}`"]
        for name in reversed(in_order(record.stages))
        if (made_from := STAGES[stage_name(name)].made_from)
    ]
    if record.data is not None:
        generator = f"made by the generator `{record.data.embedded}`" if record.data.embedded else ""
        rows.append(["Data version", generator, f"DVC md5 `{record.data.md5}`"])
    rows += [_base(setting, base) for setting, base in record.bases.items()]
    rows.append(["Code", *_code(record)])
    rows.append(["Environment", f"Python {record.machine['python']}", f"lock sha256 `{record.lock_sha256}`"])
    return table(["What", "Made from", "Hash"], rows)


def _base(setting: str, base: BaseRecord) -> list[str]:
    known = f"sha256 `{base.sha256}`" if base.sha256 else f"revision `{base.revision}`" if base.revision else "unknown"
    return [f"Model from outside, `{setting}`", as_code(base.name), known]


def _code(record: ProvenanceRecord) -> tuple[str, str]:
    patch = f"with a patch, sha256 `{record.code.patch_sha256}`" if record.code.patch_sha256 else ""
    return patch, f"commit `{record.code.commit}`" if record.code.commit else "in no commit"
