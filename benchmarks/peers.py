"""What the peers do for the benchmarks. Run by their own Python.

peers.py quantize REQUEST                 llama.cpp's quantizer on a GGUF file; JSON
peers.py logits RUNTIME MODEL FILE        a server: a line of JSON with token ids on standard
                                          input, their logits in FILE, a line for an answer
peers.py versions                         of the runtimes, as JSON
"""

import ctypes
import json
import os
import sys
from importlib.metadata import version

import numpy as np

THREADS = os.cpu_count() or 1
FTYPES = {  # llama.h's llama_ftype
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip


def quantize(source: str, out: str, kind: str, importance: str | None) -> None:
    """importance: an .npz file, mean squared inputs (columns,) by the tensor's GGUF name."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = THREADS, FTYPES[kind]
    if importance:
        columns = {name: np.ascontiguousarray(x) for name, x in np.load(importance).items()}
        entries = (llama_cpp.llama_model_imatrix_data * (len(columns) + 1))()  # the last is empty
        for entry, (name, values) in zip(entries, columns.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    failed = llama_cpp.llama_model_quantize(source.encode(), out.encode(), params)
    if failed:
        sys.exit(f"llama.cpp could not quantize {source} to {kind}")


def llama_cpp_model(path: str):
    """float32 where llama.cpp gives the choice: its KV cache is float16 otherwise."""
    from llama_cpp import Llama

    float32 = 0  # ggml's number of the type
    model = Llama(
        path, n_ctx=512, logits_all=True, type_k=float32, type_v=float32, flash_attn=False,
        n_threads=THREADS, n_threads_batch=THREADS, verbose=False,
    )  # fmt: skip

    def logits(ids: list[int]) -> np.ndarray:
        model.reset()
        model.eval(ids)
        return model.scores[: len(ids)]

    return logits


def genai_model(folder: str):
    import onnxruntime_genai as genai

    model = genai.Model(folder)
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=1024)

    def logits(ids: list[int]) -> np.ndarray:
        generator = genai.Generator(model, params)
        generator.append_tokens(np.array(ids, np.int32)[None])
        return generator.get_output("logits")[0]

    return logits


RUNTIMES = {"llama.cpp": llama_cpp_model, "onnxruntime-genai": genai_model}


def serve(runtime: str, model: str, file: str) -> None:
    logits = RUNTIMES[runtime](model)
    for line in sys.stdin:
        np.save(file, logits(json.loads(line)).astype(np.float32))
        print("done", flush=True)


def main(command: str, *arguments: str) -> None:
    if command == "quantize":
        quantize(**json.loads(arguments[0]))
    elif command == "logits":
        serve(*arguments)
    elif command == "versions":
        packages = {"llama.cpp": "llama-cpp-python", "onnxruntime-genai": "onnxruntime-genai"}
        packages |= {"PyTorch": "torch", "sentence-transformers": "sentence-transformers"}
        print(json.dumps({name: version(package) for name, package in packages.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
