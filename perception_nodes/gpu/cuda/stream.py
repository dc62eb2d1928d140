"""Queues of work for the device, marks on them, and work that was taken down in a graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from perception_nodes.gpu.cuda.driver_calls import Driver, Handle
from perception_nodes.gpu.cuda.errors import CudaError
from perception_nodes.gpu.cuda.memory import DeviceMemory, HostMemory, Resource


class Event(Resource):
    """A mark on a stream."""

    def __init__(self, driver: Driver) -> None:
        """Use `Device.event`."""
        self._driver = driver
        super().__init__(driver.close_event, driver.open_event())

    def record(self, stream: "Stream") -> None:
        """Put it on a stream, behind what is there."""
        self._driver.record_event(self._handle, stream.handle)

    def wait(self) -> None:
        """Wait until the stream has got there."""
        self._driver.wait_for_event(self._handle)

    def since_ms(self, earlier: "Event") -> float:
        """Device time between two events that have happened, to half a microsecond."""
        return self._driver.elapsed_ms(earlier._handle, self._handle)


class CudaGraph(Resource):
    """Work that was taken down once and is put on a stream as one piece."""

    def __init__(self, driver: Driver, handle: Handle) -> None:
        """Use `Stream.capture`."""
        self._driver = driver
        super().__init__(driver.close_graph, handle)

    def launch(self, stream: "Stream") -> None:
        """Put it on a stream."""
        self._driver.launch_graph(self._handle, stream.handle)


class Capture:
    """The graph of a capture, once that has ended well."""

    graph: CudaGraph


class Stream(Resource):
    """A queue of work for the device.

    Attributes:
        address: the CUstream, for libraries such as TensorRT.
    """

    def __init__(self, driver: Driver, own: Callable[[CudaGraph], CudaGraph]) -> None:
        """Use `Device.stream`; `own` has the device close a graph with it."""
        self._own = own
        self._driver = driver
        self.handle, self.address = driver.open_stream()
        super().__init__(driver.close_stream, self.handle)

    def wait(self) -> None:
        """Wait until all is done that was put on it.

        Raises:
            CudaError: something of it failed.
        """
        self._driver.wait_for_stream(self.handle)

    def copy_to_device(self, to: DeviceMemory, source: HostMemory) -> None:
        """Copy the whole of the source to the front of device memory."""
        _check_fits(source.nbytes, to.nbytes)
        self._driver.copy_to_device(to.address, source.array, self.handle)

    def copy_to_host(self, to: HostMemory, source: DeviceMemory) -> None:
        """Fill host memory from the front of device memory."""
        _check_fits(to.nbytes, source.nbytes)
        self._driver.copy_to_host(to.array, source.address, self.handle)

    def fill(self, memory: DeviceMemory, value: int = 0) -> None:
        """Set every byte."""
        self._driver.fill(memory.address, value, memory.nbytes, self.handle)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Take down in a graph what is put on the stream in the block, instead of running it.

        What is captured keeps its addresses and a launch the arguments it was prepared with: what
        changes from frame to frame is told through memory. Nothing in the block may allocate or
        wait.

        Raises:
            CudaError: something in the block cannot be captured.
        """
        capture = Capture()
        self._driver.begin_capture(self.handle)
        try:
            yield capture
        except BaseException:
            with suppress(CudaError):
                # What went wrong first is to be told; a broken capture cannot be ended well.
                self._driver.close_graph(self._driver.end_capture(self.handle))
            raise
        graph = CudaGraph(self._driver, self._driver.end_capture(self.handle))
        capture.graph = self._own(graph)


def capture(stream: Stream, stages: Sequence[Callable[[Stream], None]]) -> CudaGraph:
    """Make one graph of stages that put their work on a stream: preprocess, inference, decode.

    They are run once before: TensorRT, for one, sets up at its first run what cannot be captured.

    Raises:
        CudaError: a stage failed, or it waits or allocates.
    """
    for stage in stages:
        stage(stream)
    stream.wait()
    with stream.capture() as captured:
        for stage in stages:
            stage(stream)
    return captured.graph


def _check_fits(nbytes: int, room: int) -> None:
    if nbytes > room:
        raise CudaError(f"a copy of {nbytes} bytes does not fit into memory of {room}")
