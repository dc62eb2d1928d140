// Reads the rows of a frame that are needed from the host's memory, over the bus, into the device's.
//
// Each thread moves 16 bytes, neighbouring threads neighbouring ones, so the bus carries requests as
// large as they can be. `pixels` and `source` have the same remainder by 16: what is aligned in one
// is aligned in the other. A piece at an end of a row has up to 15 bytes of its surroundings, which
// lie on the same page. It can be a piece of the next row too: then both threads write the same.

#include "frame.cuh"
#include "portable.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int PIECE_BYTES = 16;

struct Job {
    const Frame* frame;
    const int* rows;  // offset of each row that is needed, bytes
    int row_count, row_bytes;
    int pieces;  // of a row, at most
};

INLINE void fetch_piece(const Job& job, int index) {
    int row = index / job.pieces, piece = index % job.pieces;
    if (row >= job.row_count) return;
    const unsigned char* source = job.frame->source;
    const unsigned char* begin = source + job.rows[row];
    const unsigned char* from = begin - reinterpret_cast<unsigned long long>(begin) % PIECE_BYTES +
                                (long long)piece * PIECE_BYTES;
    if (from >= begin + job.row_bytes) return;
    unsigned char* to = const_cast<unsigned char*>(job.frame->pixels) + (from - source);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

}  // namespace

#ifdef __CUDACC__

// Grid: one thread for each piece of each row.
KERNEL(THREADS, 1) fetch(JOB(Job) job) { fetch_piece(job, blockIdx.x * THREADS + threadIdx.x); }

#else

// The same on the host; `order` is an `Order` of portable.cuh.
HOST fetch(const Job* job, int blocks, int order) {
    each_block(blocks, order, [&](int block) {
        each_thread(THREADS, order, [&](int t) { fetch_piece(*job, block * THREADS + t); });
    });
}

#endif
