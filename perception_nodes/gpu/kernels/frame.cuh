// The input that changes from frame to frame; it lies in the host's memory.

#pragma once

struct Frame {
    const unsigned char* pixels;  // where `preprocess` reads the frame
    const unsigned char* source;  // where it lies in the host's memory, see `fetch`
    unsigned long long ticket;
};
