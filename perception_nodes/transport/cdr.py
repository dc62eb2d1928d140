"""What readers and writers of serialized ROS messages (OMG CDR, XCDR1) share."""

HEADER_SIZE = 4
"""Bytes of the encapsulation header; numbers are aligned from its end on."""
NS_PER_S = 1_000_000_000
NO_PICTURE = "no picture: "
"""Begin of the encoding field of an image that only states why there is no picture."""
