"""A model and its runtime, applied to images as to the frames of a camera."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.decode import AbsurdOutput, Decoder, DecodeSettings
from perception_nodes.core.frame import Detections, FrameHeader, ImageView
from perception_nodes.core.geometry import BoxesToSource
from perception_nodes.core.inference import BackendError, HeadTensors, Progress
from perception_nodes.core.merging import Region, fragments, merge, merge_settings, uncut
from perception_nodes.core.region_choice import RegionChoice
from perception_nodes.evaluation.labels import LabelledImage
from perception_nodes.networks.model import Model
from perception_nodes.preprocess.regions import Regions

RANKING = DecodeSettings(score_threshold=0.001, iou_threshold=0.7)
"""The settings of the usual validation: weak detections count too, as the average precision is
taken over the whole range of recall."""


@dataclass(frozen=True)
class Seen:
    """The output of a network for an image.

    Attributes:
        heads: the output; it is valid until the next image.
        header: size and letterbox of the image.
    """

    heads: HeadTensors
    header: FrameHeader


class Detector(AbstractContextManager["Detector"]):
    """Runs a model on images; each output can be read with several thresholds.

    Attributes:
        input_px: width and height of the model's input.
    """

    def __init__(self, model: Model, backend: str, threads: int, cache_dir: str = "") -> None:
        """Load the model.

        Raises:
            BackendError: the runtime is missing or refuses the model.
        """
        self._model = model
        self._preprocessor = model.input.preprocessor()
        self.input_px = model.input.width, model.input.height
        self._regions = Regions(*self.input_px, model.input.padding)
        self._input = np.empty((model.input.height, model.input.width, 3), np.uint8)
        self._backend = open_backend(backend, BackendSettings(threads, cache_dir))
        self._backend.load(model)
        self._decoders: dict[DecodeSettings, Decoder] = {}

    def look(self, image: NDArray[np.uint8], region: Region | None = None) -> Seen:
        """Run the network on an image.

        Args:
            image: uint8 [height, width, 3] BGR.
            region: what to show of it in the resolution of the image; None: all, made to fit.
        """
        header = FrameHeader()
        view = ImageView.of_pixels(np.ascontiguousarray(image))
        if region is None:
            self._preprocessor.write(view, self._input, header)
        else:
            self._regions.write(view, FrameHeader(), region, 8, self._input, header)
        return Seen(self._backend.infer(self._input), header)

    def objects(
        self, seen: Seen, groups: Sequence[tuple[int, ...]], settings: DecodeSettings
    ) -> Detections:
        """Objects as they are reported at run time: a cell is one object, of its best class.

        Args:
            seen: output of `look`.
            groups: the model's classes that count as class 0, 1, ...; objects of other classes are
                left out.
            settings: thresholds.

        Returns:
            Detections in pixels of the image; classes are indices into `groups`.
        """
        found = self._decode(seen, seen.heads.classes, settings)
        group_of = np.full(len(self._model.classes), -1, np.int64)
        for group, indices in enumerate(groups):
            group_of[list(indices)] = group
        return renumbered(found, group_of)

    def ranked(self, seen: Seen, groups: Sequence[tuple[int, ...]]) -> Detections:
        """All possible objects, as average precision needs them.

        As in the usual validation, a cell may be an object of several classes, so each class is
        decoded separately.
        """
        found = []
        for index, levels in enumerate(zip(*_by_group(seen.heads.classes, groups), strict=True)):
            one = self._decode(seen, levels, RANKING)
            found.append(replace(one, classes=np.full(len(one), index, np.int64)))
        return Detections(
            np.concatenate([one.boxes for one in found]),
            np.concatenate([one.scores for one in found]),
            np.concatenate([one.classes for one in found]),
        )

    def look_at(
        self, images: Sequence[LabelledImage], progress: Progress | None
    ) -> Iterator[tuple[LabelledImage, NDArray[np.uint8], Seen]]:
        """Each image with its pixels and the network's output; one image is looked at at a time.

        Raises:
            DataError: an image cannot be decoded.
        """
        for done, image in enumerate(images, start=1):
            pixels = image.pixels()
            yield image, pixels, self.look(pixels)
            if progress is not None:
                progress(done, len(images))

    def __exit__(self, *_: object) -> None:
        """Free the memory of the runtime."""
        self._backend.close()

    def _decode(
        self, seen: Seen, classes: Sequence[NDArray[np.float32]], settings: DecodeSettings
    ) -> Detections:
        if settings not in self._decoders:
            self._decoders[settings] = self._model.decoder(settings)
        try:
            found = uncut(self._decoders[settings].decode(seen.heads.boxes, classes), seen.header)
        except AbsurdOutput as error:
            raise BackendError(f"{self._model.path}: {error}") from error
        return replace(found, boxes=BoxesToSource(seen.header, None)(found.boxes))


def renumbered(found: Detections, numbers: NDArray[np.int64]) -> Detections:
    """Detections by other numbers of their classes; those of a class with -1 are left out."""
    classes = numbers[found.classes]
    known = classes >= 0
    return Detections(found.boxes[known], found.scores[known], classes[known])


def _by_group(
    levels: Sequence[NDArray[np.float32]], groups: Sequence[tuple[int, ...]]
) -> list[list[NDArray[np.float32]]]:
    """The class logits of each group at each level: the best of its classes, [1, 1, ...]."""
    return [
        [level[:, list(group)].max(axis=1, keepdims=True) for group in groups] for level in levels
    ]


class SecondLooks:
    """Looks again at images, and counts what that does to large objects.

    Each image stands for itself: its looks are chosen as if the frame before had shown the same.

    Attributes:
        made: number of looks so far.
        second_boxes: number of boxes that lie in that of another, large object of their kind:
            without second looks, and with them.
    """

    def __init__(self, detector: Detector, classes: Sequence[str], most: int) -> None:
        """Prepare for images.

        Args:
            detector: the model.
            classes: names of the classes of detections.
            most: looks at an image.
        """
        self._detector, self._most = detector, most
        self._settings = merge_settings(classes)
        self.made, self.second_boxes = 0, np.zeros(2, np.int64)

    def joined(
        self,
        pixels: NDArray[np.uint8],
        whole: Sequence[Detections],
        readers: Sequence[Callable[[Seen], Detections]],
    ) -> list[Detections]:
        """What was found in an image, together with what looks find.

        Args:
            pixels: uint8 [height, width, 3] BGR.
            whole: what each reader has read of the whole image.
            readers: read objects from an output; the last one does so as at run time.
        """
        input_px = self._detector.input_px
        policy = RegionChoice(pixels.shape[1::-1], input_px)
        policy.seen([], whole[-1])
        regions = policy.choose(self._most)
        found = []
        for region in regions:
            seen = self._detector.look(pixels, region)
            found.append([read(seen) for read in readers])
        joined = [
            merge(one, parts, input_px, self._settings)
            for one, *parts in zip(whole, *found, strict=True)
        ]
        self.made += len(regions)
        for place, one in enumerate((whole[-1], joined[-1])):
            within = fragments(one, one, input_px, self._settings)
            self.second_boxes[place] += np.count_nonzero(within)
        return joined

    def note(self) -> str:
        """What was done, and how many second boxes there are."""
        before, after = self.second_boxes.tolist()
        return (
            f"{self.made} second looks; boxes within that of another, large object of their kind: "
            f"{before} before, {after} after"
        )
