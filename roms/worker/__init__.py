"""The worker, and how it runs a job."""
