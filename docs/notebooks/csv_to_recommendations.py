# %% [markdown]
# # Notebook: from a csv to recommendations
#
# This file is a notebook in the percent format, docs/notebooks/csv_to_recommendations.py: editors show its cells, and
# Python runs it as it is. It takes a minute on two cores.
#
# ## A log
#
# A row is an exposure: who saw which item when, and whether they clicked. Here 1,500 users have a taste, one of 12
# shelves, and click what belongs to it. Replace this cell by `pl.read_csv` of your own log.

# %%
import random

import polars as pl

SHELVES, ITEMS = 12, 240
draw = random.Random(1)
rows = []
for user in range(1500):
    taste = draw.randrange(SHELVES)
    for day in range(8):
        for place in range(6):
            item = draw.randrange(ITEMS)
            clicked = draw.random() < (0.7 if item % SHELVES == taste else 0.05)
            rows.append((f"u{user}", f"i{item}", 1_714_555_000 + 86_400 * day + 60 * place, int(clicked)))
pl.DataFrame(rows, schema=["user", "item", "ts", "label"], orient="row").write_csv("shop.csv")
pl.DataFrame({"item": [f"i{i}" for i in range(ITEMS)], "shelf": [i % SHELVES for i in range(ITEMS)]}).write_csv(
    "items.csv"
)

# %% [markdown]
# ## Prepare it
#
# `prepare` cuts sessions at pauses of 30 minutes, holds out the last two sessions of each user, and codes the columns
# of the items.

# %%
import sessionrec_jax as sr

log = sr.prepare(
    "table",
    exposures="shop.csv",
    items="items.csv",
    user="user",
    item="item",
    time="ts",
    time_unit="s",
    clicked="label",
    session_rule="gap_minutes=30",
    out="SHOP",
)
print(log.users, "users,", log.items, "items")

# %% [markdown]
# ## Train
#
# A run folder keeps the settings, the curves, the checkpoints and the result. The same call again goes on where it
# was.

# %%
run = sr.train(
    log,
    "SHOP_RUN",
    {"model.width": 32, "train.epochs": 16, "optim.learning_rate_peak": 1e-2, "optim.table_prior": 10.0},
)

# %% [markdown]
# ## Is it better than popularity?
#
# The metrics are of the last session of each user, which training never saw.

# %%
metrics = run.evaluate()
for name in ("ndcg_at_50", "recall_at_50", "rank_auc"):
    print(f"{name:14}", round(metrics[name], 4))

# %% [markdown]
# ## Recommend
#
# A history is a list of sessions, oldest first. This user clicked two items of shelf 3 (3, 15, 27, ...) and ignored
# one of shelf 5. Most of the answer should be of shelf 3.

# %%
session = [{"item": "i3", "clicked": True}, {"item": "i15", "clicked": True}, {"item": "i5", "clicked": False}]
answer = run.recommend([{"user": "new", "sessions": [session]}], k=5)
print(answer)

# %% [markdown]
# ## Item vectors
#
# The nearest neighbours of an item, by the vectors that score it.

# %%
import numpy as np

ids, vectors_ND = run.item_embeddings()
ids = ids.to_list()
unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
nearest = np.argsort(-unit_ND @ unit_ND[ids.index("i3")])[1:6]
print("nearest to i3:", [ids[i] for i in nearest])
