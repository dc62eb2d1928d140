"""What readers and writers of serialized ROS messages (OMG CDR, XCDR1) share."""

HEADER_SIZE = 4
"""Bytes of the encapsulation header; numbers are aligned from its end on."""
NS_PER_S = 1_000_000_000
NO_PICTURE = "no picture: "
"""Begins what stands for the encoding of an image that only says why there is none."""
