"""Room on the disk: what no kept run needs is listed, and removed where a person says so."""
