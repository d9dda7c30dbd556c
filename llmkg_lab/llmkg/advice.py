"""What a model takes, whether it runs here, and which one to run: from measured facts first.

Each answer says whether it was ``measured``. A fact of the registry is measured; of memory on any
machine, of speed on a processor of this name. Where there is none, memory is estimated from bits
per weight, as measured of the nearest model or as the format has them, and a decoder's speed by
the bytes that it reads for each token.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from llmkg_lab.base import machine
from llmkg_lab.base.machine import Profile
from llmkg_lab.llmkg.artifacts import BASES
from llmkg_lab.llmkg.config import LoadingError, Quantization
from llmkg_lab.llmkg.memory import MemoryEstimate, of_bytes, of_entry
from llmkg_lab.llmkg.metadata import ModelCapabilities, ModelFilter, ModelMetadata
from llmkg_lab.llmkg.picks import chosen
from llmkg_lab.llmkg.registry import ModelRegistry
from llmkg_lab.presets import DECODER, fact_of
from llmkg_lab.results.recommendation import FAST, ROOM
from llmkg_lab.results.registry import Entry

RATE = "tokens_per_second"


@dataclass(frozen=True)
class SpeedEstimate:
    """Tokens a second; ``measured``: of this artifact, on a processor of this name."""

    tokens_per_second: float
    measured: bool
    reason: str


@dataclass(frozen=True)
class DeviceCompatibility:
    """Whether models of a size run on a device, by the way their weights are stored.

    Args:
        memory: What each takes.
        speed: How fast a decoder writes; by reading memory alone, it is an upper bound.
        fits: Those that leave half of the available memory to others.
        recommended: The most exact that fits and writes as fast as one reads, else the smallest
            that fits; None where none does.
        measured: Whether memory and speed of what is recommended were measured.
        reason: In words.
    """

    parameters: int
    device: Profile
    memory: Mapping[Quantization, MemoryEstimate]
    speed: Mapping[Quantization, SpeedEstimate]
    fits: tuple[Quantization, ...]
    recommended: Quantization | None
    measured: bool
    reason: str

    @property
    def is_compatible(self) -> bool:
        """Whether there is a way to run it here."""
        return self.recommended is not None


@dataclass(frozen=True)
class ModelRequirements:
    """What a model has to do. None asks for nothing.

    Args:
        task: As the roster names it.
        max_memory: Bytes; by default half of what is available on the device.
        min_tokens_per_second: A speed that is only estimated counts, too.
        max_kl: Mean KL divergence from the original in nats; only what was measured can hold it.
    """

    task: str | None = None
    capabilities: ModelCapabilities | None = None
    min_context_length: int | None = None
    max_memory: int | None = None
    min_tokens_per_second: float | None = None
    max_kl: float | None = None
    licenses: Collection[str] | None = None


@dataclass(frozen=True)
class ModelRecommendation:
    """The model to run, its artifact where it has one, and why.

    ``measured``: the artifact is here and all that decided was measured.
    """

    model: ModelMetadata
    artifact: Entry | None
    memory: MemoryEstimate
    speed: SpeedEstimate | None
    measured: bool
    reason: str


@cache
def nominal_bits() -> Mapping[Quantization, float]:
    """Bits per weight of each precision, the most first; of integers as presets measured them."""
    measured = {name: fact_of(name, DECODER) for name in ("int8", "int4")}
    int8, int4 = (fact.bits_per_weight if fact else 0.0 for fact in measured.values())
    return {
        Quantization["None"]: 32.0,
        Quantization["F16"]: 16.0,
        Quantization["BFloat16"]: 16.0,
        Quantization["Int8"]: int8,
        Quantization["Int4"]: int4,
    }


def estimate_memory_requirements(
    parameters: int, precision: Quantization, *, registry: ModelRegistry | None = None
) -> MemoryEstimate:
    """Bytes that running a model of so many parameters takes, weights stored as ``precision``.

    Raises LoadingError where there are no parameters.
    """
    if parameters < 1:
        raise LoadingError(f"a model of {parameters} parameters takes no memory", "give 1 or more")
    facts = list(_facts(registry or ModelRegistry(), precision))
    for model, entry in facts:
        if model.parameters == parameters:
            return of_entry(entry)
    bits, source = nominal_bits()[precision], f"the {precision} format"
    if facts:
        model, entry = min(facts, key=lambda fact: abs(fact[0].parameters - parameters))
        bits, source = entry.bits_per_weight, f"what was measured of {entry.variant}"
    estimate = of_bytes(int(parameters * bits / 8))
    reason = f"{estimate.reason}, at {bits:.1f} bits per weight by {source}"
    return MemoryEstimate(estimate.nbytes, False, reason)


def assess_device_compatibility(
    parameters: int, *, device: Profile | None = None, registry: ModelRegistry | None = None
) -> DeviceCompatibility:
    """Whether and how a model of so many parameters runs on a device, by default this one."""
    here = device or machine.profile()
    models = registry or ModelRegistry()
    bits = nominal_bits()
    memory = {p: estimate_memory_requirements(parameters, p, registry=models) for p in bits}
    speed = {p: _speed_of_size(models, parameters, p, here) for p in bits}
    fits = tuple(p for p in bits if memory[p].nbytes <= ROOM * here.memory_available)
    fast = [p for p in fits if speed[p].tokens_per_second >= FAST]
    by_bits = sorted(fits, key=bits.__getitem__)
    best = fast[0] if fast else next(iter(by_bits), None)
    if best is None:
        least = min(memory.values(), key=lambda estimate: estimate.nbytes)
        reason = f"half of {here.memory_available / 1e9:.1f} GB does not hold it: {least.reason}"
        return DeviceCompatibility(parameters, here, memory, speed, fits, None, False, reason)
    measured = memory[best].measured and speed[best].measured
    reason = f"{best}: {memory[best].reason}; {speed[best].reason}"
    return DeviceCompatibility(parameters, here, memory, speed, fits, best, measured, reason)


def recommend_model(
    models: Iterable[ModelMetadata],
    requirements: ModelRequirements | None = None,
    *,
    device: Profile | None = None,
) -> ModelRecommendation | None:
    """The model to run among ``models``: the largest that meets the requirements, None if none.

    What can be loaded goes before what would have to be converted, and of one model's artifacts
    the one is taken that its report recommends among those that meet the requirements.
    """
    here, wanted = device or machine.profile(), requirements or ModelRequirements()
    able = [option for model in models for option in _options(model, wanted, here)]
    return max(able, key=_worth, default=None)


def _worth(option: ModelRecommendation) -> tuple[bool, int, str]:
    return option.artifact is not None, option.model.parameters, option.model.release_date


def _options(
    model: ModelMetadata, wanted: ModelRequirements, here: Profile
) -> Iterator[ModelRecommendation]:
    """A model's artifact to take, of those that meet the requirements; or int4, if it has none."""
    kept = ModelFilter(capabilities=wanted.capabilities, licenses=wanted.licenses).matches(model)
    is_task = wanted.task in (None, model.task)
    if not (kept and is_task and model.context_length >= (wanted.min_context_length or 0)):
        return
    if not model.artifacts:
        bits = nominal_bits()[Quantization["Int4"]]
        nbytes = int(model.parameters * bits / 8)
        memory, speed = of_bytes(nbytes), _bound(model, nbytes, here)
        if wanted.max_kl is None and _meets(memory, speed, wanted, here):
            way = f"llmkg-lab run {model.variant}" if model.variant else "it was only registered"
            reason = f"not measured here; at int4 {memory.reason}; {way}"
            yield ModelRecommendation(model, None, memory, speed, False, reason)
        return
    able = [
        entry
        for entry in model.artifacts
        if _meets(of_entry(entry), _speed(model, entry, here), wanted, here)
        and _is_close(entry, wanted.max_kl)
    ]
    if choice := chosen(able):
        memory, speed = of_entry(choice.entry), _speed(model, choice.entry, here)
        said = [choice.reason, memory.reason, *([speed.reason] if speed else [])]
        measured = memory.measured and (speed is None or speed.measured)
        yield ModelRecommendation(model, choice.entry, memory, speed, measured, "; ".join(said))


