"""Prefect's server as `rlhf up` runs it: `python -m flows.servers.prefect_app HOST PORT`."""

import sys

from rlhf.imports import without_collection

with without_collection():
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    from flows.servers.prefect_page import CompactForm
    from rlhf.services.own_site import own_site


def main(host: str, port: int) -> None:
    """Serve Prefect behind `own_site`, as `prefect server start` would serve it bare, with a form that fits."""
    settings = get_current_settings().server.api
    uvicorn.run(
        own_site(CompactForm(create_app(final=True))),
        host=host,
        port=port,
        timeout_keep_alive=settings.keepalive_timeout,
        log_level="warning",
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
