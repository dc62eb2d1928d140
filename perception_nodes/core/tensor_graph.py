"""The integer network as convolutions on stored tensors; concats and slices move no data.

A tensor that a convolution computes is stored once, in groups of 16 channels. Concat, Slice and
Upsample only determine the order and enlargement in which a later convolution reads stored
channels. A convolution reads at most two *segments*, each of consecutive channel groups in one
buffer, so tensors that are joined must be stored side by side. If that is impossible, because a
tensor would have to be in two places, the tensor is copied by a convolution with the identity,
which is exact. A depthwise convolution becomes a dense one with weights of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Concat, Convolution, Network, Slice, Store, Upsample

GROUP = 16
"""Channels that are stored and read together."""
MAX_SEGMENTS = 2


@dataclass(frozen=True)
class ChannelSpan:
    """Channels `begin` to `end` of a stored tensor, possibly upsampled."""

    tensor: str
    begin: int
    end: int
    upsampled: bool = False

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.end - self.begin


View = tuple[ChannelSpan, ...]


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: the image, or the result of a convolution."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def groups(self) -> int:
        """Number of groups of 16 channels; the last one may be partly used."""
        return -(-self.channels // GROUP)


@dataclass(frozen=True)
class ConvolutionNode:
    """A convolution and what it reads.

    Attributes:
        layer: the convolution.
        segments: its source: one or two segments, each of spans that are stored side by side.
        residual: span of the residual that is added, None if there is none.
        products: multiplications that the network needs for one value of the result.
    """

    layer: Convolution
    segments: tuple[View, ...]
    residual: ChannelSpan | None
    products: int


@dataclass
class TensorGraph:
    """A network of convolutions on stored tensors.

    Attributes:
        image: name of the input.
        tensors: stored tensors and the network's outputs, by name.
        outputs: names of the network's outputs.
        convolutions: convolutions in the order of execution.
        buffers: for each buffer the names of its tensors, in their order. The image and the outputs
            are not in it.
    """

    image: str
    tensors: dict[str, Tensor]
    outputs: tuple[str, ...]
    convolutions: list[ConvolutionNode] = field(default_factory=list)
    buffers: list[tuple[str, ...]] = field(default_factory=list)


def build_graph(network: Network) -> TensorGraph:
    """Resolve a network's concats, slices and upsamples.

    Raises:
        BackendError: an operator is not supported.
    """
    builder = _Builder(network)
    for layer in network.layers:
        if isinstance(layer, Convolution):
            builder.convolution(layer.dense(), products=layer.weight[0].size)
        elif isinstance(layer, Concat):
            builder.views[layer.target] = _joined([builder.views[s] for s in layer.sources])
        elif isinstance(layer, Slice):
            builder.views[layer.target] = _cut(builder.views[layer.source], layer.begin, layer.end)
        elif isinstance(layer, Upsample):
            builder.views[layer.target] = builder.enlarged(builder.views[layer.source])
        else:
            known = "Convolution, HardSwish, ReLU, Add, Concat, Slice and Upsample"
            what = f"{type(layer).__name__} {layer.target!r} is not an operator of our engines"
            raise BackendError(f"{what}; they have {known}")
    return builder.finish()


class _Builder:
    def __init__(self, network: Network) -> None:
        image = Tensor(network.image, 3, network.height, network.width)
        self._graph = TensorGraph(image.name, {image.name: image}, tuple(network.fractions))
        self.views: dict[str, View] = {image.name: (ChannelSpan(image.name, 0, 3),)}
        self._buffer_of: dict[str, tuple[str, ...]] = {}
        self._copies = 0

    def convolution(self, layer: Convolution, products: int) -> None:
        """Add a layer, with the copies it needs before it; `products`: see `ConvolutionNode`."""
        source = self.views[layer.source]
        segments = self._segments(source)
        residual = None
        if layer.store is not None and layer.store.residual:
            residual = self._aligned(self.views[layer.store.residual])
        height, width = self._size(source[0])
        kernel = layer.weight.shape[2:]
        top, left, bottom, right = layer.pads
        target = Tensor(
            layer.target,
            len(layer.weight),
            (height + top + bottom - kernel[0]) // layer.stride + 1,
            (width + left + right - kernel[1]) // layer.stride + 1,
        )
        if target.height < 1 or target.width < 1:
            raise BackendError(f"Convolution {layer.name!r} has an empty result")
        self._graph.tensors[target.name] = target
        self.views[target.name] = (ChannelSpan(target.name, 0, target.channels),)
        self._graph.convolutions.append(ConvolutionNode(layer, segments, residual, products))

    def enlarged(self, view: View) -> View:
        """A view with every span upsampled; a span that is upsampled already is copied first."""
        plain = [self._copy((span,)) if span.upsampled else span for span in view]
        return tuple(replace(span, upsampled=True) for span in plain)

    def finish(self) -> TensorGraph:
        """The graph, after all layers were added."""
        graph = self._graph
        apart = {*graph.outputs, graph.image}
        shared = dict.fromkeys(self._buffer_of.values())
        alone = [(t,) for t in graph.tensors if t not in self._buffer_of and t not in apart]
        graph.buffers = [*shared, *alone]
        return graph

    def _size(self, span: ChannelSpan) -> tuple[int, int]:
        tensor, factor = self._graph.tensors[span.tensor], 2 if span.upsampled else 1
        return factor * tensor.height, factor * tensor.width

    def _segments(self, view: View) -> tuple[View, ...]:
        """Divide a view into at most two segments, and put their tensors into common buffers."""
        if len(view) == 1:
            return (view,)
        for cut in range(len(view), 0, -1) if len(view) > MAX_SEGMENTS else [1]:
            segments = tuple(s for s in (view[:cut], view[cut:]) if s)
            if self._can_lie([s for s in segments if len(s) > 1]):
                break
        else:
            segments = (self._copied(view),)
        for segment in segments:
            if len(segment) > 1:
                names = tuple(span.tensor for span in segment)
                self._buffer_of.update(dict.fromkeys(names, names))
        return segments

    def _can_lie(self, segments: Sequence[View]) -> bool:
        """Whether each segment can get a buffer, or has one, and no tensor is in two of them."""
        for segment in segments:
            names = tuple(span.tensor for span in segment)
            unique = len(set(names)) == len(names)
            free = unique and not any(name in self._buffer_of for name in names)
            there = all(self._buffer_of.get(name) == names for name in names)
            if not all(self._is_movable(span) for span in segment) or not (free or there):
                return False
        wanted = [span.tensor for segment in segments for span in segment]
        return len(wanted) == len(set(wanted))

    def _is_movable(self, span: ChannelSpan) -> bool:
        whole = (span.begin, span.end) == (0, self._graph.tensors[span.tensor].channels)
        return whole and not span.upsampled and span.tensor != self._graph.image

    def _copied(self, view: View) -> View:
        """Replace each span of a view by a copy if it cannot be stored beside the others."""
        taken: set[str] = set()
        spans = []
        for span in view:
            if span.tensor in self._buffer_of or span.tensor in taken or not self._is_movable(span):
                span = self._copy((span,))
            taken.add(span.tensor)
            spans.append(span)
        return tuple(spans)

    def _aligned(self, view: View) -> ChannelSpan:
        """A residual as one span; it must begin with a group, because it is read group by group."""
        span = view[0]
        if len(view) == 1 and not span.upsampled and span.begin % GROUP == 0:
            return span
        return self._copy(view)

    def _copy(self, view: View) -> ChannelSpan:
        """Copy a view to a new tensor, by a convolution with the identity."""
        channels = sum(span.channels for span in view)
        self._copies += 1
        name = f"copy {self._copies} of {view[0].tensor}"
        self.views[name] = view
        self.convolution(
            Convolution(
                name=name,
                source=name,
                target=name,
                weight=np.eye(channels, dtype=np.int16)[:, :, None, None],
                bias=np.zeros(channels, np.int32),
                stride=1,
                pads=(0, 0, 0, 0),
                outside=0,
                # fixed = code, value = 8 x code; the store divides by 8 again.
                multiplier=np.full(channels, 1 << 16, np.int32),
                shift=16,
                fraction=0,
                activation="none",
                store=Store(1 << 16, 19),
            ),
            products=0,
        )
        return self.views[name][0]


def _joined(views: Sequence[View]) -> View:
    """The spans of several views, one behind the other; adjacent spans of a tensor become one."""
    spans: list[ChannelSpan] = []
    for span in (span for view in views for span in view):
        last = spans[-1] if spans else None
        if last is not None and span == replace(last, begin=last.end, end=span.end):
            spans[-1] = replace(last, end=span.end)
        else:
            spans.append(span)
    return tuple(spans)


def _cut(view: View, begin: int, end: int) -> View:
    """Channels `begin` to `end` of a view."""
    spans, at = [], 0
    for span in view:
        low, high = max(begin - at, 0), min(end - at, span.channels)
        if low < high:
            spans.append(replace(span, begin=span.begin + low, end=span.begin + high))
        at += span.channels
    return tuple(spans)
