"""The whole pipeline, planned and not run."""

from tasks.plan import Plan, PlannedStage, plan_run

__all__ = ["Plan", "PlannedStage", "plan_run"]
