// Runs convolutions of the integer network, with all that happens before their codes are stored.
//
// perception_nodes/core/integer.py specifies the result, to the bit. A launch runs layers that do
// not depend on each other. A block computes a tile of one layer, as a product of matrices (implicit
// GEMM): a row is a pixel of the result, a column an output channel, and the sum runs over *slabs*,
// the 16 codes of a channel group at one position of the kernel. A *step* is two slabs, the 32
// products of one mma instruction.
//
// The warps of a block share the steps of its tile, so that a layer of few pixels and long sums is
// not slow. Integer sums do not depend on their order. Codes and weights go straight into the
// registers that mma wants them in. No two warps need the same weights, and codes that overlapping
// windows share come from the first-level cache; to pass them through shared memory would take a
// barrier for every few of these short steps.

#include "portable.cuh"

namespace {

constexpr int WARP = 32, WARPS = 4, THREADS = WARPS * WARP;
constexpr int GROUP = 16;  // channels
constexpr int PIXELS = 32, GROUPS = 2, CHANNELS = GROUPS * GROUP;  // of a tile
constexpr int ROWS = PIXELS / 8;                                   // pixels that a lane loads
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int STEPS = 1;  // whose codes and weights a warp loads at once
#else
constexpr int STEPS = 4;
#endif
constexpr int RESIDENT_BLOCKS = 3;  // on a multiprocessor
constexpr int MAX_LAYERS = 8;
constexpr int FIXED_BITS = 18, CODE_BITS = 8, GAIN = 8;
constexpr int SHARED_PADDING = 8;  // then the rows of a warp's sums are in different banks

enum Activation { NONE, RELU, HARDSWISH };

// Channel groups that are stored side by side, as a layer reads them.
struct Segment {
    const signed char* codes;  // the first group of the first pixel
    int row_bytes, pixel_bytes, groups, upsampled;
};

struct Layer {
    Segment segments[2];
    const uint4* weights;      // [groups, steps, WARP]: the registers of each lane, see `load`
    const int2* parameters;    // [16 groups]: bias, multiplier
    signed char* target;       // codes of the first pixel; null for an output of the network
    float* output;             // [channels, pixels]
    const signed char* residual;  // codes of the first pixel; null for none
    int target_bytes, residual_bytes;  // from a pixel to the next
    int image;                 // whether the source is the image, three bytes a pixel
    int height, width;         // of the source, after upsampling
    int kernel_height, kernel_width, stride, top, left;
    int outside;               // four times the code of what is outside of the picture
    int out_width, pixels, groups, channels;  // of the result
    int activation, shift, fraction, store_multiplier, store_shift, residual_multiplier;
    float step;                // what 1 in an output stands for
    int first_block;
};

struct Launch {
    Layer layers[MAX_LAYERS];
    int count;
};

// The tile of a block: its first pixel and first channel group.
struct Tile {
    int pixel, group;
};

INLINE int layer_of(const Launch& launch, int block) {
    int layer = 0;
    while (layer + 1 < launch.count && block >= launch.layers[layer + 1].first_block) layer++;
    return layer;
}

INLINE Tile tile_of(const Layer& layer, int block) {
    int number = block - layer.first_block, across = (layer.groups + GROUPS - 1) / GROUPS;
    return {number / across * PIXELS, number % across * GROUPS};
}

// How many channel groups of a tile exist.
INLINE int groups_of(const Layer& layer, Tile tile) {
    return layer.groups - tile.group < GROUPS ? layer.groups - tile.group : GROUPS;
}

INLINE int slab_groups(const Layer& layer) {
    return layer.segments[0].groups + layer.segments[1].groups;
}

INLINE int steps_of(const Layer& layer) {
    return (layer.kernel_height * layer.kernel_width * slab_groups(layer) + 1) / 2;
}

// The registers of a thread.
struct Work {
    int y[ROWS], x[ROWS];  // where the kernel begins in the source, for each of its pixels
    int ky, kx, group;     // its slab of the next step
    int step, end;         // the next step, and the first one of the next warp
    uint2 codes[STEPS][ROWS];
    uint4 weights[STEPS][GROUPS];
    int sums[ROWS / 2][2 * GROUPS][4];  // for each 16 x 8 results, the lane's four
};

// A lane holds pixels lane / 4 + 8 r of the tile, and of each the codes 8 (lane % 2) to + 7 of slab
// lane % 4 / 2 of a step. To mma they are the products 4 (lane % 4) to + 3 and 16 more: any order of
// the products is right, if the weights have the same.
INLINE void begin(const Layer& layer, Tile tile, int thread, Work& work) {
    int lane = thread % WARP, steps = steps_of(layer), share = (steps + WARPS - 1) / WARPS;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int pixel = tile.pixel + lane / 4 + 8 * r;
        // Pixels beyond the last one read what is outside of the picture.
        work.y[r] = pixel < layer.pixels ? pixel / layer.out_width * layer.stride - layer.top
                                         : -(1 << 20);
        work.x[r] = pixel % layer.out_width * layer.stride - layer.left;
    }
    work.step = thread / WARP * share;
    work.end = work.step + share < steps ? work.step + share : steps;
    int slab = 2 * work.step + lane % 4 / 2, groups = slab_groups(layer);
    work.group = slab % groups;
    work.kx = slab / groups % layer.kernel_width;
    work.ky = slab / groups / layer.kernel_width;
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
        for (int n = 0; n < 2 * GROUPS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) work.sums[m][n][i] = 0;
}

