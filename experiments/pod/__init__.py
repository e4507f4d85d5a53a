"""A run on a pod that is not here: its programs are compiled ahead of time, and their plan is read.

`compile_job(job)` (launch.py) starts a child process, because a topology needs an environment of its own. The child
(child.py) compiles the programs on shapes alone (programs.py) and reads the compiler's text (hlo_text.py, hlo.py).
"""
