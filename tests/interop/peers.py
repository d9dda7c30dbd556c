"""What another runtime makes of a file, told as JSON. Run by the peers' own Python.

peers.py COMMAND < request.json > answer.json
"""

import json
import sys


def llama_cpp_logits(path, ids, texts):
    """Logits at each position, float32 throughout; the texts' tokens; the chat template."""
    from llama_cpp import Llama

    float32 = 0  # ggml's number of the type; llama.cpp keeps its KV cache in float16 otherwise
    model = Llama(
        path, n_ctx=512, logits_all=True, type_k=float32, type_v=float32, flash_attn=False,
        n_threads=2, verbose=False,
    )  # fmt: skip
    model.eval(ids)
    tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    template = model.metadata.get("tokenizer.chat_template")
    return {
        "logits": model.scores[: len(ids)].tolist(),
        "tokens": tokens,
        "chat_template": template,
    }


def llama_cpp_tokens(path, texts):
    """Tokens of a file without weights: of whole texts, with their ends, and of parts; all ends."""
    from llama_cpp import Llama, llama_vocab_is_eog

    model = Llama(path, vocab_only=True, n_ctx=32, verbose=False)
    vocabulary = model._model.vocab
    ends = [token for token in range(model.n_vocab()) if llama_vocab_is_eog(vocabulary, token)]
    return {"ends": ends} | {
        name: [model.tokenize(text.encode(), add_bos=whole, special=True) for text in texts]
        for name, whole in (("whole", True), ("parts", False))
    }


def llama_cpp_embeddings(path, texts, normalize=True):
    from llama_cpp import Llama

    model = Llama(path, embedding=True, n_ctx=512, n_threads=2, verbose=False)
    tokens = [model.tokenize(text.encode(), add_bos=True, special=False) for text in texts]
    return {"tokens": tokens, "embeddings": [model.embed(text, normalize) for text in texts]}


def llama_cpp_refusal(path):
    """What it says where it does not load a file; empty where it does."""
    from llama_cpp import Llama

    try:
        Llama(path, embedding=True, n_ctx=64, verbose=False)
    except ValueError as error:
        return {"said": str(error)}
    return {"said": ""}


def genai_generate(folder, text, tokens):
    """The greedy continuation, up to the end of text."""
    import onnxruntime_genai as genai

    model = genai.Model(folder)
    ids = genai.Tokenizer(model).encode(text)
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + tokens, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return {"ids": [int(token) for token in generator.get_sequence(0)][len(ids) :]}


def optimum_generate(folder, model, text, tokens):
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    decoder = ORTModelForCausalLM.from_pretrained(folder, subfolder="onnx", file_name=model)
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    ids = decoder.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0].tolist()
    return {"ids": ids[inputs["input_ids"].shape[1] :]}


def optimum_hidden_states(folder, model, texts):
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    encoder = ORTModelForFeatureExtraction.from_pretrained(
        folder, subfolder="onnx", file_name=model
    )
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    states = encoder(**inputs).last_hidden_state  # (texts, tokens, hidden)
    return {"first": states[:, 0].tolist()}


if __name__ == "__main__":
    answer = globals()[sys.argv[1]](**json.load(sys.stdin))
    print(json.dumps(answer))
