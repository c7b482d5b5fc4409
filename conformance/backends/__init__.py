"""The backends that come with the suite, by name; a module is imported when its backend is asked for.

A value is a module, or `module:attribute` where one module holds several backends.
"""

BUILT_IN: dict[str, str] = {
    "jax": "conformance.backends.jax:backend",
    "numpy": "conformance.backends.numpy",
    "onnxruntime": "conformance.backends.onnxruntime:backend",
    "onnxruntime:cuda": "conformance.backends.onnxruntime:cuda_backend",
    "onnxruntime:operators": "conformance.backends.onnx_operators:onnxruntime_backend",
    "onnxruntime:fused": "conformance.backends.onnxruntime_fused:backend",
    "onnx-reference": "conformance.backends.onnx_reference:backend",
    "onnx-reference:operators": "conformance.backends.onnx_operators:reference_backend",
    "torch": "conformance.backends.torch:backend",
    "torch:cuda": "conformance.backends.torch:cuda_backend",
    "transformers": "conformance.backends.transformers:backend",
    "transformers:functions": "conformance.backends.transformers_functions:backend",
    "transformers:sdpa": "conformance.backends.transformers:sdpa_backend",
}
