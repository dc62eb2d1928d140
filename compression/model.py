"""YOLOv8n with HardSwish, eight road classes and the raw head outputs the run time decodes."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional
from ultralytics import YOLO
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss

from compression.contract import CLASS_NAMES, COCO_CLASS_IDS, REG_MAX


class RawHead(nn.Module):
    """The branches of YOLOv8's head, without decoding.

    Returns, stride by stride, the DFL logits (float32 [n, 64, h, w], sides left, top, right,
    bottom of 16 bins each) and after them the class logits (float32 [n, 8, h, w]).
    """

    def __init__(self, head: Detect) -> None:
        super().__init__()
        self.box, self.classes = head.cv2, head.cv3
        self.stride, self.reg_max, self.nc = head.stride, head.reg_max, head.nc
        # Ultralytics wires its layers by these.
        self.f, self.i, self.type = head.f, head.i, "RawHead"

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Turn the three feature maps into three box and three class maps."""
        boxes = [branch(x) for branch, x in zip(self.box, features, strict=True)]
        return boxes + [branch(x) for branch, x in zip(self.classes, features, strict=True)]


def swap_activations(model: nn.Module) -> None:
    """Put HardSwish, which quantizes and runs cheaply, wherever the model has SiLU."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.SiLU):
                setattr(parent, name, nn.Hardswish(inplace=True))


def keep_road_classes(head: Detect) -> None:
    """Cut COCO's 80 class rows to ours, so that the head works before any training."""
    rows = list(COCO_CLASS_IDS)
    for branch in head.cv3:
        old = branch[-1]
        new = nn.Conv2d(old.in_channels, len(rows), 1)
        new.weight.data = old.weight.data[rows].clone()
        new.bias.data = old.bias.data[rows].clone()
        branch[-1] = new
    head.nc, head.no = len(CLASS_NAMES), len(CLASS_NAMES) + 4 * REG_MAX


def build_model(coco_checkpoint: Path | None = None, activation: str = "hardswish") -> nn.Module:
    """Build the road detector, from YOLOv8n's COCO weights where they are given.

    Input: float32 [n, 3, h, w], RGB, 0 to 1. Output: see ``RawHead``.
    """
    model = (
        YOLO(coco_checkpoint).model
        if coco_checkpoint
        else DetectionModel("yolov8n.yaml", nc=80, verbose=False)
    )
    model = model.float()
    keep_road_classes(model.model[-1])
    model.model[-1] = RawHead(model.model[-1])
    if activation == "hardswish":
        swap_activations(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def load_model(checkpoint: Path) -> nn.Module:
    """Load what ``compression.train`` saved, ready for inference."""
    model = build_model()
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model.eval()


class DetectionLoss:
    """YOLOv8's loss (task-aligned assignment, CIoU, DFL, BCE) on the raw head outputs."""

    def __init__(self, model: nn.Module) -> None:
        model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
        self._criterion = v8DetectionLoss(model)

    def __call__(
        self, outputs: list[torch.Tensor], labels: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare outputs with each image's labels, float32 [k, 5] of class and cx, cy, w, h.

        Boxes are fractions of the input. Returns the loss to minimise and its box, class and
        DFL parts (float32 [3]).
        """
        boxes, classes = outputs[:3], outputs[3:]
        index = torch.cat([torch.full((len(k),), i) for i, k in enumerate(labels)])
        rows = torch.cat(labels)
        predictions = {
            "boxes": torch.cat([x.flatten(2) for x in boxes], dim=2),
            "scores": torch.cat([x.flatten(2) for x in classes], dim=2),
            "feats": boxes,  # read for their sizes alone
        }
        targets = {"batch_idx": index.float(), "cls": rows[:, 0], "bboxes": rows[:, 1:]}
        parts = self._criterion.get_assigned_targets_and_loss(predictions, targets)[1]
        return parts.sum() * len(labels), parts.detach()


def distillation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """Compare raw head outputs with those of a teacher that sees the same images.

    It keeps what the labels show too seldom to be learned (stop signs), and what they leave out.
    Class scores are compared everywhere, boxes where the teacher sees an object. Weighted like
    the class and DFL parts of the detection loss, and times the batch size as that is.
    """
    classes = torch.cat([x.flatten(2) for x in student[3:]], dim=2)
    target = torch.cat([x.flatten(2) for x in teacher[3:]], dim=2).sigmoid()
    seen = target.amax(dim=1)  # [n, anchors]
    class_part = functional.binary_cross_entropy_with_logits(classes, target, reduction="sum")

    def bins(maps: list[torch.Tensor]) -> torch.Tensor:
        joined = torch.cat([x.flatten(2) for x in maps], dim=2)
        return joined.unflatten(1, (4, REG_MAX)).log_softmax(dim=2)

    divergence = functional.kl_div(
        bins(student[:3]), bins(teacher[:3]), reduction="none", log_target=True
    )
    box_part = (divergence.sum(dim=2).mean(dim=1) * seen).sum()
    total = (0.5 * class_part + 1.5 * box_part) / seen.sum().clamp(min=1)
    return total * len(classes)
