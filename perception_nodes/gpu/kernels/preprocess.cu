// Makes the network's input from a camera frame in one pass: undistorted, letterboxed, uint8
// [height, width, 3], blue, green, red.
//
// test/gpu/preprocess_oracle.py specifies the result in NumPy, to the bit;
// perception_nodes/gpu/preprocess_job.py makes the jobs. All arithmetic is on integers, so the bits
// do not depend on the compiler.
//
// A block computes a tile of 64 x 4 pixels. Each thread samples one pixel into shared memory,
// neighbouring threads neighbouring pixels; then the tile is written in pieces of 16 bytes.

#include "frame.cuh"
#include "portable.cuh"

namespace {

constexpr int TILE_WIDTH = 64;
constexpr int TILE_HEIGHT = 4;
constexpr int THREADS = TILE_WIDTH * TILE_HEIGHT;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int RESIDENT_THREADS = 1024;  // all that a multiprocessor of Turing holds
#else
constexpr int RESIDENT_THREADS = 1536;  // per multiprocessor: its registers suffice for these
#endif
constexpr int BITS = 11;  // fraction bits of a position between two samples, as in cv2.resize
constexpr int ONE = 1 << BITS;
constexpr int LENS_BITS = 5;  // fraction bits in the map of a lens, as in cv2.remap
constexpr int PADDING = 114;
constexpr int ROW_BYTES = 3 * TILE_WIDTH;
constexpr int PIECE_BYTES = 16;
constexpr int PIECES = ROW_BYTES / PIECE_BYTES;

enum Kind { INTERLEAVED, YUV, BAYER_CELLS, BAYER_MOSAIC };

// A regular grid of samples in the frame, and positions of the scaled image's pixels on it. Without
// a lens they are `columns` and `rows`, in 1 / ONE samples. With a lens they are `xy` (two numbers
// per pixel) and `fraction` (y and x, LENS_BITS each), as made by cv2.convertMaps.
struct Plane {
    const int* columns;
    const int* rows;
    const short* xy;
    const unsigned short* fraction;
    int offset;        // of the first sample in the frame, bytes
    int row_bytes;     // distance of rows of samples
    int sample_bytes;  // distance of samples
    int width, height;
    int channels[4];  // offsets of the bytes of a sample that are read
    int outside;      // value of samples beyond the grid
    int packing;      // bytes of lower bits: byte k without them is byte k + (k >> packing)
};

struct Job {
    Plane planes[2];
    const Frame* frame;
    unsigned long long* ticket;  // receives the frame's ticket, which `decode.cu` reports
    unsigned char* out;
    int kind;
    int red_x, red_y;  // position of red in a 2 x 2 cell of a mosaic
    int inner_width, inner_height, pad_x, pad_y;
    int width, height;
};

struct Shared {
    alignas(PIECE_BYTES) unsigned char picture[3 * THREADS];  // one row of the tile after the other
    const unsigned char* frame;
};

struct Colour {
    int blue, green, red;
};

INLINE int limited(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

// Half of a sum, ties to even.
INLINE int halved(int sum) { return (sum + (sum >> 1 & 1)) >> 1; }

INLINE int mirrored(int index, int size) {
    if (index < 0) index = -index;
    return index < size ? index : 2 * size - 2 - index;
}

// BT.601, limited range, coefficients in 1 / 65536.
INLINE Colour colour_of(int y, int u, int v) {
    int luma = 76309 * (y - 16) + 32768;
    u -= 128;
    v -= 128;
    return {limited((luma + 132201 * u) >> 16, 0, 255),
            limited((luma - 25675 * u - 53279 * v) >> 16, 0, 255),
            limited((luma + 104597 * v) >> 16, 0, 255)};
}

struct Position {
    int x, y;    // the sample left of and above the position
    int wx, wy;  // weights of the next sample to the right and below, in 1 / ONE
};

INLINE Position position_in(const Plane& plane, int u, int v, int inner_width) {
    if (plane.xy == nullptr) {
        int x = plane.columns[u], y = plane.rows[v];
        return {x >> BITS, y >> BITS, x & (ONE - 1), y & (ONE - 1)};
    }
    int at = v * inner_width + u, fraction = plane.fraction[at];
    return {plane.xy[2 * at], plane.xy[2 * at + 1],
            (fraction & ((1 << LENS_BITS) - 1)) << (BITS - LENS_BITS),
            (fraction >> LENS_BITS) << (BITS - LENS_BITS)};
}

INLINE bool holds(const Plane& plane, int x, int y) {
    return unsigned(x) < unsigned(plane.width) && unsigned(y) < unsigned(plane.height);
}

INLINE int unpacked(const Plane& plane, int byte) { return byte + (byte >> plane.packing); }

// Weight of sample (i, j) of the 2 x 2 samples around a position, in 1 / (ONE * ONE).
INLINE int weight_of(const Position& p, int i, int j) {
    return (i ? p.wx : ONE - p.wx) * (j ? p.wy : ONE - p.wy);
}

INLINE int rounded(int sum) { return (sum + (1 << (2 * BITS - 1))) >> (2 * BITS); }

// Bilinear interpolation of the first CHANNELS channels of a plane at a position.
template <int CHANNELS>
INLINE void interpolate(const Plane& plane, const unsigned char* frame, const Position& p,
                        int (&out)[CHANNELS]) {
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) out[c] = 0;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int x = p.x + i, y = p.y + j, weight = weight_of(p, i, j);
            bool inside = weight > 0 && holds(plane, x, y);  // weight 0: not read
            int at = plane.offset + y * plane.row_bytes + unpacked(plane, x * plane.sample_bytes);
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
                out[c] += weight * (inside ? frame[at + plane.channels[c]] : plane.outside);
        }
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) out[c] = rounded(out[c]);
}

