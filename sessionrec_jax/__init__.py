"""SessionRec: predict the whole next session of a user. See README.md."""
