"""From a publisher's log to packed batches."""
