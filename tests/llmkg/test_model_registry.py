"""The registry: the roster's models, what was measured of them, filters, and many writers."""

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.listed import SMOLLM2, VARIANT, entry, model

from llmkg_lab.llmkg import (
    ModelCapabilities,
    ModelFilter,
    ModelMetadata,
    ModelRegistry,
    ModelSize,
)
from llmkg_lab.measure.values import Measurement
from llmkg_lab.results.registry import Registry, RegistryError
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster import catalog

FAMILIES = ("smollm", "tinyllama", "Open-ELM", "MiniLM")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The roster's models, none of them converted."""
    return ModelRegistry(tmp_path_factory.mktemp("empty"))


def test_the_roster_is_known_by_hub_id(bare):
    models = bare.list_models()
    repositories = {
        source.options["repo"]
        for variant in catalog.roster().values()
        for source in variant.sources
        if source.kind == "hub"
    }
    assert {m.huggingface_id for m in models} == repositories
    assert bare.model_count() == len(models) == 30
    assert not any(m.is_loadable for m in models)
    smollm2 = bare.get_model(SMOLLM2)
    assert smollm2 == replace(
        smollm2,
        name="SmolLM2 135M Instruct",
        family="smollm",
        parameters=134_515_008,
        size_category=ModelSize.Small,
        context_length=8192,
        vocab_size=49152,
        training_tokens=2_000_000_000_000,
        license="apache-2.0",
        variant=VARIANT,
    )
    assert smollm2.capabilities == ModelCapabilities(True, True, True, True, False, False)
    ranker = bare.get_model("cross-encoder/ms-marco-MiniLM-L6-v2")
    assert (ranker.task, ranker.capabilities) == ("text-ranking", ModelCapabilities())


def test_sizes_extremes_and_sums(bare):
    assert bare.get_smallest_model().parameters == min(m.parameters for m in bare.list_models())
    assert bare.get_largest_model().name == "OpenELM 450M"
    by_size = {size: bare.list_models_by_size(size) for size in ModelSize}
    assert sum(map(len, by_size.values())) == 30
    assert max(m.parameters for m in by_size[ModelSize.Tiny]) < 50_000_000
    assert min(m.parameters for m in by_size[ModelSize.Large]) >= 500_000_000
    statistics = bare.get_statistics()
    assert (statistics.total_models, statistics.total_families) == (30, 4)
    assert statistics.size_distribution == {size: len(by_size[size]) for size in ModelSize}
    assert statistics.average_parameters == pytest.approx(statistics.total_parameters / 30)
    chats = bare.list_models_with_capability(lambda c: c.chat)
    assert statistics.capability_stats["chat"] == len(chats) == 8
    empty = ModelRegistry(bare.outputs, models=())
    assert (empty.get_smallest_model(), empty.get_largest_model()) == (None, None)
    assert empty.get_statistics().average_parameters == 0
    assert empty.get_recommended_models().latest is None


def test_the_best_of_each_kind_says_what_it_rests_on(bare, registry):
    unmeasured, measured = bare.get_recommended_models(), registry.get_recommended_models()
    assert unmeasured.best_embeddings.model.task == "sentence-embedding"
    assert unmeasured.best_multilingual.model.capabilities.multilingual
    assert unmeasured.latest.model.release_date == "2024-11-01"
    assert unmeasured.best_overall.model.parameters > unmeasured.best_chat.model.parameters
    assert not unmeasured.best_chat.measured
    assert "not converted here" in unmeasured.best_chat.reason
    for pick in (measured.best_overall, measured.best_chat, measured.most_efficient):
        assert (pick.model.huggingface_id, pick.measured) == (SMOLLM2, True)
        assert "KL 0.0010 nats" in pick.reason
    assert not measured.best_embeddings.measured


def test_measured_facts_come_with_the_model_as_soon_as_they_are_there(
    registry, outputs, llama_artifacts
):
    first = registry.get_model(SMOLLM2)
    assert [entry.scheme for entry in first.artifacts] == ["fp32", "int8-rtn"]
    facts = first.artifacts[1]
    assert facts.bytes == llama_artifacts["int8-rtn"].nbytes
    assert (facts.quality["kl_mean"].value, facts.speed["peak_memory_mb"].value) == (0.001, 90)
    faster = entry(
        llama_artifacts["int8-rtn"],
        *("int8-rtn", facts.path),
        speed={"tokens_per_second": Measurement(75.0, 70.0, 80.0, 9)},
    )
    listed = {SMOLLM2: model(llama_artifacts["int8-rtn"], SMOLLM2, [faster])}
    own = {"own/model": model(llama_artifacts["int8-rtn"], "own/model", [faster])}
    Registry(listed | own).save(outputs)
    (found,) = registry.get_model(SMOLLM2).artifacts
    assert found.speed["tokens_per_second"].value == 75
    assert registry.get_model("own/model").is_loadable
    assert registry.model_count() == 31
    (outputs / "registry.json").write_text("{")
    with pytest.raises(RegistryError, match="is not JSON"):
        registry.list_models()
    (outputs / "registry.json").unlink()
    assert registry.model_count() == 30


