"""DATA, RUN and SWEEP in a bucket (`s3://` or `gs://`). The rest of the program works on folders and asks this room.

    folder = copies.opened(path)          # a path as it is, or a copy of what is in the bucket
    copies.push(folder)                   # what has changed there goes to the bucket; nothing for a plain folder

A bucket has no rename, no append and no link, so a process never works in it. It has a copy of its own on a local disk,
reads the bucket into it, and writes whole objects back.
"""
