# %% [markdown]
# # Notebook: from a sweep to a law
#
# This file is a notebook in the percent format, docs/notebooks/sweep_to_law.py. It trains two small sweeps on a log
# whose truth is known, fits their laws, and asks whether two encoders differ in their exponent or in a constant. It
# takes some minutes on two cores.

# %%
import shlex
import subprocess


def sessionrec(line: str) -> None:
    """Runs a command as a terminal would, and stops at an error."""
    subprocess.run(["sessionrec", *shlex.split(line)], check=True)


# %% [markdown]
# ## A log of known truth
#
# Its loss floor and the exponent of data are exact numbers, so that a fit can be wrong in public.

# %%
USERS = "500 670 900 1200 1600 2150 2900 3900 5200 7000"
sessionrec("prepare synthetic --users 20000 --alpha 0.5 --seed 1 --out TRUTH")

# %% [markdown]
# ## Two sweeps over the amount of data
#
# `--dry-run` in place of the sweep would list the runs, their cost and the intervals to be expected.

# %%
for encoder in ("transformer", "gru"):
    sessionrec(
        f"sweep grid --data TRUTH --out {encoder.upper()} --users {USERS} --sizes s --learning-rates 1e-2 "
        f"--data.eval-users 500 --model.sequence-encoder {encoder}"
    )

# %% [markdown]
# ## The law of one sweep
#
# `scaling` reads the folder of a sweep like any other table. A fit may be refused; then it says why and what would
# help.

# %%
import scaling

columns = {"d": "sessions_unique", "loss": "loss_nats_per_item", "baseline": "loss_baseline_nats_per_item"}
table = scaling.read("TRANSFORMER", scaling.Columns(**columns))
try:
    print(scaling.fit(table, law="power_floor").summary())
except scaling.Refusal as refusal:
    print("refused:", refusal)

# %% [markdown]
# ## Two arms: exponent or constant?
#
# Both sweeps go into one table with a column for the arm. The joint fit says whether the exponents differ, and which
# arm is better at ten times the data.

# %%
import polars as pl

arms = [
    scaling.read(encoder.upper(), scaling.Columns(**columns)).frame.select(
        *columns.values(), "seed", pl.lit(encoder).alias("encoder")
    )
    for encoder in ("transformer", "gru")
]
pl.concat(arms, how="vertical_relaxed").write_csv("arms.csv")
sessionrec("fit arms.csv --by encoder --d sessions_unique --loss loss_nats_per_item --law power")
