"""The columns that `sessionrec report` shows and answers its checklist from: those of a sweep's rows (contract 3), and
usual names in other people's tables."""

from scaling.report.columns import ReportColumns

REPORT_COLUMNS = ReportColumns(
    runs=("seed", "learning_rate_peak", "epochs", "status"),
    tooltip=("seed", "epochs", "learning_rate_peak", "width", "layers", "paradigm", "status"),
    counted_in_n={
        "params_body": "without item tables and embeddings",
        "params_total": "with item tables and embeddings",
        "params_item_table": "item tables alone",
    },
    flops_convention=("flops_convention",),
    data=("dataset_fingerprint", "dataset", "data"),
    evaluation_data=("evaluation_set", "dataset_fingerprint", "dataset"),
    architecture=("architecture", "paradigm", "session_encoder", "sequence_encoder"),
    optimizer=("optimizer",),
    learning_rate_schedule=("schedule", "learning_rate_schedule", "lr_schedule"),
    learning_rate_rule=("learning_rate_rule", "lr_rule"),
    learning_rate=("learning_rate_peak", "learning_rate", "lr"),
    batch_size=("batch_size", "batch_sessions", "batch_tokens"),
    epochs=("epochs", "epochs_planned"),
    versions=("commit", "jax_version", "torch_version"),
    hardware=("device_kind", "hardware"),
    stderr=("loss_stderr",),
)
