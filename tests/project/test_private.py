"""What runs here is reported to nobody."""

import subprocess
import sys

SESSION = """
import llmkg_lab
import onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnxruntime.InferenceSession(model.SerializeToString())
"""
HUB = "import llmkg_lab, huggingface_hub.constants as c; assert c.HF_HUB_DISABLE_TELEMETRY"
WANTED = "import llmkg_lab, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"


def run(code, home, **said):
    """A process to which nothing says that it is a test: ONNX Runtime would be silent in one."""
    environment = {"HOME": str(home), **said}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_onnx_runtime_keeps_no_id_of_the_device_and_no_events(tmp_path):
    run(SESSION, tmp_path)  # without llmkg_lab it leaves .cache/Microsoft/DeveloperTools
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_hub_is_not_told_what_is_installed(tmp_path):
    run(HUB, tmp_path)


def test_who_wants_to_report_may(tmp_path):
    run(WANTED, tmp_path, ORT_DISABLE_TELEMETRY="0")
