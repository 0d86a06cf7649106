"""The checklist, the charts and the report, all made from files and nothing else."""
