"""The whole pipeline, planned and not run."""

from tasks.plan import Plan, plan_run

__all__ = ["Plan", "plan_run"]
