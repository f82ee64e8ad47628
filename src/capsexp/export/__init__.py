"""``python -m capsexp.export``: a finished cell's network as an ONNX file (extra ``onnx``)."""
