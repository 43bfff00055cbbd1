"""The data sets: a file each, `<name>.py`, with two functions, `fetch` and `read`.

`fetch` downloads the original files, `read` returns their images and labels (see `Dataset` in
`image_pipeline.downloading.dataset`). The stage `download` runs again when a data set's file
changes, or what it imports at its top; what `read` alone needs is imported inside `read`.
"""
