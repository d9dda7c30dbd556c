"""What tests ask of the loader in a page: tokens for a prompt, and the same from native code."""

import numpy as np

IDS = [5, 77, 3, 130, 12, 12, 9, 64]
# a bundle, options of load, a prompt and options of generate -> token ids, and how they were made
GENERATE = """async ([bundle, options, ids, sampling]) => {
  const { load } = await import("/llmkg-lab.js");
  try {
    const model = await load(`/bundles/${bundle}/`, options);
    const tokens = [];
    for await (const token of model.tokens(ids, [], sampling)) tokens.push(token);
    model.dispose();
    return { tokens, ...model.choice, ...model.choice.loaded, isolated: crossOriginIsolated };
  } catch (error) {
    return { kind: error.kind, message: error.message, hint: error.hint };
  }
}"""
GREEDY = {"temperature": 0, "repetition_penalty": 1, "max_tokens": 24}
TINY = {"store": "none", "threads": 1}


def generate(page, options=None, sampling=None, bundle="numbers"):
    """The tokens that a page's loader writes, and its choice; or the error that it names."""
    return page.evaluate(GENERATE, [bundle, options or {}, IDS, sampling or GREEDY])


def continued(native, choose, count):
    """What the same C, compiled for this machine, makes of the prompt."""
    ids = list(IDS)
    native.step(ids, 0)
    logits = native.logits(len(ids) - 1)
    for _ in range(count):
        ids.append(int(choose(logits, np.array(ids))))
        native.step(ids[-1:], len(ids) - 1)
        logits = native.logits(0)
    return ids[len(IDS) :]


def greedy(logits, _ids=None):
    """The likeliest token."""
    return logits.argmax()
