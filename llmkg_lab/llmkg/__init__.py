"""LLMKG's model layer in Python: registry, loader and advice, with the names that LLMKG has.

from llmkg_lab.llmkg import ModelLoader

model = ModelLoader().load_model("HuggingFaceTB/SmolLM2-135M-Instruct:int4")
print(model.generate_text("The capital of France is"))
"""

from llmkg_lab.llmkg.advice import (
    DeviceCompatibility,
    ModelRecommendation,
    ModelRequirements,
    SpeedEstimate,
    assess_device_compatibility,
    estimate_memory_requirements,
    recommend_model,
)
from llmkg_lab.llmkg.config import (
    Cpu,
    Cuda,
    Device,
    Downloading,
    Failed,
    Loaded,
    Loading,
    LoadingConfig,
    LoadingError,
    LoadingState,
    Metal,
    ModelConfig,
    NotLoaded,
    Quantization,
)
from llmkg_lab.llmkg.loader import Loader, ModelLoader
from llmkg_lab.llmkg.memory import MemoryEstimate
from llmkg_lab.llmkg.metadata import ModelCapabilities, ModelFilter, ModelMetadata, ModelSize
from llmkg_lab.llmkg.model import InferenceMetrics, LoadedModel, ModelBackend
from llmkg_lab.llmkg.picks import Pick, RecommendedModels
from llmkg_lab.llmkg.pool import MemoryBudgetError, Use
from llmkg_lab.llmkg.registry import ModelRegistry, RegistryStatistics

__all__ = [
    "Cpu",
    "Cuda",
    "Device",
    "DeviceCompatibility",
    "Downloading",
    "Failed",
    "InferenceMetrics",
    "Loaded",
    "LoadedModel",
    "Loader",
    "Loading",
    "LoadingConfig",
    "LoadingError",
    "LoadingState",
    "MemoryBudgetError",
    "MemoryEstimate",
    "Metal",
    "ModelBackend",
    "ModelCapabilities",
    "ModelConfig",
    "ModelFilter",
    "ModelLoader",
    "ModelMetadata",
    "ModelRecommendation",
    "ModelRegistry",
    "ModelRequirements",
    "ModelSize",
    "NotLoaded",
    "Pick",
    "Quantization",
    "RecommendedModels",
    "RegistryStatistics",
    "SpeedEstimate",
    "Use",
    "assess_device_compatibility",
    "estimate_memory_requirements",
    "recommend_model",
]
