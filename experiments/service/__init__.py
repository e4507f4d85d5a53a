"""An exported model as a small HTTP service: requests become histories, and histories become micro-batches."""
