"""Streams of work for the device, events on them, and graphs of captured work."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from perception_nodes.gpu.cuda.driver_calls import Driver, Handle
from perception_nodes.gpu.cuda.errors import CudaError
from perception_nodes.gpu.cuda.memory import DeviceMemory, HostMemory, Resource


class Event(Resource):
    """A mark on a stream that records the time; made by `Device.event`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        super().__init__(driver.close_event, driver.open_event())

    def record(self, stream: "Stream") -> None:
        """Put the event on a stream, behind the work that is there."""
        self._driver.record_event(self._handle, stream.handle)

    def wait(self) -> None:
        """Wait until the stream has reached the event."""
        self._driver.wait_for_event(self._handle)

    def since_ms(self, earlier: "Event") -> float:
        """Device time between two events that the stream has passed, to half a microsecond."""
        return self._driver.elapsed_ms(earlier._handle, self._handle)


class CudaGraph(Resource):
    """Work that was captured once and is put on a stream as a whole; made by `Stream.capture`."""

    def __init__(self, driver: Driver, handle: Handle) -> None:
        self._driver = driver
        super().__init__(driver.close_graph, handle)

    def launch(self, stream: "Stream") -> None:
        """Put the graph on a stream."""
        self._driver.launch_graph(self._handle, stream.handle)


class Capture:
    """Receives the graph of a capture, when the capture has ended without an error."""

    graph: CudaGraph


class Stream(Resource):
    """A queue of work for the device; made by `Device.stream`.

    Attributes:
        address: the CUstream, for libraries such as TensorRT.
    """

    def __init__(self, driver: Driver, own: Callable[[CudaGraph], CudaGraph]) -> None:
        self._own = own
        self._driver = driver
        self.handle, self.address = driver.open_stream()
        super().__init__(driver.close_stream, self.handle)

    def wait(self) -> None:
        """Wait until all work on the stream is done.

        Raises:
            CudaError: some of the work failed.
        """
        self._driver.wait_for_stream(self.handle)

    def copy_to_device(self, to: DeviceMemory, source: HostMemory) -> None:
        """Copy all of the source to the front of device memory."""
        _check_fits(source.nbytes, to.nbytes)
        self._driver.copy_to_device(to.address, source.array, self.handle)

    def copy_to_host(self, to: HostMemory, source: DeviceMemory) -> None:
        """Fill host memory from the front of device memory."""
        _check_fits(to.nbytes, source.nbytes)
        self._driver.copy_to_host(to.array, source.address, self.handle)

    def fill(self, memory: DeviceMemory, value: int = 0) -> None:
        """Set every byte of device memory."""
        self._driver.fill(memory.address, value, memory.nbytes, self.handle)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Record what the block puts on the stream in a graph, instead of running it.

        A graph keeps all addresses and arguments of the captured work, so values that change from
        frame to frame must be passed through memory. Nothing in the block may allocate or wait.

        Raises:
            CudaError: something in the block cannot be captured.
        """
        capture = Capture()
        self._driver.begin_capture(self.handle)
        try:
            yield capture
        except BaseException:
            with suppress(CudaError):
                # Report the first error; ending a broken capture fails too.
                self._driver.close_graph(self._driver.end_capture(self.handle))
            raise
        graph = CudaGraph(self._driver, self._driver.end_capture(self.handle))
        capture.graph = self._own(graph)


def capture(stream: Stream, stages: Sequence[Callable[[Stream], None]]) -> CudaGraph:
    """Capture one graph of several stages, each of which puts its work on the stream.

    The stages are run once before the capture, because TensorRT, for example, does some setup at
    its first run that cannot be captured.

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
