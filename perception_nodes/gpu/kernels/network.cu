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
constexpr int RESULTS = PIXELS * CHANNELS / THREADS;               // of a thread, of one pixel
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
    const uint4* weights;      // [groups, steps, WARP]: the registers of each lane, see `enter`
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

// A segment has an even number of slabs; behind the last one the weights are 0.
INLINE int steps_of(const Layer& layer, const Segment& segment) {
    return (layer.kernel_height * layer.kernel_width * segment.groups + 1) / 2;
}

INLINE int steps_of(const Layer& layer) {
    return steps_of(layer, layer.segments[0]) + steps_of(layer, layer.segments[1]);
}

// Steps of a warp.
INLINE int share_of(const Layer& layer) { return (steps_of(layer) + WARPS - 1) / WARPS; }

// The registers of a thread.
struct Work {
    int y[ROWS], x[ROWS];  // where the kernel begins in the source, for each of its pixels
    Segment segment;       // that is read
    int ky, kx, group;     // the thread's slab of the next step
    int step, end;         // the next step, and the first one behind those of this warp and segment
    int groups;            // channel groups of the tile that exist, at least one
    const uint4* packed;   // its weights of the next step
    uint2 codes[STEPS][ROWS];
    uint4 weights[STEPS][GROUPS];
    int sums[ROWS / 2][2 * GROUPS][4];  // for each 16 x 8 results, the lane's four
    int2 parameters[RESULTS];           // bias and multiplier of the thread's results
    uint2 residual;                     // eight codes
};

// The results of a thread: one pixel, adjacent channels.
struct Place {
    int row, column, pixel, channel;
    bool exists;
};

INLINE Place place_of(const Layer& layer, Tile tile, int thread) {
    constexpr int A_PIXEL = CHANNELS / RESULTS;
    int row = thread / A_PIXEL, column = thread % A_PIXEL * RESULTS, pixel = tile.pixel + row;
    return {row, column, pixel, tile.group * GROUP + column,
            pixel < layer.pixels && column < GROUP * groups_of(layer, tile)};
}

INLINE void begin(const Layer& layer, Tile tile, int thread, Work& work) {
    work.groups = groups_of(layer, tile);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int pixel = tile.pixel + thread % WARP / 4 + 8 * r;
        // Pixels beyond the last one read what is outside of the picture.
        work.y[r] = pixel < layer.pixels ? pixel / layer.out_width * layer.stride - layer.top
                                         : -(1 << 20);
        work.x[r] = pixel % layer.out_width * layer.stride - layer.left;
    }
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
        for (int n = 0; n < 2 * GROUPS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) work.sums[m][n][i] = 0;
}

// A lane holds pixels lane / 4 + 8 r of the tile, and of each the codes 8 (lane % 2) to + 7 of slab
// lane % 4 / 2 of a step. To mma they are the products 4 (lane % 4) to + 3 and 16 more: any order of
// the products is right, if the weights have the same.
INLINE void enter(const Layer& layer, Tile tile, int segment, int thread, Work& work) {
    int lane = thread % WARP, share = share_of(layer), begin = thread / WARP * share;
    int first = segment == 0 ? 0 : steps_of(layer, layer.segments[0]);
    work.segment = layer.segments[segment];
    work.step = greater(begin, first);
    work.end = lesser(begin + share, first + steps_of(layer, work.segment));
    int slab = 2 * (work.step - first) + lane % 4 / 2, groups = greater(work.segment.groups, 1);
    work.group = slab % groups;
    work.kx = slab / groups % layer.kernel_width;
    work.ky = slab / groups / layer.kernel_width;
    work.packed = layer.weights + (tile.group * steps_of(layer) + work.step) * WARP + lane;
}

// Eight codes of a slab. Only a load depends on whether they are in the picture: what is loaded is
// not touched before `multiply`, so that all loads are under way together.
template <bool IMAGE>
INLINE uint2 load_codes(const Layer& layer, const Work& work, int r, int half) {
    const Segment& segment = work.segment;
    int y = work.y[r] + work.ky, x = work.x[r] + work.kx;
    bool inside = (unsigned(y) < unsigned(layer.height)) & (unsigned(x) < unsigned(layer.width)) &
                  (work.ky < layer.kernel_height);
    int offset = (y >> segment.upsampled) * segment.row_bytes +
                 (x >> segment.upsampled) * segment.pixel_bytes + GROUP * work.group;
    const signed char* at = segment.codes + offset;
    uint2 codes = {unsigned(layer.outside), unsigned(layer.outside)};
    if (IMAGE) {  // a code is the byte less 128; the weights of what is not a colour are 0
        const unsigned char* colours = reinterpret_cast<const unsigned char*>(at);
        if (inside) codes.x = (colours[0] | colours[1] << 8 | colours[2] << 16) ^ 0x808080u;
    } else {
        if (inside) codes = *reinterpret_cast<const uint2*>(at + 8 * half);
    }
    return codes;
}

INLINE void next_slab(const Layer& layer, Work& work) {
    if (++work.group < work.segment.groups) return;
    work.group = 0;
    if (++work.kx < layer.kernel_width) return;
    work.kx = 0;
    work.ky++;
}

