"""Regions that a detector asks for, over real channels."""

import numpy as np
from pictures import frame, noise

from perception_nodes.cameras.requested_regions import RequestedRegions
from perception_nodes.core.frame import FrameHeader, FrameRecord, is_region_of
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.channels import look_reader, request_writer


def test_a_request_is_for_one_frame_and_ends_where_a_newer_one_waits(join):
    endpoint, size, waits = join(), (64, 32), []
    slots, asking = look_reader(endpoint, "front"), request_writer(endpoint, "front")
    whole = Preprocessor(*size, undistort=False)
    answering = RequestedRegions(endpoint, "front", size, 114, whole, lambda: bool(waits))
    bgr = noise(160, 120)
    image, pixels = frame(bgr, "bgr8"), np.zeros((32, 64, 3), np.uint8)

    def written(source_width=160):
        """Slots with the regions of the next frame, and how many its header announces."""
        request = FrameRecord(source_width=source_width, source_height=120)
        for region in ((8, 4), (96, 88)):
            request.add_look(region, size, 0)
        asking.send_record(request)
        return answered()

    def answered():
        header = FrameHeader(sequence=7)
        whole.write(image, pixels, header)
        regions = answering.take(image, header)
        answering.send(image, header, regions)
        found = []
        while (slot := slots.receive()) is not None:
            assert is_region_of(slot.header, slot.payload.nbytes, header)
            left, top = -round(slot.header.pad_x), -round(slot.header.pad_y)
            shown = bgr[top : top + 32, left : left + 64]
            np.testing.assert_array_equal(slot.payload.reshape(32, 64, 3), shown)
            found.append((left, top))
            slot.release()
        return header.looks, found

    assert answered() == (0, [])
    assert written() == (2, [(8, 4), (96, 88)])
    assert answered() == (0, [])
    assert written(source_width=161) == (0, [])
    waits.append(True)
    assert written() == (2, [])
