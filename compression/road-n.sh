#!/bin/sh
# Make models/road-n: compression/road-n.sh DATA WORK
# DATA holds the sets and the COCO checkpoints, WORK receives everything in between.
set -eu
DATA=$1 WORK=$2

python -m compression.dataset --data "$DATA" --out "$WORK/road" \
    --teacher "$DATA/weights/yolo11n_coco.pt"
python -m compression.train --data "$WORK/road" --weights "$DATA/weights/yolov8n_coco.pt" \
    --out "$WORK/road-n.pt" --minutes 49
python -m compression.export --checkpoint "$WORK/road-n.pt" --out "$WORK/road-n.float.onnx"
python -m compression.quantize --model "$WORK/road-n.float.onnx" --data "$WORK/road" \
    --out "$WORK/road-n.u8.onnx"
python -m compression.evaluate --model "$WORK/road-n.float.onnx" --data "$DATA" \
    --out "$WORK/fp32.json"
python -m compression.evaluate --model "$WORK/road-n.u8.onnx" --data "$DATA" \
    --out "$WORK/int8.json"
python -m compression.package --name road-n --model "$WORK/road-n.u8.onnx" \
    --recipe compression/road-n.sh --fp32 "$WORK/fp32.json" --int8 "$WORK/int8.json"
