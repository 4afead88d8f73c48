"""Reads Keras models from HDF5 with h5py alone; no code in the file is ever run."""
