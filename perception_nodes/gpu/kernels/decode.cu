// Decodes the head's tensors to boxes in source pixels; only the boxes leave the device.
//
// test/gpu/decode_oracle.py specifies the result in NumPy, to the bit. It is the result of
// perception_nodes/core/decode.py and geometry.BoxesToSource, except for the last bits of
// exponentials. There are three kernels:
//
// find_candidates  finds cells whose best class is above the threshold; one thread for each cell
// decode_boxes     ranks the candidates and decodes the boxes that enter suppression; four threads
//                  for each candidate
// suppress         class-aware suppression, then conversion to source pixels; one block
//
// Candidates are found in any order. Their keys, made of the logit and the cell, are unique, so the
// rank of each candidate, and everything that follows from it, is reproducible.

#include "geometry.cuh"
#include "portable.cuh"

namespace {

constexpr int MAX_LEVELS = 5;
constexpr int MAX_CANDIDATES = 512;
constexpr int MAX_DETECTIONS = 300;
constexpr int WORDS = MAX_CANDIDATES / 32;
constexpr float ABSURD_LOGIT = 1000;
constexpr unsigned ABSURD_BOX = 1u << 31;
constexpr int FIND_THREADS = 128;
constexpr int DECODE_THREADS = 128;
constexpr int SUPPRESS_THREADS = MAX_CANDIDATES;

struct Level {
    const float* boxes;    // [4 * reg_max, rows, columns]
    const float* classes;  // [classes, rows, columns]
    int rows, columns, stride, first_cell;
};

struct Candidate {
    float box[4];  // x1 y1 x2 y2 in input pixels
    float logit;
    unsigned label;
};

// State between kernels. The first 16 bytes are zero before each frame; `suppress` resets them.
struct State {
    unsigned found;
    unsigned absurd;  // bit n: a class logit of level n; ABSURD_BOX: a box logit of a candidate
    unsigned reserved[2];
    unsigned long long ticket;  // ticket of the current frame, from `preprocess`
    Candidate candidates[MAX_CANDIDATES];  // best first
};

struct Result {
    unsigned long long ticket;
    unsigned count;    // number of boxes below
    unsigned found;    // number of cells above the threshold
    unsigned entered;  // number of these, the best, that entered suppression
    unsigned kept;     // number of these that suppression kept
    unsigned absurd;
    unsigned reserved;
    float boxes[4 * MAX_DETECTIONS];  // x1 y1 x2 y2 in source pixels, best first
    float scores[MAX_DETECTIONS];
    unsigned classes[MAX_DETECTIONS];
};

struct Job {
    Level levels[MAX_LEVELS];
    Placement placement;
    State* state;
    unsigned long long* keys;  // one for each cell
    unsigned* labels;          // one for each cell
    Result* result;
    int level_count, cells, classes, reg_max;
    float logit_threshold, iou_threshold;
};

INLINE bool is_sane(float logit) { return logit < ABSURD_LOGIT && logit > -ABSURD_LOGIT; }

INLINE int level_of(const Job& job, int cell) {
    int level = 0;
    while (level + 1 < job.level_count && cell >= job.levels[level + 1].first_cell) level++;
    return level;
}

// A key that orders candidates: larger for a larger logit, for equal logits larger for an earlier
// cell.
INLINE unsigned long long key_of(float logit, int cell) {
    unsigned bits = __float_as_uint((Single(logit) + Single(0.0f)).value);  // -0 is 0
    unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)ordered << 32 | (0xffffffffu - unsigned(cell));
}

INLINE int cell_of(unsigned long long key) { return int(0xffffffffu - unsigned(key)); }

