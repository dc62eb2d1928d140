"""TensorRT in Python, over the fake GPU.

Its engine does not run the model: every output is filled with one value, usually the mean of the
image plus the output's position in the file, or with the results of a function of the test.
"""

import hashlib
import json
import os
import sys
import types

import numpy as np
import onnx

from perception_nodes.gpu.tensorrt.library import MODULES, Library

LAYERS = """Engine Layer Information:
Name: /model.0/conv/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: a, Datatype: Int8, \
Format: x }], Constants: [ { Name: w, Dimensions: [16,4], Datatype: Int8 }, { Name: s, Datatype: \
Float }], Outputs: [ { Name: b, Datatype: Float }], TacticName: t, StreamId: 0
Name: __myl_Mul_myl0_3, LayerType: kgen, Inputs: [ { Name: b, Datatype: Float }], Constants: [], \
Outputs: [ { Name: c, Datatype: Int8 }], TacticName: u
"""


def names(*known):
    return types.SimpleNamespace(**{name: value for value, name in enumerate(known)})


def mean_and_place(mean, place):
    return mean + place


def make(
    gpu,
    name="tensorrt",
    version="10.13.3.9",
    on_build=lambda: None,
    value_of=mean_and_place,
    network=None,
):
    """A fake module of this name.

    `on_build` is called during a build; `network` maps the bytes of an image to tensors by name.
    """
    module = types.ModuleType(name)
    module.__version__ = version
    rtx = name == "tensorrt_rtx"

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING, INFO, VERBOSE = "ERROR", "INTERNAL", "WARN", "INFO", "VERB"

    class IProgressMonitor:
        pass

    class Parser:
        def __init__(self, network, log):
            self.network = network

        def parse_from_file(self, path):
            graph = onnx.load(path).graph
            self.network.tensors = {
                value.name: ([d.dim_value for d in value.type.tensor_type.shape.dim], kind)
                for kind, values in (("image", graph.input), ("head", graph.output))
                for value in values
            }
            self.network.sha256 = hashlib.sha256(open(path, "rb").read()).hexdigest()
            return True

    class TimingCache:
        def __init__(self, content):
            self.content = content

        def serialize(self):
            return self.content + b"measured "

    class Config:
        num_compute_capabilities = 0
        progress_monitor = timing = None

        def __init__(self):
            self.flags = []

        def set_flag(self, flag):
            self.flags.append(flag)

        def set_compute_capability(self, target, index):
            return True

        def create_timing_cache(self, content):
            return None if content == b"damaged" else TimingCache(content)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert not ignore_mismatch
            if cache.content == b"of another GPU":
                return False
            self.timing = cache
            return True

        def get_timing_cache(self):
            return self.timing

    class Builder:
        def __init__(self, log):
            if "start" in gpu.failures:
                log.log(ILogger.ERROR, "CUDA initialization failure")
                raise TypeError("factory function returned nullptr")
            self.log = log

        def create_network(self, flags):
            if not rtx and version < "11":
                assert flags == 1, "before 11 a network is strongly typed where it is asked for"
            return types.SimpleNamespace()

        def create_builder_config(self):
            return Config()

        def build_serialized_network(self, network, config):
            gpu.calls["build"] += 1
            monitor = config.progress_monitor
            if monitor:
                monitor.phase_start("Building engine", None, 2)
                monitor.step_complete("Building engine", 0)
                monitor.phase_start("Timing", "Building engine", 4)
                for step in range(4):
                    monitor.step_complete("Timing", step)
                monitor.phase_finish("Timing")
                monitor.step_complete("Building engine", 1)
                monitor.phase_finish("Building engine")
            on_build()
            if "build" in gpu.failures:
                self.log.log(ILogger.ERROR, "[x.cpp::1] no kernel\nfits")
                return None
            self.log.log(ILogger.VERBOSE, LAYERS)
            plan = {"by": version, "tensors": network.tensors, "sha256": network.sha256}
            plan["flags"] = config.flags
            return json.dumps(plan).encode()

    class Context:
        def __init__(self, engine, by_user=False):
            self.engine, self.addresses, self.ran = engine, {}, False
            self.by_user, self.memory = by_user, None

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return True

        def set_device_memory(self, address, nbytes):
            assert nbytes >= self.engine.device_memory_size_v2 and address % 256 == 0
            self.memory = address

        def is_stream_capturable(self, stream):
            """As NVIDIA's notes on TensorRT-RTX 1.2 have it: only what allocates nothing."""
            return self.engine.by_user and "capturable" not in gpu.failures

        def execute_async_v3(self, stream):
            if "execute" in gpu.failures or self.by_user != (self.memory is not None):
                return False
            stream = gpu.stream_at(stream)
            # Its first run sets up what cannot be captured.
            may_be_captured = self.ran and (not rtx or self.is_stream_capturable(stream))
            if stream.captured is not None and not may_be_captured:
                return False
            self.ran = True
            stream.put(self.run)
            return True

        def run(self):
            assert set(self.addresses) == set(self.engine.tensors)
            for place, (name, (shape, kind)) in enumerate(self.engine.tensors.items()):
                nbytes = int(np.prod(shape)) * (1 if kind == "image" else 4)
                memory = gpu.view(self.addresses[name], nbytes)
                if kind == "image":
                    mean = memory.mean(dtype=np.float64)
                    answer = network(memory) if network else None
                elif answer:
                    memory.view(np.float32)[:] = answer[name].reshape(-1)
                else:
                    memory.view(np.float32)[:] = value_of(mean, place)

    class Cache:
        def deserialize(self, content):
            gpu.calls["kernels kept"] += 1

        def serialize(self):
            return b"compiled"

    class RuntimeConfig:
        create_runtime_cache, strategy = Cache, "STATIC"

        def set_runtime_cache(self, cache):
            self.cache = cache

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

    class Engine:
        device_memory_size_v2 = 4096

        def __init__(self, tensors, flags):
            self.tensors = tensors
            self.num_io_tensors = len(tensors)
            self.by_user = "REQUIRE_USER_ALLOCATION" in flags

        def create_execution_context(self, config=None):
            assert rtx == (config is not None)
            by_user = rtx and config.strategy == "USER_MANAGED"
            if "context" in gpu.failures or by_user != self.by_user:
                return None
            return Context(self, by_user)

        def create_runtime_config(self):
            return RuntimeConfig()

        def get_tensor_name(self, index):
            return list(self.tensors)[index]

        def get_tensor_shape(self, name):
            return self.tensors[name][0]

        def get_tensor_dtype(self, name):
            return self.tensors[name][1]

        def get_tensor_mode(self, name):
            return int(self.tensors[name][1] == "head")

    class Runtime:
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, plan):
            if refusals := gpu.failures.get("deserialize", 0):
                gpu.failures["deserialize"] = refusals - 1
                self.log.log(ILogger.ERROR, "Serialization assertion failed: version")
                return None
            if "weights" in gpu.failures:
                self.log.log(ILogger.ERROR, "Error Code 2: OutOfMemory (no further information)")
                self.log.log(ILogger.ERROR, "Error Code 4: Engine deserialization failed.")
                return None
            facts = json.loads(plan)
            return Engine(facts["tensors"], facts["flags"])

    vars(module).update(
        ILogger=ILogger,
        IProgressMonitor=IProgressMonitor,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
        NetworkDefinitionCreationFlag=names() if version >= "11" else names("STRONGLY_TYPED"),
        ProfilingVerbosity=names("DETAILED"),
        TensorIOMode=names("INPUT", "OUTPUT"),
        nptype=lambda kind: np.uint8 if kind == "image" else np.float32,
    )
    if rtx:
        module.IRuntimeCache = Cache
        module.ComputeCapability = names("CURRENT", "SM80", "SM89")
        flag, strategy = "REQUIRE_USER_ALLOCATION", "USER_MANAGED"
        module.BuilderFlag = types.SimpleNamespace(**{flag: flag})
        module.ExecutionContextAllocationStrategy = types.SimpleNamespace(**{strategy: strategy})
    return module


def install(monkeypatch, module, cuda=0):
    """Let the fake be the installed runtime, made for a CUDA version."""
    library = Library(module, f"{MODULES[module.__name__]} {module.__version__}", cuda)
    monkeypatch.setattr("perception_nodes.backends.tensorrt.load_library", lambda: library)


def child(folder):
    """Run in a process of a test: load open-n, and record builds in the folder's `log`."""
    import fake_gpu
    import pytest

    from perception_nodes.backends.contract import BackendSettings, open_backend
    from perception_nodes.networks.model import load_model

    def note(text):
        with open(os.path.join(folder, "log"), "a") as log:
            log.write(f"{text}\n")

    def on_build():
        note("build")
        if os.path.exists(os.path.join(folder, "stop here")):
            print("building", flush=True)
            sys.stdin.read()

    gpu = fake_gpu.FakeGpu(memory_bytes=1 << 24)
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_gpu.install(monkeypatch, gpu)
        install(monkeypatch, make(gpu, on_build=on_build))
        sys.stdin.readline()
        open_backend("tensorrt", BackendSettings(cache_dir=folder)).load(load_model("open-n"))
        note("loaded")


if __name__ == "__main__":
    child(sys.argv[1])