def test_registered_models_last_and_may_be_taken_away(registry, outputs):
    own = made("own/model", 100_000_000, "mine")
    registry.register_model(own)
    other = ModelRegistry(outputs)  # as another process would
    assert other.get_model("own/model") == own
    assert other.list_models()[-1] == own
    registry.register_model(replace(own, description="better"))
    assert other.get_model("own/model").description == "better"
    assert other.unregister_model("own/model").description == "better"
    assert other.unregister_model("own/model") is None
    known = registry.unregister_model(SMOLLM2)
    assert (other.is_registered(SMOLLM2), other.model_count()) == (False, 29)
    other.register_model(known)
    assert registry.get_model(SMOLLM2) == known
    for wrong in (replace(own, size_category=ModelSize.Tiny), replace(own, huggingface_id="")):
        with pytest.raises(RegistryError):
            registry.register_model(wrong)
    (outputs / "registered.json").write_text('{"format": "llmkg-lab/registered/1"}')
    with pytest.raises(RegistryError, match="missing required field models"):
        registry.list_models()


WRITER = """
import sys
from dataclasses import replace
from llmkg_lab.llmkg import ModelRegistry
outputs, name, count = sys.argv[1:]
registry = ModelRegistry(outputs)
model = registry.list_models()[0]
for i in range(int(count)):
    registry.register_model(replace(model, huggingface_id=f"{name}/{i}"))
    assert registry.is_registered(f"{name}/{i}")
"""


@pytest.mark.slow
def test_writers_of_several_processes_lose_nothing_and_readers_see_whole_files(tmp_path):
    registry, counts, failures = ModelRegistry(tmp_path), [], []
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name, "20"])
        for name in "abc"
    ]

    def write(name):
        for i in range(10):
            registry.register_model(made(f"{name}/{i}", 1_000_000 + i, name))

    def read():
        while any(writer.poll() is None for writer in writers):
            try:
                counts.append(registry.model_count())
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads += [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert failures == []
    assert len(set(counts)) > 1  # they read while others wrote
    assert registry.model_count() == 30 + 3 * 20 + 2 * 10


def made(id, parameters, family, name="A model", **more):
    given = {"capabilities": ModelCapabilities(text_generation=True), "license": "mit"}
    return ModelMetadata(
        name=name, family=family, parameters=parameters, size_category=ModelSize.of(parameters),
        huggingface_id=id, architecture="llama", context_length=64, vocab_size=96, **given | more,
    )  # fmt: skip


flags = st.builds(ModelCapabilities, *[st.booleans()] * 6)
letters = st.text("abAB é-", max_size=4)


@st.composite
def model_lists(draw):
    kinds = st.tuples(
        st.integers(1, 10**9), st.sampled_from(FAMILIES), letters, letters, flags,
        st.sampled_from(["mit", "MIT", "apache-2.0"]),
    )  # fmt: skip
    return [
        made(f"o/{i}", n, family, name, description=text, capabilities=can, license=terms)
        for i, (n, family, name, text, can, terms) in enumerate(draw(st.lists(kinds, max_size=8)))
    ]


filters = st.builds(
    ModelFilter,
    families=st.none() | st.lists(st.sampled_from([*FAMILIES, "OPEN-ELM", "x"]), max_size=2),
    size_categories=st.none() | st.lists(st.sampled_from(list(ModelSize)), max_size=3),
    min_parameters=st.none() | st.integers(0, 10**9),
    max_parameters=st.none() | st.integers(0, 10**9),
    capabilities=st.none() | flags,
    licenses=st.none() | st.lists(st.sampled_from(["mit", "Apache-2.0"]), max_size=2),
)


@settings(max_examples=120, deadline=None)
@given(models=model_lists(), wanted=filters, query=letters)
def test_filters_and_search_keep_exactly_what_they_ask_for(models, wanted, query):
    """Each field by a definition of its own; a filter of all fields is that of each in turn."""
    registry = ModelRegistry("nowhere", models=models)
    lower = [name.lower() for name in wanted.families or []]
    terms = [name.lower() for name in wanted.licenses or []]
    expected = [
        m
        for m in models
        if (not lower or m.family.lower() in lower)
        and (not terms or m.license.lower() in terms)
        and (not wanted.size_categories or m.size_category in wanted.size_categories)
        and (wanted.min_parameters is None or wanted.min_parameters <= m.parameters)
        and (wanted.max_parameters is None or m.parameters <= wanted.max_parameters)
        and not (wanted.capabilities and _lacks(m.capabilities, wanted.capabilities))
    ]
    assert registry.filter_models(wanted) == expected
    step = models
    for name in ModelFilter.__dataclass_fields__:
        one = ModelFilter(**{name: getattr(wanted, name)})
        step = ModelRegistry("nowhere", models=step).filter_models(one)
    assert step == expected
    assert registry.filter_models(ModelFilter()) == models

    found = registry.search_models(query)
    assert found == registry.search_models(query.upper()) == registry.search_models(query.lower())
    assert found == [
        m for m in models if query.lower() in f"{m.name}\n{m.description}\n{m.family}".lower()
    ]
    low, high = sorted((wanted.min_parameters or 0, wanted.max_parameters or 0))
    between = registry.list_models_in_parameter_range(low, high)
    assert between == [m for m in models if low <= m.parameters <= high]


def _lacks(has, wanted):
    return any(getattr(wanted, n) and not getattr(has, n) for n in wanted.__dataclass_fields__)


def test_an_artifact_that_failed_is_never_recommended(registry, outputs, llama_artifacts):
    path = registry.get_model(SMOLLM2).artifacts[1].path
    failed = entry(llama_artifacts["int8-rtn"], "int8-rtn", path, verdict=Verdict.FAIL)
    Registry({SMOLLM2: model(llama_artifacts["int8-rtn"], SMOLLM2, [failed])}).save(outputs)
    pick = registry.get_recommended_models().best_chat
    assert not pick.measured