// Eight codes of a slab. An address is computed and read in any case, so that nothing branches.
template <bool IMAGE>
INLINE uint2 load_codes(const Layer& layer, const Work& work, int y, int x, int half) {
    bool inside = unsigned(y) < unsigned(layer.height) && unsigned(x) < unsigned(layer.width) &&
                  work.ky < layer.kernel_height;
    // Lanes may read different segments: their facts are selected from registers.
    bool second = work.group >= layer.segments[0].groups;
    Segment segment = second ? Segment(layer.segments[1]) : Segment(layer.segments[0]);
    int group = work.group - (second ? layer.segments[0].groups : 0);
    int offset = (y >> segment.upsampled) * segment.row_bytes +
                 (x >> segment.upsampled) * segment.pixel_bytes + GROUP * group;
    const signed char* at = segment.codes + (inside ? offset : 0);
    uint2 codes;
    if (IMAGE) {  // a code is the byte less 128; the weights of what is not a colour are 0
        const unsigned char* colours = reinterpret_cast<const unsigned char*>(at);
        codes.x = (colours[0] | colours[1] << 8 | colours[2] << 16) ^ 0x808080u;
        codes.y = 0;
    } else {
        codes = *reinterpret_cast<const uint2*>(at + 8 * half);
    }
    if (!inside) codes.x = codes.y = layer.outside;
    return codes;
}

INLINE void next_slab(const Layer& layer, Work& work) {
    if (++work.group < slab_groups(layer)) return;
    work.group = 0;
    if (++work.kx < layer.kernel_width) return;
    work.kx = 0;
    work.ky++;
}

// Loads the next steps of the warp. Behind the last slab the weights are 0.
template <bool IMAGE>
INLINE void load(const Layer& layer, Tile tile, int thread, Work& work) {
    int lane = thread % WARP, steps = steps_of(layer);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (work.step + s >= work.end) continue;
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            work.codes[s][r] = load_codes<IMAGE>(layer, work, work.y[r] + work.ky,
                                                 work.x[r] + work.kx, lane % 2);
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (g < groups_of(layer, tile))
                work.weights[s][g] =
                    layer.weights[((tile.group + g) * steps + work.step + s) * WARP + lane];
        next_slab(layer, work);
        next_slab(layer, work);
    }
}

// Registers of mma in step s: of A for 16 pixels, of B for 8 channels.
INLINE unsigned register_a(const Work& work, int s, int m, int i) {
    const uint2& codes = work.codes[s][2 * m + i % 2];
    return i < 2 ? codes.x : codes.y;
}

