"""Data: file formats, the zarr store, conversion, simulation, the phantom and training datasets."""
