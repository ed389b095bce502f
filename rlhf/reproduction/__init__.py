"""Any run again from its MLflow run id: its code, data and environment are brought back, and the results compared."""
