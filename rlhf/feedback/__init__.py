"""Rounds of feedback: comparisons that people or models make of a policy's answers, and the data that comes of them."""
