"""The process that renews a lease while a stage computes: training keeps the stage's own process too busy for that.

It imports little, ends as soon as the process that started it does, and ends by itself once the lease is gone.
"""

import json
import select
import sys
import uuid
from collections.abc import Mapping
from http import HTTPStatus

import httpx

from rlhf.text.terminal import say

_ANSWER_SECONDS = 10.0


def main() -> None:
    """Renew until standard input ends, or until the server has no such lease any more."""
    given = json.loads(sys.stdin.readline())
    with httpx.Client(
        base_url=f"{given['url'].rstrip('/')}/", headers=given["headers"], timeout=_ANSWER_SECONDS
    ) as api:
        while not select.select([sys.stdin], [], [], given["every"])[0]:
            if not _renewed(api, given["lease"], given["seconds"]):
                return


def _renewed(api: httpx.Client, lease: str, seconds: float) -> bool:
    """Ask for more time. A server that does not answer may do so the next time."""
    try:
        answer = api.post(
            f"v2/concurrency_limits/leases/{lease}/renew", json={"lease_duration": seconds}, headers=_token(api)
        )
    except httpx.HTTPError as error:
        say(f"the lease {lease} could not be renewed: {type(error).__name__}", file=sys.stderr, flush=True)
        return True
    return answer.status_code not in (HTTPStatus.GONE, HTTPStatus.NOT_FOUND)


def _token(api: httpx.Client) -> Mapping[str, str]:
    """The headers by which Prefect knows that no foreign page asks; none where it does not want them."""
    client = str(uuid.uuid4())
    answer = api.get("csrf-token", params={"client": client})
    if not answer.is_success:
        return {}
    return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": client}


if __name__ == "__main__":
    main()
