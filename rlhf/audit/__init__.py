"""The audit trail: is all as it was logged (`verify`), and what did a policy come from (`lineage`)."""
