"""How frames travel: serialized ROS messages read in place, and iceoryx2 shared memory."""
