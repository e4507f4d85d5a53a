"""What each part of the model is worth on KuaiRand-Pure, at equal numbers of epochs."""

from __future__ import annotations

import altair as alt

from docs.figures._differences import compared, panel


def chart() -> alt.LayerChart:
    rows = compared("kuairand_pure_ablation", "ndcg_at_50", "equal epochs")
    for row in rows:
        arm = row["arm"].replace("sampled softmax, ", "").replace(", other clicks masked", "")
        row["arm"] = f"{row['group']}: {arm}"
    return panel(rows, "Each part changed alone", "NDCG@50 less that of the default (left is worse)", width=420)
