"""The task that makes a candidate the champion. It is no cached stage: it changes something."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run as this_flow_run

from rlhf.references import Proposal, RetrainReport
from rlhf.tracking import registry
from rlhf.tracking.registry import ChampionChangedError
from rlhf.tracking.tags import DATA_TAG, PROMOTED_BY_TAG
from tasks.retrain_outcome import end


def promote(proposal: Proposal) -> RetrainReport:
    """Make the candidate the champion, unless the champion is another one than it was compared with."""
    changed = _promote(proposal)
    if changed is not None:
        return end("outdated", changed, proposal=proposal)
    before = f"in place of version {proposal.champion}" if proposal.champion else "the first there is"
    return end("promoted", f"Version {proposal.candidate} is the champion, {before}.", proposal=proposal)


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
def _promote(proposal: Proposal) -> str | None:
    """Move the alias. Returns why not, where the champion has changed."""
    tags = {DATA_TAG: proposal.data_md5, PROMOTED_BY_TAG: proposal.run_id}
    try:
        registry.promote(proposal.candidate, proposal.champion, str(this_flow_run.id), tags)
    except ChampionChangedError as error:
        return str(error)
    return None
