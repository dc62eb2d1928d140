"""A drive in pieces: workers detect the objects of some frames each, which come back in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial

from perception_nodes.drives.bag import RawFrame
from perception_nodes.replay.background import Progress, Submit, ahead
from perception_nodes.replay.clocks import LockstepClock
from perception_nodes.replay.drawing import Drawer, Read
from perception_nodes.replay.offline_camera import Camera, LoadedModel, Outcome
from perception_nodes.report.recording import ReportedFrame

PIECE_FRAMES, PIECE_BYTES = 64, 8 << 20
"""A piece ends with the frame that reaches one of them."""


class OneAfterTheOther(Exception):
    """How a frame is seen depends on the frames before it."""


Piece = tuple[list[Outcome], list[tuple[int, str]]]
"""What became of some frames, without what was recorded; and `RecordedCalibration.unfit`."""


class PiecesClock:
    """As `LockstepClock`, but workers do the work, and this process reads the frames.

    A frame's number and its calibration travel with it. So what comes back is what one process
    finds, byte for byte, and tracks, which depend on all frames before, are made from it here.
    """

    def __init__(
        self,
        camera: Camera,
        submit: Submit,
        work: Callable[[Read, list[RawFrame], Progress], Piece],
        in_advance: int,
    ) -> None:
        """Nothing is read before `outcomes` is iterated over.

        Args:
            camera: the camera of the drive.
            submit: starts work in a worker.
            work: detects the objects of a piece, by `detect`.
            in_advance: number of pieces that may wait.
        """
        self._camera, self._submit, self._work = camera, submit, work
        self._in_advance = in_advance

    def outcomes(self, frames: Iterable[RawFrame]) -> Generator[Outcome, None, None]:
        """The outcome of each frame, in order; pieces are read and submitted in advance.

        Raises:
            BagError: no frame can be read.
            WorkerDied: a piece has no outcome.
            OneAfterTheOther: there can be no pieces.
        """
        waiting: deque[tuple[list[RawFrame], Future[Piece]]] = deque()
        with closing(ahead(self._pieces(frames), 1)) as pieces:
            for piece in pieces:
                sent = [replace(one, camera_info=self._camera.follow(one)) for one in piece]
                work = partial(self._work, self._camera.read, sent)
                waiting.append((piece, self._submit("", work)))
                if len(waiting) > self._in_advance:
                    yield from self._detected(*waiting.popleft())
            while waiting:
                yield from self._detected(*waiting.popleft())

    def _detected(self, piece: list[RawFrame], future: "Future[Piece]") -> Iterator[Outcome]:
        outcomes, unfit = future.result()
        for index, reason in unfit:
            self._camera.calibration.note_unfit(index, reason)
        for frame, outcome in zip(piece, outcomes, strict=True):
            yield outcome._replace(frame=frame)

    def _pieces(self, frames: Iterable[RawFrame]) -> Iterator[list[RawFrame]]:
        piece, size = list[RawFrame](), 0
        for frame in frames:
            piece.append(frame)
            size += len(frame.data)
            if len(piece) == PIECE_FRAMES or size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece


def detect(
    loaded: LoadedModel,
    drive: str,
    read: Read,
    frames: list[RawFrame],
    drawing: bool,
    progress: Progress,
) -> Piece:
    """Detect the objects of a piece, in a worker.

    Args:
        loaded: the model.
        drive: tells drives apart.
        read: as `Drive.read`.
        frames: each with the calibration in force.
        drawing: whether to draw their pictures.
        progress: called between frames, without a name; it may raise an error to end the work.

    Raises:
        OneAfterTheOther: what the frames look like depends on those before.
    """
    # A worker that has done a later piece knows a calibration that may not be in force yet.
    drive += " without" * (frames[0].camera_info is None)
    camera, clock, drawer = _prepared(loaded, drive, read)
    camera.calibration.unfit.clear()
    outcomes, is_size_known = list[Outcome](), False
    for outcome in clock.outcomes(frames):
        progress("", 0, 0)
        frame, drawn = outcome.frame, None
        if drawing:
            report = ReportedFrame.of_record(outcome.record, frame.log_time_ns)
            drawn = drawer.drawn(frame, report, outcome.found)._replace(picture=None)
            is_size_known |= drawn.grey_level is not None
            if not is_size_known:  # it is that of a frame of another piece
                drawn = None
        bare = replace(frame, data=b"", camera_info=None)
        outcomes.append(outcome._replace(frame=bare, drawn=drawn))
    if camera.preprocessor.sample_bits > max(8, loaded.settings.sample_bits):
        raise OneAfterTheOther
    return outcomes, camera.calibration.unfit


@lru_cache(maxsize=1)
def _prepared(loaded: LoadedModel, _: str, read: Read) -> tuple[Camera, LockstepClock, Drawer]:
    camera = Camera(read, loaded, skip_late=False)
    clock = LockstepClock(camera)
    return camera, clock, Drawer(read, loaded.settings.sample_bits)
