"""Next-session prediction against the item-level models at equal compute, on a real log and on known truth."""

from __future__ import annotations

import altair as alt

from docs.figures._differences import compared, panel

ENCODERS = {"transformer": "Transformer", "hstu": "HSTU"}


def chart() -> alt.HConcatChart:
    real = compared("kuairand_pure_paradigm", "ndcg_at_50", "equal compute")
    truth = compared("known_truth_paradigm", "loss_nats_per_item", "equal compute")
    for row in (*real, *truth):
        row["arm"] = f"{row['arm'].partition(',')[0]}, {ENCODERS[row['group']]}"
    return alt.hconcat(
        panel(real, "KuaiRand-Pure: sessions of 1.2 exposures", "NDCG@50 less that of NSPP (left is worse)"),
        panel(truth, "Known truth: sessions of 9 exposures", "nats an item less those of NSPP (right is worse)"),
        spacing=40,
    )
