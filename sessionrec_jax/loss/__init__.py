"""The objective: L = L_retrieval + alpha * L_rank, as sums and counts over one shard of a batch.

Query vectors, item embeddings and the labels of a shard come in; nats and the number of terms go out. The caller adds
the shards up and divides once.
"""