// Loads the next steps of the warp.
template <bool IMAGE>
INLINE void load(const Layer& layer, int thread, Work& work) {
    int steps = steps_of(layer);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (work.step + s >= work.end) continue;
#pragma unroll
        for (int r = 0; r < ROWS; r++) work.codes[s][r] = load_codes<IMAGE>(layer, work, r, thread % 2);
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (g == 0 || g < work.groups)
                work.weights[s][g] = work.packed[(g * steps + s) * WARP];
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
INLINE void multiply(int lane, Work& work, const Work* warp) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        if (work.step + s >= work.end) continue;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (g > 0 && g >= work.groups) continue;
#pragma unroll
            for (int m = 0; m < ROWS / 2; m++)
#pragma unroll
                for (int n = 2 * g; n < 2 * g + 2; n++) multiply(work, warp, lane, s, m, n);
        }
    }
    work.step += STEPS;
    work.packed += STEPS * WARP;
}

struct alignas(16) Shared {
    int sums[WARPS][PIXELS][CHANNELS + SHARED_PADDING];
};

// Loads what `finish` needs besides the sums, so that it is there after the barrier.
INLINE void fetch(const Layer& layer, Tile tile, int thread, Work& work) {
    Place place = place_of(layer, tile, thread);
    if (!place.exists) return;
#pragma unroll
    for (int i = 0; i < RESULTS; i++) work.parameters[i] = layer.parameters[place.channel + i];
    work.residual = {0, 0};
    if (layer.residual)
        work.residual = *reinterpret_cast<const uint2*>(
            layer.residual + (long long)place.pixel * layer.residual_bytes + place.channel);
}

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

// Division by 2^bits, rounded to nearest, ties to even; without a branch for bits = 0.
struct Rounding {
    int bits, odd;
    long long half;
};

INLINE Rounding rounding(int bits) {
    int odd = bits > 0;
    return {bits, odd, (1LL << bits >> 1) - odd};
}

INLINE long long round_shift(long long x, const Rounding& by) {
    return (x + by.half + (x >> by.bits & by.odd)) >> by.bits;
}

// Through 32 bits, which takes a third of the instructions that comparing 64 bits does.
INLINE int saturate(long long x, int bits) {
    int low = int(x), high = int(x >> 32), most = (1 << (bits - 1)) - 1;
    if (high != low >> 31) low = high >> 31 ^ 0x7fffffff;
    return lesser(greater(low, -most - 1), most);
}

INLINE int activate(const Layer& layer, int fixed, const Rounding& by) {
    if (layer.activation != HARDSWISH)
        return GAIN * (layer.activation == RELU ? greater(fixed, 0) : fixed);
    int one = 1 << layer.fraction, gate = lesser(greater(fixed + 3 * one, 0), 6 * one);
    return int(round_shift((long long)fixed * gate, by));
}

// Adds up the warps' sums, and stores a thread's results.
INLINE void finish(const Layer& layer, Tile tile, const Shared& shared, int thread,
                   const Work& work) {
    Place place = place_of(layer, tile, thread);
    if (!place.exists) return;
    int fixed[RESULTS];
    Rounding by = rounding(layer.shift);
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int sum = work.parameters[i].x;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += shared.sums[w][place.row][place.column + i];
        long long product = (long long)sum * work.parameters[i].y;
        fixed[i] = saturate(round_shift(product, by), FIXED_BITS);
    }
    if (!layer.target) {
#pragma unroll
        for (int i = 0; i < RESULTS; i++)
            if (place.channel + i < layer.channels)
                layer.output[(place.channel + i) * layer.pixels + place.pixel] =
                    (Single(float(fixed[i])) * layer.step).value;
        return;
    }
    uint2 codes = {0, 0};
    Rounding by_fraction = rounding(layer.fraction), by_store = rounding(layer.store_shift);
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        unsigned word = i < 4 ? work.residual.x : work.residual.y;
        int residual = (signed char)(word >> 8 * (i % 4));
        int total = activate(layer, fixed[i], by_fraction) + residual * layer.residual_multiplier;
        long long product = (long long)total * layer.store_multiplier;
        unsigned code = saturate(round_shift(product, by_store), CODE_BITS);
        (i < 4 ? codes.x : codes.y) |= (code & 255) << 8 * (i % 4);
    }
    signed char* to = layer.target + (long long)place.pixel * layer.target_bytes + place.channel;
    *reinterpret_cast<uint2*>(to) = codes;
}

}  // namespace

#ifdef __CUDACC__

template <bool IMAGE>
INLINE void sum_up(const Layer& layer, Tile tile, int thread, Work& work) {
#pragma unroll 1
    for (int segment = 0; segment < 2; segment++) {
        enter(layer, tile, segment, thread, work);
        while (work.step < work.end) {
            load<IMAGE>(layer, thread, work);
            multiply(thread % WARP, work, nullptr);
        }
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
    fetch(layer, tile, thread, work);
    share_sums(shared, thread, work);
    __syncthreads();
    finish(layer, tile, shared, thread, work);
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
        for (int segment = 0; segment < 2; segment++) {
            phase([&](int t) { enter(layer, tile, segment, t, work[t]); });
            for (int steps = share_of(layer); steps > 0; steps -= STEPS) {
                phase([&](int t) {
                    if (layer.image)
                        load<true>(layer, t, work[t]);
                    else
                        load<false>(layer, t, work[t]);
                });
                phase([&](int t) { multiply(t % WARP, work[t], &work[t / WARP * WARP]); });
            }
        }
        phase([&](int t) {
            fetch(layer, tile, t, work[t]);
            share_sums(s, t, work[t]);
        });
        phase([&](int t) { finish(layer, tile, s, t, work[t]); });
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
