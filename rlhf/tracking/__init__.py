"""MLflow, and the only package that imports it. Runs are addressed by id; nothing depends on a thread's active run.

A pipeline run is a parent run, every attempt at a stage a child of it.
"""
