"""The driver and the backend on a fake board: a pynq module around the interpreter.

The same driver on the simulated engine: `test_simulated.py`.
"""

import fcntl
import os
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from fake_engine import end_of_process, fake_pynq, named

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga import board
from perception_nodes.fpga.board import BoardEngine
from perception_nodes.fpga.driver import EngineDriver
from perception_nodes.fpga.layout import Register
from perception_nodes.fpga.program import Geometry
from perception_nodes.networks.model import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("open-xs")


def opened(model, cache="", max_batch=1):
    backend = open_backend("fpga", BackendSettings(cache_dir=str(cache), max_batch=max_batch))
    backend.info, backend.model = backend.load(model), model
    return backend


def stuck(model, engine):
    """A backend whose engine has not stopped when it was told to."""
    backend = opened(model)
    engine.fault = "stuck"
    with pytest.raises(BackendError, match="does not stop"):
        backend.infer(pictures(model, 1)[0])
    return backend


def heads(found):
    return [*found.boxes, *found.classes]


def refused(model):
    with pytest.raises(BackendError) as caught:
        opened(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pictures(model, count):
    rng = np.random.default_rng(1)
    size = (model.input.height, model.input.width, 3)
    return [rng.integers(0, 256, size).astype(np.uint8) for _ in range(count)]


class TestBoard:
    def test_heads_are_the_golden_backends(self, model, bitstream):
        golden = open_backend("golden", BackendSettings())
        golden.load(model)
        backend = opened(model)
        for image in pictures(model, 2):
            ours, theirs = backend.infer(image), golden.infer(image)
            for a, b in zip(heads(ours), heads(theirs), strict=True):
                assert a.dtype == np.float32
                np.testing.assert_array_equal(a, b)

    def test_it_says_what_it_is(self, model, bitstream):
        info = opened(model).info
        assert (info.backend, info.threads) == ("fpga", 1)
        assert info.runtime == "perception.bit, layout 1"
        assert info.device == "engine of 512 MACs at 250 MHz"
        assert sum(layer.macs for layer in info.layers) == pytest.approx(1e9 * model.gmac, rel=0.01)

    def test_what_the_engine_counts_comes_with_the_heads(self, model, engine, bitstream):
        engine.descriptor_cycles = 4000
        backend = opened(model)
        call, cycles = (
            backend.infer(pictures(model, 1)[0]).engine,
            4000 * backend.driver.program.descriptors,
        )
        assert (call.cycles, call.clock_mhz, call.simulated) == (cycles, 250, False)
        assert call.latency_ms == cycles / 250e3
        assert dict(call.stalls)["port"] == 77

    def test_the_status_is_looked_at_when_the_frame_should_have_ended(
        self, model, engine, bitstream
    ):
        backend = opened(model)
        program = backend.driver.program
        for later, looks in ((-0.04, 4), (0.0, 5), (0.2, 16)):
            engine.descriptor_cycles = (1 + later) * program.cycles / program.descriptors
            engine.looks, begin_us = 0, engine.time_us
            backend.infer(pictures(model, 1)[0])
            took_us = engine.time_us - begin_us
            assert took_us - (1 + later) * program.cycles / 250 <= 80  # with the reads of counters
            assert engine.looks <= looks

    def test_images_of_a_batch_are_loaded_beside_the_engines_work(
        self, model, engine, bitstream, monkeypatch
    ):
        backend = opened(model, max_batch=3)
        images = pictures(model, 3)
        alone = [[t.copy() for t in heads(backend.infer(image))] for image in images]
        puts, put = [], EngineDriver.put
        monkeypatch.setattr(EngineDriver, "put", lambda *its: (puts.append(engine.busy), put(*its)))
        for found, wanted in zip(backend.infer_batch(images), alone, strict=True):
            for a, b in zip(heads(found), wanted, strict=True):
                np.testing.assert_array_equal(a, b)
        assert puts == [False, True, True]
        assert backend.info.max_batch == 3
        with pytest.raises(BackendError, match="4 images at once; it was loaded for 3"):
            backend.infer_batch([*images, images[0]])

    def test_two_models_share_the_engine(self, model, engine, bitstream):
        backends = [opened(model), opened(load_model("open-n"))]
        images = [pictures(backend.model, 1)[0] for backend in backends]
        first = [
            [t.copy() for t in heads(b.infer(i))] for b, i in zip(backends, images, strict=True)
        ]
        assert engine.downloads == 1
        for backend, image, wanted in zip(backends, images, first, strict=True):
            for a, b in zip(heads(backend.infer(image)), wanted, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_memory_is_given_back(self, model, engine, bitstream):
        backend = opened(model)
        assert len(engine.memory) == 3
        backend.load(model)  # the fake fills what is freed
        assert len(engine.memory) == 3
        backend.close()
        backend.close()
        assert not engine.memory
        with pytest.raises(BackendError, match="no model is loaded"):
            backend.infer(pictures(model, 1)[0])

    def test_memory_is_not_freed_under_a_running_frame(self, model, engine, bitstream):
        backend = opened(model)
        backend.driver.start(backend.driver.slots[0])
        backend.close()
        assert engine.resets == 1
        assert not engine.memory

    def test_a_frame_that_nobody_waited_for_is_not_taken_for_the_next(
        self, model, engine, bitstream, monkeypatch
    ):
        backend = opened(model)
        black, other = np.zeros_like(pictures(model, 1)[0]), pictures(model, 1)[0]
        wanted = [t.copy() for t in heads(backend.infer(other))]

        with monkeypatch.context() as patched:
            patched.setattr(BoardEngine, "sleep_us", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                backend.infer(black)
        for a, b in zip(heads(backend.infer(other)), wanted, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nor_for_that_of_another_model(self, model, engine, bitstream):
        first, second = opened(model), opened(model)
        black, other = np.zeros_like(pictures(model, 1)[0]), pictures(model, 1)[0]
        wanted = [t.copy() for t in heads(second.infer(other))]
        first.driver.put(first.driver.slots[0], black)
        first.driver.start(first.driver.slots[0])  # and then an exception
        for a, b in zip(heads(second.infer(other)), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        assert engine.resets == 1


class TestFaults:
    @pytest.mark.parametrize("cause", ["READ", "TIMEOUT", "ADDRESS"])
    def test_an_error_is_told_with_its_cause_and_the_next_frame_runs(
        self, cause, model, engine, bitstream
    ):
        backend = opened(model)
        engine.fault = cause
        with pytest.raises(BackendError) as caught:
            backend.infer(pictures(model, 1)[0])
        text = str(caught.value)
        assert f"perception.bit reports {cause}, " in text
        assert "at descriptor 3 (/model." in text
        assert "it was reset" in text
        engine.fault = ""
        backend.infer(pictures(model, 1)[0])

    def test_outputs_that_were_not_written_are_not_those_of_the_frame_before(
        self, model, engine, bitstream
    ):
        backend = opened(model)
        backend.infer(pictures(model, 1)[0])
        engine.fault = "idle"
        with pytest.raises(BackendError, match=r"has written 0 bytes of its \d+; it was reset"):
            backend.infer(pictures(model, 1)[0])
        engine.fault = ""
        backend.infer(pictures(model, 1)[0])

    def test_a_hang_ends_with_a_reset(self, model, engine, bitstream):
        backend = opened(model)
        engine.fault = "hang"
        said = r"did not finish a frame within \d+\.\d ms, 4 times the expected .*reset"
        with pytest.raises(BackendError, match=said):
            backend.infer(pictures(model, 1)[0])
        assert engine.resets == 1
        engine.fault = ""
        backend.infer(pictures(model, 1)[0])

    def test_a_bitstream_is_not_loaded_while_the_engine_is_busy(self, model, engine, bitstream):
        backend = opened(model)
        image = pictures(model, 1)[0]
        first = [t.copy() for t in backend.infer(image).boxes]
        engine.fault = "stuck"
        with pytest.raises(BackendError, match="did not finish.*it does not stop.*restart the"):
            backend.infer(image)
        with pytest.raises(BackendError, match="is busy; it does not stop"):
            backend.infer(image)
        assert engine.downloads == 1
        engine.fault = ""  # memory answers at last
        for a, b in zip(first, backend.infer(image).boxes, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_nor_after_a_restart_of_the_process(self, model, engine, bitstream):
        stuck(model, engine)
        end_of_process()
        for _ in range(2):
            text = refused(model)
            assert f"process {os.getpid()} has left the engine running" in text
            assert "restart the machine" in text
        assert engine.downloads == 1
        board.LOCK.unlink()  # as a restart of the machine does
        engine.fault = ""
        opened(model)
        assert engine.downloads == 2

    def test_an_engine_that_was_stopped_at_last_is_loaded_again(self, model, engine, bitstream):
        backend = stuck(model, engine)
        engine.fault = ""
        backend.infer(pictures(model, 1)[0])
        end_of_process()
        opened(model)
        assert engine.downloads == 2

    def test_memory_of_an_engine_that_does_not_stop_is_kept(self, model, engine, bitstream):
        backend = stuck(model, engine)
        backend.close()
        assert len(engine.memory) == 3

    def test_an_image_of_another_size_is_refused(self, model, bitstream):
        backend = opened(model)
        with pytest.raises(BackendError, match=r"the image is uint8 \(8, 8, 3\), not uint8"):
            backend.infer(np.zeros((8, 8, 3), np.uint8))


class TestRefusals:
    def test_without_pynq(self, model, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynq", None)
        named("perception.bit", tmp_path, monkeypatch)
        assert "needs PYNQ, which cannot be imported" in refused(model)

    def test_a_bitstream_that_is_not_there(self, model, bitstream):
        bitstream.with_suffix(".hwh").unlink()
        assert "perception.hwh is not there; fpga/vivado/README.md" in refused(model)

    def test_a_bitstream_that_cannot_be_loaded(self, model, bitstream, tmp_path, monkeypatch):
        named("broken.bit", tmp_path, monkeypatch)
        assert "broken.bit cannot be loaded: no bitstream at all" in refused(model)

    def test_a_bitstream_of_something_else(self, model, bitstream, tmp_path, monkeypatch):
        named("other.bit", tmp_path, monkeypatch)
        assert "has no engine_0; build it with fpga/vivado" in refused(model)

    def test_another_process_has_the_fpga(self, model, engine, bitstream):
        with open(board.LOCK, "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            other.write("4711")
            other.flush()
            assert "process 4711 uses the FPGA; stop it first" in refused(model)
        assert engine.downloads == 0
        opened(model)

    def test_something_else_where_the_engine_should_be(self, model, bitstream, engine, monkeypatch):
        engine.built[Register.ID] = 0xDEADBEEF
        closed, close = [], BoardEngine.close
        monkeypatch.setattr(BoardEngine, "close", lambda bus: (closed.append(bus), close(bus)))
        assert "answers with ID 0xDEADBEEF, not 0x504E4345" in refused(model)
        assert len(closed) == 1

    def test_an_engine_of_another_layout(self, model, bitstream, engine):
        engine.built[Register.VERSION] = 99
        assert "engine of layout 99, the driver needs layout 1" in refused(model)

    @pytest.mark.parametrize("pieces", [0, 1, 2])
    def test_too_little_memory(self, pieces, model, engine, bitstream, monkeypatch):
        monkeypatch.setitem(sys.modules, "pynq", fake_pynq(engine, pieces))
        text = refused(model)
        assert "bytes of contiguous memory left (Allocate failed" in text
        assert not engine.memory

    def test_a_name_that_is_neither(self, model, monkeypatch):
        monkeypatch.setenv("PERCEPTION_FPGA", "engine.txt")
        assert "$PERCEPTION_FPGA is 'engine.txt', neither a bitstream (.bit) nor" in refused(model)

    def test_a_simulation_that_is_not_built(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("PERCEPTION_FPGA", str(tmp_path / "engine.so"))
        assert "engine.so is not there; build it with make fpga-sim" in refused(model)

    def test_a_library_that_is_no_simulation(self, model, tmp_path, monkeypatch):
        library = tmp_path / "engine.so"
        library.write_bytes(b"no library")
        monkeypatch.setenv("PERCEPTION_FPGA", str(library))
        assert "cannot be loaded as a simulated engine" in refused(model)


class TestCache:
    def test_a_compiled_program_needs_no_compiler(self, model, bitstream, tmp_path, monkeypatch):
        opened(model, tmp_path / "cache").close()
        (file,) = (tmp_path / "cache").iterdir()
        assert file.name.startswith("open-xs-")
        monkeypatch.setattr("perception_nodes.backends.fpga.compile_model", None)
        opened(model, tmp_path / "cache").close()

    def test_one_that_cannot_be_written_is_named(self, model, engine, bitstream, tmp_path):
        (tmp_path / "cache").write_text("no folder")
        with pytest.raises(BackendError, match=r"/cache cannot be written: .*XDG_CACHE_HOME$"):
            opened(model, tmp_path / "cache")
        assert not engine.memory

    def test_a_damaged_one_is_made_anew(self, model, bitstream, tmp_path):
        opened(model, tmp_path / "cache").close()
        (file,) = (tmp_path / "cache").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        opened(model, tmp_path / "cache").close()
        assert file.read_bytes() == whole

    def test_one_for_another_engine_is_another_file(self, model, engine, bitstream, tmp_path):
        opened(model, tmp_path / "cache").close()
        engine.registers[Register.ROWS] -= 1  # the bitstream stays loaded in this process
        backend = opened(model, tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 2
        assert backend.driver.geometry == Geometry(2, 64, 28671, 250.0)