INLINE unsigned register_b(const Work& work, int s, int n, int i) {
    const uint4& weights = work.weights[s][n / 2];
    return n % 2 == 0 ? (i == 0 ? weights.x : weights.y) : (i == 0 ? weights.z : weights.w);
}

// What mma.m16n8k32 gives a lane, by products of four codes; a(lane, i) and b(lane, i) are the
// registers of any lane of the warp.
template <typename A, typename B>
INLINE void multiply_lane(int lane, int (&sums)[4], A a, B b) {
#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = lane / 4 * 4 + t, column = lane % 4 * 8 + t;
            unsigned above = a(row, 2 * half), below = a(row, 2 * half + 1);
            unsigned left = b(column, half), right = b(column + 4, half);
            sums[0] = __dp4a(int(above), int(left), sums[0]);
            sums[1] = __dp4a(int(above), int(right), sums[1]);
            sums[2] = __dp4a(int(below), int(left), sums[2]);
            sums[3] = __dp4a(int(below), int(right), sums[3]);
        }
}

// Adds the products of 16 pixels and 8 channels in step s; on the host `warp` is the work of all of
// the warp's lanes.
INLINE void multiply(Work& work, const Work* warp, int lane, int s, int m, int n) {
    int(&sums)[4] = work.sums[m][n];
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(register_a(work, s, m, 0)), "r"(register_a(work, s, m, 1)),
          "r"(register_a(work, s, m, 2)), "r"(register_a(work, s, m, 3)),
          "r"(register_b(work, s, n, 0)), "r"(register_b(work, s, n, 1)));
#elif defined(__CUDACC__)
    multiply_lane(
        lane, sums,
        [&](int from, int i) { return __shfl_sync(~0u, register_a(work, s, m, i), from); },
        [&](int from, int i) { return __shfl_sync(~0u, register_b(work, s, n, i), from); });
#else
    multiply_lane(
        lane, sums, [&](int from, int i) { return register_a(warp[from], s, m, i); },
        [&](int from, int i) { return register_b(warp[from], s, n, i); });
#endif
}

// Adds the products of the steps that were loaded.
INLINE void multiply(const Layer& layer, Tile tile, int lane, Work& work, const Work* warp) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (work.step + s >= work.end) continue;
#pragma unroll
        for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
            for (int n = 0; n < 2 * GROUPS; n++)
                if (n / 2 < groups_of(layer, tile)) multiply(work, warp, lane, s, m, n);
    }
    work.step += STEPS;
}

struct alignas(16) Shared {
    int sums[WARPS][PIXELS][CHANNELS + SHARED_PADDING];
};

// A lane's four results are in rows lane / 4 and + 8, and columns 2 (lane % 4) and + 1.
INLINE void share_sums(Shared& shared, int thread, const Work& work) {
    int warp = thread / WARP, lane = thread % WARP;
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
        for (int n = 0; n < 2 * GROUPS; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int* to = &shared.sums[warp][16 * m + 8 * half + lane / 4][8 * n + lane % 4 * 2];
                const int* sums = &work.sums[m][n][2 * half];
                *reinterpret_cast<int2*>(to) = {sums[0], sums[1]};
            }
}

// x / 2^bits, rounded to nearest, ties to even.
INLINE long long round_shift(long long x, int bits) {
    if (bits == 0) return x;
    return (x + ((1LL << (bits - 1)) - 1) + (x >> bits & 1)) >> bits;
}

INLINE int saturate(long long x, int bits) {
    long long least = -(1LL << (bits - 1));
    return int(lesser(greater(x, least), -least - 1));
}

INLINE int activate(const Layer& layer, int fixed) {
    if (layer.activation != HARDSWISH)
        return GAIN * (layer.activation == RELU ? greater(fixed, 0) : fixed);
    int one = 1 << layer.fraction, gate = lesser(greater(fixed + 3 * one, 0), 6 * one);
    return int(round_shift((long long)fixed * gate, layer.fraction));
}

