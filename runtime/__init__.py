"""Whatever runs a graph or draws its result: sessions and providers, pictures in and out, heat maps.

Imports `rewriter` and `rules`, never the other way round. onnxruntime is loaded when the first session is
opened, so everything else here works without it.
"""
