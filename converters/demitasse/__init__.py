"""Carries trained networks out of Caffe and Keras H5 into SavedModel, TFLite and ONNX."""

__version__ = "0.1.0"