INLINE float logit_of(unsigned long long key) {
    unsigned ordered = unsigned(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// e^x for x <= 0, to two units in the last place (the polynomial of Cephes' expf, Moshier 1992);
// 0 if the result would be below the smallest normal number.
INLINE Single exponential(Single x) {
    if (x < -87.0f) return 0.0f;
    Single n = floorf((x * 1.44269504f + 0.5f).value);
    x = x - n * 0.693359375f;
    x = x - n * -2.12194440e-4f;
    Single y = 1.9875691500e-4f;
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return y * __uint_as_float(unsigned(int(n.value) + 127) << 23);
}

INLINE float score_of(float logit) {
    Single part = exponential(logit < 0 ? logit : -logit);
    return (logit < 0 ? part / (Single(1.0f) + part) : Single(1.0f) / (Single(1.0f) + part)).value;
}

// find_candidates has one phase. Of several best classes a cell gets the first.
INLINE void find_candidate(const Job& job, int cell) {
    if (cell >= job.cells) return;
    int number = level_of(job, cell);
    const Level& level = job.levels[number];
    int size = level.rows * level.columns;
    const float* logits = level.classes + (cell - level.first_cell);
    float best = logits[0];
    unsigned label = 0;
    bool sane = is_sane(best);
    for (int i = 1; i < job.classes; i++) {
        float logit = logits[i * size];
        sane = sane && is_sane(logit);
        if (logit > best) {
            best = logit;
            label = i;
        }
    }
    if (!sane) {
        atomicOr(&job.state->absurd, 1u << number);
        return;
    }
    if (best > job.logit_threshold) {
        job.keys[atomicAdd(&job.state->found, 1)] = key_of(best, cell);
        job.labels[cell] = label;
    }
}

struct DecodeShared {
    int better[DECODE_THREADS];
    float distance[DECODE_THREADS];
};

// decode_boxes, phase 1: each of a candidate's four threads compares it with a quarter of all
// candidates and counts the better ones.
INLINE void count_better(const Job& job, DecodeShared& shared, int block, int thread) {
    int found = job.state->found, candidate = (block * DECODE_THREADS + thread) / 4, better = 0;
    if (candidate < found) {
        unsigned long long own = job.keys[candidate];
        for (int i = thread % 4; i < found; i += 4) better += job.keys[i] > own;
    }
    shared.better[thread] = better;
}

INLINE int rank_of(const DecodeShared& shared, int thread) {
    const int* quarters = shared.better + thread / 4 * 4;
    return quarters[0] + quarters[1] + quarters[2] + quarters[3];
}

INLINE bool enters(const Job& job, const DecodeShared& shared, int block, int thread) {
    int candidate = (block * DECODE_THREADS + thread) / 4;
    return candidate < int(job.state->found) && rank_of(shared, thread) < MAX_CANDIDATES;
}

// Phase 2: the distance to a side, in strides, is the expectation of a softmax over bins (Li et al.
// 2020, Generalized Focal Loss).
INLINE void decode_side(const Job& job, DecodeShared& shared, int block, int thread) {
    if (!enters(job, shared, block, thread)) return;
    int cell = cell_of(job.keys[(block * DECODE_THREADS + thread) / 4]);
    const Level& level = job.levels[level_of(job, cell)];
    int size = level.rows * level.columns;
    const float* bins = level.boxes + thread % 4 * job.reg_max * size + (cell - level.first_cell);
    float most = bins[0];
    bool sane = is_sane(most);
    for (int i = 1; i < job.reg_max; i++) {
        float logit = bins[i * size];
        sane = sane && is_sane(logit);
        if (logit > most) most = logit;
    }
    Single sum = 0.0f, moment = 0.0f;
    if (sane)
        for (int i = 0; i < job.reg_max; i++) {
            Single weight = exponential(Single(bins[i * size]) - most);
            sum = sum + weight;
            moment = moment + Single(float(i)) * weight;
        }
    else
        atomicOr(&job.state->absurd, ABSURD_BOX);
    shared.distance[thread] = sane ? (moment / sum).value : 0.0f;
}

// Phase 3: one of the four threads stores the candidate at its rank.
INLINE void place_candidate(const Job& job, const DecodeShared& shared, int block, int thread) {
    if (thread % 4 != 0 || !enters(job, shared, block, thread)) return;
    unsigned long long key = job.keys[(block * DECODE_THREADS + thread) / 4];
    int cell = cell_of(key);
    const Level& level = job.levels[level_of(job, cell)];
    int at = cell - level.first_cell;
    Single x = Single(float(at % level.columns)) + 0.5f, y = Single(float(at / level.columns)) + 0.5f;
    Single stride = float(level.stride);
    const float* distance = shared.distance + thread;
    Candidate& out = job.state->candidates[rank_of(shared, thread)];
    out.box[0] = ((x - distance[0]) * stride).value;
    out.box[1] = ((y - distance[1]) * stride).value;
    out.box[2] = ((x + distance[2]) * stride).value;
    out.box[3] = ((y + distance[3]) * stride).value;
    out.logit = logit_of(key);
    out.label = job.labels[cell];
}

struct SuppressShared {
    Candidate candidates[MAX_CANDIDATES];
    unsigned rivals[MAX_CANDIDATES][WORDS];  // better candidates of the class that overlap too much
    unsigned char verdicts[MAX_CANDIDATES];
    unsigned kept[WORDS], dropped[WORDS], seen[WORDS];
    int entered;
};

enum Verdict { OPEN, KEEP, DROP };

INLINE int before(const unsigned* words, int index) {
    int count = 0;
    for (int w = 0; w < index / 32; w++) count += __popc(words[w]);
    return count + __popc(words[index / 32] & ((1u << index % 32) - 1));
}

INLINE bool has(const unsigned* words, int index) { return words[index / 32] >> index % 32 & 1; }

// suppress, phase 1.
INLINE void load_candidates(const Job& job, SuppressShared& shared, int thread) {
    int found = job.state->found;
    int entered = job.state->absurd ? 0 : found < MAX_CANDIDATES ? found : MAX_CANDIDATES;
    if (thread == 0) shared.entered = entered;
    if (thread < WORDS) {
        // Bits beyond the last candidate count as dropped.
        int open = entered - 32 * thread;
        shared.kept[thread] = shared.seen[thread] = 0;
        shared.dropped[thread] = open >= 32 ? 0 : open <= 0 ? ~0u : ~0u << open;
    }
    if (thread < entered) shared.candidates[thread] = job.state->candidates[thread];
}

INLINE Single area_of(const Candidate& c) {
    return (Single(c.box[2]) - c.box[0]) * (Single(c.box[3]) - c.box[1]);
}

INLINE bool are_rivals(const Job& job, const Candidate& a, const Candidate& b) {
    if (a.label != b.label) return false;
    Single width = lesser<Single>(a.box[2], b.box[2]) - greater<Single>(a.box[0], b.box[0]);
    Single height = lesser<Single>(a.box[3], b.box[3]) - greater<Single>(a.box[1], b.box[1]);
    Single overlap = greater<Single>(width, 0.0f) * greater<Single>(height, 0.0f);
    Single both = area_of(a) + area_of(b) - overlap;
    return overlap > Single(job.iou_threshold) * both;
}

// Phase 2: find each candidate's rivals, a word of 32 at a time; only better candidates count.
INLINE void find_rivals(const Job& job, SuppressShared& shared, int thread) {
    for (int i = thread; i < shared.entered * WORDS; i += SUPPRESS_THREADS) {
        int own = i / WORDS, word = i % WORDS;
        unsigned rivals = 0;
        for (int k = 0; k < 32 && 32 * word + k < own; k++)
            if (are_rivals(job, shared.candidates[own], shared.candidates[32 * word + k]))
                rivals |= 1u << k;
        shared.rivals[own][word] = rivals;
    }
}

// Phase 3, repeated until all candidates are decided: a candidate is dropped as soon as one of its
// rivals is kept, and kept as soon as all its rivals are dropped. The result is the same as that of
// the sequential greedy algorithm.
INLINE void judge(SuppressShared& shared, int thread) {
    shared.verdicts[thread] = OPEN;
    if (has(shared.kept, thread) || has(shared.dropped, thread)) return;
    bool beaten = false, waiting = false;
    for (int w = 0; w <= thread / 32; w++) {
        unsigned rivals = shared.rivals[thread][w];
        beaten = beaten || rivals & shared.kept[w];
        waiting = waiting || rivals & ~shared.dropped[w];
    }
    shared.verdicts[thread] = beaten ? DROP : waiting ? OPEN : KEEP;
}

// Phase 4, after each phase 3.
INLINE void note_verdicts(SuppressShared& shared, int thread) {
    if (thread >= WORDS) return;
    for (int k = 0; k < 32; k++) {
        unsigned verdict = shared.verdicts[32 * thread + k];
        shared.kept[thread] |= unsigned(verdict == KEEP) << k;
        shared.dropped[thread] |= unsigned(verdict == DROP) << k;
    }
}

INLINE bool settled(const SuppressShared& shared) {
    unsigned decided = ~0u;
    for (int w = 0; w < WORDS; w++) decided &= shared.kept[w] | shared.dropped[w];
    return decided == ~0u;
}

// Phase 5: convert the best of the kept boxes to source pixels, in place. A box that lies entirely
// in the grey border has no area there and is not reported.
INLINE void to_source(const Job& job, SuppressShared& shared, int thread) {
    if (!has(shared.kept, thread)) return;
    int rank = before(shared.kept, thread);
    if (rank >= MAX_DETECTIONS) return;
    float* box = shared.candidates[thread].box;
    box_to_source(job.placement, box, box);
    if (box[2] > box[0] && box[3] > box[1]) atomicOr(&shared.seen[rank / 32], 1u << rank % 32);
}

// Phase 6: write the result, and reset the state for the next frame.
INLINE void report(const Job& job, SuppressShared& shared, int thread) {
    Result& out = *job.result;
    if (has(shared.kept, thread)) {
        int rank = before(shared.kept, thread);
        if (rank < MAX_DETECTIONS && has(shared.seen, rank)) {
            int at = before(shared.seen, rank);
            for (int k = 0; k < 4; k++) out.boxes[4 * at + k] = shared.candidates[thread].box[k];
            out.scores[at] = score_of(shared.candidates[thread].logit);
            out.classes[at] = shared.candidates[thread].label;
        }
    }
    if (thread == 0) {
        out.ticket = job.state->ticket;
        out.count = before(shared.seen, MAX_DETECTIONS);
        out.found = job.state->found;
        out.entered = shared.entered;
        out.kept = before(shared.kept, MAX_CANDIDATES - 1) + has(shared.kept, MAX_CANDIDATES - 1);
        out.absurd = job.state->absurd;
        job.state->found = job.state->absurd = 0;
    }
}

}  // namespace

#ifdef __CUDACC__

// Grid: one thread for each cell.
KERNEL(FIND_THREADS, 1) find_candidates(JOB(Job) job) {
    find_candidate(job, blockIdx.x * FIND_THREADS + threadIdx.x);
}

// Grid: four threads for each cell, because every cell may be a candidate.
KERNEL(DECODE_THREADS, 1) decode_boxes(JOB(Job) job) {
    __shared__ DecodeShared shared;
    int block = blockIdx.x, thread = threadIdx.x;
    if (block * DECODE_THREADS / 4 >= int(job.state->found)) return;
    count_better(job, shared, block, thread);
    __syncthreads();
    decode_side(job, shared, block, thread);
    __syncthreads();
    place_candidate(job, shared, block, thread);
}

// Grid: one block.
KERNEL(SUPPRESS_THREADS, 1) suppress(JOB(Job) job) {
    __shared__ SuppressShared shared;
    int thread = threadIdx.x;
    load_candidates(job, shared, thread);
    __syncthreads();
    find_rivals(job, shared, thread);
    __syncthreads();
    while (!settled(shared)) {
        judge(shared, thread);
        __syncthreads();
        note_verdicts(shared, thread);
        __syncthreads();
    }
    to_source(job, shared, thread);
    __syncthreads();
    report(job, shared, thread);
}

#else

// The same on the host; `order` is an `Order` of portable.cuh.
HOST find_candidates(const Job* job, int blocks, int order) {
    each_block(blocks, order, [&](int block) {
        each_thread(FIND_THREADS, order,
                    [&](int t) { find_candidate(*job, block * FIND_THREADS + t); });
    });
}

HOST decode_boxes(const Job* job, int blocks, int order) {
    each_block(blocks, order, [&](int block) {
        DecodeShared s;
        auto phase = [&](auto function) { each_thread(DECODE_THREADS, order, function); };
        phase([&](int t) { count_better(*job, s, block, t); });
        phase([&](int t) { decode_side(*job, s, block, t); });
        phase([&](int t) { place_candidate(*job, s, block, t); });
    });
}

HOST suppress(const Job* job, int, int order) {
    SuppressShared s;
    auto phase = [&](auto function) { each_thread(SUPPRESS_THREADS, order, function); };
    phase([&](int t) { load_candidates(*job, s, t); });
    phase([&](int t) { find_rivals(*job, s, t); });
    while (!settled(s)) {
        phase([&](int t) { judge(s, t); });
        phase([&](int t) { note_verdicts(s, t); });
    }
    phase([&](int t) { to_source(*job, s, t); });
    phase([&](int t) { report(*job, s, t); });
}

#endif
