"""The scaling laws, each a sum of terms in logs with its exact gradient and Hessian.

`registry` finds a law by its name; `terms` has the terms that laws are sums of; `theory` reads what a known process
says about the loss. One file for each family of laws registers them; a law of your own calls `scaling.register_law`.
"""

from scaling.laws import chance, data, data_exponent, metric, repeats, shifted, size_and_data, sparse

__all__ = ["chance", "data", "data_exponent", "metric", "repeats", "shifted", "size_and_data", "sparse"]
