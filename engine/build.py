"""Build the engine: two WebAssembly binaries, and the same code for this machine, which tests run.

    python engine/build.py web/dist          engine-relaxed.wasm, engine-plain.wasm
    python engine/build.py --native FOLDER   engine.so

The compiler is the package ziglang's, Clang with its own linker and headers: the same bytes on
every machine. Of WebAssembly's relaxed instructions the first binary uses one.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("*.c"))
EXPORTS = (
    *("decoder_bytes", "decoder_open", "decoder_ids", "decoder_step", "decoder_logits"),
    *("decoder_choose", "decoder_likely"),
    *("decoder_hidden", "decoder_layers", "decoder_help", "decoder_stop", "products_hold"),
    *("encoder_bytes", "encoder_open", "encoder_ids", "encoder_types", "encoder_run"),
    *("encoder_layers", "encoder_help", "encoder_stop", "engine_version"),
    *("__heap_base", "__stack_pointer"),
)
# fused multiply-adds would give other bits on processors that have them
COMMON = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno")
WASM = (
    *("-target", "wasm32-freestanding", "-O3", "-flto", "-nostdlib"),
    *("-msimd128", "-matomics", "-mbulk-memory", "-mmutable-globals"),
    *("-Wl,--no-entry", "-Wl,--import-memory", "-Wl,--shared-memory"),
    "-Wl,--max-memory=4294901760",
    *(f"-Wl,--export={name}" for name in EXPORTS),
    "-Wl,-z,stack-size=65536",
    "-Wl,-s",
)
VARIANTS = {"relaxed": ("-mrelaxed-simd",), "plain": ()}


def wasm(folder: Path) -> list[Path]:
    """Compile the binaries for browsers into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, options in VARIANTS.items():
        made.append(folder / f"engine-{name}.wasm")
        _compile(*WASM, *options, "-o", str(made[-1]))
    return made


def native(folder: Path) -> Path:
    """Compile a shared library for this machine into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "engine.so"
    _compile("-O3", "-march=native", "-shared", "-fPIC", "-o", str(library))
    return library


def _compile(*options: str) -> None:
    sources = [str(path) for path in SOURCES]
    command = [sys.executable, "-m", "ziglang", "cc", *COMMON, *options, *sources]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--native", action="store_true", help="for this machine")
    arguments = parser.parse_args()
    if arguments.native:
        native(arguments.folder)
    else:
        wasm(arguments.folder)