// A pixel of a mosaic in full colour: a missing colour is the mean of the neighbours that have it.
// The outermost pixels get the colours of those next to them.
INLINE Colour demosaic(const Plane& plane, const unsigned char* frame, const Job& job, int x,
                       int y) {
    x = limited(x, 1, plane.width > 2 ? plane.width - 2 : 1);
    y = limited(y, 1, plane.height > 2 ? plane.height - 2 : 1);
    const unsigned char* rows = frame + plane.offset;
    const unsigned char* above = rows + mirrored(y - 1, plane.height) * plane.row_bytes;
    const unsigned char* here = rows + y * plane.row_bytes;
    const unsigned char* below = rows + mirrored(y + 1, plane.height) * plane.row_bytes;
    int left = mirrored(x - 1, plane.width), right = mirrored(x + 1, plane.width);
    bool red_column = (x & 1) == job.red_x, red_row = (y & 1) == job.red_y;
    x = unpacked(plane, x);
    left = unpacked(plane, left);
    right = unpacked(plane, right);
    int own = here[x], beside = here[left] + here[right], stacked = above[x] + below[x];
    if (red_column == red_row) {
        int cross = (beside + stacked + 2) >> 2;
        int corners = (above[left] + above[right] + below[left] + below[right] + 2) >> 2;
        return red_row ? Colour{corners, cross, own} : Colour{own, cross, corners};
    }
    beside = (beside + 1) >> 1;
    stacked = (stacked + 1) >> 1;
    return red_row ? Colour{stacked, own, beside} : Colour{beside, own, stacked};
}

INLINE Colour sample_mosaic(const Job& job, const unsigned char* frame, const Position& p) {
    const Plane& plane = job.planes[0];
    Colour sum = {0, 0, 0};
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            int x = p.x + i, y = p.y + j, weight = weight_of(p, i, j), grey = plane.outside;
            bool inside = weight > 0 && holds(plane, x, y);
            Colour found = inside ? demosaic(plane, frame, job, x, y) : Colour{grey, grey, grey};
            sum.blue += weight * found.blue;
            sum.green += weight * found.green;
            sum.red += weight * found.red;
        }
    return {rounded(sum.blue), rounded(sum.green), rounded(sum.red)};
}

