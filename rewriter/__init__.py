"""ONNX in, ONNX out. The rewriter knows graphs, linear maps and the tape; it knows no method."""
