"""The page of `onnxplain export web` and `onnxplain ui`: HTML, CSS and ES modules, shipped as data. No Python here."""