def _meets(
    memory: MemoryEstimate, speed: SpeedEstimate | None, wanted: ModelRequirements, here: Profile
) -> bool:
    limit = wanted.max_memory
    if memory.nbytes > (ROOM * here.memory_available if limit is None else limit):
        return False
    least = wanted.min_tokens_per_second
    return least is None or (speed is not None and speed.tokens_per_second >= least)


def _is_close(entry: Entry, bound: float | None) -> bool:
    kl = entry.quality.get("kl_mean")
    return bound is None or (kl is not None and kl.value <= bound)


def _speed(model: ModelMetadata, entry: Entry, here: Profile) -> SpeedEstimate | None:
    """How fast an artifact writes here; None of what writes nothing."""
    rate, cpu = entry.speed.get(RATE), entry.conditions.get("cpu")
    if rate is not None and cpu == here.cpu:
        return SpeedEstimate(rate.value, True, f"{rate.value:.0f} tokens per second measured here")
    return _bound(model, entry.bytes, here)


def _bound(model: ModelMetadata, nbytes: int, here: Profile) -> SpeedEstimate | None:
    return _by_bandwidth(nbytes, here) if model.capabilities.text_generation else None


def _by_bandwidth(nbytes: int, here: Profile) -> SpeedEstimate:
    rate = here.read_bandwidth_gb_s * 1e9 / nbytes
    return SpeedEstimate(
        rate, False, f"at most {rate:.0f} tokens per second, by bandwidth (not measured)"
    )


def _speed_of_size(
    registry: ModelRegistry, parameters: int, precision: Quantization, here: Profile
) -> SpeedEstimate:
    for model, entry in _facts(registry, precision):
        speed = _speed(model, entry, here)
        if model.parameters == parameters and speed and speed.measured:
            return speed
    return _by_bandwidth(int(parameters * nominal_bits()[precision] / 8), here)


def _facts(
    registry: ModelRegistry, precision: Quantization
) -> Iterator[tuple[ModelMetadata, Entry]]:
    """The artifacts whose weights are stored as ``precision``, the first of a model to be taken."""
    base = BASES.get(precision)
    for model in registry.list_models():
        entries: Sequence[Entry] = [entry for entry in model.artifacts if entry.base == base]
        if choice := chosen(entries):
            yield model, choice.entry