// The colour of a pixel of the scaled image.
INLINE Colour sample(const Job& job, const unsigned char* frame, int u, int v) {
    const Plane& plane = job.planes[0];
    Position p = position_in(plane, u, v, job.inner_width);
    if (job.kind == INTERLEAVED) {
        int bgr[3];
        interpolate(plane, frame, p, bgr);
        return {bgr[0], bgr[1], bgr[2]};
    }
    if (job.kind == YUV) {
        int luma[1], chroma[2];
        interpolate(plane, frame, p, luma);
        interpolate(job.planes[1], frame, position_in(job.planes[1], u, v, job.inner_width),
                    chroma);
        return colour_of(luma[0], chroma[0], chroma[1]);
    }
    if (job.kind == BAYER_CELLS) {
        int cell[4];  // blue, the two greens, red
        interpolate(plane, frame, p, cell);
        return {cell[0], halved(cell[1] + cell[2]), cell[3]};
    }
    return sample_mosaic(job, frame, p);
}

// Phase 1: load what all threads of the block need.
INLINE void prepare(const Job& job, Shared& shared, int tile, int thread) {
    if (thread == 0) shared.frame = job.frame->pixels;
    if (tile == 0 && thread == THREADS - 1) *job.ticket = job.frame->ticket;
}

// Phase 2: compute a pixel of the tile.
INLINE void sample_tile(const Job& job, Shared& shared, int tile_x, int tile_y, int thread) {
    int x = tile_x * TILE_WIDTH + thread % TILE_WIDTH;
    int y = tile_y * TILE_HEIGHT + thread / TILE_WIDTH;
    int u = x - job.pad_x, v = y - job.pad_y;
    Colour found = {PADDING, PADDING, PADDING};
    if (unsigned(u) < unsigned(job.inner_width) && unsigned(v) < unsigned(job.inner_height))
        found = sample(job, shared.frame, u, v);
    shared.picture[3 * thread] = found.blue;
    shared.picture[3 * thread + 1] = found.green;
    shared.picture[3 * thread + 2] = found.red;
}

// Phase 3: write the tile, a piece of a row with each thread.
INLINE void store_tile(const Job& job, const Shared& shared, int tile_x, int tile_y, int thread) {
    int row = thread / PIECES, first = thread % PIECES * PIECE_BYTES;
    int left = tile_x * TILE_WIDTH, y = tile_y * TILE_HEIGHT + row;
    int length = 3 * (job.width - left < TILE_WIDTH ? job.width - left : TILE_WIDTH);
    if (row >= TILE_HEIGHT || y >= job.height || first >= length) return;
    const unsigned char* from = shared.picture + row * ROW_BYTES + first;
    unsigned char* to = job.out + 3LL * (y * job.width + left) + first;
    bool aligned = reinterpret_cast<unsigned long long>(to) % PIECE_BYTES == 0;
    if (aligned && first + PIECE_BYTES <= length)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    else
        for (int k = 0; k < PIECE_BYTES && first + k < length; k++) to[k] = from[k];
}

}  // namespace

#ifdef __CUDACC__

// Grid: one block for each tile, in x and y.
KERNEL(THREADS, RESIDENT_THREADS / THREADS) preprocess(JOB(Job) job) {
    __shared__ Shared shared;
    int thread = threadIdx.x, tile_x = blockIdx.x, tile_y = blockIdx.y;
    prepare(job, shared, tile_x + tile_y, thread);
    __syncthreads();
    sample_tile(job, shared, tile_x, tile_y, thread);
    __syncthreads();
    store_tile(job, shared, tile_x, tile_y, thread);
}

#else

// The same on the host; `order` is an `Order` of portable.cuh.
HOST preprocess(const Job* job, int tiles_x, int tiles_y, int order) {
    each_block(tiles_x * tiles_y, order, [&](int tile) {
        Shared s;
        int x = tile % tiles_x, y = tile / tiles_x;
        auto phase = [&](auto function) { each_thread(THREADS, order, function); };
        phase([&](int t) { prepare(*job, s, tile, t); });
        phase([&](int t) { sample_tile(*job, s, x, y, t); });
        phase([&](int t) { store_tile(*job, s, x, y, t); });
    });
}

#endif
