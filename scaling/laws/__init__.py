"""The scaling laws, each a sum of terms in logs with its exact gradient and Hessian.

`registry` finds a law by its name; `terms` has the terms that laws are sums of; `theory` reads what a known process
says the loss must do.
"""