// Adds up the warps' sums and stores the result of a quarter of a pixel's channels.
INLINE void finish(const Layer& layer, Tile tile, const Shared& shared, int thread) {
    constexpr int COUNT = CHANNELS * PIXELS / THREADS, A_PIXEL = CHANNELS / COUNT;
    int row = thread / A_PIXEL, column = thread % A_PIXEL * COUNT;
    int pixel = tile.pixel + row, channel = tile.group * GROUP + column;
    if (pixel >= layer.pixels || column >= GROUP * groups_of(layer, tile)) return;
    uint2 added = {0, 0}, stored = {0, 0};
    if (layer.residual)
        added = *reinterpret_cast<const uint2*>(
            layer.residual + (long long)pixel * layer.residual_bytes + channel);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        int2 parameters = layer.parameters[channel + i];
        int sum = parameters.x;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) sum += shared.sums[warp][row][column + i];
        int fixed = saturate(round_shift((long long)sum * parameters.y, layer.shift), FIXED_BITS);
        if (!layer.target) {
            if (channel + i < layer.channels)
                layer.output[(channel + i) * layer.pixels + pixel] =
                    (Single(float(fixed)) * layer.step).value;
            continue;
        }
        int residual = (signed char)((i < 4 ? added.x : added.y) >> 8 * (i % 4));
        int total = activate(layer, fixed) + residual * layer.residual_multiplier;
        long long product = (long long)total * layer.store_multiplier;
        int code = saturate(round_shift(product, layer.store_shift), CODE_BITS);
        (i < 4 ? stored.x : stored.y) |= (unsigned(code) & 255) << 8 * (i % 4);
    }
    if (layer.target)
        *reinterpret_cast<uint2*>(layer.target + (long long)pixel * layer.target_bytes + channel) =
            stored;
}

}  // namespace

#ifdef __CUDACC__

template <bool IMAGE>
INLINE void sum_up(const Layer& layer, Tile tile, int thread, Work& work) {
    while (work.step < work.end) {
        load<IMAGE>(layer, tile, thread, work);
        multiply(layer, tile, thread % WARP, work, nullptr);
    }
}

// Grid: one block for each tile of each layer.
KERNEL(THREADS, RESIDENT_BLOCKS) convolve(JOB(Launch) launch) {
    __shared__ Shared shared;
    int block = blockIdx.x, thread = threadIdx.x;
    const Layer& layer = launch.layers[layer_of(launch, block)];
    Tile tile = tile_of(layer, block);
    Work work;
    begin(layer, tile, thread, work);
    if (layer.image)
        sum_up<true>(layer, tile, thread, work);
    else
        sum_up<false>(layer, tile, thread, work);
    share_sums(shared, thread, work);
    __syncthreads();
    finish(layer, tile, shared, thread);
}

#else

// The same on the host; `order` is an `Order` of portable.cuh.
HOST convolve(const Launch* launch, int blocks, int order) {
    each_block(blocks, order, [&](int block) {
        const Layer& layer = launch->layers[layer_of(*launch, block)];
        Tile tile = tile_of(layer, block);
        Shared s;
        std::vector<Work> work(THREADS);
        auto phase = [&](auto function) { each_thread(THREADS, order, function); };
        phase([&](int t) { begin(layer, tile, t, work[t]); });
        for (int steps = work[0].end; steps > 0; steps -= STEPS) {
            phase([&](int t) {
                if (layer.image)
                    load<true>(layer, tile, t, work[t]);
                else
                    load<false>(layer, tile, t, work[t]);
            });
            phase([&](int t) {
                multiply(layer, tile, t % WARP, work[t], &work[t / WARP * WARP]);
            });
        }
        phase([&](int t) { share_sums(s, t, work[t]); });
        phase([&](int t) { finish(layer, tile, s, t); });
    });
}

// What mma.m16n8k32 is here, on the registers of a warp: a [32, 4], b [32, 2], sums [32, 4].
HOST mma(const unsigned* a, const unsigned* b, int* sums) {
    for (int lane = 0; lane < WARP; lane++)
        multiply_lane(
            lane, *reinterpret_cast<int(*)[4]>(sums + 4 * lane),
            [&](int from, int i) { return a[4 * from + i]; },
            [&](int from, int i) { return b[2 * from + i]; });
}

#endif
