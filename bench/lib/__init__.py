"""What every benchmark shares: processes, load generators, publishing, the report."""
