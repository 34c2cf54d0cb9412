"""One package per backend, each with a `BACKEND`. To add one: its folder here, and its line below."""

BACKENDS: dict[str, str] = {
    "openvino": "runtime.backends.openvino",
    "onnxruntime": "runtime.backends.onnxruntime",
    "tensorrt": "runtime.backends.tensorrt",
}
