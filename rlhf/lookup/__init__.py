"""Looking at runs without MLflow (docs/adr/0012): what is asked of a store, and the project's own, read with SQLite."""
