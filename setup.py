"""Only an editable install is offered; everything else about the build stands in pyproject.toml."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class NoWheel(bdist_wheel):
    """Refuses to build a wheel: flows, recipes, deployments and data are files of the project's folder."""

    def run(self) -> None:
        """Say what to do instead."""
        raise SystemExit(
            "rlhf-pipeline is no wheel: its flows, recipes, deployments and data are files of the project's folder, "
            "and `flows` and `tasks` would be top-level packages of every environment; install it from a clone with "
            "`make demo`, or `pip install --editable .`"
        )


setup(cmdclass={"bdist_wheel": NoWheel})
