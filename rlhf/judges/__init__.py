"""Models that judge, behind OpenAI-compatible endpoints: asked, remembered, and never guessed for."""
