"""Training: the loop, the jitted step, the optimizer, checkpoints, and the meter of a run.

A Config and a prepared log come in; a trained model and a run folder that can be resumed bit for bit go out. Start
reading at loop.py, then step.py; crew.py has the runs that train side by side (usually one).
"""
